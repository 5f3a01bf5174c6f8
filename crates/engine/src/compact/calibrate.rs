//! Stop rules of an index generation, from rows that take the part of queries, and from queries that were given.
//!
//! The nearest rows of each of them are found list by list, for all queries at once: the sign codes of a list are made,
//! every query scans them, and measures exactly the rows that may be among its nearest, or are likely to be near. That
//! takes a small part of what measuring all rows does, and misses about one row in ten thousand.

use plimsoll_base::Metric;
use plimsoll_codes::blocks_of;
use plimsoll_index::kmeans::sample_rows;
use plimsoll_index::{
    Centroids, Depth, Estimated, Members, Rows, Scored, Scores, StopEntry, StopTable, calibrate, calibrate_on,
};
use plimsoll_kernels as kernels;
use plimsoll_shard::StopRule;
use rayon::prelude::*;

use super::plan::Urgency;
use crate::codebook::{Codebook, CodedQuery, RowEncoder};
use crate::error::{Error, Result};

/// Queries of a calibration: in the background it competes with writers, and with fewer queries the stop rules are more
/// careful than they need to be.
const fn queries(urgency: Urgency) -> usize {
    match urgency {
        Urgency::Due | Urgency::Busy | Urgency::Closing => FEWER,
        Urgency::Everything => 1000,
    }
}

/// What is enough rows in the background, and beside queries that were given.
const FEWER: usize = 256;

/// So many of the queries, or a few more, calibrate the k that only deep ones do.
const DEEP: usize = 64;
/// Rows from whose distances it is guessed how far the best rows reach.
const SAMPLE: usize = 2048;
/// Rows of the sample scored at once: they stay in the second-level cache.
const BLOCK: usize = 64;
/// Rows of a list that are encoded together, and how many such parts before all queries scan them: their codes stay in
/// the second-level cache.
const PART: usize = 512;
const PARTS: usize = 16;
/// How many standard deviations a row may be nearer than its signs say.
const DEVIATIONS: f32 = 4.0;

/// What a calibration is done on.
pub(super) struct Sampled<'a> {
    /// So many rows take the part of queries, and what chooses them.
    rows: (usize, u64),
    /// Queries that were given, one after another, as the index sees them. If there are none, it is the rows that count.
    given: &'a [f32],
}

impl<'a> Sampled<'a> {
    pub(super) fn new(urgency: Urgency, seed: u64, given: &'a [f32]) -> Self {
        let rows = if given.is_empty() { queries(urgency) } else { FEWER };
        Self { rows: (rows, seed), given }
    }
}

/// Calibrates the lists of `book`; `positions` has the list of each row.
pub(super) fn stop_table<R: Rows<Error = Error>>(
    rows: &R,
    metric: Metric,
    (centroids, positions): (&Centroids, &[u32]),
    book: &Codebook,
    sampled: &Sampled<'_>,
) -> Result<StopTable> {
    let (count, seed) = sampled.rows;
    let numbers = sample_rows(rows.count(), count, seed);
    let depths = depths(numbers.len());
    let mut queries: Vec<Query> = numbers
        .into_iter()
        .zip(depths)
        .map(|(row, depth)| Query::of_row(rows, row as u32, positions[row], (book, depth)))
        .collect::<Result<_>>()?;
    let given = sampled.given.chunks_exact(rows.dim());
    let depths = self::depths(given.len());
    queries.extend(given.zip(depths).map(|(query, depth)| Query::given(query.to_vec(), (book, depth))));
    let sample = sample_rows(rows.count(), SAMPLE, seed ^ 1);
    let ranks = |depth: Depth| {
        [depth.kept, depth.nearest].map(|best| rank_in_sample(best, sample.len(), rows.count()))
    };
    let mut vectors = Vec::with_capacity(sample.len() * rows.dim());
    sample.iter().try_for_each(|&row| rows.push(row as u32, &mut vectors))?;
    queries.par_iter_mut().for_each(|query| query.bound(metric, &vectors, ranks(query.scores.depth())));
    drop(vectors);
    let members = Members::new(positions);
    // Lists that lost all of their rows are no members: rows say where their list is.
    let of_lists =
        members.lists().map(|list| members.of(list)).filter_map(|rows| Some((rows.first()?, rows)));
    let parts: Vec<(u32, &[u32])> = of_lists
        .flat_map(|(first, rows)| rows.chunks(PART).map(|part| (positions[*first as usize], part)))
        .collect();
    for parts in parts.chunks(PARTS) {
        let encoded: Vec<Part> = parts
            .par_iter()
            .map(|&(position, part)| {
                let mut part = Part::encode(rows, book, position, part)?;
                part.bound(centroids.vector(position));
                Ok(part)
            })
            .collect::<Result<_>>()?;
        queries.par_iter_mut().for_each_init(Room::default, |room, query| {
            encoded.iter().for_each(|part| query.scan(metric, book, part, room));
        });
    }
    let (of_rows, given): (Vec<Query>, Vec<Query>) =
        queries.into_iter().partition(|query| query.row.is_some());
    let [of_rows, given] = [of_rows, given]
        .map(|queries| queries.into_iter().map(|query| query.scores).collect::<Vec<Scores>>());
    Ok(match given.is_empty() {
        true => calibrate(centroids, metric, of_rows),
        false => calibrate_on(centroids, metric, given, of_rows),
    })
}

