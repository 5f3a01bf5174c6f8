//! Directories that are missing, foreign, locked, read-only, too new or damaged: a typed error that names the
//! file, or the right answer; and what is there stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{
    CollectionConfig, Database, Document, Effort, Error, Metric, ReadOnlyDatabase, StorageError, verify,
    verify_in,
};
use plimsoll_sim::SimStorage;

use plimsoll_torture::model::Model;
use plimsoll_torture::random::Random;
use plimsoll_torture::recorder::Recorder;
use plimsoll_torture::recovery::{PATH, builder};

#[test]
fn missing_empty_and_foreign_directories() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(
        matches!(Database::builder(&missing).create(false).open(), Err(Error::DatabaseNotFound(path)) if path == missing)
    );
    assert!(matches!(ReadOnlyDatabase::open(&missing), Err(Error::DatabaseNotFound(_))));
    assert!(matches!(verify(&missing), Err(Error::DatabaseNotFound(_))));
    assert!(!missing.exists(), "asking does not create it");

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(Database::builder(&empty).create(false).open(), Err(Error::NotADatabase { .. })));
    assert!(matches!(ReadOnlyDatabase::open(&empty), Err(Error::NotADatabase { .. })));
    assert!(matches!(verify(&empty), Err(Error::NotADatabase { .. })));
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);

    // As a process leaves it that dies before the first manifest.
    fs::write(empty.join("LOCK"), "process 1 on host h\n").unwrap();
    fs::create_dir(empty.join("wal")).unwrap();
    let error = ReadOnlyDatabase::open(&empty).unwrap_err();
    assert!(matches!(&error, Error::NotADatabase { what, .. } if what.contains("interrupted")), "{error:?}");
    let report = verify(&empty).unwrap();
    assert!(!report.is_damaged() && report.findings.len() == 1, "{report:?}");
    Database::open(&empty).unwrap().close().unwrap();
    assert!(verify(&empty).unwrap().findings.is_empty());

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "all my work").unwrap();
    for result in [
        Database::open(&foreign).map(drop),
        ReadOnlyDatabase::open(&foreign).map(drop),
        verify(&foreign).map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::NotADatabase { what, .. } if what.contains("thesis.tex")),
            "{error:?}"
        );
    }
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing was created");

    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    assert!(Database::open(&file).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");
}

#[test]
fn a_second_writer_is_told_who_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::open(&path).unwrap();
    let notes = db.create_collection("notes", CollectionConfig::new(1, Metric::L2)).unwrap();
    let error = Database::open(&path).unwrap_err();
    let Error::Storage(StorageError::Locked { path: lock, holder }) = &error else { panic!("{error:?}") };
    assert!(lock.starts_with(&path));
    assert!(holder.contains(&format!("process {} on host ", std::process::id())), "{holder}");
    notes.upsert(Document::new(1).vector([1.0])).unwrap();
    ReadOnlyDatabase::open(&path).unwrap();
    db.close().unwrap();
    assert!(matches!(notes.upsert(Document::new(2).vector([1.0])), Err(Error::Closed)));
    Database::open(&path).unwrap();
}

