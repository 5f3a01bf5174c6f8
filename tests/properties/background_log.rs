//! What the log's thread owes: buffered writes become durable and visible to other processes, also after it
//! failed at something, and writes go on when a full disk has room again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll::{
    Collection, CollectionConfig, Database, Document, Durability, Error, Metric, ReadOnlyDatabase, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage};

/// Far longer than anything should take.
const PATIENCE: Duration = Duration::from_secs(30);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never happens that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn create(db: &Database) -> Collection {
    db.create_collection("c", CollectionConfig::new(256, Metric::Dot)).unwrap()
}

fn document(key: u64) -> Document {
    Document::new(key).vector([1.0; 256])
}

fn write_buffered(collection: &Collection, key: u64) {
    let mut batch = WriteBatch::new();
    batch.upsert(document(key));
    collection.write_with(&batch, Durability::Buffered).unwrap();
}

#[test]
fn buffered_writes_reach_readers_without_another_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::builder(&path).buffer_delay(Duration::from_millis(200)).open().unwrap();
    let collection = create(&db);
    let mut reader = ReadOnlyDatabase::open(&path).unwrap();
    for round in 1..=2 {
        write_buffered(&collection, round);
        eventually("a reader sees the write", || {
            reader.refresh().unwrap();
            reader.collection("c").unwrap().count().unwrap() == round
        });
    }
    db.close().unwrap();
}

#[test]
fn no_more_than_so_many_buffered_writes_can_be_lost() {
    let disk = SimStorage::new();
    let builder = Database::builder("/db").storage(Arc::new(disk.clone())).background(false);
    let db = builder.buffer_records(4).open().unwrap();
    let collection = create(&db);
    let mut most = 0;
    for key in 1..=30 {
        write_buffered(&collection, key);
        let after = disk.after_crash(CrashPolicy::LoseAll);
        let db = Database::builder("/db").storage(Arc::new(after)).background(false).open().unwrap();
        let kept = db.collection("c").unwrap().count().unwrap();
        most = most.max(key - kept);
    }
    assert_eq!(most, 3, "the fourth is synced, with the three before it");
}

#[test]
fn writes_go_on_when_a_full_disk_has_room_again() {
    let disk = SimStorage::new();
    let db = Database::builder("/db").storage(Arc::new(disk.clone())).wal_segment_bytes(64 << 10).open();
    let db = db.unwrap();
    let collection = create(&db);
    collection.upsert(document(0)).unwrap();
    disk.set_capacity(0);
    eventually("the disk is full", || collection.upsert(document(1)).is_err());
    // Long enough for the log's thread to find that it can not prepare a segment either.
    std::thread::sleep(Duration::from_millis(300));
    assert!(collection.upsert(document(1)).is_err());
    disk.set_capacity(1 << 40);
    eventually("a write is accepted", || collection.upsert(document(2)).is_ok());
    db.close().unwrap();
}

#[test]
fn a_mark_that_fails_takes_nothing_else_with_it() {
    let disk = SimStorage::new();
    let builder = Database::builder("/db").storage(Arc::new(disk.clone()));
    let db = builder.buffer_delay(Duration::from_millis(100)).open().unwrap();
    let collection = create(&db);
    collection.upsert(document(1)).unwrap();
    // The writer's own append, and then the mark.
    disk.fail_next(OperationKind::Append, Failure::from(std::io::ErrorKind::StorageFull), 2);
    assert!(collection.upsert(document(2)).is_err());
    std::thread::sleep(Duration::from_millis(200));
    disk.clear_faults();
    collection.upsert(document(3)).unwrap();
    write_buffered(&collection, 4);
    eventually("the buffered write survives a power cut", || {
        let after = disk.after_crash(CrashPolicy::LoseAll);
        let db = Database::builder("/db").storage(Arc::new(after)).background(false).open().unwrap();
        let collection = db.collection("c").unwrap();
        assert!(collection.get(1).unwrap().is_some() && collection.get(3).unwrap().is_some());
        collection.get(4).unwrap().is_some()
    });
}

#[test]
fn one_write_with_a_collection_twice_is_one_write() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let collection = create(&db);
    let (mut first, mut second) = (WriteBatch::new(), WriteBatch::new());
    first.insert(document(1).text("first"));
    second.insert(document(1).text("second"));
    let twice = db.write(&[(&collection, first), (&collection, second)]);
    assert!(matches!(twice, Err(Error::AlreadyExists(key)) if key == 1.into()));
    assert_eq!(collection.count().unwrap(), 0);
}

#[test]
fn refused_writes_hold_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let collection = create(&db);
    let bytes = || db.stats().collections[0].memtable_bytes;
    let mut batch = WriteBatch::new();
    batch.upsert_vector(1, &[f32::NAN; 256]);
    assert!(matches!(collection.write(&batch), Err(Error::InvalidDocument { .. })));
    assert_eq!(bytes(), 0, "there is nothing to flush");
    batch.clear();
    collection.upsert(document(0)).unwrap();
    let before = bytes();
    for key in 0..100 {
        batch.insert(document(key));
    }
    for _ in 0..50 {
        assert!(matches!(collection.write(&batch), Err(Error::AlreadyExists(_))));
    }
    assert_eq!(bytes(), before);
    // What is refused only while it is copied is counted, so that a flush gives its memory back.
    batch.clear();
    batch.upsert_vector(1, &[f32::NAN; 256]);
    assert!(matches!(collection.write(&batch), Err(Error::InvalidDocument { .. })));
    assert!(bytes() > before);
    db.flush().unwrap();
    assert_eq!(bytes(), 0);
    db.close().unwrap();
}
