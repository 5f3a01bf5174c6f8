//! The bytes of format version 1, kept for ever.

use std::path::{Path, PathBuf};

use crate::common::*;
use plimsoll_base::Lsn;
use plimsoll_wal::{WalOptions, describe};

const LENGTHS: [usize; 6] = [3, 0, 40, 200, 1, 64];

fn golden(number: u64) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v1-{number}.wal"))
}

fn write_log() -> plimsoll_sim::SimStorage {
    let disk = new_disk();
    let mut wal = plimsoll_wal::Recovered::fresh(&shared(&disk), dir(), DATABASE, Lsn(0))
        .unwrap()
        .into_wal(WalOptions { segment_bytes: 600 }, salts(1));
    for (index, len) in LENGTHS.into_iter().enumerate() {
        append_known(&mut wal, len, index % 2 == 0);
    }
    wal.close().unwrap();
    disk
}

#[test]
#[ignore = "writes the golden files; only for a new format version"]
fn write_the_golden_files() {
    let disk = write_log();
    for number in 1..=2 {
        std::fs::write(golden(number), disk.bytes(segment(number)).unwrap()).unwrap();
    }
}

#[test]
fn the_golden_files_are_read_and_still_written_byte_for_byte() {
    let (disk, written) = (new_disk(), write_log());
    for number in 1..=2 {
        let bytes = std::fs::read(golden(number)).unwrap();
        assert_eq!(written.bytes(segment(number)).unwrap(), bytes);
        disk.put(segment(number), bytes).unwrap();
    }
    let (records, recovered) = read_after(&disk, 0, 6).unwrap();
    assert_known(&records, &LENGTHS);
    assert_eq!((recovered.next_lsn(), recovered.durable()), (Lsn(7), Lsn(6)));
    assert!(recovered.cut().is_none());
    let mut described = Vec::new();
    let info = describe(&disk, &segment(2), |record| {
        described.push((record.offset, record.header.lsn.0, record.header.durable_before.0));
        Ok(())
    })
    .unwrap();
    assert_eq!(info.header.previous.last_lsn, Lsn(5));
    assert_eq!(described, [(128, 6, 5), (224, 6, 6)]);
}
