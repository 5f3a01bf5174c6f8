//! A damaged log: what is whole in it goes to files, and a new log begins after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_base::storage::Storage;
use plimsoll_base::{CollectionId, FileNumber, Lsn};
use plimsoll_wal::{
    Anchor, Finding, LsnRange, Record, Recovered, Salvaged, WalError, describe, salvage, verify,
};

use super::LogRepair;
use super::aside::list;
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
pub(super) fn before(storage: &dyn Storage, path: &std::path::Path) -> Result<Lsn> {
    let dir = path.join(WAL_DIR);
    let names =
        list(storage, &dir)?.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".wal"));
    // If the header of the oldest segment is damaged, its records may not be.
    let oldest = names.min().and_then(|name| describe(storage, &dir.join(name), |_| Ok(())).ok());
    Ok(oldest.map_or(Lsn::ZERO, |oldest| Lsn(oldest.header.first_lsn().0.saturating_sub(1))))
}

impl Core {
    /// Applies what is whole in a damaged log, and flushes all of it. Afterwards nothing up to `least` is needed of
    /// the log either.
    pub(super) fn flush_salvaged(&self, anchor: &Anchor, least: Lsn) -> Result<Salvaged> {
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
        self.flush_replayed(last)?;
        Ok(salvaged)
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

/// What became of the batches.
pub(super) fn report(salvaged: &Salvaged, leading_is_lost: bool, after: Lsn) -> (LogRepair, Vec<Finding>) {
    let is_lost = |range: &&LsnRange| leading_is_lost || range.first != after.next();
    let batches_lost = salvaged.lost.iter().filter(is_lost).map(LsnRange::len).sum();
    let uncounted = salvaged.end_damaged;
    (LogRepair { batches_kept: salvaged.records, batches_lost, uncounted }, salvaged.findings.clone())
}
