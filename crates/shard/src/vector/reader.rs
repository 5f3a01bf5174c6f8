//! Reading a vector segment in place.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use plimsoll_base::codec::Decoder;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{DocumentOrdinal, Generation, ListId, Result, ShardId};

use super::{
    BLOCK_SLOTS, CodeLengths, CodedRows, LISTS, ListEntry, ORDINALS, PLANE, POSTINGS, RADII, REFINEMENTS,
    SIGNS, VectorHeader,
};
use crate::container::{SealedFile, Section};
use crate::names::SealedKind;
use crate::view::SealedView;

/// The bytes of an entry of a directory.
const LIST_LEN: u64 = size_of::<ListEntry>() as u64;

/// An open vector segment.
#[derive(Debug)]
pub struct VectorFile {
    file: SealedFile,
    header: VectorHeader,
    /// In ascending order, as `sections`.
    shards: Vec<ShardId>,
    sections: Vec<ShardSections>,
}

#[derive(Debug)]
pub(super) struct ShardSections {
    lists: Section,
    pub(super) ordinals: Section,
    pub(super) postings: Section,
    /// Where there are codes: signs and plane.
    codes: Option<(Section, Section)>,
    /// Where there are refinements.
    pub(super) refinements: Option<Section>,
    /// Where there are radii.
    radii: Option<Section>,
    places: OnceLock<Option<Places>>,
    /// How far the codes were asked for; see [`CodedRows::ask_for_more`].
    pub(super) asked: AtomicU64,
}

impl ShardSections {
    pub(super) fn rows(&self) -> u64 {
        self.postings.len / 2
    }

    /// The entry of one of the shard's lists, all of which are given.
    #[inline]
    pub(super) fn find_list(&self, lists: &[ListEntry], list: ListId) -> Option<ListEntry> {
        let places = match self.places.get() {
            Some(places) => places,
            // Made before, so that no other thread waits for it.
            None => {
                let places = Places::new(lists);
                self.places.get_or_init(|| places)
            }
        };
        match places {
            Some(places) => places.find(list),
            None => {
                let index = lists.binary_search_by_key(&list, |entry| entry.list).ok();
                index.and_then(|index| lists.get(index)).copied()
            }
        }
    }
}

/// The entries of lists by their ids, without a search: `entries[id - first]`, without rows where there is no such list. A
/// query of many lists waits for one read of memory each.
#[derive(Debug)]
struct Places {
    first: u32,
    entries: Box<[ListEntry]>,
}

impl Places {
    /// Ids may be this many times as many as there are lists, and some more, before a search takes less.
    const SPREAD: usize = 16;
    const SPREAD_OF_FEW: usize = 1024;

    /// `None` where ids are spread so far that it would take much memory, or a list has no rows, which no writer makes.
    fn new(lists: &[ListEntry]) -> Option<Self> {
        let (first, last) = (lists.first()?.list.0, lists.last()?.list.0);
        let span = last.checked_sub(first)? as usize;
        let is_odd = lists.iter().any(|entry| entry.rows == 0);
        if is_odd || span > lists.len() * Self::SPREAD + Self::SPREAD_OF_FEW {
            return None;
        }
        let none = ListEntry { list: ListId(0), first_slot: 0, first_row: 0, rows: 0 };
        let mut entries = vec![none; span + 1].into_boxed_slice();
        for entry in lists {
            *entries.get_mut(entry.list.0.checked_sub(first)? as usize)? = *entry;
        }
        Some(Self { first, entries })
    }

    #[inline]
    fn find(&self, list: ListId) -> Option<ListEntry> {
        let entry = *self.entries.get(list.0.checked_sub(self.first)? as usize)?;
        (entry.rows > 0).then_some(entry)
    }
}

