//! The flush: from sealed memtables to files that a manifest names.
//!
//! [`Core::flush_internal`] is the whole path, phase by phase. A flush that fails changes nothing: its
//! memtables stay sealed and searchable, the log keeps their records, and the next attempt writes new files
//! with new numbers. Its cost is bounded by what it writes, and its syncs are a constant number of files,
//! however many shards it touches.

mod delta;
mod validate;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Syncs;
use plimsoll_base::sync::MutexGuard;
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::{CollectionId, FileNumber, Lsn, ShardId, StorageError};
use plimsoll_shard::{NamedFiles, SyncedFiles, sync_files};

use crate::buffer::EVERYTHING;
use crate::commit::Request;
use crate::core::{Core, Counters, Grave, lock};
use crate::error::{Error, Result};
use crate::jobs::{Job, JobTarget};
use crate::manifest::Manifest;
use crate::state::{CollectionState, Sealed, State, View};
use crate::stats::{FlushReason, FlushStats};
use crate::tree::Tree;
use delta::Delta;

pub(crate) use delta::bloom_of;
pub(crate) use validate::{entry_problem, validate_ids, validate_membership};

/// What flushes have added to, each counted once however many of them did.
#[derive(Default)]
pub(crate) struct Touched {
    collections: BTreeSet<CollectionId>,
    shards: BTreeSet<(CollectionId, ShardId)>,
}

impl Touched {
    fn count(&self, stats: &mut FlushStats) {
        stats.collections = stats.collections.max(self.collections.len());
        stats.shards_touched = stats.shards_touched.max(self.shards.len());
    }
}

/// One collection's sealed memtables, taken for a flush.
pub(crate) struct Drained {
    pub collection: Arc<CollectionState>,
    pub sealed: Vec<Sealed>,
    /// Everything of the collection up to here is in `sealed`.
    pub seal: Lsn,
}

/// The log on its way to a flush's seal.
enum LogSync<'scope> {
    /// It is durable up to here.
    Done(Lsn),
    /// A thread syncs it.
    Running(ScopedJoinHandle<'scope, Result<Lsn>>),
}

/// System tables are flushed at the latest when they have so many bytes in memory.
pub(crate) const SYSTEM_BYTES: usize = 4 << 20;

/// What a flush is to do, and who is told how far it has come.
#[derive(Clone, Copy)]
pub(crate) struct FlushRun<'a> {
    pub reason: FlushReason,
    /// Only this collection's writes (and records of jobs that hold the log up).
    pub only: Option<CollectionId>,
    /// Only what was sealed up to here.
    pub up_to: Lsn,
    pub job: Option<&'a Job>,
}

impl FlushRun<'_> {
    fn takes(&self, collection: &CollectionState) -> bool {
        self.only.is_none_or(|only| only == collection.id) || collection.is_system()
    }
}

impl Core {
    /// Seals what there is of one collection, or of all, and flushes until it is in files.
    pub(crate) fn flush_target(
        &self,
        only: Option<CollectionId>,
        reason: FlushReason,
        job: Option<&Job>,
    ) -> Result<FlushStats> {
        let run = FlushRun { reason, only, up_to: EVERYTHING, job };
        let mut stats = FlushStats { reason, ..FlushStats::default() };
        let mut touched = Touched::default();
        let state = self.published.state();
        let of_target = state.sound_users().filter(|collection| run.takes(collection));
        let unflushed = of_target.flat_map(|collection| collection.memtables()).filter_map(|m| m.lsns());
        let last_unflushed = unflushed.map(|(_, last)| last).max();
        let with_system = self.system_is_due(&state, reason);
        drop(state);
        // What is sealed already comes first: while flushes fail, each would seal one memtable more.
        if self.has_sealed_up_to(EVERYTHING, &run) {
            stats.add(&self.flush_internal(&run, &mut touched)?);
        }
        let seal = self.submit(Request::Seal { only, with_system }, 0)?;
        job.inspect(|job| job.covers(seal));
        stats.add(&self.flush_internal(&run, &mut touched)?);
        if let Some(last_unflushed) = last_unflushed
            && stats.is_empty()
        {
            // A flush before this one had begun with it: what that did is the answer.
            let last = lock(&self.counters.last_flush).clone();
            stats = last.filter(|last| last.last_lsn >= last_unflushed).unwrap_or(stats);
        }
        // Someone else's flush may have taken part of it; whatever is left is flushed here.
        while self.has_sealed_up_to(seal, &run) {
            stats.add(&self.flush_internal(&run, &mut touched)?);
        }
        touched.count(&mut stats);
        if stats.is_empty() && reason == FlushReason::Manual {
            tracing::warn!("a flush was asked for, and there is nothing to flush");
        }
        match self.unflushable(only) {
            Some(damage) if matches!(reason, FlushReason::Manual | FlushReason::Checkpoint) => {
                Err(damage.into())
            }
            Some(damage) => {
                tracing::warn!(%damage, "the writes of a damaged collection stay in the log");
                Ok(stats)
            }
            None => Ok(stats),
        }
    }

