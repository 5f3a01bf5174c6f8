//! One collection: the documents that can be read, and everything derived from them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{DocumentId, DocumentOrdinal, FileNumber, Generation, StorageError, Version};
use plimsoll_shard::{
    FileMeta, IndexFile, KillFile, PendingFile, PostingFile, SealedKind, SealedView, SegmentKind,
    kill::write_kill_file,
};
use roaring::RoaringTreemap;

use super::inventory::Missing;
use super::{CollectionRepair, is_damage};
use crate::check::{check_collection, check_file};
use crate::documents::StoredDocuments;
use crate::error::{Error, Result};
use crate::manifest::{CollectionEntry, KillEntry, PostingEntry, VectorEntry};
use crate::model::{Key, value};
use crate::router::Router;
use crate::rows::{RowAssigner, RowVectors, SegmentPlan};
use crate::tree::FileOpener;

/// How many keys of lost documents are reported.
const KEYS_REPORTED: usize = 100;

/// A collection as it is to be.
pub(super) struct Mended<'a> {
    pub entry: CollectionEntry,
    /// New files, written but not synced.
    pub files: Vec<PendingFile<'a>>,
    /// What was wrong, and in which file.
    pub damage: Vec<(FileMeta, StorageError)>,
    pub repair: CollectionRepair,
}

/// Mends a collection; `None` if nothing is wrong with it. If the entry was put together from what the files say,
/// `uncertain` is what they do not have: then ordinals may overlap, and nothing derived is believed.
pub(super) fn mend<'a>(
    opener: &'a FileOpener,
    entry: &CollectionEntry,
    uncertain: Option<Missing>,
    allocate: &mut impl FnMut() -> FileNumber,
) -> Result<Option<Mended<'a>>> {
    let mut damage = Vec::new();
    for meta in entry.files() {
        match check_file(&*opener.storage, &opener.dir, meta, opener.database, opener.mode) {
            Ok(()) => {}
            Err(error) if is_damage(&error) => damage.push((*meta, error)),
            Err(error) => return Err(error.into()),
        }
    }
    let mut is_inconsistent = false;
    if damage.is_empty() && uncertain.is_none() {
        // Each file is sound; do they fit each other?
        match check_collection(opener, entry) {
            Ok(_) => return Ok(None),
            Err(Error::Storage(error)) if is_damage(&error) => {
                let vectors = entry.vectors.first().map(|vector| vector.file);
                let Some(meta) = vectors.or_else(|| entry.files().next().copied()) else {
                    return Err(error.into());
                };
                damage.push((meta, error));
                is_inconsistent = true;
            }
            Err(error) => return Err(error),
        }
    }
    let (kills, sources) = (RoaringTreemap::new(), Vec::new());
    let mut mender = Mender { opener, entry, uncertain, damage, is_inconsistent, kills, sources };
    mender.find_documents()?;
    mender.find_kills()?;
    mender.write(allocate).map(Some)
}

/// A posting file, and which of its documents are kept.
struct Source {
    meta: FileMeta,
    file: PostingFile,
    /// `None`: all of them, and the file as it is.
    kept: Option<Vec<u32>>,
    norms_damaged: bool,
}

struct Mender<'a, 'b> {
    opener: &'a FileOpener,
    entry: &'b CollectionEntry,
    uncertain: Option<Missing>,
    damage: Vec<(FileMeta, StorageError)>,
    /// Whether the files, each of them sound, do not fit each other.
    is_inconsistent: bool,
    kills: RoaringTreemap,
    /// In the order of their ordinals once all are found.
    sources: Vec<Source>,
}

/// What is known of a document that can be read.
struct Found {
    id: DocumentId,
    version: Version,
    ordinal: DocumentOrdinal,
}

