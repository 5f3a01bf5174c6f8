//! The public face of an open database.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_base::sync::Mutex;
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::{CollectionId, Lsn, StorageError};

use crate::background;
use crate::batch::WriteBatch;
use crate::check::VerifyReport;
use crate::collection::Collection;
use crate::commit::Request;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::jobs::{JobEvent, JobHandle, JobId, JobOutcome, JobRecord, JobRequest, Subscription};
use crate::manifest::{CollectionEntry, Manifest};
use crate::model::limits::MAX_NAME_BYTES;
use crate::options::{CollectionConfig, DatabaseBuilder, Durability};
use crate::policy::FlushPolicy;
use crate::query::Snapshot;
use crate::recover;
use crate::state::{CollectionState, State};
use crate::stats::{CompactionStats, FlushStats, Level, Stats, Watermarks};
use crate::system::is_system;
use crate::tree::Tree;

/// An open database: one directory, one writing process, any number of threads.
///
/// Handles are cheap to clone and share. Everything acknowledged is on disk, whatever happens to the process
/// or the machine; there is no need to close a database, but [`Database::close`] leaves less to do for the
/// next opening, and reports errors that dropping can not.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("notes");
/// use plimsoll_engine::{CollectionConfig, Database, Document, Metric};
///
/// let db = Database::open(&path)?;
/// let notes = db.create_collection("notes", CollectionConfig::new(3, Metric::Cosine))?;
/// notes.upsert(Document::new("n1").text("buy bread").metadata("done", false).vector([0.2, 0.9, 0.1]))?;
/// notes.upsert(Document::new("n2").text("read a book").vector([0.9, 0.1, 0.3]))?;
///
/// let results = notes.search(&[0.1, 1.0, 0.0]).k(1).with_text(true).run()?;
/// assert_eq!(results.hits[0].text.as_deref(), Some("buy bread"));
/// db.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    handle: Arc<Handle>,
}

/// What lives as long as any handle does.
struct Handle {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.core().options.path.display())
    }
}

