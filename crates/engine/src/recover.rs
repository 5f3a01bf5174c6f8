//! Opening: from a directory to an open database.
//!
//! Lock → newest manifest → open its files → remove what no manifest names → replay the log above each
//! collection's flushed LSN, flushing on the way when it is large. Opening twice changes nothing, and what is read
//! grows with the number of files and with the unflushed log, not with rows (rule R15).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{DirEntry, MeteredStorage, Storage};
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::{FileNumber, Lsn, StorageError};
use plimsoll_shard::{FileName, ReadMode};
use plimsoll_wal::{Record, Recovered, SaltSource, WalOptions, recover as replay};

use crate::buffer::EVERYTHING;
use crate::commit::apply;
use crate::core::{Core, Parts, Root, lock};
use crate::error::{Error, Result};
use crate::flush::{FlushRun, Touched};
use crate::manifest::{self, CollectionEntry, Manifest};
use crate::options::Options;
use crate::repair::{LOST_DIR, finish_cut_off};
use crate::reserve::{RESERVE_NAME, Reserve, ReserveState};
use crate::state::{CollectionState, Published, State};
use crate::stats::{FlushReason, RecoveryStats};
use crate::tree::{Damaged, FileOpener, Tree};
use crate::unnamed;

/// The lock file's name in the database's directory.
pub(crate) const LOCK_NAME: &str = "LOCK";
/// The directory of the log.
pub(crate) const WAL_DIR: &str = "wal";
/// The directory of the sealed files.
pub(crate) const DATA_DIR: &str = "data";

/// How often a directory without a manifest is listed again. A listing is not of one moment: where a writer replaces the
/// manifest meanwhile, it may show neither the one nor the other.
const LISTINGS: usize = 3;

/// What a database's directory holds.
pub(crate) struct Directory {
    pub manifests: Vec<FileNumber>,
    /// Manifests that were put by for a repair.
    pub old_manifests: Vec<FileNumber>,
    pub reserve: ReserveState,
    /// Files left over from a publish that did not finish.
    pub temporary: Vec<String>,
    /// Whether the directory of the sealed files is there.
    pub has_data: bool,
    foreign: Option<String>,
    is_empty: bool,
}

impl Directory {
    /// Looks into a directory; `None` if it does not exist.
    pub(crate) fn read(storage: &dyn Storage, path: &Path) -> Result<Option<Self>> {
        let mut read = Self::list(storage, path)?;
        for _ in 0..LISTINGS {
            match &read {
                Some(directory) if directory.manifests.is_empty() && !directory.is_empty => {
                    read = Self::list(storage, path)?;
                }
                _ => break,
            }
        }
        Ok(read)
    }

