//! `repair`: makes a damaged database one that opens, out of everything in it that is whole.
//!
//! Where nothing is damaged, nothing is done. Otherwise: the newest manifest that can be read says what there is,
//! and where none can, the headers of the files do. Of each damaged collection the documents that can be read are
//! written again if their file is damaged, and what is derived from them (kills, lists) is made anew. A damaged
//! log gives all records that are whole. Then a new manifest is published, and only after that what was damaged is
//! moved to `lost/`, with a report: a repair that is interrupted has lost nothing, and is simply run again.

pub(crate) mod aside;
mod collection;
mod inventory;
mod log;
mod medium;
mod overlay;
mod report;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{Lock, MeteredStorage, OsStorage, Storage, Syncs, WriteFile, list_if_there};
use plimsoll_base::{CollectionId, FileNumber, Lsn, Metric, StorageError};
use plimsoll_shard::{FileName, commit_files};
use plimsoll_wal::format::segment_path;
use plimsoll_wal::{Anchor, Finding};

use crate::check::{self, Severity, VerifyReport, verify_in};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::manifest::{self, CollectionEntry, Manifest};
use crate::options::{CollectionConfig, DatabaseBuilder, Options};
use crate::read_only::ReadOnlyDatabase;
use crate::recover::{self, DATA_DIR, Directory, LOCK_NAME, WAL_DIR, opener};
use crate::system::is_system;
use crate::unnamed;
pub(crate) use aside::{LOST_DIR, finish as finish_cut_off};
use collection::Mended;
use inventory::{Inventory, Missing};
use medium::BadMedium;
use overlay::Overlay;
pub use report::{CollectionRepair, LogRepair, RepairReport};

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
        note: None,
        moved: String::new(),
        log_has_gap: false,
    };
    repair.run()?;
    let report = std::mem::take(&mut repair.report);
    drop(repair);
    if report.was_damaged() {
        // The proof: it opens, recovers its log, and is sound. (Closing it would merge files.)
        drop(settings().open()?);
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
    // A crashed writer's last records are shown only once a writer has recovered them.
    let settings = DatabaseBuilder::new(path).storage(Arc::clone(&overlay)).background(false).create(false);
    drop(settings.open()?);
    Ok((ReadOnlyDatabase::open_in(path, overlay, false)?, report))
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
    /// What is written down for whoever comes next, if this repair is cut off.
    note: Option<Box<dyn WriteFile>>,
    /// The files that were moved away, a line each.
    moved: String,
    /// Whether batches may be missing before the log's beginning.
    log_has_gap: bool,
}

