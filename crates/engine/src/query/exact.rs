//! Looking at stored rows: all of them, or those of the lists that a query visits.

use std::sync::Arc;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{DocumentId, DocumentOrdinal, Generation, ListId, Lsn, ShardId, StorageError};
use plimsoll_codes::PlaneDistance;
use plimsoll_index::StopRule;
use plimsoll_shard::{PostingFile, PostingRange, SealedView, VectorFile};

use super::interrupt::Interrupt;
use super::measure::Measure;
use super::search::{Effort, Explain};
use super::selection::Selection;
use super::stopwatch::Stopwatch;
use super::top::{self, Candidate, Dedup, Group, Top, Wanted};
use crate::error::{Error, Result};
use crate::memtable::{Memtable, MemtableEntry, Place, Shadowed};
use crate::router::Router;
use crate::rows::UNLISTED;
use crate::state::CollectionState;
use crate::tree::StoredPlace;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Location {
    /// The memtable by age, the newest first, and the operation.
    Memory {
        memtable: usize,
        place: Place,
    },
    Stored {
        place: StoredPlace,
        row: u32,
    },
}

impl Location {
    /// Asks for the row's vector ahead of its use, if it is in a file.
    pub(super) fn prefetch_vector(&self, state: &CollectionState) {
        // What is damaged is said when it is used.
        if let Self::Stored { place, row } = self
            && let Ok(file) = state.tree.posting(*place)
        {
            file.prefetch_vector(*row);
        }
    }
}

/// One query on its way through the rows.
pub(crate) struct Scanner<'a> {
    pub(super) state: &'a CollectionState,
    pub(super) visible: Lsn,
    pub(super) measure: &'a Measure<'a>,
    pub(super) top: Top<'a, Location>,
    pub(super) explain: Explain,
    interrupt: &'a Interrupt,
    pub(super) bounds: Vec<f32>,
    /// The memtables, newest first.
    pub(super) memtables: Vec<&'a Memtable>,
    pub allow_partial: bool,
    pub excluded: Option<DocumentId>,
    /// Whether ranks have to be measured, rather than known within limits.
    pub exact_distances: bool,
    pub clock: Stopwatch,
    selection: Option<Arc<Selection>>,
    hidden: Option<Hidden>,
}

/// Which stored documents may be hidden by what is in memory, or are excluded.
#[derive(Debug, Clone)]
enum Hidden {
    /// Those of these sets, and one more.
    Known(Vec<Arc<Shadowed>>, Option<DocumentOrdinal>),
    /// Each has to be asked.
    Unknown,
}

/// Rows scanned between two looks at the bound: their bounds stay in the first-level cache.
pub(super) const BLOCK: usize = 256;

impl<'a> Scanner<'a> {
    pub(crate) fn new(
        state: &'a CollectionState,
        visible: Lsn,
        measure: &'a Measure<'a>,
        wanted: Wanted,
        interrupt: &'a Interrupt,
    ) -> Self {
        let rows_total = state.tree.rows();
        let lists_total = state.tree.lists();
        Self {
            state,
            visible,
            measure,
            top: Top::new(wanted),
            explain: Explain { rows_total, lists_total, ..Explain::default() },
            interrupt,
            bounds: Vec::new(),
            memtables: state.memtables().map(|memtable| &**memtable).collect(),
            allow_partial: false,
            excluded: None,
            exact_distances: false,
            clock: Stopwatch::default(),
            selection: None,
            hidden: None,
        }
    }

    pub(crate) fn finish(mut self) -> Result<(Vec<Candidate<'a, Location>>, Explain, Stopwatch)> {
        let k = self.k();
        let interrupt = self.interrupt;
        let mut sorted = self.top.into_sorted();
        let uncertain = top::uncertain(&sorted);
        for block in uncertain.chunks(BLOCK) {
            interrupt.check()?;
            block.iter().for_each(|index| sorted[*index].location.prefetch_vector(self.state));
            for index in block {
                let candidate = &mut sorted[*index];
                if let Location::Stored { place, row } = candidate.location {
                    let vector = self.state.tree.posting(place)?.vectors(row..row + 1)?;
                    self.explain.rows_measured += 1;
                    self.explain.bytes_touched += size_of_val(vector) as u64;
                    (candidate.rank, candidate.error) = (self.measure.rank(vector), 0.0);
                }
            }
        }
        if !uncertain.is_empty() {
            sorted.sort_unstable_by(Candidate::order);
        }
        sorted.truncate(k);
        self.clock.lap(|stages| &mut stages.measure);
        Ok((sorted, self.explain, self.clock))
    }

