//! Calibrating on the queries that a collection gets: what is accepted, and what it is reported to have changed.

use std::fmt;
use std::time::{Duration, Instant};

use crate::codebook::push_indexed;
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::query::{Effort, Hit, ReadOnlyCollection};
use crate::record::validated_norm;

/// So many queries are kept at most.
const KEPT: usize = 1000;
/// So many of them are tried out before and after.
const TRIED: usize = 100;
/// With these recalls, for ten results.
const RECALLS: [f32; 3] = [0.9, 0.95, 0.99];

/// What [`Collection::calibrate`] did.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Calibration {
    /// Queries that the collection is calibrated on now.
    pub queries: usize,
    /// What some of these queries got, and what they get now, for ten results at each of some recalls.
    pub recalls: Vec<CalibratedRecall>,
    /// How long it took, without trying it out.
    pub total: Duration,
}

/// What a recall that is asked for comes to, before and after a calibration.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct CalibratedRecall {
    /// The recall that is asked for.
    pub recall: f32,
    /// What came of it.
    pub before: Delivered,
    /// What comes of it now.
    pub after: Delivered,
}

/// What searches find, and what it takes, on average.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Delivered {
    /// The share of the ten nearest rows that are found.
    pub recall: f64,
    /// The share of all rows whose codes are scanned.
    pub scanned: f64,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "calibrated on {} queries in {:.2} s", self.queries, self.total.as_secs_f64())?;
        write!(f, "of these, for k = 10:   found before, of codes     found now, of codes")?;
        for CalibratedRecall { recall, before, after } in &self.recalls {
            let [before_share, after_share] = [before, after].map(|found| found.scanned * 100.0);
            write!(
                f,
                "\n  asked for {recall:<4}              {:.3}, {before_share:>6.2} %           {:.3}, {after_share:>6.2} %",
                before.recall, after.recall
            )?;
        }
        Ok(())
    }
}

impl Collection {
    /// Calibrates [`Effort::Recall`] on queries like those that the collection gets, instead of on its own rows: where
    /// queries are unlike rows, as questions are unlike passages, they otherwise find less than is asked for, or look
    /// further than they have to.
    ///
    /// At most 1,000 of them are kept, evenly chosen, also for indexes that are trained later. A thousand are well enough;
    /// few queries can not show that a high recall is reached (.9 takes 30, .95 60, .99 300 of them), and where they can
    /// not, the collection's own rows have a say, too: few queries never make a search less careful than none. They have to
    /// be other queries than those that a recall is measured with.
    ///
    /// Flushed rows are what is searched. Searches and writes go on meanwhile; compactions wait. It takes about as long as
    /// the calibration that is a part of training an index: some 4 ns for each query and row.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use plimsoll_engine::{CollectionConfig, Database, Document, Error, Metric, WriteBatch};
    /// let db = Database::open(dir.path().join("db"))?;
    /// let points = db.create_collection("points", CollectionConfig::new(2, Metric::L2))?;
    /// let mut batch = WriteBatch::new();
    /// for n in 0..5000 {
    ///     let angle = n as f32;
    ///     batch.upsert(Document::new(n).vector([angle.sin(), angle.cos()]));
    /// }
    /// points.write(&batch)?;
    /// let queries: Vec<[f32; 2]> = (0..200).map(|n| [n as f32 / 400.0, 0.1]).collect();
    /// assert!(matches!(points.calibrate(&queries), Err(Error::NotIndexed { .. })));
    ///
    /// db.flush()?;
    /// db.compact()?; // Trains an index.
    /// let calibration = points.calibrate(&queries)?;
    /// assert_eq!(calibration.queries, 200);
    /// points.reset_calibration()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no queries; [`Error::InvalidQuery`] if one is not finite or has no
    /// direction under cosine; [`Error::DimensionMismatch`]; [`Error::NotIndexed`] for a collection that is searched
    /// exactly anyway; [`Error::CollectionNotFound`], [`Error::Storage`]. Everything is then as it was, unless the error is
    /// one of the searches that try out what is new.
    pub fn calibrate<Q: AsRef<[f32]>>(&self, queries: &[Q]) -> Result<Calibration> {
        self.database.core().check_open()?;
        if queries.is_empty() {
            let what =
                "there are no queries to calibrate on; reset_calibration takes the collection's own rows";
            return Err(Error::InvalidArgument(what.to_owned()));
        }
        let indexed = self.indexed(queries)?;
        let indexed: Vec<&[f32]> = indexed.chunks_exact(self.config.dimension).collect();
        let kept = evenly(&indexed, KEPT);
        let trial = Trial::new(self.snapshot()?, &evenly(queries, TRIED))?;
        let start = Instant::now();
        self.database.core().calibrate((self.id, &self.name), &kept.concat())?;
        let total = start.elapsed();
        let recalls = trial.compare(&self.snapshot()?)?;
        Ok(Calibration { queries: kept.len(), recalls, total })
    }

