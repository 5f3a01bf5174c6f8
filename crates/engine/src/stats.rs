//! What the database measures about itself.

use std::fmt;
use std::time::Duration;

use plimsoll_base::storage::IoStats;
use plimsoll_base::{Generation, Lsn, Metric};

use crate::jobs::Circuit;
use crate::policy::FlushPolicy;

/// Why a flush happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum FlushReason {
    /// Someone called `flush`.
    #[default]
    Manual,
    /// A collection had `max_rows` unflushed rows.
    Rows,
    /// A collection had `max_bytes` unflushed bytes.
    Bytes,
    /// A collection's oldest unflushed write had the age that its policy allows.
    Age,
    /// Nobody had written to a collection for `max_idle`.
    Idle,
    /// The memtables held more than `memtable_bytes`.
    MemtableSize,
    /// The write-ahead log held more than `max_wal_bytes`.
    WalSize,
    /// What follows needs everything in files: a backup.
    Checkpoint,
    /// Flushes kept failing, and one was tried.
    Probe,
    /// The log replayed at opening was larger than the memtable budget.
    Recovery,
    /// The database was closed.
    Close,
}

impl FlushReason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Manual,
        Self::Rows,
        Self::Bytes,
        Self::Age,
        Self::Idle,
        Self::MemtableSize,
        Self::WalSize,
        Self::Checkpoint,
        Self::Probe,
        Self::Recovery,
        Self::Close,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::MemtableSize => "memtable size",
            Self::WalSize => "WAL size",
            Self::Checkpoint => "checkpoint",
            Self::Probe => "probe",
            Self::Recovery => "recovery",
            Self::Close => "close",
        }
    }

    /// The one of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for FlushReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What one flush did, and how long each of its phases took.
///
/// The phases are those of the write path, in order: the log is drained up to the seal, its operations are
/// applied to shards, every file is synced, a manifest is published, the log's pointer advances, and the
/// result is validated.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FlushStats {
    /// Waiting until the log is durable up to the seal, and collecting the sealed batches.
    pub wal_drain: Duration,
    /// Resolving ids, assigning rows to lists, and writing the delta files.
    pub shard_apply: Duration,
    /// Syncing every file, which then gets its name.
    pub file_sync: Duration,
    /// Writing and syncing the manifest, and the directory of the files beside it; then renaming it, durably.
    pub manifest_publish: Duration,
    /// Advancing the log's pointer and deleting whole segments below it.
    pub wal_advance: Duration,
    /// Checking what was written against what was meant.
    pub validation: Duration,
    /// All of it.
    pub total: Duration,
    /// Collections that had something to flush.
    pub collections: usize,
    /// Shards that received rows.
    pub shards_touched: usize,
    /// Files that were synced, the manifest and those of records of jobs too; directories are not counted.
    pub files_synced: usize,
    /// Upserts and deletes that were applied.
    pub operations_applied: u64,
    /// Vector rows written.
    pub rows: u64,
    /// Earlier versions of documents that were replaced or deleted.
    pub killed: u64,
    /// Bytes of the files written.
    pub bytes_written: u64,
    /// The first log record applied; [`Lsn::ZERO`] if there was nothing to flush.
    pub first_lsn: Lsn,
    /// The last log record applied.
    pub last_lsn: Lsn,
    /// Why it happened.
    pub reason: FlushReason,
}

impl FlushStats {
    /// The phases with their names, in order.
    pub fn phases(&self) -> [(&'static str, Duration); 6] {
        [
            ("wal_drain", self.wal_drain),
            ("shard_apply", self.shard_apply),
            ("file_sync", self.file_sync),
            ("manifest_publish", self.manifest_publish),
            ("wal_advance", self.wal_advance),
            ("validation", self.validation),
        ]
    }

    /// The phase that took longest.
    pub fn slowest_phase(&self) -> (&'static str, Duration) {
        self.phases().into_iter().max_by_key(|(_, took)| *took).unwrap_or_default()
    }

    /// Operations applied per second of the whole flush.
    pub fn operations_per_second(&self) -> f64 {
        per_second(self.operations_applied as f64, self.total)
    }

    /// Megabytes (10⁶ bytes) written per second of the whole flush.
    pub fn megabytes_per_second(&self) -> f64 {
        per_second(self.bytes_written as f64 / 1e6, self.total)
    }

    /// Whether there was nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.operations_applied == 0
    }

