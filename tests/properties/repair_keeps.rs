//! What a repair keeps, what it must not bring back, and what it says; by what is left of manifests, log and files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use plimsoll::{
    CollectionRepair, Document, Error, Key, ReadOnlyDatabase, StorageError, repair_in, salvage_in, verify_in,
};
use plimsoll_sim::{Failure, OperationKind, SimStorage};
use plimsoll_torture::recovery::{PATH, builder};

use crate::repair_and_strangers::{create, newest, repair, shared};

fn path(name: &str) -> PathBuf {
    Path::new(PATH).join(name)
}

fn store(collection: &plimsoll::Collection, keys: std::ops::Range<u64>, text: &str) {
    for key in keys {
        collection.upsert(document(key, text)).unwrap();
    }
}

fn document(key: u64, text: &str) -> Document {
    Document::new(key).text(text).vector([key as f32, 1.0])
}

/// The files with this part in their names, oldest first.
fn files(disk: &SimStorage, part: &str) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.display().to_string().contains(part)).collect()
}

fn damage(disk: &SimStorage, path: &Path) {
    disk.flip_bit(path, 8 * 70).unwrap();
}

/// The keys and texts of the only collection.
fn texts(disk: &SimStorage) -> Vec<(Key, String)> {
    let db = builder(disk).open().unwrap();
    let collections = db.collections();
    let [collection] = &collections[..] else { panic!("{} collections", collections.len()) };
    let mut texts: Vec<_> = collection
        .scan()
        .unwrap()
        .map(|document| document.unwrap())
        .map(|document| (document.key, document.text.unwrap()))
        .collect();
    texts.sort();
    texts
}

fn keys(disk: &SimStorage) -> Vec<Key> {
    texts(disk).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn what_is_written_after_a_repair_without_manifests_is_kept() {
    let disk = SimStorage::new();
    for keys in [0..5, 5..8] {
        let db = builder(&disk).open().unwrap();
        let collection = create(&db, "a");
        store(&collection, keys, "before");
        db.close().unwrap();
    }
    // The last file is emptied: only the kills know its ordinals.
    let db = builder(&disk).open().unwrap();
    for key in [0, 5, 6, 7] {
        create(&db, "a").delete(key).unwrap();
    }
    db.close().unwrap();
    let disk = disk.after_kill();
    damage(&disk, &newest(&disk, "MANIFEST-"));
    damage(&disk, &newest(&disk, "PREVIOUS-"));
    assert!(repair(&disk).was_damaged());
    let db = builder(&disk).open().unwrap();
    let [collection] = &db.collections()[..] else { panic!() };
    collection.upsert(document(9, "after")).unwrap();
    db.close().unwrap();
    assert_eq!(keys(&disk), [1, 2, 3, 4, 9u64].map(Key::from));
    assert!(!repair(&disk).was_damaged());
}

#[test]
fn damage_in_the_log_takes_nothing_back_that_files_have() {
    let disk = SimStorage::new();
    let db = builder(&disk).wal_segment_bytes(1 << 16).open().unwrap();
    let collection = create(&db, "a");
    for key in [1, 2, 3] {
        collection.upsert(document(key, "old")).unwrap();
    }
    collection.upsert(document(1, "new")).unwrap();
    collection.delete(3).unwrap();
    let flushed = collection.upsert(document(4, "old")).unwrap();
    db.flush().unwrap();
    drop(db);
    // Killed before the log was given back: it has what the files have.
    let disk = disk.after_kill();
    let log = newest(&disk, ".wal");
    let written = disk.bytes(&log).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let expected = texts(&disk.after_kill());
    assert_eq!(expected.len(), 3);
    for byte in (64..written).step_by(5) {
        let disk = disk.after_kill();
        disk.flip_bit(&log, 8 * byte).unwrap();
        damage(&disk, &newest(&disk, "MANIFEST-"));
        let report = repair(&disk);
        assert_eq!(texts(&disk), expected, "byte {byte}: {report}");
        // But for records of the job that has flushed.
        let lost = report.log.iter().flat_map(|log| &log.lsns_lost);
        assert!(lost.clone().all(|(first, _)| *first > flushed), "byte {byte}: {report}");
        assert!(!report.collections.iter().any(CollectionRepair::lost_anything), "byte {byte}: {report}");
    }
}

#[test]
fn the_log_of_another_database_does_not_stand_for_ours() {
    let other = SimStorage::new();
    let db = builder(&other).seed(4711).open().unwrap();
    for key in 0..200 {
        create(&db, "z").upsert(document(key, "theirs")).unwrap();
    }
    let theirs = other.bytes(newest(&other, ".wal")).unwrap();
    for name in ["wal/000-copy.wal", "wal/000000000000.wal"] {
        let disk = SimStorage::new();
        let db = builder(&disk).wal_segment_bytes(1 << 16).open().unwrap();
        let collection = create(&db, "a");
        store(&collection, 0..6, "ours");
        drop(db);
        let disk = disk.after_kill();
        disk.put(path(name), theirs.clone()).unwrap();
        damage(&disk, &newest(&disk, "MANIFEST-"));
        let report = repair(&disk);
        assert_eq!(keys(&disk).len(), 6, "{name}: {report}");
    }
}

#[test]
fn a_deleted_newer_version_keeps_the_older_one_away() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    collection.upsert(document(1, "first")).unwrap();
    collection.upsert(document(2, "other")).unwrap();
    db.flush().unwrap();
    collection.upsert(document(1, "second")).unwrap();
    db.flush().unwrap();
    let kills = newest(&disk, ".kills");
    collection.delete(1).unwrap();
    db.close().unwrap();
    let disk = disk.after_kill();
    assert_eq!(files(&disk, ".kills").len(), 2, "the first is not merged yet");
    damage(&disk, &kills);
    let report = repair(&disk);
    assert_eq!(keys(&disk), [Key::from(2u64)], "{report}");
}

