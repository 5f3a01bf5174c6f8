//! Vector segments: which rows each shard and list has (rule R13). A row is a posting of a document, named by
//! the document's ordinal and the posting's number; what a document holds is in the posting files.
//!
//! **Owns** the layout below, its writer and its reader. **Must not know** distances, centroids, or how rows
//! came to their lists. **On a crash**: a sealed file, see [`crate::container`].
//!
//! # Layout, version 1
//! A container with these sections; those of a shard have its id as their owner, META has owner 0. `l` is
//! the number of lists of the shard, `r` of its rows.
//! ```text
//! kind  name      length  content
//!  201  LISTS       16 l  {list u32, first slot u32, first row u32, rows u32}, by ascending list
//!  202  ORDINALS     8 r  u64: the document of each row
//!  203  POSTINGS     2 r  u16: the posting of the document, from 0
//!  204  SIGNS        s b  the sign codes, by slot, in `b` blocks of 32 slots; absent without codes
//!  205  PLANE        p r  the 8-bit record of each row; absent without codes
//!  206  REFINEMENTS  q r  what refines each row's record (`q` = `p` - 8); absent without codes, where they have no use for it, and in
//!                         files of before there was any
//!  207  RADII        4 l  f32: how far a row of each list is from the list's centroid at most; absent where they have no use for
//!                         it, and in files of before there was any
//!    1  META          60  below
//!
//! META
//! offset size field
//!      0    4 collection
//!      4    4 generation of the index whose lists these are
//!      8    1 kind: 1 delta, 2 base
//!      9    7 reserved, zero
//!     16    8 shards
//!     24    8 rows of all shards
//!     32    8 first ordinal, of all rows (0 if there are none)
//!     40    8 last ordinal
//!     48    4 length of a block of SIGNS, 0 without codes
//!     52    4 length of a record of PLANE, 0 without codes
//!     56    4 CRC-32 of bytes 0 to 55
//! ```
//! Rows are numbered within their shard, in the order of its lists, without gaps: the rows of a list are
//! `first row` to `first row + rows - 1`, and no row array is stored. A list without rows is left out.
//!
//! *Slots* number the places of a shard's rows in code sections, which stand in blocks of 32. In a delta
//! segment lists are packed densely: slot and row are the same number, and lanes of a block that belong to
//! another list are masked. In a base segment each list starts on a block: its first slot is the next
//! multiple of 32, and the slots after a list's last row are empty.
//!
//! In generation 0 there are no lists: each shard has the one pseudo list 0.
//!
//! Codes are opaque here: how long a block of signs and a record are (`s` and `p`) is what their maker says, in META.
//! They can be made anew from the raw vectors of the posting files, and a reader does without them where they
//! are absent, so that they have no feature bit.

mod coded;
mod reader;
mod writer;

use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::{CollectionId, DocumentOrdinal, Generation, ListId, Result};

use crate::container::{SectionKind, seal_meta};

pub use coded::CodedRows;
pub use reader::VectorFile;
pub use writer::{ListRows, VectorWriter};

/// The newest version of the format.
pub const VERSION: u16 = 2;
/// A base segment's lists start at multiples of this many slots.
pub const BLOCK_SLOTS: u32 = 32;

/// A shard's directory of lists.
pub const LISTS: SectionKind = SectionKind(201);
/// The document of each row.
pub const ORDINALS: SectionKind = SectionKind(202);
/// The posting of the document of each row.
pub const POSTINGS: SectionKind = SectionKind(203);

/// Blocks of sign codes.
pub const SIGNS: SectionKind = SectionKind(204);
/// The 8-bit record of each row.
pub const PLANE: SectionKind = SectionKind(205);
/// What refines the record of each row.
pub const REFINEMENTS: SectionKind = SectionKind(206);
/// How far the rows of each list are from its centroid at most.
pub const RADII: SectionKind = SectionKind(207);

/// The format's sections and their names.
pub(crate) const SECTIONS: &[(SectionKind, &str)] = &[
    (LISTS, "LISTS"),
    (ORDINALS, "ORDINALS"),
    (POSTINGS, "POSTINGS"),
    (SIGNS, "SIGNS"),
    (PLANE, "PLANE"),
    (REFINEMENTS, "REFINEMENTS"),
    (RADII, "RADII"),
];

