//! The state behind every handle of one simulated storage: the disk, the power, the faults, the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use plimsoll_base::{Result, StorageError};

use crate::content::Content;
use crate::crash::{CrashPolicy, DirectoryModel, after_power_cut};
use crate::disk::{Change, Disk, Effect};
use crate::fault::{Failure, Faults};
use crate::names::InodeId;
use crate::operation::{Operation, OperationKind};
use crate::protocol::Protocol;
use crate::storage::SimStorage;

/// How much space a storage has that no one gave a capacity: 1 TiB.
const UNLIMITED: u64 = 1 << 40;

/// What a test has to say about the removal of a file: see [`SimStorage::guard_removals`].
#[derive(Clone)]
pub(crate) struct RemovalGuard(pub(crate) Arc<Guard>);

type Guard = dyn Fn(&SimStorage, &Path) -> std::result::Result<(), String> + Send + Sync;

impl fmt::Debug for RemovalGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemovalGuard")
    }
}

/// What survives a crash beside the disk: the machine.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) model: DirectoryModel,
    pub(crate) capacity: Option<u64>,
    pub(crate) number: u64,
    pub(crate) removal_guard: Option<RemovalGuard>,
}

/// Everything that the clones and files of one storage share.
pub(crate) struct State {
    pub(crate) disk: Disk,
    /// The disk before the first operation.
    pub(crate) origin: Disk,
    /// Every step since then, with the number of operations begun by then.
    pub(crate) steps: Vec<(u64, Effect)>,
    pub(crate) log: Vec<Operation>,
    pub(crate) model: DirectoryModel,
    pub(crate) capacity: Option<u64>,
    pub(crate) faults: Faults,
    pub(crate) protocol: Protocol,
    pub(crate) locked: BTreeSet<InodeId>,
    /// How often the machine or the process was started, as the lock file tells.
    pub(crate) boot: u64,
    pub(crate) removal_guard: Option<RemovalGuard>,
    /// Kinds of syncs that say they are done and do nothing.
    pub(crate) lying: BTreeSet<OperationKind>,
    /// How many calls that only read there were.
    pub(crate) reads: BTreeMap<OperationKind, u64>,
    pub(crate) crash_at: Option<u64>,
    pub(crate) crashed: bool,
    /// The operation that the power cut hit.
    pub(crate) cut: Option<Operation>,
}

impl State {
    pub(crate) fn new(disk: Disk) -> Self {
        Self {
            origin: disk.clone(),
            disk,
            steps: Vec::new(),
            log: Vec::new(),
            model: DirectoryModel::default(),
            capacity: None,
            faults: Faults::default(),
            protocol: Protocol::default(),
            locked: BTreeSet::new(),
            boot: 1,
            removal_guard: None,
            lying: BTreeSet::new(),
            reads: BTreeMap::new(),
            crash_at: None,
            crashed: false,
            cut: None,
        }
    }

    /// The state of the next boot, with `disk` in the same machine.
    pub(crate) fn rebooted(&self, disk: Disk) -> Self {
        Self::booted(disk, self.boot())
    }

    /// What stays when this machine is started again.
    pub(crate) fn boot(&self) -> Boot {
        Boot {
            model: self.model,
            capacity: self.capacity,
            number: self.boot + 1,
            removal_guard: self.removal_guard.clone(),
        }
    }

    /// The state of a machine that was just started, with `disk`.
    pub(crate) fn booted(disk: Disk, boot: Boot) -> Self {
        let Boot { model, capacity, number, removal_guard } = boot;
        Self { model, capacity, boot: number, removal_guard, ..Self::new(disk) }
    }

    /// How many operations have begun; the number of the next one.
    pub(crate) fn operations(&self) -> u64 {
        self.log.len() as u64
    }

    /// The disk as it was before operation `number`.
    pub(crate) fn disk_before(&self, number: u64) -> Disk {
        let mut disk = self.origin.clone();
        for (_, effect) in self.steps.iter().take_while(|(begun, _)| *begun <= number) {
            disk.apply(effect);
        }
        disk
    }

    /// Performs a step and remembers it.
    pub(crate) fn apply(&mut self, effect: Effect) {
        self.disk.apply(&effect);
        self.steps.push((self.operations(), effect));
    }

