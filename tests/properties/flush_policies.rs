//! Flush policies: each limit flushes when it is reached and not before, by the reason it says; and writers are held back
//! gradually when flushes can not keep up.

use std::sync::Arc;
use std::time::Duration;

use plimsoll::{
    AdaptiveInterval, Collection, CollectionConfig, Database, Document, Error, FlushPolicy, FlushReason,
    JobKind, Metric, ReadOnlyDatabase,
};
use plimsoll_sim::{SimClock, SimStorage};

use crate::flush_jobs::until;
use crate::gate::Gate;

const SECOND: Duration = Duration::from_secs(1);

/// A database without threads, whose time a test lets pass.
struct Fixture {
    disk: SimStorage,
    clock: Arc<SimClock>,
    db: Database,
    collection: Collection,
}

fn fixture(policy: FlushPolicy) -> Fixture {
    fixture_by(SimClock::default(), policy)
}

/// One that measures how long its flushes take.
fn measuring(policy: FlushPolicy) -> Fixture {
    fixture_by(SimClock::ticking(Duration::from_micros(1)), policy)
}

fn fixture_by(clock: SimClock, policy: FlushPolicy) -> Fixture {
    let (disk, clock) = (SimStorage::new(), Arc::new(clock));
    let db = Database::builder("/db").storage(Arc::new(disk.clone())).clock(clock.clone()).background(false);
    let db = db.open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    collection.set_flush_policy(policy).unwrap();
    Fixture { disk, clock, db, collection }
}

impl Fixture {
    fn write(&self, key: u64) {
        self.collection.upsert(Document::new(key).vector([key as f32, 1.0])).unwrap();
    }

    fn flushes(&self) -> u64 {
        self.db.stats().flushes.successful
    }

    fn last_reason(&self) -> FlushReason {
        self.db.stats().last_flush.unwrap().reason
    }

    /// Lets time pass in small steps, as a thread would see it.
    fn pass(&self, time: Duration) {
        self.pass_in_steps(time, Duration::from_millis(50));
    }

    fn pass_in_steps(&self, time: Duration, step: Duration) {
        for _ in 0..time.as_millis() / step.as_millis() {
            self.clock.advance(step);
            self.db.run_due_jobs().unwrap();
        }
    }
}

fn policy(set: impl FnOnce(&mut FlushPolicy)) -> FlushPolicy {
    let mut policy = FlushPolicy::manual();
    set(&mut policy);
    policy
}

#[test]
fn rows_and_deletions_count_towards_max_rows() {
    let on = fixture(policy(|policy| policy.max_rows = Some(10)));
    for key in 0..9 {
        on.write(key);
        assert_eq!(on.flushes(), 0);
    }
    on.collection.delete(3).unwrap();
    assert_eq!((on.flushes(), on.last_reason()), (1, FlushReason::Rows));
    let stats = on.db.stats();
    assert_eq!((stats.collections[0].memtable_rows, stats.collections[0].flushed_documents), (0, 8));
}

#[test]
fn a_bulk_load_is_flushed_by_memory_and_time_only() {
    let (disk, clock) = (SimStorage::new(), Arc::new(SimClock::default()));
    let builder = Database::builder("/db").storage(Arc::new(disk)).clock(clock.clone()).background(false);
    let db = builder.bulk_load(true).memtable_bytes(1 << 20).open().unwrap();
    let limits = policy(|policy| {
        policy.max_rows = Some(10);
        policy.max_bytes = Some(1 << 10);
        policy.max_age = Some(Duration::from_secs(60));
    });
    let rows = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    rows.set_flush_policy(limits).unwrap();
    let flushes = || db.stats().flushes.successful;
    let last = || db.stats().last_flush.unwrap().reason;
    for key in 0..100 {
        rows.upsert(Document::new(key).vector([1.0, 2.0])).unwrap();
    }
    assert_eq!(flushes(), 0);
    clock.advance(Duration::from_secs(61));
    db.run_due_jobs().unwrap();
    assert_eq!((flushes(), last()), (1, FlushReason::Age));
    rows.upsert(Document::new(1).text("a text".repeat(1 << 18)).vector([1.0, 2.0])).unwrap();
    assert_eq!((flushes(), last()), (2, FlushReason::MemtableSize));
}

