//! What is told of flushes and jobs, each number after something of which it is known what it must be: a counter that
//! lies fails here, and so does a reason, an event or a pause that is another one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use plimsoll::{
    Circuit, Clock as _, Collection, Database, Document, Durability, Error, FlushPolicy, FlushReason,
    FlushStats, JobEvent, JobEventKind, JobHandle, JobKind, JobOutcome, JobPriority, JobRequest, JobState,
    JobStats, JobTarget, Lsn, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimClock, SimStorage};

use crate::flush_jobs::{PATIENCE, builder, create, document, gated, until};
use crate::gate::Gate;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn policy(set: impl FnOnce(&mut FlushPolicy)) -> FlushPolicy {
    let mut policy = FlushPolicy::manual();
    set(&mut policy);
    policy
}

/// The sealed files, with their lengths.
fn files(disk: &SimStorage) -> BTreeMap<std::path::PathBuf, u64> {
    let paths = disk.paths().into_iter().filter(|path| path.starts_with("/db/data"));
    paths.map(|path| (path.clone(), disk.bytes(&path).unwrap().len() as u64)).collect()
}

/// Everything of a flush that is not a time.
fn counts(stats: &FlushStats) -> [u64; 7] {
    let FlushStats { collections, shards_touched, files_synced, operations_applied, rows, killed, .. } =
        *stats;
    let sizes = [collections, shards_touched, files_synced].map(|size| size as u64);
    let [collections, shards, files] = sizes;
    [collections, shards, files, operations_applied, rows, killed, stats.bytes_written]
}

#[test]
fn a_flush_says_what_it_has_done() {
    let (disk, clock) = (SimStorage::new(), Arc::new(SimClock::ticking(Duration::from_micros(1))));
    let db = builder(disk.clone()).clock(clock.clone()).background(false).open().unwrap();
    let (a, b) = (create(&db, "a"), create(&db, "b"));
    let two = Document::new(1).posting(0, 0, [1.0, 1.0]).posting(0, 0, [1.0, 2.0]);
    let write = |n| match n {
        0 => {
            [a.upsert(two.clone()), a.upsert(document(2)), a.upsert(document(3))].map(Result::unwrap).to_vec()
        }
        // One replaces a document of two rows, one deletes, one is new; and another collection has one.
        1 => {
            let first = a.upsert(document(1)).unwrap();
            assert!(a.delete(2).unwrap());
            vec![first, a.upsert(document(4)).unwrap(), b.upsert(document(1)).unwrap()]
        }
        _ => {
            let before = db.stats().lsn.appended;
            assert!(a.delete(4).unwrap());
            assert_eq!(db.stats().lsn.appended.0, before.0 + 1);
            vec![db.stats().lsn.appended]
        }
    };
    // Collections, shards, files with the manifest, operations, rows, killed documents.
    let expected = [[1, 1, 3, 3, 4, 0], [2, 2, 6, 4, 3, 2], [1, 0, 2, 1, 0, 1]];
    let (mut all_rows, mut all_bytes, mut all_times) = (0, 0, Duration::ZERO);
    for (round, expected) in expected.into_iter().enumerate() {
        let lsns = write(round);
        let (before, began) = (files(&disk), clock.now());
        let stats = db.flush().unwrap();
        let took = clock.now() - began;
        let mut new = files(&disk);
        new.retain(|path, _| !before.contains_key(path));
        let bytes: u64 = new.values().sum();
        let [c, s, f, o, r, k] = expected;
        assert_eq!(counts(&stats), [c, s, f, o, r, k, bytes], "round {round}");
        assert_eq!(stats.files_synced, new.len() + 1, "round {round}");
        assert_eq!((stats.first_lsn, Some(&stats.last_lsn)), (lsns[0], lsns.last()), "round {round}");
        assert_eq!((stats.reason, stats.is_empty()), (FlushReason::Manual, false));
        let phases: Duration = stats.phases().iter().map(|(_, took)| *took).sum();
        assert!(stats.phases().iter().all(|(_, took)| *took > Duration::ZERO), "{stats}");
        assert!(phases <= stats.total && stats.total <= took, "{stats}");
        (all_rows, all_bytes, all_times) = (all_rows + r, all_bytes + bytes, all_times + stats.total);
        // Whoever asks later is told the same.
        let told = format!("{stats:?}");
        assert_eq!(format!("{:?}", db.stats().last_flush.unwrap()), told);
        let record = db.jobs(1).unwrap().remove(0);
        let Some(JobOutcome::Flush(recorded)) = &record.outcome else { panic!("{record:?}") };
        assert_eq!(format!("{recorded:?}"), told);
        assert_eq!(record.lsns, Some((stats.first_lsn, stats.last_lsn)));
        let totals = db.stats().flushes;
        let flushes = round as u64 + 1;
        assert_eq!((totals.total, totals.successful, totals.failed), (flushes, flushes, 0));
        assert_eq!((totals.rows, totals.bytes, totals.times.total), (all_rows, all_bytes, all_times));
        assert_eq!((totals.times.count, totals.timed_out), (flushes, 0));
        let collections = db.stats().collections;
        assert!(
            collections.iter().all(|c| (c.memtable_rows, c.memtable_bytes, c.sealed_memtables) == (0, 0, 0))
        );
        assert_eq!(collections.iter().map(|c| c.disk_bytes).sum::<u64>(), files(&disk).values().sum::<u64>());
    }
    let of = |name: &str| {
        let all = db.stats().collections;
        let found = all.iter().find(|c| c.name == name).unwrap();
        let files = [found.posting_files, found.vector_segments, found.vector_sections];
        (found.flushed_documents, found.flushed_rows, found.killed, files)
    };
    assert_eq!((of("a"), of("b")), ((2, 6, 3, [2; 3]), (1, 1, 0, [1; 3])));
    db.close().unwrap();
}

