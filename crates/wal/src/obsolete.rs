//! Segments that nobody needs any more, on their way out.
//!
//! **Owns** the order of their removal. **Must not know** what makes a segment superfluous. **On a crash** the
//! rest stays, and is obsolete the next time again.

use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_base::FileNumber;
use plimsoll_base::storage::Storage;

use crate::Result;
use crate::format::segment_path;

/// Segments whose records are all in files that a durable manifest names.
#[derive(Debug)]
pub struct Obsolete {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    numbers: Vec<FileNumber>,
    /// How many of them are removed.
    removed: usize,
}

impl Obsolete {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, numbers: Vec<FileNumber>) -> Self {
        Self { storage, dir, numbers, removed: 0 }
    }

    /// Those that are removed.
    pub(crate) fn removed(&self) -> &[FileNumber] {
        &self.numbers[..self.removed]
    }

    /// Removes the files, the oldest first: the log's chain is always whole. The space of a large file takes
    /// its time to be given back, so nobody who writes should have to wait for this.
    ///
    /// # Errors
    /// [`WalError::Storage`](crate::WalError::Storage); the rest stays, and is obsolete the next time again.
    pub fn remove(&mut self) -> Result<()> {
        for number in &self.numbers[self.removed..] {
            match self.storage.remove(&segment_path(&self.dir, *number)) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => self.removed += 1,
            }
        }
        if self.removed > 0 {
            self.storage.sync_dir(&self.dir)?;
        }
        Ok(())
    }
}
