//! Identifiers as newtypes, so that no bare integer crosses a module border.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// Log sequence number: the place of a committed batch in the write-ahead log. The first batch of a
    /// database has LSN 1; 0 stands for "before everything".
    Lsn(u64)
);
id!(
    /// A collection; never reused, also not after the collection is dropped.
    CollectionId(u32)
);
id!(
    /// A shard of a collection: a group of neighbouring lists.
    ShardId(u32)
);
id!(
    /// An inverted list of the index; never reused within a collection.
    ListId(u32)
);
id!(
    /// A generation of a collection's index. Generation 0 has no lists: its rows are scanned exactly.
    Generation(u32)
);
id!(
    /// The number in a sealed file's name; never reused within a database.
    FileNumber(u64)
);
id!(
    /// One stored version of a document: assigned when it is flushed, in flush order, never reused within a
    /// collection. Kills name ordinals, and merging posting files keeps them, so neither compaction nor
    /// re-packing ever has to rename what a kill or a vector row points to.
    DocumentOrdinal(u64)
);

impl Lsn {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);

    /// The LSN after this one. There is none after `u64::MAX`, which only hostile bytes have: it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl DocumentOrdinal {
    /// The ordinal after this one. There is none after `u64::MAX`, which only hostile bytes have: it stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A document's identity: a 128-bit hash of its typed key, fixed on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct DocumentId(pub [u8; 16]);

impl DocumentId {
    /// The id as two little-endian words, for hashing structures that want its bits.
    pub fn words(self) -> (u64, u64) {
        let bits = u128::from_le_bytes(self.0);
        (bits as u64, (bits >> 64) as u64)
    }
}

impl fmt::Debug for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DocumentId({self})")
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// When a row came into being, or was killed: the batch's LSN and the operation's index in the batch (rule R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// The batch.
    pub lsn: Lsn,
    /// The operation within the batch, from 0.
    pub operation: u32,
}

impl Version {
    /// The version of operation `operation` of batch `lsn`.
    pub const fn new(lsn: Lsn, operation: u32) -> Self {
        Self { lsn, operation }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lsn, self.operation)
    }
}