impl Database {
    /// Opens the database in a directory; creates it if the directory is missing or empty. After a crash this
    /// replays the log; nothing else is ever needed.
    ///
    /// # Errors
    /// [`Error::NotADatabase`] for a directory that holds something else; [`Error::Storage`]: `Locked` with
    /// the holder when another process has it open for writing, `Corrupted` with file and offset for damage,
    /// `UpgradeRequired` for files of a newer version, `Io` otherwise.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).open()
    }

    /// Opens a database with other settings than the defaults.
    pub fn builder(path: impl AsRef<Path>) -> DatabaseBuilder {
        DatabaseBuilder::new(path.as_ref())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// Creates a collection, or returns the one of that name if it was created with the same configuration.
    ///
    /// # Errors
    /// [`Error::SchemaMismatch`] if it exists with another dimension or metric; [`Error::InvalidArgument`] for
    /// a dimension outside of 1 to 4,096 or a name that is empty, longer than 255 bytes or has control
    /// characters; [`Error::Storage`].
    pub fn create_collection(&self, name: &str, config: CollectionConfig) -> Result<Collection> {
        config.validate()?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let what = format!(
                "{name:?} is no name for a collection: 1 to {MAX_NAME_BYTES} bytes, no control characters"
            );
            return Err(Error::InvalidArgument(what));
        }
        self.core().create_collection(name, &config)?;
        let collection = self.collection(name)?;
        if collection.config == config {
            return Ok(collection);
        }
        let existing = (collection.config.dimension, collection.config.metric);
        Err(Error::schema_mismatch(name, existing, (config.dimension, config.metric)))
    }

    /// The collection of that name.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`].
    pub fn collection(&self, name: &str) -> Result<Collection> {
        self.core().check_open()?;
        let state = self.core().published.state();
        let found = state.by_name(name).ok_or_else(|| Error::CollectionNotFound(name.to_owned()))?;
        Ok(self.handle_of(found))
    }

    /// All collections, by name.
    pub fn collections(&self) -> Vec<Collection> {
        let state = self.core().published.state();
        let mut all: Vec<_> = state.users().map(|found| self.handle_of(found)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn handle_of(&self, state: &Arc<CollectionState>) -> Collection {
        Collection {
            database: self.clone(),
            id: state.id,
            name: Arc::clone(&state.name),
            config: state.config.clone(),
        }
    }

    /// Removes a collection with everything in it. Snapshots that hold it go on reading it.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`], [`Error::Storage`].
    pub fn drop_collection(&self, name: &str) -> Result<()> {
        self.core().check_open()?;
        let dropped = self.core().drop_collection(name)?;
        // Nobody finds them any more, whether they are there or not.
        if let Err(error) = self.core().forget_sources(dropped) {
            tracing::warn!(%error, "what is kept of the sources of a dropped collection could not be removed");
        }
        Ok(())
    }

    /// Writes batches for several collections as one: after a crash all of it is there, or nothing.
    ///
    /// # Errors
    /// As [`Collection::write`].
    pub fn write(&self, batches: &[(&Collection, WriteBatch)]) -> Result<Lsn> {
        let batches: Vec<_> = batches.iter().map(|(of, batch)| (of.id, &of.config, batch)).collect();
        self.core().write(&batches, Durability::Durable)
    }

    /// Makes every write accepted before this call durable, [`Durability::Buffered`] ones too. Buffered writes go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the sync fails: it is then unknown which of them are on disk.
    pub fn sync(&self) -> Result<Lsn> {
        self.core().check_open()?;
        let appended = self.core().submit(Request::Appended, 0)?;
        self.core().sync_up_to(appended)
    }

    /// Moves every write to any collection accepted before this call from the log to sealed files, and says how long each
    /// phase took. Searches and writes go on meanwhile.
    ///
    /// # Errors
    /// The error of the phase that failed; the writes then stay in the log and in memory, and are flushed
    /// later.
    #[doc(alias = "flush_all")]
    pub fn flush(&self) -> Result<FlushStats> {
        self.flush_stats(JobRequest::flush())
    }

    /// As [`Database::flush`], of one collection.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`], and as [`Database::flush`].
    pub fn flush_collection(&self, name: &str) -> Result<FlushStats> {
        self.flush_stats(JobRequest::flush_collection(name))
    }

    fn flush_stats(&self, request: JobRequest) -> Result<FlushStats> {
        let job = self.core().submit_job(request, false)?;
        match job.wait_for(self.core().options.job_deadline)? {
            JobOutcome::Flush(stats) => Ok(*stats),
            _ => Ok(FlushStats::default()),
        }
    }

    /// Submits a job, and returns at once: it is done in the background, by this process or, if it ends before, by the
    /// next one that opens the database for writing. Who asks for what is under way, or waits for its turn, gets that job.
    ///
    /// Without threads in the background the job is done when this returns.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let db = plimsoll_engine::Database::open(dir.path().join("notes"))?;
    /// use plimsoll_engine::JobRequest;
    /// use std::time::Duration;
    ///
    /// let backup = db.start(JobRequest::backup(dir.path().join("monday")))?;
    /// println!("job {}: {:?}", backup.id(), backup.progress());
    /// println!("{}", backup.wait_for(Duration::from_secs(60))?);
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::QueueFull`] if no place becomes free within
    /// [`DatabaseBuilder::job_deadline`]; [`Error::CircuitOpen`] for a flush while flushes keep failing; and if the job's
    /// record can not be written.
    pub fn start(&self, request: JobRequest) -> Result<JobHandle> {
        self.core().submit_job(request, true)
    }

    /// What is known about a job.
    ///
    /// # Errors
    /// [`Error::JobNotFound`]: there never was one of that id, or it ended more than 30 days ago.
    pub fn job(&self, id: JobId) -> Result<JobRecord> {
        self.core().job_record(id)
    }

    /// The newest jobs, `limit` at most, newest first.
    ///
    /// # Errors
    /// [`Error::Storage`] if records are damaged.
    pub fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>> {
        self.core().job_records(limit)
    }

    /// Cancels a job: at once while it waits for its turn, and otherwise where nothing is half done.
    ///
    /// # Errors
    /// [`Error::JobNotFound`]; [`Error::JobFinished`] if it has ended, and of a flush if it has begun.
    pub fn cancel_job(&self, id: JobId) -> Result<()> {
        self.core().check_open()?;
        self.core().cancel_job(id)
    }

    /// Submits a new job that does what one that failed or was cancelled was to do.
    ///
    /// # Errors
    /// [`Error::JobNotFound`]; [`Error::JobFinished`] if it did not fail; and as [`Database::start`].
    pub fn retry_job(&self, id: JobId) -> Result<JobHandle> {
        self.core().check_open()?;
        self.start(self.core().retry_request(id)?)
    }

    /// Tells a listener what becomes of jobs, until the subscription is dropped. It is called by a thread of its own: if
    /// it is slow it misses events ([`JobStats::events_missed`](crate::JobStats::events_missed)), if it panics it is
    /// told nothing more, and neither holds up a job.
    ///
    /// # Errors
    /// [`Error::Storage`] if no thread can be started.
    pub fn subscribe(&self, listener: impl FnMut(&JobEvent) + Send + 'static) -> Result<Subscription> {
        self.core().jobs.subscribe(listener)
    }

    /// Waits until a write has come so far; starts what is needed for it. Returns how far all writes have come.
    ///
    /// # Errors
    /// [`Error::NotWritten`] if there is no such write yet; [`Error::Timeout`] when the time is over before; and what
    /// keeps it from coming so far, as in [`Database::sync`] and [`Database::flush`].
    pub fn wait(&self, level: Level, lsn: Lsn, timeout: Duration) -> Result<Lsn> {
        self.core().wait_for_level(level, lsn, timeout)
    }

    /// Without threads in the background: does the jobs that an earlier process has left, and the flushes that limits of
    /// time ask for. With them there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Closed`]. That a job fails is told by its record.
    pub fn run_due_jobs(&self) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        if !core.options.background {
            core.resume_jobs();
            core.request_due_flushes();
            core.work_off();
        }
        Ok(())
    }

    /// Merges files, drops what was replaced or deleted, and trains the index anew if the collection has
    /// grown by a quarter since. The background does what is necessary by itself; this does all there is to
    /// gain.
    ///
    /// # Errors
    /// [`Error::Storage`]; everything is then as it was.
    pub fn compact(&self) -> Result<CompactionStats> {
        match self.core().submit_job(JobRequest::compaction(), false)?.wait()? {
            JobOutcome::Compaction(stats) => Ok(stats),
            _ => Ok(CompactionStats::default()),
        }
    }

    /// The database as it is now, to be read for as long as it is held.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { view: self.core().published.view() }
    }

    /// The database in numbers.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// Hands the statistics, [`Stats::metrics`], to the recorder that the program has installed for the crate `metrics`; the
    /// times of flushes are there as they happen. To be called as often as they are to be up to date.
    #[cfg(feature = "metrics")]
    pub fn export_metrics(&self) {
        self.stats().export();
    }

    /// Reads and checks every file, and says what is wrong.
    ///
    /// # Errors
    /// [`Error::Storage`] if a file can not be read at all for another reason than damage.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.core().verify(None)
    }

    /// Flushes, stops the background and releases the lock. Every handle then refuses to write; what a handle or
    /// a snapshot shows can still be read.
    ///
    /// # Errors
    /// The flush's error. The database is closed all the same, and the log has what was not flushed. That the disk is
    /// too full for a flush is not an error.
    pub fn close(&self) -> Result<()> {
        self.handle.close(true)
    }
}

