//! What opening costs, and what a damaged file takes from the answers of a search that may do without it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{
    CollectionConfig, Database, Document, Effort, Error, Key, Metric, ReadOnlyDatabase, StorageError,
    WriteBatch,
};
use plimsoll_sim::{CrashPolicy, OperationKind, SimStorage};

use plimsoll_torture::hook::HookStorage;
use plimsoll_torture::recovery::{PATH, builder};

fn store(db: &Database, rows: std::ops::Range<u64>) {
    let collection = db.create_collection("c", CollectionConfig::new(8, Metric::L2)).unwrap();
    let mut batch = WriteBatch::new();
    for row in rows {
        batch.upsert_vector(row, &[row as f32; 8]);
    }
    collection.write(&batch).unwrap();
}

#[test]
fn opening_reads_the_same_for_ten_times_the_rows() {
    let opened = |rows: u64| {
        let disk = SimStorage::new();
        let db = builder(&disk).memtable_bytes(64 << 20).open().unwrap();
        store(&db, 0..rows);
        db.close().unwrap();
        let db = builder(&disk).open().unwrap();
        let read = db.stats().io.bytes_read;
        assert_eq!(db.collection("c").unwrap().count().unwrap(), rows);
        (read, db.stats().collections[0].posting_files)
    };
    let (few, many) = (opened(400), opened(4000));
    assert_eq!(few.1, many.1, "as many files");
    assert!(few.0 > 0 && many.0 <= few.0 + 64, "{few:?} {many:?}: only numbers may be longer");
}

/// A listing that is made while a writer replaces the manifest may show neither the old one nor the new one.
#[test]
fn a_manifest_that_is_replaced_while_the_directory_is_listed_is_found() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    store(&db, 0..100);
    db.flush().unwrap();
    let hook = Arc::new(HookStorage::new(Arc::new(disk.clone())));
    for listings in 1..=2 {
        hook.list_without_manifests(listings);
        let reader = ReadOnlyDatabase::open_in(Path::new(PATH), Arc::clone(&hook) as _, false).unwrap();
        assert_eq!(reader.collection("c").unwrap().count().unwrap(), 100);
        hook.list_without_manifests(listings);
        let second = builder(&disk).storage(Arc::clone(&hook) as _).open();
        assert!(matches!(second, Err(Error::Storage(StorageError::Locked { .. }))), "{second:?}");
    }
    // One that stays away is missing.
    hook.list_without_manifests(usize::MAX);
    let missing = ReadOnlyDatabase::open_in(Path::new(PATH), hook, false);
    assert!(matches!(missing, Err(Error::Storage(StorageError::Corrupted { .. }))), "{missing:?}");
}

#[test]
fn a_search_that_may_be_partial_answers_from_the_sound_files_and_names_the_other() {
    let disk = SimStorage::new();
    // A log of one segment, which no records of jobs hold up: no files but the collection's.
    let db = builder(&disk).memtable_bytes(64 << 20).wal_segment_bytes(1 << 20).open().unwrap();
    store(&db, 0..1000);
    db.flush().unwrap();
    let first: Vec<PathBuf> = postings(&disk);
    store(&db, 1000..2000);
    db.flush().unwrap();
    db.collection("c").unwrap().upsert(Document::new("unflushed").vector([700.0; 8])).unwrap();
    drop(db);
    assert_eq!((first.len(), postings(&disk).len()), (1, 2));
    let vector = 700.0_f32.to_le_bytes().repeat(8);
    let at = disk.bytes(&first[0]).unwrap().windows(32).position(|bytes| bytes == vector).unwrap();
    disk.flip_bit(&first[0], at as u64 * 8).unwrap();

    let db = builder(&disk).memtable_bytes(64 << 20).open().unwrap();
    let collection = db.collection("c").unwrap();
    let search = || collection.search(&[700.0; 8]).k(3).effort(Effort::Exact);
    match search().run() {
        Err(Error::Storage(StorageError::Corrupted { file, .. })) => assert_eq!(file, first[0]),
        other => panic!("{other:?}"),
    }
    let results = search().allow_partial(true).run().unwrap();
    let keys: Vec<Key> = results.hits.iter().map(|hit| hit.key.clone()).collect();
    assert!(
        keys.len() == 3 && keys[0] == Key::from("unflushed") && !keys.contains(&Key::from(700u64)),
        "{keys:?}"
    );
    let name = first[0].file_name().unwrap().to_str().unwrap();
    assert!(!results.explain.exact && results.explain.missing[0].contains(name), "{:?}", results.explain);
}

