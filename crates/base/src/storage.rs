//! The one seam for all input and output.
//!
//! Everything that touches a disk goes through [`Storage`], so that a simulator can take its place, keep a
//! log of operations, and rebuild any state in which a power cut may legally leave the disk. Files come into
//! being by appending and never change afterwards; there is no way to write in place and no writable mapping.

mod map;
mod metered;
mod os;
mod writeback;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use map::Map;
pub use metered::{IoStats, MeteredStorage};
pub use os::OsStorage;

use crate::Result;
use crate::mutant::{self, Mutant};

/// The operations a Plimsoll database needs of a file system.
///
/// What a crash may undo: appended bytes until [`WriteFile::sync`], and created, renamed or removed names
/// until [`Storage::sync_dir`] of their directory. Every method may fail with
/// [`StorageError::Io`](crate::StorageError::Io), naming the path.
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Creates a directory and its missing parents. It is not an error if it exists.
    fn create_dir(&self, dir: &Path) -> Result<()>;

    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>>;

    /// Creates a file that must not exist yet, for appending.
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>>;

    /// Opens an existing file for reading.
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>>;

    /// Renames a file; fails with `AlreadyExists` when `to` exists (rule R8).
    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Makes the names in a directory durable: files created, renamed and removed there before this call.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Takes the exclusive lock that the kernel keeps on `path` until the returned guard is dropped or the
    /// process ends. Creates the file if it is missing; it is never removed.
    ///
    /// # Errors
    /// [`StorageError::Locked`](crate::StorageError::Locked) with the holder's process id and host.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>>;

    /// The bytes that can still be written to the file system of `dir`.
    fn free_space(&self, dir: &Path) -> Result<u64>;
}

/// A file being written. Dropping it without [`WriteFile::sync`] promises nothing.
pub trait WriteFile: Send + fmt::Debug {
    /// Writes all of `bytes` after what was appended before.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Reserves `bytes` of disk from the start of the file, which reads as zeros until it is written.
    /// Appending still begins at [`WriteFile::position`].
    fn preallocate(&mut self, bytes: u64) -> Result<()>;

    /// Asks for what was appended so far to be written soon, so that a later [`WriteFile::sync`] finds less to
    /// do and holds up nobody else's. A hint: it promises nothing, and errors are for the sync to tell.
    fn start_writeback(&mut self) {}

    /// How many bytes have been appended.
    fn position(&self) -> u64;

    /// Makes what was appended durable (`fdatasync`: data, and the length if it changed).
    ///
    /// After an error nothing is known about any byte appended since the last success, and the file must
    /// never be appended to or believed again: the kernel may have dropped the dirty pages.
    fn sync(&mut self) -> Result<()>;

    /// A handle by which another thread syncs this file while it is appended to.
    fn syncer(&self) -> Result<Box<dyn SyncFile>>;
}

/// A file that is synced while another thread appends to it: see [`WriteFile::syncer`].
pub trait SyncFile: Send + fmt::Debug {
    /// Makes durable what had been appended when this call began.
    ///
    /// An error means what it means for [`WriteFile::sync`]. The kernel may tell it to one caller only: of two syncs at
    /// the same time, by whatever handles, the other one must not be believed.
    fn sync(&self) -> Result<()>;
}

/// An existing file, read at any offset by any number of threads.
pub trait ReadFile: Send + Sync + fmt::Debug {
    /// The file's length in bytes, when it was opened.
    fn len(&self) -> u64;

    /// Whether the file was empty when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from byte `offset`; reading past the end is an `UnexpectedEof` error.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Maps the whole file read-only; `None` where the implementation has no mappings, and the caller reads.
    fn map(&self) -> Result<Option<Map>>;
}

/// The guard of [`Storage::lock`]: the lock is held until it is dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name within the directory. Names that are not UTF-8 are never ours and are shown lossily.
    pub name: String,
    /// The length in bytes; 0 for a directory.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// How several things are synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// One after the other, so that runs repeat.
    InOrder,
    /// At the same time: what a disk takes for a sync passes once.
    Together,
}

/// Writes `bytes` to a new file, syncs it, moves it to its final name and syncs the directory: the only way
/// a whole file is published (reliability: publish order).
///
/// # Errors
/// Any of the steps; the temporary file is then left behind for the next recovery to remove.
pub fn publish(storage: &dyn Storage, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    publish_beside(storage, temporary, path, bytes, Syncs::InOrder, || Ok(()))
}

/// As [`publish`], with something else that must be durable before the file has its final name: `beside` sees to that,
/// in its own thread if the two are synced together.
///
/// # Errors
/// Also that of `beside`.
pub fn publish_beside(
    storage: &dyn Storage,
    temporary: &Path,
    path: &Path,
    bytes: &[u8],
    syncs: Syncs,
    beside: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let mut file = storage.create(temporary)?;
    file.append(bytes)?;
    if mutant::is(Mutant::RenameManifestFirst) {
        storage.rename_noreplace(temporary, path)?;
    }
    let mut sync = || if mutant::is(Mutant::SkipManifestSync) { Ok(()) } else { file.sync() };
    match syncs {
        Syncs::InOrder => beside().and_then(|()| sync()),
        Syncs::Together => std::thread::scope(|scope| {
            let other = scope.spawn(beside);
            let synced = sync();
            other.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)).and(synced)
        }),
    }?;
    drop(file);
    if !mutant::is(Mutant::RenameManifestFirst) {
        storage.rename_noreplace(temporary, path)?;
    }
    if mutant::is(Mutant::SkipManifestDirectorySync) {
        return Ok(());
    }
    storage.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// What is in a directory, which need not be there.
///
/// # Errors
/// Those of [`Storage::list`], but for that.
pub fn list_if_there(storage: &dyn Storage, dir: &Path) -> Result<Vec<DirEntry>> {
    match storage.list(dir) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        entries => entries,
    }
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`StorageError::Corrupted`](crate::StorageError::Corrupted) if it is longer.
pub fn read_all(storage: &dyn Storage, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = storage.open(path)?;
    if file.len() > limit {
        let what = format!("{} bytes; at most {limit} were expected", file.len());
        return Err(crate::StorageError::corrupted(path, limit, what));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}