impl DatabaseBuilder {
    /// Opens the database.
    ///
    /// # Errors
    /// As [`Database::open`]; [`Error::DatabaseNotFound`] if it is missing and may not be created;
    /// [`Error::InvalidArgument`] for a setting of zero.
    pub fn open(self) -> Result<Database> {
        let core = recover::open(self.into_options()?)?;
        let path = core.options.path.clone();
        let threads = background::start(&core);
        let threads = threads.map_err(|error| StorageError::io("start a thread for", &path, error))?;
        Ok(Database { handle: Arc::new(Handle { core, threads: Mutex::new(threads) }) })
    }
}

impl Handle {
    fn close(&self, flush: bool) -> Result<()> {
        if !self.core.mark_closed() {
            return Ok(());
        }
        let waiting = self.core.close_jobs();
        let flushed = if flush {
            self.core.flush_at_close(waiting)
        } else {
            self.core.leave_to_the_log(waiting);
            Ok(())
        };
        let flushed = match flushed {
            // Nothing is lost: it stays in the log.
            Err(Error::Storage(error)) if error.is_storage_full() => {
                tracing::warn!(%error, "the disk is full; what was not flushed stays in the log");
                Ok(())
            }
            flushed => flushed,
        };
        if flush && let Err(error) = self.core.compact_small() {
            tracing::warn!(%error, "small files could not be merged at closing");
        }
        self.core.signals.stop();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the database panicked");
            }
        }
        flushed.and(self.core.release())
    }
}

