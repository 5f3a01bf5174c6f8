//! Reading a posting file in place.

use std::cmp::Ordering;
use std::ops::Range;

use plimsoll_base::codec::Decoder;
use plimsoll_base::{DocumentId, DocumentOrdinal, Result};

use super::{
    BLOOM, DOCUMENTS, DocumentEntry, DocumentRef, Documents, ID_TABLE, IdEntry, KEYS, METADATA, NORMS,
    PostingHeader, PostingRange, RANGES, RAW, ROW_DOCUMENT, RowsRef, TEXT,
};
use crate::container::{SealedFile, Section};
use crate::view::SealedView;

/// How often [`PostingFile::find`] guesses a place before it halves: ids are hashes, so that two or three
/// guesses do, but nothing promises that.
const GUESSES: u32 = 6;

/// An open posting file.
#[derive(Debug)]
pub struct PostingFile {
    pub(super) file: SealedFile,
    pub(super) header: PostingHeader,
    pub(super) sections: Sections,
}

#[derive(Debug)]
pub(super) struct Sections {
    pub(super) documents: Section,
    pub(super) keys: Section,
    pub(super) text: Section,
    pub(super) metadata: Section,
    pub(super) ranges: Section,
    pub(super) raw: Section,
    pub(super) norms: Section,
    pub(super) row_document: Section,
    pub(super) id_table: Section,
    pub(super) bloom: Section,
}

impl SealedView for PostingFile {
    fn from_sealed(file: SealedFile) -> Result<Self> {
        file.expect_kind(crate::SealedKind::Posting)?;
        let (meta, offset) = file.read_meta()?;
        let header = PostingHeader::decode(Decoder::new(&meta, file.path(), offset))?;
        // Fewer than 2^32 each, so that no product of three overflows.
        let (documents, rows, dimension) = (header.documents, header.rows, u64::from(header.info.dimension));
        let raw_len = rows.checked_mul(4).and_then(|bytes| bytes.checked_mul(dimension));
        let raw_len = raw_len.ok_or_else(|| file.damaged(offset, "impossible counts"))?;
        let sections = Sections {
            documents: file.section_of(DOCUMENTS, 0, documents * size_of::<DocumentEntry>() as u64)?,
            keys: file.section(KEYS, 0)?,
            text: file.section(TEXT, 0)?,
            metadata: file.section(METADATA, 0)?,
            ranges: file.section_of(RANGES, 0, rows * size_of::<PostingRange>() as u64)?,
            raw: file.section_of(RAW, 0, raw_len)?,
            norms: file.section_of(NORMS, 0, rows * 4)?,
            row_document: file.section_of(ROW_DOCUMENT, 0, rows * 4)?,
            id_table: file.section_of(ID_TABLE, 0, documents * size_of::<IdEntry>() as u64)?,
            bloom: file.section(BLOOM, 0)?,
        };
        Ok(Self { file, header, sections })
    }

    fn sealed(&self) -> &SealedFile {
        &self.file
    }
}

impl PostingFile {
    /// What the file says about itself.
    pub const fn header(&self) -> &PostingHeader {
        &self.header
    }

    /// The number of documents.
    pub const fn documents(&self) -> usize {
        self.header.documents as usize
    }

    /// The number of rows (postings).
    pub const fn rows(&self) -> u32 {
        self.header.rows as u32
    }

    /// The number of components of each vector.
    pub const fn dimension(&self) -> usize {
        self.header.info.dimension as usize
    }

    /// The first and the last document's ordinal, if there are documents.
    pub const fn ordinals(&self) -> Option<(DocumentOrdinal, DocumentOrdinal)> {
        self.header.ordinals
    }

    /// Entry `index` of the document table.
    ///
    /// # Errors
    /// `Corrupted` if a block that it touches is damaged, or there is no such document. So for all of the
    /// methods below.
    pub fn entry(&self, index: usize) -> Result<&DocumentEntry> {
        self.file.element(&self.sections.documents, index as u64)
    }

