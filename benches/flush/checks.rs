//! The old ways lose, hide and repeat rows as they were measured to, and the harness sees it: times are scaled down.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use plimsoll::Durability;
use tempfile::TempDir;

use crate::buffered_engine::{self, BufferedEngine, EngineStats};
use crate::disk::{Outage, SlowDisk};
use crate::flush_manager::{self, FlushManager, Priority};
use crate::load::{self, Fate, Load, rows};
use crate::ours::Plimsoll;
use crate::report::{Kind, Outcome, Percentiles, claims};
use crate::single_lock::SingleLock;
use crate::sink::Sink;
use crate::system::{Counters, Row, System};

/// One second of the originals.
const SECOND: Duration = Duration::from_millis(20);

pub(crate) fn all() -> Vec<Trial> {
    let check = |name: &str, run: fn()| {
        let run = move || -> Result<(), Failed> {
            run();
            Ok(())
        };
        Trial::test(name, run)
    };
    vec![
        check("single_lock::everything_waits_for_a_flush", single_lock_blocks),
        check("single_lock::a_failed_flush_keeps_its_rows", single_lock_keeps),
        check("flush_manager::an_outage_longer_than_the_retries_loses_5_of_5", manager_loses_in_an_outage),
        check("flush_manager::a_shorter_outage_loses_nothing", manager_survives_a_short_outage),
        check("flush_manager::a_shutdown_loses_23_of_23", manager_loses_its_buffer_at_shutdown),
        check("flush_manager::a_shutdown_loses_what_is_queued", manager_loses_its_queue_at_shutdown),
        check("flush_manager::16_rows_are_written_for_5", manager_repeats_what_it_gave_up),
        check(
            "flush_manager::a_sync_longer_than_the_timeout_stores_5_rows_4_times",
            manager_repeats_slow_syncs,
        ),
        check("flush_manager::a_full_queue_blocks_readers", manager_blocks_readers),
        check("flush_manager::the_most_urgent_is_served_last", manager_serves_in_reverse),
        check("flush_manager::what_is_under_way_is_invisible", manager_hides),
        check("buffered_engine::a_failed_batch_loses_100_of_1000", engine_loses_a_batch),
        check("buffered_engine::flush_returns_with_0_of_500_stored", engine_flush_does_not_wait),
        check("buffered_engine::the_timer_flushes", engine_timer_flushes),
        check("buffered_engine::what_is_buffered_is_invisible", engine_hides),
        check("disk::the_log_survives_an_outage", log_survives),
        check("disk::a_hanging_disk_goes_on", disk_hangs),
        check("load::plimsoll_loses_and_hides_nothing", plimsoll_loses_nothing),
        check("load::what_waits_counts_from_when_it_was_due", latency_counts_from_due),
        check("load::fates_are_counted", fates_are_counted),
        check("report::claims_are_judged", claims_are_judged),
    ]
}

/// A slow disk, and a sink on it.
struct Bench {
    dir: TempDir,
    disk: SlowDisk,
    sink: Arc<Sink>,
}

impl Bench {
    fn new(sync_time: Duration) -> Self {
        Self::with_row_time(sync_time, Duration::ZERO)
    }

    fn with_row_time(sync_time: Duration, row_time: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = SlowDisk::new(sync_time);
        let sink = Sink::with_row_time(disk.clone(), dir.path(), row_time).unwrap();
        Self { dir, disk, sink }
    }

    fn manager(&self, change: impl FnOnce(&mut flush_manager::Options)) -> FlushManager {
        let mut options = flush_manager::Options {
            timeout: 30 * SECOND,
            second: SECOND,
            shutdown_wait: 30 * SECOND,
            ..flush_manager::Options::default()
        };
        change(&mut options);
        FlushManager::new(Arc::clone(&self.sink), options)
    }

    fn engine(&self, flush_interval: Duration) -> BufferedEngine {
        let options = buffered_engine::Options { flush_interval, ..buffered_engine::Options::default() };
        BufferedEngine::new(Arc::clone(&self.sink), options)
    }