impl Drop for Handle {
    /// Dropping the last handle syncs the log, so that buffered writes are kept, too.
    fn drop(&mut self) {
        if let Err(error) = self.close(false) {
            tracing::error!(%error, "closing the database failed");
        }
    }
}

impl Core {
    fn create_collection(&self, name: &str, config: &CollectionConfig) -> Result<()> {
        self.create(|manifest, flushed| {
            let mut users = manifest.collections.iter().filter(|entry| !is_system(entry.id));
            let is_there = users.any(|entry| entry.name == name);
            let id = manifest.next_collection;
            (!is_there).then(|| CollectionEntry::new(id, name, config.clone(), flushed))
        })
    }

    /// Creates the system table in a database from before there was one.
    pub(crate) fn create_system_table(&self) -> Result<()> {
        self.create(|manifest, flushed| {
            let table = CollectionEntry { flushed, ..CollectionEntry::system() };
            manifest.collection(table.id).is_none().then_some(table)
        })
    }

    /// Adds a collection to the manifest: what `make` makes of that, and of the LSN up to which it has nothing.
    fn create(&self, make: impl FnOnce(&Manifest, Lsn) -> Option<CollectionEntry>) -> Result<()> {
        self.check_open()?;
        // With the commit leader's lock no record is between being numbered and being visible (rule R7).
        let mut no_commits = lock(&self.log);
        // A flushed LSN is never above what is durable, or a lost tail would look like damage (rule R4).
        let durable = self.sync_holding(&mut no_commits)?;
        if self.note_segment(&no_commits) {
            self.signals.segment_due(Duration::ZERO);
        }
        let mut root = lock(&self.root);
        let Some(entry) = make(&root.manifest, self.published.visible().min(durable)) else { return Ok(()) };
        self.publish(&mut root, durable, |manifest| {
            manifest.next_collection = manifest.next_collection.max(CollectionId(entry.id.0 + 1));
            manifest.collections.push(entry.clone());
        })?;
        let state = CollectionState::new(Tree::empty(entry));
        self.published.update(|current: &State| Some(current.with(state.clone())));
        self.bury(&mut root);
        Ok(())
    }

    fn drop_collection(&self, name: &str) -> Result<CollectionId> {
        let _no_flush = lock(&self.flushing);
        let no_commits = lock(&self.log);
        if let Some(error) = no_commits.wal.as_ref().ok_or(Error::Closed)?.poisoned() {
            return Err(error.clone().into());
        }
        let mut root = lock(&self.root);
        let state = self.published.state();
        let dropped = state.by_name(name).ok_or_else(|| Error::CollectionNotFound(name.to_owned()))?;
        let dropping = self.publish(&mut root, Lsn::ZERO, |manifest| {
            manifest.collections.retain(|entry| entry.id != dropped.id);
        });
        if let Err(error) = dropping {
            // The manifest without the collection may be on disk all the same: before anything more is
            // acknowledged, one with it has to be.
            self.unsettled.store(true, Ordering::Release);
            return Err(error);
        }
        for meta in dropped.tree.entry.files() {
            let held = dropped.tree.holder(meta).unwrap_or_else(|| Arc::new(()));
            root.graveyard.push(crate::core::Grave { meta: *meta, held });
        }
        self.published.update(|current: &State| {
            let mut next = current.clone();
            next.collections.remove(&dropped.id);
            Some(next)
        });
        let id = dropped.id;
        drop(state);
        self.bury(&mut root);
        Ok(id)
    }

