//! A record in memory: header and payload in one aligned buffer, which goes to disk as it is and then serves
//! the memtable as storage.
//!
//! **Owns** [`Record`] and [`RecordBuilder`]. **Must not know** segments or files; the commit leader completes
//! the header when it knows LSN and segment. **On a crash** it is gone.

use std::fmt;

use plimsoll_base::Lsn;
use plimsoll_base::aligned::AlignedBytes;
use plimsoll_base::arena::Arena;
use plimsoll_base::checksum::{Crc32, crc32};
use plimsoll_base::mutant::{self, Mutant};

use crate::format::{RECORD_HEADER_LEN, RecordHeader, RecordKind, encoded_len};

/// Builds a [`Record`]: appends payload bytes to the buffer that the record will have.
///
/// Offset 0 of the payload is 32 bytes into a 64-byte aligned buffer, so data at payload offsets that are
/// multiples of 4, 8, 16 or 32 ([`RecordBuilder::align`]) can be viewed in place.
///
/// ```
/// let mut builder = plimsoll_wal::RecordBuilder::with_capacity(64);
/// builder.u8(7).align(4).f32s(&[1.0, 2.0]);
/// let record = builder.finish();
/// assert_eq!(bytemuck::cast_slice::<u8, f32>(&record.payload()[4..]), [1.0, 2.0]);
/// ```
pub struct RecordBuilder {
    /// Zeros after what is in use.
    buffer: AlignedBytes,
    /// Bytes in use, header included.
    len: usize,
    /// The checksum of the payload's bytes before `summed`.
    checksum: Crc32,
    summed: usize,
}

/// How many bytes are appended between two steps of the checksum.
const SUM_EVERY: usize = 4096;

macro_rules! put {
    ($($name:ident: $type:ty),*) => {$(
        #[doc = concat!("Appends a little-endian `", stringify!($type), "`.")]
        pub fn $name(&mut self, value: $type) -> &mut Self {
            self.raw(&value.to_le_bytes())
        }
    )*};
}

impl RecordBuilder {
    /// A builder with room for a payload of `bytes`; a longer payload makes it grow, with a copy.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::on(AlignedBytes::zeroed(encoded_len(bytes)))
    }

    /// As [`RecordBuilder::with_capacity`], with memory of an arena.
    pub fn in_arena(arena: &Arena, bytes: usize) -> Self {
        Self::on(AlignedBytes::zeroed_in(arena, encoded_len(bytes)))
    }

    fn on(buffer: AlignedBytes) -> Self {
        Self { buffer, len: RECORD_HEADER_LEN, checksum: Crc32::new(), summed: RECORD_HEADER_LEN }
    }

    put!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64, f32: f32, f64: f64);

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.len + bytes.len();
        if end > self.buffer.len() {
            self.resize(encoded_len((end - RECORD_HEADER_LEN).max(2 * self.len)));
        }
        self.buffer[self.len..end].copy_from_slice(bytes);
        self.len = end;
        if self.len - self.summed >= SUM_EVERY {
            self.sum(self.len);
        }
        self
    }

    /// Extends the checksum, while what was appended is still in the processor's cache.
    fn sum(&mut self, end: usize) {
        self.checksum.update(&self.buffer[self.summed..end]);
        self.summed = end;
    }

    /// Gives the buffer another length, at least that of what is in use.
    fn resize(&mut self, len: usize) {
        let mut other = AlignedBytes::zeroed(len);
        other[..self.len].copy_from_slice(&self.buffer[..self.len]);
        self.buffer = other;
    }

    /// Appends a `u32` length, then the bytes.
    pub fn prefixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    /// Appends numbers, little-endian.
    pub fn f32s(&mut self, values: &[f32]) -> &mut Self {
        if cfg!(target_endian = "little") {
            return self.raw(bytemuck::cast_slice(values));
        }
        for value in values {
            self.f32(*value);
        }
        self
    }

    /// Pads the payload with zeros up to a multiple of `alignment` (up to 32 it holds in memory, too).
    pub fn align(&mut self, alignment: usize) -> &mut Self {
        let padding = self.payload_len().next_multiple_of(alignment) - self.payload_len();
        for _ in 0..padding {
            self.raw(&[0]);
        }
        self
    }

    /// The payload's length so far, in bytes.
    pub fn payload_len(&self) -> usize {
        self.len - RECORD_HEADER_LEN
    }

    /// The payload so far.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[RECORD_HEADER_LEN..self.len]
    }

    /// Computes the payload's checksum: the record is ready for the log.
    pub fn finish(mut self) -> Record {
        let payload_len = self.payload_len();
        // The record may live in a memtable for long: no more than a quarter of it is slack.
        let needed = encoded_len(payload_len);
        if self.buffer.len() > needed + needed / 4 {
            self.resize(needed);
        }
        self.sum(needed);
        let payload_crc = self.checksum.value();
        let header = RecordHeader { payload_len: payload_len as u32, payload_crc, ..EMPTY };
        Record { buffer: self.buffer, payload_len, header }
    }

    /// As [`RecordBuilder::finish`], for what is a part of a record that was appended. It has the LSN of that one, and is
    /// never appended itself.
    pub fn finish_part(self, whole: &Record) -> Record {
        let mut part = self.finish();
        part.header.lsn = whole.header.lsn;
        part.header.durable_before = whole.header.durable_before;
        part
    }
}