/// A flush after one that failed has two parts: what that had sealed, and what has come since.
#[test]
fn a_flush_in_two_parts_counts_each_collection_once() {
    let disk = SimStorage::new();
    let gate = Gate::new(disk.clone());
    let db = builder(gate.clone()).background(false).open().unwrap();
    let (a, b, c) = (create(&db, "a"), create(&db, "b"), create(&db, "c"));
    let mut batch = WriteBatch::new();
    for key in 0..10 {
        batch.upsert(document(key));
    }
    a.write(&batch).unwrap();
    let first = b.upsert(document(1)).unwrap();
    gate.fail();
    assert!(db.flush().is_err());
    let stats = db.stats();
    let waits = |stats: &plimsoll::Stats| {
        let of = |c: &plimsoll::CollectionStats| (c.memtable_rows, c.sealed_memtables);
        stats.collections.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(waits(&stats), [(10, 1), (1, 1), (0, 0)]);
    assert!(stats.background_error.is_some_and(|error| error.contains("reach")));
    gate.open_gate();
    b.upsert(document(2)).unwrap();
    let last = c.upsert(document(1)).unwrap();
    let before = files(&disk).len();
    let stats = db.flush().unwrap();
    let files = files(&disk).len() - before;
    // Two manifests, one for each part.
    let FlushStats { collections, shards_touched, files_synced, operations_applied, rows, .. } = stats;
    assert_eq!((collections, shards_touched, files_synced), (3, 3, files + 2), "{stats}");
    assert_eq!((operations_applied, rows, stats.killed), (13, 13, 0));
    assert_eq!((stats.first_lsn, stats.last_lsn), (Lsn(first.0 - 1), last));
    let totals = db.stats().flushes;
    assert_eq!((totals.successful, totals.failed, totals.total, totals.rows), (2, 1, 3, 13));
    assert_eq!(totals.bytes, stats.bytes_written);
    assert_eq!((waits(&db.stats()), db.stats().background_error), (vec![(0, 0); 3], None));
    db.close().unwrap();
}

/// Each thing that a flush does to the disk takes a time of its own, by the database's clock.
#[test]
fn each_phase_is_told_the_time_that_it_took() {
    let (disk, clock) = (SimStorage::new(), Arc::new(SimClock::default()));
    let gate = Gate::new(disk);
    let builder = builder(gate.clone()).clock(clock.clone()).background(false).wal_segment_bytes(4096);
    let db = builder.buffer_records(1 << 20).open().unwrap();
    let collection = create(&db, "c");
    let (is_on, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new([0_u32; 6])));
    let (hears, did) = (Arc::clone(&is_on), Arc::clone(&done));
    let passing = Arc::clone(&clock);
    gate.watch(move |what, path| {
        let is_in = |dir: &str| path.starts_with(Path::new("/db").join(dir));
        let phase = match what {
            "sync" if is_in("wal") && path.extension().is_some() => 0,
            "create" if is_in("data") => 1,
            "sync" if is_in("data") && path.extension().is_some() => 2,
            "create" if !is_in("wal") => 3,
            "remove" if is_in("wal") => 4,
            "list" if is_in("data") => 5,
            _ => return,
        };
        if hears.load(Ordering::SeqCst) {
            did.lock().unwrap()[phase] += 1;
            passing.advance(MINUTE * 10_u32.pow(phase as u32));
        }
    });
    let (mut totals, mut all) = ([Duration::ZERO; 6], Vec::new());
    for round in 0..3 {
        let segments = db.stats().wal.segments;
        let mut key = 0;
        while db.stats().wal.segments < segments + 2 {
            assert!(key < 1000, "a segment holds so many rows");
            let mut batch = WriteBatch::new();
            batch.upsert(document(1000 * round + key));
            collection.write_with(&batch, Durability::Buffered).unwrap();
            key += 1;
        }
        *done.lock().unwrap() = [0; 6];
        is_on.store(true, Ordering::SeqCst);
        let stats = db.flush().unwrap();
        is_on.store(false, Ordering::SeqCst);
        let done = *done.lock().unwrap();
        // The log's sync, at least two files and their syncs, the manifest, at least one segment of the log, a look.
        assert!(done.iter().zip([1, 2, 2, 1, 1, 1]).all(|(did, least)| *did >= least), "{done:?}");
        let mut sum = Duration::ZERO;
        for (phase, (name, took)) in stats.phases().into_iter().enumerate() {
            let expected = MINUTE * 10_u32.pow(phase as u32) * done[phase];
            assert_eq!(took, expected, "{name}, {done:?}");
            totals[phase] += took;
            sum += took;
        }
        assert_eq!(stats.total, sum);
        assert_eq!(stats.slowest_phase().0, "validation");
        all.push(stats.total);
    }
    let told = db.stats().flushes;
    for (phase, (name, times)) in told.phases.iter().enumerate() {
        assert_eq!((times.total, times.count), (totals[phase], 3), "{name}");
        assert!(times.min <= times.average() && times.average() <= times.max, "{name}: {times:?}");
        assert_eq!(times.buckets.iter().sum::<u64>(), 3);
    }
    let times = told.times;
    assert_eq!((times.total, times.count), (all.iter().sum(), 3));
    assert_eq!((Some(&times.min), Some(&times.max)), (all.iter().min(), all.iter().max()));
    db.close().unwrap();
}

