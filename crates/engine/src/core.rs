//! The open database: what the commit leader, the flusher, the compactor and every handle share.
//!
//! **Locks, in the order in which they may be taken:** `flushing` or `compacting` (one of a kind at a time; a compaction
//! takes `flushing` only to install) → the ledger of `jobs` → `log` (the commit leader; also creation and dropping of
//! collections) → `root` (the manifest). Readers take none.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{IoStats, Lock, MeteredStorage, Storage, Syncs};
use plimsoll_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use plimsoll_base::sync::{Condvar, Mutex, MutexGuard};
use plimsoll_base::{CollectionId, FileNumber, Lsn, StorageError};
use plimsoll_shard::FileMeta;
use plimsoll_wal::{GroupCommit, Wal};

use crate::background::Signals;
use crate::buffer::{Budget, Buffer};
use crate::commit::{Outcome, Request};
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::manifest::{self, Manifest};
use crate::options::Options;
use crate::policy::Measured;
use crate::reserve::Reserve;
use crate::source::Claims;
use crate::state::Published;
use crate::stats::{FlushStats, FlushTimes, RecoveryStats};
use crate::tree::FileOpener;

/// Everything the handles of one open database share.
pub(crate) struct Core {
    pub options: Options,
    pub storage: MeteredStorage,
    pub opener: FileOpener,
    pub published: Published,
    pub commits: GroupCommit<Request, Outcome>,
    pub log: Mutex<Log>,
    /// A sync of the log beside the writers has ended.
    pub log_synced: Condvar,
    pub root: Mutex<Root>,
    pub flushing: Mutex<()>,
    pub compacting: Mutex<()>,
    pub signals: Signals,
    pub jobs: Jobs,
    /// The sources that are open: each has one writer.
    pub sources: Claims,
    /// What flushes have cost, per collection.
    pub measured: Mutex<HashMap<CollectionId, Measured>>,
    pub counters: Counters,
    pub reserve: Reserve,
    /// What buffered writes may take until they are durable.
    pub budget: Budget,
    recovery: OnceLock<RecoveryStats>,
    /// While the log is being replayed: what is known to be durable.
    pub replayed_durable: AtomicU64,
    /// A collection was dropped by a manifest of which it is unknown whether it is on disk.
    pub unsettled: AtomicBool,
    /// The last write of a user: of nothing but the system table are the writes of jobs about themselves.
    pub last_user: AtomicU64,
    /// The log's newest segment: the next manifest names it, so that it is missed if it goes missing.
    pub newest_segment: AtomicU64,
    /// Why no log segment could be prepared ahead: the last one is kept for deletes and flushes (rule R16).
    pub last_segment: Mutex<Option<StorageError>>,
    next_file: AtomicU64,
    closed: AtomicBool,
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
    /// What workers hold.
    pub(crate) me: Weak<Self>,
}

/// The log and what has been written to it but not yet synced.
pub(crate) struct Log {
    /// `None` while it is being replayed, and once the database is closed.
    pub wal: Option<Wal>,
    pub buffer: Buffer,
    /// How much had been logged when everything was last sealed to let the log shrink.
    pub checkpoint: u64,
    /// A thread syncs it beside the writers; another one waits.
    pub is_syncing: bool,
}

/// The newest manifest, and what it replaced.
pub(crate) struct Root {
    pub manifest: Manifest,
    /// An earlier attempt to publish may have reached the disk: the files of both stay (rule R8).
    pub ambiguous: bool,
    /// No sealed file is removed: a repair is under way, which puts them aside.
    pub keeps_obsolete: bool,
    /// The manifest before this one, to be put by as [`Root::kept`].
    pub previous: Option<FileNumber>,
    /// An earlier manifest under another name, by which a repair knows the collections if the newest is damaged.
    pub kept: Option<FileNumber>,
    /// Manifests before that one, and those of which it is unknown whether they were published.
    pub old_manifests: Vec<FileNumber>,
    /// Files that no manifest names any more, to be removed when no reader holds them (rule R9).
    pub graveyard: Vec<Grave>,
}

/// A file to be removed, and what keeps it open.
pub(crate) struct Grave {
    pub meta: FileMeta,
    pub held: Arc<dyn std::any::Any + Send + Sync>,
}

