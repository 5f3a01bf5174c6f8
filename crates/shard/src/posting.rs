//! Posting files: the home of documents (rule R11). Keys, texts, metadata, ranges and raw vectors, one entry
//! of the document table each, in the order of their ordinals.
//!
//! **Owns** the layout below, its writer and its reader. **Must not know** shards, lists or codes (vector
//! segments refer to a document by its ordinal), what metadata means, or how the bloom filter is made: both
//! are opaque. **On a crash**: a sealed file, see [`crate::container`].
//!
//! # Layout, version 1
//! A container with these sections, all of owner 0. `n` is the number of documents, `r` of rows (postings),
//! `d` the dimension. Arrays are indexed by document or row, from 0.
//! ```text
//! kind  name          length     content
//!    1  META          76         below
//!  101  DOCUMENTS     96 n       the document table, by ascending ordinal
//!  102  KEYS                     the documents' original keys, one after another
//!  103  TEXT                     the texts, UTF-8, one after another
//!  104  METADATA                 the metadata, one after another
//!  105  RANGES        8 r        {start u32, length u32}: the bytes of the text that the posting is about
//!  106  RAW           4 d r      f32 per component: the input's bits
//!  107  NORMS         4 r        f32: the Euclidean norm, from squares summed in f64
//!  108  ROW_DOCUMENT  4 r        u32: the document of each row
//!  109  ID_TABLE      20 n       {DocumentId 16 bytes, document u32}, by ascending id (bytes compared)
//!  110  BLOOM                    a filter over the ids
//!
//! META                                          an entry of DOCUMENTS
//! offset size field                             offset size field
//!      0    4 collection                             0    8 ordinal
//!      4    4 dimension                              8   16 document id
//!      8    1 metric (Metric::code)                 24    8 version: LSN
//!      9    1 element type: 1, f32                  32    4 version: operation
//!     10    6 reserved, zero                        36    4 flags: bit 0, the document has a text
//!     16    8 documents                             40    8 key: offset in KEYS
//!     24    8 rows                                  48    8 text: offset in TEXT
//!     32    8 first ordinal (0 if no documents)     56    8 metadata: offset in METADATA
//!     40    8 last ordinal  (0 if no documents)     64    4 key: length
//!     48    8 first LSN                             68    4 text: length
//!     56    8 last LSN                              72    4 metadata: length
//!     64    8 reserved, zero                        76    4 first row
//!     72    4 CRC-32 of bytes 0 to 71               80    4 postings: number of rows from the first
//!                                                   84   12 reserved, zero (an expiry time goes here)
//! ```
//! Entries cover KEYS, TEXT, METADATA and the rows without gaps, in order. A file that was merged from
//! several has holes in its ordinals. No id occurs twice. There are fewer than 2³² documents and rows.
//! An empty text and no text differ in the flag.

mod reader;
mod verify;
mod writer;

use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::{CollectionId, DocumentId, DocumentOrdinal, Lsn, Metric, Result, Version};

use crate::container::{SectionKind, seal_meta};

pub use reader::PostingFile;
pub use writer::{Documents, norm, write_posting_file};

/// The newest version of the format.
pub const VERSION: u16 = 2;

/// The document table.
pub const DOCUMENTS: SectionKind = SectionKind(101);
/// The documents' original keys.
pub const KEYS: SectionKind = SectionKind(102);
/// The documents' texts.
pub const TEXT: SectionKind = SectionKind(103);
/// The documents' metadata.
pub const METADATA: SectionKind = SectionKind(104);
/// The range of the text that each row is about.
pub const RANGES: SectionKind = SectionKind(105);
/// The vectors.
pub const RAW: SectionKind = SectionKind(106);
/// The vectors' norms.
pub const NORMS: SectionKind = SectionKind(107);
/// The document of each row.
pub const ROW_DOCUMENT: SectionKind = SectionKind(108);
/// The documents by their ids.
pub const ID_TABLE: SectionKind = SectionKind(109);
/// A filter over the ids.
pub const BLOOM: SectionKind = SectionKind(110);

/// The format's sections and their names.
pub(crate) const SECTIONS: &[(SectionKind, &str)] = &[
    (DOCUMENTS, "DOCUMENTS"),
    (KEYS, "KEYS"),
    (TEXT, "TEXT"),
    (METADATA, "METADATA"),
    (RANGES, "RANGES"),
    (RAW, "RAW"),
    (NORMS, "NORMS"),
    (ROW_DOCUMENT, "ROW_DOCUMENT"),
    (ID_TABLE, "ID_TABLE"),
    (BLOOM, "BLOOM"),
];

const ELEMENT_F32: u8 = 1;
const HAS_TEXT: u32 = 1;

/// What the writer of a posting file is told about all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostingInfo {
    /// Whose documents these are.
    pub collection: CollectionId,
    /// The number of components of each vector; 0 only for a file without rows.
    pub dimension: u32,
    /// The collection's metric.
    pub metric: Metric,
    /// No document of the file is older than this batch.
    pub first_lsn: Lsn,
    /// No document of the file is newer than this batch.
    pub last_lsn: Lsn,
}

/// What a posting file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostingHeader {
    /// What the writer was told.
    pub info: PostingInfo,
    /// The number of documents.
    pub documents: u64,
    /// The number of rows (postings).
    pub rows: u64,
    /// The first and the last document's ordinal; `None` if there are no documents.
    pub ordinals: Option<(DocumentOrdinal, DocumentOrdinal)>,
}