    /// What keeps writes of a collection, or of any, from being flushed.
    pub(crate) fn unflushable(&self, only: Option<CollectionId>) -> Option<StorageError> {
        let state = self.published.state();
        let mut waiting = state.users().filter(|collection| {
            only.is_none_or(|only| only == collection.id) && collection.first_unflushed().is_some()
        });
        waiting.find_map(|collection| collection.damage.clone())
    }

    /// What keeps writes to a target from being flushed. A collection that was dropped has none.
    pub(crate) fn unflushable_in(&self, target: &JobTarget) -> Option<StorageError> {
        match target {
            JobTarget::Collection(name) => {
                let id = self.published.state().by_name(name)?.id;
                self.unflushable(Some(id))
            }
            _ => self.unflushable(None),
        }
    }

    fn has_sealed_up_to(&self, seal: Lsn, run: &FlushRun<'_>) -> bool {
        let state = self.published.state();
        let mut sealed = state.sound().filter(|c| run.takes(c)).flat_map(|collection| &collection.sealed);
        sealed.any(|sealed| sealed.seal <= seal)
    }

    /// Whether records of jobs are flushed, too. They are few and small, and two files more a flush are not: so only
    /// where they hold up the log, which is to shrink now or has grown by segments.
    fn system_is_due(&self, state: &State, reason: FlushReason) -> bool {
        let tables = state.sound().filter(|collection| collection.is_system());
        let unflushed: usize = tables.map(|table| table.active.bytes()).sum();
        if unflushed == 0 {
            return false;
        }
        let is_last = matches!(reason, FlushReason::Close | FlushReason::WalSize | FlushReason::Checkpoint);
        is_last
            || unflushed > SYSTEM_BYTES
            || lock(&self.log).wal.as_ref().is_some_and(|wal| wal.stats().segments > 2)
    }

    /// Flushes everything up to one moment and nothing after it. Returns that moment, the manifest that has just that in
    /// its files, and what keeps these files.
    ///
    /// # Errors
    /// As [`Core::flush_internal`], and the damage of a collection that can not be flushed.
    pub(crate) fn flush_to_one_moment(&self, job: &Job) -> Result<(Lsn, Manifest, View)> {
        // No other flush takes what is written to one collection from now on.
        let flushing = lock(&self.flushing);
        let moment = self.submit(Request::Seal { only: None, with_system: true }, 0)?;
        job.covers(moment);
        let run = FlushRun { reason: FlushReason::Checkpoint, only: None, up_to: moment, job: None };
        self.flush_holding(&run, &mut Touched::default(), &flushing)?;
        if let Some(damage) = self.unflushable(None) {
            return Err(damage.into());
        }
        let root = lock(&self.root);
        Ok((moment, root.manifest.clone(), self.published.view()))
    }

    /// Flushes everything that is sealed, and returns what each phase took; adds to `touched`.
    ///
    /// # Errors
    /// The error of the phase that failed; everything is then as before, but for the time it took.
    pub(crate) fn flush_internal(&self, run: &FlushRun<'_>, touched: &mut Touched) -> Result<FlushStats> {
        self.flush_holding(run, touched, &lock(&self.flushing))
    }

    /// As [`Core::flush_internal`], by whoever holds `flushing`.
    fn flush_holding(
        &self,
        run: &FlushRun<'_>,
        touched: &mut Touched,
        _one_at_a_time: &MutexGuard<'_, ()>,
    ) -> Result<FlushStats> {
        let FlushRun { reason, .. } = *run;
        let result = self.reserve.spend_when_full(self, || self.flush_phases(run, touched));
        match &result {
            Ok(stats) if stats.is_empty() => {}
            Ok(stats) => {
                self.counters.flushed(stats);
                let FlushStats { rows, collections, shards_touched, files_synced, bytes_written, .. } =
                    *stats;
                let duration_ms = stats.total.as_secs_f64() * 1e3;
                tracing::info!(
                    %reason, rows_flushed = rows, namespaces = collections, shards = shards_touched,
                    files = files_synced, bytes = bytes_written, duration_ms, "flush completed"
                );
                self.compaction_due();
            }
            Err(error) => {
                Counters::count(&self.counters.failed_flushes);
                tracing::warn!(%reason, %error, "a flush failed, which changes nothing");
            }
        }
        self.counters.remember_error(result.as_ref().err());
        self.signals.progressed();
        result
    }

