//! Plimsoll over the same slow disk. Everything that the comparison asks of it goes through this file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use plimsoll::{
    Collection, CollectionConfig, Database, Document, Durability, Effort, Error, FlushPolicy, Key, Metric,
    WriteBatch,
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
    lock_waits: AtomicU64,
}

impl Plimsoll {
    /// Creates a database that flushes what is as old as `flush_every`, or nothing before it is closed.
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
        let mut policy = FlushPolicy::manual();
        policy.max_age = flush_every;
        rows.set_flush_policy(policy)?;
        Ok(Self { path, db, rows, durability, lock_waits: AtomicU64::new(0) })
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
        self.db.close().map_err(Refused::because)
    }

    fn counters(&self) -> Counters {
        let stats = self.db.stats();
        Counters {
            flushes: stats.flushes.successful,
            rows_flushed: stats.collections.iter().map(|collection| collection.flushed_rows).sum(),
            failed: stats.flushes.failed,
            timed_out: stats.flushes.timed_out,
            lock_waits: Some(self.lock_waits.load(Relaxed)),
            stalls: Some(stats.stalls.stopped),
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
