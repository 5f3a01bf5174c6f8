//! The simulated storage: power, faults, crash states, and the calls of the storage trait.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_base::storage::{DirEntry, Lock, ReadFile, Storage, WriteFile};
use plimsoll_base::{Result, StorageError};

use crate::crash::{CrashPolicy, DirectoryModel, after_power_cut};
use crate::disk::{Disk, Effect};
use crate::fault::{Failure, Times};
use crate::gate::{Gate, HeldSyncs};
use crate::handle::{Handle, SimLock, SimReadFile, SimWriteFile};
use crate::names::{Node, absolute};
use crate::operation::{Operation, OperationKind};
use crate::state::State;

/// A disk in memory, with a page cache, that loses what was not synced when its power is cut.
///
/// Clones share the same disk, as threads and processes share a machine. Relative paths start at the root,
/// which always exists; [`SimStorage::paths`] and the log show what was asked for in absolute form.
#[derive(Clone)]
pub struct SimStorage {
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.try_lock() {
            Ok(state) => f
                .debug_struct("SimStorage")
                .field("operations", &state.operations())
                .field("crashed", &state.crashed)
                .finish_non_exhaustive(),
            Err(_) => f.debug_struct("SimStorage").finish_non_exhaustive(),
        }
    }
}

impl Default for SimStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl SimStorage {
    /// An empty disk of unlimited size, under [`DirectoryModel::Strict`].
    pub fn new() -> Self {
        Self::with(State::new(Disk::empty()))
    }

    /// An empty disk under another model of directories.
    pub fn with_model(model: DirectoryModel) -> Self {
        let storage = Self::new();
        storage.set_model(model);
        storage
    }

    pub(crate) fn with(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls that change something were made, failed ones included; also the number of the next.
    pub fn operations(&self) -> u64 {
        self.state().operations()
    }

    /// Those calls, in order.
    pub fn log(&self) -> Vec<Operation> {
        self.state().log.clone()
    }

    /// The rules that were broken so far: published or mapped with unsynced bytes, written to or synced
    /// after a failed append or sync, written to after it was mapped. Empty is good.
    pub fn violations(&self) -> Vec<String> {
        self.state().protocol.violations().to_vec()
    }

    /// Cuts the power just before operation `number` takes effect (or, if that has passed, before the next):
    /// it and every later call, reads too, fail with an `Other` error "power cut".
    pub fn crash_at(&self, number: u64) {
        self.state().crash_at = Some(number);
    }

    /// Cuts the power now.
    pub fn crash(&self) {
        self.state().crashed = true;
    }

    /// Whether the power has been cut.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// The operation that [`SimStorage::crash_at`] cut off, once it has. It is not in the log.
    pub fn cut_operation(&self) -> Option<Operation> {
        self.state().cut.clone()
    }

    /// Chooses what a crash may do to names whose directory was not synced.
    pub fn set_model(&self, model: DirectoryModel) {
        self.state().model = model;
    }

    /// A new storage in a state that a power cut at this moment may leave behind, all of it durable: no
    /// locks, no faults, an empty log, the same capacity and model. This one goes on as it was.
    #[must_use]
    pub fn after_crash(&self, policy: CrashPolicy) -> Self {
        let state = self.state();
        Self::with(state.rebooted(after_power_cut(&state.disk, state.model, policy)))
    }

    /// What [`SimStorage::after_crash`] would have given with the power cut before operation `number`: one
    /// run of a workload serves all of its crash points.
    #[must_use]
    pub fn after_crash_at(&self, number: u64, policy: CrashPolicy) -> Self {
        let state = self.state();
        Self::with(state.rebooted(after_power_cut(&state.disk_before(number), state.model, policy)))
    }

    /// A new storage as a `kill -9` leaves it while the machine goes on: everything is there, locks are
    /// released, and what was not synced can still be lost to a power cut later.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        Self::with(state.rebooted(state.disk.clone()))
    }

    /// As [`SimStorage::after_kill`], with the process killed before operation `number`.
    #[must_use]
    pub fn after_kill_at(&self, number: u64) -> Self {
        let state = self.state();
        Self::with(state.rebooted(state.disk_before(number)))
    }

    /// Lets operation `number` fail, and with [`Times::ForEver`] later ones.
    ///
    /// A sync that fails also drops the dirty pages of its file: reads still show them, later syncs succeed,
    /// and a crash may lose them. A directory sync that fails leaves its names pending; a later one that
    /// succeeds makes them durable.
    pub fn fail_operation(&self, number: u64, failure: impl Into<Failure>, times: Times) {
        self.state().faults.at(number, failure.into(), times);
    }

    /// Lets the next `count` calls of `kind` fail; `u64::MAX` is for ever.
    pub fn fail_next(&self, kind: OperationKind, failure: impl Into<Failure>, count: u64) {
        self.state().faults.next(kind, failure.into(), count);
    }

    /// Lets `count` calls of `kind` fail, after `skip` more that do not.
    pub fn fail_after(&self, kind: OperationKind, skip: u64, failure: impl Into<Failure>, count: u64) {
        self.state().faults.after(kind, skip, failure.into(), count);
    }

    /// How many calls of a kind that only reads there were; those have no numbers.
    pub fn reads(&self, kind: OperationKind) -> u64 {
        self.state().reads.get(&kind).copied().unwrap_or(0)
    }

