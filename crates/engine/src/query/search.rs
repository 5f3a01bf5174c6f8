//! Search: what is asked, how it is carried out, and what comes back.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_base::{DocumentId, Generation, sync};
use plimsoll_shard::SealedView;
use rayon::prelude::*;

use super::exact::{Location, Scanner};
use super::interrupt::{Cancel, Interrupt};
use super::measure::Measure;
use super::read::ReadOnlyCollection;
use super::selection::Selection;
use super::stopwatch::Stopwatch;
use super::top::{Candidate, Dedup, Wanted};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::model::{Key, Metadata, value};
use crate::state::CollectionState;

/// How hard to look.
///
/// Rows that are not flushed yet are all looked at, and collections of fewer than 4,096 rows are searched exactly
/// whatever is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Effort {
    /// As many lists as it takes to find this share, above 0 and at most 1, of the true nearest rows on
    /// average, as calibrated on the collection's own rows, or on the queries given to
    /// [`Collection::calibrate`](crate::Collection::calibrate).
    Recall(f32),
    /// The nearest so many lists; exact if that is all of them.
    Lists(usize),
    /// All rows: the answer is exact.
    Exact,
}

impl Default for Effort {
    fn default() -> Self {
        Self::Recall(0.95)
    }
}

/// A search being described; [`Search::run`] carries it out.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use plimsoll_engine::{CollectionConfig, Database, Document, Effort, Metric};
/// let db = Database::open(dir.path().join("db"))?;
/// let colours = db.create_collection("colours", CollectionConfig::new(3, Metric::L2))?;
/// colours.upsert(Document::new("red").text("a warm colour").vector([1.0, 0.0, 0.0]))?;
/// colours.upsert(Document::new("blue").text("a cold colour").vector([0.0, 0.0, 1.0]))?;
/// let results = colours.search(&[0.9, 0.1, 0.0]).k(1).effort(Effort::Exact).with_text(true).run()?;
/// assert_eq!(results.hits[0].key.to_string(), "red");
/// assert_eq!(results.hits[0].text.as_deref(), Some("a warm colour"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a search does nothing before it is run"]
pub struct Search<'a> {
    collection: Result<ReadOnlyCollection>,
    query: Cow<'a, [f32]>,
    k: usize,
    effort: Effort,
    dedup: Dedup,
    allow_partial: bool,
    excluded: Option<DocumentId>,
    with_text: bool,
    with_metadata: bool,
    with_vector: bool,
    with_stages: bool,
    exact_distances: bool,
    filter: Option<Filter>,
    within: Option<f32>,
    timeout: Option<Duration>,
    cancel: Option<Cancel>,
}

/// One row that was found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// The document's key.
    pub key: Key,
    /// How far it is; smaller is nearer. Cosine: 1 − cos; L2: the Euclidean distance; dot: the negated inner
    /// product. How exact that is: [`Search::exact_distances`].
    pub distance: f32,
    /// Where the posting begins in the document's text, in bytes.
    pub start: u32,
    /// How long it is, in bytes.
    pub length: u32,
    /// The posting's passage, if it was asked for and the document has a text.
    pub text: Option<String>,
    /// The document's metadata, if it was asked for.
    pub metadata: Option<Metadata>,
    /// The posting's vector, if it was asked for.
    pub vector: Option<Vec<f32>>,
}

/// What a search found, best first, and what it took.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SearchResults {
    /// The nearest rows: k, or all there are if they are fewer.
    pub hits: Vec<Hit>,
    /// What it took.
    pub explain: Explain,
}

impl IntoIterator for SearchResults {
    type Item = Hit;
    type IntoIter = std::vec::IntoIter<Hit>;

    fn into_iter(self) -> Self::IntoIter {
        self.hits.into_iter()
    }
}

/// Of so many documents or fewer that match a filter, all rows are measured: that takes less than visiting lists.
const FEW: u64 = 2000;

