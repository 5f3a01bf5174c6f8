//! What a test or a fuzzer does to the disk from outside: no numbers, no faults, and it works without power.
//!
//! Changes made here are at rest: they are durable at once, and what is pending stays pending.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::{Result, StorageError};

use crate::content::Content;
use crate::disk::{Change, Effect};
use crate::names::{InodeId, Node, absolute};
use crate::state::State;
use crate::storage::SimStorage;

impl SimStorage {
    /// Puts a durable file there, with its directories, in place of one that may be there.
    ///
    /// # Errors
    /// `path` is a directory, or a file is where a directory must be.
    pub fn put(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
        let (shown, content) = (path.as_ref(), Arc::new(Content::from(bytes.as_ref())));
        self.edit(shown, |state, path| {
            let names = &state.disk.names;
            match names.lookup(&path) {
                Ok(Node::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(Node::File(_)) | Err(_) => state.apply(Effect::Put(path, content)),
            }
            Ok(())
        })
    }

    /// Puts a durable directory there, with its parents. It is not an error if it exists.
    ///
    /// # Errors
    /// A file is where a directory must be.
    pub fn put_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.edit(path.as_ref(), |state, path| {
            state.disk.names.missing_dirs(&path)?;
            state.apply(Effect::PutDir(path));
            Ok(())
        })
    }

    /// What reads of the file would show, if there is one.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.disk.names.file(&absolute(path.as_ref())).ok()?;
        Some(state.disk.content(inode).to_vec())
    }

    /// The absolute paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        let state = self.state();
        let files = state.disk.names.visible().iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Takes a file away for good, as if it had never been there.
    ///
    /// # Errors
    /// There is no such file.
    pub fn delete(&self, path: impl AsRef<Path>) -> Result<()> {
        self.edit(path.as_ref(), |state, path| {
            state.disk.names.file(&path)?;
            state.apply(Effect::Delete(path));
            Ok(())
        })
    }

    /// Replaces the byte at `offset`.
    ///
    /// # Errors
    /// There is no such file, or it ends before `offset`.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, f: impl FnOnce(u8) -> u8) -> Result<()> {
        self.edit_file(path.as_ref(), |state, inode| {
            let mut byte = [0];
            state.disk.content(inode).read(offset, &mut byte)?;
            let bytes = Arc::from([f(byte[0])]);
            Ok(Change::Write { offset, bytes })
        })
    }

    /// Flips bit `bit` of the file, counted from its start; bit 0 is the lowest of the first byte.
    ///
    /// # Errors
    /// There is no such file, or it has no such bit.
    pub fn flip_bit(&self, path: impl AsRef<Path>, bit: u64) -> Result<()> {
        self.corrupt(path, bit / 8, |byte| byte ^ (1 << (bit % 8)))
    }

    /// Makes the file exactly `len` bytes long: cuts it, or extends it with zeros.
    ///
    /// # Errors
    /// There is no such file.
    pub fn truncate(&self, path: impl AsRef<Path>, len: u64) -> Result<()> {
        self.edit_file(path.as_ref(), |_, _| Ok(Change::Truncate { len }))
    }

    fn edit_file(
        &self,
        shown: &Path,
        change: impl FnOnce(&State, InodeId) -> io::Result<Change>,
    ) -> Result<()> {
        self.edit(shown, |state, path| {
            let inode = state.disk.names.file(&path)?;
            let change = change(state, inode)?;
            state.apply(Effect::Edit(inode, change));
            Ok(())
        })
    }

    fn edit(&self, shown: &Path, perform: impl FnOnce(&mut State, PathBuf) -> io::Result<()>) -> Result<()> {
        let result = perform(&mut self.state(), absolute(shown));
        result.map_err(|error| StorageError::io("edit", shown, error))
    }
}
