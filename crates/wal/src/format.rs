//! The format of the log's files, version 2: this page is its specification.
//!
//! # Names
//! `NNNNNNNNNNNN.wal` is segment N (decimal, at least 12 digits, from 1; a number is never used twice).
//! `spare-NNNN.tmp` is a segment that was prepared ahead, or whose start did not finish; it means nothing and
//! the next writer removes it. Other names are not ours.
//!
//! # A segment
//! All integers are little-endian. A segment is a header of 128 bytes, then records, then whatever the disk
//! reserved (zeros).
//! ```text
//! offset  size  field
//!      0    64  FileHeader of kind WalSegment: magic, version, features, database id, number, its own CRC
//!     64     8  salt: random, seeds the checksum of every record header of this segment
//!     72     8  number of the previous segment; 0: there is none
//!     80     8  end of the previous segment: its records end before this byte, what follows never counts
//!     88     8  last LSN of the previous segment, at that end
//!     96     8  first LSN of this segment: always the last LSN of the previous one, plus 1
//!    104     8  capacity: the length in bytes that the file was created with; 0: it grows as it is written
//!    112    12  reserved, zero
//!    124     4  CRC-32 of bytes 0 to 123
//!    128        records
//! ```
//! The header is complete and synced **before** the file gets its final name, and the previous segment was
//! synced up to the recorded end before that. Hence, first, a damaged header under a final name is always
//! damage and never the trace of a crash; and second, every record of the previous segment up to the recorded
//! end had been durable, so that anything wrong there is damage, too. Third, so was the file's length: one that
//! is shorter than its capacity was cut off afterwards. (Version 1 had no capacity, and zeros in its place.)
//!
//! The segments form a chain from the newest (the highest number) backwards. A segment that no newer one
//! names was given up while it was being started; nothing in it was ever acknowledged, and it is skipped.
//!
//! # A record
//! ```text
//! offset  size  field
//!      0     4  payload length in bytes, at most 2^30
//!      4     4  CRC-32 of the payload and its padding
//!      8     8  LSN
//!     16     8  durable_before: the LSN known to be durable when this record was written
//!     24     4  flags: 1 = commit (a batch), 2 = mark; exactly one of them
//!     28     4  CRC-32 of the segment's salt (8 bytes) and bytes 0 to 27
//!     32        payload, then zeros up to a multiple of 8
//! ```
//! Records stand one after another at multiples of 8. The LSN of a commit is that of the commit before it
//! plus 1, the first one's is the segment's first LSN. A mark has no payload and takes no LSN of its own: it
//! repeats the LSN of the commit before it and says, by `durable_before`, how much of the log a reader process
//! may believe (R10). `durable_before` is less than the LSN of its commit, and at most the LSN of its mark.
//!
//! The salt is what makes bytes of any other segment (a stale block, a copied file) fail the check of their
//! headers. It is not a secret and does not withstand someone who crafts a file on purpose.
//!
//! # Replay: torn tail or damage (R4)
//! The log ends where the newest segment has no valid record of the expected LSN h. That is a torn tail,
//! unless something proves that LSN h had been durable: a manifest, or a record header further on in the
//! segment (searched for at every multiple of 8) with `durable_before` of at least h. A header proves this by
//! itself, whether or not its payload arrived: its checksum shows that the writer wrote it, and the writer
//! wrote it only after LSN h was synced.
//!
//! The downside: the last group has no witness. If it is damaged after it was acknowledged, it looks exactly
//! like a group torn by a crash, and is cut.
//!
//! # Example
//! A new log with one commit of the payload `abc`: 128 bytes of header (previous 0, 0, 0; first LSN 1), then
//! `03 00 00 00`, the CRC of `61 62 63 00 00 00 00 00`, LSN `01 00…`, durable_before `00…`, flags `01 00 00 00`,
//! the header's CRC, `61 62 63` and five zeros; 168 bytes in all.

use std::path::{Path, PathBuf};

