//! Merging vector sections into base sections, without the rows of documents that are killed.

use std::collections::HashSet;

use plimsoll_base::{DocumentOrdinal, Generation, ShardId};
use plimsoll_shard::{FileMeta, IndexHeader, PendingFile, SegmentKind, kill::write_kill_file};
use roaring::RoaringTreemap;

use super::Rewrite;
use crate::core::Core;
use crate::error::Result;
use crate::manifest::{CollectionEntry, IndexEntry, KillEntry, VectorEntry};
use crate::rows::{Row, RowAssigner, write_segment};
use crate::state::CollectionState;
use crate::stats::CompactionStats;
use crate::tree::{Tree, VectorSegment};

/// Sections merged into a base segment, and the kills that are left.
pub(super) struct Repacked {
    pub inputs: Vec<(FileMeta, Vec<ShardId>)>,
    pub output: Option<(PendingFile, VectorEntry)>,
    pub old_kills: Vec<FileMeta>,
    pub kills: Option<(PendingFile, KillEntry)>,
    /// A generation trained with it.
    pub index: Option<(PendingFile, IndexEntry, IndexHeader)>,
    pub trained: Option<(String, Generation)>,
}

/// Merges the sections of `shards`, and moves the rows of older generations to the newest one.
pub(super) fn merge(core: &Core, collection: &CollectionState, shards: &[ShardId]) -> Result<Repacked> {
    let tree = &*collection.tree;
    let newest = tree.generation();
    let chosen: HashSet<ShardId> = shards.iter().copied().collect();
    let mut inputs = Vec::new();
    let mut rows = Vec::new();
    let mut moved = RowAssigner::new(tree.routers.get(&newest).map(|router| &**router), collection.config.dimension);
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
            inputs.push((*segment.file.sealed().file_meta(), taken));
        }
    }
    rows.extend(moved.finish()?);
    rows.sort_unstable();
    let output = write_base(core, collection, newest, &rows)?;
    let (old_kills, kills) = merge_kills(core, collection, everything)?;
    Ok(Repacked { inputs, output, old_kills, kills, index: None, trained: None })
}

/// Visits the rows of a section whose documents are not killed.
fn each_live_row(
    tree: &Tree,
    segment: &VectorSegment,
    shard: ShardId,
    mut visit: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    for list in segment.file.lists(shard)? {
        let (ordinals, postings) = segment.file.rows(shard, list)?;
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
    let Some(place) = tree.place_of(row.ordinal)? else { return Ok(()) };
    let file = tree.posting(place);
    let at = file.entry(place.document)?.first_row() + u32::from(row.posting);
    moved.add_one(row.ordinal, row.posting, file.vectors(at..at + 1)?, file.norms(at..at + 1)?[0])
}

/// Writes rows that are in segment order as a base segment.
pub(super) fn write_base(
    core: &Core,
    collection: &CollectionState,
    generation: Generation,
    rows: &[Row],
) -> Result<Option<(PendingFile, VectorEntry)>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let number = core.allocate_file();
    let (file, live) = write_segment(&core.opener, number, collection.id, generation, SegmentKind::Base, rows)?;
    let entry = VectorEntry { file: *file.meta(), generation, base: true, live };
    Ok(Some((file, entry)))
}

/// One kill file for all there are. A kill can be dropped when no posting file has its document and every
/// section was merged, so that nothing refers to its ordinal any more.
pub(super) fn merge_kills(
    core: &Core,
    collection: &CollectionState,
    everything: bool,
) -> Result<(Vec<FileMeta>, Option<(PendingFile, KillEntry)>)> {
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
    Ok((old, Some((file, entry))))
}

impl Rewrite for Repacked {
    fn files(&self) -> Vec<PendingFile> {
        let output = self.output.as_ref().map(|(file, _)| *file);
        let kills = self.kills.as_ref().map(|(file, _)| *file);
        let index = self.index.as_ref().map(|(file, ..)| *file);
        output.into_iter().chain(kills).chain(index).collect()
    }

    fn enter(&self, entry: &mut CollectionEntry) {
        for (file, taken) in &self.inputs {
            for vector in entry.vectors.iter_mut().filter(|vector| vector.file == *file) {
                vector.live.retain(|(shard, _)| !taken.contains(shard));
            }
        }
        entry.vectors.retain(|vector| !vector.live.is_empty());
        entry.vectors.extend(self.output.as_ref().map(|(_, output)| output.clone()));
        entry.kills.retain(|kill| !self.old_kills.contains(&kill.file));
        entry.kills.extend(self.kills.as_ref().map(|(_, kills)| kills.clone()));
        if let Some((_, index, header)) = &self.index {
            entry.indexes.push(index.clone());
            entry.next_list = entry.next_list.max(header.next_list);
            entry.next_shard = entry.next_shard.max(header.next_shard);
        }
        // A generation is visible while it is the newest or some section is of it (rule R12).
        let newest = entry.indexes.iter().map(|index| index.generation).max();
        let used: HashSet<Generation> = entry.vectors.iter().map(|vector| vector.generation).collect();
        entry.indexes.retain(|index| Some(index.generation) == newest || used.contains(&index.generation));
    }

    fn count(&self, stats: &mut CompactionStats) {
        stats.sections_merged += self.inputs.iter().map(|(_, shards)| shards.len()).sum::<usize>();
        stats.rows += self.output.as_ref().map_or(0, |(_, entry)| entry.live.iter().map(|(_, rows)| rows).sum());
        stats.bytes_written += self.files().iter().map(|file| file.meta().len).sum::<u64>();
        stats.trained.extend(self.trained.clone());
    }
}