impl fmt::Debug for RecordBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordBuilder({} bytes)", self.payload_len())
    }
}

const EMPTY: RecordHeader = RecordHeader {
    payload_len: 0,
    payload_crc: 0,
    lsn: Lsn::ZERO,
    durable_before: Lsn::ZERO,
    kind: RecordKind::Commit,
};

/// One record: a batch's payload with its header, in one buffer.
pub struct Record {
    buffer: AlignedBytes,
    /// Kept apart from the header, which holds at most 32 bits: an oversized record is refused, not cut.
    payload_len: usize,
    header: RecordHeader,
}

impl Record {
    /// The payload, whose first byte is 32-byte aligned.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[RECORD_HEADER_LEN..RECORD_HEADER_LEN + self.payload_len]
    }

    /// The record's LSN; [`Lsn::ZERO`] until it has been appended.
    pub fn lsn(&self) -> Lsn {
        self.header.lsn
    }

    /// What was known to be durable when the record was appended: everything up to here survives a crash.
    pub fn durable_before(&self) -> Lsn {
        self.header.durable_before
    }

    /// The record's length on disk in bytes: header, payload and padding.
    pub fn encoded_len(&self) -> usize {
        encoded_len(self.payload_len)
    }

    /// The bytes of memory it occupies.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.buffer.len()
    }

    /// The record's bytes on disk, as of the last [`Record::seal`].
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.buffer[..encoded_len(self.payload_len)]
    }

    /// Completes the header for the place where the record is going to stand.
    pub(crate) fn seal(&mut self, lsn: Lsn, durable_before: Lsn, salt: u64) {
        self.header.lsn = lsn;
        self.header.durable_before = durable_before;
        self.buffer[..RECORD_HEADER_LEN].copy_from_slice(&self.header.encode(salt));
    }

    /// The payload's length, not cut to what a header can hold.
    pub(crate) fn payload_len(&self) -> u64 {
        self.payload_len as u64
    }

    /// A record of disk bytes that `fill` writes to a buffer of the length that `header` says, header
    /// included; `None` if the payload's checksum does not hold.
    pub(crate) fn read<E>(
        header: RecordHeader,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        let payload_len = header.payload_len as usize;
        let mut buffer = AlignedBytes::zeroed(encoded_len(payload_len));
        fill(&mut buffer)?;
        let record = Self { buffer, payload_len, header };
        let crc = crc32(&record.encoded()[RECORD_HEADER_LEN..]);
        let holds = crc == header.payload_crc || mutant::is(Mutant::SkipRecordChecksum);
        Ok(holds.then_some(record))
    }

    /// A record of the disk bytes `encoded`; `None` if the payload's checksum does not hold.
    pub(crate) fn copy_of(header: RecordHeader, encoded: &[u8]) -> Option<Self> {
        let crc = crc32(&encoded[RECORD_HEADER_LEN..]);
        let holds = crc == header.payload_crc || mutant::is(Mutant::SkipRecordChecksum);
        let payload_len = header.payload_len as usize;
        holds.then(|| Self { buffer: AlignedBytes::copy_of(encoded), payload_len, header })
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record(LSN {}, {} bytes)", self.header.lsn, self.payload_len)
    }
}
