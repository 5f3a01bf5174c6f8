//! What one flush adds to one collection: a posting file, a vector segment, and a kill file.

use std::collections::HashSet;
use std::path::Path;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{DocumentId, DocumentOrdinal, Lsn, StorageError};
use plimsoll_index::bloom::BloomBuilder;
use plimsoll_shard::{
    DocumentRef, Documents, FileMeta, PendingFile, PostingInfo, RowsRef, SealedView, SegmentKind,
    kill::write_kill_file, posting::write_posting_file,
};
use roaring::RoaringTreemap;

use super::{Drained, Touched};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::jobs::Job;
use crate::manifest::{CollectionEntry, KillEntry, PostingEntry, VectorEntry};
use crate::memtable::MemtableEntry;
use crate::model::Key;
use crate::router::Router;
use crate::rows::{RowAssigner, RowVectors, SegmentPlan};
use crate::stats::FlushStats;
use crate::tree::{StoredPlace, Tree};

/// The files of one collection's flush, and what the manifest will say about them.
pub(crate) struct Delta<'a> {
    /// Written, but not synced yet.
    files: Vec<PendingFile<'a>>,
    pub posting: Option<PostingEntry>,
    pub vector: Option<VectorEntry>,
    pub kill: Option<KillEntry>,
    /// Per posting file of the tree that the flush began with, the documents that it killed there.
    pub killed_in: Vec<u64>,
    pub next_ordinal: DocumentOrdinal,
    pub collection: plimsoll_base::CollectionId,
    operations: u64,
    lsns: (Lsn, Lsn),
}

/// After so many documents it is said how far a flush has come.
const PROGRESS: usize = 1000;

/// The filter's size: under one false positive in a hundred.
pub(crate) const BLOOM_BITS_PER_KEY: usize = 10;

/// The bloom filter of a posting file.
pub(crate) fn bloom_of(ids: &[DocumentId]) -> Vec<u8> {
    let mut bloom = BloomBuilder::new(ids.len(), BLOOM_BITS_PER_KEY);
    ids.iter().for_each(|id| bloom.insert(id));
    bloom.into_bytes()
}

impl<'a> Delta<'a> {
    /// Writes the files, which are neither synced nor named yet.
    pub(crate) fn write(core: &'a Core, drained: &Drained, job: Option<&Job>) -> Result<Self> {
        let tree = &drained.collection.tree;
        let newest = newest_versions(drained)?;
        let kills = resolve(tree, &newest)?;
        let first = tree.entry.next_ordinal;
        let documents =
            NewDocuments::new(first, newest.iter().filter(|entry| !kills.outdated.contains(&entry.id())));
        let lsns = drained.sealed.iter().filter_map(|sealed| sealed.memtable.lsns());
        let lsns = lsns.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default();
        let mut delta = Self {
            files: Vec::new(),
            posting: None,
            vector: None,
            kill: None,
            killed_in: kills.per_file,
            next_ordinal: DocumentOrdinal(first.0 + documents.entries.len() as u64),
            collection: drained.collection.id,
            operations: newest.len() as u64,
            lsns,
        };
        delta.write_files(core, drained, &documents, &kills.ordinals, job)?;
        Ok(delta)
    }