    /// How many faults have struck so far, by kind of call and error.
    pub fn faults_struck(&self) -> BTreeMap<(OperationKind, String), u64> {
        self.state().faults.struck().clone()
    }

    /// Lets syncs of a kind, `Sync` or `SyncDir`, do nothing and say that they are done, until the next crash: a
    /// disk on which every database must lose something, so that a test of crashes can be seen to find that.
    pub fn lie_about(&self, kind: OperationKind) {
        self.state().lying.insert(kind);
    }

    /// Holds up syncs that are made by [`SyncFile`](plimsoll_base::storage::SyncFile) until the returned guard is
    /// dropped: they have begun, so that they cover what was appended by now and nothing later, and have done nothing
    /// yet. Nothing else waits.
    #[must_use]
    pub fn hold_syncs(&self) -> HeldSyncs {
        HeldSyncs::new(&self.gate)
    }

    pub(crate) fn pass_gate(&self) {
        self.gate.pass();
    }

    /// Lets nothing fail any more. What failed syncs have dropped stays dropped.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Limits the lengths of all files together to `bytes`: what goes beyond fails with `StorageFull`, after
    /// the part of an append that still fits.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = Some(bytes);
    }

    /// The bytes that can still be written.
    pub fn free_bytes(&self) -> u64 {
        self.state().free()
    }

    /// Performs a call on names: it fails without effect or with all of it.
    fn mutate<T>(
        &self,
        operation: Operation,
        shown: &Path,
        perform: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T> {
        let verb = operation.kind.verb();
        let result = self.state().mutate_whole(operation, perform);
        result.map_err(|error| StorageError::io(verb, shown, error))
    }
}

impl Storage for SimStorage {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        let path = absolute(dir);
        let operation = Operation::on_path(OperationKind::CreateDir, path.clone());
        self.mutate(operation, dir, |state| {
            for missing in state.disk.names.missing_dirs(&path)? {
                state.room_for_name()?;
                state.apply(Effect::MakeDir(missing));
            }
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let path = absolute(dir);
        self.state().observe(OperationKind::List, dir, |state| {
            state.disk.names.is_dir(&path)?;
            let entry = |(path, node): (&Path, Node)| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                match node {
                    Node::Dir => DirEntry { name, len: 0, is_dir: true },
                    Node::File(inode) => DirEntry { name, len: state.disk.len(inode), is_dir: false },
                }
            };
            let mut entries: Vec<_> = state.disk.names.children(&path).map(entry).collect();
            entries.sort();
            Ok(entries)
        })
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let at = absolute(path);
        let operation = Operation::on_path(OperationKind::Create, at.clone());
        let inode = self.mutate(operation, path, |state| state.create(&at))?;
        Ok(Box::new(SimWriteFile::new(Handle::new(self, inode, path))))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        let at = absolute(path);
        let (inode, len) = self.state().observe(OperationKind::Open, path, |state| {
            let inode = state.disk.names.file(&at)?;
            Ok((inode, state.disk.len(inode)))
        })?;
        Ok(Arc::new(SimReadFile::new(Handle::new(self, inode, path), len)))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()> {
        let (old, new) = (absolute(from), absolute(to));
        let operation =
            Operation { to: Some(new.clone()), ..Operation::on_path(OperationKind::Rename, old.clone()) };
        self.mutate(operation, to, |state| {
            // In the order of the kernel: both directories, the old name, the new name.
            let names = &state.disk.names;
            names.is_dir(old.parent().unwrap_or(&old))?;
            names.is_dir(new.parent().unwrap_or(&new))?;
            let inode = names.file(&old)?;
            names.is_free(&new)?;
            let (unsynced, number) = (state.disk.has_unsynced(inode), state.operations() - 1);
            state.protocol.renaming(inode, unsynced, &new, number);
            state.apply(Effect::Rename(old, new));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let at = absolute(path);
        let operation = Operation::on_path(OperationKind::Remove, at.clone());
        self.mutate(operation, path, |state| {
            state.disk.names.file(&at)?;
            state.guard_removal(&at);
            state.apply(Effect::Remove(at));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let at = absolute(dir);
        let operation = Operation::on_path(OperationKind::SyncDir, at.clone());
        self.mutate(operation, dir, |state| {
            state.disk.names.is_dir(&at)?;
            if !state.lying.contains(&OperationKind::SyncDir) {
                state.apply(Effect::SyncDir(at));
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        let at = absolute(path);
        let operation = Operation::on_path(OperationKind::Lock, at.clone());
        let locked = self.state().mutate(operation, |state, failure| match failure {
            None => state.lock(&at),
            Some(failure) => {
                // As much as the operating system may have done: the file is there, the lock is not held.
                if failure.is_done() {
                    state.lock_file(&at)?;
                }
                Err(failure.error())
            }
        });
        match locked.map_err(|error| StorageError::io(OperationKind::Lock.verb(), path, error))? {
            Ok(inode) => Ok(Box::new(SimLock::new(Handle::new(self, inode, path)))),
            Err(holder) => Err(StorageError::Locked { path: path.to_path_buf(), holder }),
        }
    }

    fn free_space(&self, dir: &Path) -> Result<u64> {
        let at = absolute(dir);
        self.state().observe(OperationKind::FreeSpace, dir, |state| {
            state.disk.names.lookup(&at)?;
            Ok(state.free())
        })
    }
}
