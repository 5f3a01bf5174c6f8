//! Jobs: who goes first, who gets whose result, what is refused, what is tried again, what is remembered.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{
    Clock as _, Collection, CollectionConfig, Database, DatabaseBuilder, Document, Durability, Error,
    FlushPolicy, FlushReason, JobEventKind, JobId, JobKind, JobOutcome, JobPriority, JobRequest, JobState,
    JobTarget, Level, Lsn, Metric, ReadOnlyDatabase, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, SimClock, SimStorage};

use crate::gate::Gate;

const SECOND: Duration = Duration::from_secs(1);
/// Far longer than anything should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn builder(storage: impl plimsoll::storage::Storage) -> DatabaseBuilder {
    Database::builder("/db").storage(Arc::new(storage))
}

pub(crate) fn create(db: &Database, name: &str) -> Collection {
    let collection = db.create_collection(name, CollectionConfig::new(2, Metric::L2)).unwrap();
    // Only what a test asks for is flushed.
    collection.set_flush_policy(FlushPolicy::manual()).unwrap();
    collection
}

pub(crate) fn document(key: u64) -> Document {
    Document::new(key).vector([key as f32, 1.0])
}

/// Waits until something holds that has to, and fails if it never does.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never happens that {what}");
        thread::yield_now();
    }
}

/// A database whose files a test can hold up.
pub(crate) fn gated(
    configure: impl FnOnce(DatabaseBuilder) -> DatabaseBuilder,
) -> (SimStorage, Gate, Database) {
    let disk = SimStorage::new();
    let gate = Gate::new(disk.clone());
    let db = configure(builder(gate.clone())).open().unwrap();
    (disk, gate, db)
}

fn reopened(disk: &SimStorage) -> Database {
    builder(disk.after_crash(CrashPolicy::LoseAll)).background(false).open().unwrap()
}

