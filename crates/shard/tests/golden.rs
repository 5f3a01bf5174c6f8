//! The bytes of each format's versions, kept: today's reader reads all of them, and today's writer writes the newest.
//!
//! A file here is never regenerated once its version was released; a changed format is a new version with new
//! files. The kinds of files have had the same versions so far: 1 has blocks of 64 KiB, 2 of 4 KiB. `cargo test -p plimsoll-shard --test golden -- --ignored` wrote them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use std::path::PathBuf;

use common::*;
use plimsoll_base::storage::OsStorage;
use plimsoll_shard::{FileMeta, SealedFile, verify_file};

const NEWEST: u16 = 2;

fn golden(version: u16) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

fn read(dir: &std::path::Path, meta: &FileMeta) -> Vec<u8> {
    std::fs::read(dir.join(meta.name().to_string())).unwrap()
}

#[test]
fn the_newest_version_is_written_as_ever() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        assert!(meta.len < 8192);
        assert_eq!(meta.kind.version(), NEWEST);
        let golden = golden(NEWEST);
        assert_eq!(read(&golden, &meta), read(dir.path(), &meta), "{} is written differently", meta.name());
    }
}

#[test]
fn every_version_is_read_as_ever() {
    let dir = temp_dir();
    for named in write_all(dir.path()) {
        let mut texts = Vec::new();
        for version in 1..=NEWEST {
            let golden = golden(version);
            let path = golden.join(named.name().to_string());
            if version == 1 && !path.exists() {
                continue; // There were no codes.
            }
            let meta = *SealedFile::open_unnamed(&OsStorage, &path, MODES[0]).unwrap().file_meta();
            verify_file(&OsStorage, &golden, &meta, DATABASE).unwrap();
            let text = std::fs::read_to_string(golden.join(format!("{}.txt", meta.name()))).unwrap();
            for mode in MODES {
                assert_eq!(read_everything(&golden, &meta, mode).unwrap(), text);
            }
            texts.push(text);
        }
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{} means something else", named.name());
    }
}

#[test]
#[ignore = "writes the golden files; only for a new version"]
fn write_golden_files() {
    let golden = golden(NEWEST);
    std::fs::create_dir_all(&golden).unwrap();
    for meta in write_all(&golden) {
        let text = read_everything(&golden, &meta, MODES[0]).unwrap();
        std::fs::write(golden.join(format!("{}.txt", meta.name())), text).unwrap();
    }
}
