//! When a query has seen enough lists, and the table that says how strict to be for a wanted recall.
//!
//! By distance the rule weighs three things: how many rows were visited so far, how much farther the next list is than
//! the first one, and how it compares with the k-th best result. Chosen among a dozen on two data sets, on rows held
//! out for it: at one recall it visits 30 to 45 % fewer rows than the pruning rule of SPANN (§3.3) with the k-th result
//! in the place of the nearest centroid, and 15 to 30 % fewer than the best fixed number of lists, for k of 1, 10 and
//! 100. What it has beyond those rules is the rows so far: queries that are hard for the index are not searched for
//! ever.

use plimsoll_base::Metric;

/// When to stop visiting lists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopRule {
    metric: Metric,
    t: f32,
    /// e to the power t.
    limit: f64,
    max_lists: Option<usize>,
}

/// How a visit stands before its next list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The priority of the next list (see [`Step`](crate::Step)), and of the first one.
    pub next: f32,
    /// The priority of the first list.
    pub first: f32,
    /// The k-th best of the distinct, live, matching results so far, smaller being better: the **squared** distance
    /// for cosine (of normalised vectors) and L2, the **negated** inner product for the dot product. While there are
    /// fewer than k it is `None`, and nothing stops the search.
    pub kth: Option<f32>,
    /// The rows that the visited lists had when the index was trained: what was written since then neither shortens
    /// nor lengthens a visit.
    pub rows: u64,
    /// How many lists were visited.
    pub lists: usize,
}

impl Progress {
    /// Cosine and L2: what t limits, e to the power of it.
    ///
    /// The first list counts as at least half as far as the k-th result: where a few rows lie close together and the
    /// k-th far from them, the first list says nothing about the others.
    fn weight(&self, kth: f32) -> f64 {
        let (next, kth) = (f64::from(self.next), f64::from(kth));
        let first = f64::from(self.first).max(kth / 2.0);
        self.rows as f64 * (next / first).powi(4) * (next / kth).powi(2)
    }

    /// Whether the weight is above a limit, without its divisions.
    #[inline]
    fn outweighs(&self, kth: f32, limit: f64) -> bool {
        let (next, first, kth) = (f64::from(self.next), f64::from(self.first.max(kth / 2.0)), f64::from(kth));
        let (next_squared, first_squared) = (next * next, first * first);
        let next_sixth = next_squared * next_squared * next_squared;
        self.rows as f64 * next_sixth > limit * (first_squared * first_squared) * (kth * kth)
    }

    /// Cosine and L2: the smallest t that does not stop here, within what can be stored.
    pub(crate) fn t(&self) -> f32 {
        match self.kth {
            None => -LARGEST,
            Some(kth) => match self.weight(kth).ln() as f32 {
                t if t.is_nan() => -LARGEST,
                t => t.next_up().clamp(-LARGEST, LARGEST),
            },
        }
    }
}

/// A t that ends no visit before this index is far too large.
const LARGEST: f32 = 1e4;

impl StopRule {
    /// Stops by `t`.
    ///
    /// Cosine and L2: before a list with `rows · (next / first)⁴ · (next / kth)² > eᵗ`, in the words of [`Progress`].
    /// The dot product: before a list whose optimistic bound, taken with the share t ≤ 1 of its radius, is below the
    /// k-th inner product (t = 1: nothing is ever missed). See [`StopTable`] for the right t.
    pub fn new(metric: Metric, t: f32) -> Self {
        Self { metric, t, limit: f64::from(t).exp(), max_lists: None }
    }

    /// Visits every list, unless [`max_lists`](Self::max_lists) caps them.
    pub fn never(metric: Metric) -> Self {
        Self { limit: f64::INFINITY, ..Self::new(metric, conservative(metric)) }
    }

    /// Also stops after `lists` lists, as soon as there are k results.
    #[must_use]
    pub fn max_lists(mut self, lists: usize) -> Self {
        self.max_lists = Some(lists);
        self
    }

    /// The parameter; [`Centroids::route`](crate::Centroids::route) wants it too.
    pub fn t(&self) -> f32 {
        self.t
    }

    /// Whether to stop before visiting the next list.
    #[inline]
    pub fn stops(&self, progress: &Progress) -> bool {
        let Some(kth) = progress.kth else { return false };
        if self.max_lists.is_some_and(|lists| progress.lists >= lists) {
            return true;
        }
        match self.metric {
            Metric::Cosine | Metric::L2 => progress.outweighs(kth, self.limit),
            Metric::Dot => progress.next > kth && self.limit < f64::INFINITY,
        }
    }
}

