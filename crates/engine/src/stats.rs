//! What the database measures about itself.

use std::fmt;
use std::time::{Duration, Instant};

use plimsoll_base::storage::IoStats;
use plimsoll_base::{Generation, Lsn, Metric};

/// Why a flush happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum FlushReason {
    /// Someone called `flush`.
    #[default]
    Manual,
    /// The memtables held more than `memtable_bytes`.
    MemtableSize,
    /// The write-ahead log held more than `max_wal_bytes`.
    WalSize,
    /// The log replayed at opening was larger than the memtable budget.
    Recovery,
    /// The database was closed.
    Close,
}

impl fmt::Display for FlushReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Manual => "manual",
            Self::MemtableSize => "memtable size",
            Self::WalSize => "WAL size",
            Self::Recovery => "recovery",
            Self::Close => "close",
        })
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
    /// Syncing every file and the directory.
    pub file_sync: Duration,
    /// Writing, syncing and renaming the manifest.
    pub manifest_publish: Duration,
    /// Advancing the log's pointer and deleting whole segments below it.
    pub wal_advance: Duration,
    /// Checking what was written against what was meant.
    pub validation: Duration,
    /// All of it.
    pub total: Duration,
    /// Shards that received rows.
    pub shards_touched: usize,
    /// Files that were synced, the manifest too; directories are not counted.
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

/// Measures one phase: runs `work` and adds its time to `phase`, also when it fails.
pub(crate) fn timed<T>(phase: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *phase += start.elapsed();
    result
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
    /// Every record up to here is in files that the manifest names.
    pub flushed: Lsn,
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
    /// Flushes that succeeded since opening, by anyone.
    pub flushes: u64,
    /// Flushes that failed since opening.
    pub failed_flushes: u64,
    /// The last flush that wrote something.
    pub last_flush: Option<FlushStats>,
    /// Compactions that did something since opening.
    pub compactions: u64,
    /// Compactions that failed since opening.
    pub failed_compactions: u64,
    /// Writes that had to wait for flushing to catch up, or for room in the buffer, since opening.
    pub stalls: u64,
    /// The time these writes waited, in all.
    pub stalled: Duration,
    /// The last failure of background work, until it succeeds again.
    pub background_error: Option<String>,
}
