//! What a worker does with a job, and what follows from how it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use plimsoll_base::CollectionId;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::sync::atomic::Ordering;

use super::events::JobEventKind;
use super::model::{JobId, JobKind, JobOutcome, JobRecord, JobRequest, JobState, JobTarget};
use super::retry::{self, Class};
use super::{Job, Lane, REMEMBERED, Records, SECOND_WIND};
use crate::background::on_half_of_the_cores;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::stats::FlushReason;

impl Core {
    /// Makes one attempt at a job.
    pub(super) fn run(&self, job: &Arc<Job>) {
        let attempt = job.begin(self.unix_now());
        self.jobs.tell(self, job, || JobEventKind::Started { attempt });
        tracing::info!(job = job.id.0, kind = %job.request.kind, target_of = %job.request.target, attempt, "job started");
        if job.is_recorded() {
            self.note(job);
        }
        let work = || catch_unwind(AssertUnwindSafe(|| self.perform(job)));
        let result = if self.options.background { self.in_pool(job.request.kind, work) } else { work() };
        let result = result.unwrap_or_else(|_| {
            let what = "it panicked; what it was about is as it was".to_owned();
            Err(Error::Background {
                job: job.request.kind.name(),
                cause: Arc::new(Error::InvalidArgument(what)),
            })
        });
        self.judge(job, &result);
        match result {
            Ok(outcome) if outcome.is_empty() => self.end(job, JobState::Skipped, Ok(outcome)),
            Ok(outcome) => self.end(job, JobState::Completed, Ok(outcome)),
            Err(Error::Cancelled) => self.end(job, JobState::Cancelled, Err(Error::Cancelled)),
            Err(error) if self.may_retry(job, &error, attempt) => self.retry(job, &error, attempt),
            Err(error) => {
                let is_closing = lock(&self.jobs.board).is_closing;
                self.end(job, JobState::Failed, Err(error.clone()));
                if job.is_for_the_engine() && !is_closing {
                    self.follow_up(&job.request, &error);
                }
            }
        }
    }

