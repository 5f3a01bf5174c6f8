//! The load: writers and readers that come at fixed times, whether the system keeps up or not.
//!
//! A writer's next row is due when the clock says so, not when the last one was taken, and its latency counts from when it
//! was due: what waits behind a slow call is slow, too (no coordinated omission). Rows that were due and never begun
//! because the time was over count with the time they had waited. Only what the timer itself is late does not count. One row
//! is added before the clock starts, and its time told apart: a new database makes its log then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use plimsoll_torture::random::Random;

use crate::disk::{Outage, SlowDisk};
use crate::system::{Counters, Refused, Row, System};

/// A call that took longer has failed its caller: what a client waits for an answer.
pub(crate) const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Half of the reads are of the rows that were acknowledged last.
const RECENT: usize = 50;

#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Load {
    pub writers: usize,
    pub readers: usize,
    /// Rows per second of each writer.
    pub adds_per_second: f64,
    /// Reads per second of each reader.
    pub reads_per_second: f64,
    pub length: Duration,
    pub dimension: usize,
    /// An outage in the middle.
    pub outage: Option<(Outage, Duration)>,
}

/// Latencies in microseconds.
pub(crate) type Latencies = Histogram<u64>;

/// What was seen while the load lasted.
#[derive(Debug)]
pub(crate) struct Measured {
    pub adds: Latencies,
    /// Adds without the time they waited for their writer.
    pub add_calls: Latencies,
    pub reads: Latencies,
    /// The add before the load, which may have to prepare something.
    pub first_add: Duration,
    /// The ids that were acknowledged.
    pub accepted: Vec<u64>,
    /// The ids whose add returned an error: whether they are stored is not promised.
    pub refused: Vec<u64>,
    /// Adds that took longer than a client waits.
    pub timeouts: u64,
    /// Adds that were due, but never begun.
    pub unserved: u64,
    /// Reads that did not find what had been acknowledged before they began.
    pub invisible: u64,
    pub failed_reads: u64,
    /// The first error of an add or a read.
    pub first_error: Option<String>,
    /// What the system had counted when the load ended.
    pub counters: Counters,
    pub elapsed: Duration,
}

struct Shared<'a> {
    load: &'a Load,
    system: &'a dyn System,
    begin: Instant,
    end: Instant,
    accepted: Mutex<Vec<u64>>,
    refused: Mutex<Vec<u64>>,
    add_calls: Mutex<Latencies>,
    first_error: Mutex<Option<String>>,
    timeouts: AtomicU64,
    unserved: AtomicU64,
    invisible: AtomicU64,
    failed_reads: AtomicU64,
}

/// The row of an id: the same whenever it is asked for.
pub(crate) fn row(id: u64, dimension: usize) -> Row {
    let mut random = Random::new(id);
    Row { id, vector: (0..dimension).map(|_| random.signed()).collect() }
}

/// Runs the load against a system.
pub(crate) fn run(load: &Load, system: &dyn System, disk: &SlowDisk) -> Measured {
    let first = row((load.writers as u64) << 32, load.dimension);
    let first_id = first.id;
    let begin = Instant::now();
    system.add(first).unwrap();
    let first_add = begin.elapsed();
    // A flush that the first row alone has made due would be under way when the others come.
    disk.set_slow(false);
    system.flush().unwrap();
    disk.set_slow(true);
    let before = system.counters();
    let begin = Instant::now();
    let shared = Shared {
        load,
        system,
        begin,
        end: begin + load.length,
        accepted: Mutex::new(vec![first_id]),
        refused: Mutex::default(),
        add_calls: Mutex::new(latencies()),
        first_error: Mutex::default(),
        timeouts: AtomicU64::new(0),
        unserved: AtomicU64::new(0),
        invisible: AtomicU64::new(0),
        failed_reads: AtomicU64::new(0),
    };
    let (adds, reads, counters, elapsed) = thread::scope(|scope| {
        let shared = &shared;
        let writers: Vec<_> = (0..load.writers).map(|n| scope.spawn(move || shared.write(n))).collect();
        let readers: Vec<_> = (0..load.readers).map(|n| scope.spawn(move || shared.read(n))).collect();
        if let Some((outage, length)) = load.outage {
            scope.spawn(move || {
                sleep_until(begin + load.length.saturating_sub(length) / 2);
                disk.set_outage(Some(outage));
                thread::sleep(length);
                disk.set_outage(None);
            });
        }
        // What the system has done is counted when the time is over, not when the last call returns.
        sleep_until(shared.end);
        let (counters, elapsed) = (system.counters().since(&before), begin.elapsed());
        let all = |threads: Vec<thread::ScopedJoinHandle<'_, Latencies>>| {
            let mut sum = latencies();
            for thread in threads {
                sum.add(thread.join().unwrap()).unwrap();
            }
            sum
        };
        (all(writers), all(readers), counters, elapsed)
    });
    Measured {
        adds,
        add_calls: shared.add_calls.into_inner().unwrap(),
        reads,
        first_add,
        accepted: shared.accepted.into_inner().unwrap(),
        refused: shared.refused.into_inner().unwrap(),
        first_error: shared.first_error.into_inner().unwrap(),
        timeouts: shared.timeouts.into_inner(),
        unserved: shared.unserved.into_inner(),
        invisible: shared.invisible.into_inner(),
        failed_reads: shared.failed_reads.into_inner(),
        counters,
        elapsed,
    }
}

