//! What a repair must not lose, whatever manifest is left; and what strangers in the directory must not do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{
    CollectionConfig, Database, Document, Error, Metric, ReadOnlyDatabase, RepairReport, StorageError,
    repair_in, verify_in,
};
use plimsoll_sim::{CrashPolicy, SimStorage};
use plimsoll_torture::recovery::{PATH, builder};

pub(crate) fn shared(disk: &SimStorage) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

pub(crate) fn repair(disk: &SimStorage) -> RepairReport {
    repair_in(Path::new(PATH), &shared(disk)).unwrap()
}

pub(crate) fn create(db: &Database, name: &str) -> plimsoll::Collection {
    db.create_collection(name, CollectionConfig::new(2, Metric::L2)).unwrap()
}

fn document(key: u64) -> Document {
    Document::new(key).text("acknowledged").vector([key as f32, 1.0])
}

fn store(collection: &plimsoll::Collection, keys: std::ops::Range<u64>) {
    for key in keys {
        collection.upsert(document(key)).unwrap();
    }
}

pub(crate) fn newest(disk: &SimStorage, part: &str) -> PathBuf {
    disk.paths().into_iter().filter(|path| path.display().to_string().contains(part)).max().unwrap()
}

/// How many documents each collection has.
fn counts(disk: &SimStorage) -> Vec<u64> {
    let db = builder(disk).open().unwrap();
    let counts = db.collections().iter().map(|collection| collection.count().unwrap()).collect();
    assert!(!db.verify().unwrap().is_damaged());
    counts
}

#[test]
fn a_closed_database_whose_newest_manifest_is_damaged_is_repaired_and_goes_on() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    let before = (0..5).map(|key| collection.upsert(document(key)).unwrap()).max().unwrap();
    db.close().unwrap();
    let disk = disk.after_kill();
    disk.flip_bit(newest(&disk, "MANIFEST-"), 8 * 70).unwrap();
    assert!(repair(&disk).was_damaged());
    assert!(!repair(&disk).was_damaged());
    assert_eq!(counts(&disk), [5]);
    // No LSN is given twice: the newest version of a document stays the newest.
    let db = builder(&disk).open().unwrap();
    assert!(db.collection("a").unwrap().upsert(document(4).text("newer")).unwrap() > before);
}

#[test]
fn a_collection_that_only_the_log_and_the_damaged_manifest_know_is_kept() {
    let disk = SimStorage::new();
    // One segment of the log, so that no later manifest names the collection, too.
    let db = builder(&disk).wal_segment_bytes(1 << 20).open().unwrap();
    create(&db, "a").upsert(document(0)).unwrap();
    let b = create(&db, "b");
    store(&b, 0..50);
    let disk = disk.after_kill();
    disk.flip_bit(newest(&disk, "MANIFEST-"), 8 * 70).unwrap();
    let report = repair(&disk);
    assert_eq!(counts(&disk).iter().sum::<u64>(), 51, "{report:?}");
    assert!(report.manifest.unwrap().contains("known from the log only"));
}

#[test]
fn what_a_stale_manifest_does_not_name_is_put_aside_and_not_removed() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    collection.upsert(document(0)).unwrap();
    db.flush().unwrap();
    let stale = newest(&disk, "MANIFEST-");
    let bytes = disk.bytes(&stale).unwrap();
    store(&collection, 1..20);
    db.flush().unwrap();
    let disk = disk.after_kill();
    let posting = newest(&disk, ".posting");
    let kept = disk.bytes(&posting).unwrap();
    disk.delete(newest(&disk, "MANIFEST-")).unwrap();
    disk.delete(newest(&disk, "PREVIOUS-")).unwrap();
    disk.put(&stale, bytes).unwrap();
    // The log is missed, or there would be nothing to repair.
    disk.delete(newest(&disk, ".wal")).unwrap();
    let report = repair(&disk);
    let aside = report.moved_to.unwrap().join(posting.file_name().unwrap());
    assert!(disk.bytes(&posting).is_some() || disk.bytes(aside) == Some(kept));
}

