//! Putting checksums right, so that what lies behind them is reached.
//!
//! Nothing here may fail: bytes that are too few or contradict each other stay as they are.

use plimsoll_base::checksum::crc32;
use plimsoll_base::header::HEADER_LEN;
use plimsoll_shard::SectionKind;
use plimsoll_shard::container::FOOTER_LEN;
use plimsoll_wal::format::{RECORD_ALIGNMENT, RECORD_HEADER_LEN, SEGMENT_HEADER_LEN};

/// The checksum in the last four bytes of `range`, of the bytes of `range` before them.
fn put_right(bytes: &mut [u8], range: std::ops::Range<usize>) {
    let Some(part) = bytes.get_mut(range) else { return };
    let Some((body, checksum)) = part.split_last_chunk_mut::<4>() else { return };
    *checksum = crc32(body).to_le_bytes();
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 8).map_or(usize::MAX, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()) as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
}

/// A manifest's: of its header, and of all of it.
pub(crate) fn of_manifest(bytes: &mut [u8]) {
    put_right(bytes, 0..HEADER_LEN);
    put_right(bytes, 0..bytes.len());
}

/// A log segment's: of its header, and of its records one after another, as their lengths say.
pub(crate) fn of_segment(bytes: &mut [u8]) {
    let records = SEGMENT_HEADER_LEN as usize;
    put_right(bytes, 0..HEADER_LEN);
    put_right(bytes, 0..records);
    let Some(salt) = bytes.get(64..72).map(<[u8]>::to_vec) else { return };
    let mut at = records;
    while let Some(header) = bytes.get(at..at + RECORD_HEADER_LEN) {
        let length = RECORD_HEADER_LEN + u32_at(header, 0);
        let end = at + length.next_multiple_of(RECORD_ALIGNMENT);
        if let Some(payload) = bytes.get(at + RECORD_HEADER_LEN..end) {
            let checksum = crc32(payload);
            bytes[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
        }
        let checksum = crc32(&[&salt, &bytes[at..at + 28]].concat());
        bytes[at + 28..at + RECORD_HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
}

/// A sealed file's: of its header, meta section, blocks, tables and footer, and of all of it.
pub(crate) fn of_sealed(bytes: &mut [u8]) {
    put_right(bytes, 0..HEADER_LEN);
    let Some(footer) = bytes.len().checked_sub(FOOTER_LEN) else { return };
    let (table, table_len) = (u64_at(bytes, footer), u64_at(bytes, footer + 8));
    let (blocks, blocks_len) = (u64_at(bytes, footer + 16), u64_at(bytes, footer + 24));
    let range = |start: usize, len: usize| Some(start..start.checked_add(len).filter(|end| *end <= footer)?);
    let (Some(table), Some(blocks)) = (range(table, table_len), range(blocks, blocks_len)) else { return };
    for entry in table.clone().step_by(24) {
        if u32_at(bytes, entry) == SectionKind::META.0 as usize
            && let Some(meta) = range(u64_at(bytes, entry + 8), u64_at(bytes, entry + 16))
        {
            put_right(bytes, meta);
        }
    }
    let block = u32_at(bytes, footer + 44).max(64);
    let data: Vec<u32> = bytes[..table.start].chunks(block).map(crc32).collect();
    for (at, checksum) in blocks.clone().step_by(4).zip(data).filter(|(at, _)| at + 4 <= blocks.end) {
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
    for (at, part) in [(32, table), (36, blocks), (40, 0..footer)] {
        let checksum = crc32(&bytes[part]);
        bytes[footer + at..footer + at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
    put_right(bytes, footer..footer + 56);
}