/// What has happened since opening.
#[derive(Default)]
pub(crate) struct Counters {
    pub batches: AtomicU64,
    pub failed_flushes: AtomicU64,
    pub compactions: AtomicU64,
    pub failed_compactions: AtomicU64,
    pub slowed: Waits,
    pub stopped: Waits,
    pub last_flush: Mutex<Option<FlushStats>>,
    pub phases: Mutex<FlushTimes>,
    pub background_error: Mutex<Option<String>>,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A flush succeeded that had something to do.
    pub(crate) fn flushed(&self, stats: &FlushStats) {
        lock(&self.phases).add(stats);
        #[cfg(feature = "metrics")]
        crate::metrics::record(stats);
        *lock(&self.last_flush) = Some(stats.clone());
    }
}

/// How often something was waited for, and how long in all.
#[derive(Default)]
pub(crate) struct Waits {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Waits {
    pub(crate) fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> (u64, Duration) {
        (self.count.load(Ordering::Relaxed), Duration::from_nanos(self.nanos.load(Ordering::Relaxed)))
    }
}

/// Locks a mutex. A thread that panicked while it held the lock left nothing half-done that a later holder
/// could mistake: every guarded value is changed in one step, or belongs to a log that the panic poisoned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The parts that opening a database puts together.
pub(crate) struct Parts {
    pub options: Options,
    pub storage: MeteredStorage,
    pub opener: FileOpener,
    pub published: Published,
    pub root: Root,
    pub lock: Box<dyn Lock>,
    pub reserve: Reserve,
}

impl Core {
    pub(crate) fn new(parts: Parts, me: Weak<Self>) -> Self {
        let reuse = mutant::is(Mutant::ReuseFileNumbers);
        let next_file = AtomicU64::new(if reuse { 1 } else { parts.root.manifest.next_file.0 });
        let newest_segment = AtomicU64::new(parts.root.manifest.newest_segment.0);
        let jobs = Jobs::new(parts.options.job_queue);
        let budget = Budget::new(parts.options.memtable_bytes as u64);
        Self {
            options: parts.options,
            storage: parts.storage,
            opener: parts.opener,
            published: parts.published,
            commits: GroupCommit::new(crate::commit::group_limits()),
            log: Mutex::new(Log { wal: None, buffer: Buffer::default(), checkpoint: 0, is_syncing: false }),
            log_synced: Condvar::new(),
            root: Mutex::new(parts.root),
            flushing: Mutex::new(()),
            compacting: Mutex::new(()),
            signals: Signals::default(),
            jobs,
            sources: Claims::default(),
            measured: Mutex::new(HashMap::new()),
            counters: Counters::default(),
            reserve: parts.reserve,
            budget,
            recovery: OnceLock::new(),
            replayed_durable: AtomicU64::new(0),
            unsettled: AtomicBool::new(false),
            last_user: AtomicU64::new(0),
            newest_segment,
            last_segment: Mutex::new(None),
            next_file,
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(parts.lock)),
            me,
        }
    }

