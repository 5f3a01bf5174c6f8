//! A storage whose sealed files and manifests a test can hold up, or let fail, while the log goes on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use plimsoll::StorageError;
use plimsoll::storage::{DirEntry, Lock, ReadFile, Storage, SyncFile, WriteFile};

/// What becomes of calls that change sealed files or manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Rule {
    #[default]
    Open,
    Held,
    Failing,
}

#[derive(Debug, Default)]
struct State {
    rule: Rule,
    /// The rule holds only there.
    only_in: Option<PathBuf>,
    held: usize,
}

/// What a test does whenever something is done to a path.
type Watcher = Box<dyn Fn(&str, &Path) + Send + Sync>;

/// The storage.
#[derive(Clone)]
pub(crate) struct Gate {
    inner: Arc<dyn Storage>,
    state: Arc<(Mutex<State>, Condvar)>,
    watcher: Arc<OnceLock<Watcher>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({:?})", self.state.0)
    }
}

/// A sync of the log beside its writer.
#[derive(Debug)]
struct WatchedSync {
    inner: Box<dyn SyncFile>,
    gate: Gate,
    path: PathBuf,
}

impl SyncFile for WatchedSync {
    fn sync(&self) -> Result<(), StorageError> {
        self.gate.tell("sync", &self.path);
        self.inner.sync()
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Box<dyn WriteFile>,
    gate: Gate,
    path: PathBuf,
}

/// As long as it is there, the gate may be held.
pub(crate) struct Held(Gate);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open_gate();
    }
}

impl Gate {
    pub(crate) fn new(inner: impl Storage) -> Self {
        Self { inner: Arc::new(inner), state: Arc::default(), watcher: Arc::default() }
    }

    /// Has a test told of all that is created, synced, renamed, listed and removed, before it is, and before the gate.
    pub(crate) fn watch(&self, watcher: impl Fn(&str, &Path) + Send + Sync + 'static) {
        assert!(self.watcher.set(Box::new(watcher)).is_ok(), "somebody watches already");
    }

    fn tell(&self, what: &str, path: &Path) {
        if let Some(watcher) = self.watcher.get() {
            watcher(what, path);
        }
    }

    fn set(&self, rule: Rule) {
        self.state.0.lock().unwrap().rule = rule;
        self.state.1.notify_all();
    }

    pub(crate) fn open_gate(&self) {
        self.set(Rule::Open);
    }

    /// Holds everyone up until it is opened, or what is returned is dropped: a test that fails is not to wait for ever.
    #[must_use]
    pub(crate) fn hold(&self) -> Held {
        self.set(Rule::Held);
        Held(self.clone())
    }

    pub(crate) fn fail(&self) {
        self.set(Rule::Failing);
    }

    /// Only what changes in that directory fails.
    pub(crate) fn fail_in(&self, dir: &str) {
        self.state.0.lock().unwrap().only_in = Some(dir.into());
        self.fail();
    }

    /// Waits until somebody is held up.
    pub(crate) fn wait_until_held(&self) {
        let state = self.state.1.wait_while(self.state.0.lock().unwrap(), |state| state.held == 0);
        drop(state.unwrap());
    }

    fn pass(&self, path: &Path) -> Result<(), StorageError> {
        if path.components().any(|part| part.as_os_str() == "wal") {
            return Ok(());
        }
        let mut state = self.state.0.lock().unwrap();
        if state.only_in.as_ref().is_some_and(|dir| !path.starts_with(dir)) {
            return Ok(());
        }
        if state.rule == Rule::Held {
            state.held += 1;
            self.state.1.notify_all();
            state = self.state.1.wait_while(state, |state| state.rule == Rule::Held).unwrap();
            state.held -= 1;
        }
        match state.rule {
            Rule::Failing => Err(StorageError::io("reach", path, std::io::Error::from_raw_os_error(5))),
            _ => Ok(()),
        }
    }
}

impl Storage for Gate {
    fn create_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.tell("list", dir);
        self.inner.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>, StorageError> {
        self.tell("create", path);
        self.pass(path)?;
        let inner = self.inner.create(path)?;
        Ok(Box::new(GatedFile { inner, gate: self.clone(), path: path.to_path_buf() }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>, StorageError> {
        self.inner.open(path)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.tell("rename", to);
        self.pass(to)?;
        self.inner.rename_noreplace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.tell("remove", path);
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        self.tell("sync", dir);
        self.pass(dir)?;
        self.inner.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, StorageError> {
        self.inner.lock(path)
    }

    fn free_space(&self, dir: &Path) -> Result<u64, StorageError> {
        self.inner.free_space(dir)
    }
}

impl WriteFile for GatedFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.append(bytes)
    }

    fn preallocate(&mut self, bytes: u64) -> Result<(), StorageError> {
        self.inner.preallocate(bytes)
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>, StorageError> {
        // Only the log's files are synced beside their writer.
        let inner = self.inner.syncer()?;
        Ok(Box::new(WatchedSync { inner, gate: self.gate.clone(), path: self.path.clone() }))
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.gate.tell("sync", &self.path);
        self.gate.pass(&self.path)?;
        self.inner.sync()
    }
}
