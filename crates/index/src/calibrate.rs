//! Finding, on the data itself, the smallest t of the [`StopRule`](crate::StopRule) for each recall target, and how
//! careful the bounds by codes have to be.
//!
//! The engine names sample rows as queries and scores every other row for each of them, exactly; of the best rows it
//! also says what their codes say. For cosine and L2 the order of the lists does not depend on t, and the visit for a
//! small t is a prefix of that for a larger one: one pass gives the recall of all t as a staircase. For the dot product
//! t changes the order, so the visit is replayed for a grid of t.

use std::collections::HashMap;
use std::ops::Range;

use plimsoll_base::Metric;
use plimsoll_kernels::{dot_rows, l2_squared_rows};
use rayon::prelude::*;

use crate::centroids::Centroids;
use crate::route::{OptimisticBounds, Route, priority};
use crate::stop::{Progress, StopEntry, StopRule, StopTable};

/// So many queries are scored together: enough that rows are read from memory once for all of them.
pub const TOGETHER: usize = 16;
/// The largest calibrated k.
const DEEPEST: usize = 100;
/// So many rows are kept for each query. Others can only be the k-th best of a visit that has seen next to nothing.
const KEPT: usize = 2000;
/// One-sided 95 % of the normal distribution.
const CONFIDENCE: f64 = 1.645;
/// Rows that are nearer to a query than this share of their list's spread are copies of it, more or less. A query from
/// outside has no copies, so that the calibration is done with them and without them, and the larger t counts.
const COPY: f32 = 0.1;
/// The choice of how many standard deviations a bound by codes is below the estimate. Codes may cost this share of the
/// results that a target allows to miss; the lists that are not visited cost the others. Measured: a smaller share
/// measures more rows than it saves in lists, a larger one the other way round.
const EPSILONS: [f32; 6] = [1.0, 1.25, 1.5, 2.0, 3.0, 4.0];
const SHARE_OF_CODES: f64 = 0.25;
/// Dot product: the grid is (i / STEPS)² for i up to STEPS, since the useful t are small in many dimensions.
const STEPS: u16 = 48;

/// What the engine fills in for one calibration query: its vector, and the score of every other row.
#[derive(Debug, Default)]
pub struct Scores {
    query: Vec<f32>,
    own: Option<u32>,
    /// The best so far, in no order, and a score that none of the best is above.
    best: Vec<Scored>,
    bound: f32,
    /// The best of each list, once all are known.
    lists: Vec<Vec<Scored>>,
}

/// A row's score, and the row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// As [`Progress::kth`]: smaller is better.
    pub score: f32,
    /// The position of its list.
    pub position: u32,
    /// The row, in whatever numbers the engine gave.
    pub row: u64,
}

impl Scored {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(self.row.cmp(&other.row))
    }
}

/// What a row's codes say of its distance to a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimated {
    /// The distance, as scores are.
    pub estimate: f32,
    /// By how much that is off, as a standard deviation.
    pub deviation: f32,
}

impl Scores {
    /// Sets the query's vector (normalised for cosine), and the position of the list that it is a row of: that list's
    /// centroid has the row in it, and is nearer to it than to any other query.
    pub fn set_query(&mut self, query: &[f32], own: Option<u32>) {
        self.query.clear();
        self.query.extend_from_slice(query);
        self.own = own;
    }

    /// Adds a live row of the list at `position` of the centroid table; **not** the row the query is made
    /// of. The score is as [`Progress::kth`]: smaller is better, the squared distance for cosine and L2, the negated
    /// inner product for the dot product.
    ///
    /// # Panics
    /// When there is no such list.
    #[inline]
    pub fn push(&mut self, position: u32, row: u64, score: f32) {
        if score <= self.bound {
            self.best.push(Scored { score, position, row });
            if self.best.len() >= 2 * KEPT {
                self.keep_best();
            }
        }
    }

