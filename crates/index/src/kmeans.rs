//! K-means: Lloyd's algorithm ("Least Squares Quantization in PCM", 1982) from random distinct rows.
//!
//! A few iterations over about 64 rows a centroid are enough for an inverted file: measured, four of them lose
//! less than 0.5 % of recall to eight over twice the sample. (k-means++ seeding, D. Arthur and S.
//! Vassilvitskii, 2007, costs more than the iterations it saves at hundreds of clusters.)
//!
//! Promises: the same centroids for the same arguments, whatever the number of threads; no two equal
//! centroids; none without a row near it.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::nearest::{Nearest, NearestOf, mean_of};
use crate::random::Random;

/// Rows a list aims at: long enough that visiting lists costs little, short enough to stop early.
pub const TARGET_LIST_ROWS: usize = 150;
/// Below this many rows a collection has no lists: reading all of it is as fast.
pub const MIN_INDEXED_ROWS: usize = 4096;
/// Sample rows a centroid needs.
pub const SAMPLE_ROWS_PER_LIST: usize = 64;

/// How to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KmeansOptions {
    /// Passes over the sample.
    pub iterations: usize,
    /// Where the random choices start.
    pub seed: u64,
}

impl Default for KmeansOptions {
    fn default() -> Self {
        Self { iterations: 4, seed: 0 }
    }
}

/// How many lists a collection of `rows` rows should have; 0 means none: search it exactly.
///
/// ```
/// assert_eq!(plimsoll_index::kmeans::lists_for(4095), 0);
/// assert_eq!(plimsoll_index::kmeans::lists_for(60_000), 400);
/// ```
pub fn lists_for(rows: usize) -> usize {
    if rows < MIN_INDEXED_ROWS { 0 } else { rows.div_ceil(TARGET_LIST_ROWS) }
}

/// `wanted` different row numbers below `n` in increasing order (all of them if `wanted >= n`), each subset
/// equally likely. R. Floyd's algorithm: memory and time grow with `wanted`, not with `n`.
///
/// ```
/// assert_eq!(plimsoll_index::kmeans::sample_rows(3, 5, 1), [0, 1, 2]);
/// assert_eq!(plimsoll_index::kmeans::sample_rows(1_000_000, 5, 1).len(), 5);
/// ```
pub fn sample_rows(n: usize, wanted: usize, seed: u64) -> Vec<usize> {
    if wanted >= n {
        return (0..n).collect();
    }
    let mut random = Random::new(seed);
    let mut chosen = HashSet::with_capacity(wanted);
    for last in n - wanted..n {
        let candidate = random.below(last + 1);
        if !chosen.insert(candidate) {
            chosen.insert(last);
        }
    }
    let mut rows: Vec<usize> = chosen.into_iter().collect();
    rows.sort_unstable();
    rows
}

/// Up to `k` centroids (k × `dim`) of `sample` (n × `dim`), by Euclidean distance.
///
/// Fewer than `k` come back when the sample has fewer distinct rows (they are then the centroids), or when a
/// cluster stays empty. Cost: `iterations`·n·k·`dim` multiply-adds on all threads of the current rayon pool,
/// plus a copy of the centroids; the sample is not copied.
///
/// # Panics
/// When `dim` is 0 or the sample is not whole rows.
///
/// ```
/// use plimsoll_index::kmeans::{KmeansOptions, train};
/// let sample = [0.0, 0.1, 0.2, 9.0, 9.1, 9.2];
/// let mut centroids = train(&sample, 1, 2, KmeansOptions::default());
/// centroids.sort_by(f32::total_cmp);
/// assert!((centroids[0] - 0.1).abs() < 1e-6 && (centroids[1] - 9.1).abs() < 1e-5);
/// ```
pub fn train(sample: &[f32], dim: usize, k: usize, options: KmeansOptions) -> Vec<f32> {
    assert!(dim > 0 && sample.len().is_multiple_of(dim), "{} values are not rows of {dim}", sample.len());
    let mut centroids = first_centroids(sample, dim, k, options.seed);
    if centroids.len() < k * dim || k < 1 {
        return centroids;
    }
    let mut previous: Vec<u32> = Vec::new();
    for _ in 0..options.iterations {
        let nearest = NearestOf::new(dim, &centroids).assign(sample);
        let positions: Vec<u32> = nearest.iter().map(|nearest| nearest.position).collect();
        if positions == previous {
            break;
        }
        centroids = updated(sample, dim, centroids.len() / dim, &nearest);
        previous = positions;
    }
    distinct(&centroids, dim)
}

/// What makes two rows equal: their values, with one zero.
fn key(row: &[f32]) -> Vec<u32> {
    row.iter().map(|value| (value + 0.0).to_bits()).collect()
}

/// `k` distinct rows at random, or all distinct rows if there are fewer.
pub(crate) fn first_centroids(sample: &[f32], dim: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut order: Vec<u32> = (0..(sample.len() / dim) as u32).collect();
    let mut seen = HashSet::new();
    let mut centroids = Vec::new();
    // A Fisher-Yates shuffle, only as far as needed.
    for next in 0..order.len() {
        if seen.len() == k {
            break;
        }
        let other = next + random.below(order.len() - next);
        order.swap(next, other);
        let row = &sample[order[next] as usize * dim..][..dim];
        if seen.insert(key(row)) {
            centroids.extend_from_slice(row);
        }
    }
    centroids
}

fn distinct(centroids: &[f32], dim: usize) -> Vec<f32> {
    let mut seen = HashSet::new();
    centroids.chunks_exact(dim).filter(|row| seen.insert(key(row))).flatten().copied().collect()
}

