//! Background work as jobs: flushes, compactions, checks and backups.
//!
//! A caller submits a [`JobRequest`] and holds a [`JobHandle`]; the engine submits what its policies ask for. Jobs wait
//! in a bounded [`queue`] and are done by a few workers, at most one of a kind and target at a time: who asks for
//! what is under way, or waits, gets that job's id and result. What fails for a passing cause is tried again
//! ([`retry`]), what keeps failing is not asked for any more for a while ([`breaker`]), listeners are told
//! ([`events`]), and a [`table`] of records outlives the process.
//!
//! Without threads of its own (`background(false)`) whoever submits a job does it, and everything before it in the queue.
//!
//! **Locks**: the board (who waits, who runs) is held for moments, and nothing that waits is locked under it, so
//! that the commit leader may submit jobs. The ledger of records is locked before the log. A job holds neither while it works.

mod breaker;
mod events;
mod job;
mod model;
mod queue;
mod retry;
mod run;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_base::Lsn;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::sync::atomic::{AtomicU64, Ordering};
use plimsoll_base::sync::{Condvar, Mutex};

pub use breaker::Circuit;
pub use events::{JobEvent, JobEventKind, Subscription};
pub(crate) use job::Job;
pub use job::JobHandle;
pub use model::{JobId, JobKind, JobOutcome, JobPriority, JobRecord, JobRequest, JobState, JobTarget};
pub(crate) use table::{Ledger, Records};

use crate::commit::Request;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::stats::{FlushReason, JobStats};
use breaker::Breaker;
use events::Listeners;
use queue::{Queue, Queued as _};

/// How many jobs that have ended are remembered with their results.
const REMEMBERED: usize = 256;
/// After so long without a job, a worker above the usual number leaves.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long a flush that nobody waits for is submitted again when all its attempts have failed.
const SECOND_WIND: Duration = Duration::from_secs(30);

/// The jobs of an open database.
pub(crate) struct Jobs {
    board: Mutex<Board>,
    /// Something on the board has changed.
    changed: Condvar,
    breaker: Breaker,
    listeners: Listeners,
    ledger: Mutex<Ledger>,
    /// The id of the next job.
    next_id: AtomicU64,
    counters: Counters,
    pools: [OnceLock<Option<rayon::ThreadPool>>; 3],
}

/// Who waits and who works.
struct Board {
    queue: Queue<Arc<Job>>,
    running: Vec<Arc<Job>>,
    finished: VecDeque<Arc<Job>>,
    workers: usize,
    threads: Vec<JoinHandle<()>>,
    is_closing: bool,
}

#[derive(Default)]
struct Counters {
    submitted: AtomicU64,
    joined: AtomicU64,
    retried: AtomicU64,
    refused: AtomicU64,
    waits: AtomicU64,
    waited_nanos: AtomicU64,
    unrecorded: AtomicU64,
    timed_out_flushes: AtomicU64,
}

