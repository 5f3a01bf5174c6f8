//! Writers, readers, flushes and compactions at once, on real files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{
    Collection, CollectionConfig, Database, Dedup, Document, Durability, Effort, Error, Filter, Key, Metric,
    WriteBatch,
};

use plimsoll_sim::{Failure, OperationKind, SimStorage};

fn open(path: &Path) -> Database {
    Database::builder(path).memtable_bytes(60_000).wal_segment_bytes(64 << 10).open().unwrap()
}

fn fixture() -> (tempfile::TempDir, Database, Collection) {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir.path().join("db"));
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    (dir, db, collection)
}

fn document(key: u64, version: u64) -> Document {
    Document::new(key)
        .text("some text of some length")
        .metadata("version", version)
        .vector([key as f32, version as f32])
}

fn version(document: &Document) -> u64 {
    match document.metadata["version"] {
        plimsoll::Value::Integer(version) => version as u64,
        ref other => panic!("{other:?}"),
    }
}

const TIME: Duration = Duration::from_millis(1500);

#[test]
fn a_document_is_never_missing_and_never_there_twice() {
    const KEYS: u64 = 50;
    let (_dir, db, collection) = fixture();
    for key in 0..KEYS {
        collection.upsert(document(key, 0)).unwrap();
    }
    let end = Instant::now() + TIME;
    let acknowledged: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for writer in 0..2 {
            let (collection, acknowledged) = (&collection, &acknowledged);
            scope.spawn(move || {
                for round in 1.. {
                    // Each writer owns every other key.
                    for key in (writer..KEYS).step_by(2) {
                        if Instant::now() > end {
                            return;
                        }
                        collection.upsert(document(key, round)).unwrap();
                        acknowledged[key as usize].store(round, Ordering::SeqCst);
                    }
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < end {
                db.flush().unwrap();
                db.compact().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let seen: Vec<u64> =
                        acknowledged.iter().map(|version| version.load(Ordering::SeqCst)).collect();
                    let snapshot = collection.snapshot().unwrap();
                    assert_eq!(snapshot.count().unwrap(), KEYS);
                    let scanned: HashMap<Key, u64> =
                        snapshot.scan().map(|d| d.unwrap()).map(|d| (d.key.clone(), version(&d))).collect();
                    assert_eq!((scanned.len() as u64, snapshot.scan().count() as u64), (KEYS, KEYS));
                    let found = snapshot.search(&[0.0, 0.0]).k(1000).effort(Effort::Exact).run().unwrap();
                    assert_eq!(found.hits.len() as u64, KEYS);
                    for (key, at_least) in seen.into_iter().enumerate() {
                        let got = version(&snapshot.get(key).unwrap().unwrap());
                        assert!(got >= at_least, "an acknowledged write is not seen");
                        assert_eq!(scanned[&Key::from(key)], got, "one snapshot, two answers");
                    }
                }
            });
        }
    });
    assert!(db.stats().flushes.successful > 1 && db.stats().compactions > 0, "{:?}", db.stats());
    assert!(!db.verify().unwrap().is_damaged());
}

