//! No byte of a section is seen before its block was verified: the blocks of a mapping when they are touched,
//! those of an owned section when it is read. A damaged block is an error to whoever touches it, in either mode.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use plimsoll_base::aligned::AlignedBytes;
use plimsoll_base::checksum::crc32;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Map;
use plimsoll_base::{Result, StorageError};

use super::{SealedFile, Section};

/// What touches a block after having touched so many in front of it is passing over the file.
const PASS: usize = 16;

impl SealedFile {
    /// The checksum of each block.
    pub(super) fn block_table(&self) -> Result<&[u32]> {
        if let Some(blocks) = self.blocks.get() {
            return Ok(blocks);
        }
        let mut bytes = vec![0; self.footer.block_len as usize];
        self.file.read_exact_at(self.footer.block_offset, &mut bytes)?;
        if crc32(&bytes) != self.footer.block_crc {
            return Err(self.damaged(self.footer.block_offset, "the block table's checksum does not match"));
        }
        let crcs = bytes.as_chunks().0.iter().map(|crc| u32::from_le_bytes(*crc)).collect();
        Ok(self.blocks.get_or_init(|| crcs))
    }

    /// Where a block lies in the file.
    pub(super) fn block_range(&self, block: u64) -> Range<u64> {
        let size = u64::from(self.footer.block_size);
        let start = block * size;
        start..(start + size).min(self.footer.section_offset)
    }

    pub(super) fn check_block(&self, table: &[u32], block: u64, bytes: &[u8]) -> Result<()> {
        if table.get(block as usize) == Some(&crc32(bytes)) || mutant::is(Mutant::SkipBlockChecksum) {
            return Ok(());
        }
        let range = self.block_range(block);
        let what = format!("the checksum of bytes {range:?} does not match");
        Err(self.damaged(range.start, what))
    }

    /// Whether all blocks of bytes `start` to `end`, which are some, are known to be verified. Of many blocks nothing is
    /// known.
    #[inline]
    pub(super) fn is_verified(&self, start: usize, end: usize) -> bool {
        // A power of two: a division takes longer than all the rest.
        let shift = self.footer.block_size.trailing_zeros();
        let (first, last) = (start >> shift, (end - 1) >> shift);
        let wanted = (u64::MAX << (first % 64)) & (u64::MAX >> (63 - last % 64));
        let word = self.verified.get(first / 64).filter(|_| first / 64 == last / 64);
        word.is_some_and(|verified| wanted & !verified.load(Ordering::Relaxed) == 0)
    }

    /// Asks the disk for bytes of the mapping, as far as they were never touched and may not be in memory.
    #[cold]
    pub(super) fn ask_for_untouched(&self, map: &Map, bytes: Range<usize>) {
        let size = self.footer.block_size as usize;
        if let Some(wanted) = self.wanted(bytes, |first| map.in_memory(first * size, size)) {
            #[cfg(test)]
            self.asks.fetch_add(1, Ordering::Relaxed);
            map.will_need(wanted.start, wanted.len());
        }
    }

    /// Bytes of the mapping from the first block of them on that was neither touched nor found in memory. Which of 16 blocks
    /// are in memory `look` says, from the number of the first of them. It is asked once: that takes as long as asking the
    /// disk for five of them one by one.
    pub(super) fn wanted(&self, bytes: Range<usize>, look: impl Fn(usize) -> u16) -> Option<Range<usize>> {
        let size = self.footer.block_size as usize;
        let was_found = |block: usize| {
            let found = self.found.get(block / 16).map(|found| found.get_or_init(|| look(block / 16 * 16)));
            found.is_some_and(|found| found >> (block % 16) & 1 == 1)
        };
        let mut blocks = bytes.start / size..bytes.end.div_ceil(size);
        let first = blocks.find(|block| !self.is_touched(*block) && !was_found(*block))?;
        Some(bytes.start.max(first * size)..bytes.end)
    }

    /// Whether a pass over the file has come to these bytes. It is left to the kernel, which knows best how far to read
    /// ahead of that; around other bytes it would read as much as it is set to, which can be megabytes.
    pub(super) fn is_passed_to(&self, start: usize) -> bool {
        let first = start / self.footer.block_size as usize;
        first >= PASS && (first - PASS..first).all(|block| self.is_touched(block))
    }

    fn is_touched(&self, block: usize) -> bool {
        let start = block * self.footer.block_size as usize;
        self.is_verified(start, start + 1)
    }

