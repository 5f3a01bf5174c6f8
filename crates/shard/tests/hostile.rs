//! Files whose checksums are all good, and whose contents lie: an error or an answer within bounds, in no more
//! memory than a small multiple of the file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use common::*;
use plimsoll_base::FileNumber;
use plimsoll_base::checksum::crc32;
use plimsoll_base::storage::OsStorage;
use plimsoll_shard::SealedView;
use plimsoll_shard::*;
use proptest::prelude::*;

/// The file's sections with `change` applied, sealed again with good checksums (also of META).
fn reseal(
    dir: &std::path::Path,
    meta: &FileMeta,
    number: u64,
    change: impl Fn(&Section, &mut Vec<u8>),
) -> FileMeta {
    let file = SealedFile::open(&OsStorage, dir, meta, DATABASE, ReadMode::Owned).unwrap();
    let mut writer = SealedWriter::create(&OsStorage, dir, meta.kind, FileNumber(number), DATABASE).unwrap();
    for section in file.sections() {
        let mut bytes = file.bytes(section, 0..section.len).unwrap().to_vec();
        change(section, &mut bytes);
        if section.kind == SectionKind::META && bytes.len() >= 4 {
            let end = bytes.len() - 4;
            let crc = crc32(&bytes[..end]);
            bytes[end..].copy_from_slice(&crc.to_le_bytes());
        }
        writer.section(section.kind, section.owner, &bytes).unwrap();
    }
    commit(dir, writer.finish().unwrap())
}

/// Reading may fail or not; what it must not do is panic, hang or allocate without bounds.
fn read_and_verify(dir: &std::path::Path, meta: &FileMeta) -> bool {
    let mut sound = true;
    for mode in MODES {
        sound &= std::panic::catch_unwind(|| read_leniently(dir, meta, mode)).unwrap();
        sound &= verify(dir, meta, mode).is_ok();
    }
    sound
}

fn read_leniently(dir: &std::path::Path, meta: &FileMeta, mode: ReadMode) -> bool {
    match meta.kind {
        SealedKind::Posting => {
            let Ok(file) = PostingFile::open(&OsStorage, dir, meta, DATABASE, mode) else { return false };
            let mut sound = true;
            for index in 0..file.documents().min(100) {
                sound &= file.document(index).is_ok() && file.document_rows(index).is_ok();
                if let Ok(entry) = file.entry(index) {
                    sound &= file.find(&entry.id()).is_ok() && file.index_of(entry.ordinal()).is_ok();
                }
            }
            sound
        }
        SealedKind::Vector => {
            let Ok(file) = VectorFile::open(&OsStorage, dir, meta, DATABASE, mode) else { return false };
            let mut sound = true;
            for shard in file.shards() {
                let Ok(lists) = file.lists(*shard) else { return false };
                for list in lists {
                    sound &= file.rows(*shard, list).is_ok() && file.find_list(*shard, list.list).is_ok();
                }
            }
            sound
        }
        SealedKind::Kill => KillFile::open(&OsStorage, dir, meta, DATABASE, mode)
            .and_then(|file| file.ordinals().map(|ordinals| ordinals.contains(5)))
            .is_ok(),
        SealedKind::Index => IndexFile::open(&OsStorage, dir, meta, DATABASE, mode)
            .and_then(|file| file.contents().map(|contents| contents.lists.len()))
            .is_ok(),
    }
}

/// Each byte of each small section in turn becomes something else, under good checksums.
#[test]
fn no_byte_under_good_checksums_makes_a_reader_panic() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Owned).unwrap();
        let mut number = 100;
        for target in file.sections() {
            for at in 0..target.len as usize {
                for value in [0_u8, 0x7F, 0x80, 0xFF] {
                    number += 1;
                    let changed = reseal(dir.path(), &meta, number, |section, bytes| {
                        if section == target {
                            bytes[at] = value;
                        }
                    });
                    read_and_verify(dir.path(), &changed);
                    std::fs::remove_file(dir.path().join(changed.name().to_string())).unwrap();
                }
            }
        }
    }
}

/// Sections that are cut or extended: every structure is checked against every other.
#[test]
fn no_section_of_another_length_passes() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Owned).unwrap();
        let mut number = 100;
        for target in file.sections() {
            for len in (0..target.len as usize).chain([target.len as usize + 1, target.len as usize + 64]) {
                number += 1;
                let changed = reseal(dir.path(), &meta, number, |section, bytes| {
                    if section == target {
                        bytes.resize(len, 0);
                    }
                });
                let is_opaque = target.kind == posting::BLOOM;
                // Whole queries are queries, however many.
                let are_queries = target.kind == index_file::QUERIES
                    && len > 0
                    && len.is_multiple_of(size_of_val(&QUERIES) / 2);
                assert!(
                    !read_and_verify(dir.path(), &changed) || is_opaque || are_queries,
                    "{target:?} with {len} bytes"
                );
                std::fs::remove_file(dir.path().join(changed.name().to_string())).unwrap();
            }
        }
    }
}