    /// Adds what a further flush of the same call did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.wal_drain += other.wal_drain;
        self.shard_apply += other.shard_apply;
        self.file_sync += other.file_sync;
        self.manifest_publish += other.manifest_publish;
        self.wal_advance += other.wal_advance;
        self.validation += other.validation;
        self.total += other.total;
        self.collections = self.collections.max(other.collections);
        self.shards_touched = self.shards_touched.max(other.shards_touched);
        self.files_synced += other.files_synced;
        self.operations_applied += other.operations_applied;
        self.rows += other.rows;
        self.killed += other.killed;
        self.bytes_written += other.bytes_written;
        if self.first_lsn == Lsn::ZERO {
            self.first_lsn = other.first_lsn;
        }
        self.last_lsn = self.last_lsn.max(other.last_lsn);
    }
}

fn per_second(amount: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { amount / time.as_secs_f64() }
}

impl fmt::Display for FlushStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing to flush ({})", self.reason);
        }
        writeln!(
            f,
            "flushed {} operations ({} rows, {} killed) of LSN {} to {}, {}",
            self.operations_applied, self.rows, self.killed, self.first_lsn, self.last_lsn, self.reason
        )?;
        for (name, took) in self.phases() {
            writeln!(f, "  {name:<17}{:>10.3} ms", took.as_secs_f64() * 1e3)?;
        }
        writeln!(f, "  {:<17}{:>10.3} ms", "total", self.total.as_secs_f64() * 1e3)?;
        write!(
            f,
            "  {} shards, {} files synced, {:.1} MB, {:.0} operations/s, {:.1} MB/s, slowest: {}",
            self.shards_touched,
            self.files_synced,
            self.bytes_written as f64 / 1e6,
            self.operations_per_second(),
            self.megabytes_per_second(),
            self.slowest_phase().0
        )
    }
}

/// How long something took, in how many cases: each bucket holds those of up to twice the time of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub total: Duration,
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// How many took less than 2 µs, 4 µs, 8 µs ... each counted in the first bucket that holds it; the last one, from
    /// 18 minutes on, holds all longer ones.
    pub buckets: [u64; 31],
}

impl Histogram {
    /// The arithmetic mean; zero of none.
    pub fn average(&self) -> Duration {
        match u32::try_from(self.count) {
            Ok(0) => Duration::ZERO,
            Ok(count) => self.total / count,
            Err(_) => Duration::from_secs_f64(self.total.as_secs_f64() / self.count as f64),
        }
    }

    /// The time below which the buckets of a bucket's number end.
    pub const fn upper_bound(bucket: usize) -> Duration {
        Duration::from_micros(2 << bucket)
    }

    /// Adds one case.
    pub(crate) fn add(&mut self, time: Duration) {
        self.min = if self.count == 0 { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        self.count += 1;
        self.total += time;
        let bucket = (0..self.buckets.len() - 1).find(|bucket| time < Self::upper_bound(*bucket));
        self.buckets[bucket.unwrap_or(self.buckets.len() - 1)] += 1;
    }
}

/// The times of all flushes that had something to do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FlushTimes {
    phases: [Histogram; 6],
    total: Histogram,
    rows: u64,
    bytes: u64,
}

impl FlushTimes {
    pub(crate) fn add(&mut self, stats: &FlushStats) {
        for (histogram, (_, took)) in self.phases.iter_mut().zip(stats.phases()) {
            histogram.add(took);
        }
        self.total.add(stats.total);
        self.rows += stats.rows;
        self.bytes += stats.bytes_written;
    }

    pub(crate) fn totals(&self, failed: u64, timed_out: u64) -> FlushTotals {
        let names = FlushStats::default().phases();
        let phases = names.iter().zip(self.phases).map(|((name, _), histogram)| (*name, histogram)).collect();
        FlushTotals {
            total: self.total.count + failed,
            successful: self.total.count,
            failed,
            timed_out,
            rows: self.rows,
            bytes: self.bytes,
            times: self.total,
            phases,
        }
    }
}