    fn in_pool<T: Send>(&self, kind: JobKind, work: impl FnOnce() -> T + Send) -> T {
        match self.jobs.pools[Lane::of(kind) as usize].get_or_init(|| on_half_of_the_cores(kind.name())) {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Does what a job is there for.
    fn perform(&self, job: &Arc<Job>) -> Result<JobOutcome> {
        if job.request.kind != JobKind::Flush {
            job.covers(self.published.visible());
        }
        match (&job.request.kind, &job.request.target) {
            (JobKind::Flush, target) => {
                let only = match target {
                    JobTarget::Collection(name) => Some(self.collection_id(name)?),
                    _ => None,
                };
                let reason = job.request.reason.unwrap_or_default();
                let stats = self.flush_target(only, reason, Some(job))?;
                Ok(JobOutcome::Flush(Box::new(stats)))
            }
            (JobKind::Compaction, _) if job.request.automatic => {
                self.compact_due(job).map(JobOutcome::Compaction)
            }
            (JobKind::Compaction, _) => self.compact_everything(Some(job)).map(JobOutcome::Compaction),
            (JobKind::Verify, _) => self.verify(Some(job)).map(JobOutcome::Verify),
            (JobKind::Backup, JobTarget::Directory(to)) => self.backup(to, job).map(JobOutcome::Backup),
            (JobKind::Backup, other) => {
                Err(Error::InvalidArgument(format!("a backup of {other} needs a directory to go to")))
            }
        }
    }

    fn collection_id(&self, name: &str) -> Result<CollectionId> {
        let state = self.published.state();
        let found = state.by_name(name).ok_or_else(|| Error::CollectionNotFound(name.to_owned()))?;
        Ok(found.id)
    }

    /// Draws from an attempt at a flush what it says about the storage.
    fn judge(&self, job: &Job, result: &Result<JobOutcome>) {
        if job.request.kind != JobKind::Flush {
            return;
        }
        match result {
            Ok(_) => self.jobs.breaker.succeeded(),
            Err(error) if retry::counts_against_storage(error) => self.jobs.breaker.failed(self.now(), error),
            Err(_) => self.jobs.breaker.undecided(),
        }
    }

    fn may_retry(&self, job: &Job, error: &Error, attempt: u32) -> bool {
        self.options.background
            && attempt <= retry::RETRIES
            && retry::class(error) == Class::Transient
            && !job.is_cancelled()
            && !lock(&self.jobs.board).is_closing
    }

    /// Puts a job whose attempt failed back into the queue.
    fn retry(&self, job: &Arc<Job>, error: &Error, attempt: u32) {
        let jobs = &self.jobs;
        job.retry(error);
        self.note(job);
        let now = self.now();
        let pause = retry::backoff(attempt, job.id.0.wrapping_mul(0x9E37_79B9) ^ now.as_nanos() as u64);
        tracing::warn!(job = job.id.0, kind = %job.request.kind, %error, attempt, ?pause, "a job failed and is tried again");
        jobs.counters.retried.fetch_add(1, Ordering::Relaxed);
        {
            let mut board = lock(&jobs.board);
            board.running.retain(|running| running.id != job.id);
            board.queue.push(Arc::clone(job), now, now + pause);
        }
        jobs.changed.notify_all();
        jobs.tell(self, job, || JobEventKind::Retried { attempt, pause, error: error.to_string() });
    }

    /// A job has ended.
    pub(super) fn end(&self, job: &Arc<Job>, state: JobState, result: Result<JobOutcome>) {
        let jobs = &self.jobs;
        let error = result.as_ref().err().map(ToString::to_string);
        let is_worth_it = job.is_recorded() || !matches!(state, JobState::Skipped | JobState::Cancelled);
        {
            // Whoever is told that it has ended finds it among those that have.
            let mut board = lock(&jobs.board);
            board.running.retain(|running| running.id != job.id);
            board.finished.push_back(Arc::clone(job));
            if board.finished.len() > REMEMBERED {
                board.finished.pop_front();
            }
            job.finish(state, result, self.unix_now());
        }
        if is_worth_it {
            self.note(job);
        }
        match &error {
            None => tracing::info!(job = job.id.0, kind = %job.request.kind, %state, "job ended"),
            Some(error) => {
                tracing::warn!(job = job.id.0, kind = %job.request.kind, %state, %error, "job ended");
            }
        }
        jobs.changed.notify_all();
        if job.request.kind == JobKind::Flush {
            self.signals.look_at(self.now());
        }
        jobs.tell(self, job, || JobEventKind::Finished { state, error });
    }

    /// Keeps a job's record, as it is now. That it can not be kept does not hold the job up.
    fn note(&self, job: &Job) {
        // What is closing or poisoned logs nothing any more; the data says what was done.
        if let Err(error) = self.write_job_record(|| job.record(), Durability::Buffered) {
            self.jobs.counters.unrecorded.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(job = job.id.0, %error, "the record of a job was not kept");
        }
    }

    /// What the engine asked for is due as it was before: it is submitted again, for later.
    fn follow_up(&self, request: &JobRequest, error: &Error) {
        if request.kind != JobKind::Flush || matches!(error, Error::Poisoned { .. } | Error::Closed) {
            return;
        }
        let now = self.now();
        let again = request.by_the_engine();
        let mut board = lock(&self.jobs.board);
        if board.is_closing || board.same(&again, None).is_some() {
            return;
        }
        self.push(&mut board, again, now + SECOND_WIND);
    }

    /// No further jobs: those that can be are cancelled, workers end. Flushes that waited are returned; what they were to
    /// do is for the caller to do, or to leave to the log.
    pub(crate) fn close_jobs(&self) -> Vec<Arc<Job>> {
        let jobs = &self.jobs;
        let mut board = lock(&jobs.board);
        board.is_closing = true;
        let (mut flushes, mut others) = (Vec::new(), Vec::new());
        while let Some(job) = board.queue.remove(|_| true) {
            if job.request.kind == JobKind::Flush { flushes.push(job) } else { others.push(job) }
        }
        board.running.iter().for_each(|job| job.cancel());
        let threads = std::mem::take(&mut board.threads);
        drop(board);
        jobs.changed.notify_all();
        for job in others {
            self.end(&job, JobState::Cancelled, Err(Error::Closed));
        }
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a worker of the database panicked");
            }
        }
        // An attempt that failed meanwhile may have come back.
        let mut board = lock(&jobs.board);
        flushes.extend(std::iter::from_fn(|| board.queue.remove(|_| true)));
        flushes
    }

