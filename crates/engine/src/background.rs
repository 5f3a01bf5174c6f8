//! The threads of an open database, and how they are woken.
//!
//! Three threads: `flush` turns sealed memtables into files, `compact` merges files, `log` bounds how long
//! buffered writes stay unsynced, marks what is durable when writers pause, has manifests name new segments, and
//! prepares segments and memory for records ahead.
//! Each does nothing but call the same functions that a caller could; what they fail at is remembered, shown
//! in the statistics, and tried again. Flushes and compactions compute on half of the cores here, so that searches
//! have the others.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_base::arena::Preparation;
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::sync::{Condvar, Mutex};

use crate::buffer::EVERYTHING;
use crate::commit::Request;
use crate::core::{Core, Counters, lock};
use crate::error::Error;
use crate::stats::FlushReason;

/// What the threads wait for.
#[derive(Default)]
pub(crate) struct Signals {
    state: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    flush: Option<FlushReason>,
    compact: bool,
    memory: bool,
    mark: bool,
    segment_at: Option<Instant>,
    sync_at: Option<Instant>,
    stop: bool,
    /// Counts everything that may let a waiting writer go on.
    progress: u64,
}

impl Signals {
    fn set(&self, change: impl FnOnce(&mut Due)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    pub(crate) fn flush_due(&self, reason: FlushReason) {
        self.set(|due| due.flush = Some(reason));
    }

    /// Why a flush is due, if one is; it is the caller's from now on.
    pub(crate) fn take_flush(&self) -> Option<FlushReason> {
        lock(&self.state).flush.take()
    }

    /// The log has a new segment, which a manifest is to name: if no commit does, the log's thread after `delay`.
    pub(crate) fn segment_due(&self, delay: Duration) {
        self.set(|due| due.segment_at = Some(Instant::now() + delay));
    }

    /// Whether a new segment is to be named; that is the caller's to do from now on.
    pub(crate) fn take_segment(&self) -> bool {
        lock(&self.state).segment_at.take().is_some()
    }

    pub(crate) fn compact_due(&self) {
        self.set(|due| due.compact = true);
    }

    /// A memtable will soon need more memory.
    pub(crate) fn memory_due(&self) {
        self.set(|due| due.memory = true);
    }

    /// A group was committed: once writers pause, readers in other processes are to be told (rule R10).
    pub(crate) fn mark_due(&self) {
        // Only the first of many groups wakes anyone.
        let mut due = lock(&self.state);
        if !due.mark {
            due.mark = true;
            drop(due);
            self.changed.notify_all();
        }
    }

    /// A sync of buffered writes is to begin by `at`, unless something syncs them sooner.
    pub(crate) fn sync_due(&self, at: Instant) {
        let mut due = lock(&self.state);
        if due.sync_at.is_none_or(|due_at| at < due_at) {
            due.sync_at = Some(at);
            drop(due);
            self.changed.notify_all();
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        lock(&self.state).stop
    }

    pub(crate) fn stop(&self) {
        self.set(|due| due.stop = true);
    }

    /// Something changed that writers may be waiting for.
    pub(crate) fn progressed(&self) {
        self.set(|due| due.progress += 1);
    }

    /// Waits until `condition` holds, looking again whenever something progresses; says whether it did hold.
    pub(crate) fn wait_until(&self, deadline: Instant, condition: impl Fn() -> bool) -> bool {
        let mut due = lock(&self.state);
        loop {
            if due.stop || condition() {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return false;
            };
            let (next, _) =
                self.changed.wait_timeout(due, left).unwrap_or_else(std::sync::PoisonError::into_inner);
            due = next;
        }
    }

    /// Waits for `take` to find something due; `None` when the threads are to stop. `take` says how long it
    /// may sleep at most if there is nothing.
    fn next<T>(&self, mut take: impl FnMut(&mut Due) -> Result<T, Option<Duration>>) -> Option<T> {
        let mut due = lock(&self.state);
        loop {
            if due.stop {
                return None;
            }
            match take(&mut due) {
                Ok(job) => return Some(job),
                Err(Some(wait)) => {
                    let waited = self.changed.wait_timeout(due, wait);
                    due = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                }
                Err(None) => {
                    due = self.changed.wait(due).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
        }
    }
}

/// Starts the threads of a database.
pub(crate) fn start(core: &Arc<Core>) -> std::io::Result<Vec<JoinHandle<()>>> {
    if !core.options.background {
        return Ok(Vec::new());
    }
    let spawn = |name: &str, run: fn(&Core)| {
        let core = Arc::clone(core);
        std::thread::Builder::new().name(format!("plimsoll-{name}")).spawn(move || run(&core))
    };
    let flush = |core: &Core| on_half_of_the_cores("flush", || flush_loop(core));
    let compact = |core: &Core| on_half_of_the_cores("compact", || compact_loop(core));
    Ok(vec![spawn("flush", flush)?, spawn("compact", compact)?, spawn("log", log_loop)?])
}

/// Runs something whose parallel parts have threads of their own: on those that all share, searches of many queries
/// would wait for the long parts of a compaction.
fn on_half_of_the_cores(name: &'static str, run: impl FnOnce() + Send) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads((cores / 2).max(1))
        .thread_name(move |number| format!("plimsoll-{name}-{number}"))
        .build();
    match pool {
        Ok(pool) => pool.install(run),
        Err(error) => {
            tracing::warn!(%error, "no threads of its own for background work");
            run();
        }
    }
}

/// The longest pause between two attempts at work that fails.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

fn flush_loop(core: &Core) {
    let mut backoff = Duration::from_millis(100);
    while let Some(reason) = core.signals.next(|due| due.flush.take().ok_or(None)) {
        match core.flush_and_remember(reason) {
            Some(Error::Poisoned { .. } | Error::Closed) => return,
            Some(_) => {
                let deadline = Instant::now() + backoff;
                backoff = (backoff * 2).min(MAX_BACKOFF);
                core.signals.wait_until(deadline, || false);
                core.signals.flush_due(reason);
            }
            None => backoff = Duration::from_millis(100),
        }
    }
}

impl Core {
    /// Flushes what is sealed; a failure is counted, remembered and returned.
    pub(crate) fn flush_and_remember(&self, reason: FlushReason) -> Option<Error> {
        match self.flush_internal(reason) {
            Ok(_) => {
                self.counters.remember_error(None);
                None
            }
            Err(error) => {
                tracing::warn!(%error, "a flush failed and will be tried again");
                self.counters.remember_error(Some(&error));
                Some(error)
            }
        }
    }
}

fn compact_loop(core: &Core) {
    let take = |due: &mut Due| if std::mem::take(&mut due.compact) { Ok(()) } else { Err(None) };
    while core.signals.next(take).is_some() {
        if let Err(error) = core.compact_due() {
            Counters::count(&core.counters.failed_compactions);
            core.counters.remember_error(Some(&error));
            tracing::warn!(%error, "a compaction failed; the next flush asks for another");
        }
    }
}

/// How long writers have to pause before a mark is written.
const IDLE: Duration = Duration::from_millis(20);

/// How long to wait before another attempt at what failed.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// Prepares a log segment ahead. If the disk is full, ordinary writes are refused until there is room again,
/// so that what the log still has is left to deletes and flushes; says when to try again then.
fn prepare_segment(core: &Core, spares: &plimsoll_wal::Spares) -> Option<Instant> {
    let prepared = spares.prepare();
    let full = match &prepared {
        Err(plimsoll_wal::WalError::Storage(error)) if error.is_storage_full() => Some(error.clone()),
        _ => None,
    };
    if let Err(error) = prepared {
        tracing::warn!(%error, "no log segment could be prepared ahead");
    }
    let retry_at = full.as_ref().map(|_| Instant::now() + RETRY);
    *lock(&core.last_segment) = full;
    retry_at
}

enum LogJob {
    Sync,
    Mark,
    /// Name a new segment in a manifest.
    Segment,
    /// Prepare a segment: that is done before each job.
    Retry,
    /// A step of preparing memory for records.
    Memory,
}

fn log_loop(core: &Core) {
    let spares = lock(&core.log).wal.as_ref().map(plimsoll_wal::Wal::spares);
    let mut last_batches = u64::MAX;
    let mut look_at = Instant::now();
    let mut preparation: Option<Preparation> = None;
    let mut retry_at = None;
    loop {
        if retry_at.is_none_or(|at| at <= Instant::now()) {
            retry_at = spares.as_ref().and_then(|spares| prepare_segment(core, spares));
        }
        // What bounds a loss comes first, what is only for speed comes last.
        let take = |due: &mut Due| {
            let now = Instant::now();
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let mark_at = due.mark.then_some(look_at);
            if is_due(due.sync_at) {
                due.sync_at = None;
                Ok(LogJob::Sync)
            } else if is_due(mark_at) {
                Ok(LogJob::Mark)
            } else if is_due(due.segment_at) {
                due.segment_at = None;
                Ok(LogJob::Segment)
            } else if is_due(retry_at) {
                Ok(LogJob::Retry)
            } else if std::mem::take(&mut due.memory) || preparation.is_some() {
                Ok(LogJob::Memory)
            } else {
                Err([due.sync_at, mark_at, due.segment_at, retry_at]
                    .into_iter()
                    .flatten()
                    .min()
                    .map(|at| at - now))
            }
        };
        let done = match core.signals.next(take) {
            None => return,
            Some(LogJob::Sync) => core.sync_up_to(EVERYTHING).map(drop).inspect_err(|_| {
                core.signals.sync_due(Instant::now() + RETRY);
            }),
            Some(LogJob::Mark) => {
                // Only when nothing was committed for a while.
                let batches = core.counters.batches.load(Ordering::Relaxed);
                if batches == last_batches {
                    core.signals.set(|due| due.mark = false);
                    last_batches = u64::MAX;
                    core.submit(Request::Mark, 0).map(drop).inspect_err(|_| {
                        look_at = Instant::now() + RETRY;
                        core.signals.mark_due();
                    })
                } else {
                    last_batches = batches;
                    look_at = Instant::now() + IDLE;
                    Ok(())
                }
            }
            Some(LogJob::Segment) => core.announce_segment().inspect_err(|_| {
                core.signals.segment_due(RETRY);
            }),
            Some(LogJob::Retry) => Ok(()),
            Some(LogJob::Memory) => {
                preparation = preparation.take().or_else(Preparation::begin).and_then(Preparation::step);
                Ok(())
            }
        };
        match done {
            Ok(()) => {}
            Err(Error::Poisoned { .. } | Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "the log could not be synced, marked or named; trying again");
            }
        }
    }
}
