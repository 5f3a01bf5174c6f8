//! A little disk kept back for what gives space: a flush, a compaction, a delete, a close (rule R16).
//!
//! The reserve is a preallocated file. When one of these meets a full disk, the file is removed and the work
//! tried once more; when there is room again, it is put back. The log keeps a spare segment of its own.

use std::path::{Path, PathBuf};

use plimsoll_base::StorageError;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Storage;
use plimsoll_base::sync::atomic::{AtomicBool, Ordering};

use crate::core::Core;
use crate::error::{Error, Result};

/// The name of the reserve in the database's directory.
pub(crate) const RESERVE_NAME: &str = "RESERVE";
/// Room for a kill file, a manifest, and the smallest compaction.
pub(crate) const RESERVE_BYTES: u64 = 4 << 20;

/// The reserve of one database.
pub(crate) struct Reserve {
    path: PathBuf,
    held: AtomicBool,
}

impl Reserve {
    /// The reserve in `dir`; `held` if it is there already.
    pub(crate) fn new(dir: &Path, held: bool) -> Self {
        Self { path: dir.join(RESERVE_NAME), held: AtomicBool::new(held) }
    }

    /// Does `work`; if the disk is full, gives the reserve up and does it again.
    pub(crate) fn spend_when_full<T>(&self, core: &Core, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(Error::Storage(error))
                if error.is_storage_full() && self.held.swap(false, Ordering::AcqRel) =>
            {
                tracing::warn!(%error, "the disk is full; spending the reserve");
                core.storage.remove(&self.path)?;
                work()
            }
            result => {
                if result.is_ok() {
                    self.replenish(&core.storage);
                }
                result
            }
        }
    }

    /// Puts the reserve back if it was spent and there is room for it several times over.
    pub(crate) fn replenish(&self, storage: &dyn Storage) {
        if self.held.load(Ordering::Acquire) || mutant::is(Mutant::NoReserve) {
            return;
        }
        let room = |dir: &Path| storage.free_space(dir).is_ok_and(|free| free > 4 * RESERVE_BYTES);
        if self.path.parent().is_some_and(room)
            && !self.held.swap(true, Ordering::AcqRel)
            && let Err(error) = self.create(storage)
        {
            tracing::debug!(%error, "no reserve could be kept");
            self.held.store(false, Ordering::Release);
        }
    }

    fn create(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        let mut file = storage.create(&self.path)?;
        file.preallocate(RESERVE_BYTES)?;
        file.sync()
    }
}