/// The means of the clusters; an empty cluster restarts at the row farthest from its centroid, or goes.
fn updated(sample: &[f32], dim: usize, k: usize, nearest: &[Nearest]) -> Vec<f32> {
    let members = grouped(nearest.iter().map(|nearest| nearest.position), k);
    let means: Vec<Option<Vec<f32>>> = members
        .par_iter()
        .map(|rows| {
            let rows_of = rows.iter().map(|&row| &sample[row as usize * dim..][..dim]);
            (!rows.is_empty()).then(|| mean_of(rows_of, dim))
        })
        .collect();
    let empty = means.iter().filter(|mean| mean.is_none()).count();
    let mut seeds =
        if empty == 0 { Vec::new() } else { farthest_rows(sample, dim, nearest, empty) }.into_iter();
    means.into_iter().filter_map(|mean| mean.or_else(|| seeds.next())).flatten().collect()
}

/// The row numbers of each of `k` groups, in increasing order.
pub(crate) fn grouped(positions: impl Iterator<Item = u32>, k: usize) -> Vec<Vec<u32>> {
    let mut groups = vec![Vec::new(); k];
    for (row, position) in (0..).zip(positions) {
        groups[position as usize].push(row);
    }
    groups
}

/// Up to `wanted` distinct rows that are farthest from their centroids, and not on them.
fn farthest_rows(sample: &[f32], dim: usize, nearest: &[Nearest], wanted: usize) -> Vec<Vec<f32>> {
    let mut order: Vec<usize> = (0..nearest.len()).filter(|&row| nearest[row].distance > 0.0).collect();
    order.sort_by(|&a, &b| nearest[b].distance.total_cmp(&nearest[a].distance).then(a.cmp(&b)));
    let mut seen = HashSet::new();
    let rows = order.into_iter().map(|row| &sample[row * dim..][..dim]);
    rows.filter(|row| seen.insert(key(row))).take(wanted).map(<[f32]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(sample: &[f32], dim: usize, centroids: &[f32]) -> f64 {
        NearestOf::new(dim, centroids).assign(sample).iter().map(|nearest| f64::from(nearest.distance)).sum()
    }

    #[test]
    fn finds_well_separated_clusters() {
        let sample = Random::new(5).clustered(4000, 16, 20, 0.05);
        let centroids = train(&sample, 16, 40, KmeansOptions { iterations: 10, seed: 1 });
        assert_eq!(centroids.len(), 40 * 16);
        let mean = cost(&sample, 16, &centroids) / 4000.0;
        assert!(mean < 0.5, "mean squared distance {mean}, of 0.04 within clusters and 32 between them");
    }

    #[test]
    fn the_result_depends_on_the_seed_and_not_on_the_threads() {
        let sample = Random::new(6).clustered(3000, 24, 50, 0.3);
        let run = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&sample, 24, 30, KmeansOptions { iterations: 4, seed }))
        };
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let one = bits(run(1, 7));
        assert_eq!(one, bits(run(2, 7)));
        assert_eq!(one, bits(run(5, 7)));
        assert_ne!(one, bits(run(1, 8)));
    }

    #[test]
    fn constant_data_gives_one_centroid_and_no_data_none() {
        assert_eq!(train(&[2.5; 300], 3, 10, KmeansOptions::default()), [2.5; 3]);
        assert_eq!(train(&[], 3, 10, KmeansOptions::default()), []);
        assert_eq!(train(&[1.0; 9], 3, 0, KmeansOptions::default()), []);
    }

    #[test]
    fn empty_clusters_restart_or_go() {
        // Both clusters won by the first centroid: the second restarts at the farthest row.
        let sample = [0.0, 1.0, 10.0];
        let all_first: Vec<Nearest> =
            [0.0, 1.0, 100.0].map(|distance| Nearest { position: 0, distance }).to_vec();
        assert_eq!(updated(&sample, 1, 2, &all_first), [11.0 / 3.0, 10.0]);
        let on_it: Vec<Nearest> = [Nearest { position: 0, distance: 0.0 }; 3].to_vec();
        assert_eq!(updated(&[4.0; 3], 1, 2, &on_it), [4.0]);
    }

    #[test]
    fn list_counts_follow_the_target_size() {
        assert_eq!([0, 4095].map(lists_for), [0, 0]);
        assert_eq!(lists_for(4096), 28);
        assert_eq!(lists_for(1_000_000), 6667);
    }

    proptest! {
        #[test]
        fn samples_are_distinct_sorted_and_in_range(n in 0_usize..500, wanted in 0_usize..600, seed: u64) {
            let rows = sample_rows(n, wanted, seed);
            prop_assert_eq!(rows.len(), n.min(wanted));
            prop_assert!(rows.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(rows.iter().all(|&row| row < n));
        }

        #[test]
        fn centroids_are_distinct_and_at_most_the_distinct_rows(
            rows in prop::collection::vec(0_u8..4, 2..200), k in 1_usize..40, seed: u64,
        ) {
            let sample: Vec<f32> = rows[..rows.len() / 2 * 2].iter().map(|&value| f32::from(value)).collect();
            let distinct_rows = sample.chunks_exact(2).map(key).collect::<HashSet<_>>().len();
            let centroids = train(&sample, 2, k, KmeansOptions { iterations: 4, seed });
            let distinct_centroids = centroids.chunks_exact(2).map(key).collect::<HashSet<_>>().len();
            prop_assert_eq!(distinct_centroids, centroids.len() / 2);
            prop_assert!(distinct_centroids <= k.min(distinct_rows));
            prop_assert!(distinct_centroids >= 1);
            if k >= distinct_rows {
                prop_assert!(cost(&sample, 2, &centroids) < 1e-9);
            }
        }
    }
}
