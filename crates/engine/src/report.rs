//! Gathering the statistics of an open database.

use std::sync::Arc;

use plimsoll_base::Lsn;
use plimsoll_base::storage::IoStats;
use plimsoll_base::sync::atomic::Ordering::Relaxed;

use crate::core::{Core, lock};
use crate::policy::Measured;
use crate::state::{CollectionState, View};
use crate::stats::{
    BufferStats, CollectionStats, FlushTotals, JobStats, LogStats, RecoveryStats, StallStats, Stats,
    Watermarks,
};
use crate::tree::Tree;

impl CollectionStats {
    pub(crate) fn of(collection: &CollectionState, measured: &Measured) -> Self {
        let entry = &collection.tree.entry;
        let newest = entry.indexes.iter().max_by_key(|index| index.generation);
        let memtables = || collection.memtables();
        Self {
            name: collection.name.to_string(),
            dimension: collection.config.dimension,
            metric: collection.config.metric,
            flushed_documents: entry.live_documents(),
            flushed_rows: entry.postings.iter().map(|posting| posting.rows).sum(),
            killed: entry.postings.iter().map(|posting| posting.killed).sum(),
            memtable_rows: memtables().map(|memtable| memtable.rows() as u64).sum(),
            memtable_bytes: memtables().map(|memtable| memtable.bytes() as u64).sum(),
            sealed_memtables: collection.sealed.len(),
            flush_policy: entry.policy.clone(),
            flush_interval: entry.policy.interval(measured),
            posting_files: entry.postings.len(),
            vector_segments: entry.vectors.len(),
            vector_sections: entry.vectors.iter().map(|vector| vector.live.len()).sum(),
            generation: newest.map(|index| index.generation).unwrap_or_default(),
            lists: newest.map_or(0, |index| index.lists),
            shards: newest.map_or(0, |index| index.shards),
            calibration_queries: calibration_queries(&collection.tree),
            disk_bytes: entry.files().map(|file| file.len).sum(),
        }
    }
}

fn calibration_queries(tree: &Tree) -> usize {
    let router = tree.router(tree.generation()).ok().flatten();
    router.map_or(0, |router| router.file().query_count())
}

impl Stats {
    /// What a reader process knows: the log's writer is elsewhere.
    pub(crate) fn of_reader(
        collections: Vec<CollectionStats>,
        visible: Lsn,
        flushed: Lsn,
        io: IoStats,
    ) -> Self {
        Self {
            lsn: Watermarks { appended: visible, durable: visible, applied: visible, flushed },
            collections,
            wal: LogStats::default(),
            buffer: BufferStats::default(),
            io,
            recovery: RecoveryStats::default(),
            flushes: FlushTotals::default(),
            jobs: JobStats::default(),
            last_flush: None,
            compactions: 0,
            failed_compactions: 0,
            stalls: StallStats::default(),
            background_error: None,
        }
    }
}

impl Core {
    pub(crate) fn watermarks(&self) -> Watermarks {
        // From the lowest to the highest, so that writes meanwhile can not make them look out of order.
        let View { state, visible: applied } = self.published.view();
        let flushed = state.flushed(applied).max(lock(&self.root).manifest.wal_pointer);
        let replayed = Lsn(self.replayed_durable.load(Relaxed));
        let (durable, appended) = match &lock(&self.log).wal {
            Some(wal) => (wal.durable(), wal.appended()),
            None => (replayed.max(flushed), applied),
        };
        // What is in files was durable before; a buffered write may be applied before it is.
        Watermarks { appended, durable, applied, flushed: flushed.min(durable) }
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.published.state();
        let measured = lock(&self.measured).clone();
        let of = |c: &Arc<CollectionState>| {
            CollectionStats::of(c, &measured.get(&c.id).copied().unwrap_or_default())
        };
        let mut collections: Vec<_> = state.users().map(of).collect();
        collections.sort_by(|a, b| a.name.cmp(&b.name));
        let (wal, buffer) = {
            let log = lock(&self.log);
            (log.wal.as_ref().map(plimsoll_wal::Wal::stats).unwrap_or_default(), log.buffer.stats())
        };
        let counters = &self.counters;
        let ((slowed, slowed_time), (stopped, stopped_time)) =
            (counters.slowed.get(), counters.stopped.get());
        Stats {
            lsn: self.watermarks(),
            collections,
            wal: LogStats {
                segments: wal.segments,
                disk_bytes: wal.disk_bytes,
                bytes_appended: wal.bytes,
                batches: wal.records,
                syncs: wal.syncs,
                groups: wal.groups,
            },
            buffer,
            io: self.io(),
            recovery: self.recovery(),
            flushes: lock(&counters.phases)
                .totals(counters.failed_flushes.load(Relaxed), self.jobs.timed_out_flushes()),
            jobs: self.jobs.stats(self),
            last_flush: lock(&counters.last_flush).clone(),
            compactions: counters.compactions.load(Relaxed),
            failed_compactions: counters.failed_compactions.load(Relaxed),
            stalls: StallStats { slowed, slowed_time, stopped, stopped_time },
            background_error: lock(&counters.background_error).clone(),
        }
    }
}