/// Queued, running, workers; submitted, joined, retried, refused, waits; records and events that were missed; how often
/// the circuit was opened.
fn numbers(stats: &JobStats) -> ([usize; 3], [u64; 5], [u64; 3]) {
    assert_eq!(stats.circuit, Circuit::Closed);
    (
        [stats.queued, stats.running, stats.workers],
        [stats.submitted, stats.joined, stats.retried, stats.refused, stats.waits],
        [stats.unrecorded, stats.events_missed, stats.circuit_opened],
    )
}

#[test]
fn the_counters_of_jobs_say_what_happened() {
    let (_, gate, db) = gated(|builder| {
        builder.workers(1).max_workers(2).job_queue(2).job_deadline(Duration::from_millis(20))
    });
    let collection = create(&db, "c");
    let now = || numbers(&db.stats().jobs);
    assert_eq!(now(), ([0, 0, 0], [0; 5], [0; 3]));
    collection.upsert(document(1)).unwrap();
    assert_eq!(now(), ([0, 0, 0], [0; 5], [0; 3]), "a write is no job");
    let held = gate.hold();
    let flush = db.start(JobRequest::flush()).unwrap();
    gate.wait_until_held();
    assert_eq!(now(), ([0, 1, 1], [1, 0, 0, 0, 0], [0; 3]));
    assert_eq!(db.start(JobRequest::flush()).unwrap().id(), flush.id());
    assert_eq!(now(), ([0, 1, 1], [1, 1, 0, 0, 0], [0; 3]));
    collection.upsert(document(2)).unwrap();
    let next = db.start(JobRequest::flush()).unwrap();
    assert_eq!(now(), ([1, 1, 1], [2, 1, 0, 0, 0], [0; 3]));
    let copy = db.start(JobRequest::backup("/one")).unwrap();
    until("two jobs run", || db.stats().jobs.running == 2);
    assert_eq!(now(), ([1, 2, 2], [3, 1, 0, 0, 0], [0; 3]));
    let other = db.start(JobRequest::backup("/two")).unwrap();
    assert_eq!(now(), ([2, 2, 2], [4, 1, 0, 0, 0], [0; 3]));
    let stats = db.stats().jobs;
    assert_eq!(stats.waited, Duration::ZERO);
    let refused = db.start(JobRequest::backup("/three"));
    assert!(matches!(refused, Err(Error::QueueFull { queued: 2, .. })), "{refused:?}");
    assert_eq!(now(), ([2, 2, 2], [4, 1, 0, 1, 1], [0; 3]));
    let waited = db.stats().jobs.waited;
    assert!((Duration::from_millis(20)..PATIENCE).contains(&waited), "{waited:?}");
    // Closing is never refused: what is critical finds a place.
    let critical = db.start(JobRequest::verify().priority(JobPriority::Critical)).unwrap();
    assert_eq!(now(), ([3, 2, 2], [5, 1, 0, 1, 1], [0; 3]));
    assert!(matches!(flush.wait_for(Duration::ZERO), Err(Error::JobTimeout { .. })));
    assert!(matches!(copy.wait_for(Duration::ZERO), Err(Error::JobTimeout { kind: JobKind::Backup, .. })));
    assert_eq!(db.stats().flushes.timed_out, 1, "a backup is no flush");
    drop(held);
    for job in [flush, next, copy, other, critical] {
        job.wait().unwrap();
    }
    until("no job runs", || db.stats().jobs.running == 0);
    let ([queued, running, workers], counted, others) = now();
    assert!((1..=2).contains(&workers));
    assert_eq!((queued, running, counted, others), (0, 0, [5, 1, 0, 1, 1], [0; 3]));
    assert_eq!(db.stats().jobs.waited, waited);
    db.close().unwrap();
}

#[test]
fn who_waits_for_a_place_and_gets_one_is_counted_and_not_refused() {
    let (_, gate, db) =
        gated(|builder| builder.workers(1).max_workers(1).job_queue(1).job_deadline(PATIENCE));
    create(&db, "c").upsert(document(1)).unwrap();
    let held = gate.hold();
    let flush = db.start(JobRequest::flush()).unwrap();
    gate.wait_until_held();
    let waits = db.start(JobRequest::backup("/one")).unwrap();
    thread::scope(|scope| {
        let asking = scope.spawn(|| db.start(JobRequest::backup("/two")));
        until("it waits for a place", || db.stats().jobs.waits > 0);
        assert_eq!(numbers(&db.stats().jobs), ([1, 1, 1], [2, 0, 0, 0, 1], [0; 3]));
        waits.cancel().unwrap();
        let two = asking.join().unwrap().unwrap();
        assert_eq!(numbers(&db.stats().jobs), ([1, 1, 1], [3, 0, 0, 0, 1], [0; 3]));
        assert!((Duration::from_nanos(1)..PATIENCE).contains(&db.stats().jobs.waited));
        drop(held);
        two.wait().unwrap();
    });
    flush.wait().unwrap();
    db.close().unwrap();
}

