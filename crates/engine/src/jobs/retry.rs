//! What follows a failed attempt.

use std::time::Duration;

use plimsoll_base::StorageError;

use crate::error::Error;

/// How often an attempt that failed for a passing cause is repeated.
pub(super) const RETRIES: u32 = 3;
/// The longest pause before a repetition.
const LONGEST: Duration = Duration::from_secs(30);

/// What a failure says about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The cause may pass by itself.
    Transient,
    /// Another attempt is of no use before somebody changes something.
    Permanent,
}

pub(super) fn class(error: &Error) -> Class {
    match error {
        Error::Poisoned { .. } | Error::Closed | Error::Cancelled => Class::Permanent,
        // What the medium refuses now it may accept later; and what is damaged stays so.
        Error::Storage(StorageError::Io { .. }) if error.is_retryable() => Class::Transient,
        Error::Stalled(_) | Error::Background { .. } if error.is_retryable() => Class::Transient,
        _ => Class::Permanent,
    }
}

/// Whether a failed flush says that the storage does not work. A full disk does: but what gives space goes on, and
/// writes are refused by the reserve (rule R16) just as long as it is full.
pub(super) fn counts_against_storage(error: &Error) -> bool {
    match error {
        Error::Storage(error) => !error.is_storage_full() && matches!(error, StorageError::Io { .. }),
        _ => false,
    }
}

/// How long to wait before repetition `attempt` (from 1): 1, 2, 4 ... at most 30 seconds, and up to a quarter more, by
/// `chance`, so that jobs that failed together do not come back together.
pub(super) fn backoff(attempt: u32, chance: u64) -> Duration {
    let pause = Duration::from_secs(1 << attempt.saturating_sub(1).min(5)).min(LONGEST);
    (pause + pause.mul_f64((chance % 1000) as f64 / 4000.0)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};
    use std::path::Path;

    use super::*;

    fn io(kind: ErrorKind) -> Error {
        StorageError::io("sync", Path::new("file"), IoError::from(kind)).into()
    }

    #[test]
    fn pauses_double_up_to_thirty_seconds_with_some_chance() {
        let pauses: Vec<_> = (1..8).map(|attempt| backoff(attempt, 0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff(1, 500), Duration::from_millis(1125));
        assert!((0..5000).all(|chance| backoff(2, chance) < Duration::from_millis(2500)));
        assert_eq!(backoff(u32::MAX, u64::MAX), LONGEST);
    }

    #[test]
    fn only_passing_causes_are_tried_again() {
        let lost = Error::Poisoned { cause: "sync".to_owned(), lost: None };
        let damaged = Error::from(StorageError::corrupted(Path::new("file"), 0, "bits"));
        for error in [lost, damaged, Error::Closed, Error::Cancelled, io(ErrorKind::PermissionDenied)] {
            assert_eq!(class(&error), Class::Permanent, "{error}");
        }
        assert_eq!(class(&io(ErrorKind::NotADirectory)), Class::Permanent, "a directory where a file is");
        for kind in [ErrorKind::TimedOut, ErrorKind::Interrupted, ErrorKind::StorageFull, ErrorKind::Other] {
            assert_eq!(class(&io(kind)), Class::Transient, "{kind}");
        }
        assert!(counts_against_storage(&io(ErrorKind::Other)));
        assert!(!counts_against_storage(&io(ErrorKind::StorageFull)));
        assert!(!counts_against_storage(&Error::Closed));
    }
}
