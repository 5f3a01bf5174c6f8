//! `repair`: makes a damaged database one that opens, out of everything in it that is whole.
//!
//! Where nothing is damaged, nothing is done. Otherwise: the newest manifest that can be read says what there is,
//! and where none can, the headers of the files do. Of each damaged collection the documents that can be read are
//! written again if their file is damaged, and what is derived from them (kills, lists) is made anew. A damaged
//! log gives all records that are whole. Then a new manifest is published, and only after that what was damaged is
//! moved to `lost/`: a repair that is interrupted has lost nothing, and is simply run again.

mod collection;
mod inventory;
mod log;
mod medium;
mod overlay;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::storage::{DirEntry, Lock, MeteredStorage, OsStorage, Storage};
use plimsoll_base::{FileNumber, Lsn, StorageError};
use plimsoll_shard::{FileName, commit_files};
use plimsoll_wal::format::segment_path;
use plimsoll_wal::{Anchor, Finding};

use crate::check::{self, Severity, VerifyReport, verify_in};
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::model::Key;
use crate::options::{DatabaseBuilder, Options};
use crate::read_only::ReadOnlyDatabase;
use crate::recover::{self, DATA_DIR, Directory, LOCK_NAME, WAL_DIR, opener};
use collection::Mended;
use inventory::Inventory;
use medium::BadMedium;
use overlay::Overlay;

/// Where a repair puts what is damaged, in the database's directory.
pub(crate) const LOST_DIR: &str = "lost";

/// What [`repair`] found and did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was damaged. Empty: nothing was, and nothing was done.
    pub findings: Vec<check::Finding>,
    /// Where the newest manifest was damaged: what was taken in its place, and what that means.
    pub manifest: Option<String>,
    /// The collections in which something was damaged.
    pub collections: Vec<CollectionRepair>,
    /// What became of the log, if it was damaged.
    pub log: Option<LogRepair>,
    /// Where the damaged files are now, if there are any.
    pub moved_to: Option<PathBuf>,
    /// How many there are.
    pub files_moved: u64,
}

/// What became of a damaged collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectionRepair {
    /// The collection.
    pub name: String,
    /// Documents it has now, without those that are in the log only.
    pub documents_kept: u64,
    /// Documents that it had in its files and has no more.
    pub documents_lost: u64,
    /// The keys of lost documents, as far as they can be read, a hundred at most.
    pub lost_keys: Vec<Key>,
    /// Documents that had been deleted or replaced and may be back, because the record of that is lost.
    pub deletions_lost: u64,
    /// What was made anew, such as `"lists"`.
    pub rebuilt: Vec<String>,
}

/// What became of a damaged log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRepair {
    /// Batches that were read from it, and are in files now.
    pub batches_kept: u64,
    /// Batches that are known to be lost, each of them as a whole.
    pub batches_lost: u64,
    /// Whether its end is damaged or gone: the batches there are lost, and nobody knows how many there were.
    pub end_damaged: bool,
}

impl RepairReport {
    /// Whether there was anything to repair.
    pub fn was_damaged(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Whether data is known to be lost, or deletions to be undone.
    pub fn lost_anything(&self) -> bool {
        let lost = |of: &CollectionRepair| of.documents_lost > 0 || of.deletions_lost > 0;
        self.collections.iter().any(lost) || self.log.as_ref().is_some_and(|log| log.batches_lost > 0)
    }

    fn found(&mut self, error: &StorageError) {
        let (file, offset, what) = match error {
            StorageError::Corrupted { file, offset, what } => (file.clone(), Some(*offset), what.clone()),
            StorageError::Io { path, source, .. } => (path.clone(), None, source.to_string()),
            other => (PathBuf::new(), None, other.to_string()),
        };
        self.findings.push(check::Finding { severity: Severity::Damage, file, offset, what });
    }
}

/// Makes a damaged database one that opens and is sound, and says what was lost. Takes the writer's lock.
///
/// Every document that can be read is kept. Damaged files are moved to the directory `lost` in the database's, not
/// removed. A database without damage is not changed. An interrupted repair has lost nothing: run it again.
///
/// # Errors
/// [`Error::DatabaseNotFound`], [`Error::NotADatabase`]; [`Error::Storage`]: `Locked` while it is open for writing,
/// `UpgradeRequired` for files of a newer version, `Corrupted` if nothing is left that says what the database was,
/// `Io` otherwise. What was there before an error is still there.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("notes");
/// plimsoll_engine::Database::open(&path)?.close()?;
/// assert!(!plimsoll_engine::repair(&path)?.was_damaged());
/// # Ok(())
/// # }
/// ```
pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
    repair_in(path.as_ref(), &(Arc::new(OsStorage) as Arc<dyn Storage>))
}