#[test]
fn deletions_that_are_lost_with_the_newest_manifest_are_counted() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    store(&collection, 0..6, "text");
    db.flush().unwrap();
    collection.delete(1).unwrap();
    db.flush().unwrap();
    let kills = newest(&disk, ".kills");
    // The log goes on, and forgets it.
    store(&collection, 10..99, "text");
    db.flush().unwrap();
    collection.delete(2).unwrap();
    db.flush().unwrap();
    drop(db);
    let disk = disk.after_kill();
    damage(&disk, &kills);
    damage(&disk, &newest(&disk, "MANIFEST-"));
    let report = repair(&disk);
    assert_eq!(keys(&disk).len(), 5 + 89, "the first deletion is gone: {report}");
    assert_eq!(report.collections[0].deletions_lost, 1, "{report}");
}

#[test]
fn a_manifest_of_yesterday_takes_nothing_away() {
    let disk = SimStorage::new();
    for round in 0..4u64 {
        let db = builder(&disk).open().unwrap();
        let collection = create(&db, "a");
        store(&collection, 5 * round..5 * round + 5, "text");
        db.close().unwrap();
    }
    // The one before, in the newest one's place.
    let disk = disk.after_kill();
    let (current, previous) = (newest(&disk, "MANIFEST-"), newest(&disk, "PREVIOUS-"));
    let name = previous.file_name().unwrap().to_str().unwrap().replace("PREVIOUS", "MANIFEST");
    let bytes = disk.bytes(&previous).unwrap();
    disk.delete(&current).unwrap();
    disk.delete(&previous).unwrap();
    disk.put(path(&name), bytes).unwrap();
    let report = repair(&disk);
    assert_eq!(keys(&disk).len(), 20, "{report}");
}

#[test]
fn an_opening_removes_no_file_whose_writes_nothing_else_has() {
    let disk = SimStorage::new();
    let close = |keys: std::ops::Range<u64>| {
        let db = builder(&disk).open().unwrap();
        let collection = create(&db, "a");
        store(&collection, keys, "text");
        db.close().unwrap();
    };
    close(0..5);
    let is_root = |path: &PathBuf| {
        let name = path.display().to_string();
        ["MANIFEST-", "PREVIOUS-", "/wal/"].iter().any(|part| name.contains(part))
    };
    let older = files(&disk, ".posting");
    let backup: Vec<_> = disk.paths().into_iter().filter(is_root).collect();
    let backup: Vec<_> = backup.into_iter().map(|path| (disk.bytes(&path).unwrap(), path)).collect();
    close(5..10);
    let disk = disk.after_kill();
    disk.paths().into_iter().filter(is_root).for_each(|path| disk.delete(path).unwrap());
    backup.into_iter().for_each(|(bytes, path)| disk.put(path, bytes).unwrap());
    let newer: Vec<_> = files(&disk, ".posting").into_iter().filter(|file| !older.contains(file)).collect();
    let damaged = |error| match error {
        Error::Storage(StorageError::Corrupted { file, .. }) => assert!(newer.contains(&file)),
        other => panic!("{other}"),
    };
    damaged(builder(&disk).open().unwrap_err());
    assert!(verify_in(Path::new(PATH), &shared(&disk)).unwrap().is_damaged());
    let report = repair(&disk);
    assert_eq!(keys(&disk).len(), 10, "{report}");
}

