use std::path::Path;

use plimsoll_base::checksum::crc32;
use plimsoll_base::storage::{OsStorage, Storage, Syncs};
use plimsoll_base::{FileNumber, StorageError};
use proptest::prelude::*;
use tempfile::TempDir;

use super::writer::BUFFER_LEN;
use super::*;

const DATABASE: DatabaseId = [7; 16];
const A: SectionKind = SectionKind(9001);

fn write(dir: &Path, number: u64, sections: &[(u32, Vec<u8>)], piece: usize) -> FileMeta {
    let mut writer =
        SealedWriter::create(&OsStorage, dir, SealedKind::Kill, FileNumber(number), DATABASE).unwrap();
    for (owner, bytes) in sections {
        writer.begin(A, *owner).unwrap();
        bytes.chunks(piece).for_each(|piece| writer.append(piece).unwrap());
        assert_eq!(writer.section_len(), bytes.len() as u64);
    }
    let pending = writer.finish().unwrap();
    commit_files(&OsStorage, dir, [pending], Syncs::InOrder).unwrap()[0]
}

fn bytes_of(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

#[test]
fn a_checksum_is_extended_without_the_bytes_before() {
    let bytes = bytes_of(300, 3);
    for at in 0..bytes.len() {
        assert_eq!(extend_crc(crc32(&bytes[..at]), &bytes[at..]), crc32(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_written_is_read_in_both_modes(
        lens in prop::collection::vec(prop_oneof![0..200_usize, 60_000..70_000_usize, 0..400_000_usize], 0..6),
        piece in prop_oneof![1..100_usize, 65_530..65_540_usize, Just(BUFFER_LEN), Just(3 * BUFFER_LEN)],
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
    ) {
        let dir = TempDir::new().unwrap();
        let sections: Vec<_> =
            lens.iter().enumerate().map(|(i, len)| (i as u32 * 3, bytes_of(*len, i as u8))).collect();
        let meta = write(dir.path(), 1, &sections, piece);
        let raw = std::fs::read(dir.path().join("000000000001.kills")).unwrap();
        prop_assert_eq!((meta.len, meta.crc), (raw.len() as u64, crc32(&raw)));
        let open = |mode| SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
        let (mapped, owned) = (open(ReadMode::Mapped), open(ReadMode::Owned));
        prop_assert!(mapped.is_mapped() && !owned.is_mapped());
        for (owner, bytes) in &sections {
            let section = mapped.section(A, *owner).unwrap();
            prop_assert_eq!(section.offset % SECTION_ALIGNMENT, 0);
            for (from, to) in &cuts {
                let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
                let range = from.min(to)..from.max(to);
                let wide = range.start as u64..range.end as u64;
                prop_assert_eq!(mapped.bytes(&section, wide.clone()).unwrap(), &bytes[range.clone()]);
                prop_assert_eq!(owned.bytes(&section, wide).unwrap(), &bytes[range]);
            }
            let beyond = 0..bytes.len() as u64 + 1;
            prop_assert!(mapped.bytes(&section, beyond.clone()).is_err());
            prop_assert!(owned.bytes(&section, beyond).is_err());
            mapped.will_need(&section, 0..u64::MAX);
        }
        prop_assert!(mapped.section(A, 1).is_err());
        mapped.verify().unwrap();
        owned.verify().unwrap();
        prop_assert_eq!(mapped.current_crc().unwrap(), meta.crc);
    }
}

/// The disk is asked for what was never touched, and a pass over the file is left to the kernel.
#[test]
fn only_what_was_never_touched_is_asked_for() {
    let dir = TempDir::new().unwrap();
    const BLOCKS: usize = 200;
    let meta = write(dir.path(), 1, &[(0, bytes_of(BLOCKS * BLOCK_LEN, 1))], 1 << 20);
    let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Mapped).unwrap();
    let section = file.section(A, 0).unwrap();
    let of_file = |blocks: std::ops::Range<usize>| blocks.start * BLOCK_LEN..blocks.end * BLOCK_LEN;
    let touch = |blocks: std::ops::Range<usize>| {
        let range = of_file(blocks);
        // The section begins behind the header.
        let inner = |at: usize| (at as u64).saturating_sub(section.offset);
        file.bytes(&section, inner(range.start)..inner(range.end)).unwrap();
    };
    // Nothing of it is in memory, as far as the file learns.
    let untouched = |range| file.wanted(range, |_| 0);
    (0..BLOCKS).for_each(|block| assert!(untouched(of_file(block..block + 1)).is_some()));
    assert_eq!(untouched(100..9000), Some(100..9000));
    touch(0..1);
    // As `is_verified` says nothing of blocks in two of its words, these are looked at one by one.
    touch(60..70);
    assert_eq!(untouched(100..4000), None);
    assert_eq!(untouched(100..9000), Some(BLOCK_LEN..9000));
    assert_eq!(untouched(of_file(61..69)), None);
    assert_eq!(untouched(of_file(61..90)), Some(of_file(70..90)));
    assert!(!file.is_passed_to(70 * BLOCK_LEN) && !file.is_passed_to(BLOCK_LEN) && !file.is_passed_to(0));
    touch(54..60);
    assert!(file.is_passed_to(70 * BLOCK_LEN) && file.is_passed_to(71 * BLOCK_LEN - 1));
    assert!(!file.is_passed_to(69 * BLOCK_LEN) && !file.is_passed_to(71 * BLOCK_LEN));
    // Hints change nothing, wherever they are.
    for range in [0..0, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        file.prefetch(&section, range.clone());
        file.ask_for(&section, range);
    }
    file.ask_for_bytes(0..u64::MAX);
    assert_eq!(untouched(of_file(1..2)), Some(of_file(1..2)));
}

/// What is in memory is not asked for, and looking whether it is there is done once for 16 blocks.
#[test]
fn what_is_in_memory_is_not_asked_for() {
    let dir = TempDir::new().unwrap();
    const BLOCKS: usize = 75;
    let meta = write(dir.path(), 1, &[(0, bytes_of(BLOCKS * BLOCK_LEN, 1))], 1 << 20);
    let open = || SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Mapped).unwrap();
    let of_file = |blocks: std::ops::Range<usize>| blocks.start * BLOCK_LEN..blocks.end * BLOCK_LEN;
    // What a process asks for that comes to one block after another, and where it looks.
    let passed = |file: &SealedFile, look: fn(usize) -> u16| {
        let looks = std::cell::RefCell::new(Vec::new());
        let counted = |first| {
            looks.borrow_mut().push(first);
            look(first)
        };
        let wanted: Vec<_> =
            (0..BLOCKS).filter(|block| file.wanted(of_file(*block..block + 1), counted).is_some()).collect();
        (wanted, looks.into_inner())
    };
    assert_eq!(passed(&open(), |_| u16::MAX), (vec![], vec![0, 16, 32, 48, 64]));
    assert_eq!(passed(&open(), |_| 0), ((0..BLOCKS).collect(), vec![0, 16, 32, 48, 64]));
    let file = open();
    let mixed = |first| [u16::MAX, 0b1001, 0, u16::MAX, 0][first / 16];
    assert_eq!(file.wanted(of_file(0..16), mixed), None);
    assert_eq!(file.wanted(of_file(10..22), mixed), Some(of_file(17..22)));
    assert_eq!(file.wanted(of_file(19..20), mixed), None);
    assert_eq!(file.wanted(of_file(46..50), mixed), Some(of_file(46..50)));
    // What was seen stays so.
    assert_eq!(passed(&file, |_| 0), ((17..19).chain(20..BLOCKS).collect(), vec![48, 64]));
}

/// The files that this process has just written are in memory, and nothing is asked for.
#[test]
#[cfg(target_os = "linux")]
fn a_file_that_is_in_memory_is_never_asked_for() {
    let dir = TempDir::new().unwrap();
    let meta = write(dir.path(), 1, &[(0, bytes_of(300 * BLOCK_LEN, 1))], 1 << 20);
    let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Mapped).unwrap();
    let section = file.section(A, 0).unwrap();
    for at in (0..section.len).step_by(7 * BLOCK_LEN) {
        let range = at..(at + 100).min(section.len);
        file.prefetch(&section, range.clone());
        file.bytes(&section, range).unwrap();
    }
    file.ask_for(&section, 0..section.len);
    assert_eq!(file.asks.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// Damage far from what is read is not noticed by reading, but by touching and by verifying.
#[test]
fn blocks_are_verified_when_they_are_touched() {
    let dir = TempDir::new().unwrap();
    let bytes = bytes_of(10 * BLOCK_LEN, 1);
    let meta = write(dir.path(), 1, &[(0, bytes.clone())], 1 << 20);
    let path = dir.path().join("000000000001.kills");
    let mut raw = std::fs::read(&path).unwrap();
    raw[5 * BLOCK_LEN + 17] ^= 4;
    std::fs::write(&path, raw).unwrap();
    for mode in [ReadMode::Mapped, ReadMode::Owned] {
        let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
        let section = file.section(A, 0).unwrap();
        if mode == ReadMode::Mapped {
            assert_eq!(file.bytes(&section, 0..100).unwrap(), &bytes[..100]);
            let end = 5 * BLOCK_LEN - 64;
            assert_eq!(file.bytes(&section, 0..end as u64).unwrap(), &bytes[..end]);
        }
        for _ in 0..2 {
            let at = 5 * BLOCK_LEN as u64;
            let error = file.bytes(&section, at..at + 1).unwrap_err();
            assert!(matches!(error, StorageError::Corrupted { offset, .. } if offset == at), "{error}");
        }
        let error = file.verify().unwrap_err();
        assert!(matches!(&error, StorageError::Corrupted { offset, file, .. }
            if *offset == 5 * BLOCK_LEN as u64 && *file == path));
    }
}

/// What a writer with blocks of `block` bytes would have written.
fn with_blocks_of(raw: &[u8], block: usize) -> Vec<u8> {
    let at = raw.len() - FOOTER_LEN;
    let footer = Footer::decode(&raw[at..], Path::new("footer"), raw.len() as u64).unwrap();
    let data = &raw[..footer.section_offset as usize];
    let table: Vec<u8> = data.chunks(block).flat_map(|block| crc32(block).to_le_bytes()).collect();
    let mut new = [&raw[..footer.block_offset as usize], &table].concat();
    let (block_len, block_crc) = (table.len() as u64, crc32(&table));
    let footer = Footer { block_len, block_crc, body_crc: crc32(&new), block_size: block as u32, ..footer };
    new.extend(footer.encode());
    new
}

#[test]
fn blocks_of_other_lengths_are_read_and_verified_too() {
    let dir = TempDir::new().unwrap();
    let bytes = bytes_of(200_000, 9);
    write(dir.path(), 1, &[(0, bytes[..70_000].to_vec()), (1, bytes[70_000..].to_vec())], 1 << 20);
    let path = dir.path().join("000000000001.kills");
    let raw = std::fs::read(&path).unwrap();
    assert_eq!(with_blocks_of(&raw, BLOCK_LEN), raw);
    for (block, known) in
        [(2048, false), (8192, true), (12_288, false), (MAX_BLOCK_LEN, true), (1 << 17, false)]
    {
        let mut raw = with_blocks_of(&raw, block);
        std::fs::write(&path, &raw).unwrap();
        let open = |mode| SealedFile::open_unnamed(&OsStorage, &path, mode);
        if !known {
            assert!(matches!(open(ReadMode::Mapped), Err(StorageError::Corrupted { .. })));
            continue;
        }
        for mode in [ReadMode::Mapped, ReadMode::Owned] {
            let file = open(mode).unwrap();
            file.verify().unwrap();
            let read = |owner| file.array::<u8>(&file.section(A, owner).unwrap()).unwrap();
            assert_eq!([read(0), read(1)].concat(), bytes);
        }
        raw[2 * block + 5] ^= 1;
        std::fs::write(&path, &raw).unwrap();
        for mode in [ReadMode::Mapped, ReadMode::Owned] {
            let file = open(mode).unwrap();
            let damaged = StorageError::corrupted(&path, 2 * block as u64, "").to_string();
            let same = |error: StorageError| error.to_string().starts_with(damaged.trim_end_matches(": "));
            assert!(same(file.verify().unwrap_err()));
            let (owner, at) = if 2 * block < 70_000 { (0, 2 * block) } else { (1, 2 * block - 70_016) };
            let section = file.section(A, owner).unwrap();
            assert!(same(file.bytes(&section, at as u64..at as u64 + 1).unwrap_err()));
        }
    }
}

#[test]
fn an_unfinished_or_invalid_file_leaves_nothing_and_nothing_is_replaced() {
    let dir = TempDir::new().unwrap();
    let create = |number| {
        SealedWriter::create(&OsStorage, dir.path(), SealedKind::Kill, FileNumber(number), DATABASE).unwrap()
    };
    let mut writer = create(1);
    assert!(writer.append(b"x").is_err(), "bytes outside of a section");
    writer.section(A, 0, b"x").unwrap();
    drop(writer);
    let mut writer = create(1);
    writer.section(A, 0, b"x").unwrap();
    writer.section(A, 0, b"y").unwrap();
    assert_eq!(writer.finish().unwrap_err().io_kind(), Some(std::io::ErrorKind::InvalidInput));
    assert!(OsStorage.list(dir.path()).unwrap().is_empty());
    let meta = write(dir.path(), 1, &[(0, b"first".to_vec())], 9);
    let files = [create(2).finish().unwrap(), create(1).finish().unwrap()];
    let error = commit_files(&OsStorage, dir.path(), files, Syncs::InOrder).unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::AlreadyExists));
    SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Owned).unwrap();
    assert_eq!(OsStorage.list(dir.path()).unwrap().len(), 1);
}