/// All flushes since opening that had something to do.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FlushTotals {
    /// Attempts: the successful and the failed ones.
    pub total: u64,
    /// Those that succeeded.
    pub successful: u64,
    /// Those that failed. What they were to flush was flushed later, or is in the log.
    pub failed: u64,
    /// How often the time to wait for a flush was over before it ended.
    pub timed_out: u64,
    /// Vector rows written by the successful ones.
    pub rows: u64,
    /// Bytes written by the successful ones.
    pub bytes: u64,
    /// How long the successful ones took.
    pub times: Histogram,
    /// How long their phases took, by name and in order.
    pub phases: Vec<(&'static str, Histogram)>,
}

/// The jobs of an open database in numbers.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JobStats {
    /// Jobs that wait for their turn or their next attempt.
    pub queued: usize,
    /// Jobs that are under way.
    pub running: usize,
    /// Threads that do jobs.
    pub workers: usize,
    /// Jobs submitted since opening.
    pub submitted: u64,
    /// Requests that were answered by a job that was there already.
    pub joined: u64,
    /// Attempts that failed and were followed by another one.
    pub retried: u64,
    /// Requests refused because the queue stayed full.
    pub refused: u64,
    /// Requests that waited for a place in the queue.
    pub waits: u64,
    /// How long these waited, in all.
    pub waited: Duration,
    /// Changes of jobs of which no record could be kept.
    pub unrecorded: u64,
    /// Events that listeners were too slow for.
    pub events_missed: u64,
    /// Whether writes and flushes are taken.
    pub circuit: Circuit,
    /// How often they were refused for a while.
    pub circuit_opened: u64,
}

/// Writers that were held back because flushes could not keep up, since opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StallStats {
    /// Writes that were slowed down to the rate of flushes.
    pub slowed: u64,
    /// By how much, in all.
    pub slowed_time: Duration,
    /// Writes that had to wait until a flush had ended.
    pub stopped: u64,
    /// How long these waited, in all.
    pub stopped_time: Duration,
}

/// What one compaction did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Posting files merged into larger ones.
    pub postings_merged: usize,
    /// Vector sections merged into base sections.
    pub sections_merged: usize,
    /// Vector rows written.
    pub rows: u64,
    /// Killed documents whose space was returned.
    pub documents_dropped: u64,
    /// Bytes of the files written.
    pub bytes_written: u64,
    /// The index generation after it, per collection that was trained anew.
    pub trained: Vec<(String, Generation)>,
    /// How long it took.
    pub total: Duration,
}

impl CompactionStats {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.postings_merged == 0 && self.sections_merged == 0 && self.trained.is_empty()
    }

    /// Adds what a further round did.
    pub(crate) fn add(&mut self, other: Self) {
        self.postings_merged += other.postings_merged;
        self.sections_merged += other.sections_merged;
        self.rows += other.rows;
        self.documents_dropped += other.documents_dropped;
        self.bytes_written += other.bytes_written;
        self.trained.extend(other.trained);
        self.total += other.total;
    }
}

impl fmt::Display for CompactionStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "merged {} posting files and {} vector sections ({} rows, {} documents dropped, {:.1} MB written) in {:.3} s",
            self.postings_merged,
            self.sections_merged,
            self.rows,
            self.documents_dropped,
            self.bytes_written as f64 / 1e6,
            self.total.as_secs_f64()
        )?;
        for (collection, generation) in &self.trained {
            write!(f, "; trained generation {generation} of {collection}")?;
        }
        Ok(())
    }
}

/// How far the log has come: `appended ≥ durable ≥ flushed` and `appended ≥ applied ≥ flushed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watermarks {
    /// The last record written to the log.
    pub appended: Lsn,
    /// The last record known to be on disk.
    pub durable: Lsn,
    /// The last record that searches see.
    pub applied: Lsn,
    /// Every write up to here is in files that the manifest names. Records of jobs, which are written to the log
    /// meanwhile, do not hold it up.
    pub flushed: Lsn,
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Searches see it.
    Applied,
    /// It is on disk, in the log.
    Durable,
    /// It is in files that the manifest names.
    Flushed,
}