#[test]
fn max_bytes_flushes_at_that_many() {
    let on = fixture(policy(|policy| policy.max_bytes = Some(1 << 20)));
    let text = "a text".repeat(1 << 14);
    let mut most = 0;
    for key in 0..100_u64 {
        on.collection.upsert(Document::new(key).text(&text[..]).vector([1.0, 2.0])).unwrap();
        if on.flushes() == 1 {
            assert_eq!(on.last_reason(), FlushReason::Bytes);
            assert!((500_000..1 << 20).contains(&most), "flushed after {most} bytes");
            return;
        }
        most = on.db.stats().collections[0].memtable_bytes;
    }
    panic!("never flushed");
}

#[test]
fn ages_fire_within_a_twentieth_for_an_hour() {
    for seconds in [7, 60, 300] {
        let interval = SECOND * seconds;
        let on = fixture(policy(|policy| policy.max_age = Some(interval)));
        let (mut fired, mut key) = (Vec::new(), 0);
        let mut since = None;
        while on.clock_now() < 3600 * SECOND {
            // Somebody writes all the time: what counts is the oldest write.
            on.write(key);
            key = (key + 1) % 100;
            let now = on.clock_now();
            let first = *since.get_or_insert(now);
            on.pass_in_steps(interval / 50, interval / 100);
            if on.flushes() > fired.len() as u64 {
                assert_eq!(on.last_reason(), FlushReason::Age);
                let flush = on.db.jobs(1).unwrap().remove(0);
                let at = flush.started_at.unwrap().duration_since(on.epoch()).unwrap();
                fired.push(at - first);
                since = None;
            }
        }
        let expected = 3600 / u64::from(seconds);
        assert!(fired.len() as u64 * 100 >= expected * 93, "{} of {expected} in an hour", fired.len());
        for took in fired {
            let error = took.as_secs_f64() / interval.as_secs_f64() - 1.0;
            assert!(error.abs() < 0.05, "{interval:?} took {took:?}");
        }
    }
}

impl Fixture {
    fn clock_now(&self) -> Duration {
        use plimsoll::Clock as _;
        self.clock.now()
    }

    /// When the clock began, by its calendar.
    fn epoch(&self) -> std::time::SystemTime {
        use plimsoll::Clock as _;
        std::time::SystemTime::UNIX_EPOCH + self.clock.unix_time() - self.clock.now()
    }
}

#[test]
fn idle_flushes_only_when_nobody_writes() {
    let on = fixture(policy(|policy| policy.max_idle = Some(10 * SECOND)));
    for key in 0..20 {
        on.write(key);
        on.pass(9 * SECOND);
        assert_eq!(on.flushes(), 0, "somebody wrote nine seconds ago");
    }
    on.pass(SECOND / 2);
    assert_eq!(on.flushes(), 0);
    on.pass(SECOND);
    assert_eq!((on.flushes(), on.last_reason()), (1, FlushReason::Idle));
    on.pass(100 * SECOND);
    assert_eq!(on.flushes(), 1, "there is nothing more to flush");
}

#[test]
fn without_limits_nothing_is_flushed_but_by_hand() {
    let on = fixture(FlushPolicy::manual());
    for key in 0..20_000 {
        on.write(key);
    }
    on.pass(1000 * SECOND);
    assert_eq!(on.flushes(), 0);
    assert_eq!(on.collection.flush().unwrap().rows, 20_000);
}

#[test]
fn the_default_limits_are_the_documented_ones() {
    let on = fixture(FlushPolicy::default());
    for key in 0..9_999 {
        on.write(key);
    }
    assert_eq!(on.flushes(), 0);
    on.write(9_999);
    assert_eq!((on.flushes(), on.last_reason()), (1, FlushReason::Rows));
    on.write(1);
    on.pass(59 * SECOND);
    assert_eq!(on.flushes(), 1);
    on.pass(2 * SECOND);
    assert_eq!((on.flushes(), on.last_reason()), (2, FlushReason::Age));
}

