//! A small inverted file in memory, for the tests of routing, stopping and calibration.

use plimsoll_base::{ListId, Metric, ShardId};
use plimsoll_kernels::{dot, l2_squared};

use crate::centroids::Centroids;
use crate::kmeans::{KmeansOptions, train};
use crate::route::Step;
use crate::stop::StopRule;

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

impl InvertedFile {
    pub(crate) fn new(rows: Vec<f32>, dim: usize, lists: usize) -> Self {
        let bare = table(train(&rows, dim, lists, KmeansOptions::default()), dim, None);
        let positions = bare.assign(&rows);
        let radii = bare.radii_for(&rows, &positions);
        let centroids = table(bare.vectors().to_vec(), dim, Some(radii));
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
        let mut visited = 0;
        for Step { position, priority } in self.centroids.route(query, metric, rule.t()) {
            if rule.stops(priority, best.get(k - 1).copied(), visited) {
                break;
            }
            best.extend(self.lists[position as usize].iter().map(|&row| score(metric, query, self.row(row))));
            best.sort_by(f32::total_cmp);
            best.truncate(k);
            visited += 1;
        }
        (best, visited)
    }
}

/// The share of `exact` that `found` has, counting equal scores as equal results.
pub(crate) fn recall(found: &[f32], exact: &[f32]) -> f64 {
    let Some(&worst) = exact.last() else { return 1.0 };
    found.iter().filter(|&&score| score <= worst).count() as f64 / exact.len() as f64
}
