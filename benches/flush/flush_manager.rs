//! The second old way: a buffer that hands its rows to a manager of flushes, and clears itself at once, in the hope that
//! the manager stores them. Its faults are kept as they were measured:
//!
//! - rows that were handed over are in no buffer and not stored yet: reads do not find them;
//! - the data lock is held while a flush is handed over, so when the queue is full, reads wait for the disk, too;
//! - the smallest number is served first, and the most urgent priority has the largest;
//! - an attempt that takes too long is given up and repeated, but what it has written stays, and the rest may follow;
//! - after the last retry the rows are gone, and nobody is told;
//! - a shutdown stops the workers first. What is queued then, or waits for a retry, is gone; the flush of what was still
//!   in the buffer is queued behind it, and reported as a success.
//!
//! Timers are not among it: the original has them, and never starts them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::FairMutex;

use crate::sink::Sink;
use crate::system::{Counters, Refused, Row, System};

/// The settings of the original, of which checks scale the times down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How many rows the buffer has when it is flushed.
    pub max_size: usize,
    pub workers: usize,
    pub queue_size: usize,
    /// When an attempt is given up.
    pub timeout: Duration,
    /// The n-th retry comes after min(2^n, 30) of these.
    pub second: Duration,
    pub max_retries: u32,
    /// How long a shutdown waits for a queue that nobody works on any more.
    pub shutdown_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_size: 5,
            workers: 3,
            queue_size: 100,
            timeout: Duration::from_secs(30),
            second: Duration::from_secs(1),
            max_retries: 3,
            shutdown_wait: Duration::from_secs(30),
        }
    }
}

/// How urgent a flush is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    Normal = 2,
    High = 3,
    Critical = 4,
}

#[derive(Debug, Clone)]
struct Task {
    priority: Priority,
    rows: Arc<[Row]>,
    retries: u32,
}

/// The buffer with two locks and its manager.
pub(crate) struct FlushManager {
    buffer: FairMutex<Vec<Row>>,
    coordination: FairMutex<()>,
    manager: Arc<Manager>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

struct Manager {
    sink: Arc<Sink>,
    options: Options,
    queue: Mutex<Queue>,
    changed: Condvar,
    failed: AtomicU64,
    timed_out: AtomicU64,
}

#[derive(Default)]
struct Queue {
    tasks: BTreeMap<(Priority, u64), Task>,
    next: u64,
    /// Tasks that are queued or worked on; those that wait for a retry are forgotten here.
    unfinished: usize,
    shutdown: bool,
}

impl FlushManager {
    pub(crate) fn new(sink: Arc<Sink>, options: Options) -> Self {
        let manager = Arc::new(Manager {
            sink,
            options,
            queue: Mutex::default(),
            changed: Condvar::new(),
            failed: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
        });
        let worker = |_| {
            let manager = Arc::clone(&manager);
            thread::spawn(move || manager.work())
        };
        let workers = Mutex::new((0..options.workers).map(worker).collect());
        Self { buffer: FairMutex::default(), coordination: FairMutex::default(), manager, workers }
    }

    /// Hands the buffer over and clears it: optimistic clearing.
    fn flush_locked(&self, buffer: &mut Vec<Row>, priority: Priority) {
        if buffer.is_empty() {
            return;
        }
        let _coordinated = self.coordination.lock();
        let rows = std::mem::take(buffer).into();
        self.manager.put(Task { priority, rows, retries: 0 });
    }

    /// Hands over what the buffer has.
    pub(crate) fn flush_as(&self, priority: Priority) {
        self.flush_locked(&mut self.buffer.lock(), priority);
    }
}

impl Manager {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a task, and waits while the queue is full. After a shutdown the original waits forever; this does not.
    fn put(&self, task: Task) {
        let mut queue = self.lock();
        while queue.tasks.len() >= self.options.queue_size && !queue.shutdown {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let key = (task.priority, queue.next);
        queue.next += 1;
        queue.unfinished += 1;
        queue.tasks.insert(key, task);
        drop(queue);
        self.changed.notify_all();
    }

    fn work(self: Arc<Self>) {
        while let Some(task) = self.get() {
            self.process(task);
            self.lock().unfinished -= 1;
            self.changed.notify_all();
        }
    }

    fn get(&self) -> Option<Task> {
        let mut queue = self.lock();
        while !queue.shutdown {
            if let Some((_, task)) = queue.tasks.pop_first() {
                drop(queue);
                self.changed.notify_all();
                return Some(task);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn process(self: &Arc<Self>, mut task: Task) {
        let is_stored = self.attempt(&task.rows);
        if is_stored {
            return;
        }
        self.failed.fetch_add(1, Relaxed);
        if task.retries < self.options.max_retries {
            task.retries += 1;
            let delay = self.options.second * 2u32.pow(task.retries).min(30);
            let manager = Arc::clone(self);
            thread::spawn(move || {
                thread::sleep(delay);
                manager.put(task);
            });
        }
    }

    fn attempt(&self, rows: &Arc<[Row]>) -> bool {
        let (done, result) = mpsc::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let (sink, rows, flag) = (Arc::clone(&self.sink), Arc::clone(rows), Arc::clone(&cancelled));
        // Nobody listens any more when it took too long.
        thread::spawn(move || done.send(sink.write(&rows, &flag)).is_ok());
        match result.recv_timeout(self.options.timeout) {
            Ok(result) => result.is_ok(),
            Err(_) => {
                cancelled.store(true, Relaxed);
                self.timed_out.fetch_add(1, Relaxed);
                false
            }
        }
    }

    /// Stops the workers, and waits for the queue that they leave behind.
    fn shutdown(&self) {
        let mut queue = self.lock();
        queue.shutdown = true;
        self.changed.notify_all();
        let _unfinished = self
            .changed
            .wait_timeout_while(queue, self.options.shutdown_wait, |queue| queue.unfinished > 0)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl System for FlushManager {
    fn add(&self, row: Row) -> Result<(), Refused> {
        let mut buffer = self.buffer.lock();
        buffer.push(row);
        if buffer.len() >= self.manager.options.max_size {
            self.flush_locked(&mut buffer, Priority::Normal);
        }
        Ok(())
    }

    fn read(&self, row: &Row) -> Result<bool, Refused> {
        let is_kept = self.buffer.lock().iter().any(|kept| kept.id == row.id);
        Ok(is_kept || self.manager.sink.contains(row.id))
    }

    fn flush(&self) -> Result<(), Refused> {
        self.flush_as(Priority::High);
        Ok(())
    }

    fn shutdown(&self) -> Result<(), Refused> {
        self.manager.shutdown();
        self.flush_as(Priority::Critical);
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        // A worker in an attempt would have been cancelled; here it ends with its attempt.
        workers
            .into_iter()
            .try_for_each(JoinHandle::join)
            .map_err(|_| Refused("a worker panicked".to_owned()))
    }

    fn counters(&self) -> Counters {
        let (flushes, rows_flushed) = self.manager.sink.counts();
        Counters {
            flushes,
            rows_flushed,
            failed: self.manager.failed.load(Relaxed),
            timed_out: self.manager.timed_out.load(Relaxed),
            ..Counters::default()
        }
    }

    fn stored(&self) -> Result<Vec<u64>, Refused> {
        self.manager.sink.close()
    }
}
