//! The bytes of each format's version 1, kept: today's reader reads them, and today's writer writes them.
//!
//! A file here is never regenerated once its version was released; a changed format is a new version with new
//! files. `cargo test -p plimsoll-shard --test golden -- --ignored` wrote them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use std::path::PathBuf;

use common::*;
use plimsoll_base::storage::OsStorage;
use plimsoll_shard::{FileMeta, verify_file};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn read(dir: &std::path::Path, meta: &FileMeta) -> Vec<u8> {
    std::fs::read(dir.join(meta.name().to_string())).unwrap()
}

#[test]
fn version_1_is_written_and_read_as_ever() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        assert!(meta.len < 8192);
        assert_eq!(read(&golden(), &meta), read(dir.path(), &meta), "{} is written differently", meta.name());
        verify_file(&OsStorage, &golden(), &meta, DATABASE).unwrap();
        for mode in MODES {
            let old = read_everything(&golden(), &meta, mode).unwrap();
            let text = golden().join(format!("{}.txt", meta.name()));
            assert_eq!(old, std::fs::read_to_string(text).unwrap());
        }
    }
}

#[test]
#[ignore = "writes the golden files; only for a new version"]
fn write_golden_files() {
    std::fs::create_dir_all(golden()).unwrap();
    for meta in write_all(&golden()) {
        let text = read_everything(&golden(), &meta, MODES[0]).unwrap();
        std::fs::write(golden().join(format!("{}.txt", meta.name())), text).unwrap();
    }
}
