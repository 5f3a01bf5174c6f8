//! Merging neighbouring posting files into one, without the documents that are killed.
//!
//! Documents keep their ordinals, so no kill and no vector row has to change. Kills stay recorded: vector rows
//! of a dropped document may still be there until their sections are merged.

use std::ops::Range;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{Lsn, StorageError};
use plimsoll_shard::{FileMeta, PostingFile, PostingInfo};

use super::{Change, Rewrite};
use crate::core::{Core, lock};
use crate::documents::StoredDocuments;
use crate::error::Result;
use crate::manifest::{self, CollectionEntry, PostingEntry};
use crate::state::CollectionState;
use crate::stats::CompactionStats;

/// Posting files merged.
struct Merged {
    inputs: Vec<FileMeta>,
    dropped: u64,
    output: Option<PostingEntry>,
}

/// Merges the files of `range`.
pub(super) fn merge<'a>(
    core: &'a Core,
    collection: &CollectionState,
    range: Range<usize>,
) -> Result<Rewrite<'a>> {
    let tree = &*collection.tree;
    let inputs: Vec<FileMeta> =
        tree.entry.postings[range.clone()].iter().map(|posting| posting.file).collect();
    let counted: u64 = tree.entry.postings[range.clone()].iter().map(|posting| posting.killed).sum();
    let (documents, dropped) = live_documents(collection, tree.posting_files()?.drain(range).collect())?;
    if dropped < counted {
        // Otherwise the same files would be due again and again.
        let number = lock(&core.root).manifest.number;
        let what = format!("{counted} documents are counted as killed, {dropped} are");
        return Err(StorageError::corrupted(&manifest::path(&core.options.path, number), 0, what).into());
    }
    let info = PostingInfo {
        collection: collection.id,
        dimension: collection.config.dimension as u32,
        metric: collection.config.metric,
        first_lsn: Lsn::ZERO,
        last_lsn: Lsn::ZERO,
    };
    let (file, output) = documents.write(&core.opener, core.allocate_file(), info)?.unzip();
    let merged = Merged { inputs, dropped, output };
    Ok(Rewrite { files: file.into_iter().collect(), change: Box::new(merged) })
}

/// The documents that are not killed, and how many others there are.
fn live_documents<'a>(
    collection: &CollectionState,
    files: Vec<&'a PostingFile>,
) -> Result<(StoredDocuments<'a>, u64)> {
    let kills = &collection.tree.kills;
    let forgotten = |id| {
        let mut memtables = collection.memtables();
        mutant::is(Mutant::CompactAwayUnflushedKills) && memtables.any(|m| m.shadows(id, Lsn(u64::MAX)))
    };
    let mut live = StoredDocuments::of(files.clone());
    let mut dropped = 0;
    for (file, posting) in files.into_iter().enumerate() {
        for document in 0..posting.documents() {
            let entry = posting.entry(document)?;
            if kills.contains(entry.ordinal())? || forgotten(entry.id()) {
                dropped += 1;
            } else {
                live.push(file, document, entry.postings());
            }
        }
    }
    Ok((live, dropped))
}

impl Change for Merged {
    fn enter(&self, entry: &mut CollectionEntry) {
        let is_input = |posting: &PostingEntry| self.inputs.contains(&posting.file);
        let Some(at) = entry.postings.iter().position(is_input) else { return };
        // Documents that were killed since the merge began are in the output, and counted as killed there.
        let killed: u64 =
            entry.postings.iter().filter(|posting| is_input(posting)).map(|posting| posting.killed).sum();
        entry.postings.retain(|posting| !is_input(posting));
        if let Some(output) = &self.output {
            let killed = killed.saturating_sub(self.dropped);
            entry.postings.insert(at, PostingEntry { killed, ..output.clone() });
        }
    }

    fn count(&self, stats: &mut CompactionStats) {
        stats.postings_merged += self.inputs.len();
        stats.documents_dropped += self.dropped;
    }
}