    fn keep_best(&mut self) {
        if self.best.len() > KEPT {
            self.best.select_nth_unstable_by(KEPT - 1, Scored::order);
            self.best.truncate(KEPT);
            self.bound = self.best[KEPT - 1].score;
        }
    }

    fn clear(&mut self, lists: usize) {
        self.query.clear();
        self.own = None;
        self.best.clear();
        self.bound = f32::INFINITY;
        self.lists.iter_mut().for_each(Vec::clear);
        self.lists.resize_with(lists, Vec::new);
    }

    /// Sorts what is kept, over all and in its lists.
    fn settle(&mut self) {
        self.keep_best();
        self.best.sort_unstable_by(Scored::order);
        for scored in &self.best {
            self.lists[scored.position as usize].push(*scored);
        }
    }
}

/// The best k scores seen, sorted.
struct BestScores {
    k: usize,
    sorted: Vec<f32>,
}

impl BestScores {
    fn new(k: u32) -> Self {
        Self { k: k as usize, sorted: Vec::with_capacity(k as usize) }
    }

    /// Adds the sorted scores of a list from `least` on, but for those that `passes` refuses, given the k-th best so
    /// far.
    fn merge(&mut self, list: &[Scored], least: f32, passes: impl Fn(&Scored, f32) -> bool) {
        // A list is scanned with the k-th of before it.
        let kth = self.kth();
        for scored in &list[list.partition_point(|scored| scored.score < least)..] {
            let full = self.sorted.len() == self.k;
            if full && self.sorted.last().is_some_and(|&worst| scored.score >= worst) {
                return;
            }
            if kth.is_some_and(|kth| !passes(scored, kth)) {
                continue;
            }
            self.sorted.truncate(self.k - 1);
            let at = self.sorted.partition_point(|&other| other <= scored.score);
            self.sorted.insert(at, scored.score);
        }
    }

    fn kth(&self) -> Option<f32> {
        self.sorted.get(self.k - 1).copied()
    }
}

/// What the codes say of the best rows of one query, by row.
type Codes = HashMap<u64, Estimated>;

/// Whether codes let a row pass that was not seen to be unsafe: only the best rows are known.
fn passes(codes: &Codes, epsilon: f32, scored: &Scored, kth: f32) -> bool {
    codes.get(&scored.row).is_none_or(|codes| codes.estimate - epsilon * codes.deviation <= kth)
}

/// The recall of one query as a staircase: (from this t on, this recall), by rising t.
type Staircase = Vec<(f32, f32)>;

/// The outcome of one query: for each k and each epsilon.
type Outcome = [[Staircase; EPSILONS.len()]; StopTable::KS.len()];

