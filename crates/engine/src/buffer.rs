//! Buffered writes: accepted before they are durable, and made durable by syncs that no writer waits for.
//!
//! A sync begins when enough of them have gathered or the first of them is old enough, runs beside the writers, and
//! covers what had been appended when it began. What comes meanwhile waits for the next one. So what a power cut may
//! take is bounded by how long a sync takes, and, however long that is, by the bytes that there is room for.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use plimsoll_base::Lsn;
use plimsoll_base::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::core::{Core, Log, lock};
use crate::error::{Error, Result};
use crate::stats::BufferStats;

/// As far as there is anything: for [`Core::sync_up_to`].
pub(crate) const EVERYTHING: Lsn = Lsn(u64::MAX);

/// How many bytes of buffered writes there may be that are not durable.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: Arc<AtomicU64>,
    /// Writers that wait for room.
    waiting: AtomicUsize,
}

/// Room for one buffered write, from before it is appended until it is durable or refused.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: Arc::default(), waiting: AtomicUsize::new(0) }
    }

    /// Room for so many bytes, if there is; a write that is larger than all of it has it for itself.
    fn take(&self, bytes: u64) -> Option<Room> {
        let fits = |used: u64| (used == 0 || used + bytes <= self.limit).then_some(used + bytes);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Room { bytes, used: Arc::clone(&self.used) })
    }

    /// Room for so many bytes, whether there is or not.
    fn take_over(&self, bytes: u64) -> Room {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Room { bytes, used: Arc::clone(&self.used) }
    }

    /// Whether a writer waits for room.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }
}

/// The buffered writes that are not durable yet, and what became of the others.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// In the order of the log.
    groups: VecDeque<Group>,
    /// How many writes there were since the last sync began.
    gathered: usize,
    stats: BufferStats,
}

/// The buffered writes of one commit group.
#[derive(Debug)]
struct Group {
    last: Lsn,
    writes: Vec<Room>,
}

impl Buffer {
    /// How many writes wait for the next sync.
    pub(crate) fn gathered(&self) -> usize {
        self.gathered
    }

    pub(crate) fn stats(&self) -> BufferStats {
        self.stats
    }

    /// Takes the buffered writes of a group that was appended up to `last`.
    pub(crate) fn accept(&mut self, last: Lsn, writes: Vec<Room>) {
        self.gathered += writes.len();
        self.stats.buffered += writes.len() as u64;
        self.stats.buffer_size += writes.len() as u64;
        if !writes.is_empty() {
            self.groups.push_back(Group { last, writes });
        }
    }

    /// Counts what has become durable, by one sync; everything else is lost if the log is poisoned. Says whether
    /// there is more room now.
    fn settle(&mut self, durable: Lsn, poisoned: bool) -> bool {
        let synced = self.groups.iter().take_while(|group| group.last <= durable).count();
        let flushed = self.forget(synced);
        self.stats.flushed += flushed;
        self.stats.batches += u64::from(flushed > 0);
        let lost = if poisoned { self.forget(self.groups.len()) } else { 0 };
        self.stats.errors += lost;
        if self.groups.is_empty() {
            self.gathered = 0;
        }
        flushed + lost > 0
    }

    /// Gives up the first so many groups; returns how many writes they were.
    fn forget(&mut self, groups: usize) -> u64 {
        let writes = self.groups.drain(..groups).map(|group| group.writes.len() as u64).sum();
        self.stats.buffer_size -= writes;
        writes
    }
}

impl Core {
    /// Room for a buffered write. Where there is none, the writer waits for the sync that gives some; without a
    /// background, it does that sync.
    ///
    /// # Errors
    /// [`Error::Stalled`] when the sync takes too long.
    pub(crate) fn room_in_buffer(&self, bytes: u64) -> Result<Room> {
        let budget = &self.budget;
        if let Some(room) = budget.take(bytes) {
            return Ok(room);
        }
        if !self.options.background {
            self.sync_up_to(EVERYTHING)?;
            return Ok(budget.take_over(bytes));
        }
        let start = Instant::now();
        // Whoever appends from now on sees that a sync is due, and what was appended by now is due here.
        budget.waiting.fetch_add(1, Ordering::AcqRel);
        self.signals.sync_due(start);
        let room = OnceCell::new();
        let take = || budget.take(bytes).is_some_and(|taken| room.set(taken).is_ok());
        self.signals.wait_until(start + self.options.stall_deadline, take);
        budget.waiting.fetch_sub(1, Ordering::AcqRel);
        self.counters.stopped.add(start.elapsed());
        self.check_open()?;
        let waited = self.options.stall_deadline;
        room.into_inner().ok_or_else(|| Error::Stalled(format!("the log was not synced within {waited:?}")))
    }

    /// Makes durable what is in the log, at least up to `lsn`, and returns the durable LSN. Writers go on meanwhile.
    pub(crate) fn sync_up_to(&self, lsn: Lsn) -> Result<Lsn> {
        let pending = {
            let mut log = lock(&self.log);
            loop {
                let wal = log.wal.as_mut().ok_or(Error::Closed)?;
                if wal.durable() >= lsn && wal.poisoned().is_none() {
                    return Ok(wal.durable());
                }
                if !log.is_syncing {
                    break;
                }
                // That one may be enough: then nothing that begins after it is waited for.
                log = self.log_synced.wait(log).unwrap_or_else(PoisonError::into_inner);
            }
            let wal = log.wal.as_mut().ok_or(Error::Closed)?;
            let begun = wal.begin_sync();
            let durable = wal.durable();
            log.buffer.gathered = 0;
            self.settle_buffer(&mut log);
            match begun? {
                Some(pending) => {
                    log.is_syncing = true;
                    pending
                }
                None => {
                    // A new segment may have done it.
                    self.name_new_segment(&log);
                    return Ok(durable);
                }
            }
        };
        let ends = SyncEnds { core: self };
        let finished = pending.run();
        let mut log = lock(&self.log);
        let durable = log.wal.as_mut().map(|wal| wal.finish_sync(finished));
        self.settle_buffer(&mut log);
        drop(log);
        drop(ends);
        self.signals.mark_due();
        Ok(durable.ok_or(Error::Closed)??)
    }

    /// Makes everything durable that is in the log, whose lock the caller holds: nobody writes meanwhile.
    pub(crate) fn sync_holding(&self, log: &mut Log) -> Result<Lsn> {
        let synced = log.wal.as_mut().ok_or(Error::Closed)?.sync();
        self.settle_buffer(log);
        Ok(synced?)
    }

    /// Counts what has become of buffered writes: after whatever may have synced the log, or poisoned it.
    pub(crate) fn settle_buffer(&self, log: &mut Log) {
        let Some(wal) = &log.wal else { return };
        if log.buffer.settle(wal.durable(), wal.poisoned().is_some()) {
            self.signals.progressed();
        }
    }
}

/// Lets others sync the log again: also where the storage has panicked.
struct SyncEnds<'a> {
    core: &'a Core,
}

impl Drop for SyncEnds<'_> {
    fn drop(&mut self) {
        lock(&self.core.log).is_syncing = false;
        self.core.log_synced.notify_all();
    }
}
