//! Consistency validation at the end of a flush: what was written is what was meant.
//!
//! Its cost is bounded by the new data; `verify` does the same for everything, and more.

use std::collections::HashSet;

use plimsoll_base::{DocumentOrdinal, StorageError};
use plimsoll_index::bloom::BloomView;
use plimsoll_shard::{PostingFile, SealedView, VectorFile};

use super::delta::Delta;
use crate::core::{Core, lock};
use crate::error::Result;
use crate::manifest::CollectionEntry;
use crate::tree::{Tree, check_presence};

impl Core {
    /// Validates what a flush added. The manifest is out, so an error here is reported, not undone: the data
    /// it speaks of is the data that readers see.
    pub(crate) fn validate_flush(&self, deltas: &[Delta<'_>]) -> Result<()> {
        let state = self.published.state();
        for delta in deltas {
            let Some(collection) = state.collections.get(&delta.collection) else { continue };
            validate_delta(&collection.tree, delta)?;
        }
        self.validate_watermarks()?;
        let root = lock(&self.root);
        let is_sound = |entry: &&CollectionEntry| {
            state.collections.get(&entry.id).is_none_or(|collection| collection.damage.is_none())
        };
        let sound = root.manifest.collections.iter().filter(is_sound);
        check_presence(sound.flat_map(CollectionEntry::files), &self.storage, self.data_dir())
    }

    /// `appended ≥ durable ≥ flushed`, `appended ≥ applied ≥ flushed`, and the log's pointer is the lowest
    /// flushed LSN of any collection.
    fn validate_watermarks(&self) -> Result<()> {
        let marks = self.watermarks();
        let root = lock(&self.root);
        let pointer = root.manifest.wal_pointer;
        let lowest = root.manifest.collections.iter().map(|entry| entry.flushed).min().unwrap_or(pointer);
        let ordered = marks.appended >= marks.durable
            && marks.durable >= pointer
            && marks.appended >= marks.applied
            && marks.applied >= pointer
            && lowest >= pointer;
        if ordered {
            return Ok(());
        }
        let manifest = crate::manifest::path(&self.options.path, root.manifest.number);
        let what =
            format!("watermarks out of order: {marks:?}, log pointer {pointer}, lowest flushed {lowest}");
        Err(StorageError::corrupted(&manifest, 0, what).into())
    }
}

fn validate_delta(tree: &Tree, delta: &Delta<'_>) -> Result<()> {
    if let Some(entry) = &delta.posting
        && let Some(slot) = tree.postings.iter().find(|slot| slot.meta == entry.file)
    {
        let file = slot.get()?;
        let counts = (file.documents() as u64, u64::from(file.rows()));
        expect(file, counts == (entry.documents, entry.rows), || {
            format!("{counts:?} documents and rows, {:?} were meant", (entry.documents, entry.rows))
        })?;
        validate_ids(tree, file)?;
        if let Some(vector) = &delta.vector
            && let Some(segment) = tree.vectors.iter().find(|segment| segment.file.meta == vector.file)
        {
            let rows = segment.file.get()?;
            validate_rows(file, rows)?;
            validate_membership(tree, segment.generation, rows)?;
        }
    }
    if let Some(kill) = &delta.kill
        && let Some(slot) = tree.kills.files.iter().find(|slot| slot.meta == kill.file)
    {
        let file = slot.get()?;
        let first_new = delta.posting.as_ref().map_or(delta.next_ordinal, |entry| entry.first_ordinal);
        let ordinals = file.ordinals()?;
        let in_range = ordinals.max().is_none_or(|last| last < first_new.0);
        if !in_range || ordinals.len() != kill.ordinals {
            let what = format!(
                "{} kills up to {:?}; {} below {first_new} were meant",
                ordinals.len(),
                ordinals.max(),
                kill.ordinals
            );
            return Err(StorageError::corrupted(file.sealed().path(), 0, what).into());
        }
        let killed: u64 = delta.killed_in.iter().sum();
        if killed != ordinals.len() {
            let what = format!("{killed} documents were counted as killed, {} are", ordinals.len());
            return Err(StorageError::corrupted(file.sealed().path(), 0, what).into());
        }
    }
    Ok(())
}

fn expect(file: &PostingFile, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(StorageError::corrupted(file.sealed().path(), 0, what()).into()) }
}

