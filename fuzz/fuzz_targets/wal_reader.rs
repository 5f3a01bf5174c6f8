//! Any bytes as a segment of the log: recovery, a reader, `verify` and `dump` answer or refuse, never panic,
//! and allocate no more than the bytes allow. What recovery accepts, it accepts again after it went on.
//!
//! The first byte says how the rest is made: raw, or with the checksums of both headers put right so that the
//! fuzzer reaches what lies behind them.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use plimsoll_base::checksum::crc32;
use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_sim::SimStorage;
use plimsoll_wal::format::{Previous, SEGMENT_HEADER_LEN, SegmentHeader, segment_path};
use plimsoll_wal::{Anchor, Record, RecordBuilder, WalError, WalOptions, describe, read_durable, recover, verify};

const DATABASE: [u8; 16] = [7; 16];
const SALT: u64 = 0x1234;
const HEADER: usize = SEGMENT_HEADER_LEN as usize;

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    let (dir, disk) = (Path::new("/wal"), SimStorage::new());
    let path = segment_path(dir, FileNumber(1));
    disk.put(&path, segment(*mode, bytes)).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());

    let len = disk.bytes(&path).unwrap().len();
    let mut seen = Vec::new();
    let keep = |record: Record| {
        assert!(record.payload().len() <= len);
        seen.push(record.payload().to_vec());
        Ok::<_, WalError>(())
    };
    let recovered = recover(&storage, dir, DATABASE, &Anchor::START, keep);
    let _ = read_durable(&disk, dir, DATABASE, &Anchor::START, |_| Ok::<_, WalError>(()));
    let _ = describe(&disk, &path, |_| Ok(()));
    let damaged = verify(&disk, dir, DATABASE, &Anchor::START).unwrap().iter().any(|finding| finding.damage);
    assert_eq!(damaged, recovered.is_err());

    let Ok(recovered) = recovered else { return };
    let mut wal = recovered.into_wal(WalOptions { segment_bytes: 4096 }, Box::new(|| 99));
    let mut more = RecordBuilder::with_capacity(4);
    more.raw(b"more");
    wal.append_group(&mut [&mut more.finish()], true).unwrap();
    let mut again = Vec::new();
    recover(&storage, dir, DATABASE, &Anchor::START, |record| {
        again.push(record.payload().to_vec());
        Ok::<_, WalError>(())
    })
    .unwrap();
    seen.push(b"more".to_vec());
    assert_eq!(again, seen);
});

/// Mode 0: the bytes as they are. 1: behind a good segment header. 2: also with the checksums of the records
/// put right, one after another as their lengths say.
fn segment(mode: u8, bytes: &[u8]) -> Vec<u8> {
    if mode % 3 == 0 {
        return bytes.to_vec();
    }
    let header = SegmentHeader::new(DATABASE, FileNumber(1), SALT, Previous::none(Lsn::ZERO));
    let mut segment = [&header.encode()[..], bytes].concat();
    let mut at = HEADER;
    while mode % 3 == 2 && at + 32 <= segment.len() {
        let length = u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
        let end = at + (32 + length).next_multiple_of(8);
        if end <= segment.len() {
            let checksum = crc32(&segment[at + 32..end]);
            segment[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
        }
        let seeded = [&SALT.to_le_bytes()[..], &segment[at..at + 28]].concat();
        segment[at + 28..at + 32].copy_from_slice(&crc32(&seeded).to_le_bytes());
        at = end;
    }
    segment
}