/// How a segment places its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentKind {
    /// The rows of one flush, lists packed densely.
    Delta = 1,
    /// The rows of a compaction, lists starting on blocks.
    Base = 2,
}

impl SegmentKind {
    /// The kind's name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Base => "base",
        }
    }

    /// Where the next list begins when `slots` are taken; `None` beyond 2³² slots.
    const fn next_list(self, slots: u32) -> Option<u32> {
        match self {
            Self::Delta => Some(slots),
            Self::Base => slots.checked_next_multiple_of(BLOCK_SLOTS),
        }
    }
}

/// What the writer of a segment is told about all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorInfo {
    /// Whose rows these are.
    pub collection: CollectionId,
    /// The generation of the index whose lists these are.
    pub generation: Generation,
    /// How lists are placed.
    pub kind: SegmentKind,
    /// How long the codes of every shard's rows are, if they have codes.
    pub codes: Option<CodeLengths>,
}

/// How long codes are, which their maker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLengths {
    /// The bytes of a block of [`BLOCK_SLOTS`] sign codes.
    pub block: u32,
    /// The bytes of a row's record in the plane.
    pub record: u32,
}

impl CodeLengths {
    /// The bytes of what refines a record: as many as the record has behind its header of 8 bytes.
    pub const fn refinement(self) -> u32 {
        self.record.saturating_sub(8)
    }
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorHeader {
    /// What the writer was told.
    pub info: VectorInfo,
    /// The number of shards.
    pub shards: u64,
    /// The number of rows of all shards.
    pub rows: u64,
    /// The least and the greatest ordinal; `None` if there are no rows.
    pub ordinals: Option<(DocumentOrdinal, DocumentOrdinal)>,
}

impl VectorHeader {
    fn encode(&self) -> Vec<u8> {
        let (first, last) = self.ordinals.unwrap_or_default();
        let mut encoder = Encoder::new();
        encoder.u32(self.info.collection.0).u32(self.info.generation.0);
        encoder.u8(self.info.kind as u8).raw(&[0; 7]);
        let CodeLengths { block, record } = self.info.codes.unwrap_or(CodeLengths { block: 0, record: 0 });
        encoder.u64(self.shards).u64(self.rows).u64(first.0).u64(last.0).u32(block).u32(record);
        seal_meta(encoder)
    }

    fn decode(mut decoder: Decoder<'_>) -> Result<Self> {
        let (collection, generation) = (CollectionId(decoder.u32()?), Generation(decoder.u32()?));
        let at = decoder.clone();
        let kind = match decoder.u8()? {
            1 => SegmentKind::Delta,
            2 => SegmentKind::Base,
            other => return Err(at.corrupted(format!("unknown kind of segment {other}"))),
        };
        let reserved = decoder.array::<7>()?;
        let (shards, rows) = (decoder.u64()?, decoder.u64()?);
        let (first, last) = (DocumentOrdinal(decoder.u64()?), DocumentOrdinal(decoder.u64()?));
        if reserved != [0; 7] {
            return Err(at.corrupted("reserved bytes that are not zero"));
        }
        let codes = match (decoder.u32()?, decoder.u32()?) {
            (0, 0) => None,
            (block, record) if block > 0 && record > 0 => Some(CodeLengths { block, record }),
            lengths => return Err(at.corrupted(format!("impossible lengths of codes: {lengths:?}"))),
        };
        decoder.finish()?;
        if first > last || (rows == 0 && last.0 != 0) {
            return Err(at.corrupted(format!("{rows} rows with ordinals {first} to {last}")));
        }
        let info = VectorInfo { collection, generation, kind, codes };
        Ok(Self { info, shards, rows, ordinals: (rows > 0).then_some((first, last)) })
    }
}

/// An entry of a shard's directory of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ListEntry {
    /// The list.
    pub list: ListId,
    /// The place of its first row in code sections.
    pub first_slot: u32,
    /// Its first row.
    pub first_row: u32,
    /// The number of its rows.
    pub rows: u32,
}

const _: () = assert!(size_of::<ListEntry>() == 16);