/// What a search took.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Explain {
    /// Whether every row was looked at, so that the answer is exact.
    pub exact: bool,
    /// Lists visited, over all index generations.
    pub lists_probed: usize,
    /// Flushed documents that the filter lets through, if there is one, deleted ones too.
    pub documents_matching: Option<u64>,
    /// Lists there are.
    pub lists_total: usize,
    /// Rows whose sign codes were scanned, unflushed ones too.
    pub codes_scanned: u64,
    /// Flushed rows whose vectors were scanned, by an exact search that could not scan records.
    pub rows_scanned: u64,
    /// Flushed rows there are.
    pub rows_total: u64,
    /// Unflushed rows, all of which were looked at, or their sign codes.
    pub memtable_rows: u64,
    /// Rows measured by their 8-bit records: those that passed their sign codes, or all in an exact search.
    pub rows_reranked: u64,
    /// Rows of which 16 bits a component were looked at, because they may be among the nearest.
    pub rows_refined: u64,
    /// Rows measured in float64, from their vectors.
    pub rows_measured: u64,
    /// Flushed rows whose document had to be looked at because there may be a newer version of it in memory.
    pub documents_asked: u64,
    /// Bytes of codes, vectors and row tables read.
    pub bytes_touched: u64,
    /// How often it waited for a lock that another thread held.
    pub lock_waits: u64,
    /// How long each stage took, if that was asked for.
    pub stages: Option<Stages>,
    /// Why the vectors of all rows were scanned instead of codes: those, or the index, are damaged.
    pub lists_damaged: Option<String>,
    /// What could not be searched because it is damaged; empty unless `allow_partial` was set.
    pub missing: Vec<String>,
}

/// How long each stage of a search took; reading clocks takes its share of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stages {
    /// Rows that are not flushed yet.
    pub memtables: Duration,
    /// Rotating and rounding the query.
    pub prepare: Duration,
    /// Choosing lists.
    pub route: Duration,
    /// Scanning sign codes.
    pub scan: Duration,
    /// Measuring rows by their 8-bit records.
    pub rerank: Duration,
    /// Measuring rows in float64, and scanning all of them where the search is exact.
    pub measure: Duration,
    /// Collecting keys, texts and metadata of the hits.
    pub collect: Duration,
}

impl<'a> Search<'a> {
    pub(crate) fn new(collection: ReadOnlyCollection, query: Cow<'a, [f32]>) -> Self {
        Self::of(Ok(collection), query)
    }

    /// A search that can only report why there is nothing to search.
    pub(crate) fn failed(error: Error) -> Self {
        Self::of(Err(error), Cow::Borrowed(&[]))
    }

    fn of(collection: Result<ReadOnlyCollection>, query: Cow<'a, [f32]>) -> Self {
        Self {
            collection,
            query,
            k: 10,
            effort: Effort::default(),
            dedup: Dedup::None,
            allow_partial: false,
            excluded: None,
            with_text: false,
            with_metadata: false,
            with_vector: false,
            with_stages: false,
            exact_distances: false,
            filter: None,
            within: None,
            timeout: None,
            cancel: None,
        }
    }

    pub(crate) fn excluding(mut self, document: DocumentId) -> Self {
        self.excluded = Some(document);
        self
    }

    /// How many rows to find. Default 10.
    pub fn k(mut self, k: usize) -> Self {
        self.k = k;
        self
    }

    /// How hard to look. Default [`Effort::Recall`] of 0.95.
    pub fn effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Finds only rows that are not farther than this, in the distances that hits have. With a large k, that is a range
    /// search. By default there is no limit.
    pub fn within(mut self, distance: f32) -> Self {
        self.within = Some(distance);
        self
    }

