//! The container of every sealed file: a header, aligned sections, and checksums for all of it.
//!
//! **Owns** the layout below, the writer that streams it, and the reader that verifies it. **Must not know**
//! what a section means. **On a crash** nothing exists under the final name before all bytes are synced; the
//! name itself becomes durable with the directory sync that [`commit_files`] does for all files of a flush.
//!
//! # Layout
//! Little-endian. `S` is the number of sections, `D` the length of the data, `B` the number of blocks.
//! ```text
//! offset           length  what
//! 0                    64  plimsoll_base::header::FileHeader
//! 64                       sections, each starting at the next multiple of 64, zeros between and after
//! D                  24 S  section table, in the order of the sections
//! D + 24 S            4 B  block table: the CRC-32 of each block of bytes 0 to D (the last one is shorter)
//! D + 24 S + 4 B       64  footer
//!
//! an entry of the section table           the footer
//! offset size field                       offset size field
//!      0    4 kind                             0    8 offset of the section table (D, a multiple of 64)
//!      4    4 owner (a shard's id, or 0)       8    8 length of the section table
//!      8    8 offset in the file              16    8 offset of the block table
//!     16    8 length in bytes                 24    8 length of the block table
//!                                             32    4 CRC-32 of the section table
//!                                             36    4 CRC-32 of the block table
//!                                             40    4 CRC-32 of everything before the footer
//!                                             44    4 bytes in a block: a power of two
//!                                             48    4 reserved, zero
//!                                             52    4 CRC-32 of bytes 0 to 51 of the footer
//!                                             56    8 magic "PLIMSEAL"
//! ```
//! A block is 4 KiB, the least that a disk or the kernel loses at once: damage costs what lies in it and no more.
//! Files with blocks of up to 64 KiB are read as well: version 1 of every kind of file has them.
//!
//! Offsets and lengths are redundant on purpose: a reader computes each from the others and refuses a file
//! in which they differ, so that sections can neither overlap nor leave a byte of the file unaccounted for.
//! No two sections have the same kind and owner. A reader ignores kinds it does not know; a kind it must not
//! ignore comes with an incompatible feature bit in the header.
//!
//! Every file has one section of kind [`SectionKind::META`] and owner 0: at most 4 KiB, the last 4 bytes the
//! CRC-32 of the others, so that opening can read it without the block table (whose length grows with rows).
//!
//! # What is checked when
//! Opening reads the header, the footer, the section table and the meta section, each of which has its own
//! checksum. The manifest's [`FileMeta::crc`] is the CRC-32 of the whole file; because the footer holds the
//! checksum of everything before it, opening also learns, without reading the rest, that this is the very
//! file the manifest names. A block is verified when it is first touched, and all of them by
//! [`SealedFile::verify`].

mod blocks;
mod reader;
mod verify;
mod writer;

use std::path::Path;

use plimsoll_base::checksum::crc32;
use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::header::HEADER_LEN;
use plimsoll_base::{FileNumber, Result, StorageError};

use crate::names::{FileName, SealedKind};

pub(crate) use verify::in_pieces;

pub use reader::{ReadMode, SealedFile};
pub use writer::{NamedFiles, PendingFile, SealedWriter, SyncedFiles, commit_files, sync_files};

/// Identifies a database; random, in the header of each of its files.
pub type DatabaseId = [u8; 16];

/// The alignment of sections, in bytes.
pub const SECTION_ALIGNMENT: u64 = 64;
/// How many bytes one checksum of the block table covers in the files written now.
pub const BLOCK_LEN: usize = 4 * 1024;
/// The longest blocks that are read. A multiple of every block's length, too.
const MAX_BLOCK_LEN: usize = 64 * 1024;
/// The length of the footer in bytes.
pub const FOOTER_LEN: usize = 64;
/// The greatest length of a meta section in bytes.
pub const META_LIMIT: u64 = 4096;

const ENTRY_LEN: u64 = 24;
const FOOTER_MAGIC: [u8; 8] = *b"PLIMSEAL";

// The one-pass writer relies on these.
const _: () =
    assert!(HEADER_LEN as u64 == SECTION_ALIGNMENT && (BLOCK_LEN as u64).is_multiple_of(SECTION_ALIGNMENT));

/// What a section holds. Numbers are unique across formats and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionKind(pub u32);

impl SectionKind {
    /// Facts about the whole file, read when it is opened. Every file has one.
    pub const META: Self = Self(1);

    /// The kind's name in listings, if this program knows it.
    pub fn name(self) -> Option<&'static str> {
        const FORMATS: [&[(SectionKind, &str)]; 5] = [
            &[(SectionKind::META, "META")],
            crate::posting::SECTIONS,
            crate::vector::SECTIONS,
            crate::kill::SECTIONS,
            crate::index_file::SECTIONS,
        ];
        FORMATS.into_iter().flatten().find(|(kind, _)| *kind == self).map(|(_, name)| *name)
    }
}

