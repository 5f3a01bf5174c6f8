//! The bytes of every sealed data file: posting, vector, kill and index files.
//!
//! **Owns** the [`container`] that all of them share (header, aligned sections, checksums, footer), each
//! format's layout (its module is its one specification), their [`names`], and their [`mod@describe`] listing.
//! **Must not know** the log, the index's decisions, the manifest's encoding or what a query is: bloom filters
//! and centroids are opaque here, and which file is live is someone else's knowledge. **On a crash** a file
//! either has its final name and all of its bytes, or only a temporary name that nothing refers to; a final
//! name is durable once its [`container::PendingFile`] went through [`container::commit_files`].
//!
//! Sealed files are written once and never changed. Everything read back is untrusted: lengths and offsets
//! are checked, bytes are verified against their block's checksum before anyone sees them, and damage is a
//! typed [`StorageError::Corrupted`](plimsoll_base::StorageError::Corrupted) naming file and offset.

#![forbid(unsafe_code)]

pub mod container;
pub mod describe;
pub mod index_file;
pub mod kill;
pub mod names;
pub mod posting;
pub mod vector;
mod view;

pub use container::{
    DatabaseId, FileMeta, NamedFiles, PendingFile, ReadMode, SealedFile, SealedWriter, Section, SectionKind,
    SyncedFiles, commit_files, sync_files,
};
pub use describe::{Description, describe, verify_file};
pub use index_file::{IndexFile, IndexHeader, IndexList, Rotation, StopRule};
pub use kill::{KillFile, KillHeader};
pub use names::{FileName, SealedKind};
pub use posting::{DocumentEntry, DocumentRef, Documents, PostingFile, PostingInfo, PostingRange, RowsRef};
pub use vector::{
    CodeLengths, CodedRows, ListEntry, ListRows, SegmentKind, VectorFile, VectorInfo, VectorWriter,
};
pub use view::SealedView;

// Sections are viewed as slices of little-endian numbers without conversion.
const _: () =
    assert!(cfg!(target_endian = "little"), "Plimsoll's files are read in place: little-endian only");
