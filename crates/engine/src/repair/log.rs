//! A damaged log: what is whole in it goes to files, and a new log begins after it.

use std::sync::Arc;

use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_wal::{Anchor, Finding, LsnRange, Record, Recovered, Salvaged, WalError, salvage, verify};

use super::LogRepair;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::recover::{WAL_DIR, salts, wal_options};

/// Whether the log is damaged, also where nothing is needed of it any more.
pub(super) fn is_damaged(
    storage: &Arc<dyn Storage>,
    path: &std::path::Path,
    database: [u8; 16],
    anchor: &Anchor,
) -> Result<bool> {
    let dir = path.join(WAL_DIR);
    match verify(&**storage, &dir, database, anchor) {
        Ok(findings) => Ok(findings.iter().any(|finding| finding.damage)),
        Err(WalError::Storage(error)) if super::is_damage(&error) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

impl Core {
    /// Applies what is whole in a damaged log, and flushes all of it.
    pub(super) fn flush_salvaged(&self, anchor: &Anchor) -> Result<Salvaged> {
        let dir = self.options.path.join(WAL_DIR);
        let database = lock(&self.root).manifest.database;
        self.published.advance(anchor.after);
        let visit = |record: Record| -> Result<()> {
            // A repair takes what it can get: there is no difference between durable and whole.
            self.replay_record(record, true)
        };
        let salvaged = salvage(&self.storage, &dir, database, anchor, visit)?;
        self.published.advance(salvaged.last);
        self.flush_replayed(salvaged.last)?;
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
    let end_damaged = salvaged.end_damaged;
    (LogRepair { batches_kept: salvaged.records, batches_lost, end_damaged }, salvaged.findings.clone())
}
