//! A [`Storage`] that counts what passes through it, so that cost is measured where it arises.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{DirEntry, Lock, Map, ReadFile, Storage, SyncFile, WriteFile};
use crate::Result;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What has passed through a [`MeteredStorage`].
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct IoStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl IoStats {
            /// What was counted since `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name - earlier.$name,)* }
            }
        }

        #[derive(Debug, Default)]
        struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            fn snapshot(&self) -> IoStats {
                IoStats { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Read calls.
    reads,
    /// Bytes read by those calls; bytes touched through a mapping are not among them.
    bytes_read,
    /// Append calls.
    writes,
    /// Bytes appended.
    bytes_written,
    /// File syncs.
    file_syncs,
    /// Directory syncs.
    dir_syncs,
    /// Files created.
    files_created,
    /// Files opened for reading.
    files_opened,
    /// Files mapped.
    files_mapped,
    /// Files renamed.
    files_renamed,
    /// Files removed.
    files_removed,
    /// Directories listed.
    dirs_listed,
}

/// Counts every operation on its way to another [`Storage`].
#[derive(Debug, Clone)]
pub struct MeteredStorage {
    inner: Arc<dyn Storage>,
    counters: Arc<Counters>,
}

impl MeteredStorage {
    /// Counts what goes to `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// The counts so far.
    pub fn stats(&self) -> IoStats {
        self.counters.snapshot()
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}

impl Storage for MeteredStorage {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        add(&self.counters.dirs_listed, 1);
        self.inner.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        add(&self.counters.files_created, 1);
        Ok(Box::new(MeteredWriteFile {
            inner: self.inner.create(path)?,
            counters: Arc::clone(&self.counters),
        }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        add(&self.counters.files_opened, 1);
        Ok(Arc::new(MeteredReadFile { inner: self.inner.open(path)?, counters: Arc::clone(&self.counters) }))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()> {
        add(&self.counters.files_renamed, 1);
        self.inner.rename_noreplace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        add(&self.counters.files_removed, 1);
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        add(&self.counters.dir_syncs, 1);
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }

    fn free_space(&self, dir: &Path) -> Result<u64> {
        self.inner.free_space(dir)
    }
}

#[derive(Debug)]
struct MeteredWriteFile {
    inner: Box<dyn WriteFile>,
    counters: Arc<Counters>,
}

impl WriteFile for MeteredWriteFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        add(&self.counters.writes, 1);
        add(&self.counters.bytes_written, bytes.len() as u64);
        self.inner.append(bytes)
    }

    fn preallocate(&mut self, bytes: u64) -> Result<()> {
        self.inner.preallocate(bytes)
    }

    fn start_writeback(&mut self) {
        self.inner.start_writeback();
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn sync(&mut self) -> Result<()> {
        add(&self.counters.file_syncs, 1);
        self.inner.sync()
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        Ok(Box::new(MeteredSyncFile { inner: self.inner.syncer()?, counters: Arc::clone(&self.counters) }))
    }
}

#[derive(Debug)]
struct MeteredSyncFile {
    inner: Box<dyn SyncFile>,
    counters: Arc<Counters>,
}

impl SyncFile for MeteredSyncFile {
    fn sync(&self) -> Result<()> {
        add(&self.counters.file_syncs, 1);
        self.inner.sync()
    }
}

#[derive(Debug)]
struct MeteredReadFile {
    inner: Arc<dyn ReadFile>,
    counters: Arc<Counters>,
}

impl ReadFile for MeteredReadFile {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        add(&self.counters.reads, 1);
        add(&self.counters.bytes_read, buffer.len() as u64);
        self.inner.read_exact_at(offset, buffer)
    }

    fn map(&self) -> Result<Option<Map>> {
        add(&self.counters.files_mapped, 1);
        self.inner.map()
    }
}

#[cfg(test)]
mod tests {
    use super::super::OsStorage;
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "real files: mappings")]
    fn each_operation_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let storage = MeteredStorage::new(Arc::new(OsStorage));
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        super::super::publish(&storage, &a, &b, b"12345").unwrap();
        let before = storage.stats();
        assert_eq!(super::super::read_all(&storage, &b, 5).unwrap(), b"12345");
        assert!(super::super::read_all(&storage, &b, 4).is_err());
        let read = storage.stats().since(&before);
        assert_eq!((read.reads, read.bytes_read, read.files_opened), (1, 5, 2));
        storage.open(&b).unwrap().map().unwrap();
        storage.list(dir.path()).unwrap();
        storage.remove(&b).unwrap();
        let expected = IoStats {
            reads: 1,
            bytes_read: 5,
            writes: 1,
            bytes_written: 5,
            file_syncs: 1,
            dir_syncs: 1,
            files_created: 1,
            files_opened: 3,
            files_mapped: 1,
            files_renamed: 1,
            files_removed: 1,
            dirs_listed: 1,
        };
        assert_eq!(storage.stats(), expected);
        let syncer = storage.create(&a).unwrap().syncer().unwrap();
        assert_eq!(storage.stats().file_syncs, 1);
        syncer.sync().unwrap();
        assert_eq!(storage.stats().file_syncs, 2);
    }
}
