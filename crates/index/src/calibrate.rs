//! Finding, on the data itself, the smallest t of the [`StopRule`](crate::StopRule) for each recall target, and how
//! careful the bounds by codes have to be.
//!
//! The engine names sample rows as queries and scores the best other rows for each of them, exactly; it also says what
//! their codes say. For cosine and L2 the order of the lists does not depend on t, and the visit for a
//! small t is a prefix of that for a larger one: one pass gives the recall of all t as a staircase. For the dot product
//! t changes the order, so the visit is replayed for a grid of t.

use plimsoll_base::Metric;
use plimsoll_kernels::{dot, l2_squared_rows, norm_squared};
use rayon::prelude::*;

use crate::centroids::Centroids;
use crate::route::{OptimisticBounds, Route, priority};
use crate::stop::{Progress, StopEntry, StopRule, StopTable};

/// How many of the best rows of a query are to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// The largest k that the query calibrates.
    pub deepest: u32,
    /// So many rows have to be the best indeed: those that may be the truth, with some copies of the query.
    pub nearest: usize,
    /// So many rows are kept. Others can only be the k-th best of a visit that has found next to nothing.
    pub kept: usize,
}

impl Depth {
    /// Up to a k of 100.
    pub const USUAL: Self = Self { deepest: 100, nearest: 150, kept: 500 };
    /// Up to a k of 1,000. Such a query takes several times as much time; fewer of them are enough, because the recall of
    /// one is the mean over a thousand rows.
    pub const DEEP: Self = Self { deepest: 1000, nearest: 1050, kept: 2000 };

    /// So many rows may be in front of a gap: with them left out, what is left of the nearest is still enough for the truth.
    fn most_before_gap(self) -> usize {
        self.nearest - self.deepest as usize
    }

    /// The k that the query calibrates.
    fn ks(self) -> &'static [u32] {
        let ks = const { &StopTable::KS };
        &ks[..ks.partition_point(|&k| k <= self.deepest)]
    }
}

/// One-sided 95 % of the normal distribution.
const CONFIDENCE: f64 = 1.645;
/// Of n queries none of which fails, 95 % confidence is that fewer than this over n of all queries do. Queries that were
/// given, of which nobody knows how they were chosen, count for a target by themselves only if that is less than it
/// allows to miss.
const RULE_OF_THREE: f64 = 3.0;
/// Rows that are nearer to a query than this share of their list's spread are copies of it, more or less. A query from
/// outside has no copies, so that the calibration is done with them and without them, and the larger t counts.
const COPY: f32 = 0.1;
/// Copies are also the few rows in front of a gap, after which the next row is so many times as far (squared): copies may
/// be anything between the same and merely alike, but they are nearer than what is next.
const GAP: f32 = 2.0;
/// The choice of how many standard deviations a bound by codes is below the estimate. Codes may cost this share of the
/// results that a target allows to miss; the lists that are not visited cost the others. Measured: a smaller share
/// measures more rows than it saves in lists, a larger one the other way round.
const EPSILONS: [f32; 6] = [1.0, 1.25, 1.5, 2.0, 3.0, 4.0];
const SHARE_OF_CODES: f64 = 0.25;
/// Dot product: the grid is (i / STEPS)² for i up to STEPS, since the useful t are small in many dimensions.
const STEPS: u16 = 48;
/// For a k that only deep queries calibrate, every so many-th step will do, with the last one among them.
const DEEP_STEPS: u16 = 4;

/// A calibration query: its vector, and the best other rows.
#[derive(Debug, Clone)]
pub struct Scores {
    query: Vec<f32>,
    own: Option<u32>,
    depth: Depth,
    /// The best so far, in no order.
    best: Vec<Scored>,
    /// Scores that none of the rows that are kept is above, and none of the nearest.
    bound: f32,
    nearest: f32,
}

/// A row's score, and the row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// As [`Progress::kth`]: smaller is better, the squared distance for cosine and L2, the negated inner product for the
    /// dot product.
    pub score: f32,
    /// The squared distance to the query; under the dot product that is not the score.
    pub apart: f32,
    /// The position of its list.
    pub position: u32,
    /// The row.
    pub row: u32,
    /// What its codes say, if there are codes.
    pub codes: Option<Estimated>,
}