    fn write_files(
        &mut self,
        core: &'a Core,
        drained: &Drained,
        documents: &NewDocuments<'_>,
        kills: &RoaringTreemap,
        job: Option<&Job>,
    ) -> Result<()> {
        let [posting, vector, kill] = core.allocate_files();
        let (storage, dir, database) = (&*core.opener.storage, &core.opener.dir, core.opener.database);
        let collection = &drained.collection;
        if !documents.entries.is_empty() {
            let info = PostingInfo {
                collection: collection.id,
                dimension: collection.config.dimension as u32,
                metric: collection.config.metric,
                first_lsn: self.lsns.0,
                last_lsn: self.lsns.1,
            };
            let pending = write_posting_file(storage, dir, posting, database, &info, documents, bloom_of)?;
            let entry = PostingEntry {
                file: *pending.meta(),
                first_ordinal: documents.first,
                last_ordinal: DocumentOrdinal(self.next_ordinal.0 - 1),
                documents: documents.entries.len() as u64,
                rows: documents.row_count(),
                killed: 0,
            };
            self.files.push(pending);
            self.posting = Some(entry);
            let generation = collection.tree.generation();
            let router = collection.tree.router(generation)?;
            let mut rows = RowAssigner::new(router, collection.config.dimension);
            for (index, entry) in documents.entries.iter().enumerate() {
                if index % PROGRESS == 0 {
                    core.flush_progress(job, collection, index, documents.entries.len());
                }
                rows.add(documents.ordinal(index), entry.vectors(), entry.norms())?;
            }
            let plan = SegmentPlan {
                number: vector,
                collection: collection.id,
                generation,
                kind: SegmentKind::Delta,
                metric: collection.config.metric,
                codebook: router.map(Router::codebook).transpose()?.flatten(),
            };
            let (pending, live) = plan.write(&core.opener, &rows.finish()?, documents)?;
            let entry = VectorEntry { file: *pending.meta(), generation, base: false, live };
            self.files.push(pending);
            self.vector = Some(entry);
        }
        if !kills.is_empty() {
            let pending = write_kill_file(storage, dir, kill, database, collection.id, kills)?;
            let entry = KillEntry { file: *pending.meta(), ordinals: kills.len() };
            self.files.push(pending);
            self.kill = Some(entry);
        }
        Ok(())
    }

    /// Takes the files, to be synced.
    pub(crate) fn take_files(&mut self) -> Vec<PendingFile<'a>> {
        std::mem::take(&mut self.files)
    }

    /// What the manifest says about the files.
    pub(crate) fn metas(&self) -> impl Iterator<Item = FileMeta> {
        let posting = self.posting.as_ref().map(|posting| posting.file);
        let vector = self.vector.as_ref().map(|vector| vector.file);
        posting.into_iter().chain(vector).chain(self.kill.as_ref().map(|kill| kill.file))
    }

    /// Says in the manifest's entry what the flush added.
    pub(crate) fn enter(&self, entry: &mut CollectionEntry) {
        for (posting, killed) in entry.postings.iter_mut().zip(&self.killed_in) {
            posting.killed += killed;
        }
        entry.postings.extend(self.posting.clone());
        entry.vectors.extend(self.vector.clone());
        entry.kills.extend(self.kill.clone());
        entry.next_ordinal = self.next_ordinal;
    }

    pub(crate) fn rows(&self) -> u64 {
        self.posting.as_ref().map_or(0, |posting| posting.rows)
    }

    /// How many files it has.
    pub(crate) fn files(&self) -> usize {
        self.metas().count()
    }

    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> u64 {
        self.metas().map(|file| file.len).sum()
    }

    /// Counts what it adds for users.
    pub(crate) fn count(&self, stats: &mut FlushStats, touched: &mut Touched) {
        let shards = self.vector.iter().flat_map(|vector| &vector.live);
        touched.shards.extend(shards.map(|(shard, _)| (self.collection, *shard)));
        touched.collections.insert(self.collection);
        stats.collections += 1;
        stats.operations_applied += self.operations;
        stats.rows += self.rows();
        stats.killed += self.killed_in.iter().sum::<u64>();
        stats.shards_touched += self.vector.as_ref().map_or(0, |vector| vector.live.len());
        if stats.first_lsn == Lsn::ZERO || self.lsns.0 < stats.first_lsn {
            stats.first_lsn = self.lsns.0;
        }
        stats.last_lsn = stats.last_lsn.max(self.lsns.1);
    }
}