    /// Whether a row of memtable `age` (or of a file, beyond the last) is not to be found: excluded by the
    /// search, or older than what a newer memtable has on its document.
    pub(super) fn is_hidden(&self, id: DocumentId, age: usize) -> bool {
        self.excluded == Some(id) || self.memtables[..age].iter().any(|newer| newer.shadows(id, self.visible))
    }

    pub(super) fn offer(
        &mut self,
        id: DocumentId,
        posting: u16,
        vector: &'a [f32],
        range: impl FnOnce() -> Result<PostingRange>,
        location: Location,
    ) -> Result<()> {
        self.explain.rows_measured += 1;
        let rank = self.measure.rank(vector);
        let group = match self.top.wanted().dedup {
            Dedup::None => Group::Row,
            Dedup::Document => Group::Document(id),
            Dedup::Position => Group::Position(id, range()?),
            Dedup::Vector => Group::Vector(rank, vector),
        };
        self.top.offer(Candidate { rank, error: 0.0, id, posting, group, location });
        Ok(())
    }

    /// An error once the search has to end.
    pub(super) fn check(&self) -> Result<()> {
        self.interrupt.check()
    }

    /// Goes on without a damaged part if the search allows it; any other error is the search's.
    fn tolerate(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(Error::Storage(error)) if error.is_of_one_file() && self.allow_partial => {
                if !mutant::is(Mutant::SilentlyPartial) {
                    self.explain.missing.push(error.to_string());
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Searches only rows that a filter lets through.
    pub(super) fn select(&mut self, selection: Option<Arc<Selection>>) {
        self.explain.documents_matching = selection.as_ref().map(|selection| selection.matching);
        self.selection = selection;
    }

    /// Whether the filter, if there is one, lets an unflushed document through.
    pub(super) fn selects_memory(&self, entry: &MemtableEntry<'_>) -> Result<bool> {
        self.selection.as_ref().map_or(Ok(true), |selection| selection.matches(entry))
    }

    fn is_selected(&self, place: StoredPlace) -> bool {
        self.selection.as_ref().is_none_or(|selection| selection.contains(place))
    }

    /// The share of the stored documents that is searched.
    pub(super) fn share(&self) -> f64 {
        self.selection.as_ref().map_or(1.0, |selection| selection.share())
    }

    /// Whether the filter, if there is one, lets a stored document through.
    pub(super) fn passes_filter(&self, ordinal: DocumentOrdinal) -> Result<bool> {
        if self.selection.is_none() {
            return Ok(true);
        }
        // A document that is gone was killed before its rows are.
        let place = self.state.tree.place_of(ordinal)?;
        Ok(place.is_some_and(|place| self.is_selected(place)))
    }

    /// Searches all stored rows that a filter lets through, one by one.
    pub(super) fn selected(&mut self, selection: &Selection) -> Result<()> {
        let tree = &*self.state.tree;
        for (file, selected) in selection.files.iter().enumerate() {
            for document in selected.iter() {
                self.check()?;
                let place = StoredPlace { file, document };
                let posting = tree.posting(place)?;
                let rows = posting.rows_of(document)?;
                self.touched(rows.len());
                for row in rows {
                    self.stored(place, row, posting.vectors(row..row + 1)?)?;
                }
            }
            self.top.tighten();
        }
        self.explain.exact = true;
        Ok(())
    }

    /// Searches every stored row, file by file in the order of the bytes.
    pub(crate) fn all_stored(&mut self) -> Result<()> {
        let tree = &*self.state.tree;
        for (file, posting) in tree.postings.iter().enumerate() {
            let scanned =
                posting.get().map_err(Error::from).and_then(|posting| self.posting_file(file, posting));
            self.tolerate(scanned)?;
        }
        self.explain.lists_probed = self.explain.lists_total;
        // Killed rows that a compaction dropped from a posting file may still have vector rows.
        self.explain.rows_scanned = self.explain.rows_scanned.max(self.explain.rows_total);
        self.explain.exact = self.explain.missing.is_empty();
        Ok(())
    }

    fn posting_file(&mut self, file: usize, posting: &'a PostingFile) -> Result<()> {
        let dimension = self.state.config.dimension;
        let rows = posting.rows();
        for first in (0..rows).step_by(BLOCK) {
            self.check()?;
            let block = first..rows.min(first + BLOCK as u32);
            let vectors = posting.vectors(block.clone())?;
            let norms = posting.norms(block.clone())?;
            self.bounds.resize(norms.len(), 0.0);
            self.measure.lower_bounds(vectors, norms, &mut self.bounds);
            self.touched(block.len());
            for row in block.clone() {
                let index = (row - first) as usize;
                if f64::from(self.bounds[index]) > self.top.bound() {
                    continue;
                }
                let document = posting.row_documents(row..row + 1)?[0] as usize;
                let place = StoredPlace { file, document };
                self.stored(place, row, &vectors[index * dimension..(index + 1) * dimension])?;
            }
            self.top.tighten();
        }
        Ok(())
    }

    /// Offers a stored row whose bound passed, unless its document is not live.
    fn stored(&mut self, place: StoredPlace, row: u32, vector: &'a [f32]) -> Result<()> {
        let tree = &*self.state.tree;
        if !self.is_selected(place) {
            return Ok(());
        }
        let file = tree.posting(place)?;
        let entry = file.entry(place.document)?;
        if self.is_hidden(entry.id(), self.memtables.len()) || tree.kills.contains(entry.ordinal())? {
            return Ok(());
        }
        if !entry.rows().contains(&row) {
            let what = format!("row {row} is said to be of document {}, which has others", place.document);
            return Err(StorageError::corrupted(file.sealed().path(), 0, what).into());
        }
        let posting = (row - entry.first_row()) as u16;
        self.offer(entry.id(), posting, vector, || Ok(file.range(row)?), Location::Stored { place, row })
    }

    fn touched(&mut self, rows: usize) {
        self.explain.rows_scanned += rows as u64;
        self.explain.bytes_touched += (rows * (self.state.config.dimension * 4 + 4)) as u64;
    }

    /// Searches what is not flushed yet, and the lists that the effort asks for, generation by generation; false if that can not
    /// be done by codes. What is found before an error, or before that, is worth nothing.
    pub(crate) fn lists(&mut self, effort: Effort) -> Result<bool> {
        let tree = &*self.state.tree;
        let mut newest = None;
        for router in tree.routers.values().rev() {
            let router: &'a Router = router.get()?;
            let never = StopRule::never(self.measure.metric());
            let Wanted { k, dedup, limit } = self.top.wanted();
            let (rule, epsilon, recall_of_groups) = match effort {
                Effort::Recall(recall) => {
                    // How many rows it will be is not known if there is a limit, or if rows count once.
                    let (is_known, counts_rows) = (limit == f64::INFINITY, dedup == Dedup::None);
                    let k = (is_known && counts_rows).then_some(k);
                    let (rule, epsilon) = router.stop_for(recall, k, tree)?;
                    (rule, epsilon, (is_known && !counts_rows).then_some(recall))
                }
                Effort::Lists(lists) => (never.max_lists(lists), EPSILON, None),
                Effort::Exact => return Ok(false),
            };
            let Some(book) = router.codebook()? else { return Ok(false) };
            // The rule is calibrated on the lists of one generation alone: what other
            // generations have is no reason to stop, least of all before the first list.
            newest = newest.or(Some((router, book)));
            let others = self.top.take();
            if !self.coded(router, book, rule, epsilon, recall_of_groups)? {
                return Ok(false);
            }
            self.top.absorb(others);
        }
        // What was flushed before there was an index has no lists.
        let (shard, list) = UNLISTED;
        self.list(Generation(0), shard, list)?;
        // Last, so that there is a k-th best to compare with.
        match newest {
            Some((router, book)) => self.coded_memtables(router, book)?,
            None => self.memtables()?,
        }
        Ok(true)
    }

    /// Searches one list in every segment of its generation.
    pub(super) fn list(&mut self, generation: Generation, shard: ShardId, list: ListId) -> Result<()> {
        let tree = &*self.state.tree;
        for segment in &tree.vectors {
            let is_live = segment.live.iter().any(|(live, _)| *live == shard);
            if segment.generation == generation && is_live {
                self.section(segment.file.get()?, shard, list)?;
            }
        }
        Ok(())
    }

    fn section(&mut self, segment: &VectorFile, shard: ShardId, list: ListId) -> Result<()> {
        let Some(entry) = segment.find_list(shard, list)? else { return Ok(()) };
        let (ordinals, postings) = segment.rows(shard, &entry)?;
        for (block, (ordinals, postings)) in ordinals.chunks(BLOCK).zip(postings.chunks(BLOCK)).enumerate() {
            self.check()?;
            for (ordinal, posting) in ordinals.iter().zip(postings) {
                self.row(*ordinal, *posting)?;
            }
            if block > 0 {
                self.top.tighten();
            }
        }
        Ok(())
    }

    /// A rank above which nothing is among the best k of what was seen so far.
    pub(super) fn bound(&self) -> f64 {
        self.top.bound()
    }

    /// How many rows are wanted.
    pub(super) fn k(&self) -> usize {
        self.top.wanted().k
    }

    /// A rank beyond which nothing is wanted.
    pub(super) fn limit(&self) -> f64 {
        self.top.wanted().limit
    }

    /// What is the same, in this generation, for the rows that count once together, given the document and posting of
    /// a row and the numbers that its record says.
    pub(super) fn group(
        &self,
        (ordinal, posting): (DocumentOrdinal, u16),
        record: PlaneDistance,
    ) -> Result<Option<u128>> {
        let pair = |high: u64, low: u64| Some(u128::from(high) << 64 | u128::from(low));
        Ok(match self.top.wanted().dedup {
            Dedup::None => None,
            Dedup::Document => pair(0, ordinal.0),
            Dedup::Position => {
                let tree = &*self.state.tree;
                let found = tree.row_place(ordinal, posting)?;
                let (place, row) = found.ok_or_else(|| lost_document(tree, ordinal))?;
                let range = tree.posting(place)?.range(row)?;
                pair(ordinal.0, u64::from(range.start) << 32 | u64::from(range.length))
            }
            // Equal vectors have equal records; zero has two signs.
            Dedup::Vector => {
                pair(u64::from((record.distance + 0.0).to_bits()), u64::from(record.scale.to_bits()))
            }
        })
    }

    /// Finds out which stored documents may be hidden, and says whether it depends on a row's document if the row counts.
    pub(super) fn asks_documents(&mut self) -> bool {
        let hidden = self.hidden.take().unwrap_or_else(|| self.may_be_hidden());
        let hides_none = matches!(&hidden, Hidden::Known(sets, None) if sets.is_empty());
        self.hidden = Some(hidden);
        matches!(self.top.wanted().dedup, Dedup::Document | Dedup::Position)
            || !hides_none
            || !self.state.tree.kills.files.is_empty()
    }

    fn may_be_hidden(&self) -> Hidden {
        let tree = &*self.state.tree;
        let excluded = match self.excluded.map(|id| tree.ordinal_of(id)).transpose() {
            Ok(ordinal) => ordinal.flatten(),
            // What is damaged is not needed for that: rows have ids as well.
            Err(_) => return Hidden::Unknown,
        };
        let memtables = self.memtables.iter().filter(|memtable| !memtable.is_empty());
        let sets: Option<Vec<_>> = memtables.map(|memtable| memtable.shadowed(tree, self.visible)).collect();
        sets.map_or(Hidden::Unknown, |mut sets| {
            sets.retain(|set| !set.is_empty());
            Hidden::Known(sets, excluded)
        })
    }

    /// Whether the rows of a stored document count.
    pub(super) fn is_live(&mut self, ordinal: DocumentOrdinal) -> Result<bool> {
        let tree = &*self.state.tree;
        if tree.kills.contains(ordinal)? {
            return Ok(false);
        }
        if let Some(Hidden::Known(sets, excluded)) = &self.hidden
            && *excluded != Some(ordinal)
            && !sets.iter().any(|set| set.contains(ordinal))
        {
            return Ok(true);
        }
        self.explain.documents_asked += 1;
        let place = tree.place_of(ordinal)?.ok_or_else(|| lost_document(tree, ordinal))?;
        Ok(!self.is_hidden(tree.posting(place)?.entry(place.document)?.id(), self.memtables.len()))
    }

    /// Where a document of a row is; `None` if it was killed and compacted away before its rows were.
    pub(super) fn place(&self, ordinal: DocumentOrdinal) -> Result<Option<StoredPlace>> {
        let tree = &*self.state.tree;
        let place = tree.place_of(ordinal)?;
        if place.is_none() && !tree.kills.contains(ordinal)? {
            return Err(lost_document(tree, ordinal));
        }
        Ok(place)
    }

    /// Measures rows of live documents from their raw vectors.
    pub(super) fn measure_raw(&mut self, rows: &[(DocumentOrdinal, u16)]) -> Result<()> {
        for block in rows.chunks(BLOCK) {
            self.check()?;
            self.measure_block(block)?;
        }
        Ok(())
    }

    /// In passes, so that reads of memory overlap.
    fn measure_block(&mut self, rows: &[(DocumentOrdinal, u16)]) -> Result<()> {
        let tree = &*self.state.tree;
        let mut places = Vec::with_capacity(rows.len());
        for (ordinal, posting) in rows {
            let Some(place) = self.place(*ordinal)? else { continue };
            let file = tree.posting(place)?;
            file.prefetch_entry(place.document);
            // Of documents of one posting the rows are known before their entries are read.
            if file.documents() == file.rows() as usize {
                file.prefetch_vector(place.document as u32);
            }
            places.push((place, *posting, 0));
        }
        for (place, posting, row) in &mut places {
            let file = tree.posting(*place)?;
            *row = file.row_of(place.document, *posting)?;
            if file.documents() != file.rows() as usize {
                file.prefetch_vector(*row);
            }
            file.prefetch_hit(*row, file.entry(place.document)?);
        }
        for (place, posting, row) in places {
            let file = tree.posting(place)?;
            let vector = file.vectors(row..row + 1)?;
            self.explain.bytes_touched += size_of_val(vector) as u64;
            let id = file.entry(place.document)?.id();
            self.offer(id, posting, vector, || Ok(file.range(row)?), Location::Stored { place, row })?;
        }
        Ok(())
    }

    /// Searches one row of a segment, through its document.
    fn row(&mut self, ordinal: DocumentOrdinal, posting: u16) -> Result<()> {
        let tree = &*self.state.tree;
        let Some((place, row)) = tree.row_place(ordinal, posting)? else {
            // The document was killed and compacted away before this section was.
            return if tree.kills.contains(ordinal)? { Ok(()) } else { Err(lost_document(tree, ordinal)) };
        };
        let file = tree.posting(place)?;
        let vector = file.vectors(row..row + 1)?;
        let norm = file.norms(row..row + 1)?;
        let mut bound = [0.0];
        self.measure.lower_bounds(vector, norm, &mut bound);
        self.touched(1);
        if f64::from(bound[0]) <= self.top.bound() {
            self.stored(place, row, vector)?;
        }
        Ok(())
    }
}

/// How many standard deviations bounds by signs are below the estimates where no recall is asked for, and of what was just
/// written: of a thousand rows among the nearest, not one is missed.
pub(super) const EPSILON: f32 = 3.0;

fn lost_document(tree: &crate::tree::Tree, ordinal: DocumentOrdinal) -> Error {
    let collection = &tree.entry.name;
    let file = tree.vectors.first().map(|segment| segment.file.get());
    let file =
        file.and_then(Result::ok).map_or_else(Default::default, |file| file.sealed().path().to_path_buf());
    let what = format!("a row of collection {collection:?} names document {ordinal}, which no file has");
    StorageError::corrupted(&file, 0, what).into()
}
