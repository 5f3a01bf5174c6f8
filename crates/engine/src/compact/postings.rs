//! Merging neighbouring posting files into one, without the documents that are killed.
//!
//! Documents keep their ordinals, so no kill and no vector row has to change. Kills stay recorded: vector rows
//! of a dropped document may still be there until their sections are merged.

use std::ops::Range;
use std::sync::Arc;

use plimsoll_base::{DocumentOrdinal, StorageError};
use plimsoll_shard::{
    DocumentRef, Documents, FileMeta, PostingFile, PostingInfo, RowsRef, posting::write_posting_file,
};

use super::{Change, Rewrite};
use crate::core::{Core, lock};
use crate::error::Result;
use crate::flush::bloom_of;
use crate::manifest::{self, CollectionEntry, PostingEntry};
use crate::state::CollectionState;
use crate::stats::CompactionStats;
use crate::tree::Tree;

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
    let documents = LiveDocuments::new(tree, &tree.postings[range])?;
    if documents.dropped < counted {
        // Otherwise the same files would be due again and again.
        let number = lock(&core.root).manifest.number;
        let what = format!("{counted} documents are counted as killed, {} are", documents.dropped);
        return Err(StorageError::corrupted(&manifest::path(&core.options.path, number), 0, what).into());
    }
    let mut files = Vec::new();
    let mut merged = Merged { inputs, dropped: documents.dropped, output: None };
    if let (Some(first), Some(last)) = (documents.ordinal(0), documents.last_ordinal()) {
        let opener = &core.opener;
        let info = documents.info(collection);
        let number = core.allocate_file();
        let file = write_posting_file(
            &*opener.storage,
            &opener.dir,
            number,
            opener.database,
            &info,
            &documents,
            bloom_of,
        )?;
        let entry = PostingEntry {
            file: *file.meta(),
            first_ordinal: first,
            last_ordinal: last,
            documents: documents.len() as u64,
            rows: documents.rows,
            killed: 0,
        };
        files.push(file);
        merged.output = Some(entry);
    }
    Ok(Rewrite { files, change: Box::new(merged) })
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

/// The documents of some posting files that are not killed, in the order of their ordinals.
struct LiveDocuments<'a> {
    files: &'a [Arc<PostingFile>],
    places: Vec<(u32, u32)>,
    rows: u64,
    dropped: u64,
}

impl<'a> LiveDocuments<'a> {
    fn new(tree: &Tree, files: &'a [Arc<PostingFile>]) -> Result<Self> {
        let mut live = Self { files, places: Vec::new(), rows: 0, dropped: 0 };
        for (file, posting) in files.iter().enumerate() {
            for document in 0..posting.documents() {
                let entry = posting.entry(document)?;
                if tree.kills.contains(entry.ordinal())? {
                    live.dropped += 1;
                } else {
                    live.places.push((file as u32, document as u32));
                    live.rows += u64::from(entry.postings());
                }
            }
        }
        Ok(live)
    }

    fn at(&self, index: usize) -> (&'a PostingFile, usize) {
        let (file, document) = self.places[index];
        (&self.files[file as usize], document as usize)
    }

    fn ordinal(&self, index: usize) -> Option<DocumentOrdinal> {
        let (file, document) = *self.places.get(index)?;
        self.files[file as usize].entry(document as usize).ok().map(plimsoll_shard::DocumentEntry::ordinal)
    }

    fn last_ordinal(&self) -> Option<DocumentOrdinal> {
        self.ordinal(self.places.len().checked_sub(1)?)
    }

    fn info(&self, collection: &CollectionState) -> PostingInfo {
        let infos = self.files.iter().map(|file| file.header().info);
        let (first_lsn, last_lsn) = infos
            .map(|info| (info.first_lsn, info.last_lsn))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            .unwrap_or_default();
        PostingInfo {
            collection: collection.id,
            dimension: collection.config.dimension as u32,
            metric: collection.config.metric,
            first_lsn,
            last_lsn,
        }
    }
}

impl Documents for LiveDocuments<'_> {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn document(&self, index: usize) -> Result<DocumentRef<'_>, StorageError> {
        let (file, document) = self.at(index);
        let entry = file.entry(document)?;
        Ok(DocumentRef {
            ordinal: entry.ordinal(),
            id: entry.id(),
            version: entry.version(),
            key: file.key(document)?,
            text: file.text(document)?,
            metadata: file.metadata(document)?,
            ranges: file.ranges(document)?,
        })
    }

    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>, StorageError> {
        let (file, document) = self.at(index);
        let rows = file.entry(document)?.rows();
        Ok(RowsRef { vectors: file.vectors(rows.clone())?, norms: Some(file.norms(rows)?) })
    }
}