/// The newest version of every document in the sealed memtables, deletions too.
fn newest_versions(drained: &Drained) -> Result<Vec<MemtableEntry<'_>>> {
    let mut seen = HashSet::new();
    let only_one = drained.sealed.len() == 1;
    let mut newest = Vec::new();
    for sealed in drained.sealed.iter().rev() {
        let memtable = &sealed.memtable;
        let mut found = 0;
        for (id, entry) in memtable.newest(Lsn(u64::MAX)) {
            found += 1;
            if only_one || seen.insert(id) {
                newest.push(entry);
            }
        }
        // What is left out here leaves the log, too.
        if found != memtable.documents() {
            let what = format!("{found} of {} documents were found", memtable.documents());
            return Err(StorageError::corrupted(Path::new("memtable"), 0, what).into());
        }
    }
    Ok(newest)
}

/// The stored documents that new versions replace or delete.
struct Resolved {
    ordinals: RoaringTreemap,
    per_file: Vec<u64>,
    /// Those of which a newer version is stored. That is so only in a repair, when a log is read again of which files
    /// hold the end.
    outdated: HashSet<DocumentId>,
}

fn resolve(tree: &Tree, newest: &[MemtableEntry<'_>]) -> Result<Resolved> {
    let mut resolved = Resolved {
        ordinals: RoaringTreemap::new(),
        per_file: vec![0; tree.postings.len()],
        outdated: HashSet::new(),
    };
    for entry in newest {
        let Some(place) = tree.find(entry.id())? else { continue };
        let StoredPlace { file, document } = place;
        let posting = tree.posting(place)?;
        let stored = posting.key(document)?;
        if stored != entry.encoded_key() {
            let stored = Key::decode(stored, posting.sealed().path())?;
            return Err(Error::IdCollision { stored, given: entry.key()? });
        }
        if mutant::is(Mutant::ForgetKill) {
            continue;
        }
        let document = posting.entry(document)?;
        if document.version() > entry.version() && !mutant::is(Mutant::RepairReplaysOver) {
            resolved.outdated.insert(entry.id());
            continue;
        }
        resolved.ordinals.insert(document.ordinal().0);
        resolved.per_file[file] += 1;
    }
    Ok(resolved)
}

/// The documents that a flush stores, in the order in which they were written.
struct NewDocuments<'a> {
    first: DocumentOrdinal,
    entries: Vec<MemtableEntry<'a>>,
}

impl<'a> NewDocuments<'a> {
    fn new<'e>(first: DocumentOrdinal, newest: impl Iterator<Item = &'e MemtableEntry<'a>>) -> Self
    where
        'a: 'e,
    {
        let mut entries: Vec<_> = newest.filter(|entry| !entry.is_delete()).copied().collect();
        entries.sort_unstable_by_key(MemtableEntry::version);
        Self { first, entries }
    }

    fn ordinal(&self, index: usize) -> DocumentOrdinal {
        DocumentOrdinal(self.first.0 + index as u64)
    }

    fn row_count(&self) -> u64 {
        self.entries.iter().map(|entry| entry.norms().len() as u64).sum()
    }
}

impl RowVectors for NewDocuments<'_> {
    fn vector(&self, ordinal: DocumentOrdinal, posting: u16) -> Result<(&[f32], f32)> {
        let index = ordinal.0.checked_sub(self.first.0).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get(index));
        let row = entry.and_then(|entry| entry.row(usize::from(posting)));
        row.ok_or_else(|| Error::InvalidArgument(format!("document {ordinal} is not of this flush")))
    }
}

impl Documents for NewDocuments<'_> {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn document(&self, index: usize) -> Result<DocumentRef<'_>, StorageError> {
        let entry = &self.entries[index];
        Ok(DocumentRef {
            ordinal: self.ordinal(index),
            id: entry.id(),
            version: entry.version(),
            key: entry.encoded_key(),
            text: entry.text(),
            metadata: entry.encoded_metadata(),
            ranges: entry.ranges(),
        })
    }

    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>, StorageError> {
        let entry = &self.entries[index];
        Ok(RowsRef { vectors: entry.vectors(), norms: Some(entry.norms()) })
    }
}
