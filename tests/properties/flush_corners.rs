//! Jobs where several things happen at once: a backup beside writers, a request beside the end of a job, a close beside
//! those who wait, and handles that listeners hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::{
    Database, Error, FlushPolicy, JobEventKind, JobOutcome, JobPriority, JobRequest, JobState, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, SimClock, SimStorage};

use crate::flush_jobs::{PATIENCE, builder, create, document, gated, until};
use crate::gate::Gate;

fn batch(key: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.upsert(document(key));
    batch
}

/// Whether it ends soon, in a thread of its own, so that a test of what hangs fails.
fn ends(what: impl FnOnce() + Send + 'static) -> bool {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        what();
        let _nobody_waits = done.send(());
    });
    ended.recv_timeout(Duration::from_secs(10)).is_ok()
}

/// One collection is flushed all the time, the other only by the backup: each write is of both.
#[test]
fn a_backup_is_of_one_moment() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    let (often, seldom) = (create(&db, "often"), create(&db, "seldom"));
    let mut policy = FlushPolicy::manual();
    policy.max_rows = Some(1);
    often.set_flush_policy(policy).unwrap();
    let is_over = AtomicBool::new(false);
    let copies: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            for key in 0.. {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                db.write(&[(&often, batch(key)), (&seldom, batch(key))]).unwrap();
            }
        });
        let copy = |round| {
            let before = often.count().unwrap();
            let to = format!("/copy{round}");
            let JobOutcome::Backup(stats) = db.start(JobRequest::backup(&to)).unwrap().wait().unwrap() else {
                panic!("no backup")
            };
            (to, before, stats.lsn)
        };
        let copies = (0..20).map(copy).collect();
        is_over.store(true, Ordering::Release);
        copies
    });
    db.close().unwrap();
    for (to, before, lsn) in copies {
        let copy = Database::builder(&to).storage(Arc::new(disk.clone())).open().unwrap();
        let rows = |name| copy.collection(name).unwrap().count().unwrap();
        assert_eq!(rows("often"), rows("seldom"), "half of a write is in {to}, up to {lsn}");
        assert!(rows("often") >= before, "what was acknowledged before is missing in {to}");
        copy.close().unwrap();
    }
}

#[test]
fn a_backup_that_failed_once_is_tried_again_to_the_same_directory() {
    let (disk, gate, db) = gated(|builder| builder);
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    db.flush().unwrap();
    let opening = gate.clone();
    let subscription = db.subscribe(move |event| {
        if matches!(event.what, JobEventKind::Retried { .. }) {
            opening.open_gate();
        }
    });
    gate.fail_in("/copy");
    let job = db.start(JobRequest::backup("/copy")).unwrap();
    let ended = job.wait_for(PATIENCE);
    let record = job.record();
    assert!(ended.is_ok(), "{ended:?}, {record:?}");
    assert_eq!((record.state, record.attempts), (JobState::Completed, 2));
    let copy = Database::builder("/copy").storage(Arc::new(disk)).open().unwrap();
    assert_eq!(copy.collection("c").unwrap().count().unwrap(), 1);
    copy.close().unwrap();
    db.close().unwrap();
    drop(subscription);
}

/// A flush whose beginning was never recorded ends by what the closing flush did.
#[test]
fn records_of_jobs_that_never_began_are_removed_after_their_time() {
    let disk = SimStorage::new();
    let clock = Arc::new(SimClock::default());
    let gate = Gate::new(disk.clone());
    let open = || builder(gate.clone()).clock(clock.clone()).open().unwrap();
    let db = open();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let held = gate.hold();
    let first = db.start(JobRequest::flush()).unwrap();
    gate.wait_until_held();
    collection.upsert(document(2)).unwrap();
    let second = db.start(JobRequest::flush()).unwrap();
    assert!(second.id() > first.id());
    thread::scope(|scope| {
        let closing = scope.spawn(|| db.close());
        while !matches!(db.flush(), Err(Error::Closed)) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(100));
        drop(held);
        closing.join().unwrap().unwrap();
    });
    let db = open();
    assert_eq!(db.job(second.id()).unwrap().state, JobState::Completed);
    clock.advance(Duration::from_secs(31 * 24 * 3600));
    for key in 10..15 {
        db.collection("c").unwrap().upsert(document(key)).unwrap();
        db.flush().unwrap();
    }
    for job in [&first, &second] {
        assert!(matches!(db.job(job.id()), Err(Error::JobNotFound(_))), "job {} is kept", job.id());
    }
    db.close().unwrap();
}

/// The record that `start` writes is never written over that of the end.
#[test]
fn what_ended_while_it_was_submitted_has_ended() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    create(&db, "c").upsert(document(1)).unwrap();
    thread::scope(|scope| {
        for request in [JobRequest::verify(), JobRequest::compaction(), JobRequest::flush()] {
            let db = &db;
            scope.spawn(move || {
                for _ in 0..100 {
                    db.start(request.clone()).unwrap().wait().unwrap();
                }
            });
        }
    });
    db.close().unwrap();
    let again = builder(disk).background(false).open().unwrap();
    let wrong: Vec<_> = again.jobs(1000).unwrap().into_iter().filter(|job| !job.state.is_final()).collect();
    assert!(wrong.is_empty(), "{}: {:?}", wrong.len(), wrong[0]);
    again.close().unwrap();
}