/// As [`repair`], through a storage of the caller's.
///
/// # Errors
/// As [`repair`].
pub fn repair_in(path: &Path, storage: &Arc<dyn Storage>) -> Result<RepairReport> {
    let settings = || {
        let storage: Arc<dyn Storage> = Arc::new(BadMedium(Arc::clone(storage)));
        DatabaseBuilder::new(path).storage(storage).background(false).mapped(false).create(false)
    };
    let directory =
        Directory::read(&**storage, path)?.ok_or_else(|| Error::DatabaseNotFound(path.to_path_buf()))?;
    let has_manifests = !directory.manifests.is_empty() || !directory.old_manifests.is_empty();
    if !has_manifests && (directory.is_empty() || directory.is_foreign()) {
        directory.newest(&**storage, path)?;
        return Err(directory.not_yet(path));
    }
    let lock = storage.lock(&path.join(LOCK_NAME))?;
    let options = settings().into_options()?;
    let storage = MeteredStorage::new(Arc::clone(&options.storage));
    let mut repair = Repair {
        path,
        storage,
        options,
        lock: Some(lock),
        report: RepairReport::default(),
        aside: Vec::new(),
    };
    repair.run()?;
    let report = std::mem::take(&mut repair.report);
    drop(repair);
    if report.was_damaged() {
        // The proof: it opens, recovers its log, and is sound.
        settings().open()?.close()?;
        let checked: VerifyReport = verify_in(path, &settings().into_options()?.storage)?;
        if let Some(left) = checked.findings.iter().find(|finding| finding.severity == Severity::Damage) {
            let what = format!("still damaged after the repair: {}", left.what);
            return Err(StorageError::corrupted(&left.file, left.offset.unwrap_or(0), what).into());
        }
    }
    Ok(report)
}

/// Reads a damaged database as a repair would leave it, without changing anything: what the repair would write is
/// kept in memory for as long as the returned database is open. It takes no lock; no writer may be at work.
///
/// # Errors
/// As [`repair`], but for the lock.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("notes");
/// # plimsoll_engine::Database::open(&path)?.close()?;
/// let (db, report) = plimsoll_engine::salvage(&path)?;
/// for collection in db.collections() {
///     for document in collection.scan() {
///         println!("{}", document?.key);
///     }
/// }
/// assert!(!report.lost_anything());
/// # Ok(())
/// # }
/// ```
pub fn salvage(path: impl AsRef<Path>) -> Result<(ReadOnlyDatabase, RepairReport)> {
    salvage_in(path.as_ref(), &(Arc::new(OsStorage) as Arc<dyn Storage>))
}

/// As [`salvage`], through a storage of the caller's.
///
/// # Errors
/// As [`salvage`].
pub fn salvage_in(path: &Path, storage: &Arc<dyn Storage>) -> Result<(ReadOnlyDatabase, RepairReport)> {
    let overlay: Arc<dyn Storage> = Arc::new(Overlay::new(Arc::clone(storage)));
    let report = repair_in(path, &overlay)?;
    let shown = if report.was_damaged() { overlay } else { Arc::clone(storage) };
    Ok((ReadOnlyDatabase::open_in(path, shown, false)?, report))
}

/// A repair under way.
struct Repair<'a> {
    path: &'a Path,
    storage: MeteredStorage,
    options: Options,
    lock: Option<Box<dyn Lock>>,
    report: RepairReport,
    /// Damaged files, to be moved away once a manifest does without them.
    aside: Vec<PathBuf>,
}

