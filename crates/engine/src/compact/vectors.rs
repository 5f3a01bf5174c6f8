//! Merging vector sections into base sections, without the rows of documents that are killed.

use std::collections::HashSet;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{DocumentOrdinal, Generation, ShardId};
use plimsoll_shard::{FileMeta, IndexHeader, PendingFile, SegmentKind, kill::write_kill_file};
use roaring::RoaringTreemap;

use super::{Change, Rewrite};
use crate::codebook::Codebook;
use crate::core::Core;
use crate::error::Result;
use crate::manifest::{CollectionEntry, IndexEntry, KillEntry, VectorEntry};
use crate::router::Router;
use crate::rows::{Row, RowAssigner, SegmentPlan};
use crate::state::CollectionState;
use crate::stats::CompactionStats;
use crate::tree::{Tree, VectorSegment};

/// Sections merged into a base segment, and the kills that are left.
pub(super) struct Repacked {
    pub inputs: Vec<(FileMeta, Vec<ShardId>)>,
    pub output: Option<VectorEntry>,
    pub old_kills: Vec<FileMeta>,
    pub kills: Option<KillEntry>,
    /// A generation trained with it.
    pub index: Option<(IndexEntry, IndexHeader)>,
    pub trained: Option<(String, Generation)>,
}

/// Merges the sections of `shards`, and moves the rows of older generations to the newest one.
pub(super) fn merge<'a>(
    core: &'a Core,
    collection: &CollectionState,
    shards: &[ShardId],
) -> Result<Rewrite<'a>> {
    let tree = &*collection.tree;
    let newest = tree.generation();
    let chosen: HashSet<ShardId> = shards.iter().copied().collect();
    let mut inputs = Vec::new();
    let mut rows = Vec::new();
    let mut moved = RowAssigner::new(tree.router(newest)?, collection.config.dimension);
    let mut everything = true;
    for segment in &tree.vectors {
        let current = segment.generation == newest;
        let live = segment.live.iter().map(|(shard, _)| *shard);
        let taken: Vec<ShardId> = live.filter(|shard| !current || chosen.contains(shard)).collect();
        everything &= taken.len() == segment.live.len();
        for shard in &taken {
            each_live_row(tree, segment, *shard, |row| {
                if current {
                    rows.push(row);
                    return Ok(());
                }
                move_row(tree, row, &mut moved)
            })?;
        }
        if !taken.is_empty() {
            inputs.push((segment.file.meta, taken));
        }
    }
    rows.extend(moved.finish()?);
    rows.sort_unstable();
    let mut files = Vec::new();
    let codebook = tree.router(newest)?.map(Router::codebook).transpose()?.flatten();
    let output = write_base(core, collection, (newest, codebook), &rows, &mut files)?;
    let (old_kills, kills) = merge_kills(core, collection, everything, &mut files)?;
    let repacked = Repacked { inputs, output, old_kills, kills, index: None, trained: None };
    Ok(Rewrite { files, change: Box::new(repacked) })
}

/// Visits the rows of a section whose documents are not killed.
fn each_live_row(
    tree: &Tree,
    segment: &VectorSegment,
    shard: ShardId,
    mut visit: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    let file = segment.file.get()?;
    for list in file.lists(shard)? {
        let (ordinals, postings) = file.rows(shard, list)?;
        for (&ordinal, &posting) in ordinals.iter().zip(postings) {
            if !tree.kills.contains(ordinal)? {
                visit(Row { shard, list: list.list, ordinal, posting })?;
            }
        }
    }
    Ok(())
}

/// Assigns a row of an older generation to a list of the newest one.
fn move_row(tree: &Tree, row: Row, moved: &mut RowAssigner<'_>) -> Result<()> {
    let Some((vector, norm)) = tree.row(row.ordinal, row.posting)? else { return Ok(()) };
    moved.add_one(row.ordinal, row.posting, vector, norm)
}

/// Writes rows that are in segment order as a base segment.
pub(super) fn write_base<'a>(
    core: &'a Core,
    collection: &CollectionState,
    (generation, codebook): (Generation, Option<&Codebook>),
    rows: &[Row],
    files: &mut Vec<PendingFile<'a>>,
) -> Result<Option<VectorEntry>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let plan = SegmentPlan {
        number: core.allocate_file(),
        collection: collection.id,
        generation,
        kind: SegmentKind::Base,
        metric: collection.config.metric,
        codebook,
    };
    let (file, live) = plan.write(&core.opener, rows, &*collection.tree)?;
    let entry = VectorEntry { file: *file.meta(), generation, base: true, live };
    files.push(file);
    Ok(Some(entry))
}

/// One kill file for all there are. A kill can be dropped when no posting file has its document and every
/// section was merged, so that nothing refers to its ordinal any more.
pub(super) fn merge_kills<'a>(
    core: &'a Core,
    collection: &CollectionState,
    everything: bool,
    files: &mut Vec<PendingFile<'a>>,
) -> Result<(Vec<FileMeta>, Option<KillEntry>)> {
    let tree = &*collection.tree;
    let mut kept = RoaringTreemap::new();
    for ordinal in tree.kills.all()?.iter() {
        if !everything || tree.place_of(DocumentOrdinal(ordinal))?.is_some() {
            kept.insert(ordinal);
        }
    }
    let old: Vec<FileMeta> = tree.entry.kills.iter().map(|kill| kill.file).collect();
    let unchanged = old.len() <= 1 && kept.len() == tree.kills.all()?.len();
    if unchanged {
        return Ok((Vec::new(), None));
    }
    if kept.is_empty() {
        return Ok((old, None));
    }
    let opener = &core.opener;
    let number = core.allocate_file();
    let file = write_kill_file(&*opener.storage, &opener.dir, number, opener.database, collection.id, &kept)?;
    let entry = KillEntry { file: *file.meta(), ordinals: kept.len() };
    files.push(file);
    Ok((old, Some(entry)))
}

impl Change for Repacked {
    fn enter(&self, entry: &mut CollectionEntry) {
        for (file, taken) in &self.inputs {
            for vector in entry.vectors.iter_mut().filter(|vector| vector.file == *file) {
                vector.live.retain(|(shard, _)| !taken.contains(shard));
            }
        }
        entry.vectors.retain(|vector| !vector.live.is_empty());
        entry.vectors.extend(self.output.clone());
        entry.kills.retain(|kill| !self.old_kills.contains(&kill.file));
        entry.kills.extend(self.kills.clone());
        if let Some((index, header)) = &self.index {
            entry.indexes.push(index.clone());
            entry.next_list = entry.next_list.max(header.next_list);
            entry.next_shard = entry.next_shard.max(header.next_shard);
        }
        // A generation is visible while it is the newest or some section is of it (rule R12).
        let newest = entry.indexes.iter().map(|index| index.generation).max();
        let used: HashSet<Generation> = entry.vectors.iter().map(|vector| vector.generation).collect();
        let is_used = |generation| Some(generation) == newest || used.contains(&generation);
        entry.indexes.retain(|index| is_used(index.generation) || mutant::is(Mutant::KeepOldGenerations));
    }

    fn count(&self, stats: &mut CompactionStats) {
        stats.sections_merged += self.inputs.iter().map(|(_, shards)| shards.len()).sum::<usize>();
        stats.rows += self.output.as_ref().map_or(0, |entry| entry.live.iter().map(|(_, rows)| rows).sum());
        stats.trained.extend(self.trained.clone());
    }
}
