//! The flush: from sealed memtables to files that a manifest names.
//!
//! [`Core::flush_internal`] is the whole path, phase by phase. A flush that fails changes nothing: its
//! memtables stay sealed and searchable, the log keeps their records, and the next attempt writes new files
//! with new numbers. Its cost is bounded by what it writes, and its syncs are a constant number of files,
//! however many shards it touches.

mod delta;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::{CollectionId, FileNumber, Lsn, StorageError};
use plimsoll_shard::commit_files;

use crate::core::{Core, Counters, Grave, lock};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::state::{CollectionState, Sealed, State};
use crate::stats::{FlushReason, FlushStats, timed};
use crate::tree::Tree;
use delta::Delta;

pub(crate) use delta::bloom_of;
pub(crate) use validate::{entry_problem, validate_ids, validate_membership};

/// One collection's sealed memtables, taken for a flush.
pub(crate) struct Drained {
    pub collection: Arc<CollectionState>,
    pub sealed: Vec<Sealed>,
    /// Everything of the collection up to here is in `sealed`.
    pub seal: Lsn,
}

impl Core {
    /// Flushes everything that is sealed, and returns what each phase took.
    ///
    /// # Errors
    /// The error of the phase that failed; everything is then as before, but for the time it took.
    pub(crate) fn flush_internal(&self, reason: FlushReason) -> Result<FlushStats> {
        let _one_at_a_time = lock(&self.flushing);
        let result = self.reserve.spend_when_full(self, || self.flush_phases(reason));
        match &result {
            Ok(stats) if stats.is_empty() => {}
            Ok(stats) => {
                Counters::count(&self.counters.flushes);
                *lock(&self.counters.last_flush) = Some(stats.clone());
                tracing::info!(%reason, rows = stats.rows, total = ?stats.total, "flushed");
                self.signals.compact_due();
            }
            Err(_) => Counters::count(&self.counters.failed_flushes),
        }
        self.signals.progressed();
        result
    }

    fn flush_phases(&self, reason: FlushReason) -> Result<FlushStats> {
        let start = Instant::now();
        let mut stats = FlushStats { reason, ..FlushStats::default() };
        let (mut drained, durable) = timed(&mut stats.wal_drain, || self.drain())?;
        let mut deltas = timed(&mut stats.shard_apply, || self.apply_to_shards(&mut drained))?;
        if !drained.is_empty() {
            deltas.iter().for_each(|delta| delta.count(&mut stats));
            timed(&mut stats.file_sync, || self.sync_files(&mut deltas))?;
            if mutant::is(Mutant::ReleaseLogEarly) {
                lock(&self.root).manifest.wal_pointer = self.log_pointer(&drained, durable);
                self.advance_log()?;
            }
            timed(&mut stats.manifest_publish, || self.publish_flush(&drained, &deltas, durable))?;
            timed(&mut stats.wal_advance, || self.advance_log())?;
            timed(&mut stats.validation, || self.validate_flush(&deltas))?;
            stats.files_synced += 1;
        } else if self.log_pointer(&drained, durable) > lock(&self.root).manifest.wal_pointer {
            // What the log still holds is of collections that were dropped.
            self.publish_flush(&drained, &[], durable)?;
            self.advance_log()?;
        }
        stats.total = start.elapsed();
        Ok(stats)
    }

    /// Phase 1: takes what is sealed, and waits until the log is durable up to every seal (rule R3).
    fn drain(&self) -> Result<(Vec<Drained>, Lsn)> {
        let state = self.published.state();
        let drained: Vec<Drained> = state.sound().filter_map(Drained::take).collect();
        let seal = drained.iter().map(|drained| drained.seal).max().unwrap_or_default();
        let replayed = Lsn(self.replayed_durable.load(Ordering::Acquire));
        let mut durable = lock(&self.log).wal.as_ref().map_or(replayed, plimsoll_wal::Wal::durable);
        if durable < seal && !mutant::is(Mutant::FlushBeforeDurable) {
            durable = self.sync_up_to(seal)?;
        }
        match self.poisoned() {
            Some(error) => Err(error),
            None => Ok((drained, durable)),
        }
    }

    /// Phase 2: resolves ids, assigns rows to lists, and writes one delta for each collection. A collection that
    /// proves to be damaged is left out, now and later; its writes stay in the log.
    fn apply_to_shards(&self, drained: &mut Vec<Drained>) -> Result<Vec<Delta<'_>>> {
        let mut deltas = Vec::with_capacity(drained.len());
        let mut failed = Ok(());
        drained.retain(|part| {
            match Delta::write(self, part) {
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

    /// Phase 3: syncs every file, gives it its name, and syncs the directory, once.
    fn sync_files(&self, deltas: &mut [Delta<'_>]) -> Result<()> {
        let files: Vec<_> = deltas.iter_mut().flat_map(Delta::take_files).collect();
        commit_files(&self.storage, self.data_dir(), files)?;
        Ok(())
    }

    /// Phase 4: publishes the manifest that names the new files, and then the state that shows them.
    fn publish_flush(&self, drained: &[Drained], deltas: &[Delta<'_>], durable: Lsn) -> Result<()> {
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
            self.publish_next(&mut root, next).map(|()| trees)
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
    fn take(collection: &Arc<CollectionState>) -> Option<Self> {
        let seal = collection.sealed.iter().map(|sealed| sealed.seal).max()?;
        Some(Self { collection: Arc::clone(collection), sealed: collection.sealed.clone(), seal })
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