impl Jobs {
    pub(crate) fn new(capacity: usize) -> Self {
        let board = Board {
            queue: Queue::new(capacity),
            running: Vec::new(),
            finished: VecDeque::new(),
            workers: 0,
            threads: Vec::new(),
            is_closing: false,
        };
        Self {
            board: Mutex::new(board),
            changed: Condvar::new(),
            breaker: Breaker::default(),
            listeners: Listeners::default(),
            ledger: Mutex::new(Ledger::default()),
            next_id: AtomicU64::new(1),
            counters: Counters::default(),
            pools: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Refuses writes while flushes keep failing.
    pub(crate) fn check_circuit(&self, core: &Core) -> Result<()> {
        self.breaker.check(|| core.now())
    }

    pub(crate) fn subscribe(&self, listener: impl FnMut(&JobEvent) + Send + 'static) -> Result<Subscription> {
        self.listeners.add(listener)
    }

    pub(crate) fn timed_out(&self, kind: JobKind) {
        if kind == JobKind::Flush {
            self.counters.timed_out_flushes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn timed_out_flushes(&self) -> u64 {
        self.counters.timed_out_flushes.load(Ordering::Relaxed)
    }

    /// Whether a job of this process has not ended.
    fn is_under_way(&self, id: JobId) -> bool {
        self.find(id).is_some_and(|job| !job.state().is_final())
    }

    fn find(&self, id: JobId) -> Option<Arc<Job>> {
        let board = lock(&self.board);
        let known = board.queue.jobs().chain(&board.running).chain(&board.finished);
        known.into_iter().find(|job| job.id == id).cloned()
    }

    fn tell(&self, core: &Core, job: &Job, what: impl FnOnce() -> JobEventKind) {
        self.listeners.tell(|| JobEvent {
            id: job.id,
            kind: job.request.kind,
            target: job.request.target.clone(),
            at: core.unix_now(),
            what: what(),
        });
    }

    /// A phase of a job begins.
    pub(crate) fn phase(&self, core: &Core, job: &Job, name: &'static str) {
        job.set_progress(0, 0);
        self.tell(core, job, || JobEventKind::Phase(name));
    }

    /// A job has come so far.
    pub(crate) fn progress(&self, core: &Core, job: &Job, done: u64, total: u64) {
        job.set_progress(done, total);
        self.tell(core, job, || JobEventKind::Progress { done, total });
    }

    pub(crate) fn stats(&self, core: &Core) -> JobStats {
        let board = lock(&self.board);
        let (queued, running, workers) = (board.queue.len(), board.running.len(), board.workers);
        drop(board);
        let counter = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { submitted, joined, retried, refused, waits, waited_nanos, unrecorded, .. } =
            &self.counters;
        JobStats {
            queued,
            running,
            workers,
            submitted: counter(submitted),
            joined: counter(joined),
            retried: counter(retried),
            refused: counter(refused),
            waits: counter(waits),
            waited: Duration::from_nanos(counter(waited_nanos)),
            unrecorded: counter(unrecorded),
            events_missed: self.listeners.missed(),
            circuit: self.breaker.circuit(core.now()),
            circuit_opened: self.breaker.opened(),
        }
    }
}

/// Jobs that keep each other from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Flush,
    Compaction,
    Other,
}

impl Lane {
    const fn of(kind: JobKind) -> Self {
        match kind {
            JobKind::Flush => Self::Flush,
            JobKind::Compaction => Self::Compaction,
            JobKind::Verify | JobKind::Backup => Self::Other,
        }
    }

    /// How many of them may run at a time: one flush, one compaction, and of the others so many that a flush finds one of
    /// `most` workers.
    fn width(self, most: usize) -> usize {
        match self {
            Self::Flush | Self::Compaction => 1,
            Self::Other => most.saturating_sub(2).max(1),
        }
    }
}

impl Board {
    /// The job that already does what is asked for.
    fn same(&self, request: &JobRequest, accepted: Option<Lsn>) -> Option<Arc<Job>> {
        let waiting = self.queue.find(request.kind, &request.target).filter(|job| job.is_as(request));
        waiting.or_else(|| self.running.iter().find(|job| job.does(request, accepted))).cloned()
    }

    /// Whether a job may run beside those that do: one at a time of a kind and target. Without workers one does at all, and
    /// only a flush may come in the middle of another job.
    fn may_run_beside(running: &[Arc<Job>], job: &Job, most: usize, has_workers: bool) -> bool {
        let lane = Lane::of(job.request.kind);
        let is_turn = has_workers || lane == Lane::Flush || running.is_empty();
        let is_same = |other: &Arc<Job>| {
            other.request.kind == job.request.kind && other.request.target == job.request.target
        };
        let beside = running.iter().filter(|other| Lane::of(other.request.kind) == lane).count();
        is_turn && beside < lane.width(most) && !running.iter().any(is_same)
    }

    /// How many of the jobs that wait could be done now.
    fn runnable(&self, most: usize) -> usize {
        let count = |lane, jobs: &mut dyn Iterator<Item = &Arc<Job>>| {
            jobs.filter(|job| Lane::of(job.request.kind) == lane).count()
        };
        let in_lane = |lane: Lane| {
            let free = lane.width(most).saturating_sub(count(lane, &mut self.running.iter()));
            free.min(count(lane, &mut self.queue.jobs()))
        };
        [Lane::Flush, Lane::Compaction, Lane::Other].map(in_lane).iter().sum()
    }
}

impl Job {
    /// Whether it does as much as a request asks for: a compaction by itself does less than one that is asked for.
    fn is_as(&self, request: &JobRequest) -> bool {
        self.request.automatic == request.automatic || self.request.kind == JobKind::Flush
    }

    /// Whether this job, which is under way, does what a request asks for, with all that users had written by then.
    fn does(&self, request: &JobRequest, accepted: Option<Lsn>) -> bool {
        let is_wider = self.request.target == JobTarget::Database;
        let is_same =
            self.request.kind == request.kind && (self.request.target == request.target || is_wider);
        let covers = match accepted {
            Some(lsn) => self.is_covering(lsn) || mutant::is(Mutant::JoinEarlierFlush),
            // The engine's own flushes are of what comes after those under way.
            None => request.kind != JobKind::Flush,
        };
        is_same && self.is_as(request) && covers
    }

    /// Whether it has a record from its beginning. What compactions do by themselves is recorded only if it was something.
    fn is_recorded(&self) -> bool {
        !(self.request.kind == JobKind::Compaction && self.request.automatic)
    }
}

impl Core {
    /// The time by the database's clock.
    pub(crate) fn now(&self) -> Duration {
        self.options.clock.now()
    }

    /// Submits a job for a caller, or finds the one that does the same. With `durable` its record is on disk when this
    /// returns, so that it is done even if the process ends.
    pub(crate) fn submit_job(self: &Arc<Self>, mut request: JobRequest, durable: bool) -> Result<JobHandle> {
        self.check_open()?;
        self.check_target(&mut request)?;
        // While the circuit is open, whoever asks at the right time makes the attempt that may close it.
        if request.kind == JobKind::Flush && !self.jobs.breaker.admits(self.now()) {
            self.jobs.check_circuit(self)?;
        }
        // What was submitted to the log before is accepted before.
        self.submit(Request::Appended, 0)?;
        let accepted = Lsn(self.last_user.load(Ordering::Acquire));
        if let JobTarget::Directory(path) = &request.target
            && lock(&self.jobs.board).same(&request, Some(accepted)).is_none()
        {
            self.check_is_free(path)?;
        }
        let target = request.target.clone();
        let job = self.enqueue(request, Some(accepted), Some(self.options.job_deadline))?;
        if durable {
            // Also of one that was there: whoever asked for it may have needed no record.
            self.write_job_record(|| job.record(), Durability::Durable)?;
        }
        if !self.options.background {
            self.work_until(&job);
        }
        let is_flush = job.request.kind == JobKind::Flush;
        let wants = (is_flush && job.request.reason != Some(FlushReason::Manual)).then_some(target);
        Ok(JobHandle { job, core: Arc::clone(self), wants })
    }

    fn check_target(&self, request: &mut JobRequest) -> Result<()> {
        match &mut request.target {
            JobTarget::Directory(path) => {
                *path = self.place_for_backup(path)?;
                Ok(())
            }
            JobTarget::Collection(name) if self.published.state().by_name(name).is_none() => {
                Err(Error::CollectionNotFound(name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Submits a job that the engine asks for by itself: never waits.
    pub(crate) fn request_job(&self, request: JobRequest) {
        // It fails only while the database is being closed, which does what there is to do.
        let _closing = self.enqueue(request, None, None);
    }

    /// Finds a place for a job. With a deadline, waits for one that long at most.
    fn enqueue(
        &self,
        request: JobRequest,
        accepted: Option<Lsn>,
        deadline: Option<Duration>,
    ) -> Result<Arc<Job>> {
        let jobs = &self.jobs;
        let mut board = lock(&jobs.board);
        let start = Instant::now();
        let mut has_waited = false;
        loop {
            if board.is_closing {
                return Err(Error::Closed);
            }
            if let Some(same) = board.same(&request, accepted) {
                jobs.counters.joined.fetch_add(1, Ordering::Relaxed);
                if request.automatic {
                    same.stand_for_the_engine();
                } else {
                    let at_once = same.may_hurry();
                    board.queue.hurry(request.priority, at_once, |job| job.id == same.id);
                    jobs.changed.notify_all();
                }
                return Ok(same);
            }
            let Some(deadline) = deadline.filter(|_| !board.queue.has_room_for(request.priority)) else {
                break;
            };
            if !has_waited {
                jobs.counters.waits.fetch_add(1, Ordering::Relaxed);
                has_waited = true;
            }
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                jobs.counters.refused.fetch_add(1, Ordering::Relaxed);
                jobs.note_wait(start.elapsed());
                return Err(Error::QueueFull { queued: board.queue.len(), waited: deadline });
            }
            board = jobs.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if has_waited {
            jobs.note_wait(start.elapsed());
        }
        let job = self.push(&mut board, request, self.now());
        self.hire(&mut board);
        drop(board);
        jobs.changed.notify_all();
        Ok(job)
    }

    /// Puts a new job into the queue, which is not to begin before `not_before`.
    fn push(&self, board: &mut Board, request: JobRequest, not_before: Duration) -> Arc<Job> {
        let id = JobId(self.jobs.next_id.fetch_add(1, Ordering::Relaxed));
        let job = Arc::new(Job::new(id, request, self.unix_now(), 0));
        board.queue.push(Arc::clone(&job), self.now(), not_before);
        self.jobs.counters.submitted.fetch_add(1, Ordering::Relaxed);
        // Listeners are told without waiting for any of them.
        self.jobs.tell(self, &job, || JobEventKind::Queued);
        job
    }

    /// Sees to the flush that may close the circuit again, when its time has come and nobody else asks for one.
    fn probe(&self, board: &mut Board) {
        let is_time = self.jobs.breaker.probe_at().is_some_and(|at| at <= self.now());
        let is_flush = |job: &Arc<Job>| job.kind() == JobKind::Flush;
        if is_time && !board.is_closing && !board.queue.jobs().chain(&board.running).any(is_flush) {
            self.push(board, JobRequest::flush_for(JobTarget::Database, FlushReason::Probe), self.now());
        }
    }

    /// Sees to a worker for what waits, if one more may be hired.
    fn hire(&self, board: &mut Board) {
        let most = self.options.max_workers.max(self.options.workers);
        let free = board.workers.saturating_sub(board.running.len());
        if !self.options.background
            || board.is_closing
            || board.workers >= most
            || board.runnable(most) <= free
        {
            return;
        }
        let Some(core) = self.me.upgrade() else { return };
        let spawned = std::thread::Builder::new()
            .name(format!("plimsoll-worker-{}", board.workers))
            .spawn(move || core.work());
        match spawned {
            Ok(thread) => {
                board.workers += 1;
                board.threads.retain(|thread| !thread.is_finished());
                board.threads.push(thread);
            }
            Err(error) if board.workers == 0 => {
                tracing::error!(%error, "no worker can be started: jobs are done by whoever closes the database");
            }
            Err(error) => tracing::warn!(%error, "no further worker can be started"),
        }
    }

    /// A worker's life.
    fn work(&self) {
        let jobs = &self.jobs;
        let mut board = lock(&jobs.board);
        let mut idle_since = self.now();
        loop {
            self.probe(&mut board);
            if let Some(job) = self.next(&mut board) {
                // While this one works, another one may be needed.
                if board.queue.len() > 0 {
                    self.hire(&mut board);
                }
                drop(board);
                self.run(&job);
                board = lock(&jobs.board);
                idle_since = self.now();
                continue;
            }
            let now = self.now();
            let is_extra = board.workers > self.options.workers;
            if board.is_closing || (is_extra && now.saturating_sub(idle_since) >= PATIENCE) {
                board.workers -= 1;
                jobs.changed.notify_all();
                return;
            }
            let next = board.queue.next_at(now).into_iter().chain(jobs.breaker.probe_at()).min();
            let sleep = next.map(|at| at.saturating_sub(now).max(Duration::from_millis(1)));
            let sleep = sleep.into_iter().chain(is_extra.then_some(PATIENCE)).min();
            board = match sleep {
                Some(sleep) => {
                    jobs.changed.wait_timeout(board, sleep).unwrap_or_else(PoisonError::into_inner).0
                }
                None => jobs.changed.wait(board).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Takes the next job that may run now.
    fn next(&self, board: &mut Board) -> Option<Arc<Job>> {
        if board.is_closing {
            return None;
        }
        let now = self.now();
        let most = self.options.max_workers.max(self.options.workers);
        let admits = self.jobs.breaker.admits(now);
        let (queue, running) = (&mut board.queue, &board.running);
        let may_run = |job: &Arc<Job>| Board::may_run_beside(running, job, most, self.options.background);
        let job = queue.take(now, |job| may_run(job) && (admits || job.kind() != JobKind::Flush))?;
        if job.kind() == JobKind::Flush {
            self.jobs.breaker.begin();
        }
        board.running.push(Arc::clone(&job));
        Some(job)
    }

    /// Without workers: does what waits until `job` has ended.
    fn work_until(&self, job: &Arc<Job>) {
        let jobs = &self.jobs;
        let mut board = lock(&jobs.board);
        while !job.state().is_final() {
            match self.next(&mut board) {
                Some(next) => {
                    drop(board);
                    self.run(&next);
                    board = lock(&jobs.board);
                }
                // The circuit was opened since it was submitted, and nobody else will come to do it.
                None if !board.is_closing && board.running.is_empty() => {
                    if let Err(refused) = jobs.check_circuit(self)
                        && board.queue.remove(|waiting| waiting.id == job.id).is_some()
                    {
                        drop(board);
                        self.end(job, JobState::Failed, Err(refused));
                        board = lock(&jobs.board);
                    }
                }
                // Another thread is at it.
                None => board = jobs.changed.wait(board).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Without workers: does what waits and may run.
    pub(crate) fn work_off(&self) {
        loop {
            let next = self.next(&mut lock(&self.jobs.board));
            let Some(next) = next else { return };
            self.run(&next);
        }
    }

    /// Cancels a job of this process, or one that another one has left.
    pub(crate) fn cancel_job(&self, id: JobId) -> Result<()> {
        let jobs = &self.jobs;
        let mut board = lock(&jobs.board);
        if let Some(job) = board.queue.remove(|job| job.id == id) {
            drop(board);
            job.cancel();
            self.end(&job, JobState::Cancelled, Err(Error::Cancelled));
            self.ask_for_what_is_sealed(&job.request);
            return Ok(());
        }
        if let Some(job) = board.running.iter().find(|job| job.id == id) {
            if job.kind() == JobKind::Flush {
                return Err(Error::JobFinished { job: id, state: JobState::Running });
            }
            job.cancel();
            return Ok(());
        }
        drop(board);
        self.cancel_left(id)
    }

    /// What is sealed takes part in no policy any more: whoever's flush of it is cancelled, the engine asks for another.
    fn ask_for_what_is_sealed(&self, cancelled: &JobRequest) {
        if cancelled.kind != JobKind::Flush {
            return;
        }
        let is_of_target = |name: &str| match &cancelled.target {
            JobTarget::Collection(of) => of == name,
            _ => true,
        };
        let state = self.published.state();
        let mut of_target = state.sound_users().filter(|collection| is_of_target(&collection.name));
        if of_target.any(|collection| !collection.sealed.is_empty()) {
            self.request_job(cancelled.by_the_engine());
        }
    }
}

impl Jobs {
    /// Whether a flush of the target waits or is under way.
    pub(crate) fn is_flushing(&self, target: &JobTarget) -> bool {
        let is_it = |job: &Arc<Job>| {
            let JobRequest { kind, target: of, .. } = &job.request;
            *kind == JobKind::Flush && (of == target || *of == JobTarget::Database)
        };
        let board = lock(&self.board);
        board.queue.jobs().chain(&board.running).any(is_it)
    }

    fn note_wait(&self, time: Duration) {
        self.counters.waited_nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }
}
