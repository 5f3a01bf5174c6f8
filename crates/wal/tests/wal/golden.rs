//! The bytes of every format version, kept for ever.

use std::path::{Path, PathBuf};

use crate::common::*;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_wal::format::VERSION;
use plimsoll_wal::{WalOptions, describe};

const LENGTHS: [usize; 6] = [3, 0, 40, 200, 1, 64];

fn golden(version: u16, number: u64) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}-{number}.wal"))
}

fn write_log() -> plimsoll_sim::SimStorage {
    let disk = new_disk();
    let mut wal = plimsoll_wal::Recovered::fresh(&shared(&disk), dir(), DATABASE, Lsn(0), FileNumber(0))
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
        std::fs::write(golden(VERSION, number), disk.bytes(segment(number)).unwrap()).unwrap();
    }
}

#[test]
fn the_golden_files_are_still_written_byte_for_byte() {
    let written = write_log();
    for number in 1..=2 {
        let bytes = std::fs::read(golden(VERSION, number)).unwrap();
        assert_eq!(written.bytes(segment(number)).unwrap(), bytes);
    }
}

#[test]
fn the_golden_files_of_every_version_are_read() {
    for version in 1..=VERSION {
        let disk = new_disk();
        for number in 1..=2 {
            disk.put(segment(number), std::fs::read(golden(version, number)).unwrap()).unwrap();
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
        assert_eq!(info.header.capacity, if version == 1 { 0 } else { info.file_len });
        assert_eq!(described, [(128, 6, 5), (224, 6, 6)]);
    }
}