impl<'a> Mender<'a, '_> {
    fn is_damaged(&self, meta: &FileMeta) -> bool {
        self.damage.iter().any(|(of, _)| of == meta)
    }

    fn open<T: SealedView>(&self, meta: &FileMeta) -> Option<T> {
        let FileOpener { storage, dir, database, mode, .. } = self.opener;
        T::open(&**storage, dir, meta, *database, *mode).ok()
    }

    /// Decides which documents of which files are kept.
    fn find_documents(&mut self) -> Result<()> {
        let mut files: Vec<&PostingEntry> = self.entry.postings.iter().collect();
        // Where ordinals overlap, one file was merged from the other, or written in its place: the younger one
        // has everything, unless it is damaged.
        files.sort_by_key(|posting| (self.is_damaged(&posting.file), std::cmp::Reverse(posting.file.number)));
        let mut taken: Vec<(DocumentOrdinal, DocumentOrdinal)> = Vec::new();
        for posting in files {
            let Some(file) = self.open::<PostingFile>(&posting.file) else { continue };
            let (first, last) = (posting.first_ordinal, posting.last_ordinal);
            let overlaps = taken.iter().any(|taken| first <= taken.1 && taken.0 <= last);
            if !self.is_damaged(&posting.file) {
                if !overlaps {
                    taken.push((first, last));
                    self.sources.push(Source { meta: posting.file, file, kept: None, norms_damaged: false });
                }
                continue;
            }
            let mut runs: Vec<Vec<u32>> = vec![Vec::new()];
            let mut before = 0;
            for (index, ordinal) in readable_documents(&file) {
                let below = taken.iter().filter(|taken| taken.1 < ordinal).count();
                if taken.iter().any(|taken| taken.0 <= ordinal && ordinal <= taken.1) {
                    continue;
                }
                if below != before {
                    runs.push(Vec::new());
                    before = below;
                }
                if let Some(run) = runs.last_mut() {
                    run.push(index);
                }
            }
            let norms_damaged = file.norms(0..file.rows()).is_err();
            for kept in runs.into_iter().filter(|run| !run.is_empty()) {
                let Some(file) = self.open::<PostingFile>(&posting.file) else { continue };
                self.sources.push(Source { meta: posting.file, file, kept: Some(kept), norms_damaged });
            }
            taken.push((first, last));
        }
        self.sources.sort_by_key(Source::first_ordinal);
        Ok(())
    }

    /// Which documents are deleted or replaced, as far as that is known or follows from the documents.
    fn find_kills(&mut self) -> Result<()> {
        let mut complete = self.uncertain.is_none() && !self.is_inconsistent;
        for kill in &self.entry.kills {
            let file = self.open::<KillFile>(&kill.file);
            match file.as_ref().map(KillFile::ordinals) {
                Some(Ok(ordinals)) if !mutant::is(Mutant::RepairForgetsKills) => self.kills |= ordinals,
                Some(Ok(_)) => {}
                _ => complete = false,
            }
        }
        if complete {
            return Ok(());
        }
        // Of the documents with one id the newest counts, also where it is deleted itself.
        let mut newest: HashMap<DocumentId, (Version, u64)> = HashMap::new();
        let mut superseded = Vec::new();
        for source in &self.sources {
            source.each(|found| {
                let now = (found.version, found.ordinal.0);
                match newest.entry(found.id) {
                    Entry::Vacant(first) => drop(first.insert(now)),
                    Entry::Occupied(mut before) => {
                        superseded.push((*before.get()).min(now).1);
                        before.insert((*before.get()).max(now));
                    }
                }
            })?;
        }
        self.kills.extend(superseded);
        Ok(())
    }

    /// Writes what has to be written.
    fn write(mut self, allocate: &mut impl FnMut() -> FileNumber) -> Result<Mended<'a>> {
        let mut entry = self.entry.clone();
        // Of documents whose file is gone, the kills may be left.
        let last_killed = self.kills.max().map_or(0, |last| last.saturating_add(1));
        entry.next_ordinal = entry.next_ordinal.max(DocumentOrdinal(last_killed));
        let mut repair = CollectionRepair { name: entry.name.clone(), ..CollectionRepair::default() };
        let mut files = Vec::new();
        entry.postings.clear();
        for source in &self.sources {
            if let Some((pending, posting)) = self.posting(source, allocate)? {
                files.extend(pending);
                entry.postings.push(posting);
            }
        }
        let lost = self.lost_documents(&mut repair);
        self.derive(&mut entry, &mut files, &mut repair, allocate)?;
        repair.documents_kept = entry.live_documents();
        // What was lost is the difference, as far as the manifest knew.
        let known = self.entry.live_documents();
        let killed_before: u64 = self.entry.postings.iter().map(|posting| posting.killed).sum();
        let kills_lost = self.entry.kills.iter().any(|kill| self.is_damaged(&kill.file));
        if let Some(missing) = &self.uncertain {
            repair.documents_lost = lost + missing.documents;
            // As many of a file's documents were killed as the older manifest says, or more.
            let is_there =
                |known: &&PostingEntry| self.entry.postings.iter().any(|has| has.file == known.file);
            let forgotten = |known: &PostingEntry| {
                let ordinals = known.first_ordinal.0..=known.last_ordinal.0;
                known.killed.saturating_sub(self.kills.range_cardinality(ordinals))
            };
            let forgotten: u64 = missing.known.iter().filter(is_there).map(forgotten).sum();
            repair.deletions_lost = forgotten.max(missing.deletions);
        } else if kills_lost {
            let killed_now: u64 = entry.postings.iter().map(|posting| posting.killed).sum();
            repair.deletions_lost = killed_before.saturating_sub(killed_now);
            repair.documents_lost = (known + repair.deletions_lost).saturating_sub(repair.documents_kept);
        } else {
            repair.documents_lost = known.saturating_sub(repair.documents_kept);
        }
        if mutant::is(Mutant::RepairCountsNothing) {
            repair.documents_lost = 0;
        }
        let damage = std::mem::take(&mut self.damage);
        Ok(Mended { entry, files, damage, repair })
    }

    /// The file that keeps a source's documents: itself, or a new one.
    fn posting(
        &self,
        source: &Source,
        allocate: &mut impl FnMut() -> FileNumber,
    ) -> Result<Option<(Option<PendingFile<'a>>, PostingEntry)>> {
        let header = source.file.header();
        let mut posting = match &source.kept {
            None => {
                let Some((first_ordinal, last_ordinal)) = header.ordinals else { return Ok(None) };
                let posting = PostingEntry {
                    file: source.meta,
                    first_ordinal,
                    last_ordinal,
                    documents: header.documents,
                    rows: header.rows,
                    killed: 0,
                };
                (None, posting)
            }
            Some(kept) => {
                let mut documents = StoredDocuments::of(vec![&source.file]);
                documents.recompute_norms = source.norms_damaged;
                for index in kept {
                    documents.push(0, *index as usize, source.file.entry(*index as usize)?.postings());
                }
                let Some((pending, posting)) = documents.write(self.opener, allocate(), header.info)? else {
                    return Ok(None);
                };
                (Some(pending), posting)
            }
        };
        source.each(|found| posting.1.killed += u64::from(self.kills.contains(found.ordinal.0)))?;
        Ok(Some(posting))
    }

    /// Counts the documents of damaged files that can not be read, and notes the keys of those whose key can.
    fn lost_documents(&self, repair: &mut CollectionRepair) -> u64 {
        let mut lost = 0;
        for (meta, _) in self.damage.iter().filter(|(meta, _)| meta.kind == SealedKind::Posting) {
            let Some(file) = self.open::<PostingFile>(meta) else { continue };
            let kept: BTreeSet<DocumentOrdinal> =
                readable_documents(&file).map(|(_, ordinal)| ordinal).collect();
            for index in 0..file.documents() {
                let (Ok(entry), Ok(key)) = (file.entry(index), file.key(index)) else {
                    lost += 1;
                    continue;
                };
                let is_lost = !kept.contains(&entry.ordinal()) && !self.kills.contains(entry.ordinal().0);
                lost += u64::from(is_lost);
                if is_lost
                    && repair.lost_keys.len() < KEYS_REPORTED
                    && let Ok(key) = Key::decode(key, Path::new(""))
                {
                    repair.lost_keys.push(key);
                }
            }
        }
        lost
    }

    /// Writes kills and lists anew.
    fn derive(
        &self,
        entry: &mut CollectionEntry,
        files: &mut Vec<PendingFile<'a>>,
        repair: &mut CollectionRepair,
        allocate: &mut impl FnMut() -> FileNumber,
    ) -> Result<()> {
        let opener = self.opener;
        let rewrite_kills = self.uncertain.is_some()
            || self.is_inconsistent
            || self.entry.kills.iter().any(|kill| self.is_damaged(&kill.file));
        if rewrite_kills {
            entry.kills.clear();
            if !self.kills.is_empty() {
                let (storage, dir) = (&*opener.storage, &opener.dir);
                let pending =
                    write_kill_file(storage, dir, allocate(), opener.database, entry.id, &self.kills)?;
                entry.kills.push(KillEntry { file: *pending.meta(), ordinals: self.kills.len() });
                files.push(pending);
            }
            repair.rebuilt.push("deletions".to_owned());
        }
        let index = self.index();
        let generation = index.as_ref().map_or(Generation(0), |(generation, _)| *generation);
        entry.indexes.retain(|index| index.generation == generation);
        if entry.indexes.len() < self.entry.indexes.len() {
            repair.rebuilt.push("index (trained anew when it is due)".to_owned());
            if index.is_none() && self.had_queries() {
                repair
                    .rebuilt
                    .push("stop rules (the queries that they were calibrated on are lost)".to_owned());
            }
        }
        let mut rows = RowAssigner::new(index.as_ref().map(|(_, router)| router), entry.config.dimension);
        for source in &self.sources {
            source.rows(&self.kills, &mut rows)?;
        }
        let rows = rows.finish()?;
        let codebook = index.as_ref().map(|(_, router)| router.codebook()).transpose()?.flatten();
        entry.vectors.clear();
        if !rows.is_empty() {
            let plan = SegmentPlan {
                number: allocate(),
                collection: entry.id,
                generation,
                kind: SegmentKind::Base,
                metric: entry.config.metric,
                codebook,
            };
            let (pending, live) = plan.write(opener, &rows, &SourceVectors(&self.sources))?;
            entry.vectors.push(VectorEntry { file: *pending.meta(), generation, base: true, live });
            files.push(pending);
        }
        repair.rebuilt.push("lists".to_owned());
        Ok(())
    }

    /// Whether the newest index, which may be damaged, is known to have been calibrated on queries.
    fn had_queries(&self) -> bool {
        let newest = self.entry.indexes.iter().max_by_key(|index| index.generation);
        let file = newest.and_then(|newest| self.open::<IndexFile>(&newest.file));
        file.is_some_and(|file| file.query_count() > 0)
    }

    /// The newest index, if it is sound.
    fn index(&self) -> Option<(Generation, Router)> {
        let newest = self.entry.indexes.iter().max_by_key(|index| index.generation)?;
        if self.is_damaged(&newest.file) {
            return None;
        }
        let file = self.open::<IndexFile>(&newest.file)?;
        Some((newest.generation, Router::new(std::sync::Arc::new(file), &self.entry.config)))
    }
}