    /// The flush of a closing database, and the end of those that it stands for.
    pub(crate) fn flush_at_close(&self, waiting: Vec<Arc<Job>>) -> Result<()> {
        let is_due = self.published.state().users().any(|collection| collection.first_unflushed().is_some());
        let result = match is_due || !waiting.is_empty() {
            true => {
                let id = JobId(self.jobs.next_id.fetch_add(1, Ordering::Relaxed));
                let request = JobRequest::flush_for(JobTarget::Database, FlushReason::Close);
                let job = Arc::new(Job::new(id, request, self.unix_now(), 0));
                let attempt = job.begin(self.unix_now());
                self.jobs.tell(self, &job, || JobEventKind::Started { attempt });
                // The flush carries this record to a file, and its being there says that it was done.
                self.note(&job);
                let result = self.perform(&job);
                let state = if result.is_ok() { JobState::Completed } else { JobState::Failed };
                job.finish(state, result.clone(), self.unix_now());
                let error = result.as_ref().err().map(ToString::to_string);
                self.jobs.tell(self, &job, || JobEventKind::Finished { state, error });
                result
            }
            // Records of jobs, and what the log has of collections that were dropped.
            false => self.flush_target(None, FlushReason::Close, None).map(|_| JobOutcome::Unknown),
        };
        for job in waiting {
            let state = if result.is_ok() { JobState::Completed } else { JobState::Failed };
            job.finish(state, result.clone(), self.unix_now());
        }
        self.jobs.changed.notify_all();
        result.map(drop)
    }

    /// What a closing database does with flushes that waited, if it does not flush: the log has what they were about.
    pub(crate) fn leave_to_the_log(&self, waiting: Vec<Arc<Job>>) {
        for job in waiting {
            job.finish(JobState::Cancelled, Err(Error::Closed), self.unix_now());
        }
        self.jobs.changed.notify_all();
    }

