//! What can be said about a job.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use plimsoll_base::Lsn;

use crate::backup::BackupStats;
use crate::check::VerifyReport;
use crate::stats::{CompactionStats, FlushReason, FlushStats};

/// What a job is called by. Ids of one database count up from 1 and are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An enum whose values have names, by which they are printed and stored.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$value_doc:meta])* $value:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $type {
            $($(#[$value_doc])* $value,)*
        }

        impl $type {
            /// All of them, in their order.
            pub const ALL: &[Self] = &[$(Self::$value),*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }

            /// The one of that name.
            pub(crate) fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// What a job does.
    JobKind {
        /// Moves unflushed writes from the log to sealed files.
        Flush = "flush",
        /// Merges files and drops what was replaced or deleted.
        Compaction = "compaction",
        /// Reads and checks every file.
        Verify = "verify",
        /// Copies the database to another directory.
        Backup = "backup",
    }
}

named! {
    /// Which job goes first. Jobs of one priority are done in the order of their submission, and one that waits rises
    /// by a priority every ten seconds, as far as `high`.
    JobPriority {
        /// When there is nothing else to do.
        Low = "low",
        /// What limits of size ask for.
        Normal = "normal",
        /// What someone waits for.
        High = "high",
        /// Closing.
        Critical = "critical",
    }
}

named! {
    /// What has become of a job.
    JobState {
        /// It waits for its turn.
        Queued = "queued",
        /// It is under way.
        Running = "running",
        /// An attempt failed, and another one will be made.
        Retrying = "retrying",
        /// It is done.
        Completed = "completed",
        /// It failed for good. What it was to do is none the worse for it.
        Failed = "failed",
        /// Someone cancelled it, or the database was closed before its turn came.
        Cancelled = "cancelled",
        /// There was nothing to do.
        Skipped = "skipped",
    }
}

impl JobState {
    /// Whether nothing more will happen to the job.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Skipped)
    }
}

/// What a job is about. At most one job of a kind is under way for a target, and at most one more waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobTarget {
    /// The whole database.
    Database,
    /// The collection of that name.
    Collection(String),
    /// A directory elsewhere.
    Directory(PathBuf),
}

impl fmt::Display for JobTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.pad("the database"),
            Self::Collection(name) => f.pad(name),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// What a job that is done has to tell.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum JobOutcome {
    /// What each phase of the flush took. Boxed: a result of a job is passed about.
    Flush(Box<FlushStats>),
    /// What the compaction did.
    Compaction(CompactionStats),
    /// What the check found.
    Verify(VerifyReport),
    /// What was copied.
    Backup(BackupStats),
    /// It is known that it is done, not what it did: the process that did it is gone.
    Unknown,
}

impl JobOutcome {
    /// Whether there was nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Flush(stats) => stats.is_empty(),
            Self::Compaction(stats) => stats.is_empty(),
            Self::Verify(_) | Self::Backup(_) | Self::Unknown => false,
        }
    }
}

impl fmt::Display for JobOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flush(stats) => stats.fmt(f),
            Self::Compaction(stats) => stats.fmt(f),
            Self::Verify(report) => {
                let VerifyReport { files, findings, .. } = report;
                write!(f, "checked {files} files: {} findings", findings.len())
            }
            Self::Backup(stats) => stats.fmt(f),
            Self::Unknown => f.write_str("done by a process that is gone"),
        }
    }
}

/// What is known about a job: what its durable record says, if it has one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// What it is about.
    pub target: JobTarget,
    /// What has become of it.
    pub state: JobState,
    /// Which job goes first.
    pub priority: JobPriority,
    /// Why a flush was asked for.
    pub reason: Option<FlushReason>,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was submitted.
    pub queued_at: SystemTime,
    /// When its last attempt began.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
    /// The first and last log record that a flush has moved.
    pub lsns: Option<(Lsn, Lsn)>,
    /// What it did, once it is completed. A record keeps this of flushes; of other jobs [`JobRecord::summary`].
    pub outcome: Option<JobOutcome>,
    /// What it did or found, in a line; of a flush that a crash cut off, that it was found done.
    pub summary: Option<String>,
    /// Why its last attempt failed.
    pub error: Option<String>,
}

impl JobRecord {
    /// How long the last attempt took, if it has ended.
    pub fn duration(&self) -> Option<Duration> {
        self.finished_at?.duration_since(self.started_at?).ok()
    }
}

/// A job to be submitted.
#[derive(Debug, Clone)]
pub struct JobRequest {
    pub(crate) kind: JobKind,
    pub(crate) target: JobTarget,
    pub(crate) priority: JobPriority,
    pub(crate) reason: Option<FlushReason>,
    /// Whether the engine asks for it by itself.
    pub(crate) automatic: bool,
}

impl JobRequest {
    /// Flushes everything.
    pub fn flush() -> Self {
        Self::flush_for(JobTarget::Database, FlushReason::Manual)
    }

    /// Flushes one collection.
    pub fn flush_collection(name: impl Into<String>) -> Self {
        Self::flush_for(JobTarget::Collection(name.into()), FlushReason::Manual)
    }

    /// A flush that the engine asks for by itself, but for those that someone has called for.
    pub(crate) fn flush_for(target: JobTarget, reason: FlushReason) -> Self {
        let priority = match reason {
            FlushReason::Manual | FlushReason::Checkpoint => JobPriority::High,
            FlushReason::Close => JobPriority::Critical,
            FlushReason::Age | FlushReason::Idle => JobPriority::Low,
            _ => JobPriority::Normal,
        };
        let automatic = !matches!(reason, FlushReason::Manual | FlushReason::Close);
        Self { kind: JobKind::Flush, target, priority, reason: Some(reason), automatic }
    }

    /// What the engine asks for by itself in the place of a flush that was not done. A caller's own may have sealed
    /// memtables in an attempt that failed, or stood for one of the engine's.
    pub(crate) fn by_the_engine(&self) -> Self {
        let reason = match self.reason {
            None | Some(FlushReason::Manual | FlushReason::Close) => FlushReason::MemtableSize,
            Some(reason) => reason,
        };
        Self::flush_for(self.target.clone(), reason)
    }

    /// Compacts every collection as far as there is something to gain.
    pub fn compaction() -> Self {
        Self::of(JobKind::Compaction, JobTarget::Database)
    }

    /// Reads and checks every file.
    pub fn verify() -> Self {
        Self::of(JobKind::Verify, JobTarget::Database)
    }

    /// Copies the database, as it is when the job begins, to a directory that does not exist or is empty.
    pub fn backup(directory: impl Into<PathBuf>) -> Self {
        Self::of(JobKind::Backup, JobTarget::Directory(directory.into()))
    }

    /// The compaction that the engine asks for by itself: of what is due, when writes pause.
    pub(crate) fn compaction_when_idle() -> Self {
        Self { priority: JobPriority::Low, automatic: true, ..Self::compaction() }
    }

    const fn of(kind: JobKind, target: JobTarget) -> Self {
        Self { kind, target, priority: JobPriority::Normal, reason: None, automatic: false }
    }

    /// Sets which job goes first. Default: `high` for flushes, `normal` for all others.
    #[must_use]
    pub const fn priority(mut self, priority: JobPriority) -> Self {
        self.priority = priority;
        self
    }
}
