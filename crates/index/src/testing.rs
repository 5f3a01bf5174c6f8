//! A small inverted file in memory, for the tests of routing, stopping and calibration.

use plimsoll_base::{ListId, Metric, ShardId};
use plimsoll_kernels::{dot, l2_squared};

use crate::centroids::Centroids;
use crate::kmeans::{KmeansOptions, train};
use crate::route::Step;
use crate::stop::{Progress, StopRule};

pub(crate) struct InvertedFile {
    pub(crate) dim: usize,
    pub(crate) rows: Vec<f32>,
    pub(crate) centroids: Centroids,
    pub(crate) positions: Vec<u32>,
    lists: Vec<Vec<u32>>,
}

pub(crate) fn table(vectors: Vec<f32>, dim: usize, radii: Option<Vec<f32>>) -> Centroids {
    let n = vectors.len() / dim;
    let ids = (0..n as u32).map(|id| ListId(id + 10)).collect();
    Centroids::new(dim, ids, vec![ShardId(0); n], vectors, radii.unwrap_or_else(|| vec![0.0; n])).unwrap()
}

/// The score of a row: smaller is better, as for the stop rule.
pub(crate) fn score(metric: Metric, query: &[f32], row: &[f32]) -> f32 {
    match metric {
        Metric::Cosine | Metric::L2 => l2_squared(query, row),
        Metric::Dot => -dot(query, row),
    }
}

/// The mean squared distance of each list's rows to its centroid.
fn spreads_of(centroids: &Centroids, rows: &[f32], positions: &[u32]) -> Vec<f32> {
    let mut sums = vec![(0.0, 0); centroids.len()];
    for (row, &position) in rows.chunks_exact(centroids.dim()).zip(positions) {
        let (sum, count) = &mut sums[position as usize];
        *sum += l2_squared(row, centroids.vector(position));
        *count += 1;
    }
    sums.into_iter().map(|(sum, count)| sum / count.max(1) as f32).collect()
}

impl InvertedFile {
    pub(crate) fn new(rows: Vec<f32>, dim: usize, lists: usize) -> Self {
        let bare = table(train(&rows, dim, lists, KmeansOptions::default()), dim, None);
        let positions = bare.assign(&rows);
        let radii = bare.radii_for(&rows, &positions);
        let mut counts = vec![0; bare.len()];
        positions.iter().for_each(|position| counts[*position as usize] += 1);
        let centroids = table(bare.vectors().to_vec(), dim, Some(radii));
        let spreads = spreads_of(&centroids, &rows, &positions);
        let centroids = centroids.with_statistics(spreads, counts).unwrap();
        let mut lists = vec![Vec::new(); centroids.len()];
        for (row, &position) in (0..).zip(&positions) {
            lists[position as usize].push(row);
        }
        Self { dim, rows, centroids, positions, lists }
    }

    pub(crate) fn row(&self, row: u32) -> &[f32] {
        &self.rows[row as usize * self.dim..][..self.dim]
    }

    /// The k best scores by an exact scan, without one row.
    pub(crate) fn exact(&self, metric: Metric, query: &[f32], k: usize) -> Vec<f32> {
        let mut scores: Vec<f32> =
            self.rows.chunks_exact(self.dim).map(|row| score(metric, query, row)).collect();
        scores.sort_by(f32::total_cmp);
        scores.truncate(k);
        scores
    }

    /// The k best scores by routing and the stop rule, and how many lists were visited.
    pub(crate) fn search(
        &self,
        metric: Metric,
        query: &[f32],
        k: usize,
        rule: StopRule,
    ) -> (Vec<f32>, usize) {
        let mut best: Vec<f32> = Vec::new();
        let mut progress = Progress { next: 0.0, first: 0.0, kth: None, rows: 0, lists: 0 };
        for Step { position, priority } in self.centroids.route(query, metric, rule.t()) {
            if progress.lists == 0 {
                progress.first = priority;
            }
            (progress.next, progress.kth) = (priority, best.get(k - 1).copied());
            if rule.stops(&progress) {
                break;
            }
            best.extend(self.lists[position as usize].iter().map(|&row| score(metric, query, self.row(row))));
            best.sort_by(f32::total_cmp);
            best.truncate(k);
            progress.rows += u64::from(self.centroids.rows()[position as usize]);
            progress.lists += 1;
        }
        (best, progress.lists)
    }
}

/// The share of `exact` that `found` has, counting equal scores as equal results.
pub(crate) fn recall(found: &[f32], exact: &[f32]) -> f64 {
    let Some(&worst) = exact.last() else { return 1.0 };
    found.iter().filter(|&&score| score <= worst).count() as f64 / exact.len() as f64
}