/// How deep each of `count` queries is: about [`DEEP`] of them, evenly, are.
fn depths(count: usize) -> impl Iterator<Item = Depth> {
    let every = (count / DEEP).max(1);
    (0_usize..).map(move |at| if at.is_multiple_of(every) { Depth::DEEP } else { Depth::USUAL })
}

/// A table as index files have it: the rules, and how careful bounds by codes have to be for each of them.
pub(super) fn stored(table: &StopTable) -> (Vec<StopRule>, Vec<f32>) {
    let rule =
        |entry: &StopEntry| (StopRule { k: entry.k, recall: entry.recall, stop: entry.t }, entry.epsilon);
    table.entries().iter().map(rule).unzip()
}

/// The rank in a sample below which all but a few samples have the `best` best of all rows.
fn rank_in_sample(best: usize, sample: usize, rows: usize) -> usize {
    let expected = (best * sample) as f64 / rows.max(1) as f64;
    (expected + 3.0 * expected.sqrt() + 3.0).ceil() as usize
}

/// A row that takes the part of a query, or a query that was given.
struct Query {
    /// The row.
    row: Option<u32>,
    scores: Scores,
    /// `None` if its numbers are too large for codes.
    coded: Option<CodedQuery>,
}

/// Rows of a list, and their sign codes.
struct Part<'a> {
    position: u32,
    /// How far the rows may be from the list's centroid.
    radius: f32,
    rows: &'a [u32],
    vectors: Vec<f32>,
    signs: Vec<u8>,
}

impl<'a> Part<'a> {
    fn encode(
        rows: &impl Rows<Error = Error>,
        book: &Codebook,
        position: u32,
        numbers: &'a [u32],
    ) -> Result<Self> {
        let mut vectors = Vec::with_capacity(numbers.len() * rows.dim());
        numbers.iter().try_for_each(|&row| rows.push(row, &mut vectors))?;
        let (mut encoder, mut signs) = (RowEncoder::new(book), Vec::new());
        for (slot, vector) in vectors.chunks_exact(rows.dim()).enumerate() {
            encoder.signs(vector, position, slot, &mut signs);
        }
        Ok(Self { position, radius: f32::INFINITY, rows: numbers, vectors, signs })
    }

    /// Finds out how far the rows are from their list's centroid: those that came after the training may be farther than
    /// any that were there.
    fn bound(&mut self, centroid: &[f32]) {
        let rows = self.vectors.chunks_exact(centroid.len());
        self.radius = rows.map(|row| kernels::l2_squared(row, centroid)).fold(0.0, f32::max).sqrt();
    }
}

/// Room for what the codes of a part say.
#[derive(Default)]
struct Room {
    lows: Vec<f32>,
    estimates: Vec<f32>,
    /// Rows whose bounds are within what is looked for, and all rows.
    within: Vec<u32>,
    all: Vec<u32>,
    /// What is to be measured.
    found: Vec<(usize, Option<Estimated>)>,
}

impl Query {
    /// A row of the list at `own`.
    fn of_row(
        rows: &impl Rows<Error = Error>,
        row: u32,
        own: u32,
        (book, depth): (&Codebook, Depth),
    ) -> Result<Self> {
        let mut vector = Vec::with_capacity(rows.dim());
        rows.push(row, &mut vector)?;
        Ok(Self::new(Some(row), Scores::new(vector, Some(own), depth), book))
    }