/// Calibrates the stop rule for a table on `queries` sample queries (a thousand or more; fewer give larger t).
///
/// `score(range, scores)` fills in one entry of `scores` for each query of `range`, at most [`TOGETHER`]: first
/// [`Scores::set_query`], then [`Scores::push`] for every live row but the query's own. Duplicates of the query may stay
/// in: a result is right when its score is as good as the true k-th, whichever of several equal rows it is. Queries for
/// which no row was pushed are left out. `estimate(query, rows)` says what the codes of some rows say; an empty answer
/// means that there are no codes.
///
/// An entry's epsilon is the smallest at which codes cost at most the share `SHARE_OF_CODES` of what the target allows to
/// miss. Its t is the smallest at which the 95 % lower confidence bound of the mean recall reaches the
/// target; where the sample is too small to show it, the largest t that any sample query needed (dot product:
/// 1, which misses nothing). The bound is the normal one with one more query that misses one result, so that a
/// sample without misses does not pass for certainty.
///
/// Cost: what `score` and `estimate` cost, plus a little; queries run in parallel. Deterministic.
pub fn calibrate<F, E>(
    centroids: &Centroids,
    metric: Metric,
    queries: usize,
    score: F,
    estimate: E,
) -> StopTable
where
    F: Fn(Range<usize>, &mut [Scores]) + Sync,
    E: Fn(&[f32], &[Scored]) -> Vec<Estimated> + Sync,
{
    let outcomes: Vec<Vec<(Outcome, Option<Outcome>)>> = (0..queries.div_ceil(TOGETHER))
        .into_par_iter()
        .map_init(Vec::new, |scores: &mut Vec<Scores>, batch| {
            let range = batch * TOGETHER..queries.min((batch + 1) * TOGETHER);
            scores.resize_with(range.len(), Scores::default);
            scores.iter_mut().for_each(|of_query| of_query.clear(centroids.len()));
            score(range, scores);
            let scored = scores.iter_mut().filter(|of_query| !of_query.best.is_empty());
            scored.map(|of_query| outcomes_of(centroids, metric, of_query, &estimate)).collect()
        })
        .collect();
    let outcomes = outcomes.concat();
    let mut entries = Vec::new();
    for (index, &k) in StopTable::KS.iter().enumerate().filter(|_| !outcomes.is_empty()) {
        let with: Vec<_> = outcomes.iter().map(|(with, _)| &with[index]).collect();
        let mut of_k = entries_for(metric, k, &with);
        if outcomes.iter().any(|(_, without)| without.is_some()) {
            let without: Vec<_> =
                outcomes.iter().map(|(with, without)| &without.as_ref().unwrap_or(with)[index]).collect();
            for (entry, other) in of_k.iter_mut().zip(entries_for(metric, k, &without)) {
                entry.t = entry.t.max(other.t);
                entry.epsilon = entry.epsilon.max(other.epsilon);
            }
        }
        entries.extend(of_k);
    }
    StopTable::new(metric, entries)
}

/// What becomes of a query among all rows, and among those that are no copies of it, if there are copies.
fn outcomes_of(
    centroids: &Centroids,
    metric: Metric,
    scores: &mut Scores,
    estimate: impl Fn(&[f32], &[Scored]) -> Vec<Estimated>,
) -> (Outcome, Option<Outcome>) {
    let copy = match (metric, scores.own) {
        (Metric::Cosine | Metric::L2, Some(own)) => COPY * centroids.spreads()[own as usize],
        _ => f32::NEG_INFINITY,
    };
    scores.settle();
    let copies = scores.best.partition_point(|scored| scored.score < copy);
    let known = &scores.best[..scores.best.len().min(copies + DEEPEST)];
    let codes = known.iter().map(|scored| scored.row).zip(estimate(&scores.query, known)).collect();
    let among = |least: f32, from: usize| {
        let truth = scores.best[from..].iter().take(DEEPEST).map(|scored| scored.score).collect();
        outcome(centroids, metric, &Sample { scores, truth, codes: &codes, least })
    };
    let without = (copies > 0 && copies < scores.best.len()).then(|| among(copy, copies));
    (among(f32::NEG_INFINITY, 0), without)
}

/// A query, what is right for it, and what the codes of the best rows say.
struct Sample<'a> {
    scores: &'a Scores,
    truth: Vec<f32>,
    codes: &'a Codes,
    /// Rows with smaller scores do not count.
    least: f32,
}

impl Sample<'_> {
    /// How many rows of the query's own list do not count, itself among them.
    fn left_out(&self) -> u32 {
        let own = |scored: &&Scored| Some(scored.position) == self.scores.own;
        let copies = self.scores.best.iter().take_while(|scored| scored.score < self.least).filter(own);
        1 + copies.count() as u32
    }
}

fn outcome(centroids: &Centroids, metric: Metric, sample: &Sample<'_>) -> Outcome {
    let mut outcome: Outcome = Default::default();
    for (index, epsilon) in EPSILONS.into_iter().enumerate() {
        let stairs = match metric {
            Metric::Cosine | Metric::L2 => by_distance(centroids, sample, epsilon),
            Metric::Dot => by_bound(centroids, sample, epsilon),
        };
        outcome.iter_mut().zip(stairs).for_each(|(outcome, stairs)| outcome[index] = stairs);
    }
    outcome
}