#[test]
fn a_policy_is_kept_and_is_the_collections_own() {
    let wanted = policy(|policy| {
        policy.max_rows = Some(3);
        policy.max_idle = Some(Duration::from_millis(1500));
        policy.adaptive = Some(AdaptiveInterval { min: SECOND, max: 9 * SECOND });
    });
    let on = fixture(wanted.clone());
    let other = on.db.create_collection("other", CollectionConfig::new(2, Metric::L2)).unwrap();
    assert_eq!(other.flush_policy().unwrap(), FlushPolicy::default());
    on.db.close().unwrap();
    let db = Database::builder("/db").storage(Arc::new(on.disk.clone())).background(false).open().unwrap();
    let collection = db.collection("c").unwrap();
    assert_eq!(collection.flush_policy().unwrap(), wanted);
    for key in 0..3_u64 {
        collection.upsert(Document::new(key).vector([1.0, 2.0])).unwrap();
    }
    assert_eq!(db.stats().last_flush.unwrap().reason, FlushReason::Rows);
    let stats = db.stats().collections.remove(0);
    assert_eq!((stats.flush_policy, stats.name), (wanted.clone(), "c".to_owned()));
    db.close().unwrap();
    let storage = Arc::new(on.disk.clone());
    let reader = ReadOnlyDatabase::open_in(std::path::Path::new("/db"), storage, false).unwrap();
    assert_eq!(reader.stats().collections[0].flush_policy, wanted);
}

#[test]
fn the_adaptive_interval_is_shown_and_stays_in_its_bounds() {
    let (min, max) = (2 * SECOND, 40 * SECOND);
    let on = measuring(policy(|policy| policy.adaptive = Some(AdaptiveInterval { min, max })));
    let interval = || on.db.stats().collections[0].flush_interval.unwrap();
    assert_eq!(interval(), min, "nothing is measured yet");
    // A row a second: a thousand of them would take longer than the longest interval.
    let mut flushed = Vec::new();
    for key in 0..150 {
        on.write(key);
        on.pass(SECOND);
        if on.flushes() > flushed.len() as u64 {
            assert_eq!(on.last_reason(), FlushReason::Age);
            flushed.push(key);
            assert!((min..=max).contains(&interval()));
        }
    }
    assert_eq!(interval(), max);
    assert!(flushed[0] <= 2 && flushed.len() < 8, "{flushed:?}");
    // A thousand rows a second: as often as it may be.
    for round in 0..30 {
        for key in 0..1000 {
            on.write(round * 1000 + key);
        }
        on.pass(SECOND);
    }
    assert_eq!(interval(), min);
}

#[test]
fn what_was_unflushed_at_a_crash_ages_again() {
    let on = fixture(policy(|policy| policy.max_age = Some(5 * SECOND)));
    on.write(1);
    on.db.sync().unwrap();
    let after = on.disk.after_crash(plimsoll_sim::CrashPolicy::LoseAll);
    let db = Database::builder("/db").storage(Arc::new(after)).clock(on.clock.clone()).background(false);
    let db = db.open().unwrap();
    db.run_due_jobs().unwrap();
    assert_eq!(db.stats().flushes.total, 0);
    on.clock.advance(5 * SECOND);
    db.run_due_jobs().unwrap();
    assert_eq!(db.stats().last_flush.unwrap().reason, FlushReason::Age);
}

#[test]
fn limits_of_time_fire_by_themselves() {
    let db = Database::builder("/db").storage(Arc::new(SimStorage::new())).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    collection.set_flush_policy(policy(|policy| policy.max_age = Some(SECOND / 10))).unwrap();
    for round in 1..=3 {
        collection.upsert(Document::new(round).vector([1.0, 2.0])).unwrap();
        until("it is flushed", || db.stats().flushes.successful >= round);
        assert_eq!(db.stats().last_flush.unwrap().reason, FlushReason::Age);
    }
    db.close().unwrap();
}

/// What was old enough is flushed although the log's thread does nothing but sync.
#[test]
fn limits_of_time_fire_while_the_log_is_slow() {
    let disk = SimStorage::new();
    let builder = Database::builder("/db").storage(Arc::new(disk.clone())).buffer_records(1);
    let db = builder.open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    collection.set_flush_policy(policy(|policy| policy.max_age = Some(SECOND / 10))).unwrap();
    let held = disk.hold_syncs();
    let mut batch = plimsoll::WriteBatch::new();
    batch.upsert(Document::new(1).vector([1.0, 2.0]));
    collection.write_with(&batch, plimsoll::Durability::Buffered).unwrap();
    held.wait_for_one();
    until("there is a job", || !db.jobs(1).unwrap().is_empty());
    let job = db.jobs(1).unwrap().remove(0);
    assert_eq!((job.kind, job.reason), (JobKind::Flush, Some(FlushReason::Age)));
    drop(held);
    until("it is flushed", || db.stats().flushes.successful > 0);
    db.close().unwrap();
}