    /// Verifies those blocks of bytes `start` to `end` of the mapping that were never touched.
    pub(super) fn check_blocks(&self, map: &Map, start: usize, end: usize) -> Result<()> {
        if start == end {
            return Ok(());
        }
        let shift = self.footer.block_size.trailing_zeros();
        let (first, last) = (start >> shift, (end - 1) >> shift);
        let mut is_asked_for = false;
        for word in first / 64..=last / 64 {
            let from = first.saturating_sub(word * 64);
            let to = (last - word * 64).min(63);
            let wanted = (u64::MAX << from) & (u64::MAX >> (63 - to));
            let Some(verified) = self.verified.get(word) else {
                return Err(self.damaged(start as u64, "these bytes are not part of any section"));
            };
            // Relaxed: the bit publishes nothing. The mapped bytes never change, and a thread that does not
            // see it yet only verifies the block once more.
            let missing = wanted & !verified.load(Ordering::Relaxed);
            if missing != 0 {
                if !std::mem::replace(&mut is_asked_for, true) && !self.is_passed_to(start) {
                    self.ask_for_untouched(map, start..end);
                }
                self.check_missing(map, word, missing)?;
                verified.fetch_or(missing, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    #[cold]
    fn check_missing(&self, map: &[u8], word: usize, mut missing: u64) -> Result<()> {
        let table = self.block_table()?;
        while missing != 0 {
            let block = word as u64 * 64 + u64::from(missing.trailing_zeros());
            let range = self.block_range(block);
            let bytes = map.get(range.start as usize..range.end as usize).unwrap_or_default();
            self.check_block(table, block, bytes)?;
            missing &= missing - 1;
        }
        Ok(())
    }

    /// Owned mode: a section, read and verified if this is its first use.
    pub(super) fn load(&self, section: &Section) -> Result<&OwnedSection> {
        let index = self.index_of(section.kind, section.owner);
        let own = index.filter(|index| self.sections[*index] == *section);
        let slot = own.and_then(|index| Some((self.owned.get(index)?, self.loading.get(index)?)));
        let Some((slot, loading)) = slot else {
            return Err(self.damaged(section.offset, "this section belongs to another file"));
        };
        if let Some(loaded) = slot.get() {
            return Ok(loaded);
        }
        let _guard = loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = slot.get() {
            return Ok(loaded);
        }
        let loaded = self.read_section(section)?;
        Ok(slot.get_or_init(|| loaded))
    }

    /// Reads a section and the rest of the blocks that it shares with its neighbours, and verifies them. A block
    /// that is damaged is noted; one that can not be read is an error.
    fn read_section(&self, section: &Section) -> Result<OwnedSection> {
        let table = self.block_table()?;
        let Ok(len) = usize::try_from(section.len) else {
            return Err(self.damaged(section.offset, "the section does not fit into memory"));
        };
        let mut bytes = AlignedBytes::zeroed(len);
        let mut damaged = Vec::new();
        let mut note = |range: Range<u64>, checked: Result<()>| match checked {
            Err(error @ StorageError::Corrupted { .. }) => {
                damaged.push((range, error));
                Ok(())
            }
            other => other,
        };
        self.file.read_exact_at(section.offset, &mut bytes)?;
        let size = u64::from(self.footer.block_size);
        let (start, end) = (section.offset, section.offset + section.len);
        let mut shared = Vec::new();
        for number in start / size..end.div_ceil(size) {
            let block = self.block_range(number);
            let checked = if start <= block.start && block.end <= end {
                let part = (block.start - start) as usize..(block.end - start) as usize;
                self.check_block(table, number, &bytes[part])
            } else {
                shared.resize((block.end - block.start) as usize, 0);
                self.file.read_exact_at(block.start, &mut shared)?;
                let part = start.max(block.start)..end.min(block.end);
                let own = &mut bytes[(part.start - start) as usize..(part.end - start) as usize];
                own.copy_from_slice(
                    &shared[(part.start - block.start) as usize..(part.end - block.start) as usize],
                );
                self.check_block(table, number, &shared)
            };
            note(block, checked)?;
        }
        Ok(OwnedSection { bytes, damaged })
    }
}

/// A section in memory.
#[derive(Debug)]
pub(super) struct OwnedSection {
    pub(super) bytes: AlignedBytes,
    /// The blocks of the file, as byte ranges, whose checksums do not match.
    damaged: Vec<(Range<u64>, StorageError)>,
}

impl OwnedSection {
    /// Succeeds if bytes `start` to `end` of the file are in sound blocks.
    pub(super) fn check(&self, start: u64, end: u64) -> Result<()> {
        match self.damaged.iter().find(|(block, _)| block.start < end && start < block.end) {
            Some((_, error)) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