impl SealedView for VectorFile {
    fn from_sealed(file: SealedFile) -> Result<Self> {
        file.expect_kind(SealedKind::Vector)?;
        let (meta, offset) = file.read_meta()?;
        let header = VectorHeader::decode(Decoder::new(&meta, file.path(), offset))?;
        let mut lists: Vec<Section> =
            file.sections().iter().copied().filter(|section| section.kind == LISTS).collect();
        lists.sort_unstable_by_key(|section| section.owner);
        let shards: Vec<_> = lists.iter().map(|section| ShardId(section.owner)).collect();
        let mut sections = Vec::with_capacity(lists.len());
        for lists in lists {
            let postings = file.section(POSTINGS, lists.owner)?;
            let rows = postings.len / 2;
            let ordinals = file.section_of(ORDINALS, lists.owner, rows * 8)?;
            let whole = lists.len.is_multiple_of(LIST_LEN);
            if !whole || postings.len != rows * 2 || rows > u64::from(u32::MAX) {
                let what = format!("shard {}'s sections do not hold whole rows and lists", lists.owner);
                return Err(file.damaged(lists.offset, what));
            }
            let codes = match header.info.codes {
                None => None,
                Some(CodeLengths { block, record }) => {
                    let signs = file.section(SIGNS, lists.owner)?;
                    if !signs.len.is_multiple_of(u64::from(block)) {
                        let what = format!("{} bytes of signs are not blocks of {block}", signs.len);
                        return Err(file.damaged(signs.offset, what));
                    }
                    Some((signs, file.section_of(PLANE, lists.owner, rows * u64::from(record))?))
                }
            };
            let refinements = match (header.info.codes, file.find_section(REFINEMENTS, lists.owner)) {
                (Some(lengths), Some(_)) => {
                    let len = rows * u64::from(lengths.refinement());
                    Some(file.section_of(REFINEMENTS, lists.owner, len)?)
                }
                _ => None,
            };
            let radii = match file.find_section(RADII, lists.owner) {
                Some(_) => Some(file.section_of(RADII, lists.owner, lists.len / LIST_LEN * 4)?),
                None => None,
            };
            sections.push(ShardSections {
                lists,
                ordinals,
                postings,
                codes,
                refinements,
                radii,
                places: OnceLock::new(),
                asked: AtomicU64::new(0),
            });
        }
        let rows: u64 = sections.iter().map(ShardSections::rows).sum();
        if shards.len() as u64 != header.shards || rows != header.rows {
            let what = format!(
                "{rows} rows in {} shards; the meta section says {} in {}",
                shards.len(),
                header.rows,
                header.shards
            );
            return Err(file.damaged(offset, what));
        }
        Ok(Self { file, header, shards, sections })
    }

    fn sealed(&self) -> &SealedFile {
        &self.file
    }
}

impl VectorFile {
    /// What the file says about itself.
    pub const fn header(&self) -> &VectorHeader {
        &self.header
    }

    /// The number of rows of all shards.
    pub const fn row_count(&self) -> u64 {
        self.header.rows
    }

