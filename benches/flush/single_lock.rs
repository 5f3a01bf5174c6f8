//! The first old way: a buffer with one lock for everything. Whoever fills it flushes it and holds the lock meanwhile, so
//! that every other write and every read waits for the disk. A flush that fails keeps its rows and is the error of the
//! write that caused it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::FairMutex;

use crate::sink::Sink;
use crate::system::{Counters, Refused, Row, System};

/// How many rows are flushed together.
const MAX_SIZE: usize = 5;

/// The single-lock synchronous buffer. Its lock is fair, as that of the original is.
pub(crate) struct SingleLock {
    sink: Arc<Sink>,
    buffer: FairMutex<Vec<Row>>,
    failed: AtomicU64,
}

impl SingleLock {
    pub(crate) fn new(sink: Arc<Sink>) -> Self {
        Self { sink, buffer: FairMutex::new(Vec::new()), failed: AtomicU64::new(0) }
    }

    fn flush_locked(&self, buffer: &mut Vec<Row>) -> Result<(), Refused> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.sink.write_all(buffer).map_err(|error| {
            self.failed.fetch_add(1, Relaxed);
            Refused::because(error)
        })?;
        buffer.clear();
        Ok(())
    }
}

impl System for SingleLock {
    fn add(&self, row: Row) -> Result<(), Refused> {
        let mut buffer = self.buffer.lock();
        buffer.push(row);
        if buffer.len() >= MAX_SIZE { self.flush_locked(&mut buffer) } else { Ok(()) }
    }

    fn read(&self, row: &Row) -> Result<bool, Refused> {
        let buffer = self.buffer.lock();
        Ok(buffer.iter().any(|kept| kept.id == row.id) || self.sink.contains(row.id))
    }

    fn flush(&self) -> Result<(), Refused> {
        self.flush_locked(&mut self.buffer.lock())
    }

    fn shutdown(&self) -> Result<(), Refused> {
        self.flush()
    }

    fn counters(&self) -> Counters {
        let (flushes, rows_flushed) = self.sink.counts();
        Counters { flushes, rows_flushed, failed: self.failed.load(Relaxed), ..Counters::default() }
    }

    fn stored(&self) -> Result<Vec<u64>, Refused> {
        self.sink.close()
    }
}
