//! A simulated disk that loses what was not synced.
//!
//! [`SimStorage`] is an in-memory [`Storage`](plimsoll_base::storage::Storage). Every call that changes
//! something is numbered and logged, so a test can cut the power before any of them
//! ([`SimStorage::crash_at`]), open a disk in a state the cut may legally have left behind
//! ([`SimStorage::after_crash`]), go through all such states ([`SimStorage::moments`], [`Moment::pending`]), let calls fail ([`SimStorage::fail_operation`],
//! [`SimStorage::fail_next`]), fill the disk ([`SimStorage::set_capacity`]), and damage files at rest
//! ([`SimStorage::flip_bit`]). It also watches the protocol: [`SimStorage::violations`].
//!
//! **Owns** the model of what a crash may undo: the page cache of each inode, the names of each directory,
//! and which of them a sync has made durable. **Must not know** what any file means. Everything is
//! deterministic: the same calls and the same seed give the same disk.
//!
//! ```
//! use plimsoll_base::storage::Storage;
//! use plimsoll_sim::{CrashPolicy, SimStorage};
//! use std::path::Path;
//!
//! # fn main() -> Result<(), plimsoll_base::StorageError> {
//! let disk = SimStorage::new();
//! disk.create_dir(Path::new("/db"))?;
//! disk.sync_dir(Path::new("/"))?;
//! let mut file = disk.create(Path::new("/db/a"))?;
//! disk.sync_dir(Path::new("/db"))?;
//! file.append(b"synced ")?;
//! file.sync()?;
//! file.append(b"not synced")?;
//!
//! let after = disk.after_crash(CrashPolicy::LoseAll);
//! assert_eq!(after.bytes("/db/a").as_deref(), Some(&b"synced "[..]));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod clock;
mod content;
mod crash;
mod disk;
mod fault;
mod gate;
mod handle;
mod inspect;
mod moment;
mod names;
mod operation;
mod protocol;
mod random;
mod state;
mod storage;

pub use clock::SimClock;
pub use crash::{CrashPolicy, DirectoryModel, SECTOR};
pub use fault::{Failure, Times};
pub use gate::HeldSyncs;
pub use moment::{Moment, PendingChange, PendingKind};
pub use operation::{Operation, OperationKind};
pub use storage::SimStorage;
