//! The segment being written, and the spare that is prepared ahead of it.
//!
//! **Owns** the temporary files of the log and the way one becomes a segment: created, preallocated, header
//! (and an inherited tail) written, synced, renamed without replacing, directory synced. **Must not know** LSN
//! assignment or when to rotate. **On a crash** a temporary file means nothing, and a segment under its final
//! name is complete as far as its start was written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use plimsoll_base::storage::{Storage, WriteFile};
use plimsoll_base::sync::atomic::{AtomicU64, Ordering::Relaxed};
use plimsoll_base::sync::{Mutex, MutexGuard};
use plimsoll_base::{FileNumber, Lsn, StorageError};

use crate::format::{Previous, spare_path};
use crate::pending::SegmentSync;

/// A created and preallocated file under a temporary name.
#[derive(Debug)]
pub(crate) struct SpareFile {
    pub(crate) file: Box<dyn WriteFile>,
    /// What syncs it once it is a segment.
    pub(crate) sync: SegmentSync,
    pub(crate) path: PathBuf,
    pub(crate) capacity: u64,
    /// The file has that length: the file system could reserve it.
    pub(crate) is_preallocated: bool,
}

/// The segment that records are appended to.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) file: Box<dyn WriteFile>,
    pub(crate) sync: Arc<SegmentSync>,
    pub(crate) number: FileNumber,
    pub(crate) salt: u64,
    pub(crate) capacity: u64,
    /// The end of the last group that counts. The file may be longer after a failed append.
    pub(crate) end: u64,
    /// The end as of the last sync. A mark after it counts for no watermark, but does for the segment's end.
    pub(crate) synced: u64,
    /// An append failed: nothing is written here any more.
    pub(crate) broken: bool,
}

impl ActiveSegment {
    /// Where a successor says that this segment ends.
    pub(crate) fn as_previous(&self, last_lsn: Lsn) -> Previous {
        Previous { number: self.number, end: self.end, last_lsn }
    }

    /// Whether `bytes` more may be written here.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        !self.broken && self.capacity.saturating_sub(self.end) >= bytes
    }
}

/// Prepares the next segment ahead of need, on any thread, while the writer goes on.
///
/// The spare is also the log's part of the disk reserve (R16): when it can not be replaced after a rotation,
/// the disk is full, and the fresh active segment is the room left for deletes, flush and close. The engine
/// then refuses ordinary writes until [`Spares::prepare`] succeeds again.
#[derive(Debug, Clone)]
pub struct Spares {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    segment_bytes: u64,
    next: AtomicU64,
    /// Held while a spare is being made, so that only one is; never by the writer.
    making: Mutex<()>,
    ready: Mutex<Option<SpareFile>>,
}

impl Spares {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, segment_bytes: u64, next: u64) -> Self {
        let inner = Inner {
            storage,
            dir,
            segment_bytes,
            next: AtomicU64::new(next),
            making: Mutex::default(),
            ready: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether a spare is ready.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some()
    }

    /// Makes a spare unless there is one: creates, preallocates and syncs a file. Slow; takes no lock that
    /// the writer waits for. Returns whether one was made.
    ///
    /// # Errors
    /// What the file operations say, typically that the disk is full; nothing is left behind then.
    pub fn prepare(&self) -> crate::Result<bool> {
        let _making = lock(&self.inner.making);
        if self.is_ready() {
            return Ok(false);
        }
        let mut spare = self.create(self.inner.segment_bytes)?;
        if let Err(error) = spare.file.sync() {
            self.discard(spare);
            return Err(error.into());
        }
        *self.ready() = Some(spare);
        Ok(true)
    }

    /// The spare, if it is ready and large enough; else a new file with room for `least` bytes: for a whole segment,
    /// or on a full disk for no more than that, so that what little is left is enough for a delete.
    pub(crate) fn take(&self, least: u64) -> Result<SpareFile, StorageError> {
        if least <= self.inner.segment_bytes
            && let Some(spare) = self.ready().take()
        {
            return Ok(spare);
        }
        match self.create(least.max(self.inner.segment_bytes)) {
            Err(error) if error.is_storage_full() && least < self.inner.segment_bytes => self.create(least),
            made => made,
        }
    }

    /// A new file of exactly that capacity.
    pub(crate) fn take_exact(&self, capacity: u64) -> Result<SpareFile, StorageError> {
        self.create(capacity)
    }

    /// Removes the spare's file, if there is one.
    pub(crate) fn close(&self) {
        let _making = lock(&self.inner.making);
        let spare = self.ready().take();
        if let Some(spare) = spare {
            self.discard(spare);
        }
    }

    /// Removes a temporary file. It may stay: the next writer to open the log removes it.
    pub(crate) fn discard(&self, spare: SpareFile) {
        drop(spare.file);
        remove_stray(&*self.inner.storage, &spare.path);
    }

    fn create(&self, capacity: u64) -> Result<SpareFile, StorageError> {
        let path = spare_path(&self.inner.dir, self.inner.next.fetch_add(1, Relaxed));
        let file = self.inner.storage.create(&path)?;
        let sync = match file.syncer() {
            Ok(syncer) => SegmentSync::new(syncer),
            Err(error) => {
                drop(file);
                remove_stray(&*self.inner.storage, &path);
                return Err(error);
            }
        };
        let mut spare = SpareFile { file, sync, path, capacity, is_preallocated: false };
        match spare.file.preallocate(capacity) {
            Ok(()) => Ok(SpareFile { is_preallocated: true, ..spare }),
            // A file system without preallocation: the log grows as it is written.
            Err(error) if error.io_kind() == Some(io::ErrorKind::Unsupported) => Ok(spare),
            Err(error) => {
                self.discard(spare);
                Err(error)
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, Option<SpareFile>> {
        lock(&self.inner.ready)
    }
}

/// Removes a temporary file that means nothing, as far as that is possible.
pub(crate) fn remove_stray(storage: &dyn Storage, path: &Path) {
    match storage.remove(path) {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(%error, "a temporary file of the log could not be removed"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing inside can be left half-changed by a panic: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
