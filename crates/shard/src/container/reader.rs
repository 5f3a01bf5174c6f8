//! Reading a container: opened with a few small reads, mapped or read section by section, verified on touch.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use super::blocks::OwnedSection;
use bytemuck::AnyBitPattern;
use plimsoll_base::checksum::crc32;
use plimsoll_base::codec::Decoder;
use plimsoll_base::header::{FileHeader, HEADER_LEN};
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{Map, ReadFile, Storage};
use plimsoll_base::sync::PlainMutex;
use plimsoll_base::{Result, StorageError};

use super::{
    DatabaseId, FOOTER_LEN, FileMeta, Footer, META_LIMIT, SECTION_ALIGNMENT, Section, SectionKind, extend_crc,
};
use crate::names::{FileName, SealedKind};

/// How the bytes of a sealed file come into memory. Both modes give the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// The file is mapped read-only; where the storage has no mappings, as [`ReadMode::Owned`].
    #[default]
    Mapped,
    /// Each section is read into memory when it is first used; media errors come back as errors (rule R18).
    Owned,
}

/// An open sealed file.
///
/// Reads are shared and lock-free once a block is verified (mapped) or a section is loaded (owned).
#[derive(Debug)]
pub struct SealedFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn ReadFile>,
    pub(super) footer: Footer,
    pub(super) footer_bytes: Vec<u8>,
    meta: FileMeta,
    header: FileHeader,
    pub(super) sections: Vec<Section>,
    /// Indexes of `sections` in order of (kind, owner).
    order: Vec<u32>,
    map: Option<Map>,
    /// The block table, loaded when the first block is touched.
    pub(super) blocks: OnceLock<Vec<u32>>,
    /// Mapped mode: one bit for each verified block.
    pub(super) verified: Box<[AtomicU64]>,
    /// Mapped mode: for each 16 blocks, those that were in memory when the first of them was to be asked for.
    pub(super) found: Box<[OnceLock<u16>]>,
    /// How often the disk was asked for blocks.
    #[cfg(test)]
    pub(super) asks: AtomicU64,
    /// Owned mode: the sections loaded so far.
    pub(super) owned: Box<[OnceLock<OwnedSection>]>,
    /// Owned mode: held while a section is loaded, so that two threads do not both read it. One for each, so that nobody
    /// waits for another one than it needs.
    pub(super) loading: Box<[PlainMutex<()>]>,
}

impl SealedFile {
    /// Opens the file that a manifest names, reading its header, footer and section table.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`] if length, checksum, kind, number or database are not what they should
    /// be, or the file's parts contradict each other; [`StorageError::UpgradeRequired`] for a newer format;
    /// any error of the storage.
    pub fn open(
        storage: &dyn Storage,
        dir: &Path,
        meta: &FileMeta,
        database: DatabaseId,
        mode: ReadMode,
    ) -> Result<Self> {
        let path = dir.join(meta.name().to_string());
        let file = storage.open(&path)?;
        if file.len() != meta.len {
            let what = format!("the file has {} bytes, the manifest says {}", file.len(), meta.len);
            return Err(StorageError::corrupted(&path, file.len().min(meta.len), what));
        }
        let opened = Self::open_as(path, file, meta.name(), mode)?;
        opened.header.expect_identity(database, meta.number, &opened.path)?;
        if opened.meta.crc != meta.crc {
            let what = format!(
                "the file's checksum is {:08x}, the manifest says {:08x}: it is another file",
                opened.meta.crc, meta.crc
            );
            return Err(opened.damaged(opened.footer_offset(), what));
        }
        Ok(opened)
    }

