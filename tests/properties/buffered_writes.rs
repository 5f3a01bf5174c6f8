//! Buffered writes: none waits for a sync of the log, each is counted, and what a slow disk may lose is bounded.
//!
//! Syncs are held up for as long as a test wants, so that nothing here depends on how fast anything is.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{
    BufferStats, Collection, CollectionConfig, Database, DatabaseBuilder, Document, Durability, Error, Lsn,
    Metric, Stats, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage};

/// Far longer than anything should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A delay that never passes.
const NEVER: Duration = Duration::from_secs(1 << 20);

fn builder(disk: &SimStorage) -> DatabaseBuilder {
    Database::builder("/db").storage(Arc::new(disk.clone())).buffer_delay(NEVER)
}

fn create(db: &Database) -> Collection {
    db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap()
}

fn batch(key: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.upsert(Document::new(key).vector([key as f32, 1.0]));
    batch
}

/// Writes each key by itself; returns the last LSN.
fn write(collection: &Collection, keys: std::ops::Range<u64>) -> Lsn {
    let write = |key| collection.write_with(&batch(key), Durability::Buffered).unwrap();
    keys.fold(Lsn(0), |_, key| write(key))
}

/// Does something that must not wait for what the test holds up.
fn without_waiting<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || done.send(act()));
    is_done.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} waits"))
}