/// The t that misses nothing: every list for cosine and L2, the whole radius for the dot product.
fn conservative(metric: Metric) -> f32 {
    match metric {
        Metric::Cosine | Metric::L2 => f32::INFINITY,
        Metric::Dot => 1.0,
    }
}

/// What to use for t to reach one recall at one k.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopEntry {
    /// Results asked for.
    pub k: u32,
    /// The recall that t reaches, as a lower confidence bound on the calibration sample.
    pub recall: f32,
    /// The parameter of [`StopRule::new`].
    pub t: f32,
    /// How many standard deviations a bound by codes has to be below the estimate.
    pub epsilon: f32,
}

/// t for recall targets and k, as calibrated; plain data that the engine stores with the index generation.
#[derive(Debug, Clone, PartialEq)]
pub struct StopTable {
    metric: Metric,
    entries: Vec<StopEntry>,
}

impl StopTable {
    /// The recall targets of a calibration.
    pub const RECALLS: [f32; 9] = [0.80, 0.85, 0.90, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999];
    /// The k of a calibration.
    pub const KS: [u32; 4] = [1, 10, 100, 1000];

    /// From entries in any order, as [`entries`](Self::entries) gave them. Where t or epsilon falls as the recall
    /// rises (noise of the sample) it is raised to stay level.
    pub fn new(metric: Metric, mut entries: Vec<StopEntry>) -> Self {
        entries.sort_by(|a, b| a.k.cmp(&b.k).then(a.recall.total_cmp(&b.recall)));
        for index in 1..entries.len() {
            if entries[index].k == entries[index - 1].k {
                entries[index].t = entries[index].t.max(entries[index - 1].t);
                entries[index].epsilon = entries[index].epsilon.max(entries[index - 1].epsilon);
            }
        }
        Self { metric, entries }
    }

    /// The metric it was calibrated for.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// All entries, by k and then recall.
    pub fn entries(&self) -> &[StopEntry] {
        &self.entries
    }

    /// t for a recall target at k: linear in log k between the calibrated k, and beyond the largest on a parabola; linear in −log(1 − recall) between the calibrated targets. Below the lowest target its
    /// t; above the highest the t that misses nothing. Never falls as the recall rises.
    ///
    /// The confidence bound holds at the calibrated k only: between them t need not be smooth (where k passes
    /// the size of natural clusters, targets were missed by up to 0.05).
    ///
    /// ```
    /// use plimsoll_base::Metric;
    /// use plimsoll_index::{StopEntry, StopTable};
    /// let entry = |k, recall, t| StopEntry { k, recall, t, epsilon: 2.0 };
    /// let entries = vec![entry(1, 0.9, 1.0), entry(100, 0.9, 2.0), entry(1, 0.99, 1.5), entry(100, 0.99, 3.0)];
    /// let table = StopTable::new(Metric::L2, entries);
    /// assert_eq!(table.stop_for(0.9, 10), 1.5);
    /// assert_eq!((table.epsilon_for(0.9, 10), table.epsilon_for(0.999, 10)), (2.0, 4.0));
    /// assert_eq!(table.stop_for(1.0, 10), f32::INFINITY);
    /// ```
    pub fn stop_for(&self, recall: f32, k: usize) -> f32 {
        match self.around(k) {
            // Every search asks: without logarithms for the numbers that were calibrated.
            (_, Some(high)) if high[0].k as usize == k => self.at_recall(high, recall),
            (Some(low), Some(high)) => {
                let log_k = |of: &[StopEntry]| f64::from(of[0].k.max(1)).ln();
                let position = (k.max(1) as f64).ln() - log_k(low);
                let share = position / (log_k(high) - log_k(low));
                between(self.at_recall(low, recall), self.at_recall(high, recall), share)
            }
            (Some(last), None) => self.beyond(recall, k, self.at_recall(last, recall)),
            (None, Some(first)) => self.at_recall(first, recall),
            (None, None) => conservative(self.metric),
        }
    }