    /// Finds only rows of documents for whose metadata the filter is true; of several filters the last one counts.
    ///
    /// The first search with a filter asks every document, later ones remember the answers. The search looks as far as it
    /// has to for k rows that match; where few documents do, it measures all of their rows, and is exact.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use plimsoll_engine::{CollectionConfig, Database, Document, Filter, Metric};
    /// let db = Database::open(dir.path().join("db"))?;
    /// let pages = db.create_collection("pages", CollectionConfig::new(2, Metric::L2))?;
    /// pages.upsert(Document::new("a").metadata("lang", "en").vector([1.0, 0.0]))?;
    /// pages.upsert(Document::new("b").metadata("lang", "de").vector([0.9, 0.1]))?;
    /// let results = pages.search(&[0.9, 0.1]).filter(Filter::parse("lang = 'en'")?).run()?;
    /// assert_eq!(results.hits.len(), 1);
    /// assert_eq!(results.hits[0].key.to_string(), "a");
    /// # Ok(())
    /// # }
    /// ```
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Which rows count once. Of each group of them the best one is found, and k counts groups: there are k hits as long
    /// as there are k groups. Default [`Dedup::None`].
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use plimsoll_engine::{CollectionConfig, Database, Dedup, Document, Metric};
    /// let db = Database::open(dir.path().join("db"))?;
    /// let pages = db.create_collection("pages", CollectionConfig::new(2, Metric::L2))?;
    /// let page = Document::new("a").text("first, second");
    /// let page = page.posting(0, 5, [1.0, 0.0]).posting(7, 6, [0.9, 0.0]);
    /// pages.upsert(page)?;
    /// pages.upsert(Document::new("b").vector([0.9, 0.0]))?;
    /// let found = |dedup| pages.search(&[1.0, 0.0]).dedup(dedup).run().map(|results| results.hits.len());
    /// assert_eq!(found(Dedup::None)?, 3);
    /// assert_eq!(found(Dedup::Document)?, 2); // One of "a", and "b".
    /// assert_eq!(found(Dedup::Vector)?, 2); // The second part of "a" has the vector of "b".
    /// # Ok(())
    /// # }
    /// ```
    pub fn dedup(mut self, dedup: Dedup) -> Self {
        self.dedup = dedup;
        self
    }

    /// How long it may take, from [`Search::run`] on: then it ends with [`Error::Timeout`], and says nothing of what it
    /// had found. [`Search::run_each`] has this time for all of its queries together; each that is not done then has that
    /// error. A search looks at the clock before each list and after some hundred rows, so that it may take some
    /// microseconds more. By default there is no limit, and no clock is read.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use std::time::Duration;
    /// use plimsoll_engine::{CollectionConfig, Database, Document, Error, Metric};
    /// let db = Database::open(dir.path().join("db"))?;
    /// let points = db.create_collection("points", CollectionConfig::new(2, Metric::L2))?;
    /// points.upsert(Document::new("a").vector([1.0, 0.0]))?;
    /// let search = points.search(&[0.9, 0.1]);
    /// assert_eq!(search.clone().timeout(Duration::from_secs(60)).run()?.hits.len(), 1);
    /// let error = search.timeout(Duration::ZERO).run().unwrap_err();
    /// assert!(matches!(error, Error::Timeout) && error.is_retryable());
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Ends with [`Error::Cancelled`] soon after this switch is thrown; as a timeout, otherwise.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Whether to answer from the rest when a part is damaged, and say what is missing, instead of failing.
    /// Default false.
    pub fn allow_partial(mut self, allow: bool) -> Self {
        self.allow_partial = allow;
        self
    }

    /// Whether distances are those of the vectors, computed in float64. Default false: the distances of an approximate
    /// search come from 16 bits a component where these settle the order of the hits, which takes a quarter of the memory
    /// that is read for it. Such a distance is off by less than one in four thousand of itself, and most of
    /// the time by a few hundred-thousandths: compare it with distances of the same kind only. Distances of exact searches, of rows that are not flushed yet, under the dot product, with a limit
    /// ([`Search::within`]) and where rows count once ([`Search::dedup`]) are always those of the vectors.
    ///
    /// The hits and their order are the same either way, as surely as six standard deviations are a limit of what rounding
    /// does.
    pub fn exact_distances(mut self, exact: bool) -> Self {
        self.exact_distances = exact;
        self
    }

    /// Whether hits have their passage. Default false.
    pub fn with_text(mut self, with: bool) -> Self {
        self.with_text = with;
        self
    }