    fn given(vector: Vec<f32>, (book, depth): (&Codebook, Depth)) -> Self {
        Self::new(None, Scores::new(vector, None, depth), book)
    }

    fn new(row: Option<u32>, scores: Scores, book: &Codebook) -> Self {
        let mut coded = CodedQuery::default();
        let coded = coded.set(book, scores.query()).then_some(coded);
        Self { row, scores, coded }
    }

    /// Bounds the scores by those of these ranks among some rows, if there are so many.
    fn bound(&mut self, metric: Metric, sample: &[f32], ranks: [usize; 2]) {
        let query = self.scores.query();
        let mut scores = vec![0.0; sample.len() / query.len()];
        for (scores, rows) in scores.chunks_mut(BLOCK).zip(sample.chunks(BLOCK * query.len())) {
            match metric {
                Metric::Cosine | Metric::L2 => kernels::l2_squared_rows(query, rows, scores),
                Metric::Dot => {
                    kernels::dot_rows(query, rows, scores);
                    scores.iter_mut().for_each(|product| *product = -*product);
                }
            }
        }
        let [bound, nearest] = ranks.map(|rank| match rank < scores.len() {
            true => *scores.select_nth_unstable_by(rank, f32::total_cmp).1,
            false => f32::INFINITY,
        });
        self.scores.set_bounds(bound, nearest);
    }

    /// Scores the rows of a part that may be among the best.
    fn scan(&mut self, metric: Metric, book: &Codebook, part: &Part<'_>, room: &mut Room) {
        let Some(coded) = &self.coded else {
            (0..part.rows.len()).for_each(|at| self.measure(metric, part, at, None));
            return;
        };
        let blocks = blocks_of(part.rows.len());
        room.within.resize(blocks, 0);
        room.all.resize(blocks, 0);
        room.lows.resize(blocks * kernels::BLOCK, 0.0);
        room.estimates.resize(blocks * kernels::BLOCK, 0.0);
        let (base, distance_squared) = coded.of_list(book, part.position);
        // By the triangle inequality none of the rows is as near as the bound; the slack is for roundings.
        let nearest = distance_squared.sqrt() * 0.9999 - part.radius;
        if metric != Metric::Dot && nearest > 0.0 && nearest * nearest > self.scores.bound() {
            return;
        }
        // Scores as codes have them: what is the query's alone is 0 by distance.
        let shift = coded.stop_rank(book, 0.0);
        // Slots without rows are infinitely far.
        let limit = |score: f32| match metric {
            Metric::Dot => (2.0 * (score - shift)).min(f32::MAX),
            Metric::Cosine | Metric::L2 => score.min(f32::MAX),
        };
        let scan = |deviations, score, found: &mut [f32], masks: &mut [u32]| {
            let bound = coded.signs.bound(base, distance_squared, deviations);
            let scanned = coded.signs.scan(&part.signs, &[], &bound, limit(score), found, masks);
            debug_assert!(scanned, "{blocks} blocks");
        };
        scan(DEVIATIONS, self.scores.bound(), &mut room.lows, &mut room.within);
        if room.within.iter().all(|mask| *mask == 0) {
            return;
        }
        scan(0.0, f32::MAX, &mut room.estimates, &mut room.all);
        room.found.clear();
        for at in ones(&room.within) {
            let [low, estimate] = [room.lows[at], room.estimates[at]].map(|code| coded.stop_rank(book, code));
            // Rows that may be among the nearest, and rows that are likely to be among those that are kept.
            if low <= self.scores.nearest() || estimate <= self.scores.bound() {
                let deviation = (estimate - low) / DEVIATIONS;
                room.found.push((at, deviation.is_finite().then_some(Estimated { estimate, deviation })));
            }
        }
        for &(at, codes) in &room.found {
            self.measure(metric, part, at, codes);
        }
    }

    fn measure(&mut self, metric: Metric, part: &Part<'_>, at: usize, codes: Option<Estimated>) {
        let row = part.rows[at];
        if Some(row) == self.row {
            return;
        }
        let query = self.scores.query();
        let vector = &part.vectors[at * query.len()..][..query.len()];
        let apart = kernels::l2_squared(query, vector);
        let score = match metric {
            Metric::Cosine | Metric::L2 => apart,
            Metric::Dot => -kernels::dot(query, vector),
        };
        self.scores.push(Scored { score, apart, position: part.position, row, codes });
    }
}