/// What only a look at the contents shows, `verify` finds, in the section where it is.
#[test]
fn verify_finds_contents_that_contradict_each_other() {
    let dir = temp_dir();
    let metas = write_all(dir.path());
    let lies: [(usize, SectionKind, usize, u8); 14] = [
        (0, posting::DOCUMENTS, 0, 200),  // the first ordinal
        (0, posting::DOCUMENTS, 8, 200),  // the first id
        (0, posting::DOCUMENTS, 24, 200), // the first LSN
        (0, posting::DOCUMENTS, 84, 1),   // reserved
        (0, posting::DOCUMENTS, 136, 3),  // the second document's key offset
        (0, posting::TEXT, 3, 0xFF),
        (0, posting::TEXT, 0, 0xC3),
        (0, posting::RANGES, 0, 90),
        (0, posting::RANGES, 4, 90),
        (0, posting::RAW, 3, 0x45),
        (0, posting::NORMS, 3, 0x45),
        (0, posting::ROW_DOCUMENT, 4, 2),
        (0, posting::ID_TABLE, 16, 3),
        (0, posting::ID_TABLE, 20, 0),
    ];
    let more = [
        (1, vector::LISTS, 0, 99),
        (1, vector::LISTS, 4, 99),
        (2, vector::LISTS, 8, 99),
        (2, vector::LISTS, 12, 99),
        (1, vector::ORDINALS, 7, 1),
        (3, kill::KILLS, 0, 9),
        (4, index_file::LISTS, 4, 99),
        (4, index_file::MEAN, 3, 0xFF),
        (4, index_file::STOPS, 0, 0),
        (9, vector::RADII, 7, 0xBF), // a negative one
    ];
    for (number, (file, kind, at, value)) in lies.into_iter().chain(more).enumerate() {
        let changed = reseal(dir.path(), &metas[file], 100 + number as u64, |section, bytes| {
            if section.kind == kind {
                bytes[at] = value;
                if kind == index_file::MEAN {
                    bytes[at - 1] = 0xFF;
                }
            }
        });
        for mode in MODES {
            let error = verify(dir.path(), &changed, mode).expect_err(&format!("{kind:?} {at}"));
            assert!(matches!(error, plimsoll_base::StorageError::Corrupted { .. }), "{error}");
        }
    }
}

#[test]
fn counts_beyond_the_file_are_refused_at_once() {
    let dir = temp_dir();
    let metas = write_all(dir.path());
    // The counts of META: documents and rows; shards and rows; kills; lists and stops.
    let counts: [&[usize]; 5] = [&[4, 16, 24], &[16, 24], &[16, 24], &[8], &[12, 16, 52]];
    let mut number = 100;
    for (meta, offsets) in metas.iter().zip(counts) {
        for offset in offsets {
            for value in [0xFF_u8, 0x7F, 1] {
                for width in 1..=8.min(4 + offset % 8) {
                    number += 1;
                    let changed = reseal(dir.path(), meta, number, |section, bytes| {
                        if section.kind == SectionKind::META {
                            bytes[*offset + 1..*offset + width].fill(value);
                            bytes[*offset] ^= 0x40;
                        }
                    });
                    assert!(!read_and_verify(dir.path(), &changed), "{} at {offset}", meta.name());
                }
            }
        }
    }
}

#[test]
fn unknown_sections_are_ignored() {
    let dir = temp_dir();
    for meta in write_all(dir.path()) {
        let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Owned).unwrap();
        let number = FileNumber(meta.number.0 + 100);
        let mut writer = SealedWriter::create(&OsStorage, dir.path(), meta.kind, number, DATABASE).unwrap();
        for section in file.sections() {
            let bytes = file.bytes(section, 0..section.len).unwrap();
            writer.section(SectionKind(section.kind.0 + 100_000), section.owner, b"from the future").unwrap();
            writer.section(section.kind, section.owner, bytes).unwrap();
        }
        let newer = commit(dir.path(), writer.finish().unwrap());
        let read = |meta| read_everything(dir.path(), meta, ReadMode::Mapped).unwrap();
        assert_eq!(read(&newer), read(&meta));
        assert!(read_and_verify(dir.path(), &newer));
        let path = dir.path().join(newer.name().to_string());
        assert!(describe(&OsStorage, &path).unwrap().sections.iter().any(|s| s.name.starts_with("unknown")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_bytes_for_a_kill_set_are_refused_or_a_set(
        junk in prop::collection::vec(any::<u8>(), 0..200),
        prefix in 0..70_usize,
    ) {
        let dir = temp_dir();
        let meta = write_kills(dir.path(), 1);
        let changed = reseal(dir.path(), &meta, 2, |section, bytes| {
            if section.kind == kill::KILLS {
                bytes.truncate(prefix);
                bytes.extend(&junk);
            }
        });
        prop_assert!(!read_and_verify(dir.path(), &changed));
    }
}

#[test]
fn rows_that_the_file_does_not_have_are_damage() {
    let dir = temp_dir();
    let meta = write_all(dir.path())[0];
    let file = PostingFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Owned).unwrap();
    let first = file.entry(0).unwrap().first_row();
    let sound = (file.rows_of(0).unwrap(), file.row_of(0, 1).unwrap());
    assert_eq!(sound, (first..first + 2, first + 1));
    assert!(file.row_of(0, 2).is_err());
    // Wherever the first document's rows are said to begin, they are not found outside of the file.
    let mut refused = 0;
    for (number, at) in (0..88).enumerate() {
        let changed = reseal(dir.path(), &meta, 100 + number as u64, |section, bytes| {
            if section.kind == posting::DOCUMENTS {
                bytes[at] = 0xFF;
            }
        });
        let file = PostingFile::open(&OsStorage, dir.path(), &changed, DATABASE, ReadMode::Owned).unwrap();
        match file.rows_of(0) {
            Ok(rows) => assert!(rows.end <= file.rows()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused >= 8, "two numbers of four bytes: {refused}");
}