    /// Reads which jobs an earlier process has left, and which ids are taken.
    ///
    /// # Errors
    /// Those of the storage, without which ids would be given twice. A damaged table is begun anew.
    pub(crate) fn load_ledger(&self) -> Result<()> {
        let view = self.published.view();
        let Some(records) = Records::of(&view) else { return Ok(()) };
        match records.ledger() {
            Ok(ledger) => {
                self.jobs.next_id.store(ledger.next(), Ordering::Relaxed);
                *lock(&self.jobs.ledger) = ledger;
                Ok(())
            }
            Err(error) if error.is_corruption() => {
                tracing::error!(%error, "the records of earlier jobs can not be read");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Goes on with what an earlier process has left: flushes and compactions are done once more, unless they prove to be
    /// done; what can not be gone on with is marked as failed.
    pub(crate) fn resume_jobs(&self) {
        for id in self.left_jobs() {
            match self.stored_record(id) {
                Ok(_) if mutant::is(Mutant::ForgetLeftJobs) => {}
                Ok(Some(record)) if !record.state.is_final() => self.resume(record),
                // Found done; the next record says that it is not open any more.
                Ok(_) => lock(&self.jobs.ledger).close(id),
                Err(error) => tracing::error!(job = id.0, %error, "the record of a job can not be read"),
            }
        }
    }

    /// The jobs that an earlier process has not ended.
    fn left_jobs(&self) -> Vec<JobId> {
        let open: Vec<_> = lock(&self.jobs.ledger).open().collect();
        open.into_iter().filter(|id| self.jobs.find(*id).is_none()).collect()
    }

    fn resume(&self, mut record: JobRecord) {
        if matches!(record.kind, JobKind::Verify | JobKind::Backup) {
            record.state = JobState::Failed;
            record.error = Some("the process ended before the job did".to_owned());
            record.finished_at = Some(self.unix_now());
            if let Err(error) = self.write_job_record(|| record.clone(), Durability::Buffered) {
                tracing::warn!(job = record.id.0, %error, "the record of a job was not kept");
            }
            return;
        }
        tracing::info!(job = record.id.0, kind = %record.kind, attempts = record.attempts, "a job is resumed");
        let request = request_of(&record);
        let job = Arc::new(Job::new(record.id, request, record.queued_at, record.attempts));
        let now = self.now();
        let mut board = lock(&self.jobs.board);
        board.queue.push(Arc::clone(&job), now, now);
        self.hire(&mut board);
        drop(board);
        self.jobs.changed.notify_all();
        self.jobs.tell(self, &job, || JobEventKind::Queued);
    }

    /// Cancels a job that an earlier process has left.
    pub(super) fn cancel_left(&self, id: JobId) -> Result<()> {
        if let Some(job) = self.jobs.find(id) {
            return Err(Error::JobFinished { job: id, state: job.state() });
        }
        let mut record = self.stored_record(id)?.ok_or(Error::JobNotFound(id))?;
        if record.state.is_final() {
            return Err(Error::JobFinished { job: id, state: record.state });
        }
        record.state = JobState::Cancelled;
        record.finished_at = Some(self.unix_now());
        self.write_job_record(|| record, Durability::Durable).map(drop)
    }

    /// Submits once more what a job that has failed or was cancelled was to do.
    pub(crate) fn retry_request(&self, id: JobId) -> Result<JobRequest> {
        let record = self.job_record(id)?;
        match record.state {
            JobState::Failed | JobState::Cancelled => Ok(request_of(&record)),
            state => Err(Error::JobFinished { job: id, state }),
        }
    }

    /// What is known about a job: by this process, or by its record.
    pub(crate) fn job_record(&self, id: JobId) -> Result<JobRecord> {
        match self.jobs.find(id) {
            Some(job) => Ok(job.record()),
            None => self.stored_record(id)?.ok_or(Error::JobNotFound(id)),
        }
    }

    fn stored_record(&self, id: JobId) -> Result<Option<JobRecord>> {
        let view = self.published.view();
        Records::of(&view).map_or(Ok(None), |records| records.record(id))
    }

    /// The newest jobs, those of this process and those with records.
    pub(crate) fn job_records(&self, limit: usize) -> Result<Vec<JobRecord>> {
        let view = self.published.view();
        let mut all = match Records::of(&view) {
            Some(records) => records.newest(limit)?,
            None => Vec::new(),
        };
        let board = lock(&self.jobs.board);
        let own: Vec<_> = board.queue.jobs().chain(&board.running).chain(&board.finished).cloned().collect();
        drop(board);
        let own: Vec<_> = own.iter().filter(|job| job.is_recorded()).map(|job| job.record()).collect();
        all.retain(|stored| own.iter().all(|own| own.id != stored.id));
        all.extend(own);
        all.sort_by_key(|record| std::cmp::Reverse(record.id));
        all.truncate(limit);
        Ok(all)
    }
}

fn request_of(record: &JobRecord) -> JobRequest {
    let JobRecord { kind, priority, reason, .. } = *record;
    JobRequest { kind, target: record.target.clone(), priority, reason, automatic: false }
}