impl Source {
    fn first_ordinal(&self) -> Option<DocumentOrdinal> {
        let first = self.kept.as_ref().map_or(0, |kept| kept.first().map_or(0, |first| *first as usize));
        self.file.entry(first).ok().map(plimsoll_shard::DocumentEntry::ordinal)
    }

    fn indexes(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match &self.kept {
            None => Box::new(0..self.file.documents()),
            Some(kept) => Box::new(kept.iter().map(|index| *index as usize)),
        }
    }

    fn each(&self, mut visit: impl FnMut(Found)) -> Result<()> {
        for index in self.indexes() {
            let entry = self.file.entry(index)?;
            visit(Found { id: entry.id(), version: entry.version(), ordinal: entry.ordinal() });
        }
        Ok(())
    }

    /// Assigns the rows of the documents that are not killed to lists.
    fn rows(&self, kills: &RoaringTreemap, rows: &mut RowAssigner<'_>) -> Result<()> {
        for index in self.indexes() {
            let entry = self.file.entry(index)?;
            if kills.contains(entry.ordinal().0) {
                continue;
            }
            let vectors = self.file.vectors(entry.rows())?;
            let computed;
            let norms = match self.norms_damaged {
                false => self.file.norms(entry.rows())?,
                true => {
                    let dimension = self.file.dimension();
                    computed = vectors
                        .chunks_exact(dimension)
                        .map(plimsoll_shard::posting::norm)
                        .collect::<Vec<_>>();
                    &computed
                }
            };
            rows.add(entry.ordinal(), vectors, norms)?;
        }
        Ok(())
    }
}

