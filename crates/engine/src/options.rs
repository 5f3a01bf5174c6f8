//! How a database is opened and its collections are configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_base::Metric;
use plimsoll_base::clock::{Clock, SystemClock};
use plimsoll_base::storage::{OsStorage, Storage, Syncs};

use crate::error::{Error, Result};
use crate::model::limits::{MAX_DIMENSION, MAX_MEMTABLE_BYTES};

/// What a collection fixes when it is created.
///
/// ```
/// use plimsoll_engine::{CollectionConfig, Metric};
/// let config = CollectionConfig::new(384, Metric::Cosine);
/// assert_eq!(config.dimension, 384);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectionConfig {
    /// The number of components of every vector, 1 to 4,096.
    pub dimension: usize,
    /// How distance is measured.
    pub metric: Metric,
}

impl CollectionConfig {
    /// A collection of vectors of `dimension` components.
    pub const fn new(dimension: usize, metric: Metric) -> Self {
        Self { dimension, metric }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if (1..=MAX_DIMENSION).contains(&self.dimension) {
            return Ok(());
        }
        let message = format!("a dimension of {} is not between 1 and {MAX_DIMENSION}", self.dimension);
        Err(Error::InvalidArgument(message))
    }
}

/// When a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When it is on disk: after the sync of its group of commits.
    #[default]
    Durable,
    /// At once: it never waits for its sync, which begins after `buffer_delay` at the latest, or once `buffer_records`
    /// such writes have gathered. It is on disk when that sync is done, or when `sync` or `flush` returns. Until then
    /// a crash may lose it, whole; with it whatever else has gathered, and what gathered while the sync before ran.
    ///
    /// What is not on disk yet is at most `memtable_bytes`. On a disk that is slower than the writers they wait from
    /// there on, for at most `stall_deadline`. A write also waits where the log begins a new segment, and for
    /// [`Durable`](Self::Durable) writes that are being committed.
    Buffered,
}

/// The settings of an open database.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub path: PathBuf,
    pub create: bool,
    pub memtable_bytes: usize,
    pub bulk_load: bool,
    pub max_sealed: usize,
    pub stall_deadline: Duration,
    pub max_wal_bytes: u64,
    pub wal_segment_bytes: u64,
    pub buffer_delay: Duration,
    pub buffer_records: usize,
    pub background: bool,
    pub workers: usize,
    pub max_workers: usize,
    pub job_queue: usize,
    pub job_deadline: Duration,
    pub clock: Arc<dyn Clock>,
    pub mapped: bool,
    pub shard_rows: u32,
    pub seed: Option<u64>,
    pub storage: Arc<dyn Storage>,
}

impl Options {
    /// How the files of a flush are synced: without threads, so that a run repeats.
    pub(crate) const fn syncs(&self) -> Syncs {
        if self.background { Syncs::Together } else { Syncs::InOrder }
    }
}

/// Who waits longer waits for ever.
const LONGEST_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Opens a database with other settings than the defaults.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use plimsoll_engine::Database;
/// let db = Database::builder(dir.path().join("notes")).memtable_bytes(16 << 20).open()?;
/// db.close()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DatabaseBuilder {
    options: Options,
}

