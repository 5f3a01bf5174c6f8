//! A storage whose changes stay in memory, so that a repair can be tried without changing anything.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::storage::{DirEntry, Lock, Map, ReadFile, Storage, SyncFile, WriteFile};
use plimsoll_base::sync::Mutex;
use plimsoll_base::{Result, StorageError};

use crate::core::lock;

/// Files that stay as they are, and what is changed about them in memory. Clones share the changes.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    base: Arc<dyn Storage>,
    changes: Arc<Mutex<BTreeMap<PathBuf, Change>>>,
}

/// What a path stands for, where that is not what the base says.
#[derive(Debug, Clone)]
enum Change {
    Removed,
    Directory,
    /// A file of the base under another name.
    Moved(PathBuf),
    /// A file in memory.
    Written(Bytes),
}

type Bytes = Arc<Mutex<Vec<u8>>>;

impl Overlay {
    pub(super) fn new(base: Arc<dyn Storage>) -> Self {
        Self { base, changes: Arc::default() }
    }

    fn change(&self, path: &Path) -> Option<Change> {
        lock(&self.changes).get(path).cloned()
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        match self.change(path) {
            Some(Change::Removed) => Ok(false),
            Some(_) => Ok(true),
            None => match self.base.open(path) {
                Err(error) if error.is_not_found() => Ok(false),
                // Also what can not be read is there, and may be moved.
                _ => Ok(true),
            },
        }
    }

    fn set(&self, path: &Path, change: Change) {
        lock(&self.changes).insert(path.to_path_buf(), change);
    }
}

fn refused(operation: &'static str, path: &Path, kind: ErrorKind) -> StorageError {
    StorageError::io(operation, path, kind.into())
}

impl Storage for Overlay {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        match self.base.list(dir) {
            Ok(_) => {}
            Err(error) if error.is_not_found() => self.set(dir, Change::Directory),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let is_made = matches!(self.change(dir), Some(Change::Directory));
        let listed = match self.base.list(dir) {
            Err(error) if error.is_not_found() && is_made => Vec::new(),
            listed => listed?,
        };
        let mut entries: BTreeMap<String, DirEntry> =
            listed.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        for (path, change) in lock(&self.changes).iter().filter(|(path, _)| path.parent() == Some(dir)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let entry = |len, is_dir| DirEntry { name: name.clone(), len, is_dir };
            let entry = match change {
                Change::Removed => {
                    entries.remove(&name);
                    continue;
                }
                Change::Directory => entry(0, true),
                Change::Moved(from) => entry(self.base.open(from).map_or(0, |file| file.len()), false),
                Change::Written(bytes) => entry(lock(bytes).len() as u64, false),
            };
            entries.insert(name, entry);
        }
        Ok(entries.into_values().collect())
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        if self.exists(path)? {
            return Err(refused("create", path, ErrorKind::AlreadyExists));
        }
        let bytes = Bytes::default();
        self.set(path, Change::Written(Arc::clone(&bytes)));
        Ok(Box::new(Written { path: path.to_path_buf(), bytes }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        match self.change(path) {
            None => self.base.open(path),
            Some(Change::Moved(from)) => self.base.open(&from),
            Some(Change::Written(bytes)) => Ok(Arc::new(Opened { path: path.to_path_buf(), bytes })),
            Some(Change::Removed) => Err(refused("open", path, ErrorKind::NotFound)),
            Some(Change::Directory) => Err(refused("open", path, ErrorKind::IsADirectory)),
        }
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()> {
        if !self.exists(from)? {
            return Err(refused("rename to", to, ErrorKind::NotFound));
        }
        if self.exists(to)? {
            return Err(refused("rename to", to, ErrorKind::AlreadyExists));
        }
        let moved = self.change(from).unwrap_or_else(|| Change::Moved(from.to_path_buf()));
        self.set(from, Change::Removed);
        self.set(to, moved);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        if !self.exists(path)? {
            return Err(refused("remove", path, ErrorKind::NotFound));
        }
        self.set(path, Change::Removed);
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn Lock>> {
        Ok(Box::new(Nothing))
    }

    fn free_space(&self, _: &Path) -> Result<u64> {
        Ok(0) // No reserve is kept in memory.
    }
}

/// Nobody else sees the changes, so that there is nothing to keep them from; none is ever on a disk.
#[derive(Debug)]
struct Nothing;

impl Lock for Nothing {}

impl SyncFile for Nothing {
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Written {
    path: PathBuf,
    bytes: Bytes,
}

impl WriteFile for Written {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        lock(&self.bytes).extend_from_slice(bytes);
        Ok(())
    }

    fn preallocate(&mut self, _: u64) -> Result<()> {
        Err(refused("preallocate", &self.path, ErrorKind::Unsupported))
    }

    fn position(&self) -> u64 {
        lock(&self.bytes).len() as u64
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        Ok(Box::new(Nothing))
    }
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    bytes: Bytes,
}

impl ReadFile for Opened {
    fn len(&self) -> u64 {
        lock(&self.bytes).len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = lock(&self.bytes);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match bytes.get(start..start.saturating_add(buffer.len())) {
            Some(found) => buffer.copy_from_slice(found),
            None => return Err(refused("read", &self.path, ErrorKind::UnexpectedEof)),
        }
        Ok(())
    }

    fn map(&self) -> Result<Option<Map>> {
        Ok(None)
    }
}