#[test]
fn ten_thousand_flushes_of_eight_threads_are_each_done_once() {
    const THREADS: u64 = 8;
    const EACH: u64 = 1250;
    let db = builder(SimStorage::new()).open().unwrap();
    let collection = create(&db, "c");
    let ids: Vec<JobId> = thread::scope(|scope| {
        let flush = |thread: u64| {
            let (db, collection) = (&db, &collection);
            move || {
                let mut ids = Vec::new();
                for n in 0..EACH {
                    let lsn = collection.upsert(document(thread * EACH + n)).unwrap();
                    let job = db.start(JobRequest::flush()).unwrap();
                    job.wait().unwrap();
                    assert!(job.record().state.is_final());
                    let flushed = db.stats().lsn.flushed;
                    assert!(flushed >= lsn, "job {} ended, and {lsn} is above {flushed}", job.id());
                    ids.push(job.id());
                }
                // No thread is told of an older job than before.
                assert!(ids.is_sorted());
                ids
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(flush(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: HashSet<_> = ids.iter().collect();
    let stats = db.stats();
    // Each call has made a job, or got one: and none was made that nobody got.
    let recorded = db.jobs(usize::MAX).unwrap();
    let flushes = recorded.iter().filter(|job| job.kind == JobKind::Flush);
    assert!(flushes.clone().all(|job| job.state.is_final()));
    assert_eq!(flushes.count(), distinct.len());
    assert!(distinct.len() as u64 + stats.jobs.joined >= THREADS * EACH);
    assert!(distinct.len() as u64 <= stats.jobs.submitted);
    assert!(stats.jobs.joined > 0, "nobody got another's job");
    assert_eq!(collection.count().unwrap(), THREADS * EACH);
    assert_eq!((stats.jobs.queued, stats.flushes.failed, stats.flushes.timed_out), (0, 0, 0));
    db.close().unwrap();
}

#[test]
fn a_flush_takes_what_another_thread_has_in_flight() {
    const ROUNDS: u64 = 1000;
    const ROWS: u64 = 500;
    let disk = SimStorage::new();
    let db = builder(disk.clone()).buffer_delay(PATIENCE).buffer_records(1 << 20).open().unwrap();
    let collection = create(&db, "c");
    let (accepted, rounds) = mpsc::channel();
    let (next, go_on) = mpsc::channel();
    let writer = collection.clone();
    let thread = thread::spawn(move || {
        for round in 0..ROUNDS {
            let mut last = Lsn(0);
            for part in 0..ROWS / 50 {
                let mut batch = WriteBatch::new();
                // The same keys again, so that the database stays small.
                for key in 0..50 {
                    let version = [round as f32, part as f32];
                    batch.upsert(Document::new(part * 50 + key).vector(version));
                }
                last = writer.write_with(&batch, Durability::Buffered).unwrap();
            }
            accepted.send(last).unwrap();
            go_on.recv().unwrap();
        }
    });
    for round in 0..ROUNDS {
        let last = rounds.recv().unwrap();
        let stats = db.flush().unwrap();
        let marks = db.stats().lsn;
        assert!(marks.durable >= last && marks.flushed >= last, "round {round}: {marks:?}, accepted {last}");
        assert_eq!((stats.rows, stats.reason), (ROWS, FlushReason::Manual), "round {round}");
        if round % 100 == 0 {
            let found = reopened(&disk);
            let found = found.collection("c").unwrap();
            assert_eq!(found.count().unwrap(), ROWS);
            let document = found.get(ROWS - 1).unwrap().unwrap();
            assert_eq!(document.postings[0].vector, [round as f32, (ROWS / 50 - 1) as f32]);
        }
        next.send(()).unwrap();
    }
    thread.join().unwrap();
    db.close().unwrap();
}

#[test]
fn the_second_caller_gets_the_first_ones_job_unless_more_was_written() {
    let (_, gate, db) = gated(|builder| builder);
    let (a, b) = (create(&db, "a"), create(&db, "b"));
    a.upsert(document(1)).unwrap();
    b.upsert(document(1)).unwrap();
    let _held = gate.hold();
    let first = db.start(JobRequest::flush_collection("a")).unwrap();
    gate.wait_until_held();
    let same = db.start(JobRequest::flush_collection("a")).unwrap();
    assert_eq!(same.id(), first.id());
    let other = db.start(JobRequest::flush_collection("b")).unwrap();
    assert_ne!(other.id(), first.id());
    assert_eq!(db.start(JobRequest::flush_collection("b")).unwrap().id(), other.id());
    // What comes after the first flush has begun is not in it.
    a.upsert(document(2)).unwrap();
    let second = db.start(JobRequest::flush_collection("a")).unwrap();
    assert!(second.id() > other.id());
    assert_eq!(db.start(JobRequest::flush_collection("a")).unwrap().id(), second.id());
    assert_eq!((first.record().state, second.record().state), (JobState::Running, JobState::Queued));
    let stats = db.stats().jobs;
    assert_eq!((stats.queued, stats.running, stats.joined), (2, 1, 3));
    gate.open_gate();
    for (job, rows) in [(&first, 1), (&same, 1), (&second, 1), (&other, 1)] {
        let JobOutcome::Flush(stats) = job.wait().unwrap() else { panic!("{job:?}") };
        assert_eq!((stats.rows, stats.collections), (rows, 1));
    }
    assert_eq!(first.record().target, JobTarget::Collection("a".to_owned()));
    db.close().unwrap();
}

#[test]
fn jobs_begin_in_the_order_of_their_priorities() {
    let (_, gate, db) = gated(|builder| builder.workers(1).max_workers(1));
    let (a, b) = (create(&db, "a"), create(&db, "b"));
    a.upsert(document(1)).unwrap();
    b.upsert(document(1)).unwrap();
    let (began, order) = mpsc::channel();
    let subscription = db.subscribe(move |event| {
        if matches!(event.what, JobEventKind::Started { .. }) {
            let _gone = began.send(event.id);
        }
    });
    let _held = gate.hold();
    let first = db.start(JobRequest::flush_collection("a")).unwrap();
    gate.wait_until_held();
    let start = |request: JobRequest, priority| db.start(request.priority(priority)).unwrap().id();
    let low = start(JobRequest::verify(), JobPriority::Low);
    let normal = start(JobRequest::backup("/normal"), JobPriority::Normal);
    let also_normal = start(JobRequest::backup("/also"), JobPriority::Normal);
    let high = start(JobRequest::flush_collection("b"), JobPriority::High);
    let critical = start(JobRequest::compaction(), JobPriority::Critical);
    gate.open_gate();
    let mut begun = Vec::new();
    while begun.len() < 6 {
        let id = order.recv_timeout(PATIENCE).unwrap();
        let is_asked_for = [first.id(), low, normal, also_normal, high, critical].contains(&id);
        begun.extend(is_asked_for.then_some(id));
    }
    assert_eq!(begun, [first.id(), critical, high, normal, also_normal, low]);
    drop(subscription);
    db.close().unwrap();
}

/// By the database's clock, and as far as high.
#[test]
fn who_waits_rises_by_a_priority_every_ten_seconds() {
    let ten = Duration::from_secs(10);
    // The low one has waited for so long when one of that priority comes: whether it goes first.
    for (waited, other, goes_first) in [
        (ten - SECOND, JobPriority::Normal, false),
        (ten, JobPriority::Normal, true),
        (2 * ten - SECOND, JobPriority::High, false),
        (2 * ten, JobPriority::High, true),
        (100 * ten, JobPriority::Critical, false),
    ] {
        let (gate, clock) = (Gate::new(SimStorage::new()), Arc::new(SimClock::default()));
        let builder = builder(gate.clone()).clock(clock.clone()).workers(1).max_workers(1);
        let db = builder.open().unwrap();
        create(&db, "c").upsert(document(1)).unwrap();
        let (began, order) = mpsc::channel();
        let subscription = db.subscribe(move |event| {
            if matches!(event.what, JobEventKind::Started { .. }) && event.kind != JobKind::Compaction {
                let _gone = began.send(event.id);
            }
        });
        let held = gate.hold();
        let first = db.start(JobRequest::flush()).unwrap();
        gate.wait_until_held();
        let low = db.start(JobRequest::verify().priority(JobPriority::Low)).unwrap();
        clock.advance(waited);
        let other = db.start(JobRequest::backup("/copy").priority(other)).unwrap();
        drop(held);
        let mut begun = [(); 3].map(|()| order.recv_timeout(PATIENCE).unwrap());
        if goes_first {
            begun.swap(1, 2);
        }
        assert_eq!(begun, [first.id(), other.id(), low.id()], "after {waited:?}");
        drop(subscription);
        db.close().unwrap();
    }
}

#[test]
fn workers_come_with_jobs_and_leave_when_there_are_none() {
    for usual in [1, 2] {
        let disk = SimStorage::new();
        let (gate, clock) = (Gate::new(disk.clone()), Arc::new(SimClock::default()));
        let builder = builder(gate.clone()).clock(clock.clone()).workers(usual).max_workers(4);
        let db = builder.open().unwrap();
        create(&db, "c").upsert(document(1)).unwrap();
        assert_eq!(db.stats().jobs.workers, 0, "there was nothing to do yet");
        let _held = gate.hold();
        let flush = db.start(JobRequest::flush()).unwrap();
        gate.wait_until_held();
        assert_eq!(db.stats().jobs.workers, 1);
        // Two beside a flush and a compaction; the third waits.
        let backups = ["/one", "/two", "/three"].map(|to| db.start(JobRequest::backup(to)).unwrap());
        until("three jobs run", || db.stats().jobs.running == 3);
        let stats = db.stats().jobs;
        assert_eq!((stats.workers, stats.queued), (3, 1));
        gate.open_gate();
        flush.wait().unwrap();
        backups.iter().for_each(|backup| drop(backup.wait().unwrap()));
        let poke = || drop(db.start(JobRequest::verify()).unwrap().wait().unwrap());
        poke();
        assert!(db.stats().jobs.workers >= 3, "they leave when they have been idle for a while");
        let mut looks = 0;
        while db.stats().jobs.workers > usual {
            clock.advance(11 * SECOND);
            poke();
            looks += 1;
            assert!(looks < 100, "they stay");
        }
        for _ in 0..3 {
            clock.advance(11 * SECOND);
            poke();
            assert_eq!(db.stats().jobs.workers, usual);
        }
        db.close().unwrap();
        assert_eq!(db.stats().jobs.workers, 0);
    }
}

#[test]
fn a_full_queue_refuses_after_the_deadline_and_takes_when_there_is_room() {
    let (_, gate, db) = gated(|builder| {
        builder.workers(1).max_workers(1).job_queue(2).job_deadline(Duration::from_millis(50))
    });
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let _held = gate.hold();
    let flush = db.start(JobRequest::flush()).unwrap();
    gate.wait_until_held();
    let one = db.start(JobRequest::backup("/one")).unwrap();
    let two = db.start(JobRequest::backup("/two")).unwrap();
    let refused = db.start(JobRequest::backup("/three")).unwrap_err();
    assert!(matches!(refused, Error::QueueFull { queued: 2, .. }) && refused.is_retryable(), "{refused}");
    // Who asks for what waits already needs no place.
    assert_eq!(db.start(JobRequest::backup("/two")).unwrap().id(), two.id());
    let stats = db.stats().jobs;
    assert_eq!((stats.refused, stats.waits, stats.queued), (1, 1, 2));
    assert!(stats.waited >= Duration::from_millis(50));
    one.cancel().unwrap();
    let three = db.start(JobRequest::backup("/three")).unwrap();
    gate.open_gate();
    flush.wait().unwrap();
    assert!(matches!(one.wait(), Err(Error::Cancelled)));
    two.wait().unwrap();
    three.wait().unwrap();
    db.close().unwrap();
}

#[test]
fn what_times_out_is_the_waiting_and_not_the_flush() {
    let (disk, gate, db) = gated(|builder| builder.job_deadline(Duration::from_millis(20)));
    let collection = create(&db, "c");
    let lsn = collection.upsert(document(1)).unwrap();
    let _held = gate.hold();
    let Err(Error::JobTimeout { job, kind: JobKind::Flush, .. }) = db.flush() else { panic!("no timeout") };
    gate.wait_until_held();
    let handle = db.start(JobRequest::flush()).unwrap();
    assert_eq!(handle.id(), job);
    assert!(matches!(handle.wait_for(Duration::ZERO), Err(Error::JobTimeout { .. })));
    assert!(matches!(db.wait(Level::Flushed, lsn, Duration::ZERO), Err(Error::Timeout)));
    assert_eq!(db.stats().flushes.timed_out, 2);
    // What is being flushed is found.
    assert_eq!(collection.search(&[1.0, 1.0]).run().unwrap().hits.len(), 1);
    gate.open_gate();
    handle.wait().unwrap();
    assert!(db.stats().lsn.flushed >= lsn);
    assert_eq!(reopened(&disk).collection("c").unwrap().count().unwrap(), 1);
    db.close().unwrap();
}

#[test]
fn a_flush_that_fails_is_tried_again_and_loses_nothing() {
    let (disk, gate, db) = gated(|builder| builder);
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let (told, events) = mpsc::channel();
    let subscription = db
        .subscribe(move |event| {
            let _gone = told.send(event.clone());
        })
        .unwrap();
    gate.fail();
    let job = db.start(JobRequest::flush()).unwrap();
    let (attempt, pause) = loop {
        if let JobEventKind::Retried { attempt, pause, error } = events.recv_timeout(PATIENCE).unwrap().what {
            assert!(error.contains("reach"), "{error}");
            break (attempt, pause);
        }
    };
    assert_eq!(attempt, 1);
    assert!((SECOND..SECOND * 2).contains(&pause), "{pause:?}");
    assert_eq!(job.record().state, JobState::Retrying);
    assert_eq!(db.stats().background_error.as_deref().map(|error| error.contains("reach")), Some(true));
    // Meanwhile everything goes on.
    collection.upsert(document(2)).unwrap();
    assert_eq!(collection.count().unwrap(), 2);
    gate.open_gate();
    let JobOutcome::Flush(stats) = job.wait().unwrap() else { panic!("{job:?}") };
    assert_eq!(stats.rows, 2, "an attempt takes what has come by then");
    assert_eq!((job.record().attempts, job.record().state), (2, JobState::Completed));
    let stats = db.stats();
    // What the first attempt had sealed, and what has come since.
    assert_eq!((stats.flushes.successful, stats.flushes.failed, stats.flushes.total), (2, 1, 3));
    assert_eq!((stats.jobs.retried, stats.background_error), (1, None));
    drop(subscription);
    let db = reopened(&disk);
    assert_eq!(db.collection("c").unwrap().count().unwrap(), 2);
}

#[test]
fn what_can_not_pass_is_not_tried_again() {
    let (disk, _, db) = gated(|builder| builder);
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    db.flush().unwrap();
    let file = disk.paths().into_iter().rfind(|path| path.starts_with("/db/data")).unwrap();
    disk.flip_bit(&file, 800).unwrap();
    let job = db.start(JobRequest::backup("/copy").priority(JobPriority::High)).unwrap();
    let refused = job.wait().unwrap_err().to_string();
    assert!(refused.contains("checksum"), "{refused}");
    let record = db.job(job.id()).unwrap();
    assert_eq!((record.state, record.attempts), (JobState::Failed, 1));
    assert_eq!(record.error.as_deref(), Some(&refused[..]));
    assert!(matches!(db.cancel_job(job.id()), Err(Error::JobFinished { state: JobState::Failed, .. })));
    disk.flip_bit(&file, 800).unwrap();
    let again = db.retry_job(job.id()).unwrap();
    assert!(again.id() > job.id());
    let repeated = again.record();
    assert_eq!(
        (repeated.priority, repeated.target, repeated.reason),
        (JobPriority::High, record.target, None)
    );
    let JobOutcome::Backup(stats) = again.wait().unwrap() else { panic!("{again:?}") };
    assert!(stats.files > 0 && stats.bytes > 0);
    assert!(matches!(db.retry_job(again.id()), Err(Error::JobFinished { state: JobState::Completed, .. })));
    assert!(matches!(db.job(JobId(4711)), Err(Error::JobNotFound(JobId(4711)))));
    assert!(matches!(db.retry_job(JobId(4711)), Err(Error::JobNotFound(_))));
    assert!(matches!(db.cancel_job(JobId(4711)), Err(Error::JobNotFound(_))));
    assert!(matches!(
        db.start(JobRequest::flush_collection("nobody")),
        Err(Error::CollectionNotFound(name)) if name == "nobody"
    ));
    db.close().unwrap();
}

#[test]
fn a_backup_opens_like_the_database_and_goes_on_from_there() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    let collection = create(&db, "c");
    for key in 0..100 {
        collection.upsert(document(key)).unwrap();
    }
    collection.delete(7).unwrap();
    let JobOutcome::Backup(stats) = db.start(JobRequest::backup("/copy")).unwrap().wait().unwrap() else {
        panic!("no backup")
    };
    assert!(stats.lsn >= Lsn(101), "{stats}");
    collection.upsert(document(1000)).unwrap();
    // Also after a power cut.
    let disk = disk.after_crash(CrashPolicy::LoseAll);
    for round in 0..2 {
        let copy = Database::builder("/copy").storage(Arc::new(disk.clone())).open().unwrap();
        let found = copy.collection("c").unwrap();
        assert_eq!(found.count().unwrap(), 99 + round);
        assert_eq!(found.get(7).unwrap(), None);
        assert_eq!(found.get(1000).unwrap(), None);
        assert!(found.upsert(document(2000 + round)).unwrap() > stats.lsn, "an LSN is given twice");
        assert!(!copy.verify().unwrap().is_damaged());
        copy.close().unwrap();
    }
    let report = plimsoll::verify_in(Path::new("/copy"), &(Arc::new(disk) as _)).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    db.close().unwrap();
}

/// The second backup is asked for after a write that the first one does not have: it is another job, and the copy
/// without the second document is whole and stays.
#[test]
fn a_backup_is_joined_only_if_nothing_was_written_since_it_began() {
    let (disk, gate, db) = gated(|builder| builder);
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let held = gate.hold();
    let first = db.start(JobRequest::backup("/copy")).unwrap();
    gate.wait_until_held();
    assert_eq!(db.start(JobRequest::backup("/away/../copy")).unwrap().id(), first.id());
    collection.upsert(document(2)).unwrap();
    let second = db.start(JobRequest::backup("/copy")).unwrap();
    assert!(second.id() > first.id());
    drop(held);
    first.wait().unwrap();
    let told = second.wait();
    assert!(
        matches!(&told, Err(Error::InvalidArgument(why)) if why.contains("/copy is not empty")),
        "a copy without the second document: {told:?}"
    );
    db.close().unwrap();
    let copy = Database::builder("/copy").storage(Arc::new(disk)).open().unwrap();
    let found = copy.collection("c").unwrap();
    assert_eq!((found.count().unwrap(), found.get(1).unwrap()), (1, Some(document(1))));
    copy.close().unwrap();
}

#[test]
fn who_waited_for_a_job_finds_it_ended() {
    let db = builder(SimStorage::new()).open().unwrap();
    let collection = create(&db, "c");
    for key in 0..50 {
        for request in [JobRequest::verify(), JobRequest::flush(), JobRequest::compaction()] {
            let job = db.start(request.clone()).unwrap();
            job.wait().unwrap();
            assert!(matches!(job.cancel(), Err(Error::JobFinished { .. })), "{request:?}");
            let (done, total) = job.progress();
            assert_eq!(done, total);
            let again = db.start(request).unwrap();
            assert!(again.id() > job.id());
            again.wait().unwrap();
        }
        collection.upsert(document(key)).unwrap();
    }
    db.close().unwrap();
}

#[test]
fn a_backup_goes_where_nothing_is_and_leaves_nothing_when_it_fails() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    create(&db, "c").upsert(document(1)).unwrap();
    for (place, why) in [
        ("/db", "is in the database"),
        ("/db/copy", "is in the database"),
        ("/x/../db/data/y", "is in the database"),
        ("", "is no place"),
        ("/full", "is not empty"),
    ] {
        disk.put("/full/file", b"").unwrap();
        let error = db.start(JobRequest::backup(place)).unwrap_err().to_string();
        assert!(error.contains(why), "{place}: {error}");
    }
    assert!(db.jobs(100).unwrap().iter().all(|job| job.kind != JobKind::Backup), "what is refused is no job");
    db.flush().unwrap();
    let file = disk.paths().into_iter().rfind(|path| path.starts_with("/db/data")).unwrap();
    disk.flip_bit(&file, 800).unwrap();
    let failed = db.start(JobRequest::backup("/copy")).unwrap();
    assert!(failed.wait().unwrap_err().is_corruption());
    assert!(disk.paths().iter().all(|path| !path.starts_with("/copy")), "{:?}", disk.paths());
    db.close().unwrap();
}

#[test]
fn records_outlive_the_process_and_ids_are_not_used_again() {
    let disk = SimStorage::new();
    let clock = Arc::new(SimClock::default());
    let open = || builder(disk.clone()).clock(clock.clone()).background(false).open().unwrap();
    let db = open();
    let collection = create(&db, "c");
    for key in 0..5 {
        collection.upsert(document(key)).unwrap();
    }
    clock.advance(SECOND);
    let done = db.start(JobRequest::flush()).unwrap();
    let JobOutcome::Flush(stats) = done.wait().unwrap() else { panic!("{done:?}") };
    let nothing = db.start(JobRequest::flush_collection("c")).unwrap();
    assert!(nothing.id() > done.id() && nothing.wait().is_ok());
    db.sync().unwrap();
    drop(collection);
    let reader = ReadOnlyDatabase::open_in(Path::new("/db"), Arc::new(disk.clone()), false).unwrap();
    drop(db);
    let db = open();
    let records = db.jobs(10).unwrap();
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [nothing.id(), done.id()]);
    for record in [db.job(done.id()).unwrap(), reader.job(done.id()).unwrap(), records[1].clone()] {
        assert_eq!((record.kind, record.state, record.attempts), (JobKind::Flush, JobState::Completed, 1));
        assert_eq!((record.priority, record.reason), (JobPriority::High, Some(FlushReason::Manual)));
        assert_eq!(record.lsns, Some((stats.first_lsn, stats.last_lsn)));
        let Some(JobOutcome::Flush(stored)) = &record.outcome else { panic!("{record:?}") };
        assert_eq!(format!("{stored:?}"), format!("{stats:?}"));
        assert!(record.queued_at <= record.started_at.unwrap());
        assert!(record.started_at.unwrap() <= record.finished_at.unwrap());
    }
    assert_eq!(db.job(nothing.id()).unwrap().state, JobState::Skipped);
    assert_eq!(reader.jobs(1).unwrap().len(), 1);
    collection_of(&db).upsert(document(9)).unwrap();
    let next = db.start(JobRequest::flush()).unwrap();
    assert!(next.id() > nothing.id());
    // Nobody sees the table but by these calls.
    assert_eq!(db.collections().len(), 1);
    assert!(db.collection("plimsoll.system").is_err());
    assert_eq!(db.stats().collections.len(), 1);
    // After 30 days the records go, and not before.
    clock.advance(Duration::from_secs(30 * 24 * 3600) - SECOND);
    collection_of(&db).upsert(document(10)).unwrap();
    db.flush().unwrap();
    assert!(db.job(done.id()).is_ok() && db.jobs(10).unwrap().len() == 4);
    clock.advance(2 * SECOND);
    collection_of(&db).upsert(document(11)).unwrap();
    db.flush().unwrap();
    let kept = db.jobs(10).unwrap();
    assert!(kept.iter().all(|record| record.id >= next.id()), "{kept:?}");
    db.close().unwrap();
    let db = open();
    assert!(matches!(db.job(done.id()), Err(Error::JobNotFound(_))));
    db.close().unwrap();
}

fn collection_of(db: &Database) -> Collection {
    db.collection("c").unwrap()
}

#[test]
fn a_job_that_a_crash_cut_off_is_resumed_and_done_once() {
    for with_threads in [false, true] {
        let (disk, gate, db) = gated(|builder| builder);
        let collection = create(&db, "c");
        collection.upsert(document(1)).unwrap();
        let _held = gate.hold();
        let job = db.start(JobRequest::flush()).unwrap();
        gate.wait_until_held();
        let after = disk.after_crash(CrashPolicy::LoseAll);
        gate.open_gate();
        db.close().unwrap();
        let again = builder(after.clone()).background(with_threads).open().unwrap();
        if with_threads {
            assert!(again.wait(Level::Flushed, Lsn(1), PATIENCE).is_ok());
            while !again.job(job.id()).unwrap().state.is_final() {
                thread::yield_now();
            }
        } else {
            let before = again.job(job.id()).unwrap();
            assert!(!before.state.is_final(), "{before:?}");
            again.run_due_jobs().unwrap();
        }
        let record = again.job(job.id()).unwrap();
        assert_eq!((record.id, record.state), (job.id(), JobState::Completed), "{record:?}");
        assert!(record.attempts >= 1);
        assert_eq!(again.stats().flushes.successful, 1);
        again.run_due_jobs().unwrap();
        assert_eq!(again.stats().flushes.successful, 1, "it was done twice");
        assert_eq!(collection_of(&again).count().unwrap(), 1);
        again.close().unwrap();
        drop(again);
        let last = builder(after).background(false).open().unwrap();
        assert_eq!(last.job(job.id()).unwrap().state, JobState::Completed);
    }
}

#[test]
fn a_job_that_was_left_can_be_cancelled() {
    let (disk, gate, db) = gated(|builder| builder);
    create(&db, "c").upsert(document(1)).unwrap();
    let _held = gate.hold();
    let job = db.start(JobRequest::flush()).unwrap();
    gate.wait_until_held();
    assert!(matches!(job.cancel(), Err(Error::JobFinished { state: JobState::Running, .. })));
    let after = disk.after_crash(CrashPolicy::LoseAll);
    gate.open_gate();
    db.close().unwrap();
    let again = builder(after.clone()).background(false).open().unwrap();
    again.cancel_job(job.id()).unwrap();
    assert!(matches!(again.cancel_job(job.id()), Err(Error::JobFinished { state: JobState::Cancelled, .. })));
    drop(again);
    let again = builder(after).background(false).open().unwrap();
    again.run_due_jobs().unwrap();
    assert_eq!(again.job(job.id()).unwrap().state, JobState::Cancelled);
    assert_eq!(again.stats().flushes.total, 0, "a cancelled job was done");
    assert_eq!(collection_of(&again).count().unwrap(), 1);
}

#[test]
fn five_failures_close_the_intake_and_a_success_opens_it() {
    let disk = SimStorage::new();
    let (gate, clock) = (Gate::new(disk.clone()), Arc::new(SimClock::default()));
    let db = builder(gate.clone()).clock(clock.clone()).background(false).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    gate.fail();
    for attempt in 1..=5 {
        assert_eq!(db.stats().jobs.circuit, plimsoll::Circuit::Closed, "before attempt {attempt}");
        assert!(collection.upsert(document(attempt)).is_ok());
        assert!(db.flush().is_err());
        clock.advance(SECOND);
    }
    let refused = collection.upsert(document(6)).unwrap_err();
    assert!(matches!(refused, Error::CircuitOpen { .. }) && refused.is_retryable(), "{refused}");
    assert!(matches!(db.flush(), Err(Error::CircuitOpen { .. })));
    let plimsoll::Circuit::Open { cause, retry_in } = db.stats().jobs.circuit else { panic!("it is closed") };
    assert!(cause.contains("reach") && retry_in == 29 * SECOND, "{cause}, {retry_in:?}");
    assert_eq!(db.stats().jobs.circuit_opened, 1);
    assert_eq!(collection.count().unwrap(), 5, "reads go on");
    // The first attempt after its time fails, too.
    clock.advance(29 * SECOND);
    thread::scope(|scope| {
        let _held = gate.hold();
        let probing = scope.spawn(|| db.flush());
        gate.wait_until_held();
        let circuit = db.stats().jobs.circuit;
        assert!(matches!(&circuit, plimsoll::Circuit::HalfOpen { cause } if cause.contains("reach")));
        assert!(matches!(collection.upsert(document(6)), Err(Error::CircuitOpen { .. })));
        gate.fail();
        assert!(matches!(probing.join().unwrap(), Err(Error::Storage(_))));
    });
    assert!(matches!(db.flush(), Err(Error::CircuitOpen { .. })));
    assert_eq!(db.stats().jobs.circuit_opened, 2);
    gate.open_gate();
    assert!(matches!(collection.upsert(document(6)), Err(Error::CircuitOpen { .. })));
    clock.advance(30 * SECOND);
    assert_eq!(db.flush().unwrap().rows, 5);
    collection.upsert(document(6)).unwrap();
    assert_eq!(db.stats().jobs.circuit, plimsoll::Circuit::Closed);
    db.close().unwrap();
}

#[test]
fn the_database_tries_by_itself_when_flushes_kept_failing() {
    let disk = SimStorage::new();
    let (gate, clock) = (Gate::new(disk.clone()), Arc::new(SimClock::default()));
    let db = builder(gate.clone()).clock(clock.clone()).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    gate.fail();
    let circuit = || db.stats().jobs.circuit;
    // Time passes, and the workers see it; within an hour all has happened.
    let pass = |time| {
        clock.advance(time);
        assert!(clock.now() < 3600 * SECOND, "{:?}", db.stats().jobs);
        db.start(JobRequest::verify()).unwrap().wait().unwrap();
    };
    while circuit() == plimsoll::Circuit::Closed {
        match db.start(JobRequest::flush()) {
            Ok(_) | Err(Error::CircuitOpen { .. }) => pass(SECOND / 2),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(matches!(collection.upsert(document(2)), Err(Error::CircuitOpen { .. })));
    assert!(db.stats().flushes.failed >= 5);
    gate.open_gate();
    while circuit() != plimsoll::Circuit::Closed {
        pass(SECOND);
    }
    collection.upsert(document(2)).unwrap();
    assert_eq!(db.stats().collections[0].flushed_documents, 1, "nobody has called for that flush");
    db.close().unwrap();
}

#[test]
fn listeners_that_panic_or_block_hurt_nobody_and_are_counted() {
    let db = builder(SimStorage::new()).open().unwrap();
    let collection = create(&db, "c");
    let panics = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&panics);
    let panicking = db.subscribe(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        panic!("a listener's own business");
    });
    let (release, released) = mpsc::channel::<()>();
    let blocking = db.subscribe(move |_| {
        let _released = released.recv();
    });
    assert_eq!(db.stats().jobs.events_missed, 0);
    let mut flushes = 0;
    while db.stats().jobs.events_missed == 0 {
        collection.upsert(document(1)).unwrap();
        assert_eq!(db.flush().unwrap().rows, 1);
        // Each is told in several events, of which a thousand and some more wait.
        flushes += 1;
        assert!(flushes < 2000, "none is counted");
    }
    assert_eq!(panics.load(Ordering::SeqCst), 1, "a listener that panicked was told more");
    db.close().unwrap();
    drop((panicking, blocking, release));
}

#[test]
fn rows_that_wait_and_a_full_queue_survive_the_shutdown() {
    for kills in [false, true] {
        let (disk, gate, db) = gated(|builder| builder.workers(1).max_workers(1).job_queue(4));
        let collection = create(&db, "c");
        for key in 0..23 {
            collection.upsert(document(key)).unwrap();
        }
        let _held = gate.hold();
        let flush = db.start(JobRequest::flush()).unwrap();
        gate.wait_until_held();
        let waiting: Vec<_> =
            (0..4).map(|n| db.start(JobRequest::backup(format!("/copy{n}"))).unwrap()).collect();
        if kills {
            let db = reopened(&disk);
            assert_eq!(collection_of(&db).count().unwrap(), 23);
        }
        let closing = db.clone();
        let closer = thread::spawn(move || closing.close());
        gate.open_gate();
        closer.join().unwrap().unwrap();
        assert_eq!(flush.record().state, JobState::Completed);
        for job in waiting {
            let state = job.record().state;
            assert!(matches!(state, JobState::Cancelled | JobState::Completed), "{job:?}");
        }
        let db = reopened(&disk);
        assert_eq!(collection_of(&db).count().unwrap(), 23);
        assert_eq!(db.stats().recovery.records, 0, "a closed database left something in the log");
    }
}

#[test]
fn ten_collections_close_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let collections: Vec<_> = (0..10).map(|n| create(&db, &format!("c{n}"))).collect();
    let acknowledged: Vec<AtomicU64> = (0..10).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (collection, acknowledged) in collections.iter().zip(&acknowledged) {
            scope.spawn(move || {
                for key in 0.. {
                    match collection.upsert(document(key)) {
                        Ok(_) => acknowledged.store(key + 1, Ordering::SeqCst),
                        Err(Error::Closed) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        while acknowledged.iter().any(|rows| rows.load(Ordering::SeqCst) < 20) {
            thread::yield_now();
        }
        db.close().unwrap();
    });
    let db = Database::open(dir.path().join("db")).unwrap();
    for (n, acknowledged) in acknowledged.iter().enumerate() {
        let found = db.collection(&format!("c{n}")).unwrap().count().unwrap();
        // A write may be on disk of which nobody was told.
        let told = acknowledged.load(Ordering::SeqCst);
        assert!((told..=told + 1).contains(&found), "{found} of {told}");
    }
    db.close().unwrap();
}

#[test]
fn waiting_for_a_level_starts_what_it_needs() {
    let db = builder(SimStorage::new()).buffer_delay(PATIENCE).buffer_records(1 << 20).open().unwrap();
    let collection = create(&db, "c");
    let mut batch = WriteBatch::new();
    batch.upsert(document(1));
    let lsn = collection.write_with(&batch, Durability::Buffered).unwrap();
    assert!(db.wait(Level::Applied, lsn, Duration::ZERO).unwrap() >= lsn);
    assert!(matches!(db.wait(Level::Durable, lsn, Duration::ZERO), Err(Error::Timeout)));
    assert!(db.wait(Level::Durable, lsn, PATIENCE).unwrap() >= lsn);
    assert!(db.stats().lsn.flushed < lsn);
    assert!(db.wait(Level::Flushed, lsn, PATIENCE).unwrap() >= lsn);
    assert!(db.stats().lsn.flushed >= lsn);
    let ahead = Lsn(lsn.0 + 1000);
    assert!(matches!(
        db.wait(Level::Durable, ahead, PATIENCE),
        Err(Error::NotWritten { lsn, .. }) if lsn == ahead
    ));
    db.close().unwrap();
    assert!(matches!(db.wait(Level::Durable, lsn, PATIENCE), Err(Error::Closed)));
}

#[test]
fn waiting_for_a_level_ends_with_its_time() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).buffer_delay(PATIENCE).buffer_records(1 << 20).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(0)).unwrap();
    let mut batch = WriteBatch::new();
    batch.upsert(document(1));
    let lsn = collection.write_with(&batch, Durability::Buffered).unwrap();
    let held = disk.hold_syncs();
    assert!(matches!(db.wait(Level::Durable, lsn, SECOND / 20), Err(Error::Timeout)));
    assert!(matches!(db.wait(Level::Flushed, lsn, SECOND / 20), Err(Error::Timeout)));
    drop(held);
    assert!(db.wait(Level::Durable, lsn, PATIENCE).unwrap() >= lsn);
    db.close().unwrap();
}

#[test]
fn zero_and_absurd_settings_are_refused() {
    let refused = |builder: DatabaseBuilder| match builder.open() {
        Err(Error::InvalidArgument(what)) => what,
        other => panic!("{other:?}"),
    };
    let new = || builder(SimStorage::new());
    assert!(refused(new().workers(0)).contains("workers"));
    assert!(refused(new().workers(3).max_workers(2)).contains("max_workers"));
    assert!(refused(new().max_workers(100_000)).contains("max_workers"));
    assert!(refused(new().job_queue(0)).contains("job_queue"));
    assert!(refused(new().job_deadline(Duration::MAX)).contains("job_deadline"));
    let db = new().open().unwrap();
    let collection = create(&db, "c");
    let mut policy = FlushPolicy::manual();
    policy.max_rows = Some(0);
    assert!(matches!(collection.set_flush_policy(policy), Err(Error::InvalidArgument(_))));
    db.drop_collection("c").unwrap();
    assert!(matches!(collection.flush(), Err(Error::CollectionNotFound(_))));
    assert!(matches!(collection.set_flush_policy(FlushPolicy::default()), Err(Error::CollectionNotFound(_))));
    db.close().unwrap();
    assert!(matches!(db.start(JobRequest::flush()), Err(Error::Closed)));
    assert!(matches!(db.flush(), Err(Error::Closed)));
}