    /// Calibrates [`Effort::Recall`] on the collection's own rows, as it is unless [`Collection::calibrate`] was called.
    /// Nothing is done if there is no index.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`], [`Error::Storage`]; everything is then as it was.
    pub fn reset_calibration(&self) -> Result<()> {
        self.database.core().check_open()?;
        match self.database.core().calibrate((self.id, &self.name), &[]) {
            Err(Error::NotIndexed { .. }) => Ok(()),
            result => result,
        }
    }

    /// All queries as the index sees them, one after another.
    fn indexed<Q: AsRef<[f32]>>(&self, queries: &[Q]) -> Result<Vec<f32>> {
        let (expected, metric) = (self.config.dimension, self.config.metric);
        let mut indexed = Vec::with_capacity(queries.len() * expected);
        for (number, query) in queries.iter().map(AsRef::as_ref).enumerate() {
            if query.len() != expected {
                return Err(Error::DimensionMismatch { expected, got: query.len() });
            }
            let norm = validated_norm(metric, query)
                .map_err(|problem| Error::InvalidQuery { query: number, problem })?;
            push_indexed(metric, query, norm as f32, &mut indexed);
        }
        Ok(indexed)
    }
}

/// At most `most` of some things, evenly chosen.
fn evenly<T: AsRef<[f32]>>(all: &[T], most: usize) -> Vec<&[f32]> {
    let count = all.len().min(most);
    (0..count).map(|n| all[n * all.len() / count].as_ref()).collect()
}

/// Queries that are tried out before and after.
struct Trial<'a> {
    queries: Vec<&'a [f32]>,
    /// The distance of the last of the ten nearest rows, and how many there are.
    truth: Vec<Option<(f32, usize)>>,
    before: [Delivered; RECALLS.len()],
}

impl<'a> Trial<'a> {
    fn new(collection: ReadOnlyCollection, queries: &[&'a [f32]]) -> Result<Self> {
        let exact = collection.search(&[]).effort(Effort::Exact).run_each(queries);
        let last = |hits: Vec<Hit>| Some((hits.last()?.distance, hits.len()));
        let truth = exact.into_iter().map(|found| Ok(last(found?.hits))).collect::<Result<_>>()?;
        let mut trial = Self { queries: queries.to_vec(), truth, before: Default::default() };
        trial.before = trial.delivered(&collection)?;
        Ok(trial)
    }

    fn delivered(&self, collection: &ReadOnlyCollection) -> Result<[Delivered; RECALLS.len()]> {
        let mut delivered = [Delivered::default(); RECALLS.len()];
        for (recall, delivered) in RECALLS.into_iter().zip(&mut delivered) {
            let [mut right, mut wanted, mut codes, mut rows] = [0_u64; 4];
            let found = collection.search(&[]).effort(Effort::Recall(recall)).run_each(&self.queries);
            for (found, truth) in found.into_iter().zip(&self.truth) {
                let (found, (last, count)) = (found?, truth.unwrap_or_default());
                let is_right = |hit: &&Hit| hit.distance <= last;
                right += found.hits.iter().filter(is_right).count().min(count) as u64;
                wanted += count as u64;
                codes += found.explain.codes_scanned;
                rows += found.explain.rows_total + found.explain.memtable_rows;
            }
            delivered.recall = if wanted == 0 { 1.0 } else { right as f64 / wanted as f64 };
            delivered.scanned = codes as f64 / rows.max(1) as f64;
        }
        Ok(delivered)
    }

    fn compare(&self, collection: &ReadOnlyCollection) -> Result<Vec<CalibratedRecall>> {
        let after = self.delivered(collection)?;
        let recalls = RECALLS.into_iter().zip(self.before).zip(after);
        Ok(recalls.map(|((recall, before), after)| CalibratedRecall { recall, before, after }).collect())
    }
}