/// The vectors of what is kept, in the order of their ordinals.
struct SourceVectors<'a>(&'a [Source]);

impl RowVectors for SourceVectors<'_> {
    fn vector(&self, ordinal: DocumentOrdinal, posting: u16) -> Result<(&[f32], f32)> {
        let unknown = || Error::InvalidArgument(format!("document {ordinal} is not among those kept"));
        for source in self.0 {
            let Some(index) = source.file.index_of(ordinal)? else { continue };
            if source.kept.as_ref().is_some_and(|kept| kept.binary_search(&(index as u32)).is_err()) {
                continue;
            }
            let row = source.file.row_of(index, posting)?;
            let vector = source.file.vectors(row..row + 1)?;
            let norm = match source.norms_damaged {
                false => source.file.norms(row..row + 1)?.first().copied().ok_or_else(unknown)?,
                true => plimsoll_shard::posting::norm(vector),
            };
            return Ok((vector, norm));
        }
        Err(unknown())
    }
}

/// The documents of a damaged file of which everything that was given can be read, and makes sense.
fn readable_documents(file: &PostingFile) -> impl Iterator<Item = (u32, DocumentOrdinal)> + '_ {
    let mut last = None;
    (0..file.documents() as u32).filter_map(move |index| {
        let ordinal = readable(file, index as usize).ok()?;
        if last.is_some_and(|last| last >= ordinal) {
            return None;
        }
        last = Some(ordinal);
        Some((index, ordinal))
    })
}

fn readable(file: &PostingFile, index: usize) -> Result<DocumentOrdinal> {
    let entry = *file.entry(index)?;
    let damaged = |what: &str| Error::from(StorageError::corrupted(file.sealed().path(), 0, what));
    let path = file.sealed().path();
    let key = Key::decode(file.key(index)?, path)?;
    if key.id() != entry.id() {
        return Err(damaged("a document has another key than its id says"));
    }
    value::decode(file.metadata(index)?, path)?;
    let text = file.text(index)?.unwrap_or_default();
    let ranges = file.ranges(index)?;
    let fits = |range: &plimsoll_shard::PostingRange| {
        let start = range.start as usize;
        !entry.has_text() || text.get(start..start.saturating_add(range.length as usize)).is_some()
    };
    if ranges.is_empty() || !ranges.iter().all(fits) {
        return Err(damaged("a document's passages are not of its text"));
    }
    file.vectors(entry.rows())?;
    Ok(entry.ordinal())
}