#[test]
fn a_missing_data_directory_is_damage() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    store(&collection, 0..5, "flushed");
    db.flush().unwrap();
    store(&collection, 5..8, "logged");
    drop(db);
    let gone = SimStorage::new();
    for path in disk.paths().into_iter().filter(|path| !path.starts_with(self::path("data"))) {
        gone.put(&path, disk.bytes(&path).unwrap()).unwrap();
    }
    assert!(builder(&gone).open().is_err());
    assert!(verify_in(Path::new(PATH), &shared(&gone)).unwrap().is_damaged());
    let (salvaged, _) = salvage_in(Path::new(PATH), &shared(&gone)).unwrap();
    assert_eq!(salvaged.collection("a").unwrap().count().unwrap(), 3);
    let report = repair(&gone);
    assert_eq!(report.collections[0].documents_lost, 5, "{report}");
    assert_eq!(keys(&gone).len(), 3);
}

#[test]
fn salvaging_shows_the_last_write_of_a_killed_writer() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    store(&collection, 0..5, "text");
    drop(db);
    let disk = disk.after_kill();
    let before = disk.operations();
    let (salvaged, report) = salvage_in(Path::new(PATH), &shared(&disk)).unwrap();
    assert!(!report.was_damaged());
    assert_eq!(salvaged.collection("a").unwrap().count().unwrap(), 5);
    assert_eq!(disk.operations(), before, "salvaging changes nothing");
}

#[test]
fn what_a_repair_puts_aside_may_be_on_another_file_system() {
    let damaged = || {
        let disk = SimStorage::new();
        let db = builder(&disk).open().unwrap();
        let collection = create(&db, "a");
        store(&collection, 0..5, "text");
        db.close().unwrap();
        let disk = disk.after_kill();
        let posting = newest(&disk, ".posting");
        damage(&disk, &posting);
        (disk.after_kill(), posting)
    };
    let mut copied = 0;
    for skip in 0..20 {
        let (disk, posting) = damaged();
        let bytes = disk.bytes(&posting).unwrap();
        disk.fail_after(OperationKind::Rename, skip, ErrorKind::CrossesDevices, 1);
        let done = repair_in(Path::new(PATH), &shared(&disk)).is_ok();
        copied += usize::from(done && !disk.faults_struck().is_empty());
        disk.clear_faults();
        repair(&disk);
        let is_kept = |path: &PathBuf| disk.bytes(path).unwrap() == bytes;
        assert!(disk.paths().iter().any(is_kept), "rename {skip}: what was damaged is gone");
        drop(builder(&disk).open().unwrap());
    }
    assert!(copied > 0);
}

#[test]
fn something_else_under_the_name_of_what_repairs_put_aside_stops_nobody() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    create(&db, "a").upsert(document(0, "text")).unwrap();
    db.close().unwrap();
    let disk = disk.after_kill();
    disk.put_dir(path("lost/notes/UNFINISHED")).unwrap();
    disk.put(path("lost/mine.txt"), b"mine").unwrap();
    assert_eq!(keys(&disk).len(), 1);
    assert_eq!(disk.bytes(path("lost/mine.txt")).unwrap(), b"mine");
}

#[test]
fn a_file_that_can_not_be_read_harms_its_collection_only() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    for name in ["a", "b"] {
        create(&db, name).upsert(document(0, "text")).unwrap();
    }
    db.close().unwrap();
    let mut harmed = 0;
    for skip in 0..12 {
        let disk = disk.after_kill();
        disk.fail_after(OperationKind::Open, skip, Failure::errno(5), 1);
        let opened = ReadOnlyDatabase::open_in(Path::new(PATH), shared(&disk), false);
        disk.clear_faults();
        let Ok(db) = opened else { continue };
        let read = |name: &str| db.collection(name).unwrap().get(0u64).map(|found| found.unwrap());
        let errors = ["a", "b"].into_iter().filter(|name| read(name).is_err()).count();
        assert!(errors <= 1, "open {skip}");
        harmed += errors;
        for name in ["a", "b"] {
            let found = db.collection(name).unwrap().search(&[0.0, 1.0]).allow_partial(true).run().unwrap();
            assert_eq!(found.hits.is_empty(), !found.explain.missing.is_empty(), "open {skip}, {name}");
        }
    }
    assert!(harmed > 0);
}
