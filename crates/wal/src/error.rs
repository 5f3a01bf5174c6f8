//! What can go wrong with the log, by what the caller can do about it.
//!
//! **Owns** [`WalError`] and [`LsnRange`]. **Must not know** how either comes about.

use std::fmt;

use plimsoll_base::{Lsn, StorageError};

/// The result of a log operation.
pub type Result<T, E = WalError> = std::result::Result<T, E>;

/// Why the log refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// A file operation failed, or bytes on disk are damaged. The log itself goes on: nothing of the
    /// operation counts, and it may be tried again when the cause is gone.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A sync failed, so nobody knows what is on disk: nothing is written any more, reopening decides (R6).
    #[error("the write-ahead log takes no more writes since a sync failed ({cause}); in doubt: {lost}")]
    Poisoned {
        /// The failure that poisoned the log.
        cause: StorageError,
        /// The records that were appended and may or may not be on disk; those of `Buffered` writes among
        /// them were already returned to their callers.
        lost: LsnRange,
    },
    /// A record is larger than the format can express.
    #[error("a record of {len} bytes is larger than the limit of {limit} bytes")]
    RecordTooLarge {
        /// The payload's length in bytes.
        len: u64,
        /// The largest payload in bytes.
        limit: u64,
    },
}

impl WalError {
    /// Whether the same operation may succeed later on this handle.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_retryable(),
            Self::Poisoned { .. } | Self::RecordTooLarge { .. } => false,
        }
    }

    /// Whether a file that was expected is not there; a reader process then starts again from a newer
    /// manifest (R10).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_not_found())
    }
}

/// The LSNs from `first` to `last`, both included; empty when `last` is before `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LsnRange {
    /// The first LSN of the range.
    pub first: Lsn,
    /// The last LSN of the range.
    pub last: Lsn,
}

impl LsnRange {
    /// Everything after `after`, up to `last`.
    pub const fn after(after: Lsn, last: Lsn) -> Self {
        Self { first: after.next(), last }
    }

    /// Whether no LSN lies in the range.
    pub fn is_empty(&self) -> bool {
        self.last < self.first
    }

    /// How many LSNs lie in the range.
    pub fn len(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }

    /// Whether `lsn` lies in the range.
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn <= self.last
    }

    /// The LSNs of the range in order.
    pub fn iter(&self) -> impl Iterator<Item = Lsn> + use<> {
        (self.first.0..=self.last.0).map(Lsn)
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("no LSN") } else { write!(f, "LSN {} to {}", self.first, self.last) }
    }
}
