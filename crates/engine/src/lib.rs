//! The storage engine: what joins the log, the sealed files and the index into a database.
//!
//! The modules read as the life of a write: [`batch`](WriteBatch) → `record` → `commit` → `memtable` →
//! `flush` → `manifest` → `compact`; then `recover`, `query` and `check`. `state` is what readers see, `core`
//! what all threads of an open database share.
//!
//! **Owns** the meaning of log records, the manifest, and every decision about order and durability. **Must
//! not know** a command line, a network or a terminal. **On a crash** everything acknowledged is there when the
//! database is opened again, an unacknowledged batch as a whole or not at all, and nothing else.
//!
//! Use it through the crate `plimsoll`, which is this crate's public face.

#![forbid(unsafe_code)]

mod append_list;
mod background;
mod backup;
mod batch;
mod buffer;
mod calibration;
mod check;
mod codebook;
mod collection;
mod commit;
mod compact;
mod core;
mod database;
mod documents;
mod error;
mod filter;
mod flush;
mod jobs;
mod lanes;
mod manifest;
mod memtable;
mod metrics;
mod model;
mod options;
mod order;
mod policy;
mod properties;
mod query;
mod read_only;
mod record;
mod recover;
mod repair;
mod report;
mod reserve;
mod router;
mod rows;
#[cfg(all(test, shuttle))]
mod schedules;
mod source;
mod state;
mod stats;
mod system;
mod tree;
mod unnamed;

pub use backup::BackupStats;
pub use batch::WriteBatch;
pub use calibration::{CalibratedRecall, Calibration, Delivered};
pub use check::{
    Dump, Finding, Severity, VerifyProgress, VerifyReport, dump, dump_in, verify, verify_in, verify_with,
};
pub use collection::Collection;
pub use database::Database;
pub use error::{Error, Result};
pub use filter::{Field, Filter, FilterError};
pub use jobs::{
    Circuit, JobEvent, JobEventKind, JobHandle, JobId, JobKind, JobOutcome, JobPriority, JobRecord,
    JobRequest, JobState, JobTarget, Subscription,
};
pub use metrics::{Statistic, StatisticValue};
pub use model::{Document, Key, Metadata, Posting, Value, limits};
pub use options::{CollectionConfig, DatabaseBuilder, Durability};
pub use plimsoll_base::clock::{Clock, SystemClock};
pub use plimsoll_base::storage::IoStats;
pub use plimsoll_base::{Generation, Lsn, Metric, StorageError};
pub use policy::{AdaptiveInterval, FlushPolicy};
pub use properties::MAX_PROPERTY_BYTES;
pub use query::{
    Cancel, Dedup, Documents, Effort, Explain, Hit, Keys, Preloaded, ReadOnlyCollection, Search,
    SearchResults, Snapshot, Stages,
};
pub use read_only::ReadOnlyDatabase;
pub use repair::{CollectionRepair, LogRepair, RepairReport, repair, repair_in, salvage, salvage_in};
pub use source::{
    DeadLetter, FailureClass, Source, SourceBuilder, SourceCounts, SourceError, SourceStatus, Step,
};
pub use stats::{
    BufferStats, CollectionStats, CompactionStats, FlushReason, FlushStats, FlushTotals, Histogram, JobStats,
    Level, LogStats, RecoveryStats, StallStats, Stats, Watermarks,
};

/// Where files live: the one seam for all input and output.
pub mod storage {
    pub use plimsoll_base::storage::{
        DirEntry, IoStats, Lock, Map, MeteredStorage, OsStorage, ReadFile, Storage, SyncFile, WriteFile,
    };
}
