//! Reading a database that another process may be writing.
//!
//! A reader process opens everything that a manifest names, and from the log shows only what is known to be
//! durable (rule R10). It takes no lock, creates nothing and removes nothing; when files vanish while it opens
//! them, a newer manifest is there, and it starts again from that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_base::storage::{MeteredStorage, OsStorage, Storage};
use plimsoll_base::{FileNumber, Lsn, StorageError};
use plimsoll_wal::{Record, read_durable};

use crate::check::VerifyReport;
use crate::commit::apply;
use crate::error::{Error, Result};
use crate::jobs::{JobId, JobRecord, Records};
use crate::manifest::Manifest;
use crate::policy::Measured;
use crate::query::{ReadOnlyCollection, Snapshot};
use crate::recover::{Directory, WAL_DIR, open_state, opener};
use crate::state::{Published, View};
use crate::stats::{CollectionStats, Stats};
use crate::tree::{Damaged, FileOpener};

/// A database opened for reading only, beside a writer in another process or without one.
///
/// It shows one moment until [`ReadOnlyDatabase::refresh`] moves it on.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("notes");
/// use plimsoll_engine::{CollectionConfig, Database, Document, Metric, ReadOnlyDatabase};
/// let db = Database::open(&path)?;
/// let notes = db.create_collection("notes", CollectionConfig::new(2, Metric::L2))?;
/// notes.upsert(Document::new(1).vector([1.0, 2.0]))?;
/// db.flush()?;
///
/// let reader = ReadOnlyDatabase::open(&path)?;
/// assert_eq!(reader.collection("notes")?.count()?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ReadOnlyDatabase {
    path: PathBuf,
    storage: MeteredStorage,
    mapped: bool,
    shown: Shown,
}

/// What is shown: the newest manifest, and the records of the log above it that are proven to be durable.
#[derive(Debug)]
struct Shown {
    number: FileNumber,
    view: Snapshot,
    /// The manifest's log pointer.
    flushed: Lsn,
    /// Valid records of the log that nothing proves durable.
    uncovered: u64,
}

/// How often opening starts again because the writer replaced files meanwhile.
const ATTEMPTS: usize = 100;

impl ReadOnlyDatabase {
    /// Opens the database in a directory.
    ///
    /// # Errors
    /// [`Error::DatabaseNotFound`], [`Error::NotADatabase`], [`Error::Storage`] for damage or what the
    /// operating system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(path.as_ref(), Arc::new(OsStorage), true)
    }

    /// As [`ReadOnlyDatabase::open`], with a storage of the caller's and the choice whether files are mapped.
    ///
    /// # Errors
    /// As [`ReadOnlyDatabase::open`].
    pub fn open_in(path: &Path, storage: Arc<dyn Storage>, mapped: bool) -> Result<Self> {
        let storage = MeteredStorage::new(storage);
        let shown = load(path, &storage, mapped)?;
        Ok(Self { path: path.to_path_buf(), storage, mapped, shown })
    }

    /// Moves on to what is there now; says whether anything changed.
    ///
    /// # Errors
    /// As [`ReadOnlyDatabase::open`]; what was shown before is then still shown.
    pub fn refresh(&mut self) -> Result<bool> {
        let now = load(&self.path, &self.storage, self.mapped)?;
        let changed = now.number != self.shown.number || now.view.lsn() != self.shown.view.lsn();
        self.shown = now;
        Ok(changed)
    }

    /// One of its collections.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`].
    pub fn collection(&self, name: &str) -> Result<ReadOnlyCollection> {
        self.shown.view.collection(name)
    }

    /// All its collections, by name.
    pub fn collections(&self) -> Vec<ReadOnlyCollection> {
        self.shown.view.collections()
    }

    /// The last write that is shown.
    pub fn lsn(&self) -> Lsn {
        self.shown.view.lsn()
    }

    /// How many records at the end of the log are not shown because nothing proves yet that they are on disk.
    /// While the writer lives, that changes within moments. After it crashed, opening the database for
    /// writing once (which recovers it) decides.
    pub fn pending_records(&self) -> u64 {
        self.shown.uncovered
    }

    /// The database in numbers, as far as a reader can know them.
    pub fn stats(&self) -> Stats {
        let collections = self.shown.view.view.state.users();
        let of = |c| CollectionStats::of(c, &Measured::default());
        let mut collections: Vec<CollectionStats> = collections.map(|c| of(c)).collect();
        collections.sort_by(|a, b| a.name.cmp(&b.name));
        Stats::of_reader(collections, self.shown.view.lsn(), self.shown.flushed, self.storage.stats())
    }

    /// The newest jobs that have records, `limit` at most, newest first.
    ///
    /// # Errors
    /// [`Error::Storage`] if records are damaged.
    pub fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>> {
        Records::of(&self.shown.view.view).map_or(Ok(Vec::new()), |records| records.newest(limit))
    }

    /// The record of a job.
    ///
    /// # Errors
    /// [`Error::JobNotFound`]; [`Error::Storage`] if it is damaged.
    pub fn job(&self, id: JobId) -> Result<JobRecord> {
        let records = Records::of(&self.shown.view.view);
        let record = records.map_or(Ok(None), |records| records.record(id))?;
        record.ok_or(Error::JobNotFound(id))
    }

    pub(crate) fn view(&self) -> &View {
        &self.shown.view.view
    }

    /// Reads and checks every file, and says what is wrong.
    ///
    /// # Errors
    /// As [`verify`](crate::verify).
    pub fn verify(&self) -> Result<VerifyReport> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        crate::check::verify_in(&self.path, &storage)
    }
}