#[test]
fn a_repair_that_is_cut_off_leaves_what_was_damaged_to_be_found() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    let collection = create(&db, "a");
    // Several blocks, only one of which is damaged.
    for key in 0..12 {
        collection.upsert(document(key).text("text ".repeat(400))).unwrap();
    }
    db.close().unwrap();
    let disk = disk.after_kill();
    let posting = newest(&disk, ".posting");
    disk.flip_bit(&posting, 8 * 9000).unwrap();
    let damaged = disk.bytes(&posting).unwrap();
    let disk = disk.after_kill();
    assert!(repair(&disk).was_damaged());
    let saved = counts(&disk.after_kill());
    assert!((1..12).contains(&saved[0]), "{saved:?}");
    let name = posting.file_name().unwrap();
    for number in 0..=disk.operations() {
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(number)] {
            let cut = disk.after_crash_at(number, policy);
            // Whoever comes next: a writer, or the repair again.
            let writer = cut.after_kill();
            drop(builder(&writer).open());
            repair(&cut);
            assert_eq!(counts(&cut.after_kill()), saved, "cut off before {number}, {policy:?}");
            for after in [&writer, &cut] {
                let is_it =
                    |path: &PathBuf| path.file_name() == Some(name) && after.bytes(path).unwrap() == damaged;
                assert!(after.paths().iter().any(is_it), "cut off before {number}, {policy:?}");
            }
        }
    }
}

#[test]
fn strangers_in_the_directory_are_left_alone() {
    let fill = || {
        let disk = SimStorage::new();
        let db = builder(&disk).open().unwrap();
        let collection = create(&db, "a");
        store(&collection, 0..5);
        db.flush().unwrap();
        collection.upsert(document(5)).unwrap();
        drop(db);
        disk.after_kill()
    };
    let path = |name: &str| Path::new(PATH).join(name);
    let disk = fill();
    disk.put(path("data/18446744073709551615.posting"), b"x").unwrap();
    disk.put(path("data/999999999999.kills"), b"x").unwrap();
    disk.put_dir(path("data/000000000099.posting")).unwrap();
    for round in 0..3 {
        let db = builder(&disk).open().unwrap();
        db.collection("a").unwrap().upsert(document(10 + round)).unwrap();
        db.close().unwrap();
        assert_eq!(counts(&disk), [7 + round]);
    }
    assert!(disk.bytes(path("data/999999999999.kills")).is_some());
    // What looks like the newest manifest or log is damage, and a repair goes on without it.
    for name in ["MANIFEST-999999999999", "MANIFEST-18446744073709551615", "wal/18446744073709551615.wal"] {
        let disk = fill();
        disk.put(path(name), b"x").unwrap();
        let opened = ReadOnlyDatabase::open_in(Path::new(PATH), shared(&disk), false);
        assert!(matches!(opened, Err(Error::Storage(StorageError::Corrupted { .. }))), "{name}");
        assert!(repair(&disk).was_damaged(), "{name}");
        assert_eq!(counts(&disk), [6], "{name}");
    }
    // Files of another database do not outvote a manifest that can be read.
    let (disk, (name, other)) = (fill(), of_another());
    disk.put(name, other).unwrap();
    disk.flip_bit(newest(&disk, "MANIFEST-"), 8 * 70).unwrap();
    repair(&disk);
    assert_eq!(counts(&disk), [6]);
}

/// A posting file of another database, with a number that the one in [`PATH`] has not given out.
fn of_another() -> (PathBuf, Vec<u8>) {
    let disk = SimStorage::new();
    let db = builder(&disk).seed(4711).open().unwrap();
    for key in 0..9 {
        create(&db, "z").upsert(document(key)).unwrap();
        db.flush().unwrap();
    }
    let posting = newest(&disk, ".posting");
    let bytes = disk.bytes(&posting).unwrap();
    (posting, bytes)
}

#[test]
fn verifying_beside_a_writer_finds_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::builder(&path).wal_segment_bytes(8 << 20).open().unwrap();
    let collection = create(&db, "a");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut key = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                collection.upsert(document(key)).unwrap();
                key += 1;
            }
        });
        let storage: Arc<dyn Storage> = Arc::new(plimsoll::storage::OsStorage);
        let reports = (0..40).map(|_| verify_in(&path, &storage).unwrap());
        let damaged = reports.into_iter().find(plimsoll::VerifyReport::is_damaged);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
        assert!(damaged.is_none(), "{damaged:?}");
    });
}