    /// t for k beyond the largest calibrated one, whose t is `last`: on the parabola through the three largest, as far as
    /// it bends upwards.
    fn beyond(&self, recall: f32, k: usize, last: f32) -> f32 {
        let rows: Vec<&[StopEntry]> = self.rows().collect();
        let [earlier @ .., before, largest] = &rows[..] else { return last };
        let x = |of: &[StopEntry]| f64::from(of[0].k.max(1)).ln();
        let slope = |low: &[StopEntry], high: &[StopEntry], recall| {
            let t = |of: &[StopEntry]| f64::from(self.at_recall(of, recall));
            (t(high) - t(low)) / (x(high) - x(low))
        };
        let (far, farther) = ((k as f64).ln() - x(largest), (k as f64).ln() - x(before));
        let rise = |recall| {
            let slope_here = slope(before, largest, recall);
            let bend = earlier
                .last()
                .map_or(0.0, |first| (slope_here - slope(first, before, recall)) / (x(largest) - x(first)));
            far * slope_here + far * farther * bend.max(0.0)
        };
        // The largest rise of all recalls up to this one, so that t does not fall as the recall rises.
        let recalls =
            largest.iter().map(|entry| entry.recall).filter(|lower| *lower < recall).chain([recall]);
        let rise = recalls.map(rise).filter(|rise| rise.is_finite()).fold(0.0, f64::max);
        ((f64::from(last) + rise) as f32).min(conservative(self.metric))
    }

    /// Epsilon for a recall target at k: that of the next calibrated targets at the k on either side, whichever is
    /// larger; beyond the highest target, one that misses next to nothing.
    pub fn epsilon_for(&self, recall: f32, k: usize) -> f32 {
        const MOST: f32 = 4.0;
        let at = |row: &[StopEntry]| {
            row.iter().find(|entry| entry.recall >= recall).map_or(MOST, |entry| entry.epsilon)
        };
        let (low, high) = self.around(k);
        low.into_iter().chain(high).map(at).reduce(f32::max).unwrap_or(MOST)
    }

    /// The entries of each calibrated k, by recall; never none.
    fn rows(&self) -> impl Iterator<Item = &[StopEntry]> {
        self.entries.chunk_by(|a, b| a.k == b.k)
    }

    /// Those of the last calibrated k that is less than this one, and of the first that is not.
    fn around(&self, k: usize) -> (Option<&[StopEntry]>, Option<&[StopEntry]>) {
        let mut low = None;
        for row in self.rows() {
            if row[0].k as usize >= k {
                return (low, Some(row));
            }
            low = Some(row);
        }
        (low, None)
    }

    fn at_recall(&self, row: &[StopEntry], recall: f32) -> f32 {
        let after = row.partition_point(|entry| entry.recall < recall);
        let nines = |recall: f32| -(1.0 - f64::from(recall)).max(1e-9).ln();
        match (after.checked_sub(1).map(|before| row[before]), row.get(after)) {
            (_, None) => conservative(self.metric),
            (None, Some(first)) => first.t,
            (_, Some(high)) if high.recall == recall => high.t,
            (Some(low), Some(high)) => {
                let share = (nines(recall) - nines(low.recall)) / (nines(high.recall) - nines(low.recall));
                between(low.t, high.t, share)
            }
        }
    }
}