    /// Opens a file without a manifest, believing its name and header, as `dump` and `repair` need it.
    ///
    /// # Errors
    /// As [`SealedFile::open`]; also `InvalidInput` if the path is not the name of a sealed file.
    pub fn open_unnamed(storage: &dyn Storage, path: &Path, mode: ReadMode) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse);
        let Some(name) = name else {
            let what = "this is not the name of a posting, vectors, kills or index file";
            return Err(super::invalid(path, what));
        };
        let opened = Self::open_as(path.to_path_buf(), storage.open(path)?, name, mode)?;
        opened.header.expect_identity(opened.header.database, name.number, path)?;
        Ok(opened)
    }

    fn open_as(path: PathBuf, file: Arc<dyn ReadFile>, name: FileName, mode: ReadMode) -> Result<Self> {
        let len = file.len();
        if len < (HEADER_LEN + FOOTER_LEN) as u64 {
            let what = format!("{len} bytes are too few for a sealed file");
            return Err(StorageError::corrupted(&path, len, what));
        }
        if mutant::is(Mutant::OpeningReadsRows) {
            file.read_exact_at(0, &mut vec![0; len as usize])?;
        }
        let map = match mode {
            ReadMode::Mapped => file.map()?,
            ReadMode::Owned if mutant::is(Mutant::MapAlways) => file.map()?,
            ReadMode::Owned => None,
        };
        if let Some(map) = &map {
            // Both at once. And where a read call finds the page in memory, the kernel does not read ahead of it: it
            // would mark what follows, and take the first touch of that for a reason to read megabytes.
            map.will_need(0, HEADER_LEN);
            map.will_need(len as usize - FOOTER_LEN, FOOTER_LEN);
        }
        let mut header_bytes = [0; HEADER_LEN];
        file.read_exact_at(0, &mut header_bytes)?;
        let header = FileHeader::decode(&header_bytes, &path)?;
        header.expect(name.kind.file_kind(), name.kind.version(), &path)?;
        let mut footer_bytes = vec![0; FOOTER_LEN];
        file.read_exact_at(len - FOOTER_LEN as u64, &mut footer_bytes)?;
        let footer = Footer::decode(&footer_bytes, &path, len)?;
        let (sections, order) = read_section_table(&*file, &footer, &path)?;
        if let Some(map) = &map
            && map.len() as u64 != len
        {
            let what = format!("the file had {len} bytes and now has {}", map.len());
            return Err(StorageError::corrupted(&path, len.min(map.len() as u64), what));
        }
        let words = if map.is_some() { footer.blocks().div_ceil(64) as usize } else { 0 };
        let loads = if map.is_some() { 0 } else { sections.len() };
        let crc = extend_crc(footer.body_crc, &footer_bytes);
        Ok(Self {
            meta: FileMeta { kind: name.kind, number: name.number, len, crc },
            verified: std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect(),
            found: std::iter::repeat_with(OnceLock::new).take(4 * words).collect(),
            #[cfg(test)]
            asks: AtomicU64::new(0),
            owned: std::iter::repeat_with(OnceLock::new).take(loads).collect(),
            blocks: OnceLock::new(),
            loading: std::iter::repeat_with(PlainMutex::default).take(loads).collect(),
            path,
            file,
            footer,
            footer_bytes,
            header,
            sections,
            order,
            map,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a manifest says about the file.
    pub const fn file_meta(&self) -> &FileMeta {
        &self.meta
    }

    pub(crate) fn expect_kind(&self, kind: SealedKind) -> Result<()> {
        if self.meta.kind == kind {
            return Ok(());
        }
        Err(self.damaged(8, format!("a {kind} was expected, this is a {}", self.meta.kind)))
    }

    /// The decoded header.
    pub const fn header(&self) -> &FileHeader {
        &self.header
    }

    /// All sections, in the order in which they lie in the file, unknown kinds included.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Whether the file is mapped, rather than read into memory section by section.
    pub const fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// The section of this kind and owner, if the file has it.
    pub fn find_section(&self, kind: SectionKind, owner: u32) -> Option<Section> {
        self.index_of(kind, owner).map(|index| self.sections[index])
    }

    /// The section of this kind and owner.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`] if the file does not have it.
    pub fn section(&self, kind: SectionKind, owner: u32) -> Result<Section> {
        self.find_section(kind, owner).ok_or_else(|| {
            let name = kind.name().unwrap_or("unknown");
            let what = format!("section {name} ({}) of owner {owner} is missing", kind.0);
            self.damaged(self.footer.section_offset, what)
        })
    }

    /// As [`SealedFile::section`], for a section whose length is known.
    pub(crate) fn section_of(&self, kind: SectionKind, owner: u32, len: u64) -> Result<Section> {
        let section = self.section(kind, owner)?;
        if section.len != len {
            let name = kind.name().unwrap_or("unknown");
            let what = format!("section {name} has {} bytes, {len} were expected", section.len);
            return Err(self.damaged(section.offset, what));
        }
        Ok(section)
    }

    pub(super) fn index_of(&self, kind: SectionKind, owner: u32) -> Option<usize> {
        let key = |index: &u32| {
            let section = &self.sections[*index as usize];
            (section.kind, section.owner)
        };
        let place = self.order.binary_search_by_key(&(kind, owner), key).ok()?;
        Some(self.order[place] as usize)
    }

    /// The bytes of `section` from `range.start` to `range.end`, counted from the section's start. Their
    /// blocks are verified when they are touched for the first time.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`] if the range does not lie in the section or a checksum does not match.
    #[inline]
    pub fn bytes(&self, section: &Section, range: Range<u64>) -> Result<&[u8]> {
        if let Some(map) = &self.map
            && range.start < range.end
            && range.end <= section.len
        {
            let start = section.offset.wrapping_add(range.start) as usize;
            let end = section.offset.wrapping_add(range.end) as usize;
            if let Some(bytes) = map.get(start..end)
                && end as u64 <= self.footer.section_offset
                && self.is_verified(start, end)
            {
                return Ok(bytes);
            }
        }
        self.bytes_at_first(section, range)
    }

    /// As [`SealedFile::bytes`], whether or not they were ever touched.
    #[inline(never)]
    fn bytes_at_first(&self, section: &Section, range: Range<u64>) -> Result<&[u8]> {
        if range.start > range.end || range.end > section.len {
            let what = format!("bytes {range:?} of a section of {} bytes", section.len);
            return Err(self.damaged(section.offset, what));
        }
        let (start, end) =
            (section.offset.saturating_add(range.start), section.offset.saturating_add(range.end));
        let Some(map) = &self.map else {
            let loaded = self.load(section)?;
            loaded.check(start, end)?;
            return self.slice(&loaded.bytes, section, range.start, range.end);
        };
        let data = map.get(..self.footer.section_offset as usize).unwrap_or_default();
        let bytes = self.slice(data, section, start, end)?;
        self.check_blocks(map, start as usize, end as usize)?;
        Ok(bytes)
    }

    /// Reads and verifies everything that was not touched before.
    ///
    /// # Errors
    /// As [`SealedFile::bytes`]; the rest is not looked at, then.
    pub fn preload(&self) -> Result<()> {
        self.ask_for_bytes(0..self.footer.section_offset);
        self.sections.iter().try_for_each(|section| self.bytes(section, 0..section.len).map(drop))
    }

    fn slice<'b>(&self, bytes: &'b [u8], section: &Section, start: u64, end: u64) -> Result<&'b [u8]> {
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        range
            .and_then(|(start, end)| bytes.get(start..end))
            .ok_or_else(|| self.damaged(section.offset, "the section does not lie in this file"))
    }

    /// Elements `range` of a section that is an array of `T`.
    ///
    /// # Errors
    /// As [`SealedFile::bytes`].
    pub fn view<T: AnyBitPattern>(&self, section: &Section, range: Range<u64>) -> Result<&[T]> {
        let size = size_of::<T>() as u64;
        let (start, end) = (range.start.saturating_mul(size), range.end.saturating_mul(size));
        let bytes = self.bytes(section, start..end)?;
        bytemuck::try_cast_slice(bytes)
            .map_err(|error| self.damaged(section.offset, format!("not an array: {error}")))
    }

    /// Element `index` of a section that is an array of `T`.
    #[inline]
    pub(crate) fn element<T: AnyBitPattern>(&self, section: &Section, index: u64) -> Result<&T> {
        let start = index.saturating_mul(size_of::<T>() as u64);
        let bytes = self.bytes(section, start..start.saturating_add(size_of::<T>() as u64))?;
        bytemuck::try_from_bytes(bytes)
            .map_err(|error| self.damaged(section.offset, format!("not an element: {error}")))
    }

    /// All elements of a section that is an array of `T`.
    pub(crate) fn array<T: AnyBitPattern>(&self, section: &Section) -> Result<&[T]> {
        let size = size_of::<T>() as u64;
        if !section.len.is_multiple_of(size) {
            let what = format!("{} bytes are not a whole number of {size}-byte elements", section.len);
            return Err(self.damaged(section.offset, what));
        }
        self.view(section, 0..section.len / size)
    }

    /// Reads the meta section past the block table, verified by its own checksum, which is left out.
    pub(crate) fn read_meta(&self) -> Result<(Vec<u8>, u64)> {
        let section = self.section(SectionKind::META, 0)?;
        if section.len < 4 || section.len > META_LIMIT {
            let what = format!("a meta section of {} bytes", section.len);
            return Err(self.damaged(section.offset, what));
        }
        let mut bytes = vec![0; section.len as usize];
        self.file.read_exact_at(section.offset, &mut bytes)?;
        let crc = bytes.split_off(bytes.len() - 4);
        if crc != crc32(&bytes).to_le_bytes() {
            return Err(self.damaged(section.offset, "the meta section's checksum does not match"));
        }
        Ok((bytes, section.offset))
    }

    /// Reads bytes of a section, from byte `start` of it, into `buffer`, past the mapping and without
    /// verifying them: for passes over much data that was verified just before, in bounded memory.
    pub(crate) fn read_unverified(&self, section: &Section, start: u64, buffer: &mut [u8]) -> Result<()> {
        let end = start.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > section.len) {
            let what = format!("{} bytes from {start} of a section of {}", buffer.len(), section.len);
            return Err(self.damaged(section.offset, what));
        }
        self.file.read_exact_at(section.offset + start, buffer)
    }

    /// Says that a part of a section will be read soon. A hint: a range beyond the section is cut off.
    pub fn will_need(&self, section: &Section, range: Range<u64>) {
        if let Some((map, range)) = self.mapped(section, range) {
            map.will_need(range.start, range.len());
        }
    }

    /// Asks for a part of a section ahead of its use, if the file is mapped: the disk for what was never touched nor in
    /// memory anyhow, the processor, for its nearest cache, for what was touched. A hint: nothing is verified, and a
    /// range beyond the section is cut off.
    #[inline]
    pub fn prefetch(&self, section: &Section, range: Range<u64>) {
        if let Some((map, range)) = self.mapped(section, range) {
            if self.is_verified(range.start, range.end) {
                map.get(range).into_iter().for_each(plimsoll_kernels::prefetch);
            } else {
                self.ask_for_untouched(map, range);
            }
        }
    }

    /// As [`SealedFile::prefetch`], of the disk only: for more than a cache holds.
    #[inline]
    pub fn ask_for(&self, section: &Section, range: Range<u64>) {
        if let Some((map, range)) = self.mapped(section, range)
            && !self.is_verified(range.start, range.end)
        {
            self.ask_for_untouched(map, range);
        }
    }

    /// Asks the disk for these bytes of the file, whatever they are, if it is mapped.
    pub(crate) fn ask_for_bytes(&self, range: Range<u64>) {
        if let Some(map) = &self.map {
            map.will_need(range.start as usize, range.end.saturating_sub(range.start) as usize);
        }
    }

    /// Where a part of a section is in the mapping, if there is one; a range beyond the section is cut off, and of an
    /// empty one there is nothing.
    #[inline]
    fn mapped(&self, section: &Section, range: Range<u64>) -> Option<(&Map, Range<usize>)> {
        let map = self.map.as_ref()?;
        let (start, end) = (range.start.min(section.len), range.end.min(section.len));
        (start < end).then(|| (map, (section.offset + start) as usize..(section.offset + end) as usize))
    }

    /// Damage at byte `offset` of this file.
    pub(crate) fn damaged(&self, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::corrupted(&self.path, offset, what)
    }

    pub(super) const fn footer_offset(&self) -> u64 {
        self.meta.len - FOOTER_LEN as u64
    }
}