    /// The rows of document `index`, all of which the file has.
    pub fn rows_of(&self, index: usize) -> Result<Range<u32>> {
        let entry = self.entry(index)?;
        let rows = entry.rows();
        if rows.end > self.rows() || rows.end - rows.start != entry.postings() {
            let what = format!("document {index} has rows {rows:?} of {}", self.rows());
            return Err(self.file.damaged(self.sections.documents.offset, what));
        }
        Ok(rows)
    }

    /// The row of a posting of document `index`.
    pub fn row_of(&self, index: usize, posting: u16) -> Result<u32> {
        let rows = self.rows_of(index)?;
        if u32::from(posting) >= rows.end - rows.start {
            let what = format!("document {index} has no posting {posting}");
            return Err(self.file.damaged(self.sections.documents.offset, what));
        }
        Ok(rows.start + u32::from(posting))
    }

    /// The key of document `index`.
    pub fn key(&self, index: usize) -> Result<&[u8]> {
        let entry = self.entry(index)?;
        self.field(&self.sections.keys, entry.key_offset, entry.key_len)
    }

    /// The text of document `index`.
    pub fn text(&self, index: usize) -> Result<Option<&str>> {
        let entry = self.entry(index)?;
        let bytes = self.field(&self.sections.text, entry.text_offset, entry.text_len)?;
        if !entry.has_text() {
            return Ok(None);
        }
        let damaged = |error: std::str::Utf8Error| {
            let at = self.sections.text.offset + entry.text_offset + error.valid_up_to() as u64;
            self.file.damaged(at, error.to_string())
        };
        std::str::from_utf8(bytes).map(Some).map_err(damaged)
    }

    /// The metadata of document `index`.
    pub fn metadata(&self, index: usize) -> Result<&[u8]> {
        let entry = self.entry(index)?;
        self.field(&self.sections.metadata, entry.metadata_offset, entry.metadata_len)
    }

    fn field(&self, section: &Section, offset: u64, len: u32) -> Result<&[u8]> {
        self.file.bytes(section, offset..offset.saturating_add(u64::from(len)))
    }

    /// The ranges of document `index`, one for each of its rows.
    pub fn ranges(&self, index: usize) -> Result<&[PostingRange]> {
        self.file.view(&self.sections.ranges, wide(self.entry(index)?.rows()))
    }

    /// The range of row `row`.
    pub fn range(&self, row: u32) -> Result<PostingRange> {
        self.file.element(&self.sections.ranges, u64::from(row)).copied()
    }

    /// The vectors of `rows`, one after another.
    pub fn vectors(&self, rows: Range<u32>) -> Result<&[f32]> {
        let dimension = u64::from(self.header.info.dimension);
        let (start, end) = (u64::from(rows.start) * dimension, u64::from(rows.end) * dimension);
        self.file.view(&self.sections.raw, start..end)
    }

    /// The norms of the vectors of `rows`.
    pub fn norms(&self, rows: Range<u32>) -> Result<&[f32]> {
        self.file.view(&self.sections.norms, wide(rows))
    }

    /// The document of each of `rows`.
    pub fn row_documents(&self, rows: Range<u32>) -> Result<&[u32]> {
        self.file.view(&self.sections.row_document, wide(rows))
    }

    /// Asks for the entry of document `index` ahead of its use; see [`SealedFile::prefetch`].
    pub fn prefetch_entry(&self, index: usize) {
        let size = size_of::<DocumentEntry>() as u64;
        let start = index as u64 * size;
        self.file.prefetch(&self.sections.documents, start..start + size);
    }

    /// Asks for the vector of row `row` ahead of its use.
    pub fn prefetch_vector(&self, row: u32) {
        let (row, size) = (u64::from(row), u64::from(self.header.info.dimension) * 4);
        self.file.prefetch(&self.sections.raw, row * size..(row + 1) * size);
    }

    /// Asks for the range of row `row`, and for the key of its document, ahead of their use.
    pub fn prefetch_hit(&self, row: u32, entry: &DocumentEntry) {
        let row = u64::from(row);
        let size = size_of::<PostingRange>() as u64;
        self.file.prefetch(&self.sections.ranges, row * size..(row + 1) * size);
        self.file.prefetch(&self.sections.keys, entry.key_offset..entry.key_offset + 1);
    }