/// `start` returns when the record is durable, also if the job was already there for someone who needed none.
#[test]
fn who_gets_a_job_that_waits_has_a_durable_record() {
    let (disk, gate, db) = gated(|builder| builder);
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let held = gate.hold();
    thread::scope(|scope| {
        let _first = db.start(JobRequest::flush()).unwrap();
        gate.wait_until_held();
        collection.upsert(document(2)).unwrap();
        let waits = scope.spawn(|| db.flush());
        until("a job waits", || db.stats().jobs.queued > 0);
        let job = db.start(JobRequest::flush()).unwrap();
        let left = builder(disk.after_crash(CrashPolicy::LoseAll)).background(false).open().unwrap();
        let record = left.job(job.id());
        drop(held);
        waits.join().unwrap().unwrap();
        assert!(record.is_ok(), "{record:?}");
    });
    db.close().unwrap();
}

/// Without threads, one flush works, another one waits for it, and a third thread closes the database.
#[test]
fn who_waits_without_threads_is_told_of_the_close() {
    let disk = SimStorage::new();
    let gate = Gate::new(disk.clone());
    let db = builder(gate.clone()).background(false).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let held = gate.hold();
    let flush = |db: &Database| {
        let db = db.clone();
        thread::spawn(move || db.flush())
    };
    let first = flush(&db);
    gate.wait_until_held();
    collection.upsert(document(2)).unwrap();
    let second = flush(&db);
    until("a job waits", || db.stats().jobs.queued > 0);
    let closing = db.clone();
    let closing = thread::spawn(move || closing.close());
    until("no job waits", || db.stats().jobs.queued == 0);
    thread::sleep(Duration::from_millis(50));
    drop(held);
    assert!(ends(move || {
        first.join().unwrap().unwrap();
        closing.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    }));
}

/// A request that was admitted before the circuit opened waits for its time and not for ever.
#[test]
fn who_waits_without_threads_while_the_circuit_opens_is_told() {
    let disk = SimStorage::new();
    let (gate, clock) = (Gate::new(disk.clone()), Arc::new(SimClock::default()));
    let db = builder(gate.clone()).clock(clock.clone()).background(false).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    gate.fail();
    for _ in 0..4 {
        assert!(db.flush().is_err());
    }
    let held = gate.hold();
    let flush = |db: &Database| {
        let db = db.clone();
        thread::spawn(move || db.flush())
    };
    let first = flush(&db);
    gate.wait_until_held();
    collection.upsert(document(2)).unwrap();
    let second = flush(&db);
    until("a job waits", || db.stats().jobs.queued > 0);
    gate.fail();
    assert!(first.join().unwrap().is_err());
    gate.open_gate();
    drop(held);
    let ended = ends(move || assert!(matches!(second.join().unwrap(), Err(Error::CircuitOpen { .. }))));
    assert!(ended, "it waits for ever");
    clock.advance(Duration::from_secs(30));
    assert_eq!(db.flush().unwrap().rows, 2);
    db.close().unwrap();
}

#[test]
fn a_copy_says_of_its_own_backup_that_it_is_done() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    create(&db, "c").upsert(document(1)).unwrap();
    let job = db.start(JobRequest::backup("/copy")).unwrap();
    job.wait().unwrap();
    db.close().unwrap();
    for background in [false, true] {
        let copy = Database::builder("/copy").storage(Arc::new(disk.clone())).background(background);
        let copy = copy.open().unwrap();
        assert_eq!(copy.job(job.id()).unwrap().state, JobState::Completed);
        assert!(copy.start(JobRequest::verify()).unwrap().id() > job.id(), "an id is given twice");
        copy.close().unwrap();
    }
}

/// A listener has the last handle: it goes with the subscription.
#[test]
fn a_listener_that_is_not_wanted_any_more_lets_go_of_what_it_holds() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    create(&db, "c");
    let held = db.clone();
    let subscription = db.subscribe(move |_| drop(held.collections())).unwrap();
    drop(subscription);
    drop(db);
    let start = Instant::now();
    loop {
        match builder(disk.clone()).open() {
            Ok(db) => return db.close().unwrap(),
            Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// From within an event everything may be called.
#[test]
fn a_listener_may_write_flush_cancel_and_close() {
    let db = builder(SimStorage::new()).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let (done, ended) = mpsc::channel();
    let (inner, mut is_first) = (db.clone(), true);
    let subscription = db.subscribe(move |event| {
        if std::mem::take(&mut is_first) {
            let collection = inner.collection("c").unwrap();
            collection.upsert(document(2)).unwrap();
            let _ended_or_not = inner.cancel_job(event.id);
            inner.flush().unwrap();
            inner.start(JobRequest::verify()).unwrap().wait().unwrap();
            inner.close().unwrap();
            done.send(()).unwrap();
        }
    });
    let _closed_or_not = db.flush();
    ended.recv_timeout(Duration::from_secs(30)).unwrap();
    drop(subscription);
}

/// A job that is asked for while the database closes is refused, whatever its priority.
#[test]
fn what_is_asked_for_beside_a_close_is_refused() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).open().unwrap();
    let collection = create(&db, "c");
    collection.upsert(document(1)).unwrap();
    let held = disk.hold_syncs();
    let writing = thread::spawn(move || collection.upsert(document(2)));
    held.wait_for_one();
    // It waits for the log, and the close does not.
    let asking = db.clone();
    let asked = thread::spawn(move || {
        let job = asking.start(JobRequest::flush().priority(JobPriority::Critical))?;
        job.wait_for(Duration::from_secs(5))
    });
    thread::sleep(Duration::from_millis(100));
    let closing = thread::spawn(move || db.close());
    thread::sleep(Duration::from_millis(100));
    drop(held);
    let told = asked.join().unwrap();
    assert!(matches!(told, Err(Error::Closed)), "{told:?}");
    writing.join().unwrap().unwrap();
    closing.join().unwrap().unwrap();
}
