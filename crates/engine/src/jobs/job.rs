//! A job on its way, and the handle by which callers wait for it.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use plimsoll_base::Lsn;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use plimsoll_base::sync::{Condvar, Mutex};

use super::model::{JobId, JobKind, JobOutcome, JobPriority, JobRecord, JobRequest, JobState, JobTarget};
use super::queue::Queued;
use crate::core::{Core, lock};
use crate::error::{Error, Result};

/// One job of this process.
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) request: JobRequest,
    state: Mutex<State>,
    changed: Condvar,
    is_cancelled: AtomicBool,
    /// The engine has asked for it, too.
    is_for_the_engine: AtomicBool,
    /// A caller had it tried again before its pause was over.
    was_hurried: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

struct State {
    state: JobState,
    attempts: u32,
    queued_at: SystemTime,
    started_at: Option<SystemTime>,
    finished_at: Option<SystemTime>,
    /// Every write up to here is flushed when this attempt succeeds.
    covers: Option<Lsn>,
    error: Option<String>,
    result: Option<Result<JobOutcome>>,
}

impl Job {
    pub(super) fn new(id: JobId, request: JobRequest, queued_at: SystemTime, attempts: u32) -> Self {
        let state = State {
            state: JobState::Queued,
            attempts,
            queued_at,
            started_at: None,
            finished_at: None,
            covers: None,
            error: None,
            result: None,
        };
        Self {
            id,
            request,
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_cancelled: AtomicBool::new(false),
            is_for_the_engine: AtomicBool::new(false),
            was_hurried: AtomicBool::new(false),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// An attempt begins; returns its number, from 1.
    pub(super) fn begin(&self, now: SystemTime) -> u32 {
        let mut state = lock(&self.state);
        state.state = JobState::Running;
        state.attempts += 1;
        state.started_at = Some(now);
        state.covers = None;
        state.attempts
    }

    /// Everything up to `seal` is on its way.
    pub(crate) fn covers(&self, seal: Lsn) {
        lock(&self.state).covers = Some(seal);
    }

    pub(super) fn is_covering(&self, lsn: Lsn) -> bool {
        let state = lock(&self.state);
        state.state == JobState::Running && state.covers.is_some_and(|covers| covers >= lsn)
    }

    /// An attempt failed, and another one will be made.
    pub(super) fn retry(&self, error: &Error) {
        let mut state = lock(&self.state);
        state.state = JobState::Retrying;
        state.error = Some(error.to_string());
    }

    /// The job has ended.
    pub(super) fn finish(&self, state_now: JobState, result: Result<JobOutcome>, now: SystemTime) {
        if state_now == JobState::Completed {
            let total = self.total.load(Ordering::Relaxed);
            self.done.store(total, Ordering::Relaxed);
        }
        let mut state = lock(&self.state);
        state.state = state_now;
        state.finished_at = Some(now);
        state.error = result.as_ref().err().map(ToString::to_string);
        state.result = Some(result);
        drop(state);
        self.changed.notify_all();
    }

    /// The engine wanted the same, and got this job.
    pub(super) fn stand_for_the_engine(&self) {
        self.is_for_the_engine.store(true, Ordering::Release);
    }

    /// Whether the engine asks for it once more if it fails.
    pub(super) fn is_for_the_engine(&self) -> bool {
        self.request.automatic || self.is_for_the_engine.load(Ordering::Acquire)
    }

    /// Whether a caller who gets this job lets it begin before its time: one that has not begun yet always, and one that
    /// waits for its next attempt once. Callers in a loop would use up its attempts otherwise.
    pub(super) fn may_hurry(&self) -> bool {
        self.state() != JobState::Retrying || !self.was_hurried.swap(true, Ordering::AcqRel)
    }

    pub(super) fn state(&self) -> JobState {
        lock(&self.state).state
    }

    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Fails if someone cancelled the job: to be called where nothing is half done.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn set_progress(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Waits until the job has ended; `None` when the time is over before that.
    fn wait(&self, timeout: Option<Duration>) -> Option<Result<JobOutcome>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = &state.result {
                return Some(result.clone());
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now());
                    let left = left.filter(|left| !left.is_zero())?;
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn record(&self) -> JobRecord {
        let state = lock(&self.state);
        let outcome = state.result.as_ref().and_then(|result| result.as_ref().ok());
        let lsns = match outcome {
            Some(JobOutcome::Flush(stats)) if !stats.is_empty() => Some((stats.first_lsn, stats.last_lsn)),
            _ => None,
        };
        JobRecord {
            id: self.id,
            kind: self.request.kind,
            target: self.request.target.clone(),
            state: match state.state {
                JobState::Failed if mutant::is(Mutant::RecordSaysCompleted) => JobState::Completed,
                state => state,
            },
            priority: self.request.priority,
            reason: self.request.reason,
            attempts: state.attempts,
            queued_at: state.queued_at,
            started_at: state.started_at,
            finished_at: state.finished_at,
            lsns,
            outcome: outcome.cloned(),
            summary: outcome
                .filter(|outcome| !matches!(outcome, JobOutcome::Flush(_)))
                .map(ToString::to_string),
            error: state.error.clone(),
        }
    }
}

impl Queued for Arc<Job> {
    fn kind(&self) -> JobKind {
        self.request.kind
    }

    fn target(&self) -> &JobTarget {
        &self.request.target
    }

    fn priority(&self) -> JobPriority {
        self.request.priority
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobRequest { kind, target, .. } = &self.request;
        write!(f, "Job {} ({kind} of {target}, {})", self.id, self.state())
    }
}

/// A job that was submitted. Dropping the handle changes nothing for the job.
#[derive(Clone)]
pub struct JobHandle {
    pub(super) job: Arc<Job>,
    pub(super) core: Arc<Core>,
    /// What a caller wants flushed who got a flush of the engine's own. That is done although a damaged collection's
    /// writes stay in the log, and the caller is told of these.
    pub(super) wants: Option<JobTarget>,
}

impl JobHandle {
    /// What it is called by.
    pub fn id(&self) -> JobId {
        self.job.id
    }

    /// What is known about it now.
    pub fn record(&self) -> JobRecord {
        self.job.record()
    }

    /// How much of its present phase is done, and of how much: rows, files or bytes. 0 of 0 while that is unknown.
    pub fn progress(&self) -> (u64, u64) {
        self.job.progress()
    }

    /// Waits until the job has ended.
    ///
    /// # Errors
    /// Why it failed; [`Error::Cancelled`]; of a flush, the damage of a collection whose writes therefore stay in the log.
    pub fn wait(&self) -> Result<JobOutcome> {
        self.answer(self.job.wait(None).unwrap_or(Err(Error::Closed)))
    }

    /// As [`JobHandle::wait`], for so long at most. The job is none the worse for it if the time is over.
    ///
    /// # Errors
    /// [`Error::JobTimeout`] when the job has not ended by then, and as [`JobHandle::wait`].
    pub fn wait_for(&self, timeout: Duration) -> Result<JobOutcome> {
        match self.job.wait(Some(timeout)) {
            Some(result) => self.answer(result),
            None => {
                let JobRequest { kind, .. } = self.job.request;
                self.core.jobs.timed_out(kind);
                Err(Error::JobTimeout { job: self.id(), kind, waited: timeout })
            }
        }
    }

    /// What the job's result is to this caller.
    fn answer(&self, result: Result<JobOutcome>) -> Result<JobOutcome> {
        let outcome = result?;
        let damage = self.wants.as_ref().and_then(|target| self.core.unflushable_in(target));
        damage.map_or(Ok(outcome), |damage| Err(damage.into()))
    }

    /// Cancels the job: at once while it waits for its turn, and otherwise where nothing is half done. A flush that has
    /// begun is not cancelled; what it moves stays where it is or arrives where it should.
    ///
    /// # Errors
    /// [`Error::JobFinished`] if it has ended, and of a flush if it has begun.
    pub fn cancel(&self) -> Result<()> {
        self.core.cancel_job(self.id())
    }
}

impl fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.job.fmt(f)
    }
}