    /// Says that the vectors of `rows` will be read soon.
    pub fn will_need_vectors(&self, rows: Range<u32>) {
        let size = u64::from(self.header.info.dimension) * 4;
        self.file.will_need(&self.sections.raw, u64::from(rows.start) * size..u64::from(rows.end) * size);
    }

    /// The filter over the ids, as its maker gave it.
    pub fn bloom(&self) -> Result<&[u8]> {
        self.file.bytes(&self.sections.bloom, 0..self.sections.bloom.len)
    }

    /// The document with this id.
    pub fn find(&self, id: &DocumentId) -> Result<Option<usize>> {
        // Invariant: what is sought, if it is there, stands at `low` or above and below `high`, among ids
        // whose leading words lie from `least` to `most`.
        let (mut low, mut high) = (0, self.header.documents);
        let (mut least, mut most) = (0, u64::MAX);
        let wanted = leading_word(id);
        let mut guesses = GUESSES;
        while low < high {
            let middle = match guesses {
                0 => low + (high - low) / 2,
                _ => interpolate(low, high, least, most, wanted),
            };
            guesses = guesses.saturating_sub(1);
            let entry: &IdEntry = self.file.element(&self.sections.id_table, middle)?;
            match entry.id.cmp(id) {
                Ordering::Equal => return self.checked_index(entry.document).map(Some),
                Ordering::Less => (low, least) = (middle + 1, leading_word(&entry.id)),
                Ordering::Greater => (high, most) = (middle, leading_word(&entry.id)),
            }
        }
        Ok(None)
    }

    fn checked_index(&self, document: u32) -> Result<usize> {
        if u64::from(document) < self.header.documents {
            return Ok(document as usize);
        }
        let what = format!("the id table names document {document} of {}", self.header.documents);
        Err(self.file.damaged(self.sections.id_table.offset, what))
    }

    /// The document with this ordinal.
    pub fn index_of(&self, ordinal: DocumentOrdinal) -> Result<Option<usize>> {
        let Some((first, last)) = self.header.ordinals else { return Ok(None) };
        if ordinal < first || ordinal > last {
            return Ok(None);
        }
        // Each ordinal is greater than the one before, so that the distances to both ends bound the place.
        let documents = self.header.documents;
        let mut high = (ordinal.0 - first.0).min(documents - 1);
        let mut low = (documents - 1).saturating_sub(last.0 - ordinal.0);
        if last.0 - first.0 == documents - 1 {
            return Ok(Some(high as usize));
        }
        while low <= high {
            let middle = low + (high - low) / 2;
            match self.entry(middle as usize)?.ordinal.cmp(&ordinal) {
                Ordering::Equal => return Ok(Some(middle as usize)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater if middle == 0 => return Ok(None),
                Ordering::Greater => high = middle - 1,
            }
        }
        Ok(None)
    }
}

/// A posting file can be written again, for example together with others.
impl Documents for PostingFile {
    fn len(&self) -> usize {
        self.documents()
    }

    fn document(&self, index: usize) -> Result<DocumentRef<'_>> {
        let entry = self.entry(index)?;
        Ok(DocumentRef {
            ordinal: entry.ordinal(),
            id: entry.id(),
            version: entry.version(),
            key: self.key(index)?,
            text: self.text(index)?,
            metadata: self.metadata(index)?,
            ranges: self.ranges(index)?,
        })
    }

    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>> {
        let rows = self.entry(index)?.rows();
        Ok(RowsRef { vectors: self.vectors(rows.clone())?, norms: Some(self.norms(rows)?) })
    }
}

fn wide(range: Range<u32>) -> Range<u64> {
    u64::from(range.start)..u64::from(range.end)
}

/// The first eight bytes of an id, in the order in which ids are compared.
fn leading_word(id: &DocumentId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Where from `low` up to but not including `high` a word stands that is `wanted`, if words are spread
/// evenly from `least` to `most`.
fn interpolate(low: u64, high: u64, least: u64, most: u64, wanted: u64) -> u64 {
    let (span, above) = (most.saturating_sub(least), wanted.saturating_sub(least));
    let place = u128::from(high - low) * u128::from(above) / (u128::from(span) + 1);
    low + place.min(u128::from(high - low - 1)) as u64
}