use plimsoll_base::checksum::crc32;
use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::header::{FileHeader, FileKind, HEADER_LEN};
use plimsoll_base::{FileNumber, Lsn, StorageError};

/// The version of the format that this program writes, and the newest it reads.
pub const VERSION: u16 = 2;
/// The length of a segment's header in bytes: where its first record is.
pub const SEGMENT_HEADER_LEN: u64 = 128;
/// The length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 32;
/// Records begin at multiples of this.
pub const RECORD_ALIGNMENT: usize = 8;
/// The largest payload in bytes.
pub const MAX_PAYLOAD: u64 = 1 << 30;

const CHECKSUM_AT: usize = SEGMENT_HEADER_LEN as usize - 4;
const _: () = assert!(HEADER_LEN + 6 * 8 + 12 == CHECKSUM_AT);
const _: () = assert!(RECORD_HEADER_LEN.is_multiple_of(RECORD_ALIGNMENT));
const _: () = assert!((SEGMENT_HEADER_LEN as usize).is_multiple_of(RECORD_ALIGNMENT));

/// Where a segment's predecessor ends, and what its last record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Previous {
    /// The previous segment; number 0 when there is none.
    pub number: FileNumber,
    /// The end of its records, in bytes from its start.
    pub end: u64,
    /// The LSN of its last record.
    pub last_lsn: Lsn,
}

impl Previous {
    /// The predecessor of the first segment of a log whose first record follows `last_lsn`.
    pub const fn none(last_lsn: Lsn) -> Self {
        Self { number: FileNumber(0), end: 0, last_lsn }
    }

    /// Whether there is a previous segment.
    pub const fn exists(&self) -> bool {
        self.number.0 != 0
    }
}

/// A segment's header, decoded and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The part common to all files.
    pub file: FileHeader,
    /// The seed of the segment's record checksums.
    pub salt: u64,
    /// Where the previous segment ends.
    pub previous: Previous,
    /// The length that the file was created with, in bytes; 0 if it grows as it is written.
    pub capacity: u64,
}

impl SegmentHeader {
    /// The header of segment `number`, which grows as it is written.
    pub const fn new(database: [u8; 16], number: FileNumber, salt: u64, previous: Previous) -> Self {
        let file = FileHeader::new(FileKind::WalSegment, VERSION, database, number);
        Self { file, salt, previous, capacity: 0 }
    }

    /// The LSN of the segment's first record.
    pub const fn first_lsn(&self) -> Lsn {
        self.previous.last_lsn.next()
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN as usize] {
        let mut encoder = Encoder::new();
        encoder.raw(&self.file.encode()).u64(self.salt);
        encoder.u64(self.previous.number.0).u64(self.previous.end).u64(self.previous.last_lsn.0);
        encoder.u64(self.first_lsn().0).u64(self.capacity).raw(&[0; 12]);
        let checksum = crc32(encoder.as_slice());
        encoder.u32(checksum);
        let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
        bytes.copy_from_slice(encoder.as_slice());
        bytes
    }

    /// Decodes the header of `path`, whichever database and number it has.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`], or [`StorageError::UpgradeRequired`] for a newer format.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, StorageError> {
        let file = FileHeader::decode(bytes, path)?;
        file.expect(FileKind::WalSegment, VERSION, path)?;
        let (_, rest) = bytes.split_at(HEADER_LEN);
        let mut decoder = Decoder::new(rest, path, HEADER_LEN as u64);
        let salt = decoder.u64()?;
        let previous = Previous {
            number: FileNumber(decoder.u64()?),
            end: decoder.u64()?,
            last_lsn: Lsn(decoder.u64()?),
        };
        let first = decoder.u64()?;
        let capacity = decoder.u64()?;
        let reserved = decoder.array::<12>()?;
        let at = decoder.clone();
        if decoder.u32()? != crc32(&bytes[..CHECKSUM_AT]) {
            return Err(at.corrupted("the segment header's checksum does not match"));
        }
        if previous.last_lsn.0.checked_add(1) != Some(first) || reserved != [0; 12] {
            return Err(at.corrupted("the segment header contradicts itself"));
        }
        if previous.exists() && (previous.number >= file.number || previous.end < SEGMENT_HEADER_LEN) {
            return Err(at.corrupted("the segment header names an impossible previous segment"));
        }
        Ok(Self { file, salt, previous, capacity })
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// A batch, with its own LSN.
    Commit = 1,
    /// A statement of what is durable, without an LSN of its own.
    Mark = 2,
}