    /// Waits until so many rows were written, counting repeated ones.
    fn wait_for_rows(&self, count: u64) {
        wait_until("rows are written", || self.sink.counts().1 >= count);
    }

    /// Waits until so many syncs have begun.
    fn wait_for_syncs(&self, count: u64) {
        wait_until("syncs have begun", || self.disk.syncs() >= count);
    }
}

/// Waits for something that has to come; fails after a while.
fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < deadline, "not in 20 s: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn add_all(system: &dyn System, rows: Vec<Row>) {
    rows.into_iter().for_each(|row| system.add(row).unwrap());
}

fn single_lock_blocks() {
    let bench = Bench::new(10 * SECOND);
    let system = SingleLock::new(Arc::clone(&bench.sink));
    let rows = rows(0..6);
    add_all(&system, rows[..4].to_vec());
    assert!(system.read(&rows[0]).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| system.add(rows[4].clone()).unwrap());
        bench.wait_for_syncs(1);
        let start = Instant::now();
        assert!(system.read(&rows[0]).unwrap());
        assert!(start.elapsed() > 5 * SECOND, "a read waited only {:?}", start.elapsed());
    });
    assert_eq!((system.counters().flushes, system.counters().rows_flushed, bench.disk.syncs()), (1, 5, 1));
}

fn single_lock_keeps() {
    let bench = Bench::new(Duration::ZERO);
    let system = SingleLock::new(Arc::clone(&bench.sink));
    bench.disk.set_outage(Some(Outage::Fail));
    add_all(&system, rows(0..4));
    assert!(system.add(rows(4..5).remove(0)).unwrap_err().0.contains("os error 5"));
    assert_eq!(system.counters().failed, 1);
    bench.disk.set_outage(None);
    system.shutdown().unwrap();
    assert_eq!(system.stored().unwrap(), [0, 1, 2, 3, 4]);
}

fn manager_loses_in_an_outage() {
    let bench = Bench::new(Duration::ZERO);
    let system = bench.manager(|_| {});
    bench.disk.set_outage(Some(Outage::Fail));
    add_all(&system, rows(0..5));
    // Retries come after 2, 4 and 8 s: the last one 14 s after the first attempt.
    let start = Instant::now();
    wait_until("all attempts have failed", || system.counters().failed == 4);
    assert!(start.elapsed() > 13 * SECOND);
    bench.disk.set_outage(None);
    thread::sleep(20 * SECOND);
    system.flush().unwrap();
    system.shutdown().unwrap();
    assert_eq!(system.stored().unwrap(), [0; 0], "0 of 5 after an outage longer than the retries");
    assert_eq!(system.counters().failed, 4);
}

fn manager_survives_a_short_outage() {
    let bench = Bench::new(Duration::ZERO);
    let system = bench.manager(|_| {});
    bench.disk.set_outage(Some(Outage::Fail));
    add_all(&system, rows(0..5));
    wait_until("the first attempt has failed", || system.counters().failed == 1);
    bench.disk.set_outage(None);
    bench.wait_for_rows(5);
    system.shutdown().unwrap();
    assert_eq!(system.stored().unwrap(), [0, 1, 2, 3, 4]);
}

fn manager_loses_its_buffer_at_shutdown() {
    let bench = Bench::new(Duration::ZERO);
    let system = bench.manager(|options| options.max_size = 50);
    add_all(&system, rows(0..23));
    system.shutdown().unwrap();
    assert_eq!(system.stored().unwrap(), [0; 0], "0 of 23 after a shutdown that says it flushed");
}

fn manager_loses_its_queue_at_shutdown() {
    let bench = Bench::new(10 * SECOND);
    let system = bench.manager(|_| {});
    add_all(&system, rows(0..20));
    // Three workers have a batch each, the fourth batch is queued; and three rows are in the buffer.
    bench.wait_for_syncs(3);
    add_all(&system, rows(20..23));
    let start = Instant::now();
    system.shutdown().unwrap();
    assert!(start.elapsed() >= 30 * SECOND, "it waits for a queue that nobody works on");
    let mut stored = system.stored().unwrap();
    stored.sort_unstable();
    assert_eq!(stored, (0..15).collect::<Vec<_>>(), "only what was under way is stored");
}

