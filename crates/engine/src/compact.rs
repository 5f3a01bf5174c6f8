//! Compaction: fewer and larger files, without what was killed.
//!
//! Two kinds of work, each bounded by what it rewrites. *Posting files* of similar size are merged in tiers,
//! so that a document is rewritten about once per factor of eight in size; a file of which much is killed
//! is rewritten alone. *Vector sections* are merged into base sections, shard by shard, which copies only
//! ordinals (rule R11); when a collection has grown enough, all of its rows are assigned to the lists of a new
//! index generation instead (rule R12).
//!
//! Everything is computed from a state that may grow old meanwhile. Installing takes the flush lock, keeps
//! what was flushed since, and keeps every kill: kills name ordinals, which no compaction changes (rule R2).

mod calibrate;
mod lists;
mod plan;
mod postings;
mod recalibrate;
mod train;
mod vectors;

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Storage;
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::{CollectionId, Lsn, StorageError};
use plimsoll_shard::{FileMeta, PendingFile, commit_files};

use crate::core::{Core, Counters, Grave, Root, lock};
use crate::error::{Error, Result};
use crate::jobs::{Job, JobRequest};
use crate::manifest::{CollectionEntry, Manifest};
use crate::state::CollectionState;
use crate::stats::CompactionStats;
use plan::{Plan, Urgency};

/// One step of a compaction: the files written, not synced yet, and how the manifest's entry changes.
pub(crate) struct Rewrite<'a> {
    files: Vec<PendingFile<'a>>,
    change: Box<dyn Change>,
}

/// What a step of a compaction changes in the manifest.
pub(crate) trait Change {
    /// Changes the entry, which may have grown since the step began.
    fn enter(&self, entry: &mut CollectionEntry);

    /// Counts what was done.
    fn count(&self, stats: &mut CompactionStats);
}

/// Writes that are further apart than this have paused.
const PAUSE: Duration = Duration::from_millis(200);

impl Core {
    /// Asks for a compaction if one is due; without threads for it there is one only when somebody else asks.
    pub(crate) fn compaction_due(&self) {
        if self.options.background && self.is_compaction_due() {
            self.request_job(JobRequest::compaction_when_idle());
        }
    }

    fn is_compaction_due(&self) -> bool {
        let state = self.published.state();
        state.sound().any(|collection| Plan::make(&collection.tree, Urgency::Due).is_some())
    }

    /// Does what is due in any collection: the most urgent at once, the rest when writes pause.
    pub(crate) fn compact_due(&self, job: &Job) -> Result<CompactionStats> {
        let mut stats = CompactionStats::default();
        loop {
            let batches = self.counters.batches.load(Ordering::Relaxed);
            self.signals.wait_until(Instant::now() + PAUSE, || job.is_cancelled());
            let is_paused = batches == self.counters.batches.load(Ordering::Relaxed) && !self.is_flushing();
            let urgency = if is_paused { Urgency::Due } else { Urgency::Busy };
            stats.add(self.compact_all(urgency, Some(job))?);
            if is_paused || self.signals.stopping() || !self.is_compaction_due() {
                return Ok(stats);
            }
        }
    }

    /// Whether writes are on their way into files, which those that come next may be waiting for; or all of them are,
    /// because the database is being closed.
    fn is_flushing(&self) -> bool {
        let state = self.published.state();
        self.check_open().is_err() || state.sound().any(|collection| !collection.sealed.is_empty())
    }

    /// Merges what is small and due: a process that lives too briefly for the background to come to it must
    /// not leave more and more files behind.
    pub(crate) fn compact_small(&self) -> Result<()> {
        if self.compacting.try_lock().is_err() {
            return Ok(()); // The background is at it.
        }
        self.compact_all(Urgency::Closing, None).map(|_| ())
    }

    /// Compacts every collection as far as it goes.
    pub(crate) fn compact_everything(&self, job: Option<&Job>) -> Result<CompactionStats> {
        self.compact_all(Urgency::Everything, job)
    }

    fn compact_all(&self, urgency: Urgency, job: Option<&Job>) -> Result<CompactionStats> {
        let _one_at_a_time = lock(&self.compacting);
        let start = self.now();
        let mut stats = CompactionStats::default();
        if self.signals.stopping() {
            return Ok(stats);
        }
        let ids: Vec<_> = self.published.state().sound().map(|collection| collection.id).collect();
        let mut damage = None;
        for id in ids {
            match self.compact_collection(id, urgency, job, &mut stats) {
                // Damage in one collection is none in the others.
                Err(error @ Error::Storage(StorageError::Corrupted { .. })) => {
                    damage = damage.or(Some(error));
                }
                result => result?,
            }
        }
        // What the steps replaced is not held by them any more.
        self.bury(&mut lock(&self.root));
        stats.total = self.now().saturating_sub(start);
        damage.map_or(Ok(stats), Err)
    }