    /// As [`Core::reach`], but for no longer than `timeout`: a sync that has begun goes on.
    fn wait_for_level(self: &Arc<Self>, level: Level, lsn: Lsn, timeout: Duration) -> Result<Lsn> {
        self.check_open()?;
        if timeout.is_zero() || !self.options.background {
            return self.reach(level, lsn, timeout);
        }
        let (done, reached) = mpsc::channel();
        let core = Arc::clone(self);
        let wait = move || drop(done.send(core.reach(level, lsn, timeout)));
        let spawned = std::thread::Builder::new().name("plimsoll-wait".to_owned()).spawn(wait);
        spawned.map_err(|error| StorageError::io("start a thread to wait for", "a level".as_ref(), error))?;
        reached.recv_timeout(timeout).unwrap_or(Err(Error::Timeout))
    }

    fn reach(self: &Arc<Self>, level: Level, lsn: Lsn, timeout: Duration) -> Result<Lsn> {
        let marks = self.watermarks();
        if lsn > marks.appended {
            return Err(Error::NotWritten { lsn, last: marks.appended });
        }
        let reached = |marks: Watermarks| match level {
            Level::Applied => marks.applied,
            Level::Durable => marks.durable,
            Level::Flushed => marks.flushed,
        };
        if reached(marks) >= lsn {
            return Ok(reached(marks));
        }
        if timeout.is_zero() {
            return Err(Error::Timeout);
        }
        match level {
            Level::Applied => {
                self.submit(Request::Appended, 0)?;
            }
            Level::Durable => {
                self.sync_up_to(lsn)?;
            }
            Level::Flushed => match self.submit_job(JobRequest::flush(), false)?.wait_for(timeout) {
                Err(Error::JobTimeout { .. }) => return Err(Error::Timeout),
                ended => drop(ended?),
            },
        }
        Ok(reached(self.watermarks()))
    }

    /// Changes when a collection's writes are flushed.
    pub(crate) fn set_flush_policy(&self, id: CollectionId, name: &str, policy: &FlushPolicy) -> Result<()> {
        policy.validate()?;
        // No flush may be between reading a tree and publishing what it made of it.
        let _no_flush = lock(&self.flushing);
        if let Some(error) = self.poisoned() {
            return Err(error);
        }
        let mut root = lock(&self.root);
        let change = |manifest: &mut Manifest| {
            if let Some(entry) = manifest.collection_mut(id) {
                entry.policy = policy.clone();
            }
        };
        let next = self.next_manifest(&root, Lsn::ZERO, change)?;
        let tree = self.open_tree(&next, id)?;
        if tree.is_none() {
            return Err(Error::CollectionNotFound(name.to_owned()));
        }
        self.publish_next(&mut root, next)?;
        self.install(id, tree, &[]);
        self.bury(&mut root);
        self.signals.look_at(self.now());
        Ok(())
    }

    /// Publishes what is in memory once more, after a publish whose outcome is unknown.
    pub(crate) fn settle(&self) -> Result<()> {
        let mut root = lock(&self.root);
        if self.unsettled.load(Ordering::Acquire) {
            self.publish(&mut root, Lsn::ZERO, |_| ())?;
            self.unsettled.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Closes the log, removes what can be removed, and gives the lock back.
    fn release(&self) -> Result<()> {
        // A caller's compaction or flush may still be under way in another thread: what it publishes is
        // published before the lock is given back, and nothing after.
        let _no_compaction = lock(&self.compacting);
        let _no_flush = lock(&self.flushing);
        let pointer = lock(&self.root).manifest.wal_pointer;
        let close = |mut wal: plimsoll_wal::Wal| {
            if let Err(error) = wal.shrink(pointer) {
                tracing::warn!(%error, "the log could not be shrunk");
            }
            wal.close()
        };
        let closed = {
            let mut log = lock(&self.log);
            // What becomes of buffered writes is counted; closing says how it ended.
            let synced = self.sync_holding(&mut log);
            let closed = log.wal.take().map_or(Ok(()), close);
            synced.and(closed.map_err(Into::into))
        };
        self.bury(&mut lock(&self.root));
        lock(&self.lock).take();
        closed
    }
}