impl Shared<'_> {
    fn write(&self, writer: usize) -> Latencies {
        let first = (writer as u64) << 32;
        self.pace(writer, self.load.writers, self.load.adds_per_second, |number, due| {
            let Some(due) = due else {
                self.unserved.fetch_add(1, Relaxed);
                return;
            };
            let row = row(first + number, self.load.dimension);
            let id = row.id;
            let called = Instant::now();
            let added = self.system.add(row);
            let micros = micros_since(called);
            self.add_calls.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
            match added {
                Ok(()) => push(&self.accepted, id),
                Err(error) => {
                    push(&self.refused, id);
                    self.remember(error);
                }
            }
            if due.elapsed() > CLIENT_TIMEOUT {
                self.timeouts.fetch_add(1, Relaxed);
            }
        })
    }

    fn read(&self, reader: usize) -> Latencies {
        let mut random = Random::new(reader as u64);
        self.pace(reader, self.load.readers, self.load.reads_per_second, |_, due| {
            if due.is_none() {
                return;
            }
            let picked = {
                let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
                let among = if random.percent(50) { RECENT.min(accepted.len()) } else { accepted.len() };
                accepted[accepted.len() - 1 - random.below(among)]
            };
            match self.system.read(&row(picked, self.load.dimension)) {
                Ok(true) => {}
                Ok(false) => {
                    self.invisible.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    self.failed_reads.fetch_add(1, Relaxed);
                    self.remember(error);
                }
            }
        })
    }

    /// Calls something at a fixed rate until the time is over, with its number and when it was due, or `None` if the time
    /// was over before it could begin.
    fn pace(
        &self,
        of: usize,
        all: usize,
        per_second: f64,
        mut call: impl FnMut(u64, Option<Instant>),
    ) -> Latencies {
        let mut latencies = latencies();
        let offset = of as f64 / all as f64;
        for number in 0.. {
            let mut due = self.begin + Duration::from_secs_f64((number as f64 + offset) / per_second);
            if due >= self.end {
                break;
            }
            let now = Instant::now();
            if now < due {
                sleep_until(due);
                due = Instant::now();
            }
            call(number, (now < self.end).then_some(due));
            latencies.saturating_record(micros_since(due));
        }
        latencies
    }

    fn remember(&self, error: Refused) {
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error.0);
    }
}

fn latencies() -> Latencies {
    const HOUR: u64 = 3_600_000_000;
    Histogram::new_with_bounds(1, HOUR, 3).unwrap()
}

fn micros_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

fn push(list: &Mutex<Vec<u64>>, id: u64) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(id);
}

/// What became of rows, by the ids that are stored in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Fate {
    /// Acknowledged and not stored.
    pub lost: u64,
    /// Stored once too often, each time.
    pub duplicated: u64,
    /// Refused, and stored all the same: an error promises nothing.
    pub refused_yet_stored: u64,
}

impl Fate {
    pub(crate) fn of(accepted: &[u64], refused: &[u64], mut stored: Vec<u64>) -> Self {
        let all = stored.len();
        stored.sort_unstable();
        stored.dedup();
        let is_stored = |id: &&u64| stored.binary_search(id).is_ok();
        Self {
            lost: accepted.iter().filter(|id| !is_stored(id)).count() as u64,
            duplicated: (all - stored.len()) as u64,
            refused_yet_stored: refused.iter().filter(is_stored).count() as u64,
        }
    }
}

/// A row with its vector, for callers that have no load.
pub(crate) fn rows(ids: std::ops::Range<u64>) -> Vec<Row> {
    ids.map(|id| Row { id, vector: Arc::from([id as f32, 1.0]) }).collect()
}
