//! The threads of an open database, and how they are woken.
//!
//! The workers of [`jobs`](crate::jobs) flush, compact, check and copy, on half of the cores, so that searches have the
//! others. The thread `log` bounds how long buffered writes stay unsynced, marks what is durable when writers pause, has
//! manifests name new segments, and prepares segments and memory for records ahead. The thread `policy`, which never waits
//! for a disk, submits the flushes that limits of time ask for.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_base::arena::Preparation;
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::sync::{Condvar, Mutex};

use crate::buffer::EVERYTHING;
use crate::commit::Request;
use crate::core::{Core, lock};
use crate::error::Error;

/// What the threads wait for.
#[derive(Default)]
pub(crate) struct Signals {
    state: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    memory: bool,
    mark: bool,
    segment_at: Option<Instant>,
    sync_at: Option<Instant>,
    /// When to look at the limits of time of flush policies, by the database's clock.
    look_at: Option<Duration>,
    stop: bool,
    /// Counts everything that may let a waiting writer go on.
    progress: u64,
}

impl Signals {
    fn set(&self, change: impl FnOnce(&mut Due)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// The log has a new segment, which a manifest is to name: if no commit does, the log's thread after `delay`.
    pub(crate) fn segment_due(&self, delay: Duration) {
        self.set(|due| due.segment_at = Some(Instant::now() + delay));
    }

    /// Whether a new segment is to be named; that is the caller's to do from now on.
    pub(crate) fn take_segment(&self) -> bool {
        lock(&self.state).segment_at.take().is_some()
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

    /// The limits of time of flush policies are to be looked at by then, by the database's clock.
    pub(crate) fn look_at(&self, at: Duration) {
        let mut due = lock(&self.state);
        if due.look_at.is_none_or(|before| at < before) {
            due.look_at = Some(at);
            drop(due);
            self.changed.notify_all();
        }
    }

    fn is_sync_due(&self) -> bool {
        lock(&self.state).sync_at.is_some_and(|at| at <= Instant::now())
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
    core.resume_jobs();
    core.compaction_due();
    core.signals.look_at(core.now());
    Ok(vec![spawn("log", log_loop)?, spawn("policy", policy_loop)?])
}

/// Looks at the limits of time of flush policies when they are reached.
fn policy_loop(core: &Core) {
    let take = |due: &mut Due| match due.look_at.map(|at| at.saturating_sub(core.now())) {
        Some(Duration::ZERO) => {
            due.look_at = None;
            Ok(())
        }
        left => Err(left),
    };
    while core.signals.next(take).is_some() {
        core.request_due_flushes();
    }
}

/// Threads for the parallel parts of jobs: on those that all share, searches of many queries would wait for the long parts
/// of a compaction.
pub(crate) fn on_half_of_the_cores(name: &'static str) -> Option<rayon::ThreadPool> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads((cores / 2).max(1))
        .thread_name(move |number| format!("plimsoll-{name}-{number}"))
        .build();
    pool.inspect_err(|error| tracing::warn!(%error, "no threads of its own for background work")).ok()
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
    /// Prepare a segment: that is done before each job that can wait.
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
        // A sync that is due comes before a segment that is not needed yet: on a slow disk each takes its time.
        if !core.signals.is_sync_due() && retry_at.is_none_or(|at| at <= Instant::now()) {
            retry_at = spares.as_ref().and_then(|spares| prepare_segment(core, spares));
        }
        // What was due first comes first: on a slow disk a sync is always due. What is only for speed comes last.
        let take = |due: &mut Due| {
            let now = Instant::now();
            let mark_at = due.mark.then_some(look_at);
            let times = [
                (due.sync_at, LogJob::Sync),
                (mark_at, LogJob::Mark),
                (due.segment_at, LogJob::Segment),
                (retry_at, LogJob::Retry),
            ];
            let times = times.into_iter().filter_map(|(at, job)| Some((at?, job)));
            match times.min_by_key(|(at, _)| *at) {
                Some((at, job)) if at <= now => {
                    match job {
                        LogJob::Sync => due.sync_at = None,
                        LogJob::Segment => due.segment_at = None,
                        LogJob::Mark | LogJob::Retry | LogJob::Memory => {}
                    }
                    Ok(job)
                }
                _ if std::mem::take(&mut due.memory) || preparation.is_some() => Ok(LogJob::Memory),
                next => Err(next.map(|(at, _)| at - now)),
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
