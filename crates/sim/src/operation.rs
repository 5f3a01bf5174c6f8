//! What was asked of the disk, in order: numbered, and readable in a failure message.

use std::fmt;
use std::path::PathBuf;

/// What a call asks of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// `Storage::create_dir`.
    CreateDir,
    /// `Storage::create`.
    Create,
    /// `WriteFile::append`.
    Append,
    /// `WriteFile::preallocate`.
    Preallocate,
    /// `WriteFile::sync`, and `SyncFile::sync`.
    Sync,
    /// `Storage::rename_noreplace`.
    Rename,
    /// `Storage::remove`.
    Remove,
    /// `Storage::sync_dir`.
    SyncDir,
    /// `Storage::lock`, which may create its file.
    Lock,
    /// `Storage::open`; reads only, so it has no number.
    Open,
    /// `ReadFile::read_exact_at`; reads only, so it has no number.
    Read,
    /// `ReadFile::map`; reads only, so it has no number.
    Map,
    /// `Storage::list`; reads only, so it has no number.
    List,
    /// `Storage::free_space`; reads only, so it has no number.
    FreeSpace,
}

impl OperationKind {
    /// Every kind that changes something, and therefore has a number.
    pub const MUTATING: [Self; 9] = [
        Self::CreateDir,
        Self::Create,
        Self::Append,
        Self::Preallocate,
        Self::Sync,
        Self::Rename,
        Self::Remove,
        Self::SyncDir,
        Self::Lock,
    ];

    /// The words of the operating-system implementation for it in a
    /// [`StorageError::Io`](plimsoll_base::StorageError::Io).
    pub fn verb(self) -> &'static str {
        match self {
            Self::CreateDir => "create directory",
            Self::Create => "create",
            Self::Append => "append to",
            Self::Preallocate => "preallocate",
            Self::Sync => "sync",
            Self::Rename => "rename to",
            Self::Remove => "remove",
            Self::SyncDir => "sync directory",
            Self::Lock => "lock",
            Self::Open => "open",
            Self::Read => "read",
            Self::Map => "map",
            Self::List => "list",
            Self::FreeSpace => "free space of",
        }
    }
}

/// One numbered call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number: consecutive from 0 since the storage was made, failed calls included.
    pub number: u64,
    /// What it asked for.
    pub kind: OperationKind,
    /// The file or directory it was asked for; for a rename the old name.
    pub path: PathBuf,
    /// The new name of a rename.
    pub to: Option<PathBuf>,
    /// The inode of an operation on an open file.
    pub inode: Option<u64>,
    /// Where in the file an append begins.
    pub offset: u64,
    /// How many bytes were to be appended or preallocated.
    pub length: u64,
    /// The error it returned, if it failed.
    pub error: Option<String>,
}

impl Operation {
    pub(crate) fn on_path(kind: OperationKind, path: PathBuf) -> Self {
        Self { number: 0, kind, path, to: None, inode: None, offset: 0, length: 0, error: None }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} ", self.number)?;
        match &self.to {
            Some(to) => write!(f, "rename {} to {}", self.path.display(), to.display())?,
            None => write!(f, "{} {}", self.kind.verb(), self.path.display())?,
        }
        match self.kind {
            OperationKind::Append => write!(f, " at {}: {} bytes", self.offset, self.length)?,
            OperationKind::Preallocate => write!(f, ": {} bytes", self.length)?,
            _ => {}
        }
        match &self.error {
            Some(error) => write!(f, " failed: {error}"),
            None => Ok(()),
        }
    }
}