/// The places of the bits that are set, 32 in each mask.
fn ones(masks: &[u32]) -> impl Iterator<Item = usize> {
    masks.iter().enumerate().flat_map(|(number, &mask)| {
        let rest = std::iter::successors(Some(mask), |mask| Some(mask & mask.wrapping_sub(1)));
        rest.take_while(|mask| *mask != 0)
            .map(move |mask| number * kernels::BLOCK + mask.trailing_zeros() as usize)
    })
}

#[cfg(test)]
mod tests {
    use plimsoll_base::{ListId, ShardId};
    use plimsoll_index::Lists;

    use super::*;

    const DIMENSION: usize = 32;

    struct Flat(Vec<f32>);

    impl Rows for Flat {
        type Error = Error;

        fn dim(&self) -> usize {
            DIMENSION
        }

        fn count(&self) -> usize {
            self.0.len() / DIMENSION
        }

        fn push(&self, row: u32, into: &mut Vec<f32>) -> Result<()> {
            into.extend_from_slice(&self.0[row as usize * DIMENSION..][..DIMENSION]);
            Ok(())
        }

        fn prefetch(&self, _: u32) {}
    }

    /// Rows around centres, of several lengths.
    fn rows(count: usize) -> Flat {
        let mut state = 5_u64;
        let mut uniform = move || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let centres: Vec<f32> = (0..40 * DIMENSION).map(|_| uniform()).collect();
        let mut all = Vec::new();
        for row in 0..count {
            let scale = 1.0 + 0.5 * uniform();
            let centre = &centres[row % 40 * DIMENSION..][..DIMENSION];
            all.extend(centre.iter().map(|value| scale * (value + 0.8 * uniform())));
        }
        Flat(all)
    }

    /// What is found by codes gives the same rules as if every row were measured for every query.
    #[test]
    fn nothing_that_counts_is_missed() {
        let rows = rows(8000);
        let mut lists = Lists::train(&rows, 53, 1).unwrap();
        // The first list has lost its rows.
        lists.centroids.splice(0..0, [0.3; DIMENSION]);
        lists.radii.insert(0, 1.0);
        lists.spreads.insert(0, 0.5);
        lists.counts.insert(0, 7);
        lists.positions.iter_mut().for_each(|position| *position += 1);
        let count = lists.counts.len();
        let ids = (0..count as u32).map(ListId).collect();
        let centroids = Centroids::new(DIMENSION, ids, vec![ShardId(0); count], lists.centroids, lists.radii)
            .and_then(|centroids| centroids.with_statistics(lists.spreads, lists.counts))
            .unwrap();
        let members = Members::new(&lists.positions);
        for metric in [Metric::L2, Metric::Dot] {
            let book = Codebook::new(metric, 3, &[0.1; DIMENSION], &centroids);
            let sampled = Sampled { rows: (300, 9), given: &[] };
            let found = stop_table(&rows, metric, (&centroids, &lists.positions), &book, &sampled).unwrap();
            let all = |(row, depth): (usize, Depth)| {
                let own = lists.positions[row];
                let mut query = Query::of_row(&rows, row as u32, own, (&book, depth)).unwrap();
                for list in members.lists() {
                    // No other list is empty.
                    let part = Part::encode(&rows, &book, list + 1, members.of(list)).unwrap();
                    // Bounds that let everything pass.
                    query.scores.set_bounds(f32::INFINITY, f32::INFINITY);
                    query.scan(metric, &book, &part, &mut Room::default());
                }
                query.scores
            };
            let queries = sample_rows(rows.count(), 300, 9).into_iter().zip(depths(300)).map(all).collect();
            let wanted = calibrate(&centroids, metric, queries);
            let key = |entry: &StopEntry| (entry.k, entry.recall.to_bits());
            assert!(found.entries().iter().map(key).eq(wanted.entries().iter().map(key)));
            for (found, wanted) in found.entries().iter().zip(wanted.entries()) {
                assert!((found.t - wanted.t).abs() < 0.02, "{metric}: {found:?} for {wanted:?}");
                assert_eq!(found.epsilon, wanted.epsilon, "{metric}: {found:?} for {wanted:?}");
            }
        }
    }

    #[test]
    fn ones_are_all_the_bits() {
        assert_eq!(ones(&[0b1001, 0, 1 << 31]).collect::<Vec<_>>(), [0, 3, 95]);
    }
}