    fn list(storage: &dyn Storage, path: &Path) -> Result<Option<Self>> {
        let entries = match storage.list(path) {
            Ok(entries) => entries,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut directory = Self {
            manifests: Vec::new(),
            old_manifests: Vec::new(),
            reserve: ReserveState::Never,
            temporary: Vec::new(),
            has_data: false,
            foreign: None,
            is_empty: entries.is_empty(),
        };
        entries.into_iter().for_each(|entry| directory.sort(entry));
        directory.manifests.sort_unstable();
        directory.old_manifests.sort_unstable();
        Ok(Some(directory))
    }

    fn sort(&mut self, DirEntry { name, is_dir, len }: DirEntry) {
        // It may be a link to one.
        self.has_data |= name == DATA_DIR;
        let temporary = name.strip_suffix(".tmp").and_then(manifest::number_of);
        let old = manifest::old_number_of(&name);
        match (name.as_str(), is_dir) {
            (LOCK_NAME, false) | (WAL_DIR | DATA_DIR, true) => {}
            (LOST_DIR, true) => {}
            (RESERVE_NAME, false) => self.reserve = ReserveState::of_length(len),
            (_, false) if temporary.is_some() => self.temporary.push(name),
            (_, false) if old.is_some() => self.old_manifests.extend(old),
            (_, false) if manifest::number_of(&name).is_some() => {
                self.manifests.extend(manifest::number_of(&name));
            }
            _ => self.foreign = self.foreign.take().or(Some(name)),
        }
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Whether it holds something that no database does.
    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// Whether whoever began to create a database here did not get as far as its first manifest.
    pub(crate) fn is_begun(&self) -> bool {
        self.manifests.is_empty() && self.foreign.is_none() && !self.is_empty
    }

    /// The error about a directory that may become a database.
    pub(crate) fn not_yet(&self, path: &Path) -> Error {
        let what = if self.is_begun() {
            "its creation was interrupted, and it holds nothing yet"
        } else {
            "it is empty"
        };
        Error::NotADatabase { path: path.to_path_buf(), what: what.to_owned() }
    }

    /// The newest manifest; `None` if the directory may become a database.
    pub(crate) fn newest(&self, storage: &dyn Storage, path: &Path) -> Result<Option<Manifest>> {
        if let Some(number) = self.manifests.last() {
            return Ok(Some(Manifest::read(storage, path, *number)?));
        }
        if let Some(what) = &self.foreign {
            let what = format!("it holds {what:?} and no manifest");
            return Err(Error::NotADatabase { path: path.to_path_buf(), what });
        }
        if let Some(old) = self.old_manifests.last() {
            let file = manifest::old_path(path, *old);
            let what = "it is here but every newer manifest is missing";
            return Err(StorageError::corrupted(&file, 0, what).into());
        }
        for dir in [WAL_DIR, DATA_DIR] {
            let dir = path.join(dir);
            let files = match storage.list(&dir) {
                Err(error) if error.is_not_found() => continue,
                files => files?,
            };
            if let Some(file) = files.iter().find(|file| !file.name.ends_with(".tmp")) {
                let what = format!("{} is here but every manifest is missing", file.name);
                return Err(StorageError::corrupted(&dir.join(&file.name), 0, what).into());
            }
        }
        Ok(None)
    }
}

/// Opens the database in `options.path`, creating it if it may.
pub(crate) fn open(options: Options) -> Result<Arc<Core>> {
    let start = Instant::now();
    let storage = MeteredStorage::new(Arc::clone(&options.storage));
    let path = options.path.clone();
    match Directory::read(&storage, &path)? {
        None if !options.create => return Err(Error::DatabaseNotFound(path)),
        Some(directory) if directory.newest(&storage, &path)?.is_none() && !options.create => {
            return Err(directory.not_yet(&path));
        }
        None => storage.create_dir(&path)?,
        Some(_) => {}
    }
    let lock = storage.lock(&path.join(LOCK_NAME))?;
    // Again, under the lock: another process may just have created or changed it.
    let directory = Directory::read(&storage, &path)?.ok_or_else(|| Error::DatabaseNotFound(path.clone()))?;
    let manifest = match directory.newest(&storage, &path)? {
        Some(manifest) => {
            // Who published it may have died before its name was durable; what it replaced goes only after.
            storage.sync_dir(&path)?;
            if !directory.has_data {
                let what = "the directory is missing";
                return Err(StorageError::corrupted(&path.join(DATA_DIR), 0, what).into());
            }
            manifest
        }
        None => create_database(&storage, &options, &directory)?,
    };
    let core = assemble(options, storage, &directory, manifest, lock)?;
    finish_cut_off(&core.storage, &core.options.path, &crate::core::lock(&core.root).manifest)?;
    // Before the replay, which may flush: no file that a crash left behind may stand in the way of a new one.
    let orphans_removed = make_way(&core, &directory)?;
    let mut recovery = RecoveryStats { orphans_removed, ..RecoveryStats::default() };
    let recovered = replay_log(&core, &mut recovery)?;
    recovery.orphans_removed += remove_orphans(&core)?;
    {
        let mut log = lock_log(&core);
        let is_unnamed = recovered.newest().0 > core.newest_segment.load(Ordering::Acquire);
        if is_unnamed && !mutant::is(Mutant::NameSegmentUnsynced) {
            // Who started it may have died before its name was durable, and a manifest is to name it.
            core.storage.sync_dir(&core.options.path.join(WAL_DIR))?;
        }
        log.wal = Some(recovered.into_wal(wal_options(&core.options), salts(core.options.seed)));
        if core.note_segment(&log) {
            core.signals.segment_due(Duration::ZERO);
        }
    }
    core.load_ledger()?;
    recovery.total = start.elapsed();
    core.finish_recovery(recovery);
    core.reserve.replenish(&core.storage);
    Ok(core)
}

/// How the log is laid out.
pub(crate) fn wal_options(options: &Options) -> WalOptions {
    WalOptions { segment_bytes: options.wal_segment_bytes }
}

fn lock_log(core: &Core) -> plimsoll_base::sync::MutexGuard<'_, crate::core::Log> {
    lock(&core.log)
}

/// Makes the names of a directory and of all above it durable: who created them may have died before it did.
pub(crate) fn sync_names_of(storage: &dyn Storage, path: &Path) -> Result<()> {
    for parent in path.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match storage.sync_dir(parent) {
            // What another user owns was there before, and needs no sync of ours.
            Err(error) if error.io_kind() == Some(std::io::ErrorKind::PermissionDenied) => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// Writes the first manifest. Nothing else is there before it is durable.
fn create_database(storage: &dyn Storage, options: &Options, directory: &Directory) -> Result<Manifest> {
    let path = &options.path;
    sync_names_of(storage, path)?;
    for dir in [WAL_DIR, DATA_DIR] {
        storage.create_dir(&path.join(dir))?;
    }
    for name in &directory.temporary {
        storage.remove(&path.join(name))?;
    }
    storage.sync_dir(path)?;
    let mut random = salts(options.seed);
    let (high, low) = (random(), random());
    let mut manifest = Manifest::new((u128::from(high) << 64 | u128::from(low)).to_le_bytes());
    manifest.collections.push(CollectionEntry::system());
    manifest.publish(storage, path)?;
    Ok(manifest)
}

/// Random numbers: the operating system's, or those of a seed.
pub(crate) fn salts(seed: Option<u64>) -> SaltSource {
    match seed {
        None => Box::new(|| uuid::Uuid::new_v4().as_u64_pair().0),
        Some(mut state) => Box::new(move || {
            // SplitMix64 (Steele, Lea and Flood, 2014).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        }),
    }
}

pub(crate) fn assemble(
    options: Options,
    storage: MeteredStorage,
    directory: &Directory,
    manifest: Manifest,
    lock: Box<dyn plimsoll_base::storage::Lock>,
) -> Result<Arc<Core>> {
    let mut opener = opener(&storage, &options.path, &manifest, options.mapped);
    opener.damaged = Damaged::OrMissingLeftOut;
    let state = open_state(&manifest, &opener)?;
    opener.damaged = Damaged::Fails;
    let visible = manifest.collections.iter().map(|entry| entry.flushed).max().unwrap_or_default();
    let reserve = Reserve::new(&options.path, directory.reserve);
    let mut old_manifests = directory.manifests.clone();
    old_manifests.retain(|number| *number != manifest.number);
    let root = Root {
        previous: old_manifests.pop(),
        kept: directory.old_manifests.last().copied(),
        old_manifests,
        manifest,
        ambiguous: false,
        keeps_obsolete: false,
        graveyard: Vec::new(),
    };
    let published = Published::new(state, visible);
    let parts = Parts { options, storage, opener, published, root, lock, reserve };
    Ok(Arc::new_cyclic(|me| Core::new(parts, Weak::clone(me))))
}

/// How the files of a database are opened.
pub(crate) fn opener(storage: &MeteredStorage, path: &Path, manifest: &Manifest, mapped: bool) -> FileOpener {
    FileOpener {
        storage: Arc::new(storage.clone()),
        dir: path.join(DATA_DIR),
        database: manifest.database,
        mode: if mapped { ReadMode::Mapped } else { ReadMode::Owned },
        damaged: Damaged::Fails,
    }
}

/// Opens every file that a manifest names.
pub(crate) fn open_state(manifest: &Manifest, opener: &FileOpener) -> Result<State> {
    let mut state = State::default();
    for entry in &manifest.collections {
        let tree = Tree::open(entry, opener, None)?;
        state.collections.insert(entry.id, Arc::new(CollectionState::new(tree)));
    }
    Ok(state)
}

fn replay_log(core: &Core, stats: &mut RecoveryStats) -> Result<Recovered> {
    let start = Instant::now();
    let dir: PathBuf = core.options.path.join(WAL_DIR);
    let storage: Arc<dyn Storage> = Arc::new(core.storage.clone());
    let (anchor, database) = {
        let root = lock(&core.root);
        (root.manifest.anchor(), root.manifest.database)
    };
    core.published.advance(anchor.after);
    let mut bytes = 0;
    let visit = |record: Record| -> Result<()> {
        bytes += record.encoded_len() as u64;
        // Only what is proven durable may be published (rule R3): at the first record of a sync group, that
        // is everything before it.
        let is_durable = record.durable_before() >= core.published.visible();
        core.replay_record(record, is_durable)
    };
    let recovered = replay(&storage, &dir, database, &anchor, visit)?;
    core.published.advance(Lsn(recovered.next_lsn().0.saturating_sub(1)));
    stats.records = recovered.records();
    stats.wal_bytes = bytes;
    stats.replay = start.elapsed();
    if let Some(cut) = recovered.cut() {
        tracing::warn!(file = %cut.file.display(), offset = cut.offset, lsn = %cut.lsn, "a torn tail was cut: {}", cut.what);
    }
    Ok(recovered)
}

impl Core {
    /// Applies a record of the log. Before that, flushes if there is much to flush and all of it `is_durable`.
    pub(crate) fn replay_record(&self, record: Record, is_durable: bool) -> Result<()> {
        if is_durable && self.published.state().memtable_bytes() > self.options.memtable_bytes {
            self.flush_replayed(self.published.visible())?;
        }
        let log = self.options.path.join(WAL_DIR);
        let lsn = apply(&self.published.state(), Arc::new(record), &log, self.now())?;
        self.published.advance(lsn);
        Ok(())
    }

    /// Flushes what was replayed so far; all of it is durable.
    pub(crate) fn flush_replayed(&self, durable: Lsn) -> Result<()> {
        self.replayed_durable.store(durable.0, Ordering::Release);
        self.seal_all(durable);
        let run = FlushRun { reason: FlushReason::Recovery, only: None, up_to: EVERYTHING, job: None };
        self.flush_internal(&run, &mut Touched::default()).map(|_| ())
    }
}

/// Gives no number again that a sealed file has, and removes what is left of other files: manifests that were replaced
/// or that nobody published.
fn make_way(core: &Core, directory: &Directory) -> Result<usize> {
    let mut root = lock(&core.root);
    core.bury(&mut root);
    for entry in core.storage.list(core.data_dir())? {
        let Some(name) = FileName::parse(&entry.name) else { continue };
        if entry.is_dir || !manifest::is_within_reach(name.number, root.manifest.next_file) {
            tracing::warn!(name = %entry.name, "this is not of the database, and is left alone");
            continue;
        }
        core.never_reuse(name.number);
    }
    let mut removed = 0;
    // A crash came between putting one by and removing the one before.
    let surplus = directory.old_manifests.iter().rev().skip(1);
    let surplus = surplus.map(|number| manifest::old_path(&core.options.path, *number));
    let temporary = directory.temporary.iter().map(|name| core.options.path.join(name));
    for path in surplus.chain(temporary) {
        match core.storage.remove(&path) {
            // The creation of the database removed it already.
            Err(error) if error.is_not_found() => {}
            result => {
                result?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// Removes files that no manifest names: those of a flush or a compaction that did not finish, and those
/// that a finished one replaced. All that they hold is in the log or in other files, or the database does not open.
fn remove_orphans(core: &Core) -> Result<usize> {
    let root = lock(&core.root);
    let known = core.published.visible().max(root.manifest.anchor().durable);
    let files = unnamed::files(&core.storage, &core.options.path, &root.manifest)?;
    let newer = unnamed::postings_above(&core.storage, &files, &root.manifest, known);
    if let Some(newer) = newer.first().filter(|_| !mutant::is(Mutant::OpeningRemovesNewer)) {
        return Err(StorageError::corrupted(&newer.file, 0, newer.to_string()).into());
    }
    let next_file = root.manifest.next_file;
    let mut removed = 0;
    for (file, _) in files.iter().filter(|(_, name)| manifest::is_within_reach(name.number, next_file)) {
        core.storage.remove(file)?;
        removed += 1;
    }
    if removed > 0 {
        core.storage.sync_dir(core.data_dir())?;
    }
    Ok(removed)
}