#[test]
fn a_change_of_a_job_without_a_record_is_counted_and_holds_up_nothing() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).background(false).open().unwrap();
    let collection = create(&db, "c");
    for round in 1..=2 {
        collection.upsert(document(round)).unwrap();
        // That it has begun: what comes after it goes to a new segment of the log.
        disk.fail_next(OperationKind::Append, Failure::errno(5), 1);
        assert_eq!(db.flush().unwrap().rows, 1);
        assert_eq!(db.stats().jobs.unrecorded, round);
        let record = db.jobs(1).unwrap().remove(0);
        assert_eq!((record.kind, record.state), (JobKind::Flush, JobState::Completed));
    }
    collection.upsert(document(3)).unwrap();
    db.flush().unwrap();
    assert_eq!((db.stats().jobs.unrecorded, db.stats().flushes.failed), (2, 0));
    db.close().unwrap();
}

/// A database with one worker, whose time a test lets pass, and what is told of its jobs.
struct Watched {
    gate: Gate,
    clock: Arc<SimClock>,
    db: Database,
    collection: Collection,
    events: mpsc::Receiver<JobEvent>,
    _subscription: plimsoll::Subscription,
}

fn watched() -> Watched {
    let (gate, clock) = (Gate::new(SimStorage::new()), Arc::new(SimClock::default()));
    let db = builder(gate.clone()).clock(clock.clone()).workers(1).max_workers(1).open().unwrap();
    let collection = create(&db, "c");
    let (told, events) = mpsc::channel();
    let subscription = db.subscribe(move |event| drop(told.send(event.clone()))).unwrap();
    Watched { gate, clock, db, collection, events, _subscription: subscription }
}

impl Watched {
    /// Lets time pass, and the worker see it: what was due before it has been tried when this returns.
    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        let look = JobRequest::verify().priority(JobPriority::Low);
        self.db.start(look).unwrap().wait().unwrap();
    }

    /// What is told next of a job that failed and is tried again: the attempt and the pause.
    fn retried(&self) -> (u32, Duration) {
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap();
            if let JobEventKind::Retried { attempt, pause, error } = event.what {
                assert!(error.contains("reach") && event.kind == JobKind::Flush, "{error}");
                return (attempt, pause);
            }
        }
    }

    fn newest_flush(&self) -> plimsoll::JobRecord {
        self.db.jobs(100).unwrap().into_iter().find(|job| job.kind == JobKind::Flush).unwrap()
    }
}

#[test]
fn a_flush_is_tried_four_times_with_pauses_that_double() {
    let on = watched();
    on.collection.upsert(document(1)).unwrap();
    on.gate.fail();
    let job = on.db.start(JobRequest::flush()).unwrap();
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        let (told, pause) = on.retried();
        let whole = SECOND * (1 << (attempt - 1));
        assert!(told == attempt && (whole..=whole * 5 / 4).contains(&pause), "{attempt}: {told}, {pause:?}");
        let waits = |left: Duration| {
            on.pass(left);
            let record = job.record();
            assert_eq!((record.state, record.attempts), (JobState::Retrying, attempt));
            assert!(record.error.is_some_and(|error| error.contains("reach")));
            assert_eq!(on.db.stats().jobs.queued, 1);
        };
        waits(Duration::ZERO);
        waits(pause - Duration::from_millis(1));
        on.pass(Duration::from_millis(1));
        assert_eq!(job.record().attempts, attempt + 1, "its time has come");
        pauses.push(pause);
    }
    let record = job.record();
    assert_eq!((record.state, record.attempts), (JobState::Failed, 4));
    assert!(matches!(job.wait(), Err(Error::Storage(_))));
    assert!(pauses.iter().any(|pause| pause.subsec_millis() > 0), "none is longer by chance: {pauses:?}");
    let stats = on.db.stats();
    assert_eq!((stats.jobs.retried, stats.jobs.queued), (3, 0));
    assert_eq!((stats.flushes.total, stats.flushes.failed, stats.flushes.successful), (4, 4, 0));
    assert_eq!((stats.jobs.circuit, stats.jobs.circuit_opened), (Circuit::Closed, 0));
    on.gate.open_gate();
    assert_eq!(on.db.flush().unwrap().rows, 1);
    on.db.close().unwrap();
}

/// Each attempt that callers ask for by getting the job that waits is one of the four.
#[test]
fn callers_in_a_loop_do_not_use_up_the_attempts() {
    let on = watched();
    on.collection.upsert(document(1)).unwrap();
    on.gate.fail();
    let job = on.db.start(JobRequest::flush()).unwrap();
    assert_eq!(on.retried().0, 1);
    for _ in 0..10 {
        assert_eq!(on.db.start(JobRequest::flush()).unwrap().id(), job.id());
        on.pass(Duration::ZERO);
        // The first of them has it tried before its time, and the others wait with it.
        assert_eq!((job.record().state, job.record().attempts), (JobState::Retrying, 2));
    }
    on.gate.open_gate();
    on.pass(3 * SECOND);
    job.wait().unwrap();
    assert_eq!((job.record().state, job.record().attempts), (JobState::Completed, 3));
    on.db.close().unwrap();
}