impl Scored {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(self.row.cmp(&other.row))
    }

    /// The lower bound of the score by codes.
    fn low(&self, epsilon: f32) -> f32 {
        self.codes.map_or(f32::NEG_INFINITY, |codes| codes.estimate - epsilon * codes.deviation)
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
    /// For a query's vector (normalised for cosine), and the position of the list that it is a row of: that list's
    /// centroid has the row in it, and is nearer to it than to any other query.
    pub fn new(query: Vec<f32>, own: Option<u32>, depth: Depth) -> Self {
        Self { query, own, depth, best: Vec::new(), bound: f32::INFINITY, nearest: f32::INFINITY }
    }

    /// The query's vector.
    pub fn query(&self) -> &[f32] {
        &self.query
    }

    /// How many of the best rows are to be known.
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// Rows with larger scores need not be pushed, and those with scores up to [`nearest`](Self::nearest) have to be.
    pub fn bound(&self) -> f32 {
        self.bound
    }

    /// All rows with smaller scores have to be pushed.
    pub fn nearest(&self) -> f32 {
        self.nearest
    }

    /// Sets bounds that are known beforehand: all rows that are to be kept should be within the first one, and the
    /// nearest within the second.
    pub fn set_bounds(&mut self, bound: f32, nearest: f32) {
        (self.bound, self.nearest) = (bound, nearest);
    }

    /// Adds a live row; **not** the row the query is made of.
    #[inline]
    pub fn push(&mut self, scored: Scored) {
        if scored.score <= self.bound {
            self.best.push(scored);
            if self.best.len() >= 2 * self.depth.kept {
                self.keep_best();
            }
        }
    }

    fn keep_best(&mut self) {
        let Depth { kept, nearest, .. } = self.depth;
        if self.best.len() > kept {
            self.best.select_nth_unstable_by(kept - 1, Scored::order);
            self.best.truncate(kept);
            self.bound = self.best[kept - 1].score;
            let (_, nearest, _) = self.best.select_nth_unstable_by(nearest - 1, Scored::order);
            self.nearest = nearest.score;
        }
    }

    /// Sorts what is kept.
    fn settle(&mut self) {
        self.keep_best();
        self.best.sort_unstable_by(Scored::order);
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

    /// Adds the scores of a list, but for those that codes refuse, in the order in which a search measures them: by row;
    /// where there is no k-th best yet, the k most promising rows before the others.
    fn merge(&mut self, list: &[Scored], epsilon: f32) {
        if self.kth().is_some() || list.len() <= self.k {
            list.iter().for_each(|scored| self.add(scored, epsilon));
            return;
        }
        let mut rows = list.to_vec();
        rows.select_nth_unstable_by(self.k - 1, |a, b| a.low(epsilon).total_cmp(&b.low(epsilon)));
        let (promising, others) = rows.split_at_mut(self.k);
        others.sort_unstable_by_key(|scored| scored.row);
        promising.iter().chain(&*others).for_each(|scored| self.add(scored, epsilon));
    }

    fn add(&mut self, scored: &Scored, epsilon: f32) {
        if self.kth().is_some_and(|kth| scored.score >= kth || scored.low(epsilon) > kth) {
            return;
        }
        self.sorted.truncate(self.k - 1);
        let at = self.sorted.partition_point(|&other| other <= scored.score);
        self.sorted.insert(at, scored.score);
    }

    fn kth(&self) -> Option<f32> {
        self.sorted.get(self.k - 1).copied()
    }

    /// The recall of what was seen: how many results are as good as the true k-th.
    fn recall(&self, truth: &[f32]) -> f32 {
        let wanted = truth.len().min(self.k);
        let Some(&worst) = truth[..wanted].last() else { return 1.0 };
        self.sorted.iter().take(wanted).filter(|&&score| score <= worst).count() as f32 / wanted as f32
    }
}

/// The recall of one query as a staircase: (from this t on, this recall), by rising t.
type Staircase = Vec<(f32, f32)>;

/// The outcome of one query: for each k and each epsilon. Empty for the k that it is not deep enough for.
type Outcome = [[Staircase; EPSILONS.len()]; StopTable::KS.len()];

/// Calibrates the stop rule for a table on some sample queries (a thousand or more; fewer give larger t).
///
/// Each query has its best rows, as its [`Depth`] says: the nearest of all, and most of those that are kept. Duplicates of the query may be among them: a result
/// is right when its score is as good as the true k-th, whichever of several equal rows it is. Queries without rows are
/// left out.
///
/// An entry's epsilon is the smallest at which codes cost at most the share `SHARE_OF_CODES` of what the target allows to
/// miss. Its t is the smallest at which the 95 % lower confidence bound of the mean recall reaches the
/// target; where the sample is too small to show it, the largest t that any sample query needed (dot product:
/// 1, which misses nothing). The bound is the normal one with one more query that misses one result, so that a
/// sample without misses does not pass for certainty.
///
/// Cost: a distance to every centroid and a sort of them for each query, whatever the number of rows; queries run in
/// parallel. Deterministic.
///
/// # Panics
/// When a row is of a list that the table does not have.
pub fn calibrate(centroids: &Centroids, metric: Metric, queries: Vec<Scores>) -> StopTable {
    let entries = entries(centroids, metric, queries);
    StopTable::new(metric, entries.into_iter().map(|(entry, _)| entry).collect())
}

/// As [`calibrate`], on queries that are no rows, as those who search have given them. Where these are too few to show
/// that a target is reached, what comes of them is at least as careful as what comes of `rows`, which are sample rows.
pub fn calibrate_on(
    centroids: &Centroids,
    metric: Metric,
    queries: Vec<Scores>,
    rows: Vec<Scores>,
) -> StopTable {
    let mut table = calibrate(centroids, metric, rows).entries().to_vec();
    for (given, is_shown) in entries(centroids, metric, queries) {
        let key = |entry: &StopEntry| (entry.k, entry.recall.to_bits());
        match table.iter_mut().find(|entry| key(entry) == key(&given)) {
            Some(entry) if is_shown => *entry = given,
            Some(entry) => {
                entry.t = entry.t.max(given.t);
                entry.epsilon = entry.epsilon.max(given.epsilon);
            }
            None => table.push(given),
        }
    }
    StopTable::new(metric, table)
}

/// An entry for each k and target, and whether the queries are enough to show that it reaches the target.
fn entries(centroids: &Centroids, metric: Metric, queries: Vec<Scores>) -> Vec<(StopEntry, bool)> {
    let outcomes: Vec<(Outcome, Option<Outcome>)> = queries
        .into_par_iter()
        .filter(|scores| !scores.best.is_empty())
        .map(|mut scores| outcomes_of(centroids, metric, &mut scores))
        .collect();
    let mut entries = Vec::new();
    for (index, &k) in StopTable::KS.iter().enumerate() {
        let is_deep = |outcome: &Outcome| outcome[index].iter().all(|stairs| !stairs.is_empty());
        let of_k: Vec<_> = outcomes.iter().filter(|(with, _)| is_deep(with)).collect();
        if of_k.is_empty() {
            continue;
        }
        let with: Vec<_> = of_k.iter().map(|(with, _)| &with[index]).collect();
        let mut found = entries_for(metric, k, &with);
        if of_k.iter().any(|(_, without)| without.is_some()) {
            let without: Vec<_> =
                of_k.iter().map(|(with, without)| &without.as_ref().unwrap_or(with)[index]).collect();
            for ((entry, is_shown), (other, other_is)) in
                found.iter_mut().zip(entries_for(metric, k, &without))
            {
                entry.t = entry.t.max(other.t);
                entry.epsilon = entry.epsilon.max(other.epsilon);
                *is_shown &= other_is;
            }
        }
        entries.extend(found);
    }
    entries
}

/// What becomes of a query among all rows, and among those that are no copies of it, if there are copies.
fn outcomes_of(centroids: &Centroids, metric: Metric, scores: &mut Scores) -> (Outcome, Option<Outcome>) {
    scores.settle();
    let among = |left_out: &[Scored], rows: Vec<Scored>| {
        let sample = Sample::new(scores, left_out, rows);
        match metric {
            Metric::Cosine | Metric::L2 => by_distance(centroids, &sample),
            Metric::Dot => by_bound(centroids, &sample),
        }
    };
    let spread = scores.own.map(|own| centroids.spreads()[own as usize]);
    let copy = spread.map_or(f32::NEG_INFINITY, |spread| reach_of_copies(scores, spread));
    let (copies, others): (Vec<_>, Vec<_>) =
        scores.best.iter().copied().partition(|scored| scored.apart < copy);
    let without = (!copies.is_empty() && !others.is_empty()).then(|| among(&copies, others));
    (among(&[], scores.best.clone()), without)
}

/// Rows that are nearer to a query (squared) are copies of it, more or less; its list has this spread.
fn reach_of_copies(scores: &Scores, spread: f32) -> f32 {
    let mut nearest: Vec<f32> = scores.best.iter().map(|scored| scored.apart).collect();
    nearest.sort_unstable_by(f32::total_cmp);
    nearest.truncate(scores.depth.most_before_gap() + 1);
    let gap = nearest.windows(2).rfind(|pair| pair[1] > GAP * pair[0]);
    gap.map_or(0.0, |pair| pair[1]).max(COPY * spread)
}

/// A query, what is right for it, and the best rows that count.
struct Sample<'a> {
    query: &'a [f32],
    ks: &'static [u32],
    /// The lists of the rows that do not count: its own, and those of its copies, sorted.
    left_out: Vec<u32>,
    truth: Vec<f32>,
    /// The rows that count, by list and number.
    rows: Vec<Scored>,
}