/// Whether an error says that bytes are not what they were, or can not be read.
fn is_damage(error: &StorageError) -> bool {
    let is_gone = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::UnexpectedEof);
    matches!(error, StorageError::Corrupted { .. })
        || error.io_kind().is_some_and(is_gone)
        || medium::is_medium_error(error)
}

impl Repair<'_> {
    fn run(&mut self) -> Result<()> {
        // Under the lock: what was there before may have changed.
        let Some(directory) = Directory::read(&self.storage, self.path)? else {
            return Err(Error::DatabaseNotFound(self.path.to_path_buf()));
        };
        for name in &directory.temporary {
            self.storage.remove(&self.path.join(name))?;
        }
        let (base, inventory) = self.find_manifest(&directory)?;
        if base.number.0 == 0 && inventory.is_none() {
            return Ok(()); // Begun, and nothing in it yet: the next writer completes it.
        }
        let opener = opener(&self.storage, self.path, &base, false);
        let mut next = inventory.as_ref().map_or_else(|| base.clone(), |inventory| inventory.manifest(&base));
        let mut numbers = next.next_file.0.max(self.highest_number()?.saturating_add(1));
        let mut allocate = || {
            let number = FileNumber(numbers);
            numbers = numbers.saturating_add(1);
            number
        };
        let mut written = Vec::new();
        for entry in &mut next.collections {
            let mended = collection::mend(&opener, entry, inventory.is_some(), &mut allocate)?;
            let Some(Mended { entry: better, files, damage, repair }) = mended else { continue };
            *entry = better;
            written.extend(files);
            for (meta, error) in damage {
                self.report.found(&error);
                self.aside.push(opener.dir.join(meta.name().to_string()));
            }
            self.report.collections.push(repair);
        }
        // Also where only the log is mended: a repair that was cut off may have left files.
        next.next_file = FileNumber(numbers);
        if self.report.was_damaged() {
            commit_files(&self.storage, &opener.dir, written)?;
            let manifests = directory.manifests.iter().chain(&directory.old_manifests);
            next.number = FileNumber(manifests.map(|number| number.0).max().unwrap_or(0) + 1);
            next.publish(&self.storage, self.path)?;
            if let Some(inventory) = &inventory {
                let named: Vec<String> = next.files().map(|meta| meta.name().to_string()).collect();
                let unnamed = inventory.names.iter().filter(|name| !named.contains(name));
                self.aside.extend(unnamed.map(|name| opener.dir.join(name)));
            }
            self.move_aside(next.number)?;
        }
        self.mend_log(next, inventory.as_ref())
    }

    /// The manifest to go by; if that is not the newest one, with what the files themselves say.
    fn find_manifest(&mut self, directory: &Directory) -> Result<(Manifest, Option<Inventory>)> {
        let mut found = None;
        let current =
            directory.manifests.iter().rev().map(|number| (manifest::path(self.path, *number), number));
        let old = directory.old_manifests.iter().rev();
        let old = old.map(|number| (manifest::old_path(self.path, *number), number));
        for (path, number) in current.chain(old) {
            match Manifest::read_from(&self.storage, &path, *number) {
                Ok(manifest) => {
                    found = Some(manifest);
                    break;
                }
                Err(error) if is_damage(&error) => {
                    self.report.found(&error);
                    self.aside.push(path);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let is_newest = found.as_ref().is_some_and(|found| Some(&found.number) == directory.manifests.last());
        if let (Some(manifest), true) = (&found, is_newest) {
            return Ok((manifest.clone(), None));
        }
        let inventory = Inventory::take(&self.storage, &self.path.join(DATA_DIR))?;
        inventory.unreadable.iter().for_each(|error| self.report.found(error));
        if found.is_none() && directory.manifests.is_empty() && inventory.names.is_empty() {
            let log = self.list(&self.path.join(WAL_DIR))?;
            return if log.iter().any(|file| file.name.ends_with(".wal")) {
                Err(self.nothing_left())
            } else {
                Ok((Manifest { number: FileNumber(0), ..Manifest::new([0; 16]) }, None))
            };
        }
        if directory.manifests.is_empty() {
            self.report.found(&StorageError::corrupted(self.path, 0, "every manifest is missing"));
        }
        let base = match (found, inventory.database) {
            (Some(manifest), _) => {
                self.report.manifest = Some(format!(
                    "manifest {} took the place of a newer one that is damaged, together with the files that are \
                     there; collections created or dropped with the newer one are not known to be",
                    manifest.number
                ));
                manifest
            }
            (None, Some(database)) => {
                self.report.manifest = Some(
                    "no manifest can be read; the files say what there is, but not the names of collections"
                        .to_owned(),
                );
                Manifest::new(database)
            }
            (None, None) => return Err(self.nothing_left()),
        };
        Ok((base, Some(inventory)))
    }

    /// The highest number that any sealed file has, or 0.
    fn highest_number(&self) -> Result<u64> {
        let files = self.list(&self.path.join(DATA_DIR))?;
        let numbers = files.iter().filter_map(|file| FileName::parse(&file.name)).map(|name| name.number.0);
        Ok(numbers.max().unwrap_or(0))
    }

    /// What is in a directory, which need not be there.
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        match self.storage.list(dir) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            entries => Ok(entries?),
        }
    }

    fn nothing_left(&self) -> Error {
        let what = "no manifest and no file with data can be read: nothing says what the database was";
        StorageError::corrupted(self.path, 0, what).into()
    }

    /// Moves what is damaged to a directory of this repair's own.
    fn move_aside(&mut self, repair: FileNumber) -> Result<()> {
        let mut moved = Vec::new();
        let target = self.path.join(LOST_DIR).join(format!("{:012}", repair.0));
        self.aside.sort();
        self.aside.dedup();
        for from in &self.aside {
            if moved.is_empty() {
                self.storage.create_dir(&target)?;
            }
            let to = target.join(from.file_name().unwrap_or_default());
            match self.storage.rename_noreplace(from, &to) {
                Ok(()) => moved.push(from.clone()),
                // Damage includes that it is missing.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let mut touched: Vec<PathBuf> =
            moved.iter().filter_map(|from| from.parent().map(Path::to_path_buf)).collect();
        touched.extend([target.clone(), self.path.join(LOST_DIR), self.path.to_path_buf()]);
        touched.dedup();
        for dir in touched {
            self.storage.sync_dir(&dir)?;
        }
        self.report.files_moved += moved.len() as u64;
        self.report.moved_to = Some(target);
        Ok(())
    }
}

impl Repair<'_> {
    /// Takes what is whole out of a damaged log, and begins a new one. Where the newest manifest is lost, so is
    /// what it knew about the log: then that is done in any case.
    fn mend_log(&mut self, manifest: Manifest, inventory: Option<&Inventory>) -> Result<()> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let anchor = match inventory {
            None => manifest.anchor(),
            Some(_) => Anchor { after: manifest.wal_pointer, ..Anchor::START },
        };
        if inventory.is_none() && !log::is_damaged(&storage, self.path, manifest.database, &anchor)? {
            return Ok(());
        }
        let Some(directory) = Directory::read(&self.storage, self.path)? else { return Ok(()) };
        let Some(lock) = self.lock.take() else { return Ok(()) };
        let number = manifest.number;
        let newest_known = manifest.newest_segment;
        let core = recover::assemble(self.options.clone(), self.storage.clone(), &directory, manifest, lock)?;
        let salvaged = core.flush_salvaged(&anchor)?;
        let (repaired, findings) = log::report(&salvaged, inventory.is_none(), anchor.after);
        for Finding { file, offset, what, .. } in findings {
            let offset = Some(offset);
            self.report.findings.push(check::Finding { severity: Severity::Damage, file, offset, what });
        }
        let last_segment = salvaged.segments.last().copied().unwrap_or_default().max(newest_known);
        let dir = self.path.join(WAL_DIR);
        self.aside = salvaged.segments.iter().map(|number| segment_path(&dir, *number)).collect();
        self.move_aside(number)?;
        let last = salvaged.last.max(inventory.map_or(Lsn::ZERO, |inventory| inventory.last_lsn));
        core.begin_log(last, last_segment)?;
        self.report.log = Some(repaired);
        Ok(())
    }
}