#[cfg(unix)]
#[test]
fn a_directory_without_write_permission() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::open(&path).unwrap();
    let notes = db.create_collection("notes", CollectionConfig::new(1, Metric::L2)).unwrap();
    notes.upsert(Document::new(1).vector([1.0])).unwrap();
    drop(notes);
    db.close().unwrap();
    drop(db);
    let set = |mode| {
        for dir in ["", "wal", "data"] {
            fs::set_permissions(path.join(dir), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    fs::set_permissions(path.join("LOCK"), fs::Permissions::from_mode(0o444)).unwrap();
    set(0o555);
    // Root may write everywhere, and so sees no error.
    let is_root = fs::write(path.join("probe"), "").is_ok();
    let opened = Database::open(&path).map(drop);
    let reader =
        ReadOnlyDatabase::open(&path).map(|reader| reader.collection("notes").unwrap().count().unwrap());
    let report = verify(&path).map(|report| report.is_damaged());
    set(0o755);
    assert_eq!(reader.unwrap(), 1);
    assert!(!report.unwrap());
    if !is_root {
        let error = opened.unwrap_err();
        assert!(
            matches!(&error, Error::Storage(StorageError::Io { path: at, .. }) if at.starts_with(&path)),
            "{error:?}"
        );
    }
}

/// A database with a file of each kind: 4,200 rows with lists, deletes, and an unflushed tail.
fn with_every_kind_of_file() -> (SimStorage, Model) {
    let mut run = Recorder::new();
    run.memtable_bytes = 64 << 20;
    run.open();
    run.create("a", 2, Metric::L2);
    let document = |n: u64| Document::new(n).text(format!("t{n}")).vector([(n % 97) as f32, (n % 89) as f32]);
    run.write("a", &(0..4200).map(document).collect::<Vec<_>>(), &[], plimsoll::Durability::Durable);
    run.flush();
    run.compact();
    run.write("a", &[document(1)], &[2, 3], plimsoll::Durability::Durable);
    run.flush();
    run.write("a", &[document(5000)], &[4], plimsoll::Durability::Durable);
    let disk = run.disk.after_kill();
    (disk, run.model)
}

fn files(disk: &SimStorage) -> Vec<PathBuf> {
    let is_data = |path: &PathBuf| !path.ends_with("LOCK") && !path.ends_with("RESERVE");
    disk.paths().into_iter().filter(is_data).collect()
}

fn copy(disk: &SimStorage) -> SimStorage {
    disk.after_kill()
}

/// Reads everything there is: the contents, or the first error.
fn read_all(disk: &SimStorage) -> Result<Model, Error> {
    let db = builder(disk).memtable_bytes(64 << 20).open()?;
    let collection = db.collection("a")?;
    let mut model = Model::default();
    model.create("a", &CollectionConfig::new(2, Metric::L2));
    for document in collection.scan()? {
        model.collection("a").put(document?);
    }
    for n in [0u64, 1, 2, 100, 4000, 5000] {
        assert_eq!(collection.get(n)?.as_ref(), model.collections["a"].documents.get(&n.into()));
    }
    for effort in [Effort::Exact, Effort::Recall(0.95)] {
        collection.search(&[3.0, 4.0]).effort(effort).run()?;
    }
    collection.upsert(Document::new(1).vector([1.0, 1.0]))?;
    db.flush()?;
    db.compact()?;
    Ok(model)
}

fn names_a_file(error: &Error) -> bool {
    match error {
        Error::Storage(StorageError::Corrupted { file, .. } | StorageError::UpgradeRequired { file, .. }) => {
            file.starts_with(PATH)
        }
        Error::Storage(StorageError::Io { path, .. }) => path.starts_with(PATH),
        _ => false,
    }
}

/// The answer is right, or the error is typed and names a file, and then `verify` reports it, too.
fn check_damaged(disk: &SimStorage, models: &[&Model], what: &str) {
    let storage: Arc<dyn Storage> = Arc::new(copy(disk));
    let report =
        verify_in(Path::new(PATH), &storage).unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    match read_all(disk) {
        Ok(found) => {
            assert!(models.contains(&&found), "{what}: a wrong answer; verify says {:?}", report.findings);
        }
        Err(error) => {
            assert!(names_a_file(&error), "{what}: {error:?}");
            assert!(report.is_damaged(), "{what}: {error}, and verify finds nothing");
        }
    }
}

#[test]
fn flipped_bits_give_a_typed_error_or_the_right_answer() {
    let (disk, model) = with_every_kind_of_file();
    // A damaged last group of the log can not be told from a torn one, and is cut (rule R4).
    let mut cut = model.clone();
    let document = |n: u64| Document::new(n).text(format!("t{n}")).vector([(n % 97) as f32, (n % 89) as f32]);
    cut.collection("a").documents.remove(&5000.into());
    cut.collection("a").put(document(4));
    let mut random = Random::new(1);
    for file in files(&disk) {
        let bytes = disk.bytes(&file).unwrap().len() as u64;
        let mut bits: Vec<u64> = (0..40).map(|_| random.below(bytes as usize * 8) as u64).collect();
        // Headers and footers, where structure is.
        bits.extend((0..64.min(bytes)).step_by(3).map(|byte| byte * 8 + random.below(8) as u64));
        bits.extend((1..=64.min(bytes)).step_by(3).map(|back| (bytes - back) * 8 + random.below(8) as u64));
        for bit in bits {
            let damaged = copy(&disk);
            damaged.flip_bit(&file, bit).unwrap();
            check_damaged(&damaged, &[&model, &cut], &format!("bit {bit} of {}", file.display()));
        }
    }
}

#[test]
fn cut_missing_and_swapped_files_give_a_typed_error_or_the_right_answer() {
    let (disk, model) = with_every_kind_of_file();
    let mut cut = model.clone();
    cut.collection("a").documents.remove(&5000.into());
    let document = |n: u64| Document::new(n).text(format!("t{n}")).vector([(n % 97) as f32, (n % 89) as f32]);
    cut.collection("a").put(document(4));
    let all = files(&disk);
    let mut random = Random::new(2);
    for file in &all {
        let bytes = disk.bytes(file).unwrap();
        let len = bytes.len() as u64;
        for new in [0, 1, 63, 64, len / 2, len.saturating_sub(1), len + 1, random.below(bytes.len()) as u64] {
            let damaged = copy(&disk);
            damaged.truncate(file, new).unwrap();
            check_damaged(&damaged, &[&model, &cut], &format!("{} cut from {len} to {new}", file.display()));
        }
        let damaged = copy(&disk);
        damaged.delete(file).unwrap();
        check_damaged(&damaged, &[&model, &cut], &format!("{} missing", file.display()));
        let damaged = copy(&disk);
        damaged.put(file, vec![0; bytes.len()]).unwrap();
        check_damaged(&damaged, &[&model, &cut], &format!("{} zeroed", file.display()));
        for other in all.iter().filter(|other| *other != file && other.extension() == file.extension()) {
            let damaged = copy(&disk);
            damaged.put(file, disk.bytes(other).unwrap()).unwrap();
            check_damaged(&damaged, &[&model, &cut], &format!("{} is {}", file.display(), other.display()));
        }
    }
}

#[test]
fn a_newer_format_is_named() {
    let (disk, _) = with_every_kind_of_file();
    // What was put by for a repair is not read.
    let is_read = |file: &PathBuf| !file.display().to_string().contains("PREVIOUS");
    for file in files(&disk).into_iter().filter(is_read) {
        let newer = copy(&disk);
        let mut bytes = newer.bytes(&file).unwrap();
        bytes[10] += 1;
        let checksum = crc32(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        if file.display().to_string().contains("MANIFEST") {
            let end = bytes.len() - 4;
            let checksum = crc32(&bytes[..end]);
            bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        }
        newer.put(&file, &bytes).unwrap();
        let error = read_all(&newer).unwrap_err();
        let is_named = matches!(&error, Error::Storage(StorageError::UpgradeRequired { file: named, .. }) if *named == file);
        // A segment's own checksum covers the header, too.
        let is_log = file.extension().is_some_and(|extension| extension == "wal");
        assert!(is_named || (is_log && names_a_file(&error)), "{}: {error:?}", file.display());
        assert_eq!(newer.bytes(&file).unwrap(), bytes, "{} was changed", file.display());
    }
}

/// CRC-32 by its definition (IEEE 802.3), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}