/// Whether an error says that bytes are not what they were, or can not be read.
fn is_damage(error: &StorageError) -> bool {
    let is_gone = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::UnexpectedEof);
    matches!(error, StorageError::Corrupted { .. })
        || error.io_kind().is_some_and(is_gone)
        || error.is_medium_error()
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
        let was_created = !directory.manifests.is_empty() || !directory.old_manifests.is_empty();
        if was_created && !directory.has_data {
            let data = self.path.join(DATA_DIR);
            self.report.found(&StorageError::corrupted(&data, 0, "the directory is missing"));
            self.storage.create_dir(&data)?;
            self.storage.sync_dir(self.path)?;
        }
        let (base, inventory) = self.find_manifest(&directory)?;
        if base.number.0 == 0 && inventory.is_none() {
            return Ok(()); // Begun, and nothing in it yet: the next writer completes it.
        }
        let opener = opener(&self.storage, self.path, &base, false);
        let mut next = inventory.as_ref().map_or_else(|| base.clone(), |inventory| inventory.manifest(&base));
        let mut numbers = self.free_number(next.next_file)?;
        let mut allocate = || {
            let number = FileNumber(numbers);
            numbers = numbers.saturating_add(1);
            number
        };
        let mut written = Vec::new();
        for entry in &mut next.collections {
            let missing = inventory.as_ref().map(|inventory| {
                let before = base.collection(entry.id);
                before.map_or_else(Missing::default, |before| inventory.missing(before))
            });
            // What sound files hold need not be read from the log again, which may have lost what came after it.
            let covered = inventory.as_ref().and_then(|inventory| inventory.covered(entry.id));
            let is_all_there = missing.as_ref().is_some_and(|missing| missing.documents == 0);
            let mended = collection::mend(&opener, entry, missing, &mut allocate)?;
            let Some(Mended { entry: better, files, damage, repair }) = mended else { continue };
            *entry = better;
            if damage.is_empty() && is_all_there && !mutant::is(Mutant::RepairReplaysOver) {
                entry.flushed = entry.flushed.max(covered.unwrap_or_default());
            }
            written.extend(files);
            for (meta, error) in damage {
                self.report.found(&error);
                self.aside.push(opener.dir.join(meta.name().to_string()));
            }
            // The system table is worth a word only if something of it is lost.
            if !is_system(entry.id) || repair.lost_anything() {
                self.report.collections.push(repair);
            }
        }
        // Also where only the log is mended: a repair that was cut off may have left files.
        next.next_file = FileNumber(numbers);
        if self.report.was_damaged() {
            commit_files(&self.storage, &opener.dir, written, Syncs::InOrder)?;
            let manifests = directory.manifests.iter().chain(&directory.old_manifests);
            let ours = manifests.filter(|number| manifest::is_within_reach(**number, base.number));
            next.number = FileNumber(ours.map(|number| number.0).max().unwrap_or(0) + 1);
            if let Some(inventory) = &inventory {
                self.believe_log(&mut next, base.next_collection, inventory)?;
            }
            // Nothing is published that is not sound.
            for entry in &next.collections {
                check::check_collection(&opener, entry)?;
            }
            self.note(next.number)?;
            if mutant::is(Mutant::RepairMovesFirst) {
                self.move_aside(next.number)?;
            }
            next.publish(&self.storage, self.path)?;
            self.move_aside(next.number)?;
        }
        // What has the lock from here on, if that is not the repair: nobody else may have files that no manifest names.
        let _locked = self.mend_log(next, inventory.as_ref())?;
        if self.report.was_damaged() { self.move_unnamed_aside() } else { Ok(()) }
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
        for unfinished in aside::directories(&self.storage, self.path)? {
            if unfinished.is_unfinished {
                let what = "an earlier repair was cut off";
                self.report.found(&StorageError::corrupted(&unfinished.path, 0, what));
                self.report.earlier.push(unfinished.path);
            }
        }
        let is_newest = found.as_ref().is_some_and(|found| Some(&found.number) == directory.manifests.last());
        let mut newer = None;
        if let (Some(manifest), true) = (&found, is_newest) {
            newer = unnamed::newer_than_the_log(&self.storage, self.path, manifest)?;
            let Some(newer) = &newer else {
                aside::finish(&self.storage, self.path, manifest)?;
                return Ok((manifest.clone(), None));
            };
            self.report.found(&StorageError::corrupted(&newer.file, 0, newer.to_string()));
        }
        let inventory = Inventory::take(
            &self.storage,
            &self.path.join(DATA_DIR),
            found.as_ref().map(|found| found.database),
        )?;
        inventory.unreadable.iter().for_each(|error| self.report.found(error));
        if found.is_none() && directory.manifests.is_empty() && inventory.names.is_empty() {
            let log = list_if_there(&self.storage, &self.path.join(WAL_DIR))?;
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
                let became = if newer.is_some() { "that is gone" } else { "that is damaged" };
                self.report.manifest = Some(format!(
                    "manifest {} took the place of a newer one {became}, together with the files that are there; \
                     collections created or dropped with the newer one are not known to be",
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

    /// The first number at or above `known` from which on no file has one.
    fn free_number(&self, known: FileNumber) -> Result<u64> {
        let files = list_if_there(&self.storage, &self.path.join(DATA_DIR))?;
        let numbers = files.iter().filter_map(|file| FileName::parse(&file.name)).map(|name| name.number);
        let ours = numbers.filter(|number| manifest::is_within_reach(*number, known));
        Ok(ours.map(|number| number.0 + 1).max().unwrap_or(0).max(known.0))
    }

    fn nothing_left(&self) -> Error {
        let what = "no manifest and no file with data can be read: nothing says what the database was";
        StorageError::corrupted(self.path, 0, what).into()
    }
}

impl Repair<'_> {
    /// Adds to a manifest that was put together what the log says: where it begins, and of which collections, from
    /// `unknown` on, only it knows.
    fn believe_log(
        &mut self,
        next: &mut Manifest,
        unknown: CollectionId,
        inventory: &Inventory,
    ) -> Result<()> {
        // The log goes on where it is, and no LSN is given twice, whatever the older manifest knew.
        let before = log::before(&self.storage, self.path, next.database)?;
        let known = next.wal_pointer.max(next.durable).max(inventory.last_lsn);
        self.log_has_gap = before > known;
        next.advance(before);
        next.durable = next.durable.max(inventory.last_lsn);
        let anchor = Anchor { after: next.wal_pointer, ..Anchor::START };
        for (id, dimension) in log::collections(&self.storage, self.path, next.database, &anchor)? {
            // One with a lower number, which no manifest names, was dropped.
            if id < unknown || next.collection(id).is_some() {
                continue;
            }
            let config = CollectionConfig::new(dimension, Metric::Cosine);
            let name = format!("collection-{id}");
            if let Some(said) = &mut self.report.manifest {
                said.push_str(&format!("; {name} is known from the log only: its name and metric are lost"));
            }
            next.collections.push(CollectionEntry::new(id, &name, config, next.wal_pointer));
            next.next_collection = next.next_collection.max(CollectionId(id.0.saturating_add(1)));
        }
        Ok(())
    }

    /// Takes what is whole out of a damaged log, and begins a new one. Where the newest manifest is lost, so is
    /// what it knew about the log: then that is done in any case. Returns what has the lock then.
    fn mend_log(&mut self, manifest: Manifest, inventory: Option<&Inventory>) -> Result<Option<Arc<Core>>> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let anchor = match inventory {
            None => manifest.anchor(),
            Some(_) => Anchor { after: manifest.wal_pointer, ..Anchor::START },
        };
        let damage = log::damage(&storage, self.path, manifest.database, &anchor)?;
        if inventory.is_none() && damage.is_empty() {
            return Ok(None);
        }
        let Some(directory) = Directory::read(&self.storage, self.path)? else { return Ok(None) };
        let Some(lock) = self.lock.take() else { return Ok(None) };
        let number = manifest.number;
        // What the system table has lost is no users' loss.
        let users = manifest.collections.iter().filter(|entry| !is_system(entry.id));
        let stored = users.map(|entry| entry.flushed).min().unwrap_or_default();
        let newest_known = manifest.newest_segment;
        let core = recover::assemble(self.options.clone(), self.storage.clone(), &directory, manifest, lock)?;
        // Files that were emptied are put aside in the end, as all that no manifest names.
        crate::core::lock(&core.root).keeps_obsolete = true;
        let least = inventory.map_or(Lsn::ZERO, |inventory| inventory.last_lsn);
        // Once to know what is lost, and to write it down; then to store what is not.
        let database = crate::core::lock(&core.root).manifest.database;
        let wal = self.path.join(WAL_DIR);
        let salvaged = plimsoll_wal::salvage(&*storage, &wal, database, &anchor, |_| Ok::<(), Error>(()))?;
        let (repaired, findings) = log::report(&salvaged, inventory.is_none(), &anchor, stored);
        for Finding { file, offset, what, .. } in if findings.is_empty() { damage } else { findings } {
            let offset = Some(offset);
            self.report.findings.push(check::Finding { severity: Severity::Damage, file, offset, what });
        }
        self.report.log = Some(LogRepair { uncounted: repaired.uncounted || self.log_has_gap, ..repaired });
        self.note(number)?;
        core.flush_salvaged(&anchor, least)?;
        let ours =
            salvaged.segments.iter().filter(|number| manifest::is_within_reach(**number, newest_known));
        let last_segment = ours.max().copied().unwrap_or_default().max(newest_known);
        let dir = self.path.join(WAL_DIR);
        self.aside = salvaged.segments.iter().map(|number| segment_path(&dir, *number)).collect();
        self.note(number)?;
        self.move_aside(number)?;
        core.begin_log(salvaged.last.max(least), last_segment)?;
        Ok(Some(core))
    }
}