/// Also if a caller has asked for the same, and the engine got the caller's.
#[test]
fn what_the_engine_asked_for_is_asked_for_again_after_thirty_seconds() {
    for by_caller in [false, true] {
        let on = watched();
        let rows = policy(|policy| policy.max_rows = Some(2));
        on.collection.set_flush_policy(rows).unwrap();
        on.collection.upsert(document(1)).unwrap();
        let name = || "c".to_owned();
        // A check, which looks at what there is, keeps the worker busy.
        let busy = Arc::new(Mutex::new(()));
        let looks = Arc::clone(&busy);
        on.gate.watch(move |what, path| {
            if what == "list" && path.starts_with("/db/data") {
                drop(looks.lock());
            }
        });
        let held = busy.lock().unwrap();
        let check = on.db.start(JobRequest::verify()).unwrap();
        until("the worker is busy", || on.db.stats().jobs.running == 1);
        let callers = by_caller.then(|| on.db.start(JobRequest::flush_collection("c")).unwrap());
        // The second row makes it due.
        on.collection.upsert(document(2)).unwrap();
        assert_eq!((on.db.stats().jobs.queued, on.db.stats().jobs.joined), (1, u64::from(by_caller)));
        let first = on.newest_flush();
        assert_eq!((&first.target, callers.is_some()), (&JobTarget::Collection(name()), by_caller));
        let asked = if by_caller { FlushReason::Manual } else { FlushReason::Rows };
        assert_eq!(first.reason, Some(asked));
        on.gate.fail();
        drop(held);
        check.wait().unwrap();
        // Four attempts, at most eight seconds apart: too few for the circuit.
        for _ in 0..3 {
            assert_eq!(on.retried().0, on.db.job(first.id).unwrap().attempts);
            on.pass(8 * SECOND);
        }
        assert_eq!(on.db.job(first.id).unwrap().state, JobState::Failed);
        assert_eq!(on.db.stats().jobs.circuit, Circuit::Closed);
        let again = on.db.jobs(100).unwrap().into_iter().find(|job| {
            job.id > first.id && job.kind == JobKind::Flush && job.target == JobTarget::Collection(name())
        });
        let again = again.expect("nobody asks for it any more");
        let reason = if by_caller { FlushReason::MemtableSize } else { FlushReason::Rows };
        assert_eq!((again.state, again.attempts, again.reason), (JobState::Queued, 0, Some(reason)));
        on.gate.open_gate();
        on.pass(29 * SECOND);
        assert_eq!(on.db.job(again.id).unwrap().state, JobState::Queued, "before its time");
        on.pass(SECOND);
        assert_eq!(on.db.job(again.id).unwrap().state, JobState::Completed);
        let collections = on.db.stats().collections;
        assert_eq!((collections[0].flushed_rows, collections[0].sealed_memtables), (2, 0));
        on.db.close().unwrap();
    }
}

/// What is sealed is flushed, whoever cancels what: at most one memtable of a collection takes writes, and policies look
/// at that one.
#[test]
fn what_is_sealed_is_flushed_although_its_flush_is_cancelled() {
    for by_caller in [false, true] {
        let (_, gate, db) = gated(|builder| builder.workers(1).max_workers(1));
        let (a, b) = (create(&db, "a"), create(&db, "b"));
        b.set_flush_policy(policy(|policy| policy.max_rows = Some(2))).unwrap();
        a.upsert(document(1)).unwrap();
        let held = gate.hold();
        let first = db.start(JobRequest::flush_collection("a")).unwrap();
        gate.wait_until_held();
        b.upsert(document(1)).unwrap();
        let callers = by_caller.then(|| db.start(JobRequest::flush_collection("b")).unwrap());
        b.upsert(document(2)).unwrap();
        let waiting = db.jobs(1).unwrap().remove(0);
        let asked = if by_caller { FlushReason::Manual } else { FlushReason::Rows };
        assert_eq!((waiting.state, waiting.reason), (JobState::Queued, Some(asked)));
        db.cancel_job(waiting.id).unwrap();
        assert_eq!(db.job(waiting.id).unwrap().state, JobState::Cancelled);
        if let Some(job) = callers {
            assert!(matches!(job.wait(), Err(Error::Cancelled)));
        }
        let next = db.jobs(1).unwrap().remove(0);
        assert!(next.id > waiting.id, "two rows are sealed, and nobody is asked to flush them");
        assert_eq!((next.state, &next.target), (JobState::Queued, &JobTarget::Collection("b".to_owned())));
        drop(held);
        first.wait().unwrap();
        until("what is sealed is flushed", || db.job(next.id).unwrap().state.is_final());
        let b = db.stats().collections.remove(1);
        assert_eq!((b.flushed_rows, b.sealed_memtables, b.memtable_rows), (2, 0, 0));
        // Of what is not sealed the policy goes on to decide.
        a.upsert(document(2)).unwrap();
        let held = gate.hold();
        let first = db.start(JobRequest::flush_collection("a")).unwrap();
        gate.wait_until_held();
        db.collection("b").unwrap().upsert(document(3)).unwrap();
        let unsealed = db.start(JobRequest::flush_collection("b")).unwrap();
        unsealed.cancel().unwrap();
        assert_eq!(db.stats().jobs.queued, 0);
        drop(held);
        first.wait().unwrap();
        db.close().unwrap();
    }
}

