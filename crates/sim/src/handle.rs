//! Open files and held locks.

use std::io;
use std::path::{Path, PathBuf};

use plimsoll_base::storage::{Lock, Map, ReadFile, SyncFile, WriteFile};
use plimsoll_base::{Result, StorageError};

use crate::disk::{Change, Effect};
use crate::fault::Failure;
use crate::names::InodeId;
use crate::operation::{Operation, OperationKind};
use crate::state::State;
use crate::storage::SimStorage;

/// An inode kept alive, with the path it was opened by.
#[derive(Debug)]
pub(crate) struct Handle {
    storage: SimStorage,
    inode: InodeId,
    path: PathBuf,
}

impl Handle {
    pub(crate) fn new(storage: &SimStorage, inode: InodeId, path: &Path) -> Self {
        storage.state().protocol.opened(inode);
        Self { storage: storage.clone(), inode, path: path.to_path_buf() }
    }

    fn operation(&self, kind: OperationKind, offset: u64, length: u64) -> Operation {
        let inode = Some(self.inode);
        Operation { inode, offset, length, ..Operation::on_path(kind, self.path.clone()) }
    }

    fn mutate(
        &self,
        operation: Operation,
        perform: impl FnOnce(&mut State, Option<Failure>) -> io::Result<()>,
    ) -> Result<()> {
        let verb = operation.kind.verb();
        let result = self.storage.state().mutate(operation, perform);
        result.map_err(|error| StorageError::io(verb, &self.path, error))
    }

    /// How many changes of the file there were.
    fn changes(&self) -> u64 {
        self.storage.state().disk.changes(self.inode)
    }

    /// Syncs the first so many changes.
    fn sync(&self, covered: u64) -> Result<()> {
        let inode = self.inode;
        let operation = self.operation(OperationKind::Sync, 0, 0);
        self.mutate(operation, |state, failure| {
            state.protocol.syncing(inode, &self.path, state.operations() - 1);
            if failure.is_none() && state.lying.contains(&OperationKind::Sync) {
                return Ok(());
            }
            let Some(failure) = failure else {
                state.apply(Effect::Sync(inode, covered));
                return Ok(());
            };
            let effect =
                if failure.is_done() { Effect::Sync(inode, covered) } else { Effect::DropDirtyPages(inode) };
            state.apply(effect);
            state.protocol.sync_failed(inode);
            Err(failure.error())
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.storage.state().protocol.closed(self.inode);
    }
}

/// A file open for appending.
#[derive(Debug)]
pub(crate) struct SimWriteFile {
    handle: Handle,
    /// Where the next byte goes: past `position` once an append has failed half-way.
    cursor: u64,
    position: u64,
}

impl SimWriteFile {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, cursor: 0, position: 0 }
    }
}

impl WriteFile for SimWriteFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let (inode, offset) = (self.handle.inode, self.cursor);
        let operation = self.handle.operation(OperationKind::Append, offset, bytes.len() as u64);
        let mut written = 0;
        let result = self.handle.mutate(operation, |state, failure| {
            state.protocol.writing(inode, &self.handle.path, state.operations() - 1);
            let wanted = failure.map_or(bytes.len(), |failure| failure.written(bytes.len()));
            written = (wanted as u64).min(state.room_in(inode, offset)) as usize;
            if written > 0 {
                let change = Change::Write { offset, bytes: bytes[..written].into() };
                state.apply(Effect::Change(inode, change));
            }
            let error = match failure {
                Some(failure) => failure.error(),
                None if written < bytes.len() => io::ErrorKind::StorageFull.into(),
                None => return Ok(()),
            };
            state.protocol.append_failed(inode);
            Err(error)
        });
        self.cursor += written as u64;
        result?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn preallocate(&mut self, bytes: u64) -> Result<()> {
        let inode = self.handle.inode;
        let operation = self.handle.operation(OperationKind::Preallocate, 0, bytes);
        self.handle.mutate(operation, |state, failure| {
            state.protocol.writing(inode, &self.handle.path, state.operations() - 1);
            if let Some(failure) = failure.filter(|failure| !failure.is_done()) {
                return Err(failure.error());
            }
            if bytes == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            if bytes > state.room_in(inode, 0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if bytes > state.disk.len(inode) {
                state.apply(Effect::Change(inode, Change::Extend { len: bytes }));
            }
            failure.map_or(Ok(()), |failure| Err(failure.error()))
        })
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn sync(&mut self) -> Result<()> {
        self.handle.sync(self.handle.changes())
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        let Handle { storage, inode, path } = &self.handle;
        Ok(Box::new(SimSyncFile { handle: Handle::new(storage, *inode, path) }))
    }
}

/// A file that is synced while others append to it.
#[derive(Debug)]
struct SimSyncFile {
    handle: Handle,
}

impl SyncFile for SimSyncFile {
    fn sync(&self) -> Result<()> {
        let covered = self.handle.changes();
        self.handle.storage.pass_gate();
        self.handle.sync(covered)
    }
}

/// A file open for reading.
#[derive(Debug)]
pub(crate) struct SimReadFile {
    handle: Handle,
    len: u64,
}

impl SimReadFile {
    pub(crate) fn new(handle: Handle, len: u64) -> Self {
        Self { handle, len }
    }
}

impl ReadFile for SimReadFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Handle { storage, inode, path } = &self.handle;
        storage.state().observe(OperationKind::Read, path, |state| match state.disk.inode(*inode) {
            Some(found) => found.visible.read(offset, buffer),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn map(&self) -> Result<Option<Map>> {
        let Handle { storage, inode, path } = &self.handle;
        storage.state().observe(OperationKind::Map, path, |state| {
            let (unsynced, number) = (state.disk.has_unsynced(*inode), state.operations());
            state.protocol.mapping(*inode, unsynced, path, number);
            Ok(None)
        })
    }
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct SimLock {
    handle: Handle,
}

impl SimLock {
    /// The guard of a lock that [`State::lock`] has taken.
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.handle.storage.state().locked.remove(&self.handle.inode);
    }
}

impl Lock for SimLock {}