/// Whatever is written, flushed, compacted and trained meanwhile: `Explain` counts the locks that a search waited for.
#[test]
fn searches_wait_for_no_lock() {
    const ROWS: u64 = 5000;
    let (_dir, db, collection) = fixture();
    let write = |keys: std::ops::Range<u64>, version: u64| {
        let mut batch = WriteBatch::new();
        for key in keys {
            batch.upsert(document(key, version));
        }
        collection.write(&batch).unwrap();
    };
    write(0..ROWS, 0);
    db.flush().unwrap();
    db.compact().unwrap();
    let (start, searches) = (Instant::now(), AtomicU64::new(0));
    // However slow the machine is: searches, and flushes beside them.
    let is_over = || {
        let (time, searches, flushes) =
            (start.elapsed(), searches.load(Ordering::Relaxed), db.stats().flushes.successful);
        assert!(time < 60 * TIME, "{searches} searches and {flushes} flushes in {time:?}");
        time > TIME && searches > 100 && flushes > 3
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                for first in (0..ROWS).step_by(250) {
                    if is_over() {
                        return;
                    }
                    write(first..first + 250, round);
                }
            }
        });
        scope.spawn(|| {
            while !is_over() {
                db.flush().unwrap();
                db.compact().unwrap();
            }
        });
        for thread in 0..2 {
            let (collection, searches, is_over) = (&collection, &searches, &is_over);
            scope.spawn(move || {
                for n in 0_u64.. {
                    if is_over() {
                        return;
                    }
                    let query = [(n * 7919 % ROWS) as f32, 1.0];
                    let search = collection.search(&query).with_text(true);
                    let filter = || Filter::parse(&format!("version >= {}", n % 300)).unwrap();
                    let search = match (n + thread) % 4 {
                        0 => search,
                        1 => search.effort(Effort::Exact),
                        2 => search.filter(filter()),
                        _ => search.dedup(Dedup::Document),
                    };
                    let explain = search.run().unwrap().explain;
                    assert_eq!(explain.lock_waits, 0, "{explain:?}");
                    searches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(db.stats().compactions > 0, "{:?}", db.stats());
}

#[test]
fn inserts_and_updates_are_not_lost() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 100;
    let (dir, db, collection) = fixture();
    collection.upsert(Document::new("counter").metadata("version", 0).vector([0.0, 0.0])).unwrap();
    let inserted = AtomicU64::new(0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (collection, inserted) = (&collection, &inserted);
            scope.spawn(move || {
                for n in 0..EACH {
                    // All writers race for the same keys: one wins each.
                    match collection.insert(document(n, writer)) {
                        Ok(_) => drop(inserted.fetch_add(1, Ordering::SeqCst)),
                        Err(Error::AlreadyExists(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                    let own = document(1000 + writer * EACH + n, n);
                    collection.upsert(own.clone()).unwrap();
                    assert_eq!(collection.get(own.key.clone()).unwrap(), Some(own), "a write of one's own");
                }
            });
        }
        scope.spawn(|| (0..20).for_each(|_| assert!(db.flush().is_ok())));
    });
    assert_eq!(inserted.load(Ordering::SeqCst), EACH);
    let expected = 1 + EACH + WRITERS * EACH;
    assert_eq!(collection.count().unwrap(), expected);
    drop((collection, db));
    let db = open(&dir.path().join("db"));
    assert_eq!(db.collection("c").unwrap().count().unwrap(), expected);
}

#[test]
fn snapshots_stay_as_they_are() {
    let (_dir, db, collection) = fixture();
    for key in 0..200 {
        collection.upsert(document(key, 1)).unwrap();
    }
    let snapshot = collection.snapshot().unwrap();
    let expected: Vec<Document> = snapshot.scan().map(|d| d.unwrap()).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 2..8 {
                for key in 0..200 {
                    let durability = if key == 199 { Durability::Durable } else { Durability::Buffered };
                    let mut batch = WriteBatch::new();
                    batch.upsert(document(key, round)).delete(key + 1);
                    collection.write_with(&batch, durability).unwrap();
                }
                db.flush().unwrap();
                db.compact().unwrap();
            }
            db.drop_collection("c").unwrap();
            stop.store(true, Ordering::SeqCst);
        });
        let mut rounds = 0;
        while !stop.load(Ordering::SeqCst) || rounds < 3 {
            rounds += 1;
            let mut scanned: Vec<Document> = snapshot.scan().map(|d| d.unwrap()).collect();
            scanned.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(scanned, expected);
            assert_eq!(snapshot.count().unwrap(), 200);
            let found = snapshot.search(&[7.0, 1.0]).k(1).run().unwrap();
            assert_eq!((&found.hits[0].key, found.hits[0].distance), (&Key::from(7), 0.0));
        }
    });
}

#[test]
fn closing_while_writers_run_loses_nothing_acknowledged() {
    let (dir, db, collection) = fixture();
    let acknowledged: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let collection = &collection;
            scope.spawn(move || {
                for n in 0u64.. {
                    match collection.upsert(document(writer as u64 * 1_000_000 + n, n)) {
                        Ok(_) => acknowledged.store(n + 1, Ordering::SeqCst),
                        Err(Error::Closed) => return,
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        db.close().unwrap();
    });
    assert!(matches!(db.flush(), Err(Error::Closed)));
    assert!(matches!(db.sync(), Err(Error::Closed)));
    assert!(matches!(db.collection("c"), Err(Error::Closed)));
    drop((db, collection));
    let db = open(&dir.path().join("db"));
    let collection = db.collection("c").unwrap();
    for (writer, count) in acknowledged.iter().enumerate() {
        for n in 0..count.load(Ordering::SeqCst) {
            assert!(collection.get(writer as u64 * 1_000_000 + n).unwrap().is_some(), "{writer}/{n} is lost");
        }
    }
}

#[test]
fn writers_share_syncs() {
    // Each sync takes a while, whatever else the machine does: long enough for the other writers to queue up.
    let disk = SimStorage::new();
    let slow = Failure::slow(Duration::from_millis(4));
    disk.fail_next(OperationKind::Sync, slow, u64::MAX);
    let builder = Database::builder("/db").storage(Arc::new(disk)).wal_segment_bytes(64 << 10);
    let db = builder.open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    let before = db.stats().wal;
    thread::scope(|scope| {
        for writer in 0..16u64 {
            let collection = &collection;
            scope.spawn(move || {
                for n in 0..40 {
                    collection.upsert(document(writer * 40 + n, n)).unwrap();
                }
            });
        }
    });
    let after = db.stats().wal;
    let (batches, syncs) = (after.batches - before.batches, after.syncs - before.syncs);
    assert_eq!(batches, 640);
    assert!(syncs < batches / 2, "{syncs} syncs for {batches} batches");
    // One writer alone: one sync for each batch, and no more but for segments.
    let before = db.stats().wal;
    for n in 0..20 {
        collection.upsert(document(n, n)).unwrap();
    }
    let syncs = db.stats().wal.syncs - before.syncs;
    assert!((20..=24).contains(&syncs), "{syncs} syncs for 20 batches");
}

#[test]
fn buffered_writes_reach_the_disk_within_their_delay() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::builder(dir.path().join("db")).buffer_delay(Duration::from_millis(50)).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    let mut batch = WriteBatch::new();
    batch.upsert(document(1, 1));
    let lsn = collection.write_with(&batch, Durability::Buffered).unwrap();
    assert_eq!(collection.count().unwrap(), 1, "searchable at once");
    let end = Instant::now() + Duration::from_secs(10);
    while db.stats().lsn.durable < lsn {
        assert!(Instant::now() < end, "never synced: {:?}", db.stats().lsn);
        thread::sleep(Duration::from_millis(5));
    }
}