impl<'a> Sample<'a> {
    /// Without some of the best rows, with the others, which are sorted.
    fn new(scores: &'a Scores, copies: &[Scored], mut rows: Vec<Scored>) -> Self {
        let mut left_out: Vec<u32> = copies.iter().map(|copy| copy.position).chain(scores.own).collect();
        left_out.sort_unstable();
        let truth = rows.iter().take(scores.depth.deepest as usize).map(|scored| scored.score).collect();
        rows.sort_unstable_by_key(|row| (row.position, row.row));
        Self { query: &scores.query, ks: scores.depth.ks(), left_out, truth, rows }
    }

    /// The lists of which rows are left out, and by which factor they would be farther away without these: without m of n
    /// rows, which are where the query is, a centroid would be n / (n − m) times as far from it.
    fn farther(&self, centroids: &Centroids) -> impl Iterator<Item = (u32, f32)> {
        self.left_out.chunk_by(|a, b| a == b).filter_map(|left_out| {
            let (rows, left_out, list) =
                (centroids.rows()[left_out[0] as usize], left_out.len() as u32, left_out[0]);
            (rows > left_out).then(|| (list, rows as f32 / (rows - left_out) as f32))
        })
    }

    /// The lists that have any of the best rows.
    fn lists(&self) -> impl Iterator<Item = &[Scored]> {
        self.rows.chunk_by(|a, b| a.position == b.position)
    }
}