fn manager_repeats_what_it_gave_up() {
    let bench = Bench::with_row_time(Duration::ZERO, 10 * SECOND);
    // The timeout comes before the fifth row.
    let system = bench.manager(|options| options.timeout = 45 * SECOND);
    add_all(&system, rows(0..5));
    bench.wait_for_rows(16);
    thread::sleep(25 * SECOND);
    system.shutdown().unwrap();
    let stored = system.stored().unwrap();
    assert_eq!(stored.len(), 16, "16 rows written for 5");
    assert_eq!(Fate::of(&[0, 1, 2, 3, 4], &[], stored), Fate { lost: 1, duplicated: 12, ..Fate::default() });
    assert_eq!((system.counters().timed_out, system.counters().failed), (4, 4));
}

fn manager_repeats_slow_syncs() {
    let bench = Bench::new(3 * SECOND);
    let system = bench.manager(|options| options.timeout = SECOND);
    add_all(&system, rows(0..5));
    bench.wait_for_rows(20);
    system.shutdown().unwrap();
    let fate = Fate::of(&[0, 1, 2, 3, 4], &[], system.stored().unwrap());
    assert_eq!(fate, Fate { duplicated: 15, ..Fate::default() });
}

fn manager_blocks_readers() {
    let bench = Bench::new(20 * SECOND);
    let system = bench.manager(|options| (options.workers, options.queue_size) = (1, 1));
    let rows = rows(0..15);
    thread::scope(|scope| {
        // The worker has the first batch, the second is queued, and the third waits for a place with the data lock.
        scope.spawn(|| add_all(&system, rows.clone()));
        bench.wait_for_syncs(1);
        thread::sleep(SECOND);
        let start = Instant::now();
        let found = system.read(&rows[14]).unwrap();
        assert!(start.elapsed() > 10 * SECOND, "a read waited only {:?}", start.elapsed());
        assert!(!found, "it is queued");
    });
}

fn manager_serves_in_reverse() {
    let bench = Bench::new(5 * SECOND);
    let system = bench.manager(|options| options.workers = 1);
    add_all(&system, rows(0..5));
    // The worker has the first batch. Three more are queued, of growing urgency in falling order.
    bench.wait_for_syncs(1);
    for (id, priority) in [(10, Priority::Critical), (11, Priority::High), (12, Priority::Normal)] {
        add_all(&system, rows(id..id + 1));
        system.flush_as(priority);
    }
    bench.wait_for_rows(8);
    assert_eq!(system.stored().unwrap()[5..], [12, 11, 10], "normal, high, critical");
    system.shutdown().unwrap();
}

fn manager_hides() {
    let bench = Bench::new(10 * SECOND);
    let system = bench.manager(|_| {});
    let rows = rows(0..5);
    add_all(&system, rows[..4].to_vec());
    assert!(system.read(&rows[0]).unwrap(), "it is in the buffer");
    add_all(&system, rows[4..].to_vec());
    assert!(!system.read(&rows[0]).unwrap(), "it is under way");
    bench.wait_for_rows(5);
    assert!(system.read(&rows[0]).unwrap(), "it is stored");
    system.shutdown().unwrap();
}

fn engine_loses_a_batch() {
    let bench = Bench::new(Duration::ZERO);
    let system = bench.engine(Duration::from_secs(60));
    add_all(&system, rows(0..350));
    bench.disk.set_outage(Some(Outage::Fail));
    add_all(&system, rows(350..450));
    bench.disk.set_outage(None);
    add_all(&system, rows(450..1000));
    assert!(system.flush().is_ok(), "flush returns normally");
    assert_eq!(system.counters().failed, 1);
    let stats = EngineStats { buffered: 1000, flushed: 900, batches: 9, errors: 100, buffer_size: 0 };
    assert_eq!(system.stats(), stats);
    system.shutdown().unwrap();
    let accepted: Vec<u64> = (0..1000).collect();
    let fate = Fate::of(&accepted, &[], system.stored().unwrap());
    assert_eq!(fate, Fate { lost: 100, ..Fate::default() });
}

