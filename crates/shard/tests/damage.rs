//! Damage of every kind to a small file of every kind: a typed error that names the file, or the right answer
//! (and then `verify` still finds it). Never a wrong answer, and never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use std::path::Path;

use common::*;
use plimsoll_base::StorageError;
use plimsoll_base::storage::OsStorage;
use plimsoll_shard::{FileMeta, SealedKind, describe, verify_file};

fn assert_names(error: &StorageError, path: &Path, what: &str) {
    assert!(matches!(error, StorageError::Corrupted { file, .. } if file == path), "{what}: {error}");
}

/// With `bytes` in place of the file: reading tells the truth or that the file is damaged; verifying fails.
fn assert_noticed(dir: &Path, meta: &FileMeta, bytes: &[u8], expected: &str, what: &str) {
    let path = dir.join(meta.name().to_string());
    std::fs::write(&path, bytes).unwrap();
    for mode in MODES {
        match read_everything(dir, meta, mode) {
            Ok(read) => assert_eq!(read, expected, "{what}: a wrong answer"),
            Err(error) => assert_names(&error, &path, what),
        }
        assert_names(&verify(dir, meta, mode).expect_err(what), &path, what);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let path = dir.path().join(meta.name().to_string());
        let bytes = std::fs::read(&path).unwrap();
        let expected = read_everything(dir.path(), &meta, MODES[0]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let what = format!("bit {} of byte {} of {}", bit % 8, bit / 8, meta.name());
            assert_noticed(dir.path(), &meta, &damaged, &expected, &what);
        }
    }
}

#[test]
fn every_other_length_is_noticed() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let path = dir.path().join(meta.name().to_string());
        let bytes = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8], len: usize| {
            assert_noticed(dir.path(), &meta, bytes, "", &format!("{len} bytes of {}", meta.name()));
            // Without the manifest's length, too.
            assert_names(&describe(&OsStorage, &path).unwrap_err(), &path, "describe");
        };
        (0..bytes.len()).for_each(|len| check(&bytes[..len], len));
        for extra in [1, 3, 4, 24, 63, 64, 128, 4096, 65_536] {
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + extra, 0);
            check(&longer, longer.len());
            longer.truncate(bytes.len());
            longer.extend_from_within(bytes.len().saturating_sub(extra)..);
            check(&longer, longer.len());
        }
        check(&bytes.iter().chain(&bytes).copied().collect::<Vec<_>>(), 2 * bytes.len());
    }
}

/// Zeroed sectors, and any two blocks of 64 bytes swapped.
#[test]
fn zeroed_and_swapped_parts_are_noticed() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let path = dir.path().join(meta.name().to_string());
        let bytes = std::fs::read(&path).unwrap();
        let expected = read_everything(dir.path(), &meta, MODES[0]).unwrap();
        for start in (0..bytes.len()).step_by(64) {
            for len in [64, 512, 4096] {
                let end = bytes.len().min(start + len);
                let mut damaged = bytes.clone();
                damaged[start..end].fill(0);
                if damaged != bytes {
                    assert_noticed(dir.path(), &meta, &damaged, &expected, &format!("zeros at {start}"));
                }
            }
            for other in (start + 64..bytes.len().saturating_sub(63)).step_by(64) {
                let mut damaged = bytes.clone();
                damaged.copy_within(other..other + 64, start);
                damaged[other..other + 64].copy_from_slice(&bytes[start..start + 64]);
                if damaged != bytes {
                    assert_noticed(dir.path(), &meta, &damaged, &expected, &format!("{start} and {other}"));
                }
            }
        }
    }
}

#[test]
fn a_file_under_the_name_of_another_is_noticed() {
    let dir = temp_dir();
    let metas = write_all(dir.path());
    let read = |meta: &FileMeta| std::fs::read(dir.path().join(meta.name().to_string())).unwrap();
    let files: Vec<_> = metas.iter().map(read).collect();
    for (meta, own) in metas.iter().zip(&files) {
        let path = dir.path().join(meta.name().to_string());
        for other in files.iter().filter(|other| *other != own) {
            assert_noticed(dir.path(), meta, other, "", &format!("{} is another", meta.name()));
            let meta = FileMeta { len: other.len() as u64, ..*meta };
            assert_noticed(dir.path(), &meta, other, "", "and has its length");
        }
        std::fs::write(&path, own).unwrap();
        verify_file(&OsStorage, dir.path(), meta, DATABASE).unwrap();
        let foreign = verify_file(&OsStorage, dir.path(), meta, [0; 16]).unwrap_err();
        assert_names(&foreign, &path, "another database");
        std::fs::remove_file(&path).unwrap();
        assert!(verify_file(&OsStorage, dir.path(), meta, DATABASE).unwrap_err().is_not_found());
    }
}

#[test]
fn a_newer_format_asks_for_an_upgrade() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let path = dir.path().join(meta.name().to_string());
        let bytes = std::fs::read(&path).unwrap();
        for (at, feature) in [(10, false), (20, true)] {
            let mut newer = bytes.clone();
            newer[at] += if feature { 1 } else { 9 };
            let crc = plimsoll_base::checksum::crc32(&newer[..60]);
            newer[60..64].copy_from_slice(&crc.to_le_bytes());
            std::fs::write(&path, &newer).unwrap();
            let error = verify_file(&OsStorage, dir.path(), &meta, DATABASE).unwrap_err();
            assert!(matches!(error, StorageError::UpgradeRequired { .. }), "{error}");
        }
    }
}

#[test]
fn descriptions_show_counts_sections_and_damage() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let path = dir.path().join(meta.name().to_string());
        let description = describe(&OsStorage, &path).unwrap();
        assert!(description.damage.is_none());
        let value = |name: &str| {
            let found = description.fields.iter().find(|(field, _)| field == name);
            found.map(|(_, value)| value.clone()).unwrap()
        };
        assert_eq!(value("kind"), meta.kind.to_string());
        assert_eq!(value("crc32"), format!("{:08x}", meta.crc));
        assert_eq!(value("checksums"), "all verified");
        assert_eq!(value("collection"), "3");
        assert!(description.sections.iter().any(|section| section.name == "META"));
        if meta.kind == SealedKind::Posting {
            assert_eq!((value("documents"), value("rows")), ("4".to_owned(), "3".to_owned()));
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let raw = description.sections.iter().rfind(|section| section.len > 0 && section.name != "META");
        bytes[raw.unwrap().offset as usize] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(describe(&OsStorage, &path).unwrap().damage.is_some());
    }
    assert!(describe(&OsStorage, &dir.path().join("README.md")).is_err());
}
