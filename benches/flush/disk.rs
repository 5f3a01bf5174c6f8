//! A disk on which every sync takes long, and which can fail or hang for a while.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use plimsoll::StorageError;
use plimsoll::storage::{DirEntry, Lock, OsStorage, ReadFile, Storage, SyncFile, WriteFile};

/// What an outage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outage {
    /// Everything but the log fails with an input/output error; the log is only slow.
    Fail,
    /// Everything that would change the disk waits until the outage is over, and then goes on.
    Hang,
}

/// The operating system's file system, but each sync of a file or directory takes at least so long. Syncs of several
/// threads take that long side by side, as on storage that is far rather than busy.
#[derive(Debug, Clone)]
pub(crate) struct SlowDisk {
    inner: OsStorage,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sync_time: Duration,
    is_slow: AtomicBool,
    syncs: AtomicU64,
    outage: Mutex<Option<Outage>>,
    changed: Condvar,
}

impl SlowDisk {
    pub(crate) fn new(sync_time: Duration) -> Self {
        let shared = Shared {
            sync_time,
            is_slow: AtomicBool::new(true),
            syncs: AtomicU64::new(0),
            outage: Mutex::new(None),
            changed: Condvar::new(),
        };
        Self { inner: OsStorage, shared: Arc::new(shared) }
    }

    /// Begins an outage, or ends it.
    pub(crate) fn set_outage(&self, outage: Option<Outage>) {
        *self.shared.outage.lock().unwrap_or_else(PoisonError::into_inner) = outage;
        self.shared.changed.notify_all();
    }

    /// Whether syncs take long: not while a system is created, which is not measured.
    pub(crate) fn set_slow(&self, is_slow: bool) {
        self.shared.is_slow.store(is_slow, Relaxed);
    }

    /// How many syncs of files and directories it was asked for.
    pub(crate) fn syncs(&self) -> u64 {
        self.shared.syncs.load(Relaxed)
    }
}

impl Shared {
    /// What the disk says to a change of `path` before it does anything.
    fn admit(&self, operation: &'static str, path: &Path) -> Result<(), StorageError> {
        const EIO: i32 = 5;
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *outage {
                Some(Outage::Hang) => {
                    outage = self.changed.wait(outage).unwrap_or_else(PoisonError::into_inner);
                }
                Some(Outage::Fail) if !is_log(path) => {
                    return Err(StorageError::io(operation, path, io::Error::from_raw_os_error(EIO)));
                }
                _ => return Ok(()),
            }
        }
    }

    /// The slow part of a sync. An outage that begins meanwhile is met at its end.
    fn sync(&self, operation: &'static str, path: &Path) -> Result<(), StorageError> {
        self.syncs.fetch_add(1, Relaxed);
        self.admit(operation, path)?;
        if self.is_slow.load(Relaxed) {
            thread::sleep(self.sync_time);
        }
        self.admit(operation, path)
    }
}

/// Whether this is the directory `wal` of a database, or a file in it.
fn is_log(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "wal")
}

impl Storage for SlowDisk {
    fn create_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.shared.admit("create directory", dir)?;
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.inner.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>, StorageError> {
        self.shared.admit("create", path)?;
        let inner = self.inner.create(path)?;
        Ok(Box::new(SlowFile { inner, path: path.to_path_buf(), shared: Arc::clone(&self.shared) }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>, StorageError> {
        self.inner.open(path)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.shared.admit("rename to", to)?;
        self.inner.rename_noreplace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.shared.admit("remove", path)?;
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.shared.sync("sync directory", dir)?;
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, StorageError> {
        self.inner.lock(path)
    }

    fn free_space(&self, dir: &Path) -> Result<u64, StorageError> {
        self.inner.free_space(dir)
    }
}

#[derive(Debug)]
struct SlowFile {
    inner: Box<dyn WriteFile>,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl WriteFile for SlowFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.shared.admit("append to", &self.path)?;
        self.inner.append(bytes)
    }

    fn preallocate(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.shared.admit("preallocate", &self.path)?;
        self.inner.preallocate(bytes)
    }

    fn start_writeback(&mut self) {
        self.inner.start_writeback();
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.shared.sync("sync", &self.path)?;
        self.inner.sync()
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>, StorageError> {
        let inner = self.inner.syncer()?;
        Ok(Box::new(SlowSync { inner, path: self.path.clone(), shared: Arc::clone(&self.shared) }))
    }
}

#[derive(Debug)]
struct SlowSync {
    inner: Box<dyn SyncFile>,
    path: PathBuf,
    shared: Arc<Shared>,
}

impl SyncFile for SlowSync {
    fn sync(&self) -> Result<(), StorageError> {
        self.shared.sync("sync", &self.path)?;
        self.inner.sync()
    }
}
