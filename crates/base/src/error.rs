//! The errors that bytes and files can cause, shared by every crate that reads or writes them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of a storage operation.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// What can go wrong between this process and its files.
///
/// Cloning is cheap, because one failed sync is the outcome of every write that shared it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was attempted, such as `"append to"` or `"sync"`.
        operation: &'static str,
        /// The file or directory it was attempted on.
        path: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not what was written there.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Corrupted {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What was found, and what was expected.
        what: String,
    },
    /// The file was written by a newer Plimsoll, with a format this one does not know.
    #[error("{} needs a newer Plimsoll: {what}", file.display())]
    UpgradeRequired {
        /// The file that is too new.
        file: PathBuf,
        /// The version or feature that is not understood.
        what: String,
    },
    /// Another process (or another handle in this one) holds the writer lock.
    #[error("{} is locked by {holder}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as the holder wrote it: process id and host.
        holder: String,
    },
}

impl StorageError {
    /// An operating-system error on `path`.
    pub fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// Damage in `file` at byte `offset`.
    pub fn corrupted(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupted { file: file.to_path_buf(), offset, what: what.into() }
    }

    /// The kind of the operating-system error, if it is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the file or directory did not exist.
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }

    /// Whether this file can not be read, while others may be: the medium fails under it, or its permissions do not
    /// allow it.
    pub fn is_unreadable(&self) -> bool {
        self.is_medium_error() || self.io_kind() == Some(io::ErrorKind::PermissionDenied)
    }

    /// Whether nothing but one file is harmed: it is damaged, or can not be read.
    pub fn is_of_one_file(&self) -> bool {
        matches!(self, Self::Corrupted { .. }) || self.is_unreadable()
    }

    /// Whether the disk could not give the bytes.
    pub fn is_medium_error(&self) -> bool {
        const EIO: i32 = 5;
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(EIO))
    }

    /// Whether the disk or a quota is full.
    pub fn is_storage_full(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Whether the same operation may succeed later without anyone changing the database: the cause is a
    /// condition of the machine (no space, an interrupted call, a held lock), not of the data.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::AlreadyExists
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
            ),
            Self::Locked { .. } => true,
            Self::Corrupted { .. } | Self::UpgradeRequired { .. } => false,
        }
    }
}
