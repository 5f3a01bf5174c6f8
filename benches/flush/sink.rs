//! Where the old systems store their rows: a file for each batch on the same slow disk, one sync for each. That is kinder
//! than what they had, which was two databases or a server behind a network.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use plimsoll::StorageError;
use plimsoll::storage::{OsStorage, Storage};

use crate::disk::SlowDisk;
use crate::system::{Refused, Row};

/// The common storage of the old systems.
#[derive(Debug)]
pub(crate) struct Sink {
    disk: SlowDisk,
    dir: PathBuf,
    /// How long writing one row takes by itself, apart from the sync.
    row_time: Duration,
    next: AtomicU64,
    stored: Mutex<Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    batches: Vec<Batch>,
    rows: u64,
    ids: HashSet<u64>,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Batch {
    path: PathBuf,
    rows: usize,
    row_bytes: usize,
}

impl Sink {
    pub(crate) fn new(disk: SlowDisk, dir: &Path) -> Result<Arc<Self>, StorageError> {
        Self::with_row_time(disk, dir, Duration::ZERO)
    }

    pub(crate) fn with_row_time(
        disk: SlowDisk,
        dir: &Path,
        row_time: Duration,
    ) -> Result<Arc<Self>, StorageError> {
        let dir = dir.join("data");
        disk.create_dir(&dir)?;
        Ok(Arc::new(Self { disk, dir, row_time, next: AtomicU64::new(0), stored: Mutex::default() }))
    }

    /// Stores rows one after the other and syncs them. Whoever cancels it stops it between two rows; what was written
    /// before stays written.
    pub(crate) fn write(&self, rows: &[Row], cancelled: &AtomicBool) -> Result<(), StorageError> {
        let path = self.dir.join(format!("batch-{:06}", self.next.fetch_add(1, Relaxed)));
        let mut file = self.disk.create(&path)?;
        let mut written = 0;
        for row in rows {
            thread::sleep(self.row_time);
            if cancelled.load(Relaxed) {
                break;
            }
            let components = row.vector.iter().flat_map(|component| component.to_le_bytes());
            let bytes: Vec<u8> = row.id.to_le_bytes().into_iter().chain(components).collect();
            file.append(&bytes)?;
            written += 1;
        }
        file.sync()?;
        let row_bytes = 8 + 4 * rows.first().map_or(0, |row| row.vector.len());
        let mut stored = self.lock();
        if !stored.closed {
            stored.batches.push(Batch { path, rows: written, row_bytes });
            stored.rows += written as u64;
            stored.ids.extend(rows[..written].iter().map(|row| row.id));
        }
        Ok(())
    }

    /// Stores rows where nothing cancels it.
    pub(crate) fn write_all(&self, rows: &[Row]) -> Result<(), StorageError> {
        self.write(rows, &AtomicBool::new(false))
    }

    /// Whether a row is stored.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.lock().ids.contains(&id)
    }

    /// How many batches and rows are stored.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let stored = self.lock();
        (stored.batches.len() as u64, stored.rows)
    }

    /// The ids of the rows that are stored, as often as they are, read back from the plain disk. Nothing is stored
    /// afterwards: the process that would do it is gone.
    pub(crate) fn close(&self) -> Result<Vec<u64>, Refused> {
        let batches = {
            let mut stored = self.lock();
            stored.closed = true;
            stored.batches.clone()
        };
        let mut ids = Vec::new();
        for batch in batches {
            let file = OsStorage.open(&batch.path).map_err(Refused::because)?;
            for row in 0..batch.rows {
                let mut id = [0; 8];
                file.read_exact_at((row * batch.row_bytes) as u64, &mut id).map_err(Refused::because)?;
                ids.push(u64::from_le_bytes(id));
            }
        }
        Ok(ids)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