/// The recall at k of what was seen: how many results are as good as the true k-th.
fn recall(seen: &BestScores, truth: &[f32], k: u32) -> f32 {
    let wanted = truth.len().min(k as usize);
    let Some(&worst) = truth[..wanted].last() else { return 1.0 };
    seen.sorted.iter().take(wanted).filter(|&&score| score <= worst).count() as f32 / wanted as f32
}

/// One visit of all lists. A list is visited by every t that stops neither before it nor before a list ahead of it.
fn by_distance(centroids: &Centroids, sample: &Sample<'_>, epsilon: f32) -> [Staircase; 3] {
    let Sample { scores, truth, codes, least } = sample;
    let mut seen = StopTable::KS.map(BestScores::new);
    let mut stairs = [const { Staircase::new() }; 3];
    let mut from = [f32::NEG_INFINITY; 3];
    let mut progress = Progress { next: 0.0, first: 0.0, kth: None, rows: 0, lists: 0 };
    for step in Route::new(&priorities(centroids, sample)) {
        progress.next = step.priority;
        if progress.lists == 0 {
            progress.first = step.priority;
        }
        for (from, seen) in from.iter_mut().zip(&mut seen) {
            progress.kth = seen.kth();
            *from = from.max(progress.t());
            seen.merge(&scores.lists[step.position as usize], *least, |scored, kth| {
                passes(codes, epsilon, scored, kth)
            });
        }
        progress.rows += u64::from(centroids.rows()[step.position as usize]);
        progress.lists += 1;
        for (index, &k) in StopTable::KS.iter().enumerate() {
            let recall = recall(&seen[index], truth, k);
            match stairs[index].last_mut() {
                Some(last) if last.1 >= recall => {}
                Some(last) if last.0 == from[index] => last.1 = recall,
                _ => stairs[index].push((from[index], recall)),
            }
        }
        if stairs.iter().all(|stairs| stairs.last().is_some_and(|last| last.1 >= 1.0)) {
            break;
        }
    }
    stairs
}

/// The priorities of all lists, as for a query that is no row: without m of its n rows, which are where the query is, the
/// centroid of a list would be n / (n − m) times as far from it.
fn priorities(centroids: &Centroids, sample: &Sample<'_>) -> Vec<f32> {
    let mut priorities = vec![0.0; centroids.len()];
    l2_squared_rows(&sample.scores.query, centroids.vectors(), &mut priorities);
    if let Some(own) = sample.scores.own.map(|own| own as usize) {
        let (rows, left_out) = (centroids.rows()[own], sample.left_out());
        if rows > left_out {
            priorities[own] *= (rows as f32 / (rows - left_out) as f32).powi(2);
        }
    }
    for (distance, spread) in priorities.iter_mut().zip(centroids.spreads()) {
        *distance = priority(*distance, *spread);
    }
    priorities
}

/// One visit for each t of the grid.
fn by_bound(centroids: &Centroids, sample: &Sample<'_>, epsilon: f32) -> [Staircase; 3] {
    let Sample { scores, truth, codes, .. } = sample;
    let mut products = vec![0.0; centroids.len()];
    dot_rows(&scores.query, centroids.vectors(), &mut products);
    let bounds = OptimisticBounds::new(centroids, &scores.query);
    let mut stairs = [const { Staircase::new() }; 3];
    for t in grid() {
        let priorities: Vec<f32> = products
            .iter()
            .enumerate()
            .map(|(position, &product)| -bounds.at(position, product, t))
            .collect();
        let rule = StopRule::new(Metric::Dot, t);
        let found = replay(Route::new(&priorities), rule, scores, truth, |scored, kth| {
            passes(codes, epsilon, scored, kth)
        });
        stairs.iter_mut().zip(found).for_each(|(stairs, recall)| stairs.push((t, recall)));
    }
    stairs
}