#[test]
fn identity_is_checked_when_a_file_is_opened() {
    let dir = TempDir::new().unwrap();
    let meta = write(dir.path(), 1, &[(0, b"first".to_vec())], 9);
    let twin = write(dir.path(), 2, &[(0, b"other".to_vec())], 9);
    let open = |meta: &FileMeta, database| {
        SealedFile::open(&OsStorage, dir.path(), meta, database, ReadMode::Mapped)
    };
    let damaged = |meta: &FileMeta, database, text: &str| {
        let error = open(meta, database).unwrap_err();
        assert!(matches!(&error, StorageError::Corrupted { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    open(&meta, DATABASE).unwrap();
    damaged(&meta, [8; 16], "another database");
    damaged(&FileMeta { crc: meta.crc ^ 1, ..meta }, DATABASE, "another file");
    damaged(&FileMeta { len: meta.len + 1, ..meta }, DATABASE, "manifest says");
    let path = |meta: &FileMeta| dir.path().join(meta.name().to_string());
    std::fs::copy(path(&twin), path(&meta)).unwrap();
    damaged(&FileMeta { crc: twin.crc, ..meta }, DATABASE, "is number 2");
    // A twin of the same length and the same number, as an older backup would be.
    std::fs::remove_file(path(&meta)).unwrap();
    write(dir.path(), 1, &[(0, b"third".to_vec())], 9);
    damaged(&meta, DATABASE, "another file");
    std::fs::remove_file(path(&meta)).unwrap();
    assert!(open(&meta, DATABASE).unwrap_err().is_not_found());
    let kind = FileMeta { kind: SealedKind::Index, ..meta };
    std::fs::copy(path(&twin), path(&kind)).unwrap();
    damaged(&kind, DATABASE, "was expected");
}

/// A section of another file, or one made up, is refused, not read out of bounds.
#[test]
fn foreign_sections_are_refused() {
    let dir = TempDir::new().unwrap();
    let meta = write(dir.path(), 1, &[(0, bytes_of(100, 0))], 9);
    for mode in [ReadMode::Mapped, ReadMode::Owned] {
        let file = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
        for (offset, len) in [(64, 1 << 40), (u64::MAX, 8), (1 << 40, 8), (meta.len - 8, 8)] {
            let section = Section { kind: A, owner: 0, offset, len };
            assert!(file.bytes(&section, 0..8.min(len)).is_err() || offset == 64);
            assert!(file.bytes(&section, 0..len).is_err());
        }
    }
}

/// Tables with good checksums whose parts contradict each other.
#[test]
fn a_hostile_section_table_is_refused() {
    let dir = TempDir::new().unwrap();
    let sections = [(0, bytes_of(100, 0)), (1, bytes_of(100, 1))];
    let meta = write(dir.path(), 1, &sections, 9);
    let path = dir.path().join("000000000001.kills");
    let raw = std::fs::read(&path).unwrap();
    let footer = Footer::decode(&raw[raw.len() - FOOTER_LEN..], &path, meta.len).unwrap();
    let reject = |at: usize, value: &[u8], footer: Footer| {
        let mut raw = raw.clone();
        let table = footer.section_offset as usize;
        raw[table + at..table + at + value.len()].copy_from_slice(value);
        let body_end = raw.len() - FOOTER_LEN;
        let section_crc = crc32(&raw[table..footer.block_offset as usize]);
        let footer = Footer { section_crc, body_crc: crc32(&raw[..body_end]), ..footer };
        raw[body_end..].copy_from_slice(&footer.encode());
        std::fs::write(&path, &raw).unwrap();
        let meta = FileMeta { crc: crc32(&raw), ..meta };
        let opened = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Mapped);
        assert!(matches!(opened.unwrap_err(), StorageError::Corrupted { .. }), "{at} {value:?}");
    };
    for (at, value) in [
        (8, 0_u64),
        (8, 128),
        (8, u64::MAX - 7),
        (16, 129),
        (16, 300),
        (16, u64::MAX),
        (32, 64),
        (40, 1 << 60),
        (40, 0),
        (24, u64::from(A.0)),
    ] {
        reject(at, &value.to_le_bytes(), footer);
    }
    for wrong in [
        Footer { section_len: footer.section_len + 24, ..footer },
        Footer { section_offset: footer.section_offset - 64, section_len: footer.section_len + 64, ..footer },
        Footer { block_len: footer.block_len + 4, ..footer },
    ] {
        let mut raw = raw.clone();
        let body_end = raw.len() - FOOTER_LEN;
        raw[body_end..].copy_from_slice(&wrong.encode());
        std::fs::write(&path, &raw).unwrap();
        let meta = FileMeta { crc: crc32(&raw), ..meta };
        let opened = SealedFile::open(&OsStorage, dir.path(), &meta, DATABASE, ReadMode::Mapped);
        assert!(matches!(opened.unwrap_err(), StorageError::Corrupted { .. }), "{wrong:?}");
    }
    for offset in [0, 64, 1 << 63, u64::MAX - 63] {
        let wrong = Footer { section_offset: offset, block_len: u64::MAX - 3, ..footer };
        assert!(Footer::decode(&wrong.encode(), &path, meta.len).is_err());
    }
}