/// Reads and checks the section table, and the order of its entries by (kind, owner).
fn read_section_table(file: &dyn ReadFile, footer: &Footer, path: &Path) -> Result<(Vec<Section>, Vec<u32>)> {
    let mut bytes = vec![0; footer.section_len as usize];
    file.read_exact_at(footer.section_offset, &mut bytes)?;
    if crc32(&bytes) != footer.section_crc {
        let what = "the section table's checksum does not match";
        return Err(StorageError::corrupted(path, footer.section_offset, what));
    }
    let mut decoder = Decoder::new(&bytes, path, footer.section_offset);
    let mut sections = Vec::with_capacity(bytes.len() / super::ENTRY_LEN as usize);
    let mut next = HEADER_LEN as u64;
    while decoder.remaining() > 0 {
        let at = decoder.clone();
        let section = Section::decode(&mut decoder)?;
        let end = section.offset.checked_add(section.len).filter(|end| *end <= footer.section_offset);
        let Some(end) = end.filter(|_| section.offset == next) else {
            return Err(at.corrupted(format!("a section where byte {next} is the next: {section:?}")));
        };
        next = end.next_multiple_of(SECTION_ALIGNMENT);
        sections.push(section);
    }
    if next != footer.section_offset {
        return Err(decoder.corrupted(format!("the sections end at {next}, not where the table begins")));
    }
    let key = |index: &u32| (sections[*index as usize].kind, sections[*index as usize].owner);
    let mut order: Vec<u32> = (0..sections.len() as u32).collect();
    order.sort_unstable_by_key(key);
    if let Some(pair) = order.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
        let what = format!("two sections of kind and owner {:?}", key(&pair[0]));
        return Err(StorageError::corrupted(path, footer.section_offset, what));
    }
    Ok((sections, order))
}