    /// The shards that have a part of the segment, ascending.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    fn find(&self, shard: ShardId) -> Option<&ShardSections> {
        self.sections.get(self.shards.binary_search(&shard).ok()?)
    }

    /// The number of rows of `shard`; 0 if it has no part of the segment.
    pub fn shard_rows(&self, shard: ShardId) -> u32 {
        self.find(shard).map_or(0, |sections| sections.rows() as u32)
    }

    /// The lists of `shard`, ascending; none if it has no part of the segment.
    ///
    /// # Errors
    /// `Corrupted` if a block that is touched is damaged. So for all of the methods below.
    pub fn lists(&self, shard: ShardId) -> Result<&[ListEntry]> {
        self.find(shard).map_or(Ok(&[]), |sections| self.file.array(&sections.lists))
    }

    /// How far the rows of each list of `shard` are from the list's centroid at most, as far as its writer could tell, in the
    /// order of [`VectorFile::lists`]; `None` if it did not say. One that is not a finite number of at least 0 is damage, too.
    pub fn radii(&self, shard: ShardId) -> Result<Option<&[f32]>> {
        let section = self.find(shard).and_then(|sections| sections.radii.as_ref());
        let Some(section) = section else { return Ok(None) };
        let radii: &[f32] = self.file.array(section)?;
        match radii.iter().find(|radius| !radius.is_finite() || **radius < 0.0) {
            Some(radius) => Err(self.file.damaged(section.offset, format!("a radius of {radius}"))),
            None => Ok(Some(radii)),
        }
    }

    /// The entry of one list of `shard`.
    pub fn find_list(&self, shard: ShardId, list: ListId) -> Result<Option<ListEntry>> {
        let Some(sections) = self.find(shard) else { return Ok(None) };
        Ok(sections.find_list(self.file.array(&sections.lists)?, list))
    }

    /// The codes of the rows of `shard`; `None` if it has none.
    ///
    /// # Errors
    /// `Corrupted` if they are of other lengths, or the directory of lists is damaged.
    pub fn codes(&self, shard: ShardId, lengths: CodeLengths) -> Result<Option<CodedRows<'_>>> {
        let Some(sections) = self.find(shard) else { return Ok(None) };
        let Some((signs, plane)) = &sections.codes else { return Ok(None) };
        if self.header.info.codes != Some(lengths) {
            let what = format!("codes of {:?}, {lengths:?} were expected", self.header.info.codes);
            return Err(self.file.damaged(signs.offset, what));
        }
        let lists = self.file.array(&sections.lists)?;
        Ok(Some(CodedRows { file: &self.file, sections, lists, signs, plane, lengths }))
    }

    /// The document and the posting of each row of a list of `shard`.
    pub fn rows(&self, shard: ShardId, list: &ListEntry) -> Result<(&[DocumentOrdinal], &[u16])> {
        let Some(sections) = self.find(shard) else {
            return Err(self.file.damaged(0, format!("there is no shard {shard} in this file")));
        };
        let shift = u32::from(mutant::is(Mutant::ShiftRows) && list.first_row > 0);
        let (start, rows) = (u64::from(list.first_row - shift), u64::from(list.rows));
        let ordinals = self.file.view(&sections.ordinals, start..start + rows)?;
        Ok((ordinals, self.file.view(&sections.postings, start..start + rows)?))
    }

    /// Verifies every checksum of the file ([`SealedFile::verify`]), that the directories cover the rows as
    /// the specification has it, and that ordinals are those of the meta section.
    ///
    /// # Errors
    /// `Corrupted` naming the first place that is wrong.
    pub fn verify(&self) -> Result<()> {
        self.file.verify()?;
        let mut found: Option<(DocumentOrdinal, DocumentOrdinal)> = None;
        for (shard, sections) in self.shards.iter().zip(&self.sections) {
            self.verify_directory(sections, self.lists(*shard)?)?;
            let ordinals: &[DocumentOrdinal] = self.file.array(&sections.ordinals)?;
            self.file.array::<u16>(&sections.postings)?;
            self.radii(*shard)?;
            for &ordinal in ordinals {
                let (first, last) = found.unwrap_or((ordinal, ordinal));
                found = Some((first.min(ordinal), last.max(ordinal)));
            }
        }
        if found != self.header.ordinals {
            let what = format!("ordinals {found:?}; the meta section says {:?}", self.header.ordinals);
            return Err(self.file.damaged(0, what));
        }
        Ok(())
    }

    fn verify_directory(&self, sections: &ShardSections, lists: &[ListEntry]) -> Result<()> {
        let kind = self.header.info.kind;
        let mut previous: Option<ListId> = None;
        let (mut row, mut slot) = (0_u32, 0_u32);
        for (index, entry) in lists.iter().enumerate() {
            let next = kind.next_list(slot).filter(|first| *first == entry.first_slot);
            let next =
                next.and_then(|first| Some((first.checked_add(entry.rows)?, row.checked_add(entry.rows)?)));
            let ascends = previous.is_none_or(|previous| previous < entry.list);
            let known = self.header.info.generation != Generation(0) || entry.list == ListId(0);
            let Some((next_slot, next_row)) =
                next.filter(|_| ascends && known && entry.rows > 0 && entry.first_row == row)
            else {
                let at = sections.lists.offset + (index * size_of::<ListEntry>()) as u64;
                return Err(self.file.damaged(at, format!("{entry:?} after row {row} and slot {slot}")));
            };
            (row, slot, previous) = (next_row, next_slot, Some(entry.list));
        }
        if let (Some((signs, plane)), Some(lengths)) = (&sections.codes, self.header.info.codes) {
            let blocks = u64::from(slot.div_ceil(BLOCK_SLOTS));
            if signs.len != blocks * u64::from(lengths.block) {
                let what = format!("{} bytes of signs for {blocks} blocks", signs.len);
                return Err(self.file.damaged(signs.offset, what));
            }
            self.file.array::<u8>(signs)?;
            self.file.array::<u8>(plane)?;
        }
        if let Some(refinements) = &sections.refinements {
            self.file.array::<u8>(refinements)?;
        }
        if u64::from(row) != sections.rows() {
            let what = format!("the lists have {row} rows, the shard {}", sections.rows());
            return Err(self.file.damaged(sections.lists.offset, what));
        }
        Ok(())
    }
}
