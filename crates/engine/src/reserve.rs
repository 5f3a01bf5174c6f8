//! A little disk kept back for what gives space: a flush, a compaction, a delete, a close (rule R16).
//!
//! The reserve is a preallocated file. When one of these meets a full disk, the file is replaced by an empty one and
//! the work tried once more. From then on, also after a reopening, other writes are refused while no more than the
//! reserve is free, or they would take what was kept back from them; once there is room for it several times over, it
//! is put back. The log keeps a spare segment of its own. Where there never was room for a reserve, there is none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use plimsoll_base::StorageError;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Storage;
use plimsoll_base::sync::Mutex;
use plimsoll_base::sync::atomic::{AtomicBool, Ordering};

use crate::core::{Core, lock};
use crate::error::{Error, Result};

/// The name of the reserve in the database's directory.
pub(crate) const RESERVE_NAME: &str = "RESERVE";
/// Room for a kill file, a manifest, and the smallest compaction.
pub(crate) const RESERVE_BYTES: u64 = 4 << 20;
/// The reserve is put back when more than this is free.
const ROOM: u64 = 4 * RESERVE_BYTES;

/// The reserve of one database.
pub(crate) struct Reserve {
    path: PathBuf,
    state: Mutex<ReserveState>,
    is_spent: AtomicBool,
}

/// What has become of the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReserveState {
    /// There never was one.
    #[default]
    Never,
    Held,
    /// The empty file that says so is there, if there was room for it.
    Spent,
}

impl ReserveState {
    /// What a file of that length says.
    pub(crate) fn of_length(len: u64) -> Self {
        match len {
            RESERVE_BYTES => Self::Held,
            _ => Self::Spent,
        }
    }
}

/// What is said when only the reserve would be left to write to.
const FULL: &str =
    "the disk is full; deletes, flushes and compaction go on, other writes when more than 4 MiB are free";

impl Reserve {
    /// The reserve in `dir`, as it was found.
    pub(crate) fn new(dir: &Path, state: ReserveState) -> Self {
        let is_spent = AtomicBool::new(state == ReserveState::Spent);
        Self { path: dir.join(RESERVE_NAME), state: Mutex::new(state), is_spent }
    }

    /// Refuses what may not spend the reserve while it is spent and no more than it is free.
    ///
    /// # Errors
    /// `StorageFull`.
    pub(crate) fn check(&self, storage: &dyn Storage) -> Result<()> {
        if self.is_spent.load(Ordering::Acquire) && !mutant::is(Mutant::WritersSpendReserve) {
            self.replenish(storage);
            let dir = self.path.parent().unwrap_or(&self.path);
            if self.is_spent.load(Ordering::Acquire) && storage.free_space(dir)? <= RESERVE_BYTES {
                let full = std::io::Error::new(ErrorKind::StorageFull, FULL);
                return Err(StorageError::io("store in", dir, full).into());
            }
        }
        Ok(())
    }

    /// Does `work`; if the disk is full, gives the reserve up and does it again.
    pub(crate) fn spend_when_full<T>(&self, core: &Core, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(Error::Storage(error)) if error.is_storage_full() && self.spend(&core.storage)? => {
                tracing::warn!(%error, "the disk was full; the reserve is spent");
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

    /// Gives the reserve up; says whether there was one.
    fn spend(&self, storage: &dyn Storage) -> Result<bool> {
        let mut state = lock(&self.state);
        if *state != ReserveState::Held {
            return Ok(false);
        }
        storage.remove(&self.path)?;
        *state = ReserveState::Spent;
        self.is_spent.store(true, Ordering::Release);
        self.note_spent(storage);
        Ok(true)
    }

    /// Says to the next opening that the reserve is spent.
    fn note_spent(&self, storage: &dyn Storage) {
        if let Err(error) = storage.create(&self.path) {
            tracing::debug!(%error, "the next opening will not know that the reserve is spent");
        }
    }

    /// Puts the reserve back if it is not there and there is room for it several times over.
    pub(crate) fn replenish(&self, storage: &dyn Storage) {
        let mut state = lock(&self.state);
        if *state == ReserveState::Held || mutant::is(Mutant::NoReserve) {
            return;
        }
        let room = |dir: &Path| storage.free_space(dir).is_ok_and(|free| free > ROOM);
        if !self.path.parent().is_some_and(room) {
            return;
        }
        match self.create(storage) {
            Ok(()) => {
                *state = ReserveState::Held;
                self.is_spent.store(false, Ordering::Release);
            }
            Err(error) => {
                tracing::debug!(%error, "no reserve could be kept");
                if self.remove(storage).is_ok() && *state == ReserveState::Spent {
                    self.note_spent(storage);
                }
            }
        }
    }

    fn create(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        self.remove(storage)?;
        let mut file = storage.create(&self.path)?;
        file.preallocate(RESERVE_BYTES)?;
        file.sync()
    }

    fn remove(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        match storage.remove(&self.path) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