/// A record's header, whose checksum held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The payload's length in bytes.
    pub payload_len: u32,
    /// The checksum of the payload and its padding.
    pub payload_crc: u32,
    /// The record's LSN; that of the commit before it for a mark.
    pub lsn: Lsn,
    /// What was known to be durable when the record was written.
    pub durable_before: Lsn,
    /// Commit or mark.
    pub kind: RecordKind,
}

impl RecordHeader {
    /// The header's bytes in a segment with this salt.
    pub fn encode(&self, salt: u64) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = [0; RECORD_HEADER_LEN];
        bytes[0..4].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.durable_before.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.kind as u32).to_le_bytes());
        let checksum = header_crc(&bytes, salt);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes a header, unless it was not written for a segment with this salt or makes no sense.
    pub fn decode(bytes: &[u8; RECORD_HEADER_LEN], salt: u64) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let kind = match u32_at(24) {
            1 => RecordKind::Commit,
            2 => RecordKind::Mark,
            _ => return None,
        };
        let header = Self {
            payload_len: u32_at(0),
            payload_crc: u32_at(4),
            lsn: Lsn(u64_at(8)),
            durable_before: Lsn(u64_at(16)),
            kind,
        };
        let sensible = match kind {
            RecordKind::Commit => header.durable_before < header.lsn && header.lsn.0 < u64::MAX,
            RecordKind::Mark => {
                header.durable_before <= header.lsn && header.lsn.0 < u64::MAX && header.payload_len == 0
            }
        };
        let sensible = sensible && u64::from(header.payload_len) <= MAX_PAYLOAD;
        (sensible && u32_at(28) == header_crc(bytes, salt)).then_some(header)
    }

    /// The record's length on disk, header and padding included.
    pub fn encoded_len(&self) -> u64 {
        encoded_len(self.payload_len as usize) as u64
    }
}

/// The length on disk of a record with a payload of `payload_len` bytes.
pub const fn encoded_len(payload_len: usize) -> usize {
    (RECORD_HEADER_LEN + payload_len).next_multiple_of(RECORD_ALIGNMENT)
}

fn header_crc(bytes: &[u8; RECORD_HEADER_LEN], salt: u64) -> u32 {
    let mut seeded = [0; 8 + RECORD_HEADER_LEN - 4];
    seeded[..8].copy_from_slice(&salt.to_le_bytes());
    seeded[8..].copy_from_slice(&bytes[..RECORD_HEADER_LEN - 4]);
    crc32(&seeded)
}

/// The path of segment `number` in the log's directory.
pub fn segment_path(dir: &Path, number: FileNumber) -> PathBuf {
    dir.join(format!("{:012}.wal", number.0))
}

/// The segment number in a file name, if it is the name of a segment.
pub fn segment_number(name: &str) -> Option<FileNumber> {
    let number: u64 = digits(name.strip_suffix(".wal")?)?;
    (number != 0 && format!("{number:012}.wal") == name).then_some(FileNumber(number))
}

/// The path of the temporary file `number` in the log's directory.
pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("spare-{number:04}.tmp"))
}

/// The number in a temporary file's name, if it is one.
pub(crate) fn spare_number(name: &str) -> Option<u64> {
    digits(name.strip_prefix("spare-")?.strip_suffix(".tmp")?)
}

fn digits(text: &str) -> Option<u64> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