fn engine_flush_does_not_wait() {
    let bench = Bench::new(20 * SECOND);
    let system = bench.engine(Duration::from_secs(60));
    thread::scope(|scope| {
        for batch in 0..5 {
            let system = &system;
            scope.spawn(move || add_all(system, rows(100 * batch..100 * (batch + 1))));
        }
        wait_until("five batches are under way", || system.stats().buffered == 500);
        let start = Instant::now();
        system.flush().unwrap();
        assert!(start.elapsed() < 10 * SECOND, "it did not wait for the batches under way");
        assert_eq!(bench.sink.counts().1, 0, "flush returned with 0 of 500 stored");
    });
    system.shutdown().unwrap();
    assert_eq!(system.stored().unwrap().len(), 500, "they come later, if the process lives");
}

fn engine_timer_flushes() {
    let bench = Bench::new(Duration::ZERO);
    let system = bench.engine(SECOND);
    add_all(&system, rows(0..7));
    bench.wait_for_rows(7);
    system.shutdown().unwrap();
}

fn engine_hides() {
    let bench = Bench::new(Duration::ZERO);
    let system = bench.engine(Duration::from_secs(60));
    let rows = rows(0..1);
    add_all(&system, rows.clone());
    assert!(!system.read(&rows[0]).unwrap(), "reads ask the engine alone");
    system.shutdown().unwrap();
    assert!(system.read(&rows[0]).unwrap());
}

fn log_survives() {
    let bench = Bench::new(Duration::ZERO);
    let system = Plimsoll::create(&bench.disk, bench.dir.path(), 2, Durability::Durable, None).unwrap();
    bench.disk.set_outage(Some(Outage::Fail));
    add_all(&system, rows(0..10));
    assert!(system.flush().unwrap_err().0.contains("os error 5"));
    bench.disk.set_outage(None);
    system.flush().unwrap();
    let counters = system.counters();
    // It was tried three times more before it gave up.
    assert_eq!((counters.flushes, counters.rows_flushed, counters.failed), (1, 10, 4));
    system.shutdown().unwrap();
    assert_eq!(Fate::of(&(0..10).collect::<Vec<_>>(), &[], system.stored().unwrap()), Fate::default());
}

fn disk_hangs() {
    let bench = Bench::new(Duration::ZERO);
    let system = SingleLock::new(Arc::clone(&bench.sink));
    bench.disk.set_outage(Some(Outage::Hang));
    thread::scope(|scope| {
        let adding = scope.spawn(|| add_all(&system, rows(0..5)));
        thread::sleep(5 * SECOND);
        assert!(!adding.is_finished());
        bench.disk.set_outage(None);
    });
    assert_eq!(system.stored().unwrap().len(), 5);
}

fn short_load(outage: Option<(Outage, Duration)>) -> Load {
    Load {
        writers: 2,
        readers: 2,
        adds_per_second: 100.0,
        reads_per_second: 100.0,
        length: Duration::from_secs(2),
        dimension: 8,
        outage,
    }
}

fn plimsoll_loses_nothing() {
    let bench = Bench::new(Duration::from_millis(5));
    let every = Some(Duration::from_millis(100));
    let system = Plimsoll::create(&bench.disk, bench.dir.path(), 8, Durability::Buffered, every).unwrap();
    let load = short_load(Some((Outage::Fail, Duration::from_millis(500))));
    let measured = load::run(&load, &system, &bench.disk);
    system.shutdown().unwrap();
    assert_eq!(measured.first_error, None);
    assert_eq!((measured.invisible, measured.failed_reads, measured.timeouts), (0, 0, 0));
    assert!(measured.accepted.len() > 300 && measured.reads.len() > 300, "{measured:?}");
    assert!(measured.counters.flushes > 3 && measured.counters.failed > 0, "{measured:?}");
    assert_eq!(measured.counters.lock_waits, Some(0));
    let fate = Fate::of(&measured.accepted, &measured.refused, system.stored().unwrap());
    assert_eq!(fate, Fate::default());
}

