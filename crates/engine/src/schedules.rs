//! Writers, readers, flushes and a failing disk in many schedules of their threads, chosen by shuttle:
//! `tests/scripts/shuttle.sh`. What is replaced by shuttle's, and why the rest need not be, says `plimsoll_base::sync`.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_base::sync::Mutex;
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{self, JoinHandle};
use shuttle::{Config, Runner};

use crate::core::lock;
use crate::{
    Collection, CollectionConfig, Database, Document, Durability, Error, Key, Metric, Snapshot, Value,
    WriteBatch,
};

/// Runs a test in as many schedules as `PLIMSOLL_SCHEDULES` says: half of them random, half of them with few changes
/// of the thread that runs, at the worst places. A schedule in which no thread can go on fails.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = std::env::var("PLIMSOLL_SCHEDULES").map_or(1000, |text| text.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(schedules / 2), config.clone()).run(test.clone());
    Runner::new(PctScheduler::new(3, schedules / 2), config).run(test);
}

/// An open database with one collection.
struct Fixture {
    disk: SimStorage,
    database: Database,
    collection: Collection,
}

fn open(disk: &SimStorage) -> Database {
    let storage = Arc::new(disk.clone());
    Database::builder("/db")
        .storage(storage)
        .background(false)
        .seed(1)
        .wal_segment_bytes(4096)
        .open()
        .unwrap()
}

fn fixture() -> Fixture {
    let disk = SimStorage::new();
    let database = open(&disk);
    let collection = database.create_collection("c", CollectionConfig::new(1, Metric::L2)).unwrap();
    Fixture { disk, database, collection }
}

fn document(key: u64, version: u64) -> Document {
    Document::new(key).metadata("version", version).vector([version as f32])
}

fn write(collection: &Collection, key: u64, version: u64, durability: Durability) -> crate::Result<()> {
    let mut batch = WriteBatch::new();
    batch.upsert(document(key, version));
    collection.write_with(&batch, durability).map(drop)
}

/// The version of each document that a snapshot shows, read in three ways that must agree.
fn versions(snapshot: &Snapshot) -> BTreeMap<u64, u64> {
    let collection = snapshot.collection("c").unwrap();
    let mut versions = BTreeMap::new();
    for document in collection.scan() {
        let document = document.unwrap();
        let (Key::Integer(key), Value::Integer(version)) = (&document.key, &document.metadata["version"])
        else {
            panic!("{document:?}")
        };
        let twice = versions.insert(u64::try_from(*key).unwrap(), u64::try_from(*version).unwrap());
        assert_eq!(twice, None, "{key} is there twice");
        assert_eq!(collection.get(document.key.clone()).unwrap().unwrap(), document);
    }
    assert_eq!(collection.count().unwrap(), versions.len() as u64);
    let found = collection.search(&[0.0]).k(10).run().unwrap();
    assert_eq!(found.hits.len(), versions.len());
    versions
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Durable and buffered writers, a sync and a power cut at any moment: what had been acknowledged by then is there.
#[test]
fn what_is_acknowledged_is_durable() {
    explore(|| {
        let Fixture { disk, database, collection } = fixture();
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut threads: Vec<_> = (0..2)
            .map(|key| {
                let (collection, acknowledged) = (collection.clone(), Arc::clone(&acknowledged));
                thread::spawn(move || {
                    for version in 0..2 {
                        write(&collection, key, version, Durability::Durable).unwrap();
                        lock(&acknowledged).push((key, version));
                    }
                })
            })
            .collect();
        let (syncing, buffered) = (Arc::clone(&acknowledged), collection.clone());
        let synced = database.clone();
        threads.push(thread::spawn(move || {
            write(&buffered, 7, 0, Durability::Buffered).unwrap();
            synced.sync().unwrap();
            lock(&syncing).push((7, 0));
        }));
        // The acknowledgements first: those that come later may be lost.
        let (disk, before) = thread::spawn(move || {
            let before = lock(&acknowledged).clone();
            (disk.after_crash(CrashPolicy::LoseAll), before)
        })
        .join()
        .unwrap();
        join(threads);
        let found = versions(&open(&disk).snapshot());
        for (key, version) in before {
            assert!(found.get(&key).is_some_and(|found| *found >= version), "{key} {version}: {found:?}");
        }
    });
}

/// Readers beside a writer and a flush that seals, writes files and shows them: each snapshot shows the writes up to
/// some moment and none after it, shows the same again, and never less than the one before it.
#[test]
fn snapshots_are_stable_and_in_the_order_of_writes() {
    explore(|| {
        let Fixture { database, collection, .. } = fixture();
        write(&collection, 0, 1, Durability::Durable).unwrap();
        let writer = collection.clone();
        let mut threads = vec![thread::spawn(move || {
            // In this order: 1 before 2, and then 0 again.
            for (key, version) in [(1, 1), (2, 1), (0, 2)] {
                write(&writer, key, version, Durability::Durable).unwrap();
            }
        })];
        let flushed = database.clone();
        threads.push(thread::spawn(move || drop(flushed.flush().unwrap())));
        let read = database.clone();
        threads.push(thread::spawn(move || {
            let legal =
                [&[(0, 1)][..], &[(0, 1), (1, 1)], &[(0, 1), (1, 1), (2, 1)], &[(0, 2), (1, 1), (2, 1)]];
            let legal = legal.map(|state| state.iter().copied().collect::<BTreeMap<u64, u64>>());
            let (mut last, mut lsn) = (0, crate::Lsn(0));
            for _ in 0..2 {
                let snapshot = read.snapshot();
                let first = versions(&snapshot);
                let now = legal.iter().position(|state| *state == first);
                let now = now.unwrap_or_else(|| panic!("never a state: {first:?}"));
                assert!(now >= last && snapshot.lsn() >= lsn, "a later snapshot shows less");
                thread::yield_now();
                assert_eq!(versions(&snapshot), first, "a snapshot changed");
                (last, lsn) = (now, snapshot.lsn());
            }
        }));
        join(threads);
        assert_eq!(versions(&database.snapshot()), BTreeMap::from([(0, 2), (1, 1), (2, 1)]));
    });
}

/// A sync fails while several write: nobody is acknowledged from then on, everybody gets an error, reads go on, and
/// what was acknowledged before is there after a power cut.
#[test]
fn after_a_failed_sync_nobody_is_acknowledged() {
    explore(|| {
        let Fixture { disk, database, collection } = fixture();
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..3)
            .map(|key| {
                let (collection, acknowledged) = (collection.clone(), Arc::clone(&acknowledged));
                let (disk, database) = (disk.clone(), database.clone());
                thread::spawn(move || {
                    let mut refused = false;
                    for version in 0..2 {
                        match write(&collection, key, version, Durability::Durable) {
                            Ok(()) => {
                                assert!(!refused, "acknowledged after an error");
                                lock(&acknowledged).push((key, version));
                            }
                            Err(Error::Poisoned { .. }) => refused = true,
                            Err(error) => panic!("{error:?}"),
                        }
                        if key == 0 && version == 0 {
                            disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
                        }
                    }
                    let _readable = versions(&database.snapshot());
                })
            })
            .collect();
        join(threads);
        // Somebody wrote after the fault was set, or a last write meets it now.
        let last = write(&collection, 9, 0, Durability::Durable);
        assert!(matches!(last, Err(Error::Poisoned { .. })), "{last:?}");
        assert!(matches!(database.sync(), Err(Error::Poisoned { .. })));
        assert!(database.flush().is_err());
        let found = versions(&open(&disk.after_crash(CrashPolicy::LoseAll)).snapshot());
        for (key, version) in lock(&acknowledged).iter() {
            assert!(found.get(key).is_some_and(|found| found >= version), "{key} {version}: {found:?}");
        }
        assert!(!found.contains_key(&9));
    });
}

