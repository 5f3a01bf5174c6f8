//! The third old way: a buffer in front of a search engine. A batch is sent when it is full, by the thread that filled it,
//! and once in an interval by a timer, without the lock. Its faults are kept as they were measured:
//!
//! - reads ask the engine alone: what is in the buffer or under way is not found;
//! - a batch that fails is dropped and counted as errors, and nobody is told;
//! - `flush` sends what is in the buffer, and does not wait for batches that are under way.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::FairMutex;

use crate::sink::Sink;
use crate::system::{Counters, Refused, Row, System};

/// The settings of the original, of which checks scale the times down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub batch_size: usize,
    pub flush_interval: Duration,
    /// How long a shutdown waits for the timer's batch.
    pub join_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch_size: 100, flush_interval: Duration::from_secs(1), join_wait: Duration::from_secs(5) }
    }
}

/// The counters that the original shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EngineStats {
    pub buffered: u64,
    pub flushed: u64,
    pub batches: u64,
    pub errors: u64,
    pub buffer_size: usize,
}

/// The buffered engine.
pub(crate) struct BufferedEngine {
    shared: Arc<Shared>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    sink: Arc<Sink>,
    options: Options,
    buffer: FairMutex<Buffer>,
    stopped: Mutex<bool>,
    stop: Condvar,
}

#[derive(Default)]
struct Buffer {
    rows: Vec<Row>,
    stats: EngineStats,
}

impl BufferedEngine {
    pub(crate) fn new(sink: Arc<Sink>, options: Options) -> Self {
        let shared = Arc::new(Shared {
            sink,
            options,
            buffer: FairMutex::default(),
            stopped: Mutex::new(false),
            stop: Condvar::new(),
        });
        let of_timer = Arc::clone(&shared);
        let timer = thread::spawn(move || {
            while !of_timer.waits_for_stop() {
                of_timer.flush();
            }
        });
        Self { shared, timer: Mutex::new(Some(timer)) }
    }

    /// What the original shows in its logs.
    pub(crate) fn stats(&self) -> EngineStats {
        let buffer = self.shared.buffer.lock();
        EngineStats { buffer_size: buffer.rows.len(), ..buffer.stats }
    }
}

impl Shared {
    /// Waits an interval; says whether it was stopped.
    fn waits_for_stop(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.stop.wait_timeout_while(stopped, self.options.flush_interval, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn flush(&self) {
        let rows = std::mem::take(&mut self.buffer.lock().rows);
        self.send(&rows);
    }

    /// Sends a batch that is in no buffer any more. The lock is not held.
    fn send(&self, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        let sent = self.sink.write_all(rows);
        let stats = &mut self.buffer.lock().stats;
        match sent {
            Ok(()) => {
                stats.flushed += rows.len() as u64;
                stats.batches += 1;
            }
            Err(_) => stats.errors += rows.len() as u64,
        }
    }
}

impl System for BufferedEngine {
    fn add(&self, row: Row) -> Result<(), Refused> {
        let full = {
            let mut buffer = self.shared.buffer.lock();
            buffer.rows.push(row);
            buffer.stats.buffered += 1;
            let is_full = buffer.rows.len() >= self.shared.options.batch_size;
            if is_full { std::mem::take(&mut buffer.rows) } else { Vec::new() }
        };
        self.shared.send(&full);
        Ok(())
    }

    fn read(&self, row: &Row) -> Result<bool, Refused> {
        Ok(self.shared.sink.contains(row.id))
    }

    fn flush(&self) -> Result<(), Refused> {
        self.shared.flush();
        Ok(())
    }

    fn shutdown(&self) -> Result<(), Refused> {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stop.notify_all();
        let timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(timer) = timer {
            let deadline = Instant::now() + self.shared.options.join_wait;
            while !timer.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.flush()
    }

    fn counters(&self) -> Counters {
        let (flushes, rows_flushed) = self.shared.sink.counts();
        let batch_size = self.shared.options.batch_size as u64;
        let failed = self.stats().errors.div_ceil(batch_size);
        Counters { flushes, rows_flushed, failed, ..Counters::default() }
    }

    fn stored(&self) -> Result<Vec<u64>, Refused> {
        self.shared.sink.close()
    }
}
