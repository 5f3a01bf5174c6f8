//! What all systems under comparison have in common.

use std::sync::Arc;

/// One row: an id, and a vector that follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub id: u64,
    pub vector: Arc<[f32]>,
}

/// Why a call failed, as its caller is told.
#[derive(Debug)]
pub(crate) struct Refused(pub String);

impl Refused {
    pub(crate) fn because(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What a system says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counters {
    /// Flushes that have succeeded.
    pub flushes: u64,
    /// The rows these have stored.
    pub rows_flushed: u64,
    /// Attempts to flush that have failed, those that took too long among them.
    pub failed: u64,
    /// Attempts that were given up because they took too long.
    pub timed_out: u64,
    /// How often reads had to wait for a lock, where that is counted.
    pub lock_waits: Option<u64>,
    /// How often writes had to wait for flushing to catch up, where that is counted.
    pub stalls: Option<u64>,
}

impl Counters {
    /// What has been counted after `before` was.
    pub(crate) fn since(self, before: &Self) -> Self {
        let less = |now: Option<u64>, before: Option<u64>| Some(now? - before?);
        Self {
            flushes: self.flushes - before.flushes,
            rows_flushed: self.rows_flushed - before.rows_flushed,
            failed: self.failed - before.failed,
            timed_out: self.timed_out - before.timed_out,
            lock_waits: less(self.lock_waits, before.lock_waits),
            stalls: less(self.stalls, before.stalls),
        }
    }
}

/// Something that takes rows, shows them, and stores them in the end.
pub(crate) trait System: Send + Sync {
    /// Adds a row; `Ok` acknowledges it.
    fn add(&self, row: Row) -> Result<(), Refused>;

    /// Whether a read finds the row.
    fn read(&self, row: &Row) -> Result<bool, Refused>;

    /// What the system offers to have everything stored.
    fn flush(&self) -> Result<(), Refused>;

    /// An orderly end.
    fn shutdown(&self) -> Result<(), Refused>;

    /// The counts so far.
    fn counters(&self) -> Counters;

    /// The ids of all rows that are stored once the process is gone, as often as they are. Only after the shutdown.
    fn stored(&self) -> Result<Vec<u64>, Refused>;
}
