//! A storage that does something just before a file is created: a way to put one thing into the middle of
//! another, the same way each time. It also lists a directory as it may look while its names change.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use plimsoll::StorageError;
use plimsoll::storage::{DirEntry, Lock, ReadFile, Storage, WriteFile};

type Result<T> = std::result::Result<T, StorageError>;
type Act = Box<dyn FnOnce() + Send>;

/// Passes everything on, and acts once.
#[derive(Clone)]
pub struct HookStorage {
    inner: Arc<dyn Storage>,
    /// Files still to be created before the act, and the act.
    hook: Arc<Mutex<Option<(usize, Act)>>>,
    /// How many more listings lack the manifests.
    without_manifests: Arc<AtomicUsize>,
}

impl HookStorage {
    /// Passes everything on to `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, hook: Arc::default(), without_manifests: Arc::default() }
    }

    /// Acts before the n-th sealed file from now, counted from 0, is created.
    pub fn before_file(&self, n: usize, act: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some((n, Box::new(act)));
    }

    /// Lets the next `count` listings show no manifest, as if each had been replaced while its part of the directory was
    /// not read yet, by one in a part that was.
    pub fn list_without_manifests(&self, count: usize) {
        self.without_manifests.store(count, Ordering::Relaxed);
    }

    /// Whether the act has not happened; it will not.
    pub fn cancel(&self) -> bool {
        self.hook.lock().unwrap().take().is_some()
    }

    fn strike(&self, path: &Path) {
        if !path.parent().is_some_and(|dir| dir.ends_with("data")) {
            return;
        }
        let mut hook = self.hook.lock().unwrap();
        match hook.take() {
            Some((0, act)) => {
                // What the act does may create files, too.
                drop(hook);
                act();
            }
            Some((left, act)) => *hook = Some((left - 1, act)),
            None => {}
        }
    }
}

impl fmt::Debug for HookStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Storage for HookStorage {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let mut entries = self.inner.list(dir)?;
        let one_less = |left: usize| left.checked_sub(1);
        if self.without_manifests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            entries.retain(|entry| !entry.name.starts_with("MANIFEST-"));
        }
        Ok(entries)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.strike(path);
        self.inner.create(path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        self.inner.open(path)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename_noreplace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }

    fn free_space(&self, dir: &Path) -> Result<u64> {
        self.inner.free_space(dir)
    }
}