#[test]
fn the_log_of_a_dropped_collection_is_given_back() {
    let disk = SimStorage::new();
    let log = || -> usize {
        let of_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal");
        disk.paths().iter().filter(|path| of_log(path)).map(|path| disk.bytes(path).unwrap().len()).sum()
    };
    let db = builder(&disk).memtable_bytes(64 << 20).open().unwrap();
    store(&db, 0..1000);
    db.drop_collection("c").unwrap();
    assert!(log() > 40_000);
    db.close().unwrap();
    assert!(log() < 1000, "{} bytes of log", log());
    // Also after a crash, when the rows come back from the log and go again.
    let db = builder(&disk).memtable_bytes(64 << 20).open().unwrap();
    store(&db, 0..1000);
    drop(db);
    let db = builder(&disk).memtable_bytes(64 << 20).open().unwrap();
    assert_eq!(db.collection("c").unwrap().count().unwrap(), 1000);
    db.drop_collection("c").unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    assert!(log() < 1000, "{} bytes of log", log());
    let db = builder(&disk).open().unwrap();
    assert!(db.collections().is_empty());
}

fn postings(disk: &SimStorage) -> Vec<PathBuf> {
    let is_posting = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "posting");
    disk.paths().into_iter().filter(is_posting).collect()
}

/// Whether opening what a power cut leaves notices that the log's newest segment is gone.
fn newest_segment_is_missed(disk: &SimStorage) -> bool {
    let after = disk.after_crash(CrashPolicy::LoseAll);
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal");
    let newest = after.paths().into_iter().filter(is_segment).max().unwrap();
    after.remove(&newest).unwrap();
    match builder(&after).open() {
        Ok(_) => false,
        Err(Error::Storage(StorageError::Corrupted { file, .. })) => {
            assert_eq!(file, newest);
            true
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_segment_with_an_acknowledged_write_is_missed_when_it_is_gone() {
    let disk = SimStorage::new();
    let db = builder(&disk).background(true).wal_segment_bytes(4096).open().unwrap();
    for row in 0..150 {
        store(&db, row..row + 1);
        assert!(newest_segment_is_missed(&disk), "after row {row}");
    }
    assert!(db.stats().wal.bytes_appended > 4 * 1024);
}

#[test]
fn opening_names_a_segment_only_when_a_power_cut_can_not_take_it_away() {
    let disk = SimStorage::new();
    let db = builder(&disk).open().unwrap();
    store(&db, 0..40);
    drop(db);
    let manifests = |disk: &SimStorage| {
        disk.paths().into_iter().filter(|path| path.display().to_string().contains("MANIFEST-")).max()
    };
    let segments = |disk: &SimStorage| {
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal");
        disk.paths().into_iter().filter(is_segment).count()
    };
    let mut named = 0;
    for number in 1..disk.operations() {
        let killed = disk.after_kill_at(number);
        if segments(&killed) == segments(&disk.after_kill_at(number - 1)) {
            continue;
        }
        // The writer died between the rename that gave the segment its name and the sync of that.
        let before = manifests(&killed);
        let db = builder(&killed).background(true).open().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while manifests(&killed) == before && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        named += u64::from(manifests(&killed) != before);
        let cut = killed.after_crash(CrashPolicy::LoseAll);
        drop(db);
        builder(&cut).open().unwrap_or_else(|error| panic!("killed before operation {number}: {error}"));
    }
    assert!(named > 0);
}

#[test]
fn what_a_manifest_says_is_durable_is_missed_when_it_is_cut_off() {
    let disk = SimStorage::new();
    let db = builder(&disk).wal_segment_bytes(16 << 10).open().unwrap();
    let config = CollectionConfig::new(2, Metric::L2);
    let collection = db.create_collection("a", config.clone()).unwrap();
    for key in 0..3u64 {
        collection.upsert(Document::new(key).vector([1.0, key as f32])).unwrap();
    }
    // Its manifests come after three durable writes, none of which is in a sealed file; and nothing but the LSN in
    // them says so once it is gone.
    db.create_collection("b", config).unwrap();
    db.drop_collection("b").unwrap();
    drop(db);
    let log = disk.paths().into_iter().find(|path| path.extension().is_some_and(|e| e == "wal")).unwrap();
    let written = disk.bytes(&log).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    let lost = |end: usize| {
        let damaged = disk.after_kill();
        let mut bytes = damaged.bytes(&log).unwrap();
        bytes[end..].fill(0);
        damaged.put(&log, bytes).unwrap();
        match builder(&damaged).open() {
            Ok(db) => db.collection("a").unwrap().count().unwrap() < 3,
            Err(Error::Storage(StorageError::Corrupted { .. })) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(!(64..=written).any(lost));
}

#[test]
fn a_segment_that_could_not_be_named_is_named_with_the_next_write() {
    let disk = SimStorage::new();
    let db = builder(&disk).wal_segment_bytes(4096).open().unwrap();
    store(&db, 0..1);
    // The name of a new segment is the first rename of a write, that of the manifest the second.
    let mut unnamed = 0;
    for row in 1..100 {
        disk.fail_after(OperationKind::Rename, 1, std::io::ErrorKind::PermissionDenied, 1);
        store(&db, row..row + 1);
        disk.clear_faults();
        unnamed += u64::from(!newest_segment_is_missed(&disk));
        store(&db, row..row + 1);
        assert!(newest_segment_is_missed(&disk), "after row {row}");
    }
    assert!(unnamed > 0);
}