/// A single sealed memtable may wait, and two: then the third writer is slowed, and the fourth memtable stops them.
#[test]
fn writers_are_slowed_before_they_are_stopped() {
    let gate = Gate::new(SimStorage::new());
    let deadline = Duration::from_millis(100);
    let builder = Database::builder("/db").storage(Arc::new(gate.clone())).max_sealed(3);
    let db = builder.stall_deadline(deadline).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    collection.set_flush_policy(policy(|policy| policy.max_rows = Some(2))).unwrap();
    let write = |key: u64| collection.upsert(Document::new(key).vector([key as f32, 1.0]));
    write(0).unwrap();
    write(1).unwrap();
    until("it is flushed", || db.stats().flushes.successful > 0);
    assert_eq!(db.stats().stalls, plimsoll::StallStats::default());
    let _held = gate.hold();
    let mut key = 2;
    let stalled = loop {
        match write(key) {
            Ok(_) => key += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(stalled, Error::Stalled(_)) && stalled.is_retryable(), "{stalled}");
    let stalls = db.stats().stalls;
    assert_eq!(stalls.stopped, 1);
    assert!(stalls.stopped_time >= deadline, "{stalls:?}");
    // With two and with three memtables that wait, of two rows each.
    assert!((2..=4).contains(&stalls.slowed) && stalls.slowed_time > Duration::ZERO, "{stalls:?}");
    assert_eq!(collection.count().unwrap(), key, "nothing that was accepted is missing, or there twice");
    gate.open_gate();
    db.flush().unwrap();
    write(key).unwrap();
    db.close().unwrap();
    assert_eq!(collection.count().unwrap(), key + 1);
}

/// One memtable takes writes and so many wait behind it, no more and no fewer.
#[test]
fn as_many_memtables_wait_as_may() {
    for most in [1, 2, 5] {
        let gate = Gate::new(SimStorage::new());
        let builder = Database::builder("/db").storage(Arc::new(gate.clone())).max_sealed(most);
        let db = builder.stall_deadline(Duration::from_millis(1)).open().unwrap();
        let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
        collection.set_flush_policy(policy(|policy| policy.max_rows = Some(1))).unwrap();
        let write = |key: u64| collection.upsert(Document::new(key).vector([key as f32, 1.0]));
        write(0).unwrap();
        until("it is flushed", || db.stats().flushes.successful > 0);
        let held = gate.hold();
        let accepted = (1..20).take_while(|key| write(*key).is_ok()).count();
        let stats = db.stats();
        assert_eq!((accepted, stats.collections[0].sealed_memtables), (most + 1, most + 1));
        // Those that found more than half of them waiting were slowed, and the last one was stopped.
        let slowed = (0..=most).filter(|waiting| waiting * 2 > most).count() as u64;
        assert_eq!((stats.stalls.slowed, stats.stalls.stopped), (slowed, 1));
        assert!(stats.stalls.slowed_time > Duration::ZERO && stats.stalls.slowed_time < 60 * SECOND);
        assert!(stats.stalls.stopped_time >= Duration::from_millis(1));
        drop(held);
        db.close().unwrap();
        assert_eq!(collection.count().unwrap(), accepted as u64 + 1);
    }
}

/// Everything is flushed as soon as so much was logged since the last time.
#[test]
fn the_log_is_flushed_when_it_has_reached_its_limit() {
    let limit = 64 << 10;
    let builder = Database::builder("/db").storage(Arc::new(SimStorage::new())).background(false);
    let db = builder.max_wal_bytes(limit).open().unwrap();
    let collections = ["a", "b"].map(|name| {
        let collection = db.create_collection(name, CollectionConfig::new(2, Metric::L2)).unwrap();
        collection.set_flush_policy(FlushPolicy::manual()).unwrap();
        collection
    });
    let (mut since, mut key) = (0, 0_u64);
    for flushes in 1..=3 {
        let before = loop {
            let logged = db.stats().wal.bytes_appended;
            let document = Document::new(key).text("x".repeat(1000)).vector([1.0, 2.0]);
            collections[key as usize % 2].upsert(document).unwrap();
            key += 1;
            if db.stats().flushes.successful == flushes {
                break logged;
            }
        };
        let flush = db.stats().last_flush.unwrap();
        assert_eq!((flush.reason, flush.collections), (FlushReason::WalSize, 2));
        // The write that went beyond it is the one that flushes; the jobs' own records are logged, too.
        let room = limit - (before - since);
        assert!(before - since <= limit && room < 2000, "flushed with {room} bytes to go");
        since = before + 1000;
        assert!(db.stats().collections.iter().all(|collection| collection.memtable_rows == 0));
    }
    db.close().unwrap();
}

/// Each flush writes records of itself to the log, which would make it due again for ever.
#[test]
fn records_of_jobs_alone_are_no_reason_to_flush() {
    let builder = Database::builder("/db").storage(Arc::new(SimStorage::new())).workers(1).max_workers(1);
    let db = builder.max_wal_bytes(1).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    collection.set_flush_policy(FlushPolicy::manual()).unwrap();
    for flushes in 1..=2 {
        collection.upsert(Document::new(flushes).vector([1.0, 2.0])).unwrap();
        until("it is flushed", || db.stats().flushes.successful == flushes);
        for _ in 0..3 {
            db.start(plimsoll::JobRequest::verify()).unwrap().wait().unwrap();
        }
        let jobs = db.jobs(100).unwrap();
        let flushed = jobs.iter().filter(|job| job.kind == JobKind::Flush);
        assert!(flushed.clone().all(|job| job.reason == Some(FlushReason::WalSize)));
        assert_eq!(flushed.count() as u64, flushes);
    }
    db.close().unwrap();
}

#[test]
fn every_counter_of_flushes_says_what_happened() {
    let on = measuring(FlushPolicy::manual());
    let disk = &on.disk;
    let (mut rows, mut bytes) = (0, 0);
    for round in 0..4 {
        for key in 0..10 {
            on.write(round * 10 + key);
        }
        if round == 2 {
            disk.fail_next(plimsoll_sim::OperationKind::Rename, plimsoll_sim::Failure::errno(5), 1);
            assert!(on.db.flush().is_err());
        }
        let stats = on.db.flush().unwrap();
        rows += stats.rows;
        bytes += stats.bytes_written;
    }
    // Nothing to flush is no flush.
    assert!(on.db.flush().unwrap().is_empty());
    let totals = on.db.stats().flushes;
    assert_eq!((totals.total, totals.successful, totals.failed, totals.timed_out), (5, 4, 1, 0));
    assert_eq!((totals.rows, totals.bytes, rows), (40, bytes, 40));
    let names: Vec<_> = totals.phases.iter().map(|(name, _)| *name).collect();
    let expected = ["wal_drain", "shard_apply", "file_sync", "manifest_publish", "wal_advance", "validation"];
    assert_eq!(names, expected);
    let mut of_phases = Duration::ZERO;
    for (name, times) in totals.phases.iter().chain([("total", totals.times)].iter()) {
        assert_eq!((times.count, times.buckets.iter().sum::<u64>()), (4, 4), "{name}");
        assert!(times.min <= times.average() && times.average() <= times.max, "{name}: {times:?}");
        assert!(times.total >= times.max && times.max > Duration::ZERO, "{name}");
        if *name != "total" {
            of_phases += times.total;
        }
    }
    assert!(of_phases <= totals.times.total);
    let jobs = on.db.stats().jobs;
    assert_eq!((jobs.submitted, jobs.joined, jobs.queued, jobs.running, jobs.workers), (6, 0, 0, 0, 0));
    assert_eq!((jobs.refused, jobs.retried, jobs.waits, jobs.events_missed), (0, 0, 0, 0));
    let flushes = on.db.jobs(100).unwrap();
    assert!(flushes.len() == 6 && flushes.iter().all(|job| job.kind == JobKind::Flush));
    on.db.close().unwrap();
}
