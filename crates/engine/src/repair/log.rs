//! A damaged log: what is whole in it goes to files, and a new log begins after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_base::storage::{Storage, list_if_there};
use plimsoll_base::{CollectionId, FileNumber, Lsn};
use plimsoll_wal::format::{segment_number, segment_path};
use plimsoll_wal::{
    Anchor, Finding, LsnRange, Record, Recovered, Salvaged, WalError, describe, salvage, verify,
};

use super::LogRepair;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::record;
use crate::recover::{WAL_DIR, salts, wal_options};

/// What is damaged in the log, also where nothing is needed of it any more.
pub(super) fn damage(
    storage: &Arc<dyn Storage>,
    path: &std::path::Path,
    database: [u8; 16],
    anchor: &Anchor,
) -> Result<Vec<Finding>> {
    let dir = path.join(WAL_DIR);
    match verify(&**storage, &dir, database, anchor) {
        Ok(mut findings) => {
            findings.retain(|finding| finding.damage);
            Ok(findings)
        }
        Err(WalError::Storage(error)) if super::is_damage(&error) => {
            Ok(vec![Finding { file: dir, offset: 0, what: error.to_string(), damage: true }])
        }
        Err(error) => Err(error.into()),
    }
}

/// The collections that the log writes to, with the dimensions of their vectors.
pub(super) fn collections(
    storage: &dyn Storage,
    path: &std::path::Path,
    database: [u8; 16],
    anchor: &Anchor,
) -> Result<BTreeMap<CollectionId, usize>> {
    let dir = path.join(WAL_DIR);
    let mut found = BTreeMap::new();
    salvage(storage, &dir, database, anchor, |record| -> Result<()> {
        for group in record::decode(record.payload(), &dir)? {
            found.insert(group.collection, group.dimension);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The LSN before the first one of the log, or 0 if its header can not be read: all up to there is in files.
pub(super) fn before(storage: &dyn Storage, path: &std::path::Path, database: [u8; 16]) -> Result<Lsn> {
    let dir = path.join(WAL_DIR);
    let mut numbers: Vec<FileNumber> =
        list_if_there(storage, &dir)?.iter().filter_map(|entry| segment_number(&entry.name)).collect();
    numbers.sort_unstable();
    for number in numbers {
        let path = segment_path(&dir, number);
        // If the header of the oldest segment is damaged, its records may not be.
        let Ok(oldest) = describe(storage, &path, |_| Ok(())) else { return Ok(Lsn::ZERO) };
        // Files of others are skipped.
        if oldest.header.file.expect_identity(database, number, &path).is_ok() {
            return Ok(Lsn(oldest.header.first_lsn().0.saturating_sub(1)));
        }
    }
    Ok(Lsn::ZERO)
}

impl Core {
    /// Applies what is whole in a damaged log, and flushes all of it. Afterwards nothing up to `least` is needed of
    /// the log either.
    pub(super) fn flush_salvaged(&self, anchor: &Anchor, least: Lsn) -> Result<()> {
        let dir = self.options.path.join(WAL_DIR);
        let database = lock(&self.root).manifest.database;
        self.published.advance(anchor.after);
        let visit = |record: Record| -> Result<()> {
            // A repair takes what it can get: there is no difference between durable and whole.
            self.replay_record(record, true)
        };
        let salvaged = salvage(&self.storage, &dir, database, anchor, visit)?;
        let last = salvaged.last.max(least);
        self.published.advance(last);
        self.flush_replayed(last)
    }

    /// Begins a new log after `last`, in a directory that holds none, and lets a manifest name it.
    pub(super) fn begin_log(&self, last: Lsn, last_segment: FileNumber) -> Result<()> {
        let dir = self.options.path.join(WAL_DIR);
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let database = lock(&self.root).manifest.database;
        storage.create_dir(&dir)?;
        storage.sync_dir(&self.options.path)?;
        let fresh = Recovered::fresh(&storage, &dir, database, last, last_segment)?;
        let mut wal = fresh.into_wal(wal_options(&self.options), salts(self.options.seed));
        wal.rotate()?;
        let mut log = lock(&self.log);
        log.wal = Some(wal);
        if self.note_segment(&log) {
            self.name_segment()?;
        }
        drop(log);
        lock(&self.log).wal.take().map_or(Ok(()), plimsoll_wal::Wal::close).map_err(Error::from)
    }
}

/// What became of the batches; all up to `stored` are in files.
pub(super) fn report(
    salvaged: &Salvaged,
    leading_is_lost: bool,
    anchor: &Anchor,
    stored: Lsn,
) -> (LogRepair, Vec<Finding>) {
    let is_lost =
        |range: &&LsnRange| range.last > stored && (leading_is_lost || range.first != anchor.after.next());
    let lost: Vec<LsnRange> = salvaged.lost.iter().filter(is_lost).copied().collect();
    let repair = LogRepair {
        batches_kept: salvaged.records,
        batches_lost: lost.iter().map(LsnRange::len).sum(),
        lsns_lost: lost.iter().map(|range| (range.first, range.last)).collect(),
        uncounted: salvaged.end_damaged,
    };
    (repair, salvaged.findings.clone())
}