impl PostingHeader {
    fn encode(&self) -> Vec<u8> {
        let (first, last) = self.ordinals.unwrap_or_default();
        let mut encoder = Encoder::new();
        encoder.u32(self.info.collection.0).u32(self.info.dimension);
        encoder.u8(self.info.metric.code()).u8(ELEMENT_F32).raw(&[0; 6]);
        encoder.u64(self.documents).u64(self.rows).u64(first.0).u64(last.0);
        encoder.u64(self.info.first_lsn.0).u64(self.info.last_lsn.0).u64(0);
        seal_meta(encoder)
    }

    fn decode(mut decoder: Decoder<'_>) -> Result<Self> {
        let (collection, dimension) = (CollectionId(decoder.u32()?), decoder.u32()?);
        let at = decoder.clone();
        let metric = decoder.u8()?;
        let metric =
            Metric::from_code(metric).ok_or_else(|| at.corrupted(format!("unknown metric {metric}")))?;
        let (element, reserved) = (decoder.u8()?, decoder.array::<6>()?);
        if element != ELEMENT_F32 || reserved != [0; 6] {
            return Err(at.corrupted("an unknown element type, or reserved bytes that are not zero"));
        }
        let (documents, rows) = (decoder.u64()?, decoder.u64()?);
        let (first, last) = (DocumentOrdinal(decoder.u64()?), DocumentOrdinal(decoder.u64()?));
        let (first_lsn, last_lsn) = (Lsn(decoder.u64()?), Lsn(decoder.u64()?));
        if decoder.u64()? != 0 {
            return Err(at.corrupted("reserved bytes that are not zero"));
        }
        decoder.finish()?;
        let limit = u64::from(u32::MAX);
        if documents > limit || rows > limit || (dimension == 0 && rows > 0) || first_lsn > last_lsn {
            return Err(at.corrupted("impossible counts or LSNs"));
        }
        let holds = last.0.checked_sub(first.0).is_some_and(|span| documents == 0 || span >= documents - 1);
        if !holds || (documents == 0 && (first, last) != Default::default()) {
            return Err(at.corrupted(format!("{documents} documents with ordinals {first} to {last}")));
        }
        let info = PostingInfo { collection, dimension, metric, first_lsn, last_lsn };
        Ok(Self { info, documents, rows, ordinals: (documents > 0).then_some((first, last)) })
    }
}

/// An entry of the document table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct DocumentEntry {
    ordinal: DocumentOrdinal,
    id: DocumentId,
    lsn: Lsn,
    operation: u32,
    flags: u32,
    key_offset: u64,
    text_offset: u64,
    metadata_offset: u64,
    key_len: u32,
    text_len: u32,
    metadata_len: u32,
    first_row: u32,
    postings: u32,
    reserved: [u8; 12],
}

const _: () = assert!(size_of::<DocumentEntry>() == 96);

impl DocumentEntry {
    /// The document's ordinal.
    pub const fn ordinal(&self) -> DocumentOrdinal {
        self.ordinal
    }

    /// The document's id.
    pub const fn id(&self) -> DocumentId {
        self.id
    }

    /// When this version of the document was written.
    pub const fn version(&self) -> Version {
        Version::new(self.lsn, self.operation)
    }

    /// Whether the document has a text, if only an empty one.
    pub const fn has_text(&self) -> bool {
        self.flags & HAS_TEXT != 0
    }

    /// The length of the key in bytes.
    pub const fn key_len(&self) -> u32 {
        self.key_len
    }

    /// The length of the text in bytes.
    pub const fn text_len(&self) -> u32 {
        self.text_len
    }

    /// The length of the metadata in bytes.
    pub const fn metadata_len(&self) -> u32 {
        self.metadata_len
    }

    /// The document's first row.
    pub const fn first_row(&self) -> u32 {
        self.first_row
    }

    /// The number of the document's rows.
    pub const fn postings(&self) -> u32 {
        self.postings
    }

    /// The document's rows.
    pub const fn rows(&self) -> std::ops::Range<u32> {
        self.first_row..self.first_row.saturating_add(self.postings)
    }
}

/// The part of a document's text that a posting is about, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PostingRange {
    /// The first byte, on a character boundary.
    pub start: u32,
    /// The number of bytes, up to a character boundary.
    pub length: u32,
}

const _: () = assert!(size_of::<PostingRange>() == 8);

/// An entry of the id table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct IdEntry {
    id: DocumentId,
    document: u32,
}

const _: () = assert!(size_of::<IdEntry>() == 20);

/// A document without its vectors, as it is written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentRef<'a> {
    /// Its ordinal, greater than that of the document before it.
    pub ordinal: DocumentOrdinal,
    /// Its id, which no other document of the file has.
    pub id: DocumentId,
    /// When this version of it was written.
    pub version: Version,
    /// Its key, as the caller gave it (opaque here).
    pub key: &'a [u8],
    /// Its text.
    pub text: Option<&'a str>,
    /// Its metadata (opaque here).
    pub metadata: &'a [u8],
    /// One range for each posting.
    pub ranges: &'a [PostingRange],
}

/// The vectors of a document's postings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowsRef<'a> {
    /// The vectors, one after another.
    pub vectors: &'a [f32],
    /// Their norms as [`norm`] computes them; `None` to have them computed.
    pub norms: Option<&'a [f32]>,
}