/// Where a section lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Whose it is: a shard's id, or 0.
    pub owner: u32,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Section {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.u32(self.kind.0).u32(self.owner).u64(self.offset).u64(self.len);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self> {
        let (kind, owner) = (SectionKind(decoder.u32()?), decoder.u32()?);
        Ok(Self { kind, owner, offset: decoder.u64()?, len: decoder.u64()? })
    }
}

/// What a manifest says about a sealed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileMeta {
    /// What the file holds.
    pub kind: SealedKind,
    /// The number in its name.
    pub number: FileNumber,
    /// Its length in bytes.
    pub len: u64,
    /// The CRC-32 of the whole file.
    pub crc: u32,
}

impl FileMeta {
    /// The file's name.
    pub const fn name(&self) -> FileName {
        FileName::new(self.kind, self.number)
    }
}

/// The decoded, checked footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Footer {
    section_offset: u64,
    section_len: u64,
    block_offset: u64,
    block_len: u64,
    section_crc: u32,
    block_crc: u32,
    body_crc: u32,
    block_size: u32,
}

impl Footer {
    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.u64(self.section_offset).u64(self.section_len).u64(self.block_offset).u64(self.block_len);
        encoder.u32(self.section_crc).u32(self.block_crc).u32(self.body_crc).u32(self.block_size).u32(0);
        let crc = crc32(encoder.as_slice());
        encoder.u32(crc).raw(&FOOTER_MAGIC);
        encoder.into_bytes()
    }

    /// Decodes the last bytes of a file of `file_len` bytes, and checks that its parts fill it exactly.
    fn decode(bytes: &[u8], file: &Path, file_len: u64) -> Result<Self> {
        let base = file_len.saturating_sub(FOOTER_LEN as u64);
        let damaged = |at, what: &str| Err(StorageError::corrupted(file, base + at, what));
        let mut decoder = Decoder::new(bytes, file, base);
        let (section_offset, section_len) = (decoder.u64()?, decoder.u64()?);
        let (block_offset, block_len) = (decoder.u64()?, decoder.u64()?);
        let (section_crc, block_crc, body_crc) = (decoder.u32()?, decoder.u32()?, decoder.u32()?);
        let (block_size, reserved) = (decoder.u32()?, decoder.u32()?);
        let end = decoder.position();
        let crc = decoder.u32()?;
        if decoder.array()? != FOOTER_MAGIC {
            return damaged(56, "there is no footer here: the file is truncated, extended or not sealed");
        }
        if crc != crc32(&bytes[..end]) {
            return damaged(52, "the footer's checksum does not match");
        }
        let known = (BLOCK_LEN..=MAX_BLOCK_LEN).contains(&(block_size as usize));
        if !known || !block_size.is_power_of_two() || reserved != 0 {
            return damaged(44, "the footer's block size or reserved bytes are wrong");
        }
        let footer = Self {
            section_offset,
            section_len,
            block_offset,
            block_len,
            section_crc,
            block_crc,
            body_crc,
            block_size,
        };
        if footer.computed_len() != Some(file_len) {
            return damaged(0, "the parts that the footer lists do not add up to the file's length");
        }
        Ok(footer)
    }

    /// The file's length as the footer has it, or `None` if its parts contradict each other.
    fn computed_len(&self) -> Option<u64> {
        let consistent = self.section_offset >= HEADER_LEN as u64
            && self.section_offset.is_multiple_of(SECTION_ALIGNMENT)
            && self.section_len.is_multiple_of(ENTRY_LEN)
            && self.section_offset.checked_add(self.section_len)? == self.block_offset
            && self.section_offset.div_ceil(u64::from(self.block_size)).checked_mul(4)? == self.block_len;
        if !consistent {
            return None;
        }
        self.block_offset.checked_add(self.block_len)?.checked_add(FOOTER_LEN as u64)
    }

    /// How many blocks the data has.
    fn blocks(&self) -> u64 {
        self.block_len / 4
    }
}

/// The CRC-32 of some bytes followed by `bytes`, from the CRC-32 of the former alone. It goes bit by bit:
/// for footers only.
fn extend_crc(crc: u32, bytes: &[u8]) -> u32 {
    let mut state = !crc;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = (state >> 1) ^ (0xEDB8_8320 & (state & 1).wrapping_neg());
        }
    }
    !state
}

/// The bytes of a meta section: the encoded facts and their checksum.
pub(crate) fn seal_meta(mut encoder: Encoder) -> Vec<u8> {
    let crc = crc32(encoder.as_slice());
    encoder.u32(crc);
    encoder.into_bytes()
}

/// A request that makes no valid file: the caller's mistake, found before anything gets its final name.
pub(crate) fn invalid(file: &Path, what: impl Into<String>) -> StorageError {
    StorageError::io("seal", file, std::io::Error::new(std::io::ErrorKind::InvalidInput, what.into()))
}

#[cfg(test)]
mod tests;
