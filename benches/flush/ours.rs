//! Plimsoll over the same slow disk. Everything that the comparison asks of it goes through this file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plimsoll::{
    Collection, CollectionConfig, Database, Document, Durability, Effort, Error, Key, Metric, WriteBatch,
};

use crate::disk::SlowDisk;
use crate::system::{Counters, Refused, Row, System};

const COLLECTION: &str = "rows";

/// A database with one collection.
pub(crate) struct Plimsoll {
    path: PathBuf,
    db: Database,
    rows: Collection,
    durability: Durability,
    flusher: Mutex<Option<Flusher>>,
    lock_waits: AtomicU64,
}

/// A thread that flushes once in an interval. An error is in the statistics, and what was not flushed is flushed with
/// the rest the next time.
struct Flusher {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Plimsoll {
    /// Creates a database that flushes once in `flush_every`, or never before it is closed.
    pub(crate) fn create(
        disk: &SlowDisk,
        dir: &Path,
        dimension: usize,
        durability: Durability,
        flush_every: Option<Duration>,
    ) -> Result<Self, Error> {
        let path = dir.join("plimsoll");
        let db = Database::builder(&path).storage(Arc::new(disk.clone())).open()?;
        let rows = db.create_collection(COLLECTION, CollectionConfig::new(dimension, Metric::L2))?;
        let flusher = flush_every.map(|every| {
            let (stop, stopped) = mpsc::channel();
            let db = db.clone();
            let thread = thread::spawn(move || {
                while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    let _is_counted = db.flush();
                }
            });
            Flusher { stop, thread }
        });
        Ok(Self { path, db, rows, durability, flusher: Mutex::new(flusher), lock_waits: AtomicU64::new(0) })
    }
}

impl System for Plimsoll {
    fn add(&self, row: Row) -> Result<(), Refused> {
        let mut batch = WriteBatch::new();
        batch.upsert(Document::new(row.id).vector(row.vector.to_vec()));
        self.rows.write_with(&batch, self.durability).map(drop).map_err(Refused::because)
    }

    /// Rows with even ids are read by id; the others are searched for, exactly, so that not to find one is no matter of
    /// recall.
    fn read(&self, row: &Row) -> Result<bool, Refused> {
        if row.id.is_multiple_of(2) {
            return self.rows.get(row.id).map(|found| found.is_some()).map_err(Refused::because);
        }
        let search = self.rows.search(&row.vector).k(10).effort(Effort::Exact);
        let results = search.run().map_err(Refused::because)?;
        self.lock_waits.fetch_add(results.explain.lock_waits, Relaxed);
        Ok(results.hits.iter().any(|hit| hit.key == Key::from(row.id)))
    }

    fn flush(&self) -> Result<(), Refused> {
        self.db.flush().map(drop).map_err(Refused::because)
    }

    fn shutdown(&self) -> Result<(), Refused> {
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Flusher { stop, thread }) = flusher {
            drop(stop);
            thread.join().map_err(|_| Refused("the flusher panicked".to_owned()))?;
        }
        self.db.close().map_err(Refused::because)
    }

    fn counters(&self) -> Counters {
        let stats = self.db.stats();
        Counters {
            flushes: stats.flushes,
            rows_flushed: stats.collections.iter().map(|collection| collection.flushed_rows).sum(),
            failed: stats.failed_flushes,
            timed_out: 0,
            lock_waits: Some(self.lock_waits.load(Relaxed)),
            stalls: Some(stats.stalls),
        }
    }

    /// Opens the database again, on the plain disk.
    fn stored(&self) -> Result<Vec<u64>, Refused> {
        let read = || {
            let db = Database::open(&self.path)?;
            let keys = db.collection(COLLECTION)?.keys()?;
            let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
            db.close()?;
            Ok(keys)
        };
        let keys = read().map_err(|error: Error| Refused::because(error))?;
        let id = |key: Key| match key {
            Key::Integer(id) => u64::try_from(id).map_err(Refused::because),
            other => Err(Refused(format!("{other} was never written"))),
        };
        keys.into_iter().map(id).collect()
    }
}