    /// Whether hits have their document's metadata. Default false.
    pub fn with_metadata(mut self, with: bool) -> Self {
        self.with_metadata = with;
        self
    }

    /// Whether hits have their vector. Default false.
    pub fn with_vector(mut self, with: bool) -> Self {
        self.with_vector = with;
        self
    }

    /// Whether [`Explain::stages`] says how long each stage took. Default false.
    pub fn with_stages(mut self, with: bool) -> Self {
        self.with_stages = with;
        self
    }

    /// Carries the search out.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`]; [`Error::Timeout`] and [`Error::Cancelled`]; [`Error::Filter`] for a filter that is none, or names a field that no document has;
    /// [`Error::InvalidArgument`] for a k of 0, a recall outside of (0, 1], no
    /// lists, a limit that is no number, or a query that is not finite or has no direction under cosine; [`Error::Storage`] with
    /// `Corrupted` if a part that is needed is damaged (see [`Search::allow_partial`]).
    pub fn run(&self) -> Result<SearchResults> {
        self.run_for(&self.query, &self.interrupt())
    }

    /// Carries the same search out for each of some queries, which take the place of its own, on all cores (of the
    /// current rayon pool). The results are in the order of the queries.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use plimsoll_engine::{CollectionConfig, Database, Document, Metric};
    /// let db = Database::open(dir.path().join("db"))?;
    /// let points = db.create_collection("points", CollectionConfig::new(2, Metric::L2))?;
    /// points.upsert(Document::new("a").vector([1.0, 0.0]))?;
    /// points.upsert(Document::new("b").vector([0.0, 1.0]))?;
    /// let queries = [[0.9, 0.1], [0.2, 0.8]];
    /// let nearest: Vec<String> = points
    ///     .search(&[])
    ///     .k(1)
    ///     .run_each(&queries)
    ///     .into_iter()
    ///     .map(|results| Ok(results?.hits[0].key.to_string()))
    ///     .collect::<plimsoll_engine::Result<_>>()?;
    /// assert_eq!(nearest, ["a", "b"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_each<Q: AsRef<[f32]> + Sync>(&self, queries: &[Q]) -> Vec<Result<SearchResults>> {
        let interrupt = self.interrupt();
        queries.par_iter().map(|query| self.run_for(query.as_ref(), &interrupt)).collect()
    }

    fn interrupt(&self) -> Interrupt {
        Interrupt::new(self.timeout, self.cancel.as_ref())
    }

    fn run_for(&self, query: &[f32], interrupt: &Interrupt) -> Result<SearchResults> {
        let refuse = |what: String| Err(Error::InvalidArgument(what));
        match self.effort {
            _ if self.k == 0 => return refuse("k must be at least 1".to_owned()),
            Effort::Recall(recall) if !(recall > 0.0 && recall <= 1.0) => {
                return refuse(format!("a recall of {recall} is not above 0 and at most 1"));
            }
            _ if self.within.is_some_and(f32::is_nan) => {
                return refuse("a limit of the distance that is not a number".to_owned());
            }
            Effort::Lists(0) => return refuse("at least one list has to be searched".to_owned()),
            _ => {}
        }
        let collection = self.collection.as_ref().map_err(Clone::clone)?;
        let state = &collection.state;
        let measure = Measure::new(state.config.metric, state.config.dimension, query)?;
        interrupt.check()?;
        let waits_before = sync::waits();
        let (candidates, mut explain, mut clock) = self.scan(collection, &measure, interrupt)?;
        if self.with_vector {
            candidates.iter().for_each(|candidate| candidate.location.prefetch_vector(state));
        }
        let mut hits = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            interrupt.check()?;
            hits.push(self.hit(state, &measure, candidate)?);
        }
        clock.lap(|stages| &mut stages.collect);
        explain.stages = clock.stages();
        explain.lock_waits = sync::waits() - waits_before;
        Ok(SearchResults { hits, explain })
    }

    fn scan<'s>(
        &self,
        collection: &'s ReadOnlyCollection,
        measure: &'s Measure<'s>,
        interrupt: &'s Interrupt,
    ) -> Result<(Vec<Candidate<'s, Location>>, Explain, Stopwatch)> {
        let state = &collection.state;
        let selection = self
            .filter
            .as_ref()
            .map(|filter| Selection::new(filter, state, interrupt))
            .transpose()?
            .map(Arc::new);
        let few = selection.as_ref().is_some_and(|selection| selection.matching <= FEW);
        let scanner = || {
            let limit = self.within.map_or(f64::INFINITY, |distance| measure.rank_of(distance));
            let wanted = Wanted { k: self.k, dedup: self.dedup, limit };
            let mut scanner = Scanner::new(state, collection.visible, measure, wanted, interrupt);
            scanner.allow_partial = self.allow_partial;
            scanner.excluded = self.excluded;
            scanner.exact_distances = self.exact_distances;
            scanner.select(selection.clone());
            scanner.clock = Stopwatch::new(self.with_stages);
            scanner
        };
        let mut damage = None;
        let is_exact = match self.effort {
            Effort::Exact => true,
            Effort::Recall(recall) => recall == 1.0,
            Effort::Lists(lists) => lists >= state.tree.lists(),
        };
        if state.tree.generation() != Generation(0) && !few {
            let mut scanner = scanner();
            let searched = match is_exact {
                true => scanner.memtables().and_then(|()| scanner.all_records()),
                false => scanner.lists(self.effort),
            };
            match searched.and_then(|is_done| is_done.then(|| scanner.finish()).transpose()) {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => {}
                // Lists and codes are derived from the documents, which may be sound (rule R17).
                Err(Error::Storage(error)) if error.is_of_one_file() => damage = Some(error),
                Err(error) => return Err(error),
            }
        }
        let mut scanner = scanner();
        scanner.memtables()?;
        match &selection {
            Some(selection) if few => scanner.selected(selection)?,
            _ => scanner.all_stored()?,
        }
        let (candidates, mut explain, clock) = scanner.finish()?;
        explain.lists_damaged = damage.map(|error| error.to_string());
        Ok((candidates, explain, clock))
    }

    fn hit(
        &self,
        state: &CollectionState,
        measure: &Measure<'_>,
        candidate: &Candidate<'_, Location>,
    ) -> Result<Hit> {
        let posting = usize::from(candidate.posting);
        let dimension = state.config.dimension;
        let (key, text, metadata, range, vector) = match candidate.location {
            Location::Memory { memtable, place } => {
                let entry = state.memtables().nth(memtable).and_then(|memtable| memtable.entry(place));
                let entry = entry.ok_or(Error::Closed)?;
                let rows = &entry.vectors()[posting * dimension..(posting + 1) * dimension];
                let metadata = (entry.encoded_metadata(), std::path::Path::new("memtable"));
                let vector = self.with_vector.then(|| rows.to_vec());
                (entry.key()?, entry.text(), metadata, entry.ranges()[posting], vector)
            }
            Location::Stored { place, row } => {
                let file = state.tree.posting(place)?;
                let key = Key::decode(file.key(place.document)?, file.sealed().path())?;
                let text = if self.with_text { file.text(place.document)? } else { None };
                let metadata = if self.with_metadata { file.metadata(place.document)? } else { &[] };
                let vector = match self.with_vector {
                    true => Some(file.vectors(row..row + 1)?.to_vec()),
                    false => None,
                };
                (key, text, (metadata, file.sealed().path()), file.range(row)?, vector)
            }
        };
        let passage = |text: &str| {
            let start = range.start as usize;
            text.get(start..start.saturating_add(range.length as usize)).map(str::to_owned)
        };
        Ok(Hit {
            key,
            distance: measure.distance(candidate.rank),
            start: range.start,
            length: range.length,
            text: if self.with_text { text.and_then(passage) } else { None },
            metadata: if self.with_metadata { Some(value::decode(metadata.0, metadata.1)?) } else { None },
            vector,
        })
    }
}
