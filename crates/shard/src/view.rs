//! What the four kinds of sealed files have in common: each is a view of a [`SealedFile`] that knows what its
//! sections mean.

use std::path::Path;

use plimsoll_base::Result;
use plimsoll_base::storage::Storage;

use crate::container::{DatabaseId, FileMeta, ReadMode, SealedFile};

/// A sealed file of one kind, opened. What is read for it does not grow with documents or rows.
pub trait SealedView: Sized {
    /// Takes a sealed file that is already open for one of this kind.
    ///
    /// # Errors
    /// `Corrupted` if it is of another kind, or if sections are missing or do not fit its counts.
    fn from_sealed(file: SealedFile) -> Result<Self>;

    /// The container.
    fn sealed(&self) -> &SealedFile;

    /// Opens the file that a manifest names.
    ///
    /// # Errors
    /// As [`SealedFile::open`] and [`SealedView::from_sealed`].
    fn open(
        storage: &dyn Storage,
        dir: &Path,
        meta: &FileMeta,
        database: DatabaseId,
        mode: ReadMode,
    ) -> Result<Self> {
        Self::from_sealed(SealedFile::open(storage, dir, meta, database, mode)?)
    }
}
