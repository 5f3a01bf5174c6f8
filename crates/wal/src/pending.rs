//! Syncs of the active segment: by the writer, or by another thread while the writer appends.
//!
//! **Owns** the handle that syncs a segment, the rule that there is one sync of it at a time, and the memory of one
//! that failed. **Must not know** what a sync makes of the watermarks; that is the writer's. **On a crash** it is gone.
//!
//! # Why one at a time
//! The kernel tells the failure of a write to one of the syncs that wait for it, and not to the other. So no sync may
//! succeed while the outcome of another one is unknown, nor after one that failed: it would be believed (R6).

use std::fmt;
use std::sync::{Arc, PoisonError};

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::SyncFile;
use plimsoll_base::sync::Mutex;
use plimsoll_base::{FileNumber, Lsn, StorageError};

/// What syncs one segment.
#[derive(Debug)]
pub(crate) struct SegmentSync {
    handle: Mutex<Handle>,
}

#[derive(Debug)]
struct Handle {
    file: Box<dyn SyncFile>,
    /// Why a sync failed: there is no other one after it.
    failed: Option<StorageError>,
}

impl SegmentSync {
    pub(crate) fn new(file: Box<dyn SyncFile>) -> Self {
        Self { handle: Mutex::new(Handle { file, failed: None }) }
    }

    /// Makes durable what had been appended when this call began, after the sync that another thread is at.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        // A thread that panicked in here has not changed anything.
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = &handle.failed {
            return Err(cause.clone());
        }
        if mutant::is(Mutant::SkipLogSync) {
            return Ok(());
        }
        match handle.file.sync() {
            Err(cause) if !mutant::is(Mutant::IgnoreSyncError) => {
                handle.failed = (!mutant::is(Mutant::BelieveRetriedSync)).then(|| cause.clone());
                Err(cause)
            }
            _ => Ok(()),
        }
    }
}

/// A sync of everything that had been appended at [`Wal::begin_sync`](crate::Wal::begin_sync), to be run by any thread
/// while the writer goes on.
#[must_use]
pub struct PendingSync {
    pub(crate) segment: Arc<SegmentSync>,
    pub(crate) number: FileNumber,
    /// Where the segment ended.
    pub(crate) end: u64,
    /// What had been appended.
    pub(crate) appended: Lsn,
}

impl PendingSync {
    /// Syncs. Takes as long as the disk does, and no lock that an append waits for.
    pub fn run(self) -> FinishedSync {
        let result = self.segment.sync();
        FinishedSync { sync: self, result }
    }
}

/// The outcome of a [`PendingSync`]. It counts once [`Wal::finish_sync`](crate::Wal::finish_sync) knows it.
#[must_use]
pub struct FinishedSync {
    pub(crate) sync: PendingSync,
    pub(crate) result: Result<(), StorageError>,
}

impl fmt::Debug for PendingSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingSync(segment {}, up to LSN {})", self.number.0, self.appended)
    }
}

impl fmt::Debug for FinishedSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishedSync").field("sync", &self.sync).field("result", &self.result).finish()
    }
}