/// Every id of a posting file leads to its document, and the bloom filter knows it.
pub(crate) fn validate_ids(tree: &Tree, file: &PostingFile) -> Result<()> {
    let bloom = BloomView::new(file.bloom()?);
    let mut next_row = 0;
    for index in 0..file.documents() {
        let entry = file.entry(index)?;
        let id = entry.id();
        expect(file, bloom.is_none_or(|bloom| bloom.contains(&id)), || {
            format!("the bloom filter does not know document {id}")
        })?;
        expect(file, file.find(&id)? == Some(index), || {
            format!("the id table does not lead to document {id}")
        })?;
        expect(file, entry.first_row() == next_row && entry.postings() > 0, || {
            format!("the rows of document {id} do not follow those before")
        })?;
        next_row += entry.postings();
        expect(file, file.index_of(entry.ordinal())? == Some(index), || {
            format!("ordinal {} does not lead to document {id}", entry.ordinal())
        })?;
        expect(file, entry.ordinal() < tree.entry.next_ordinal, || {
            format!("ordinal {} was never given out", entry.ordinal())
        })?;
    }
    expect(file, next_row == file.rows(), || format!("{} rows, {next_row} belong to documents", file.rows()))
}

/// Every row of a new posting file has exactly one row in its new segment, and the other way round.
fn validate_rows(file: &PostingFile, segment: &VectorFile) -> Result<()> {
    let mut seen = vec![false; file.rows() as usize];
    for shard in segment.shards() {
        for list in segment.lists(*shard)? {
            let (ordinals, postings) = segment.rows(*shard, list)?;
            for (ordinal, posting) in ordinals.iter().zip(postings) {
                let row = row_of(file, *ordinal, *posting)?;
                let fresh =
                    row.and_then(|row| seen.get_mut(row)).is_some_and(|seen| !std::mem::replace(seen, true));
                if !fresh {
                    let what =
                        format!("posting {posting} of document {ordinal} is there twice or not stored");
                    return Err(StorageError::corrupted(segment.sealed().path(), 0, what).into());
                }
            }
        }
    }
    expect(file, seen.iter().all(|seen| *seen), || "a row has no place in any list".to_owned())
}

pub(crate) fn row_of(file: &PostingFile, ordinal: DocumentOrdinal, posting: u16) -> Result<Option<usize>> {
    let Some(index) = file.index_of(ordinal)? else { return Ok(None) };
    let entry = file.entry(index)?;
    let within = u32::from(posting) < entry.postings();
    Ok(within.then(|| entry.first_row() as usize + usize::from(posting)))
}

/// Every list of a segment is one of its generation, in the shard that the generation says.
pub(crate) fn validate_membership(
    tree: &Tree,
    generation: plimsoll_base::Generation,
    segment: &VectorFile,
) -> Result<()> {
    let known: HashSet<_> = match tree.router(generation)? {
        Some(router) => {
            let centroids = router.centroids()?;
            centroids.shards().iter().copied().zip(centroids.ids().iter().copied()).collect()
        }
        None => HashSet::from([crate::rows::UNLISTED]),
    };
    for shard in segment.shards() {
        for list in segment.lists(*shard)? {
            if !known.contains(&(*shard, list.list)) {
                let what =
                    format!("list {} of shard {shard} is not in index generation {generation}", list.list);
                return Err(StorageError::corrupted(segment.sealed().path(), 0, what).into());
            }
        }
    }
    Ok(())
}

/// What a manifest says about a collection adds up.
pub(crate) fn entry_problem(entry: &CollectionEntry) -> Option<String> {
    let mut last = None;
    for posting in &entry.postings {
        if last.is_some_and(|last| last >= posting.first_ordinal)
            || posting.last_ordinal >= entry.next_ordinal
        {
            return Some(format!("the ordinals of posting file {} overlap", posting.file.number));
        }
        if posting.killed > posting.documents {
            return Some(format!(
                "more documents of posting file {} are killed than it has",
                posting.file.number
            ));
        }
        last = Some(posting.last_ordinal);
    }
    let generations: HashSet<_> = entry.indexes.iter().map(|index| index.generation).collect();
    let unknown = entry
        .vectors
        .iter()
        .find(|vector| vector.generation.0 != 0 && !generations.contains(&vector.generation));
    if let Some(vector) = unknown {
        return Some(format!(
            "vector segment {} is of unknown generation {}",
            vector.file.number, vector.generation
        ));
    }
    (generations.len() > 2).then(|| format!("{} index generations are visible", generations.len()))
}