fn load(path: &Path, storage: &MeteredStorage, mapped: bool) -> Result<Shown> {
    let mut last = None;
    let mut damaged = Damaged::LeftOut;
    for _ in 0..ATTEMPTS {
        let directory =
            Directory::read(storage, path)?.ok_or_else(|| Error::DatabaseNotFound(path.to_path_buf()))?;
        let Some(number) = directory.manifests.last().copied() else {
            directory.newest(storage, path)?;
            return Err(directory.not_yet(path));
        };
        if last != Some(number) {
            damaged = Damaged::LeftOut;
        }
        match load_manifest(path, storage, mapped, damaged, number) {
            Ok(shown) => return Ok(shown),
            Err(Error::Storage(error)) if error.is_not_found() => {
                // Is there a newer manifest? If not, the file is really missing.
                let again = Directory::read(storage, path)?;
                let moved_on = again.is_some_and(|again| again.manifests.last() != Some(&number));
                if !moved_on && last == Some(number) {
                    if damaged == Damaged::OrMissingLeftOut {
                        return Err(missing(error).into());
                    }
                    damaged = Damaged::OrMissingLeftOut;
                }
                last = Some(number);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Stalled("the writer replaces files faster than they can be opened".to_owned()))
}

/// The error about a file that no writer has taken away.
fn missing(error: StorageError) -> StorageError {
    match error {
        StorageError::Io { path, .. } => StorageError::corrupted(&path, 0, "the file is missing"),
        other => other,
    }
}

fn load_manifest(
    path: &Path,
    storage: &MeteredStorage,
    mapped: bool,
    damaged: Damaged,
    number: FileNumber,
) -> Result<Shown> {
    let manifest = Manifest::read(storage, path, number)?;
    let opener = FileOpener { damaged, ..opener(storage, path, &manifest, mapped) };
    let state = open_state(&manifest, &opener)?;
    let published = Published::new(state, manifest.wal_pointer);
    let dir = path.join(WAL_DIR);
    let visit = |record: Record| -> Result<()> {
        let lsn = apply(&published.state(), Arc::new(record), &dir, Duration::ZERO)?;
        published.advance(lsn);
        Ok(())
    };
    let anchor = manifest.anchor();
    let summary = read_durable(storage, &dir, manifest.database, &anchor, visit)?;
    let View { state, visible } = published.view();
    let flushed = manifest.collections.iter().map(|entry| entry.flushed).max().unwrap_or_default();
    let visible = visible.max(flushed);
    let view = Snapshot { view: View { state, visible } };
    let flushed = view.view.state.flushed(visible).max(manifest.wal_pointer);
    Ok(Shown { number, view, flushed, uncovered: summary.pending })
}
