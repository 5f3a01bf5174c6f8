//! Everything a call into the database can answer instead of a result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_base::{Lsn, Metric, StorageError};
use plimsoll_wal::WalError;

use crate::filter::FilterError;
use crate::jobs::{JobId, JobKind, JobState};
use crate::model::Key;
use crate::source::SourceError;

/// The result of a call into the database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call into the database gave no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A vector has another dimension than its collection.
    #[error("the vector has {got} dimensions, the collection has {expected}")]
    DimensionMismatch {
        /// The collection's dimension.
        expected: usize,
        /// The vector's.
        got: usize,
    },
    /// A batch holds something that may not be stored; nothing of the batch was.
    #[error("operation {operation} (key {key:#}): {problem}")]
    InvalidDocument {
        /// The operation's index in its batch, from 0.
        operation: usize,
        /// The document's key.
        key: Key,
        /// What is wrong with it.
        problem: String,
    },
    /// A query among several can not be searched for; nothing was done.
    #[error("query {query}: {problem}")]
    InvalidQuery {
        /// Its place among them, from 0.
        query: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An argument is outside what is allowed.
    #[error("{0}")]
    InvalidArgument(String),
    /// A batch's log record would be larger than a batch may be.
    #[error("the batch has {bytes} bytes; at most {limit} are allowed")]
    BatchTooLarge {
        /// The batch's size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A calibration of a collection that has no index yet, or no rows in files any more: it is searched exactly, and
    /// there is nothing to calibrate. A compaction makes an index of 4,096 rows or more.
    #[error(
        "the collection {collection:?}, with {rows} flushed rows, has no index: it is searched exactly, and there is \
         nothing to calibrate (a compaction makes an index of 4,096 rows or more)"
    )]
    NotIndexed {
        /// The collection's name.
        collection: String,
        /// How many rows it has in files.
        rows: u64,
    },
    /// There is no collection of that name (any more).
    #[error("there is no collection {0:?}")]
    CollectionNotFound(String),
    /// A collection of that name exists with another dimension, metric or model.
    #[error("the collection {name:?} exists with {existing}; {wanted} was asked for")]
    SchemaMismatch {
        /// The collection's name.
        name: String,
        /// How it was created.
        existing: String,
        /// What was asked for.
        wanted: String,
    },
    /// `insert` found the document there already; nothing of the batch was stored.
    #[error("a document with the key {0:#} exists already")]
    AlreadyExists(Key),
    /// The document was changed by someone else between reading and writing it; nothing was stored.
    #[error("the document with the key {0:#} was changed meanwhile")]
    Changed(Key),
    /// There is no document with this key.
    #[error("there is no document with the key {0:#}")]
    DocumentNotFound(Key),
    /// Two different keys have the same 128-bit identity.
    #[error("the keys {stored:#} and {given:#} have the same identity; one of them has to be renamed")]
    IdCollision {
        /// The key that is stored.
        stored: Key,
        /// The key that was given.
        given: Key,
    },
    /// The directory does not exist.
    #[error("{}: there is no such database", .0.display())]
    DatabaseNotFound(PathBuf),
    /// The directory exists and holds something else.
    #[error("{} is not a Plimsoll database: {what}", path.display())]
    NotADatabase {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        what: String,
    },
    /// A sync failed, so the outcome of the writes that waited for it is unknown. Writes are refused, reads go
    /// on, nothing more is published; opening the database again decides what is there.
    #[error("writes are refused since a sync failed: {cause}; reopen the database to go on")]
    Poisoned {
        /// The failure.
        cause: String,
        /// The first and last LSN whose outcome is unknown, when any was pending.
        lost: Option<(Lsn, Lsn)>,
    },
    /// Writers were held back because flushing, or syncing the log, could not keep up, until the deadline passed.
    /// Nothing of the batch was stored.
    #[error("writes are stalled: {0}")]
    Stalled(String),
    /// Flushes keep failing: new writes and flushes are refused until one succeeds, which is tried by itself. What was
    /// accepted before is in the log and in memory.
    #[error(
        "flushes keep failing, the last one for: {cause}; writes are taken again when one succeeds, which is tried in {retry_in:?}"
    )]
    CircuitOpen {
        /// Why the last flush failed.
        cause: String,
        /// After how long the next one is tried.
        retry_in: Duration,
    },
    /// There was no place for a job in the queue until the deadline passed. Nothing was submitted.
    #[error("{queued} jobs wait for their turn, and no place became free within {waited:?}")]
    QueueFull {
        /// How many jobs wait.
        queued: usize,
        /// How long a place was waited for.
        waited: Duration,
    },
    /// A job had not ended when the time to wait for it was over. It goes on.
    #[error("job {job} ({kind}) has not ended within {waited:?}; it goes on")]
    JobTimeout {
        /// The job.
        job: JobId,
        /// What it does.
        kind: JobKind,
        /// How long it was waited for.
        waited: Duration,
    },
    /// There is no job of that id, or its record is too old to be kept.
    #[error("there is no job {0}")]
    JobNotFound(JobId),
    /// A job's state does not allow what was asked for.
    #[error("job {job} is {state}")]
    JobFinished {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
    },
    /// A log record was waited for that has not been written.
    #[error("LSN {lsn} has not been written: the last one is {last}")]
    NotWritten {
        /// The one that was waited for.
        lsn: Lsn,
        /// The last one.
        last: Lsn,
    },
    /// The time was over: of a search ([`Search::timeout`](crate::Search::timeout)), or to wait for a level.
    #[error("the time was over before it was done")]
    Timeout,
    /// A search was ended by its [`Cancel`](crate::Cancel), or a job was cancelled.
    #[error("it was cancelled before it was done")]
    Cancelled,
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
    /// Background work failed; the cause is repeated here to every call that waited for it.
    #[error("{job} failed: {cause}")]
    Background {
        /// The work, such as `"flush"`.
        job: &'static str,
        /// Why it failed.
        cause: Arc<Error>,
    },
    /// A source did not do what it was asked for. Nothing was stored.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A filter that is no filter, or does not fit its collection.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Disk: damage, a newer format, a held lock, or the operating system's refusal.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Error {
    /// Whether the same call may succeed later without anyone changing the data or the call.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Stalled(_) | Self::Changed(_) | Self::Timeout => true,
            Self::CircuitOpen { .. } | Self::QueueFull { .. } | Self::JobTimeout { .. } => true,
            Self::Storage(error) => error.is_retryable(),
            Self::Background { cause, .. } => cause.is_retryable(),
            _ => false,
        }
    }

    /// Whether bytes on disk are not what was written there.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Storage(error) => matches!(error, StorageError::Corrupted { .. }),
            Self::Background { cause, .. } => cause.is_corruption(),
            _ => false,
        }
    }

    pub(crate) fn schema_mismatch(name: &str, existing: (usize, Metric), wanted: (usize, Metric)) -> Self {
        let say =
            |(dimension, metric): (usize, Metric)| format!("{dimension} dimensions and metric {metric}");
        Self::SchemaMismatch { name: name.to_owned(), existing: say(existing), wanted: say(wanted) }
    }
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Storage(error) => Self::Storage(error),
            WalError::Poisoned { cause, lost } => {
                let lost = (!lost.is_empty()).then_some((lost.first, lost.last));
                Self::Poisoned { cause: cause.to_string(), lost }
            }
            other => Self::Background {
                job: "write-ahead log",
                cause: Arc::new(Self::InvalidArgument(other.to_string())),
            },
        }
    }
}