/// One visit of all lists for each epsilon. A list is visited by every t that stops neither before it nor before a list
/// ahead of it.
///
/// Only the lists that have some of the best rows are looked at: before the others t does not fall, since the k-th best
/// stays as it is, and so it is largest before the next one of these.
fn by_distance(centroids: &Centroids, sample: &Sample<'_>) -> Outcome {
    let visit = visit(centroids, sample);
    let mut outcome: Outcome = Default::default();
    for (index, epsilon) in EPSILONS.into_iter().enumerate() {
        let mut seen: Vec<_> = sample.ks.iter().map(|&k| (f32::NEG_INFINITY, BestScores::new(k))).collect();
        for (progress, list) in &visit {
            for ((from, seen), outcome) in seen.iter_mut().zip(&mut outcome) {
                *from = from.max(Progress { kth: seen.kth(), ..*progress }.t());
                seen.merge(list, epsilon);
                let recall = seen.recall(&sample.truth);
                let stairs = &mut outcome[index];
                match stairs.last_mut() {
                    Some(last) if last.1 >= recall => {}
                    Some(last) if last.0 == *from => last.1 = recall,
                    _ => stairs.push((*from, recall)),
                }
            }
            let is_done =
                |stairs: &[Staircase; EPSILONS.len()]| stairs[index].last().is_some_and(|last| last.1 >= 1.0);
            if outcome[..seen.len()].iter().all(is_done) {
                break;
            }
        }
    }
    outcome
}

/// The lists that have some of the best rows in the order of the visit, with how it stands before each of them.
fn visit<'a>(centroids: &Centroids, sample: &'a Sample<'_>) -> Vec<(Progress, &'a [Scored])> {
    let priorities = priorities(centroids, sample);
    let mut of_list = vec![&[][..]; centroids.len()];
    sample.lists().for_each(|list| of_list[list[0].position as usize] = list);
    let mut progress = Progress { next: 0.0, first: 0.0, kth: None, rows: 0, lists: 0 };
    let mut visit = Vec::new();
    for step in Route::new(&priorities) {
        progress.next = step.priority;
        if progress.lists == 0 {
            progress.first = step.priority;
        }
        let list = of_list[step.position as usize];
        if !list.is_empty() {
            visit.push((progress, list));
        }
        progress.rows += u64::from(centroids.rows()[step.position as usize]);
        progress.lists += 1;
    }
    visit
}