    fn flush_phases(&self, run: &FlushRun<'_>, touched: &mut Touched) -> Result<FlushStats> {
        let start = self.now();
        let span = tracing::info_span!("flush", reason = %run.reason);
        let _within = span.enter();
        let mut stats = FlushStats { reason: run.reason, ..FlushStats::default() };
        std::thread::scope(|threads| self.flush_beside_log(run, touched, &mut stats, threads))?;
        stats.total = self.now().saturating_sub(start);
        Ok(stats)
    }

    /// The phases, with a thread that syncs the log meanwhile.
    fn flush_beside_log<'scope>(
        &'scope self,
        run: &FlushRun<'_>,
        touched: &mut Touched,
        stats: &mut FlushStats,
        threads: &'scope Scope<'scope, '_>,
    ) -> Result<()> {
        let start = self.now();
        self.phase(run, "wal_drain");
        let (mut drained, log) = self.timed(&mut stats.wal_drain, || self.drain(run, threads))?;
        self.phase(run, "shard_apply");
        let mut deltas = self.timed(&mut stats.shard_apply, || self.apply_to_shards(run, &mut drained))?;
        if drained.is_empty() {
            let durable = self.timed(&mut stats.wal_drain, || self.durable(log))?;
            if self.log_pointer(&drained, durable) > lock(&self.root).manifest.wal_pointer
                || lock(&self.root).ambiguous
            {
                // What the log still holds is of collections that were dropped; or it is unknown which manifest is on
                // disk, which whoever is told of a success need not think of.
                self.publish_flush(&drained, &[], None, durable)?;
                self.advance_log()?;
            }
            return Ok(());
        }
        let of_users = deltas.iter().zip(&drained).filter(|(_, part)| !part.collection.is_system());
        of_users.for_each(|(delta, _)| delta.count(stats, touched));
        stats.files_synced = deltas.iter().map(Delta::files).sum();
        stats.bytes_written = deltas.iter().map(Delta::bytes).sum();
        self.phase(run, "file_sync");
        let synced = self.timed(&mut stats.file_sync, || self.sync_files(&mut deltas))?;
        let durable = self.timed(&mut stats.wal_drain, || self.durable(log))?;
        let named = self.timed(&mut stats.file_sync, || synced.give_names(self.data_dir()))?;
        if mutant::is(Mutant::ReleaseLogEarly) {
            lock(&self.root).manifest.wal_pointer = self.log_pointer(&drained, durable);
            self.advance_log()?;
        }
        self.phase(run, "manifest_publish");
        self.timed(&mut stats.manifest_publish, || {
            self.publish_flush(&drained, &deltas, Some(named), durable)
        })?;
        self.measure(&drained, self.now().saturating_sub(start));
        self.phase(run, "wal_advance");
        self.timed(&mut stats.wal_advance, || self.advance_log())?;
        self.phase(run, "validation");
        self.timed(&mut stats.validation, || self.validate_flush(&deltas))?;
        stats.files_synced += 1;
        Ok(())
    }

    /// Measures one phase: runs `work` and adds its time to `phase`, also when it fails.
    fn timed<T>(&self, phase: &mut Duration, work: impl FnOnce() -> T) -> T {
        let start = self.now();
        let result = work();
        *phase += self.now().saturating_sub(start);
        result
    }

    /// A phase begins.
    fn phase(&self, run: &FlushRun<'_>, name: &'static str) {
        tracing::debug!(phase = name, "flush");
        if let Some(job) = run.job {
            self.jobs.phase(self, job, name);
        }
    }

    /// So many documents of a collection are on their way to files.
    fn flush_progress(&self, job: Option<&Job>, collection: &CollectionState, done: usize, total: usize) {
        tracing::debug!(collection = %collection.name, done, total, "flush");
        if let Some(job) = job.filter(|_| !collection.is_system()) {
            self.jobs.progress(self, job, done as u64, total as u64);
        }
    }

    /// What this flush says about those to come.
    fn measure(&self, drained: &[Drained], cost: Duration) {
        let now = self.now();
        let mut measured = lock(&self.measured);
        for part in drained.iter().filter(|part| !part.collection.is_system()) {
            let rows = part.sealed.iter().map(|sealed| sealed.memtable.entries() as u64).sum();
            let born = part.sealed.iter().map(|sealed| sealed.memtable.born()).min().unwrap_or(now);
            measured.entry(part.collection.id).or_default().add(rows, now.saturating_sub(born), cost);
        }
    }

    /// Phase 1: takes what is sealed, and has the log synced up to every seal: in a thread of `threads`, beside what the
    /// next phases do, where syncs may run together.
    fn drain<'scope>(
        &'scope self,
        run: &FlushRun<'_>,
        threads: &'scope Scope<'scope, '_>,
    ) -> Result<(Vec<Drained>, LogSync<'scope>)> {
        let state = self.published.state();
        let chosen = state.sound().filter(|collection| run.takes(collection));
        let drained: Vec<Drained> =
            chosen.filter_map(|collection| Drained::take(collection, run.up_to)).collect();
        let seal = drained.iter().map(|drained| drained.seal).max().unwrap_or_default();
        let replayed = Lsn(self.replayed_durable.load(Ordering::Acquire));
        let durable = lock(&self.log).wal.as_ref().map_or(replayed, plimsoll_wal::Wal::durable);
        let log = if durable >= seal || mutant::is(Mutant::FlushBeforeDurable) {
            LogSync::Done(durable)
        } else if self.options.syncs() == Syncs::Together
            && let Ok(thread) = std::thread::Builder::new()
                .name("plimsoll-flush-log".to_owned())
                .spawn_scoped(threads, move || self.sync_up_to(seal))
        {
            LogSync::Running(thread)
        } else {
            LogSync::Done(self.sync_up_to(seal)?)
        };
        match self.poisoned() {
            Some(error) => Err(error),
            None => Ok((drained, log)),
        }
    }

    /// Waits until the log is durable up to every seal, which it is before any file has its name (rule R3).
    fn durable(&self, log: LogSync<'_>) -> Result<Lsn> {
        let durable = match log {
            LogSync::Done(durable) => durable,
            LogSync::Running(thread) => {
                thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))?
            }
        };
        self.poisoned().map_or(Ok(durable), Err)
    }

    /// Phase 2: resolves ids, assigns rows to lists, and writes one delta for each collection. A collection that
    /// proves to be damaged is left out, now and later; its writes stay in the log.
    fn apply_to_shards(&self, run: &FlushRun<'_>, drained: &mut Vec<Drained>) -> Result<Vec<Delta<'_>>> {
        let mut deltas = Vec::with_capacity(drained.len());
        let mut failed = Ok(());
        drained.retain(|part| {
            match Delta::write(self, part, run.job) {
                Ok(delta) => deltas.push(delta),
                Err(Error::Storage(error @ StorageError::Corrupted { .. })) => {
                    self.set_damage(part.collection.id, &error);
                    return false;
                }
                Err(error) => failed = Err(error),
            }
            true
        });
        failed.map(|()| deltas)
    }

    fn set_damage(&self, id: CollectionId, damage: &StorageError) {
        tracing::error!(%damage, "a damaged collection can not be flushed, and takes no more writes");
        self.published.update(|state: &State| {
            let mut collection = CollectionState::clone(state.collections.get(&id)?);
            collection.damage = Some(damage.clone());
            Some(state.with(collection))
        });
    }

    /// Phase 3: syncs every file. They get their names once the log is durable.
    fn sync_files<'a>(&'a self, deltas: &mut [Delta<'a>]) -> Result<SyncedFiles<'a>> {
        let files: Vec<_> = deltas.iter_mut().flat_map(Delta::take_files).collect();
        Ok(sync_files(&self.storage, files, self.options.syncs())?)
    }

    /// Phase 4: syncs the directory, publishes the manifest that names the new files, and then the state that shows
    /// them.
    fn publish_flush(
        &self,
        drained: &[Drained],
        deltas: &[Delta<'_>],
        named: Option<NamedFiles<'_>>,
        durable: Lsn,
    ) -> Result<()> {
        let mut root = lock(&self.root);
        let pointer = self.log_pointer(drained, durable);
        let change = |manifest: &mut Manifest| {
            for (part, delta) in drained.iter().zip(deltas) {
                if let Some(entry) = manifest.collection_mut(part.collection.id) {
                    delta.enter(entry);
                    entry.flushed =
                        entry.flushed.max(Lsn(part.seal.0 + u64::from(mutant::is(Mutant::FlushedTooHigh))));
                }
            }
            manifest.advance(pointer);
        };
        // The new files are opened before anything is published: after that nothing can fail, and memory and
        // disk never say different things.
        let published = self.next_manifest(&root, durable, change).and_then(|next| {
            let collections = drained.iter().map(|part| part.collection.id);
            let trees = collections.map(|id| self.open_tree(&next, id)).collect::<Result<Vec<_>>>()?;
            let sync_dir = || named.map_or(Ok(()), |named| named.sync_dir().map(drop));
            self.publish_next_beside(&mut root, next, self.options.syncs(), sync_dir).map(|()| trees)
        });
        let trees = match published {
            Ok(trees) => trees,
            Err(error) => {
                // Whether the manifest is on disk is unknown: the files stay until a later one is (rule R8).
                let graves = deltas.iter().flat_map(Delta::metas);
                root.graveyard.extend(graves.map(|meta| Grave { meta, held: Arc::new(()) }));
                return Err(error);
            }
        };
        for ((part, delta), tree) in drained.iter().zip(deltas).zip(trees) {
            self.install(part.collection.id, tree, &part.sealed);
            tracing::debug!(collection = %part.collection.name, rows = delta.rows(), "delta installed");
        }
        self.bury(&mut root);
        Ok(())
    }

    /// Opens what a manifest that is about to be published names for a collection; `None` if it was dropped.
    pub(crate) fn open_tree(&self, manifest: &Manifest, id: CollectionId) -> Result<Option<Arc<Tree>>> {
        let state = self.published.state();
        let (Some(entry), Some(current)) = (manifest.collection(id), state.collections.get(&id)) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Tree::open(entry, &self.opener, Some(&current.tree))?)))
    }

    /// Replaces a collection's tree by the one that the newest manifest describes, and drops `flushed`.
    /// Readers see either the memtables or the files, never both and never neither.
    pub(crate) fn install(&self, id: CollectionId, tree: Option<Arc<Tree>>, flushed: &[Sealed]) {
        let Some(tree) = tree else { return };
        self.published.update(|state: &State| {
            let current = state.collections.get(&id)?;
            Some(state.with(current.flushed(flushed, Arc::clone(&tree))))
        });
    }

    /// The last LSN that no unflushed data needs any more once `drained` is flushed (rule R7).
    ///
    /// A record above the view's LSN is not flushed, and one at or below it is in some memtable that the view
    /// shows, or flushed, or of a collection that was dropped.
    fn log_pointer(&self, drained: &[Drained], durable: Lsn) -> Lsn {
        let view = self.published.view();
        if mutant::is(Mutant::PointerIgnoresUnflushed) {
            return view.visible.min(durable);
        }
        if mutant::is(Mutant::IdleHoldsPointer) {
            let entries = view.state.collections.values().map(|collection| collection.tree.entry.flushed);
            return entries.min().unwrap_or_default().min(durable);
        }
        let being_flushed = |memtable| {
            drained.iter().flat_map(|part| &part.sealed).any(|s| Arc::ptr_eq(&s.memtable, memtable))
        };
        let first_kept = view
            .state
            .collections
            .values()
            .flat_map(|collection| collection.memtables())
            .filter(|memtable| !being_flushed(memtable))
            .filter_map(|memtable| memtable.lsns())
            .map(|(first, _)| first)
            .min();
        let kept = first_kept.map_or(view.visible, |first| Lsn(first.0.saturating_sub(1)));
        kept.min(view.visible).min(durable)
    }

    /// Phase 5: deletes the log segments that lie below the manifest's pointer as a whole.
    pub(crate) fn advance_log(&self) -> Result<()> {
        let pointer = lock(&self.root).manifest.wal_pointer;
        let obsolete = lock(&self.log).wal.as_ref().map(|wal| wal.obsolete(pointer));
        let Some(mut obsolete) = obsolete.transpose()? else { return Ok(()) };
        let result = obsolete.remove();
        if let Some(wal) = lock(&self.log).wal.as_mut() {
            wal.forget(&obsolete);
        }
        Ok(result?)
    }
}

impl Drained {
    fn take(collection: &Arc<CollectionState>, up_to: Lsn) -> Option<Self> {
        let sealed = collection.sealed.iter().filter(|sealed| sealed.seal <= up_to);
        let sealed: Vec<_> = sealed.cloned().collect();
        let seal = sealed.iter().map(|sealed| sealed.seal).max()?;
        Some(Self { collection: Arc::clone(collection), sealed, seal })
    }
}

impl Manifest {
    /// Everything at or below `pointer` is flushed, in every collection.
    pub(crate) fn advance(&mut self, pointer: Lsn) {
        self.wal_pointer = self.wal_pointer.max(pointer);
        for entry in &mut self.collections {
            entry.flushed = entry.flushed.max(pointer);
        }
    }
}

impl Core {
    /// Two numbers that no file has: for a posting file and its vector segment, say.
    pub(crate) fn allocate_files<const N: usize>(&self) -> [FileNumber; N] {
        std::array::from_fn(|_| self.allocate_file())
    }
}
