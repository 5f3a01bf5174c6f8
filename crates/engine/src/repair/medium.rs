//! A storage that goes on where a disk can not be read.

use std::path::Path;
use std::sync::Arc;

use plimsoll_base::Result;
use plimsoll_base::storage::{DirEntry, Lock, Map, ReadFile, Storage, WriteFile};

/// What is read at once where a larger read failed: a page.
const PIECE: usize = 4096;

/// Reads as zeros what the medium does not give back: the checksums then tell which blocks these are, so that a
/// bad sector costs its block and not its file. It never maps files.
#[derive(Debug, Clone)]
pub(super) struct BadMedium(pub Arc<dyn Storage>);

#[derive(Debug)]
struct BadFile(Arc<dyn ReadFile>);

impl Storage for BadMedium {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.0.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        self.0.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.0.create(path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        Ok(Arc::new(BadFile(self.0.open(path)?)))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.rename_noreplace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.0.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.0.lock(path)
    }

    fn free_space(&self, dir: &Path) -> Result<u64> {
        self.0.free_space(dir)
    }
}

impl ReadFile for BadFile {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self.0.read_exact_at(offset, buffer) {
            Err(error) if error.is_medium_error() => {}
            result => return result,
        }
        for (piece, bytes) in buffer.chunks_mut(PIECE).enumerate() {
            match self.0.read_exact_at(offset + (piece * PIECE) as u64, bytes) {
                Err(error) if error.is_medium_error() => {
                    tracing::warn!(%error, "a page can not be read");
                    bytes.fill(0);
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn map(&self) -> Result<Option<Map>> {
        Ok(None)
    }
}
