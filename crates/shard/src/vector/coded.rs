//! The coded rows of one shard of a segment, as a search looks at them: what is the same for all of its lists and
//! rows is looked up once.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_base::{DocumentOrdinal, ListId, Result};

use super::reader::ShardSections;
use super::{BLOCK_SLOTS, CodeLengths, ListEntry};
use crate::container::{SealedFile, Section};

/// How much a search asks for beyond what it needs, until all codes were asked for: at this size the disk takes about as
/// long for it as for the search's own reads.
const ASKED_AT_ONCE: u64 = 512 << 10;
/// Of a larger part, the rest comes as it is needed: it might not fit into memory.
const ASKED_AT_MOST: u64 = 256 << 20;

/// The codes of one shard's rows, with its lists and the rows' documents.
#[derive(Debug, Clone, Copy)]
pub struct CodedRows<'a> {
    pub(super) file: &'a SealedFile,
    pub(super) sections: &'a ShardSections,
    pub(super) lists: &'a [ListEntry],
    pub(super) signs: &'a Section,
    pub(super) plane: &'a Section,
    pub(super) lengths: CodeLengths,
}

impl<'a> CodedRows<'a> {
    /// The file.
    pub fn file(&self) -> &'a SealedFile {
        self.file
    }

    /// The entry of one list.
    #[inline]
    pub fn list(&self, list: ListId) -> Option<ListEntry> {
        self.sections.find_list(self.lists, list)
    }

    /// Some blocks of signs, one after another, on a boundary of 64 bytes if blocks have a multiple of that length.
    ///
    /// # Errors
    /// `Corrupted` if a block of the file that is touched is damaged, or there are no such blocks.
    #[inline]
    pub fn blocks(&self, blocks: Range<u32>) -> Result<&'a [u8]> {
        let at = |block: u32| u64::from(block) * u64::from(self.lengths.block);
        self.file.bytes(self.signs, at(blocks.start)..at(blocks.end))
    }

    /// Asks the disk for the signs of a list ahead of their use, as far as they were never touched; see
    /// [`SealedFile::ask_for`].
    #[inline]
    pub fn ask_for(&self, list: &ListEntry) {
        let block = |slot: u32| u64::from(slot) / u64::from(BLOCK_SLOTS) * u64::from(self.lengths.block);
        let end = list.first_slot.saturating_add(list.rows).saturating_add(BLOCK_SLOTS - 1);
        self.file.ask_for(self.signs, block(list.first_slot)..block(end));
    }

    /// Whether the disk was asked for all signs.
    pub fn all_signs_were_asked_for(&self) -> bool {
        self.sections.asked.load(Relaxed) >= self.signs.len
    }

    /// Asks the disk for some more of the signs, or of the records once it was asked for all signs: so the codes come into
    /// memory in large pieces while searches pick what they need. Most of the time that was done before.
    #[inline]
    pub fn ask_for_more(&self) {
        if self.sections.asked.load(Relaxed) < self.codes_len().min(ASKED_AT_MOST) {
            self.ask_for_next();
        }
    }

    fn codes_len(&self) -> u64 {
        self.signs.len.saturating_add(self.plane.len)
    }

    #[cold]
    fn ask_for_next(&self) {
        let at = self.sections.asked.fetch_add(ASKED_AT_ONCE, Relaxed);
        let end = at.saturating_add(ASKED_AT_ONCE);
        self.file.ask_for(self.signs, at..end);
        let in_plane = |at: u64| at.saturating_sub(self.signs.len);
        self.file.ask_for(self.plane, in_plane(at)..in_plane(end));
    }

    /// The record of a row.
    ///
    /// # Errors
    /// As [`CodedRows::blocks`].
    #[inline]
    pub fn record(&self, row: u32) -> Result<&'a [u8]> {
        self.file.bytes(self.plane, self.record_range(row))
    }

    /// How many rows there are.
    pub fn row_count(&self) -> u32 {
        self.sections.rows() as u32
    }

    /// The records of some rows, one after another, and how long each is.
    ///
    /// # Errors
    /// As [`CodedRows::blocks`].
    pub fn records(&self, rows: Range<u32>) -> Result<(&'a [u8], usize)> {
        let len = u64::from(self.lengths.record);
        let range = u64::from(rows.start) * len..u64::from(rows.end) * len;
        Ok((self.file.bytes(self.plane, range)?, self.lengths.record as usize))
    }

    /// Asks for the record of a row ahead of its use; see [`SealedFile::prefetch`].
    #[inline]
    pub fn prefetch_record(&self, row: u32) {
        self.file.prefetch(self.plane, self.record_range(row));
    }

    /// Whether records have refinements.
    pub fn has_refinements(&self) -> bool {
        self.sections.refinements.is_some()
    }

    /// What refines the record of a row, if anything does.
    ///
    /// # Errors
    /// As [`CodedRows::blocks`].
    #[inline]
    pub fn refinement(&self, row: u32) -> Result<Option<&'a [u8]>> {
        let Some(section) = &self.sections.refinements else { return Ok(None) };
        self.file.bytes(section, self.refinement_range(row)).map(Some)
    }

    /// Asks for what refines the record of a row ahead of its use; see [`SealedFile::prefetch`].
    #[inline]
    pub fn prefetch_refinement(&self, row: u32) {
        if let Some(section) = &self.sections.refinements {
            self.file.prefetch(section, self.refinement_range(row));
        }
    }

    fn refinement_range(&self, row: u32) -> Range<u64> {
        let len = u64::from(self.lengths.refinement());
        let start = u64::from(row) * len;
        start..start + len
    }

    fn record_range(&self, row: u32) -> Range<u64> {
        let len = u64::from(self.lengths.record);
        let start = u64::from(row) * len;
        start..start + len
    }

    /// The document and the posting of a row.
    ///
    /// # Errors
    /// As [`CodedRows::blocks`].
    pub fn row(&self, row: u32) -> Result<(DocumentOrdinal, u16)> {
        let ordinal = self.file.element(&self.sections.ordinals, u64::from(row))?;
        Ok((*ordinal, *self.file.element(&self.sections.postings, u64::from(row))?))
    }

    /// Asks for the document and the posting of a row ahead of their use; see [`SealedFile::prefetch`].
    pub fn prefetch_row(&self, row: u32) {
        let row = u64::from(row);
        self.file.prefetch(&self.sections.ordinals, row * 8..row * 8 + 8);
        self.file.prefetch(&self.sections.postings, row * 2..row * 2 + 2);
    }
}