/// One flush in ten writes, each of which blocks one writer and everyone else for so long that they can not keep up.
fn latency_counts_from_due() {
    let bench = Bench::new(Duration::from_millis(100));
    let system = SingleLock::new(Arc::clone(&bench.sink));
    let measured = load::run(&short_load(None), &system, &bench.disk);
    // 50 rows a second are stored of 200 that are due.
    let worst = measured.adds.max();
    assert!(worst > 1_000_000, "what was due early was begun late, but the worst add took {worst} us");
    assert!(measured.unserved > 100, "{} were not begun", measured.unserved);
    // The first row is before the load.
    let due = (measured.accepted.len() + measured.refused.len()) as u64 + measured.unserved;
    assert_eq!((due, measured.adds.len()), (401, 400), "each that was due is counted");
    assert_eq!(measured.timeouts, 0);
}

fn fates_are_counted() {
    let fate = Fate::of(&[1, 2, 3], &[4, 5], vec![3, 3, 1, 3, 5]);
    assert_eq!(fate, Fate { lost: 1, duplicated: 2, refused_yet_stored: 1 });
}

/// An outcome in which everything takes so many seconds, and so many rows are flushed in one.
fn outcome(system: Kind, seconds: f64, rows: f64) -> Outcome {
    let times = Percentiles { count: 1, p50: seconds, p99: seconds, max: seconds };
    Outcome {
        system,
        load: short_load(None),
        accepted: 1,
        refused: 0,
        unserved: 0,
        timeouts: 0,
        adds: times,
        add_calls: times,
        first_add_seconds: seconds,
        reads: times,
        failed_reads: 0,
        invisible: 0,
        counters: Counters { lock_waits: Some(0), ..Counters::default() },
        flushes_per_second: 1.0,
        rows_flushed_per_second: rows,
        syncs: 1,
        fate: Fate::default(),
        shutdown_seconds: seconds,
        first_error: None,
    }
}

/// All claims hold at their limits, and each fails when its figure is worse.
fn claims_are_judged() {
    let good = [
        outcome(Kind::SingleLock, 20.0, 5.0),
        outcome(Kind::BufferedEngine, 10.0, 5.0),
        outcome(Kind::Buffered, 1.0, 15.0),
        outcome(Kind::Durable, 2.5, 15.0),
        outcome(Kind::Unflushed, 0.7, 0.0),
    ];
    let failing = |change: &dyn Fn(&mut [Outcome; 5])| -> Vec<String> {
        let mut outcomes = good.clone();
        change(&mut outcomes);
        let claims = claims(&outcomes, Duration::from_secs(1));
        assert_eq!(claims.len(), 9, "each is judged");
        claims.iter().filter(|claim| !claim.holds).map(ToString::to_string).collect()
    };
    assert_eq!(failing(&|_| {}), [""; 0]);
    let one_fails = |change: &dyn Fn(&mut [Outcome; 5]), what: &str| {
        let failed = failing(change);
        assert!(failed.len() == 1 && failed[0].contains(what), "{what}: {failed:?}");
    };
    let mut broken = good.clone();
    broken[2].load.outage = Some((Outage::Fail, SECOND));
    assert_eq!(claims(&broken, Duration::from_secs(1)).len(), 5, "in an outage nothing is said of speed");
    one_fails(&|all| all[2].fate.lost = 1, "Plimsoll, buffered: [1, 0, 0, 0]");
    one_fails(&|all| all[3].fate.duplicated = 1, "Plimsoll, durable: [0, 1, 0, 0]");
    one_fails(&|all| all[4].invisible = 1, "Plimsoll, not flushing: [0, 0, 1, 0]");
    one_fails(&|all| all[2].timeouts = 1, "Plimsoll, buffered: [0, 0, 0, 1]");
    one_fails(&|all| all[1].adds.p99 = 9.9, "of buffered engine");
    one_fails(&|all| all[3].adds.p99 = 2.6, "the sync: 2.60 times");
    one_fails(&|all| all[3].counters.lock_waits = Some(1), "Plimsoll, durable: 1 waits");
    one_fails(&|all| all[4].reads.p99 = 0.6, "without flushing: 1.67 times");
    one_fails(&|all| all[2].rows_flushed_per_second = 14.9, "14.9 rows/s beside 5.0");
}