impl DatabaseBuilder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            options: Options {
                path: path.to_path_buf(),
                create: true,
                memtable_bytes: 64 << 20,
                max_sealed: 3,
                stall_deadline: Duration::from_secs(30),
                max_wal_bytes: 512 << 20,
                wal_segment_bytes: 64 << 20,
                buffer_delay: Duration::from_secs(1),
                buffer_records: 100,
                bulk_load: false,
                background: true,
                workers: 3,
                max_workers: 8,
                job_queue: 100,
                job_deadline: Duration::from_secs(30),
                clock: Arc::new(SystemClock),
                mapped: true,
                shard_rows: 65_536,
                seed: None,
                storage: Arc::new(OsStorage),
            },
        }
    }

    /// Whether a missing database is created (default), or is an
    /// [`Error::DatabaseNotFound`](crate::Error::DatabaseNotFound).
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.options.create = create;
        self
    }

    /// How many bytes of unflushed writes start a flush, over all collections; also how many bytes of
    /// [`Durability::Buffered`] writes may be in the log and not on disk. Default 64 MiB, at most 32 GiB.
    #[must_use]
    pub fn memtable_bytes(mut self, bytes: usize) -> Self {
        self.options.memtable_bytes = bytes;
        self
    }

    /// How many sealed memtables of a collection may wait for their flush before its writers wait. Default 3.
    #[must_use]
    pub fn max_sealed(mut self, memtables: usize) -> Self {
        self.options.max_sealed = memtables;
        self
    }

    /// How long a write waits for flushing, or a [`Durability::Buffered`] one for a sync, to catch up before it fails
    /// with [`Error::Stalled`](crate::Error::Stalled). Default 30 s.
    #[must_use]
    pub fn stall_deadline(mut self, deadline: Duration) -> Self {
        self.options.stall_deadline = deadline;
        self
    }

    /// How much may be logged before everything is flushed, so that the log can shrink. The log is at most
    /// about twice as large. Default 512 MiB.
    #[must_use]
    pub fn max_wal_bytes(mut self, bytes: u64) -> Self {
        self.options.max_wal_bytes = bytes;
        self
    }

    /// The size of a segment of the write-ahead log. Default 64 MiB.
    #[must_use]
    pub fn wal_segment_bytes(mut self, bytes: u64) -> Self {
        self.options.wal_segment_bytes = bytes;
        self
    }

    /// How long a [`Durability::Buffered`] write waits for others before a sync of them begins, or for the sync that
    /// is under way to end. Default 1 s. Without a background this has no effect.
    #[must_use]
    pub fn buffer_delay(mut self, delay: Duration) -> Self {
        self.options.buffer_delay = delay;
        self
    }

    /// Whether this is to store much at once (default: no): the limits of rows and bytes in flush policies are not
    /// looked at while the database is open, so that flushes are as large as memory and log allow, and each row is moved
    /// less often. Nothing else changes.
    #[must_use]
    pub fn bulk_load(mut self, bulk_load: bool) -> Self {
        self.options.bulk_load = bulk_load;
        self
    }

    /// How many [`Durability::Buffered`] writes gather before a sync of them begins, if none is under way. Default
    /// 100. Without a background the last of them does that sync.
    #[must_use]
    pub fn buffer_records(mut self, records: usize) -> Self {
        self.options.buffer_records = records;
        self
    }

    /// Whether threads of the database flush and compact (default). Without them the write that makes a
    /// flush due does it, and compaction happens only in `compact`; runs are then repeatable.
    #[must_use]
    pub fn background(mut self, background: bool) -> Self {
        self.options.background = background;
        self
    }

    /// How many jobs are done at a time, usually. Default 3.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.workers = workers;
        self
    }

    /// How many jobs are done at a time at most: more workers than usual are started while jobs wait that could be
    /// done, and leave when they have been idle for ten seconds. Default 8.
    #[must_use]
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.options.max_workers = workers;
        self
    }

    /// How many jobs may wait for their turn. Who submits one more waits for a place, up to
    /// [`DatabaseBuilder::job_deadline`]. Default 100.
    #[must_use]
    pub fn job_queue(mut self, jobs: usize) -> Self {
        self.options.job_queue = jobs;
        self
    }

    /// How long a caller waits for a flush, and for a place in a full queue of jobs. What times out is the waiting, never
    /// the job. Default 30 s.
    #[must_use]
    pub fn job_deadline(mut self, deadline: Duration) -> Self {
        self.options.job_deadline = deadline;
        self
    }

    /// Where the time is taken from, for the ages of writes and the times of jobs. Default: the operating system.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.options.clock = clock;
        self
    }

    /// Whether sealed files are mapped into memory (default), or read into memory of the process when they
    /// are first needed: then read errors of the disk are typed errors instead of a signal, which also suits
    /// network file systems.
    #[must_use]
    pub fn mapped(mut self, mapped: bool) -> Self {
        self.options.mapped = mapped;
        self
    }

    /// How many rows a shard holds at most when the index is trained. Default 65,536.
    #[must_use]
    pub fn shard_rows(mut self, rows: u32) -> Self {
        self.options.shard_rows = rows;
        self
    }

    /// Makes the database draw its random numbers (identity, log salts, training samples) from `seed`, so
    /// that a simulated run repeats. For tests only: two databases must not have the same identity.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = Some(seed);
        self
    }

    /// Where files live. Default: the operating system's file system.
    #[must_use]
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.options.storage = storage;
        self
    }

    pub(crate) fn into_options(self) -> Result<Options> {
        let options = self.options;
        let refuse = |what: &str| Err(Error::InvalidArgument(what.to_owned()));
        match () {
            () if options.memtable_bytes == 0 => refuse("memtable_bytes must be at least 1"),
            () if options.memtable_bytes as u64 > MAX_MEMTABLE_BYTES => {
                refuse("memtable_bytes must be at most 32 GiB")
            }
            () if options.max_sealed == 0 => refuse("max_sealed must be at least 1"),
            () if options.wal_segment_bytes < 4096 => refuse("wal_segment_bytes must be at least 4,096"),
            () if options.buffer_records == 0 => refuse("buffer_records must be at least 1"),
            () if options.workers == 0 => refuse("workers must be at least 1"),
            () if options.max_workers < options.workers => {
                refuse("max_workers must be at least as many as workers")
            }
            () if options.max_workers > 1024 => refuse("max_workers must be at most 1,024"),
            () if options.job_queue == 0 => refuse("job_queue must be at least 1"),
            () if options.job_deadline.is_zero() => refuse("job_deadline must not be zero"),
            () if options.job_deadline > LONGEST_DEADLINE => refuse("job_deadline must be at most a day"),
            () if options.shard_rows == 0 => refuse("shard_rows must be at least 1"),
            () => Ok(options),
        }
    }
}