    /// A file number that no file of this database has or had.
    pub(crate) fn allocate_file(&self) -> FileNumber {
        FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    /// Numbers up to `seen` are taken.
    pub(crate) fn never_reuse(&self, seen: FileNumber) {
        if !mutant::is(Mutant::ReuseFileNumbers) {
            self.next_file.fetch_max(seen.0.saturating_add(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn finish_recovery(&self, stats: RecoveryStats) {
        let _first = self.recovery.set(stats);
    }

    pub(crate) fn recovery(&self) -> RecoveryStats {
        self.recovery.get().copied().unwrap_or_default()
    }

    pub(crate) fn data_dir(&self) -> &PathBuf {
        &self.opener.dir
    }

    pub(crate) fn io(&self) -> IoStats {
        self.storage.stats()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Marks the database as closed; says whether it was open.
    pub(crate) fn mark_closed(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Publishes what `change` makes of the newest manifest, and returns it.
    ///
    /// A poisoned log publishes nothing (rule R6): whether its last records are on disk is unknown. A file
    /// number handed out before is never handed out again, also not after a crash, because each manifest says
    /// where to go on.
    pub(crate) fn publish(
        &self,
        root: &mut Root,
        durable: Lsn,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<()> {
        let next = self.next_manifest(root, durable, change)?;
        self.publish_next(root, next)
    }

    /// What `change` makes of the newest manifest, under its number, not published yet.
    pub(crate) fn next_manifest(
        &self,
        root: &Root,
        durable: Lsn,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<Manifest> {
        let mut next = root.manifest.clone();
        change(&mut next);
        next.number = FileNumber(root.manifest.number.0 + 1);
        if root.ambiguous {
            // Numbers of failed attempts may be taken, and are on the list of what is to be removed.
            let tried = root.old_manifests.iter().map(|number| number.0 + 1).max().unwrap_or(0);
            next.number = self.free_manifest_number(FileNumber(tried).max(next.number))?;
        }
        next.next_file = FileNumber(self.next_file.load(Ordering::Relaxed));
        if !mutant::is(Mutant::ForgetDurable) {
            next.durable = next.durable.max(durable);
        }
        next.newest_segment = FileNumber(self.newest_segment.load(Ordering::Acquire));
        Ok(next)
    }

    /// Publishes what [`Core::next_manifest`] made.
    pub(crate) fn publish_next(&self, root: &mut Root, next: Manifest) -> Result<()> {
        self.publish_next_beside(root, next, Syncs::InOrder, || Ok(()))
    }

    /// As [`Core::publish_next`], once `beside` has made durable what the manifest names.
    pub(crate) fn publish_next_beside(
        &self,
        root: &mut Root,
        next: Manifest,
        syncs: Syncs,
        beside: impl FnOnce() -> Result<(), StorageError> + Send,
    ) -> Result<()> {
        if let Err(error) = next.publish_beside(&self.storage, &self.options.path, syncs, beside) {
            root.ambiguous = !mutant::is(Mutant::ForgetAmbiguity);
            root.old_manifests.push(next.number);
            return Err(error.into());
        }
        root.old_manifests.extend(root.previous.replace(root.manifest.number));
        root.manifest = next;
        root.ambiguous = false;
        Ok(())
    }

    /// As [`Core::name_segment`], unless the log is poisoned.
    pub(crate) fn announce_segment(&self) -> Result<()> {
        self.poisoned().map_or_else(|| self.name_segment(), Err)
    }

    /// Names the log's newest segment in a manifest, unless one does already. Without it the segment would not be
    /// missed if someone removed it.
    pub(crate) fn name_segment(&self) -> Result<()> {
        let mut root = lock(&self.root);
        if root.manifest.newest_segment.0 < self.newest_segment.load(Ordering::Acquire) {
            self.publish(&mut root, Lsn::ZERO, |_| ())?;
            self.bury(&mut root);
        }
        Ok(())
    }

    /// The first manifest number at or above `from` that no file has.
    fn free_manifest_number(&self, from: FileNumber) -> Result<FileNumber> {
        let taken = self.storage.list(&self.options.path)?;
        let highest = taken.iter().filter_map(|entry| manifest::number_of(&entry.name)).max();
        Ok(highest.map_or(from, |highest| from.max(FileNumber(highest.0 + 1))))
    }

    /// Removes what no manifest names and no reader holds. What can not be removed now is tried again later;
    /// a crash leaves it to the next recovery.
    pub(crate) fn bury(&self, root: &mut Root) {
        if root.ambiguous {
            return;
        }
        let gone = |result: Result<(), StorageError>| match result {
            Ok(()) => true,
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                tracing::warn!(%error, "an obsolete file could not be removed");
                false
            }
        };
        let dir = &self.options.path;
        root.old_manifests.retain(|number| !gone(self.storage.remove(&manifest::path(dir, *number))));
        if let Some(number) = root.previous {
            match self
                .storage
                .rename_noreplace(&manifest::path(dir, number), &manifest::old_path(dir, number))
            {
                Ok(()) => {
                    root.previous = None;
                    if let Some(before) = root.kept.replace(number) {
                        gone(self.storage.remove(&manifest::old_path(dir, before)));
                    }
                }
                Err(error) => tracing::warn!(%error, "the manifest before the newest could not be put by"),
            }
        }
        if root.keeps_obsolete {
            return;
        }
        root.graveyard.retain(|grave| {
            let free = Arc::strong_count(&grave.held) == 1 || mutant::is(Mutant::RemoveHeldFiles);
            !(free && gone(self.storage.remove(&self.data_dir().join(grave.meta.name().to_string()))))
        });
    }

    /// The poisoned log's error, if it is poisoned.
    pub(crate) fn poisoned(&self) -> Option<Error> {
        if mutant::is(Mutant::PublishPoisoned) {
            return None;
        }
        let log = lock(&self.log);
        log.wal.as_ref()?.poisoned().map(|error| error.clone().into())
    }
}
