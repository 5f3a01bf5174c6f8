//! The 64-byte header with which every Plimsoll file begins.
//!
//! ```text
//! offset  size  field
//!      0     8  magic "PLIMSOLL"
//!      8     2  kind of file (FileKind)
//!     10     2  format version of that kind
//!     12     4  compatible features: a reader may ignore bits it does not know
//!     16     4  read-only-compatible features: unknown bits forbid writing, not reading
//!     20     4  incompatible features: unknown bits forbid reading
//!     24    16  database id (random): a file copied in from another database is noticed
//!     40     8  the number in the file's name: a file under another's name is noticed
//!     48    12  reserved, zero
//!     60     4  CRC-32 of bytes 0 to 59
//! ```
//! All integers are little-endian. The feature scheme is that of ext4's superblock.

use std::path::Path;

use crate::checksum::crc32;
use crate::codec::{Decoder, Encoder};
use crate::{FileNumber, Result, StorageError};

/// The length of the header in bytes.
pub const HEADER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"PLIMSOLL";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum FileKind {
    /// A segment of the write-ahead log.
    WalSegment = 1,
    /// A numbered manifest.
    Manifest = 2,
    /// Documents: table, keys, text, metadata, ranges and raw vectors.
    Posting = 3,
    /// Vector rows, grouped by shard and list.
    Vector = 4,
    /// Ordinals of documents that were replaced or deleted.
    Kill = 5,
    /// An index generation: centroids, lists and shards.
    Index = 6,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::WalSegment, Self::Manifest, Self::Posting, Self::Vector, Self::Kill, Self::Index];

    /// The kind's name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WalSegment => "WAL segment",
            Self::Manifest => "manifest",
            Self::Posting => "posting file",
            Self::Vector => "vector segment",
            Self::Kill => "kill file",
            Self::Index => "index file",
        }
    }
}

/// A decoded, checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// What the file holds.
    pub kind: FileKind,
    /// The format version of that kind.
    pub version: u16,
    /// Features a reader may ignore.
    pub compatible: u32,
    /// Features that forbid writing when unknown.
    pub read_only_compatible: u32,
    /// Features that forbid reading when unknown.
    pub incompatible: u32,
    /// The database the file belongs to.
    pub database: [u8; 16],
    /// The number in the file's name.
    pub number: FileNumber,
}

impl FileHeader {
    /// A header without feature bits.
    pub const fn new(kind: FileKind, version: u16, database: [u8; 16], number: FileNumber) -> Self {
        Self { kind, version, compatible: 0, read_only_compatible: 0, incompatible: 0, database, number }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut encoder = Encoder::new();
        encoder.raw(&MAGIC).u16(self.kind as u16).u16(self.version);
        encoder.u32(self.compatible).u32(self.read_only_compatible).u32(self.incompatible);
        encoder.raw(&self.database).u64(self.number.0).raw(&[0; 12]);
        let checksum = crc32(encoder.as_slice());
        encoder.u32(checksum);
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(encoder.as_slice());
        bytes
    }

    /// Decodes a header of any kind and version, as `dump` needs it. The checksum is verified.
    pub fn decode(bytes: &[u8], file: &Path) -> Result<Self> {
        let mut decoder = Decoder::new(bytes, file, 0);
        if decoder.array::<8>()? != MAGIC {
            return Err(StorageError::corrupted(file, 0, "this is not a Plimsoll file (wrong magic)"));
        }
        let (kind, version) = (decoder.u16()?, decoder.u16()?);
        let (compatible, read_only_compatible, incompatible) =
            (decoder.u32()?, decoder.u32()?, decoder.u32()?);
        let (database, number) = (decoder.array()?, FileNumber(decoder.u64()?));
        let reserved = decoder.array::<12>()?;
        if decoder.u32()? != crc32(&bytes[..HEADER_LEN - 4]) {
            return Err(StorageError::corrupted(file, 60, "the header's checksum does not match"));
        }
        let Some(kind) = FileKind::ALL.into_iter().find(|known| *known as u16 == kind) else {
            let what = format!("file kind {kind} is unknown");
            return Err(StorageError::UpgradeRequired { file: file.to_path_buf(), what });
        };
        if reserved != [0; 12] {
            return Err(StorageError::corrupted(file, 48, "the header's reserved bytes are not zero"));
        }
        Ok(Self { kind, version, compatible, read_only_compatible, incompatible, database, number })
    }

    /// Requires that this is a `kind` of file that this program can read: format version 1 to
    /// `newest_version` and no unknown incompatible feature.
    pub fn expect(&self, kind: FileKind, newest_version: u16, file: &Path) -> Result<()> {
        if self.kind != kind {
            let what = format!("a {} was expected, this is a {}", kind.name(), self.kind.name());
            return Err(StorageError::corrupted(file, 8, what));
        }
        let upgrade = |what| Err(StorageError::UpgradeRequired { file: file.to_path_buf(), what });
        if self.version > newest_version {
            return upgrade(format!(
                "{} version {}; this program reads up to {newest_version}",
                kind.name(),
                self.version
            ));
        }
        if self.version == 0 {
            return Err(StorageError::corrupted(file, 10, "format version 0 does not exist"));
        }
        if self.incompatible != 0 {
            return upgrade(format!("incompatible feature bits {:#x}", self.incompatible));
        }
        Ok(())
    }

    /// Requires that the file belongs to `database` and carries the number of its name.
    pub fn expect_identity(&self, database: [u8; 16], number: FileNumber, file: &Path) -> Result<()> {
        if self.database != database {
            return Err(StorageError::corrupted(file, 24, "the file belongs to another database"));
        }
        if self.number != number {
            let what = format!("the file says it is number {}, its name says {number}", self.number);
            return Err(StorageError::corrupted(file, 40, what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header = FileHeader::new(FileKind::Posting, 1, [7; 16], FileNumber(42));
        let bytes = header.encode();
        let file = Path::new("f");
        assert_eq!(FileHeader::decode(&bytes, file).unwrap(), header);
        for bit in 0..HEADER_LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&damaged, file).is_err(), "bit {bit}");
        }
        for end in 0..HEADER_LEN {
            assert!(FileHeader::decode(&bytes[..end], file).is_err());
        }
    }

    #[test]
    fn a_newer_version_asks_for_an_upgrade() {
        let file = Path::new("f");
        let header = FileHeader::new(FileKind::Kill, 2, [0; 16], FileNumber(1));
        assert!(matches!(header.expect(FileKind::Kill, 1, file), Err(StorageError::UpgradeRequired { .. })));
        assert!(matches!(header.expect(FileKind::Index, 2, file), Err(StorageError::Corrupted { .. })));
        let feature = FileHeader { incompatible: 4, ..header };
        assert!(matches!(feature.expect(FileKind::Kill, 2, file), Err(StorageError::UpgradeRequired { .. })));
    }
}