    fn compact_collection(
        &self,
        id: CollectionId,
        urgency: Urgency,
        job: Option<&Job>,
        stats: &mut CompactionStats,
    ) -> Result<()> {
        // Each step makes the next one visible; the plan ends when there is nothing left to gain.
        let mut urgency = urgency;
        while let Some(collection) = self.published.state().collections.get(&id).cloned() {
            if self.signals.stopping() {
                return Ok(());
            }
            job.map_or(Ok(()), Job::go_on)?;
            let Some(plan) = Plan::make(&collection.tree, urgency) else { return Ok(()) };
            let step = self.reserve.spend_when_full(self, || {
                let rewrite = self.rewrite(&collection, &plan)?;
                self.install_rewrite(&collection, rewrite, stats)
            });
            if step.as_ref().is_err_and(|error| !matches!(error, Error::Cancelled)) {
                Counters::count(&self.counters.failed_compactions);
            }
            step?;
            Counters::count(&self.counters.compactions);
            if urgency == Urgency::Everything && plan.is_last() {
                urgency = Urgency::Due;
            }
        }
        Ok(())
    }

    fn rewrite(&self, collection: &Arc<CollectionState>, plan: &Plan) -> Result<Rewrite<'_>> {
        match plan {
            Plan::MergePostings(files) => postings::merge(self, collection, files.clone()),
            Plan::MergeSections(shards) => vectors::merge(self, collection, shards),
            Plan::Train(urgency) => train::retrain(self, collection, *urgency),
        }
    }

    /// Makes a rewrite durable and visible, and buries what it replaced.
    fn install_rewrite(
        &self,
        collection: &CollectionState,
        rewrite: Rewrite<'_>,
        stats: &mut CompactionStats,
    ) -> Result<()> {
        let Rewrite { files, change } = rewrite;
        let metas = commit_files(&self.storage, self.data_dir(), files, self.options.syncs())?;
        // No flush may be between reading a tree and publishing what it made of it.
        let _no_flush = lock(&self.flushing);
        if let Some(error) = self.poisoned() {
            self.remove_all(&metas);
            return Err(error);
        }
        let mut root = lock(&self.root);
        let before = root.manifest.collection(collection.id).cloned();
        if before.is_none() {
            // Dropped meanwhile.
            self.remove_all(&metas);
            return Ok(());
        }
        let enter = |manifest: &mut Manifest| {
            if let Some(entry) = manifest.collection_mut(collection.id) {
                change.enter(entry);
            }
        };
        let published = self.next_manifest(&root, Lsn::ZERO, enter).and_then(|next| {
            let tree = self.open_tree(&next, collection.id)?;
            if mutant::is(Mutant::ReleaseFilesEarly) {
                let is_kept = |meta: &FileMeta| next.files().any(|kept| kept == meta);
                let replaced = before.iter().flat_map(CollectionEntry::files).filter(|meta| !is_kept(meta));
                self.remove_all(&replaced.copied().collect::<Vec<_>>());
            }
            self.publish_next(&mut root, next).map(|()| tree)
        });
        let tree = match published {
            Ok(tree) => tree,
            Err(error) => {
                root.graveyard.extend(metas.into_iter().map(|meta| Grave { meta, held: Arc::new(()) }));
                return Err(error);
            }
        };
        self.bury_replaced(&mut root, collection.id, before.as_ref());
        self.install(collection.id, tree, &[]);
        self.bury(&mut root);
        change.count(stats);
        stats.bytes_written += metas.iter().map(|meta| meta.len).sum::<u64>();
        Ok(())
    }

    /// Removes files that no manifest names, and none will.
    fn remove_all(&self, metas: &[FileMeta]) {
        for meta in metas {
            if let Err(error) = self.storage.remove(&self.data_dir().join(meta.name().to_string())) {
                tracing::warn!(%error, "a file that is not needed could not be removed");
            }
        }
    }

    /// Puts the files that the newest manifest no longer names into the graveyard, with what holds them.
    fn bury_replaced(&self, root: &mut Root, id: CollectionId, before: Option<&CollectionEntry>) {
        let Some(before) = before else { return };
        let kept: std::collections::HashSet<_> = root.manifest.files().copied().collect();
        let state = self.published.state();
        let tree = state.collections.get(&id).map(|collection| Arc::clone(&collection.tree));
        for meta in before.files().filter(|meta| !kept.contains(meta)) {
            let held = tree.as_ref().and_then(|tree| tree.holder(meta)).unwrap_or_else(|| Arc::new(()));
            root.graveyard.push(Grave { meta: *meta, held });
        }
    }
}