    /// Performs a call that changes something: gives it a number, cuts the power if it is time to, and lets
    /// `perform` do it, or what a set failure leaves of it.
    pub(crate) fn mutate<T>(
        &mut self,
        operation: Operation,
        perform: impl FnOnce(&mut Self, Option<Failure>) -> io::Result<T>,
    ) -> io::Result<T> {
        let number = self.operations();
        let operation = Operation { number, ..operation };
        if !self.crashed && self.crash_at.is_some_and(|at| number >= at) {
            self.crashed = true;
            self.cut = Some(operation);
            return Err(power_cut());
        }
        if self.crashed {
            return Err(power_cut());
        }
        let failure = self.faults.strike(operation.kind, Some(number));
        self.log.push(operation);
        let result = perform(self, failure);
        if let (Err(error), Some(operation)) = (&result, self.log.last_mut()) {
            operation.error = Some(error.to_string());
        }
        result
    }

    /// As [`State::mutate`], for a call that fails without effect or with all of it.
    pub(crate) fn mutate_whole<T>(
        &mut self,
        operation: Operation,
        perform: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        self.mutate(operation, |state, failure| match failure {
            None => perform(state),
            Some(failure) if failure.is_done() => perform(state).and(Err(failure.error())),
            Some(failure) => Err(failure.error()),
        })
    }

    /// Performs a call that only reads.
    pub(crate) fn observe<T>(
        &mut self,
        kind: OperationKind,
        path: &Path,
        perform: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> Result<T> {
        let result = if self.crashed {
            Err(power_cut())
        } else {
            *self.reads.entry(kind).or_default() += 1;
            match self.faults.strike(kind, None) {
                Some(failure) => Err(failure.error()),
                None => perform(self),
            }
        };
        result.map_err(|error| StorageError::io(kind.verb(), path, error))
    }

    /// Asks the guard whether the file may be removed, and remembers what it has to say against it.
    pub(crate) fn guard_removal(&mut self, path: &Path) {
        let Some(guard) = self.removal_guard.clone() else { return };
        let mut without = after_power_cut(&self.disk, self.model, CrashPolicy::LoseAll);
        without.apply(&Effect::Delete(path.to_path_buf()));
        let boot = Boot { removal_guard: None, ..self.boot() };
        if let Err(why) = (guard.0)(&SimStorage::with(Self::booted(without, boot)), path) {
            self.protocol.removed(path, self.operations() - 1, &why);
        }
    }

    /// The bytes that can still be written.
    pub(crate) fn free(&self) -> u64 {
        let used = self.disk.used(|inode| self.protocol.is_open(inode));
        self.capacity.unwrap_or(UNLIMITED).saturating_sub(used)
    }

    /// Succeeds if there is room for one more name.
    pub(crate) fn room_for_name(&self) -> io::Result<()> {
        if self.capacity.is_some() && self.free() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// How many bytes can be written to the inode from `offset`: its own space counts.
    pub(crate) fn room_in(&self, inode: InodeId, offset: u64) -> u64 {
        match self.capacity {
            Some(_) => self.disk.len(inode).saturating_sub(offset) + self.free(),
            None => u64::MAX,
        }
    }

    /// Creates an empty file.
    pub(crate) fn create(&mut self, path: &Path) -> io::Result<InodeId> {
        self.disk.names.is_free(path)?;
        self.room_for_name()?;
        self.apply(Effect::Create(path.to_path_buf()));
        self.disk.names.file(path)
    }

    /// The file to lock, created if it is missing.
    pub(crate) fn lock_file(&mut self, path: &Path) -> io::Result<InodeId> {
        match self.disk.names.file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create(path),
            found => found,
        }
    }

    /// Takes the lock on a file; if it is held, the inner error is the holder.
    pub(crate) fn lock(&mut self, path: &Path) -> io::Result<std::result::Result<InodeId, String>> {
        let inode = self.lock_file(path)?;
        if !self.locked.insert(inode) {
            let holder = holder(&self.disk.content(inode));
            if let Some(operation) = self.log.last_mut() {
                operation.error = Some(format!("locked by {holder}"));
            }
            return Ok(Err(holder));
        }
        // Who holds it, as the operating-system implementation notes it. These bytes decide nothing, and no
        // power cut is spent on them.
        let note = format!("process {} on host simulator\n", self.boot);
        self.apply(Effect::Edit(inode, Change::Truncate { len: 0 }));
        self.apply(Effect::Edit(inode, Change::Write { offset: 0, bytes: note.as_bytes().into() }));
        Ok(Ok(inode))
    }
}

fn holder(content: &Content) -> String {
    let bytes = content.to_vec();
    match String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim() {
        "" => "another process".to_owned(),
        holder => holder.to_owned(),
    }
}

pub(crate) fn power_cut() -> io::Error {
    io::Error::other("power cut")
}