/// Two flushes and a drop of the collection beside a writer: no lock is waited for in a circle, and each gets an
/// answer.
#[test]
fn flushes_and_a_drop_beside_a_writer_all_come_to_an_end() {
    explore(|| {
        let Fixture { database, collection, .. } = fixture();
        let mut threads = Vec::new();
        threads.push(thread::spawn(move || {
            for version in 0..2 {
                match write(&collection, 1, version, Durability::Buffered) {
                    Ok(()) | Err(Error::CollectionNotFound(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
        for _ in 0..2 {
            let database = database.clone();
            threads.push(thread::spawn(move || drop(database.flush().unwrap())));
        }
        let dropped = database.clone();
        threads.push(thread::spawn(move || dropped.drop_collection("c").unwrap()));
        join(threads);
        assert!(database.collections().is_empty());
        database.close().unwrap();
    });
}

/// Buffered writers that sync beside each other and beside a durable writer, while one of the syncs fails: what a `sync`
/// or a durable write was told is there after a power cut, and each buffered write is counted.
#[test]
fn a_failed_sync_beside_the_writers_acknowledges_nobody() {
    explore(|| {
        let Fixture { disk, database, collection } = fixture();
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut threads: Vec<_> = (0..2)
            .map(|key| {
                let (collection, acknowledged) = (collection.clone(), Arc::clone(&acknowledged));
                let (disk, database) = (disk.clone(), database.clone());
                thread::spawn(move || {
                    for version in 0..2 {
                        let written = write(&collection, key, version, Durability::Buffered);
                        match written.and_then(|()| database.sync()) {
                            Ok(_) => lock(&acknowledged).push((key, version)),
                            Err(Error::Poisoned { .. }) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                        let buffer = database.stats().buffer;
                        assert_eq!(buffer.buffered, buffer.flushed + buffer.errors + buffer.buffer_size);
                        if key == 0 && version == 0 {
                            disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
                        }
                    }
                })
            })
            .collect();
        let (durable, acknowledging) = (collection.clone(), Arc::clone(&acknowledged));
        threads.push(thread::spawn(move || match write(&durable, 7, 0, Durability::Durable) {
            Ok(()) => lock(&acknowledging).push((7, 0)),
            Err(Error::Poisoned { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }));
        join(threads);
        let buffer = database.stats().buffer;
        assert_eq!(buffer.buffer_size, 0, "a sync has made them durable, or has failed");
        let found = versions(&open(&disk.after_crash(CrashPolicy::LoseAll)).snapshot());
        for (key, version) in lock(&acknowledged).iter() {
            assert!(found.get(key).is_some_and(|found| found >= version), "{key} {version}: {found:?}");
        }
    });
}