fn grid() -> impl Iterator<Item = f32> {
    (1..=STEPS).map(|step| (f32::from(step) / f32::from(STEPS)).powi(2))
}

/// The recall at each k of a visit that ends by the rule.
fn replay(
    route: Route,
    rule: StopRule,
    scores: &Scores,
    truth: &[f32],
    passes: impl Fn(&Scored, f32) -> bool,
) -> [f32; 3] {
    let mut seen = StopTable::KS.map(BestScores::new);
    let mut ended = [false; 3];
    for (lists, step) in route.enumerate() {
        for (ended, seen) in ended.iter_mut().zip(&mut seen) {
            let kth = seen.kth();
            let progress = Progress { next: step.priority, first: step.priority, kth, rows: 0, lists };
            *ended |= rule.stops(&progress);
            if !*ended {
                seen.merge(&scores.lists[step.position as usize], f32::NEG_INFINITY, &passes);
            }
        }
        if ended == [true; 3] {
            break;
        }
    }
    std::array::from_fn(|index| recall(&seen[index], truth, StopTable::KS[index]))
}

fn entries_for(metric: Metric, k: u32, outcomes: &[&[Staircase; EPSILONS.len()]]) -> Vec<StopEntry> {
    let of_epsilon = |index: usize| outcomes.iter().map(|stairs| &stairs[index]).collect::<Vec<&Staircase>>();
    let of_epsilon: [_; EPSILONS.len()] = std::array::from_fn(of_epsilon);
    // What is missed when every list is visited is what codes cost.
    let full = |stairs: &&Staircase| f64::from(stairs.last().map_or(1.0, |last| last.1));
    let cost =
        of_epsilon.each_ref().map(|stairs| 1.0 - stairs.iter().map(full).sum::<f64>() / stairs.len() as f64);
    let entry = |recall: f32| {
        let allowed = SHARE_OF_CODES * (1.0 - f64::from(recall));
        let index = cost.iter().position(|cost| *cost <= allowed).unwrap_or(EPSILONS.len() - 1);
        let t = smallest_t(metric, k, recall, &of_epsilon[index]);
        StopEntry { k, recall, t, epsilon: EPSILONS[index] }
    };
    StopTable::RECALLS.into_iter().map(entry).collect()
}

fn smallest_t(metric: Metric, k: u32, recall: f32, outcomes: &[&Staircase]) -> f32 {
    let mut candidates: Vec<f32> =
        outcomes.iter().flat_map(|stairs| stairs.iter().map(|stair| stair.0)).collect();
    candidates.sort_unstable_by(f32::total_cmp);
    candidates.dedup();
    let largest = match metric {
        Metric::Cosine | Metric::L2 => candidates.last().copied().unwrap_or(f32::INFINITY),
        Metric::Dot => 1.0,
    };
    let enough = |t: f32| lower_bound(outcomes, t, k) >= f64::from(recall);
    let at = candidates.partition_point(|&t| !enough(t));
    candidates.get(at).copied().unwrap_or(largest)
}

/// The 95 % lower confidence bound of the mean recall at t.
fn lower_bound(outcomes: &[&Staircase], t: f32, k: u32) -> f64 {
    let (mut sum, mut squares) = (0.0, 0.0);
    let missing_one = 1.0 - 1.0 / f64::from(k);
    let recalls = outcomes.iter().map(|stairs| f64::from(recall_at(stairs, t)));
    for recall in recalls.chain([missing_one]) {
        sum += recall;
        squares += recall * recall;
    }
    let n = outcomes.len() as f64 + 1.0;
    let mean = sum / n;
    let variance = (squares / n - mean * mean).max(0.0) * n / (n - 1.0).max(1.0);
    mean - CONFIDENCE * (variance / n).sqrt()
}

fn recall_at(stairs: &Staircase, t: f32) -> f32 {
    let after = stairs.partition_point(|stair| stair.0 <= t);
    if after == 0 { 0.0 } else { stairs[after - 1].1 }
}

#[cfg(test)]
mod tests;
