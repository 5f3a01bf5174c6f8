//! The rows that may be among the best k, by distances that are known within limits.

use std::collections::{BinaryHeap, HashMap};

/// A row of a section, and between which limits its distance is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pooled {
    pub low: f32,
    pub high: f32,
    /// The section, by its place in the query's list of sections.
    pub section: u32,
    pub row: u32,
    /// Where rows count once: what is the same for those that do so together. If it is the same for others too, more
    /// rows than need be are kept.
    pub group: Option<u128>,
}

/// Keeps every row whose lower limit is not above the k-th smallest upper limit.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    k: usize,
    rows: Vec<Pooled>,
    /// The k smallest upper limits, the largest first.
    highs: BinaryHeap<Ordered>,
    /// Where rows count once: the smallest upper limit of each group.
    groups: HashMap<u128, f32>,
    /// A distance beyond which nothing is wanted.
    limit: f32,
    /// The smallest upper limit.
    nearest: f32,
    bound: f32,
    /// How many groups there were when the bound was computed last.
    settled: usize,
}

/// A float32 in its order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Pool {
    /// Empties it, for the best k of those within a limit.
    pub(crate) fn reset(&mut self, k: usize, limit: f32) {
        self.k = k;
        self.rows.clear();
        self.highs.clear();
        self.groups.clear();
        (self.limit, self.nearest, self.bound) = (limit, f32::INFINITY, f32::INFINITY);
        self.settled = 0;
    }

    /// How many rows are wanted. Of those within a limit, nobody knows.
    pub(crate) fn k(&self) -> Option<usize> {
        (self.limit == f32::INFINITY).then_some(self.k)
    }

    /// The k-th smallest upper limit, or the limit of all: nothing above it is among the best k. As long as nothing is
    /// within the limit, the nearest row, as if that was what is wanted: a limit says nothing about how far to look.
    pub(crate) fn bound(&self) -> f32 {
        self.bound
    }

    /// Whether there is a bound.
    pub(crate) fn is_full(&self) -> bool {
        self.bound < f32::INFINITY
    }

    /// How many rows are certainly as near as the bound: where rows count once, more than are wanted.
    pub(crate) fn near(&self) -> usize {
        self.rows.iter().filter(|row| row.high <= self.bound).count()
    }

    /// Adds a row, unless it can not be among the best k.
    pub(crate) fn push(&mut self, row: Pooled) {
        if row.low > self.bound {
            return;
        }
        self.rows.push(row);
        match row.group {
            Some(group) => self.count_group(group, row.high),
            None => self.count_row(row.high),
        }
        self.nearest = self.nearest.min(row.high);
        self.bound = self.bound.min(self.limit.max(self.nearest));
    }

    fn count_row(&mut self, high: f32) {
        if self.highs.len() < self.k {
            self.highs.push(Ordered(high));
        } else if let Some(mut worst) = self.highs.peek_mut()
            && high < worst.0
        {
            worst.0 = high;
        }
        if self.highs.len() == self.k
            && let Some(worst) = self.highs.peek()
        {
            self.bound = self.bound.min(worst.0);
        }
    }

    fn count_group(&mut self, group: u128, high: f32) {
        let best = self.groups.entry(group).or_insert(high);
        *best = best.min(high);
        // Computing the bound costs as much as there are groups, so it is done now and then.
        if self.groups.len() >= self.k && self.groups.len() >= self.settled + self.settled / 4 {
            let mut highs: Vec<f32> = self.groups.values().copied().collect();
            let (_, kth, _) = highs.select_nth_unstable_by(self.k - 1, f32::total_cmp);
            self.bound = self.bound.min(*kth);
            let bound = self.bound;
            self.groups.retain(|_, high| *high <= bound);
            self.settled = self.groups.len();
        }
    }

    /// The rows that may be among the best k.
    pub(crate) fn settle(&mut self) -> &[Pooled] {
        let bound = self.bound;
        self.rows.retain(|row| row.low <= bound);
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is among the best row of each of the best k groups stays, and k groups are enough for a bound.
        #[test]
        fn the_best_of_the_best_k_groups_stay(
            rows in prop::collection::vec((0_u8..200, 0_u8..20, 0_u128..12), 0..300),
            k in 1_usize..20,
            grouped: bool,
            merged in 1_u128..12,
            limit in prop_oneof![Just(f32::INFINITY), (0_u8..250).prop_map(f32::from)],
        ) {
            let mut pool = Pool::default();
            pool.reset(k, limit);
            let group_of = |row: usize| if grouped { rows[row].2 } else { row as u128 };
            for (row, (low, width, group)) in rows.iter().enumerate() {
                let (low, high) = (f32::from(*low), f32::from(*low) + f32::from(*width));
                // Groups that are taken for one only make the bound larger.
                let group = grouped.then_some(group % merged);
                pool.push(Pooled { low, high, section: 0, row: row as u32, group });
            }
            let mut highs = HashMap::<u128, u16>::new();
            for (row, (low, width, _)) in rows.iter().enumerate() {
                let high = u16::from(*low) + u16::from(*width);
                highs.entry(group_of(row)).and_modify(|best| *best = high.min(*best)).or_insert(high);
            }
            let mut highs: Vec<u16> = highs.into_values().collect();
            highs.sort_unstable();
            let kth = highs.get(k - 1).map_or(f32::INFINITY, |high| f32::from(*high));
            let wanted = kth.min(limit);
            prop_assert!(pool.bound() >= wanted, "{} is less than {wanted}", pool.bound());
            let merged_groups: std::collections::HashSet<_> =
                (0..rows.len()).map(|row| if grouped { group_of(row) % merged } else { row as u128 }).collect();
            let is_full = merged_groups.len() >= k || (limit < f32::INFINITY && !rows.is_empty());
            prop_assert_eq!(pool.is_full(), is_full);
            let kept: Vec<u32> = pool.settle().iter().map(|pooled| pooled.row).collect();
            for (row, (low, ..)) in rows.iter().enumerate() {
                prop_assert!(f32::from(*low) > wanted || kept.contains(&(row as u32)), "row {row} is gone");
            }
        }
    }
}