/// Linear from `low` (share 0) to `high` (share 1), also where one of them is infinite.
fn between(low: f32, high: f32, share: f64) -> f32 {
    if share <= 0.0 || low == high {
        low
    } else if share >= 1.0 || high.is_infinite() {
        high
    } else if low.is_infinite() {
        low
    } else {
        (f64::from(low) + (f64::from(high) - f64::from(low)) * share) as f32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_stops_where_the_weight_is_above_its_limit() {
        let values = [0.0, 1e-30, 0.3, 1.0, 7.5, 1e12, f32::MAX];
        let (mut stopped, mut went_on) = (0, 0);
        let pick = |number: usize, power: u32| values[number / values.len().pow(power) % values.len()];
        for number in 0..values.len().pow(3) {
            let (next, first, kth) = (pick(number, 0), pick(number, 1), pick(number, 2));
            for (rows, t) in [(1, -3.0), (150, 4.0), (4000, 9.0), (1 << 40, 30.0), (77, f32::INFINITY)] {
                let progress = Progress { next, first, kth: Some(kth), rows, lists: 1 };
                let rule = StopRule::new(Metric::L2, t);
                let (weight, limit) = (progress.weight(kth), rule.limit);
                // Within rounding either is right.
                if weight.is_nan() || (weight / limit - 1.0).abs() < 1e-12 {
                    continue;
                }
                assert_eq!(rule.stops(&progress), weight > limit, "{progress:?}, {t}");
                *if weight > limit { &mut stopped } else { &mut went_on } += 1;
            }
        }
        assert!(stopped > 100 && went_on > 100, "{stopped}, {went_on}");
    }

    fn progress(next: f32, kth: Option<f32>, lists: usize) -> Progress {
        Progress { next, first: 2.0, kth, rows: 100, lists }
    }

    #[test]
    fn nothing_stops_before_there_are_k_results() {
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            assert!(!StopRule::new(metric, 0.5).max_lists(1).stops(&progress(f32::MAX, None, 1000)));
        }
    }

    #[test]
    fn the_rule_is_the_documented_one() {
        // 100 · (3 / 2)⁴ · (3 / 1)² = 4556.25
        let before = progress(3.0, Some(1.0), 9);
        let t = 4556.25_f32.ln();
        assert!(!StopRule::new(Metric::L2, t + 1e-3).stops(&before));
        assert!(StopRule::new(Metric::L2, t - 1e-3).stops(&before));
        assert!(StopRule::new(Metric::L2, t + 1e-3).max_lists(9).stops(&before));
        assert!((before.t() - t).abs() < 1e-4 && !StopRule::new(Metric::L2, before.t()).stops(&before));
        let rule = StopRule::new(Metric::Dot, 0.3);
        assert!(!rule.stops(&progress(-5.0, Some(-5.0), 9)));
        assert!(rule.stops(&progress(-4.9, Some(-5.0), 9)));
        for metric in [Metric::L2, Metric::Dot] {
            assert!(!StopRule::never(metric).stops(&progress(f32::MAX, Some(0.1), 1_000_000)));
            assert!(StopRule::never(metric).max_lists(3).stops(&progress(0.0, Some(9.0), 3)));
        }
    }

    #[test]
    fn duplicates_stop_and_do_not_overflow() {
        let rule = StopRule::new(Metric::L2, 10.0);
        assert!(rule.stops(&progress(1.0, Some(0.0), 1)), "nothing is nearer than 0");
        assert!(!rule.stops(&progress(0.0, Some(0.0), 1)), "the next list may have as near rows");
        let zero = Progress { first: 0.0, ..progress(1.0, Some(1.0), 1) };
        assert!(!rule.stops(&zero), "a first list at 0 is no reason to stop when the k-th is far from it");
        for kth in [0.0, f32::MIN_POSITIVE, 1e30] {
            assert!(progress(1e30, Some(kth), 1).t().abs() <= LARGEST);
        }
    }

    #[test]
    fn an_empty_table_misses_nothing() {
        assert_eq!(StopTable::new(Metric::L2, Vec::new()).stop_for(0.9, 10), f32::INFINITY);
        assert_eq!(StopTable::new(Metric::Dot, Vec::new()).stop_for(0.8, 3), 1.0);
    }

    #[test]
    fn beyond_the_largest_k_it_goes_on_rising_but_does_not_fall() {
        let table = |metric, ts: &[[f32; 2]]| {
            let entry = |k, recall, t| StopEntry { k, recall, t, epsilon: 2.0 };
            let of_k = |(k, [low, high]): (u32, &[f32; 2])| [entry(k, 0.8, *low), entry(k, 0.9, *high)];
            StopTable::new(metric, [1, 10, 100].into_iter().zip(ts).flat_map(of_k).collect())
        };
        let rising = table(Metric::L2, &[[5.0, 5.0], [4.0, 6.0], [3.0, 8.0]]);
        assert_eq!([0.8, 0.9].map(|recall| rising.stop_for(recall, 1000)), [3.0, 11.0]);
        // 1, 2, 4 is (x² + x) / 2 + 1.
        let bent = table(Metric::L2, &[[1.0; 2], [2.0; 2], [4.0; 2]]);
        assert_eq!([1000, 10_000].map(|k| bent.stop_for(0.9, k)), [7.0, 11.0]);
        let dot = table(Metric::Dot, &[[0.1; 2], [0.2; 2], [0.4; 2]]);
        assert_eq!(dot.stop_for(0.9, 1_000_000), 1.0, "the whole radius is enough");
    }

    proptest! {
        #[test]
        fn t_never_falls_as_the_recall_rises(
            ts in prop::collection::vec(prop_oneof![0.1_f32..3.0, Just(f32::INFINITY)], 36),
            mut recalls in prop::collection::vec(0.5_f32..=1.0, 20),
            k in 1_usize..200_000,
        ) {
            let keys = StopTable::KS.iter().flat_map(|&k| StopTable::RECALLS.map(|recall| (k, recall)));
            let entries = keys.zip(ts).map(|((k, recall), t)| StopEntry { k, recall, t, epsilon: t.min(4.0) }).collect();
            let table = StopTable::new(Metric::L2, entries);
            recalls.sort_by(f32::total_cmp);
            let found: Vec<f32> = recalls.iter().map(|&recall| table.stop_for(recall, k)).collect();
            prop_assert!(found.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", found);
            prop_assert!(found.iter().all(|t| !t.is_nan()));
            prop_assert_eq!(StopTable::new(Metric::L2, table.entries().to_vec()), table);
        }
    }
}