/// A database that was flushed for that reason, and whether the flush was a job with a record.
fn flushed_for(reason: FlushReason) -> (SimStorage, Database, bool) {
    let (disk, clock) = (SimStorage::new(), Arc::new(SimClock::default()));
    let gate = Gate::new(disk.clone());
    let new = || builder(gate.clone()).clock(clock.clone()).background(false);
    let written = |db: &Database, policy: FlushPolicy| {
        let collection = create(db, "c");
        collection.set_flush_policy(policy).unwrap();
        collection.upsert(document(1)).unwrap();
    };
    let limited = |set: fn(&mut FlushPolicy)| {
        let db = new().open().unwrap();
        written(&db, policy(set));
        clock.advance(SECOND);
        db.run_due_jobs().unwrap();
        db
    };
    let db = match reason {
        FlushReason::Rows => limited(|policy| policy.max_rows = Some(1)),
        FlushReason::Bytes => limited(|policy| policy.max_bytes = Some(1)),
        FlushReason::Age => limited(|policy| policy.max_age = Some(SECOND)),
        FlushReason::Idle => limited(|policy| policy.max_idle = Some(SECOND)),
        FlushReason::MemtableSize | FlushReason::WalSize => {
            let limited =
                if reason == FlushReason::WalSize { new().max_wal_bytes(1) } else { new().memtable_bytes(1) };
            let db = limited.open().unwrap();
            written(&db, FlushPolicy::manual());
            db
        }
        FlushReason::Probe => {
            let db = new().background(true).open().unwrap();
            written(&db, FlushPolicy::manual());
            gate.fail();
            let pass = |time| {
                clock.advance(time);
                assert!(clock.now() < 3600 * SECOND, "{:?}", db.stats().jobs);
                db.start(JobRequest::verify()).unwrap().wait().unwrap();
            };
            while db.stats().jobs.circuit_opened == 0 {
                match db.start(JobRequest::flush()) {
                    Ok(_) | Err(Error::CircuitOpen { .. }) => pass(SECOND),
                    Err(error) => panic!("{error}"),
                }
            }
            // No caller's flush waits any more, only those that are to find out.
            let is_callers =
                |job: &plimsoll::JobRecord| !job.state.is_final() && job.reason == Some(FlushReason::Manual);
            while db.jobs(100).unwrap().iter().any(is_callers) {
                pass(10 * SECOND);
            }
            gate.open_gate();
            while db.stats().jobs.circuit != Circuit::Closed {
                pass(SECOND);
            }
            db
        }
        FlushReason::Recovery => {
            let db = new().open().unwrap();
            written(&db, FlushPolicy::manual());
            db.collection("c").unwrap().upsert(document(2)).unwrap();
            let left = builder(disk.after_crash(CrashPolicy::LoseAll)).background(false).memtable_bytes(1);
            return (disk, left.open().unwrap(), false);
        }
        FlushReason::Manual | FlushReason::Checkpoint | FlushReason::Close => {
            let db = new().open().unwrap();
            written(&db, FlushPolicy::manual());
            match reason {
                FlushReason::Manual => drop(db.flush().unwrap()),
                FlushReason::Close => db.close().unwrap(),
                _ => drop(db.start(JobRequest::backup("/copy")).unwrap().wait().unwrap()),
            }
            return (disk, db, reason != FlushReason::Checkpoint);
        }
        other => panic!("nothing here is flushed for {other}"),
    };
    (disk, db, true)
}

#[test]
fn each_reason_is_told_of_the_flushes_that_have_it() {
    for reason in FlushReason::ALL.iter().copied() {
        let (disk, db, has_record) = flushed_for(reason);
        let flush = db.stats().last_flush.unwrap_or_else(|| panic!("nothing was flushed for {reason}"));
        assert_eq!((flush.reason, flush.rows >= 1), (reason, true));
        let records = match reason {
            // Closing ends with the record: the next opening reads it.
            FlushReason::Close => builder(disk).background(false).open().unwrap().jobs(100).unwrap(),
            _ => db.jobs(100).unwrap(),
        };
        let found = records.iter().find(|job| job.kind == JobKind::Flush && job.reason == Some(reason));
        assert_eq!(found.is_some(), has_record, "{reason}: {records:?}");
        let expected = match reason {
            FlushReason::Manual => JobPriority::High,
            FlushReason::Close => JobPriority::Critical,
            FlushReason::Age | FlushReason::Idle => JobPriority::Low,
            _ => JobPriority::Normal,
        };
        assert_eq!(found.map_or(expected, |job| job.priority), expected, "{reason}");
        assert_eq!(found.map_or(JobState::Completed, |job| job.state), JobState::Completed, "{reason}");
        db.close().unwrap();
    }
}