/// The priorities of all lists, as for a query that is no row.
fn priorities(centroids: &Centroids, sample: &Sample<'_>) -> Vec<f32> {
    let mut priorities = vec![0.0; centroids.len()];
    l2_squared_rows(sample.query, centroids.vectors(), &mut priorities);
    for (list, factor) in sample.farther(centroids) {
        priorities[list as usize] *= factor * factor;
    }
    for (distance, spread) in priorities.iter_mut().zip(centroids.spreads()) {
        *distance = priority(*distance, *spread);
    }
    priorities
}

/// One visit for each t of the grid and each epsilon. Only the lists that have some of the best rows are looked at: the
/// others change nothing that the rule asks for.
fn by_bound(centroids: &Centroids, sample: &Sample<'_>) -> Outcome {
    let bounds = OptimisticBounds::new(centroids, centroids.radii(), sample.query);
    let farther: Vec<(u32, f32)> = sample.farther(centroids).collect();
    let squared = norm_squared(sample.query);
    let product = |position: u32| {
        let product = dot(sample.query, centroids.vector(position));
        let factor = farther.iter().find(|(list, _)| *list == position);
        factor.map_or(product, |(_, factor)| squared + factor * (product - squared))
    };
    let lists: Vec<(f32, &[Scored])> = sample.lists().map(|list| (product(list[0].position), list)).collect();
    let mut outcome: Outcome = Default::default();
    for (step, t) in grid() {
        let mut visit: Vec<(f32, &[Scored])> = lists
            .iter()
            .map(|&(product, list)| (-bounds.at(list[0].position as usize, product, t), list))
            .collect();
        visit.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1[0].position.cmp(&b.1[0].position)));
        let rule = StopRule::new(Metric::Dot, t);
        for (index, epsilon) in EPSILONS.into_iter().enumerate() {
            for (&k, stairs) in sample.ks.iter().zip(&mut outcome) {
                if k > Depth::USUAL.deepest && step % DEEP_STEPS != 0 {
                    continue;
                }
                stairs[index].push((t, replay(&visit, rule, &sample.truth, (k, epsilon))));
            }
        }
    }
    outcome
}

/// The steps of the grid, from 1 on.
fn grid() -> impl Iterator<Item = (u16, f32)> {
    (1..=STEPS).map(|step| (step, (f32::from(step) / f32::from(STEPS)).powi(2)))
}

/// The recall at k of a visit that ends by the rule.
fn replay(visit: &[(f32, &[Scored])], rule: StopRule, truth: &[f32], (k, epsilon): (u32, f32)) -> f32 {
    let mut seen = BestScores::new(k);
    for (lists, &(next, list)) in visit.iter().enumerate() {
        if rule.stops(&Progress { next, first: next, kth: seen.kth(), rows: 0, lists }) {
            break;
        }
        seen.merge(list, epsilon);
    }
    seen.recall(truth)
}

/// As [`entries`], for one k.
fn entries_for(metric: Metric, k: u32, outcomes: &[&[Staircase; EPSILONS.len()]]) -> Vec<(StopEntry, bool)> {
    let of_epsilon = |index: usize| outcomes.iter().map(|stairs| &stairs[index]).collect::<Vec<&Staircase>>();
    let of_epsilon: [_; EPSILONS.len()] = std::array::from_fn(of_epsilon);
    // What is missed when every list is visited is what codes cost.
    let full = |stairs: &&Staircase| f64::from(stairs.last().map_or(1.0, |last| last.1));
    let cost =
        of_epsilon.each_ref().map(|stairs| 1.0 - stairs.iter().map(full).sum::<f64>() / stairs.len() as f64);
    let entry = |recall: f32| {
        let allowed = SHARE_OF_CODES * (1.0 - f64::from(recall));
        let index = cost.iter().position(|cost| *cost <= allowed).unwrap_or(EPSILONS.len() - 1);
        let (t, is_reached) = smallest_t(metric, k, recall, &of_epsilon[index]);
        let are_enough = outcomes.len() as f64 * (1.0 - f64::from(recall)) >= RULE_OF_THREE;
        (StopEntry { k, recall, t, epsilon: EPSILONS[index] }, is_reached && are_enough)
    };
    StopTable::RECALLS.into_iter().map(entry).collect()
}

/// The smallest t of which the sample shows that it reaches a recall; if there is none, the largest, and false.
fn smallest_t(metric: Metric, k: u32, recall: f32, outcomes: &[&Staircase]) -> (f32, bool) {
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
    candidates.get(at).map_or((largest, false), |t| (*t, true))
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
