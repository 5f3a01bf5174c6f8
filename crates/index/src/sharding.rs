//! Which lists share a shard: neighbours, up to a number of rows.

use crate::kmeans::{KmeansOptions, train};
use plimsoll_kernels::dot_f64;

/// Groups n lists into shards of neighbouring lists, and returns the shard of each list, numbered from 0
/// without gaps.
///
/// No shard has more than `max_rows_per_shard` rows, except one that is a single list. Sets that are too large
/// are cut across the line between their two 2-means centroids, at the place that shares their rows in
/// proportion to the shards each side will become: balanced hierarchical clustering as in SPANN (NeurIPS
/// 2021, §3.2.1). Cost: about n·`dim`·log(shards). Deterministic for a seed.
///
/// # Panics
/// When `dim` is 0 or `centroids` (n × `dim`) and `rows_per_list` (n) do not fit together.
///
/// ```
/// let centroids = [0.0, 9.0, 0.1, 9.1];
/// let shards = plimsoll_index::sharding::assign_shards(&centroids, 1, &[10; 4], 20, 1);
/// assert_eq!(shards[0], shards[2]);
/// assert_eq!(shards[1], shards[3]);
/// assert_ne!(shards[0], shards[1]);
/// ```
pub fn assign_shards(
    centroids: &[f32],
    dim: usize,
    rows_per_list: &[u32],
    max_rows_per_shard: u64,
    seed: u64,
) -> Vec<u32> {
    assert!(dim > 0 && rows_per_list.len() * dim == centroids.len(), "not one row count for each centroid");
    let mut shards = vec![0; rows_per_list.len()];
    let mut next_shard = 0;
    let mut pending = vec![(0..rows_per_list.len() as u32).collect::<Vec<u32>>()];
    while let Some(mut lists) = pending.pop() {
        let rows = rows_in(&lists, rows_per_list);
        if rows <= max_rows_per_shard || lists.len() < 2 {
            lists.iter().for_each(|&list| shards[list as usize] = next_shard);
            next_shard += u32::from(!lists.is_empty());
            continue;
        }
        sort_along_cut(&mut lists, centroids, dim, seed);
        let parts = rows.div_ceil(max_rows_per_shard.max(1));
        let far = lists.split_off(cut(&lists, rows_per_list, rows * (parts / 2) / parts));
        pending.extend([far, lists]);
    }
    shards
}

fn rows_in(lists: &[u32], rows_per_list: &[u32]) -> u64 {
    lists.iter().map(|&list| u64::from(rows_per_list[list as usize])).sum()
}

/// Where to cut so that the lists before it hold about `wanted` rows, with at least one list on each side.
fn cut(lists: &[u32], rows_per_list: &[u32], wanted: u64) -> usize {
    let mut before = 0;
    let at = lists.iter().position(|&list| {
        before += u64::from(rows_per_list[list as usize]);
        before > wanted
    });
    at.unwrap_or(0).clamp(1, lists.len() - 1)
}

/// Sorts lists by their place on the line between the two 2-means centroids of the set.
fn sort_along_cut(lists: &mut [u32], centroids: &[f32], dim: usize, seed: u64) {
    let vector = |list: u32| &centroids[list as usize * dim..][..dim];
    let vectors: Vec<f32> = lists.iter().flat_map(|&list| vector(list)).copied().collect();
    let two = train(&vectors, dim, 2, KmeansOptions { iterations: 8, seed });
    let (first, second) = two.split_at(dim.min(two.len()));
    if second.is_empty() {
        return;
    }
    let axis: Vec<f32> = first.iter().zip(second).map(|(first, second)| second - first).collect();
    lists.sort_by_cached_key(|&list| (ordered(dot_f64(vector(list), &axis)), list));
}

/// An integer that orders as the number does.
fn ordered(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    fn sizes(shards: &[u32], rows: &[u32]) -> Vec<u64> {
        let mut sizes = vec![0; shards.iter().max().map_or(0, |&last| last as usize + 1)];
        shards.iter().zip(rows).for_each(|(&shard, &rows)| sizes[shard as usize] += u64::from(rows));
        sizes
    }

    #[test]
    fn shards_are_well_filled_and_local() {
        let mut random = Random::new(3);
        let centroids = random.clustered(400, 16, 8, 0.1);
        let rows: Vec<u32> = (0..400).map(|_| 100 + random.below(200) as u32).collect();
        let shards = assign_shards(&centroids, 16, &rows, 12_000, 1);
        let total: u64 = rows.iter().copied().map(u64::from).sum();
        let sizes = sizes(&shards, &rows);
        assert!(sizes.iter().all(|&rows| rows <= 12_000));
        assert!(sizes.len() as u64 <= 2 * total.div_ceil(12_000), "{sizes:?}");
        let spread = |a: usize, b: usize| {
            plimsoll_kernels::l2_squared_f64(&centroids[a * 16..][..16], &centroids[b * 16..][..16])
        };
        let pairs: Vec<(usize, usize)> = (0..4000).map(|_| (random.below(400), random.below(400))).collect();
        let mean = |same: bool| {
            let chosen = pairs.iter().filter(|&&(a, b)| a != b && (shards[a] == shards[b]) == same);
            let distances: Vec<f64> = chosen.map(|&(a, b)| spread(a, b)).collect();
            distances.iter().sum::<f64>() / distances.len() as f64
        };
        assert!(mean(true) < 0.6 * mean(false), "{} {}", mean(true), mean(false));
    }

    proptest! {
        #[test]
        fn every_shard_is_bounded_and_numbered_without_gaps(
            lists in prop::collection::vec((0_u8..5, 0_u32..500), 0..60), max in 0_u64..2000, seed: u64,
        ) {
            let (centroids, rows): (Vec<f32>, Vec<u32>) =
                lists.into_iter().map(|(value, rows)| (f32::from(value), rows)).unzip();
            let shards = assign_shards(&centroids, 1, &rows, max, seed);
            prop_assert_eq!(shards.len(), rows.len());
            for (shard, size) in sizes(&shards, &rows).into_iter().enumerate() {
                let members = shards.iter().filter(|&&other| other as usize == shard).count();
                prop_assert!(members >= 1);
                prop_assert!(size <= max || members == 1);
            }
        }

        #[test]
        fn ordered_integers_order_as_the_numbers(a in -1e9_f64..1e9, b in -1e9_f64..1e9) {
            prop_assert_eq!(ordered(a).cmp(&ordered(b)), a.total_cmp(&b));
        }
    }
}