#[test]
fn listeners_are_told_each_step_once_and_in_order() {
    let (disk, clock) = (SimStorage::new(), Arc::new(SimClock::default()));
    let gate = Gate::new(disk);
    let db = builder(gate.clone()).clock(clock.clone()).background(false).open().unwrap();
    let collection = create(&db, "c");
    let (told, events) = mpsc::channel::<JobEvent>();
    let subscription = db.subscribe(move |event| drop(told.send(event.clone()))).unwrap();
    let next = |job: plimsoll::JobId, kind| {
        let event = events.recv_timeout(PATIENCE).unwrap();
        assert_eq!((event.id, event.kind, event.target), (job, kind, JobTarget::Database));
        assert_eq!(event.at, SystemTime::UNIX_EPOCH + clock.unix_time());
        event.what
    };
    let begins = |job, kind| {
        assert_eq!(next(job, kind), JobEventKind::Queued);
        assert_eq!(next(job, kind), JobEventKind::Started { attempt: 1 });
    };
    let phases = |job, names: &[&'static str]| {
        names.iter().for_each(|name| assert_eq!(next(job, JobKind::Flush), JobEventKind::Phase(name)));
    };
    let ended = |state, error: Option<String>| JobEventKind::Finished { state, error };
    clock.advance(SECOND);
    let mut batch = WriteBatch::new();
    for key in 0..1500 {
        batch.upsert(document(key));
    }
    collection.write(&batch).unwrap();
    let job = db.start(JobRequest::flush()).unwrap().id();
    begins(job, JobKind::Flush);
    phases(job, &["wal_drain", "shard_apply"]);
    for done in [0, 1000] {
        assert_eq!(next(job, JobKind::Flush), JobEventKind::Progress { done, total: 1500 });
    }
    phases(job, &["file_sync", "manifest_publish", "wal_advance", "validation"]);
    assert_eq!(next(job, JobKind::Flush), ended(JobState::Completed, None));
    // One with nothing to do, one that fails, and another kind of job.
    clock.advance(SECOND);
    let job = db.start(JobRequest::flush()).unwrap().id();
    begins(job, JobKind::Flush);
    phases(job, &["wal_drain", "shard_apply"]);
    assert_eq!(next(job, JobKind::Flush), ended(JobState::Skipped, None));
    collection.upsert(document(1)).unwrap();
    gate.fail();
    let failed = db.start(JobRequest::flush()).unwrap();
    let error = failed.wait().unwrap_err().to_string();
    begins(failed.id(), JobKind::Flush);
    phases(failed.id(), &["wal_drain", "shard_apply"]);
    assert_eq!(next(failed.id(), JobKind::Flush), ended(JobState::Failed, Some(error)));
    gate.open_gate();
    let job = db.start(JobRequest::verify()).unwrap().id();
    begins(job, JobKind::Verify);
    assert_eq!(next(job, JobKind::Verify), ended(JobState::Completed, None));
    assert!(events.try_recv().is_err(), "more was told than has happened");
    drop(subscription);
    // What the listener held is gone with it, and nothing more is told.
    db.flush().unwrap();
    assert!(matches!(events.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected)));
    assert_eq!(db.stats().jobs.events_missed, 0);
    db.close().unwrap();
}

/// A flush says how many rows are on their way while it writes them.
#[test]
fn a_handle_tells_how_far_its_flush_has_come() {
    let (_, gate, db) = gated(|builder| builder);
    let collection = create(&db, "c");
    let mut batch = WriteBatch::new();
    for key in 0..2500 {
        batch.upsert(document(key));
    }
    collection.write(&batch).unwrap();
    let handle = Arc::new(OnceLock::<JobHandle>::new());
    let (seen, looking) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&handle));
    let looks = Arc::clone(&seen);
    gate.watch(move |what, path| {
        if what == "create" && path.starts_with("/db/data") {
            looks.lock().unwrap().extend(looking.get().map(JobHandle::progress));
        }
    });
    let held = gate.hold();
    let job = db.start(JobRequest::flush()).unwrap();
    gate.wait_until_held();
    assert_eq!(job.progress(), (0, 0), "nothing is known yet");
    assert!(handle.set(job.clone()).is_ok());
    drop(held);
    job.wait().unwrap();
    // The second file is begun when the rows of all documents are known.
    assert_eq!(*seen.lock().unwrap(), [(2000, 2500)]);
    db.close().unwrap();
}

/// The writes of a damaged collection stay in the log, and whoever wants them flushed is told, also if the flush is one
/// that the engine has begun.
#[test]
fn who_joins_a_flush_of_the_engine_is_told_of_a_damaged_collection() {
    let disk = SimStorage::new();
    let gate = Gate::new(disk.clone());
    let open = |bytes| builder(gate.clone()).workers(1).max_workers(1).max_wal_bytes(bytes).open().unwrap();
    let db = open(1 << 30);
    let (bad, sound) = (create(&db, "bad"), create(&db, "sound"));
    bad.upsert(document(1)).unwrap();
    db.flush().unwrap();
    bad.upsert(document(2)).unwrap();
    drop((bad, sound, db));
    let file =
        disk.paths().into_iter().find(|path| path.extension().is_some_and(|of| of == "posting")).unwrap();
    disk.delete(&file).unwrap();
    let db = open(4096);
    let sound = db.collection("sound").unwrap();
    let told = db.flush().unwrap_err();
    assert!(told.is_corruption(), "{told}");
    sound.set_flush_policy(policy(|policy| policy.max_rows = Some(1))).unwrap();
    let held = gate.hold();
    sound.upsert(document(1)).unwrap();
    gate.wait_until_held();
    // The log is full with it: everything is to be flushed; and then there is a row more.
    sound.upsert(document(2).text("x".repeat(5000))).unwrap();
    let job = db.start(JobRequest::flush()).unwrap();
    assert_eq!(job.record().reason, Some(FlushReason::WalSize), "the engine's own");
    sound.upsert(document(3)).unwrap();
    let of_sound = db.start(JobRequest::flush_collection("sound")).unwrap();
    assert_eq!(of_sound.record().reason, Some(FlushReason::Rows), "the engine's own");
    drop(held);
    assert!(of_sound.wait().is_ok(), "all of its writes are in files");
    let told = job.wait().unwrap_err();
    assert!(told.is_corruption() && told.to_string().contains("posting"), "{told}");
    assert!(job.wait_for(PATIENCE).unwrap_err().is_corruption());
    // What the engine wanted is done, by this flush or the other one.
    assert!(matches!(job.record().state, JobState::Completed | JobState::Skipped), "{job:?}");
    db.close().unwrap();
}

