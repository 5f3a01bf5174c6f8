//! Telling listeners what becomes of jobs.
//!
//! Each listener has a thread and a bounded queue of its own: one that blocks misses events, which are counted, and one
//! that panics is told nothing more. Neither holds up a job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use plimsoll_base::StorageError;
use plimsoll_base::sync::PlainMutex;
use plimsoll_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::model::{JobId, JobKind, JobState, JobTarget};
use crate::error::Result;

/// Something that happened to a job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobEvent {
    /// The job.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// What it is about.
    pub target: JobTarget,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub what: JobEventKind,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum JobEventKind {
    /// It was submitted.
    Queued,
    /// An attempt began.
    Started {
        /// Which one, from 1.
        attempt: u32,
    },
    /// A phase of it began, by the names of [`FlushStats::phases`](crate::FlushStats::phases) or as the job calls it.
    Phase(&'static str),
    /// It has come so far in its phase.
    Progress {
        /// Rows, files or bytes that are done.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// An attempt failed; the next one begins after a pause.
    Retried {
        /// The attempt that failed, from 1.
        attempt: u32,
        /// The pause.
        pause: Duration,
        /// Why it failed.
        error: String,
    },
    /// It has ended.
    Finished {
        /// How.
        state: JobState,
        /// Why, if it failed.
        error: Option<String>,
    },
}

/// As long as it is held, a listener is told of jobs.
#[must_use = "the listener is told nothing more when this is dropped"]
pub struct Subscription {
    is_wanted: Arc<AtomicBool>,
    listeners: Weak<PlainMutex<Vec<Listener>>>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscription")
    }
}

impl Drop for Subscription {
    /// Its thread ends, and lets go of what the listener holds: that may be the last handle of the database.
    fn drop(&mut self) {
        self.is_wanted.store(false, Ordering::Release);
        if let Some(all) = self.listeners.upgrade() {
            lock(&all).retain(|listener| !Arc::ptr_eq(&listener.is_wanted, &self.is_wanted));
        }
    }
}

/// So many events may wait for a listener.
const CAPACITY: usize = 1024;

#[derive(Default)]
pub(super) struct Listeners {
    all: Arc<PlainMutex<Vec<Listener>>>,
    missed: AtomicU64,
}

struct Listener {
    events: SyncSender<JobEvent>,
    is_wanted: Arc<AtomicBool>,
}

impl Listeners {
    pub(super) fn add(&self, listener: impl FnMut(&JobEvent) + Send + 'static) -> Result<Subscription> {
        let (events, received) = sync_channel(CAPACITY);
        let is_wanted = Arc::new(AtomicBool::new(true));
        let listens = Arc::clone(&is_wanted);
        std::thread::Builder::new()
            .name("plimsoll-listener".to_owned())
            .spawn(move || listen(&received, &listens, listener))
            .map_err(|error| StorageError::io("start a thread for", "a listener".as_ref(), error))?;
        lock(&self.all).push(Listener { events, is_wanted: Arc::clone(&is_wanted) });
        Ok(Subscription { is_wanted, listeners: Arc::downgrade(&self.all) })
    }

    /// Tells everyone, without waiting for anyone.
    pub(super) fn tell(&self, event: impl FnOnce() -> JobEvent) {
        let mut all = lock(&self.all);
        if all.is_empty() {
            return;
        }
        let event = event();
        all.retain(|listener| {
            listener.is_wanted.load(Ordering::Acquire)
                && match listener.events.try_send(event.clone()) {
                    Ok(()) => true,
                    Err(TrySendError::Full(_)) => {
                        self.missed.fetch_add(1, Ordering::Relaxed);
                        true
                    }
                    Err(TrySendError::Disconnected(_)) => false,
                }
        });
    }

    /// Events that listeners were too slow for.
    pub(super) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

fn lock(all: &PlainMutex<Vec<Listener>>) -> std::sync::MutexGuard<'_, Vec<Listener>> {
    all.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn listen(events: &Receiver<JobEvent>, is_wanted: &AtomicBool, mut listener: impl FnMut(&JobEvent)) {
    while let Ok(event) = events.recv() {
        if !is_wanted.load(Ordering::Acquire) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| listener(&event))).is_err() {
            tracing::error!("a listener of jobs panicked, and is told nothing more");
            return;
        }
    }
}