/// One collection in numbers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CollectionStats {
    /// Its name.
    pub name: String,
    /// The dimension of its vectors.
    pub dimension: usize,
    /// Its metric.
    pub metric: Metric,
    /// Live documents in sealed files; those only in memory are not counted.
    pub flushed_documents: u64,
    /// Vector rows in sealed files, killed ones too.
    pub flushed_rows: u64,
    /// Documents in sealed files that are killed and not compacted away yet.
    pub killed: u64,
    /// Vector rows in memory.
    pub memtable_rows: u64,
    /// Bytes in memory.
    pub memtable_bytes: u64,
    /// Memtables that wait for their flush.
    pub sealed_memtables: usize,
    /// When its writes are flushed.
    pub flush_policy: FlushPolicy,
    /// How old a write may become before it is flushed: `max_age`, or what the adaptive interval is now.
    pub flush_interval: Option<Duration>,
    /// Posting files.
    pub posting_files: usize,
    /// Vector segments.
    pub vector_segments: usize,
    /// Live sections of vector segments.
    pub vector_sections: usize,
    /// The newest index generation; 0 while the collection is searched exactly.
    pub generation: Generation,
    /// Lists of that generation.
    pub lists: u32,
    /// Shards of that generation.
    pub shards: u32,
    /// Queries that the index is calibrated on; 0 if it is on the collection's own rows, or if its file is damaged.
    pub calibration_queries: usize,
    /// Bytes of its sealed files.
    pub disk_bytes: u64,
}

/// The write-ahead log in numbers.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct LogStats {
    /// Segments of the log on disk.
    pub segments: u64,
    /// The bytes of these segments, preallocated space included.
    pub disk_bytes: u64,
    /// Bytes appended since opening.
    pub bytes_appended: u64,
    /// Batches written since opening.
    pub batches: u64,
    /// Syncs since opening.
    pub syncs: u64,
    /// Commit groups since opening.
    pub groups: u64,
}

/// What became of [`Durability::Buffered`](crate::Durability::Buffered) writes since opening, each batch counted once:
/// `buffered` is at all times `flushed + errors + buffer_size`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferStats {
    /// Those that were accepted.
    pub buffered: u64,
    /// Those of them that a sync has made durable.
    pub flushed: u64,
    /// Syncs that made some durable.
    pub batches: u64,
    /// Those whose sync failed: whether they are on disk, the next opening says.
    pub errors: u64,
    /// Those that are not durable yet.
    pub buffer_size: u64,
}

/// What opening the database took.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RecoveryStats {
    /// Records replayed from the log.
    pub records: u64,
    /// The bytes of these records.
    pub wal_bytes: u64,
    /// How long the replay took.
    pub replay: Duration,
    /// Files removed that no manifest names.
    pub orphans_removed: usize,
    /// How long opening took in all.
    pub total: Duration,
}

/// The database in numbers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
    /// How far the log has come.
    pub lsn: Watermarks,
    /// The collections, by name.
    pub collections: Vec<CollectionStats>,
    /// The write-ahead log.
    pub wal: LogStats,
    /// Buffered writes.
    pub buffer: BufferStats,
    /// Everything that went to and came from the disk since opening.
    pub io: IoStats,
    /// What opening took.
    pub recovery: RecoveryStats,
    /// The flushes since opening.
    pub flushes: FlushTotals,
    /// The jobs.
    pub jobs: JobStats,
    /// The last flush that wrote something.
    pub last_flush: Option<FlushStats>,
    /// Steps of compactions that did something since opening: each merges files of one kind, or trains an index.
    pub compactions: u64,
    /// Steps of compactions that failed since opening.
    pub failed_compactions: u64,
    /// Writers that were held back.
    pub stalls: StallStats,
    /// The last failure of background work, until it succeeds again.
    pub background_error: Option<String>,
}