/// How many writes of what was counted are in the log, on disk, seen and in files.
#[test]
fn the_four_marks_say_how_far_each_write_has_come() {
    let disk = SimStorage::new();
    let db = builder(disk).background(false).buffer_records(1 << 20).open().unwrap();
    let collection = create(&db, "c");
    let marks = || {
        let lsn = db.stats().lsn;
        [lsn.appended, lsn.durable, lsn.applied, lsn.flushed]
    };
    let first = collection.upsert(document(1)).unwrap();
    let [appended, durable, applied, flushed] = marks();
    assert_eq!([appended, durable, applied], [first; 3]);
    assert!(flushed < first);
    let mut batch = WriteBatch::new();
    batch.upsert(document(2));
    let second = collection.write_with(&batch, Durability::Buffered).unwrap();
    assert_eq!(marks(), [second, first, second, flushed]);
    db.sync().unwrap();
    assert_eq!(marks(), [second, second, second, flushed]);
    db.flush().unwrap();
    // Two records of the job come behind it: that it begins, before the seal, and that it has ended, which is not synced.
    let [begins, ended] = [1, 2].map(|n| Lsn(second.0 + n));
    assert_eq!(marks(), [ended, begins, ended, begins]);
    db.close().unwrap();
}

#[test]
fn the_log_says_what_was_written_to_it_and_the_opening_what_it_read() {
    let disk = SimStorage::new();
    let db = builder(disk.clone()).background(false).buffer_records(1 << 20).wal_segment_bytes(4096);
    let db = db.open().unwrap();
    let log = || {
        let wal = db.stats().wal;
        let files = disk.paths().into_iter().filter(|path| path.starts_with("/db/wal"));
        let lengths: Vec<_> = files.map(|path| disk.bytes(&path).unwrap().len() as u64).collect();
        assert_eq!((wal.segments, wal.disk_bytes), (lengths.len() as u64, lengths.iter().sum()), "{wal:?}");
        [wal.batches, wal.groups, wal.syncs, wal.bytes_appended]
    };
    let (a, b) = (create(&db, "a"), create(&db, "b"));
    assert_eq!(log(), [0; 4], "nothing was written");
    a.upsert(document(1)).unwrap();
    let [batches, groups, syncs, bytes] = log();
    // The log's first segment is begun with it, and synced, too.
    assert_eq!([batches, groups, syncs], [1, 1, 2]);
    assert!((8..1024).contains(&bytes), "two floats and what belongs to them: {bytes}");
    // The same once more has the same length.
    a.upsert(document(1)).unwrap();
    assert_eq!(log(), [2, 2, 3, 2 * bytes]);
    let batch = || {
        let mut batch = WriteBatch::new();
        batch.upsert(document(2));
        batch
    };
    db.write(&[(&a, batch()), (&b, batch())]).unwrap();
    let [.., all] = log();
    assert_eq!(log(), [3, 3, 4, all]);
    for n in 1..=2 {
        a.write_with(&batch(), Durability::Buffered).unwrap();
        assert_eq!(log(), [3 + n, 3 + n, 4, all + n * bytes], "a buffered write is not synced");
    }
    db.sync().unwrap();
    assert_eq!(log(), [5, 5, 5, all + 2 * bytes]);
    db.sync().unwrap();
    assert_eq!(log(), [5, 5, 5, all + 2 * bytes], "there is nothing to sync");
    while db.stats().wal.segments < 3 {
        a.upsert(document(1)).unwrap();
    }
    let [batches, .., appended] = log();
    let again = builder(disk.after_crash(CrashPolicy::LoseAll)).background(false).open().unwrap();
    let stats = again.stats().recovery;
    assert_eq!((stats.records, stats.orphans_removed), (batches, 0));
    // What heads a group in the log is no record's.
    assert!(stats.wal_bytes <= appended && stats.wal_bytes * 2 > appended, "{stats:?}, {appended}");
    assert!(Duration::ZERO < stats.replay && stats.replay <= stats.total, "{stats:?}");
    db.close().unwrap();
}

#[test]
fn compactions_are_counted_that_did_something_and_that_failed() {
    let disk = SimStorage::new();
    let gate = Gate::new(disk);
    let db = builder(gate.clone()).background(false).open().unwrap();
    let collection = create(&db, "c");
    let counted = || (db.stats().compactions, db.stats().failed_compactions);
    db.compact().unwrap();
    assert_eq!(counted(), (0, 0), "there was nothing to do");
    for key in 0..4 {
        collection.upsert(document(key % 2)).unwrap();
        db.flush().unwrap();
    }
    gate.fail();
    for failed in 1..=2 {
        assert!(db.compact().is_err());
        assert_eq!(counted(), (0, failed));
    }
    gate.open_gate();
    assert!(db.compact().unwrap().documents_dropped > 0);
    // The posting files are merged, and the sections of vectors.
    assert_eq!(counted(), (2, 2));
    let flushes = db.stats().flushes;
    assert_eq!((flushes.successful, flushes.failed), (4, 0), "a compaction is no flush");
    db.close().unwrap();
}
