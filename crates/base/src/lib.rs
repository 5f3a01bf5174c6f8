//! The ground every other Plimsoll crate stands on: ids, the byte codec, checksums, the file header, error
//! kinds, and the one seam through which all input and output goes.
//!
//! **Owns** the [`storage::Storage`] trait with its operating-system implementation, the layout of the
//! 64-byte [`header::FileHeader`], and the little-endian codec. **Must not know** what a log record, a shard,
//! a manifest or a query is. **On a crash** it promises only what the storage trait states, method by method.

#![deny(unsafe_code)]

pub mod aligned;
pub mod arena;
pub mod checksum;
pub mod clock;
pub mod codec;
mod error;
pub mod header;
mod ids;
mod metric;
pub mod mutant;
pub mod storage;
pub mod sync;

pub use error::{Result, StorageError};
pub use ids::{
    CollectionId, DocumentId, DocumentOrdinal, FileNumber, Generation, ListId, Lsn, ShardId, Version,
};
pub use metric::Metric;