fn eventually(db: &Database, what: &str, holds: impl Fn(&Stats) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(&db.stats()) {
        assert!(Instant::now() < end, "it never happens that {what}: {:?}", db.stats().buffer);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Buffered, flushed, batches, errors, buffer size.
fn counts(buffer: BufferStats) -> [u64; 5] {
    let BufferStats { buffered, flushed, batches, errors, buffer_size, .. } = buffer;
    assert_eq!(buffered, flushed + errors + buffer_size, "{buffer:?}");
    [buffered, flushed, batches, errors, buffer_size]
}

/// What is there after a power cut now.
fn survivors(disk: &SimStorage) -> u64 {
    let after = Arc::new(disk.after_crash(CrashPolicy::LoseAll));
    let db = Database::builder("/db").storage(after).background(false).open().unwrap();
    db.collection("c").unwrap().count().unwrap()
}

#[test]
fn no_buffered_write_waits_for_a_sync_and_each_is_counted() {
    let disk = SimStorage::new();
    let db = builder(&disk).buffer_records(3).open().unwrap();
    let collection = create(&db);
    assert_eq!(counts(db.stats().buffer), [0, 0, 0, 0, 0]);
    write(&collection, 0..2);
    assert_eq!(counts(db.stats().buffer), [2, 0, 0, 0, 2]);
    let held = disk.hold_syncs();
    let third = write(&collection, 2..3);
    held.wait_for_one();
    let writing = collection.clone();
    let last = without_waiting("a buffered write", move || write(&writing, 3..500));
    let stats = db.stats();
    assert_eq!(counts(stats.buffer), [500, 0, 0, 0, 500]);
    assert!(stats.lsn.durable < third && stats.lsn.appended == last, "{:?}", stats.lsn);
    assert_eq!(collection.count().unwrap(), 500, "all are searchable");
    assert_eq!(survivors(&disk), 0);
    assert_eq!(stats.stalls, plimsoll::StallStats::default());
    drop(held);
    // The sync that was held up covers what had been appended when it began; one more is due for all the others.
    eventually(&db, "all are durable", |stats| stats.buffer.buffer_size == 0);
    assert_eq!(counts(db.stats().buffer), [500, 500, 2, 0, 0]);
    assert_eq!((db.stats().lsn.durable, survivors(&disk)), (last, 500));
    // Durable writes are not counted; that they make a buffered one durable is.
    collection.upsert(Document::new(1000).vector([0.0, 0.0])).unwrap();
    assert_eq!(counts(db.stats().buffer), [500, 500, 2, 0, 0]);
    write(&collection, 500..501);
    collection.upsert(Document::new(1001).vector([0.0, 0.0])).unwrap();
    assert_eq!(counts(db.stats().buffer), [501, 501, 3, 0, 0]);
    // Nor is what is refused.
    let mut refused = WriteBatch::new();
    refused.insert(Document::new(1).vector([0.0, 0.0]));
    let refused = collection.write_with(&refused, Durability::Buffered);
    assert!(matches!(refused, Err(Error::AlreadyExists(_))), "{refused:?}");
    assert_eq!(counts(db.stats().buffer), [501, 501, 3, 0, 0]);
    // Closing flushes the rest.
    write(&collection, 501..502);
    db.close().unwrap();
    assert_eq!(counts(db.stats().buffer), [502, 502, 4, 0, 0]);
}

#[test]
fn a_sync_begins_after_the_delay() {
    let disk = SimStorage::new();
    let db = builder(&disk).buffer_delay(Duration::from_millis(20)).open().unwrap();
    let collection = create(&db);
    let held = disk.hold_syncs();
    write(&collection, 0..1);
    held.wait_for_one();
    let writing = collection.clone();
    without_waiting("a buffered write", move || write(&writing, 1..50));
    drop(held);
    eventually(&db, "all are durable", |stats| stats.buffer.flushed == 50);
}

/// One database syncs what is old enough for it, twice, while another one that was written to before does nothing.
#[test]
fn each_database_waits_for_its_own_delay() {
    let [patient, quick] = [NEVER, Duration::from_millis(20)].map(|delay| {
        let db = builder(&SimStorage::new()).buffer_delay(delay).open().unwrap();
        let collection = create(&db);
        (db, collection)
    });
    for round in 1..=2 {
        write(&patient.1, round..round + 1);
        write(&quick.1, round..round + 1);
        eventually(&quick.0, "what is old enough is durable", |stats| stats.buffer.flushed == round);
        assert_eq!(counts(patient.0.stats().buffer), [round, 0, 0, 0, round]);
    }
}

#[test]
fn no_buffered_write_waits_for_another_thread_that_syncs_or_flushes() {
    for flushes in [false, true] {
        let disk = SimStorage::new();
        let db = builder(&disk).open().unwrap();
        let collection = create(&db);
        write(&collection, 0..5);
        let held = disk.hold_syncs();
        let other = db.clone();
        let syncing = thread::spawn(move || {
            if flushes {
                other.flush().unwrap();
            } else {
                other.sync().unwrap();
            }
        });
        held.wait_for_one();
        let writing = collection.clone();
        without_waiting("a buffered write", move || write(&writing, 5..90));
        assert!(!syncing.is_finished());
        assert_eq!(counts(db.stats().buffer), [90, 0, 0, 0, 90]);
        drop(held);
        syncing.join().unwrap();
        assert_eq!(counts(db.stats().buffer), [90, 5, 1, 0, 85], "what came later waits for the next one");
        assert_eq!(survivors(&disk), 5);
    }
}

#[test]
fn writes_that_a_failed_sync_may_have_lost_are_counted_and_named() {
    let disk = SimStorage::new();
    let db = builder(&disk).buffer_records(2).open().unwrap();
    let collection = create(&db);
    let held = disk.hold_syncs();
    write(&collection, 0..2);
    held.wait_for_one();
    let last = write(&collection, 2..7);
    disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    drop(held);
    eventually(&db, "the writes are counted as lost", |stats| stats.buffer.errors > 0);
    assert_eq!(counts(db.stats().buffer), [7, 0, 0, 7, 0]);
    let first = Lsn(last.0 - 6);
    for refused in [db.sync().map(drop), collection.write_with(&batch(9), Durability::Buffered).map(drop)] {
        match refused {
            Err(Error::Poisoned { lost, .. }) => assert_eq!(lost, Some((first, last))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counts(db.stats().buffer), [7, 0, 0, 7, 0], "a refused write was never accepted");
    assert_eq!(survivors(&disk), 0);
}

#[test]
fn what_a_slow_disk_may_lose_is_bounded() {
    let budget = 16 << 10;
    let disk = SimStorage::new();
    let db = builder(&disk).memtable_bytes(budget).max_sealed(100).buffer_records(usize::MAX);
    let db = db.stall_deadline(Duration::from_millis(50)).open().unwrap();
    let collection = create(&db);
    let before = db.stats().wal.bytes_appended;
    let held = disk.hold_syncs();
    let writing = collection.clone();
    let (accepted, refused) = without_waiting("a writer, for ever,", move || {
        let mut accepted = 0;
        loop {
            match writing.write_with(&batch(accepted), Durability::Buffered) {
                Ok(_) => accepted += 1,
                Err(error) => return (accepted, error),
            }
        }
    });
    assert!(matches!(&refused, Error::Stalled(why) if why.contains("synced")), "{refused:?}");
    assert!(refused.is_retryable());
    let stats = db.stats();
    let appended = stats.wal.bytes_appended - before;
    let record = appended / accepted;
    // And the record of the job that flushes meanwhile.
    assert!((budget as u64 - record..=budget as u64 + 1024).contains(&appended), "{appended} of {budget}");
    assert_eq!(stats.stalls.stopped, 1);
    assert!(stats.stalls.stopped_time >= Duration::from_millis(50));
    assert_eq!(counts(stats.buffer), [accepted, 0, 0, 0, accepted]);
    // The wait for room has a sync begun, although neither their number nor their age does.
    held.wait_for_one();
    drop(held);
    eventually(&db, "there is room again", |_| {
        collection.write_with(&batch(accepted), Durability::Buffered).is_ok()
    });
    db.sync().unwrap();
    assert_eq!(survivors(&disk), accepted + 1);
    // One that is larger than all of it is written when nothing else is there.
    let mut large = WriteBatch::new();
    large.upsert(Document::new(7777).text("x".repeat(2 * budget)).vector([0.0, 0.0]));
    collection.write_with(&large, Durability::Buffered).unwrap();
    db.close().unwrap();
}

#[test]
fn without_a_background_the_writer_makes_the_room() {
    let budget = 16 << 10;
    let disk = SimStorage::new();
    let db = builder(&disk).background(false).memtable_bytes(budget).buffer_records(usize::MAX);
    let db = db.max_wal_bytes(1 << 30).open().unwrap();
    let collection = create(&db);
    let mut most = 0;
    for key in 0..1000 {
        let before = db.stats().wal.bytes_appended;
        write(&collection, key..key + 1);
        let stats = db.stats();
        if stats.buffer.buffer_size == 1 {
            most = 0;
        }
        most += stats.wal.bytes_appended - before;
        assert!(most <= budget as u64, "{most} bytes at {key}");
    }
    assert!(db.stats().buffer.batches > 2);
}

#[test]
fn a_new_segment_counts_the_writes_that_it_makes_durable() {
    let disk = SimStorage::new();
    let db = builder(&disk).background(false).wal_segment_bytes(4096).open().unwrap();
    let collection = create(&db);
    collection.upsert(Document::new(1000).vector([0.0, 0.0])).unwrap();
    let segments = db.stats().wal.segments;
    let mut written = 0;
    while db.stats().wal.segments == segments {
        assert_eq!(counts(db.stats().buffer), [written, 0, 0, 0, written]);
        write(&collection, written..written + 1);
        written += 1;
        assert!(written < 1000, "a segment holds so many");
    }
    assert_eq!(counts(db.stats().buffer), [written, written - 1, 1, 0, 1]);
}
