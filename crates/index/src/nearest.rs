//! The nearest of k vectors by squared distance, for many rows at once, by the blocked matrix product.
//!
//! |x − c|² is compared as |c|² − 2⟨x, c⟩, which loses digits where the data sits far from the origin; so
//! everything is first moved to the mean of the k vectors.

use plimsoll_kernels::{dot_matrix, norm_squared};
use rayon::prelude::*;

/// Rows of one unit of parallel work; a row's result does not depend on it.
const ROW_BLOCK: usize = 128;
/// Candidate vectors multiplied at a time, so that the products stay in the second-level cache.
const PANEL: usize = 512;

/// k vectors prepared for [`NearestOf::assign`].
#[derive(Clone)]
pub(crate) struct NearestOf {
    origin: Vec<f32>,
    centred: Vec<f32>,
    norms: Vec<f32>,
}

/// The nearest vector of a row.
#[derive(Clone, Copy)]
pub(crate) struct Nearest {
    /// Its position; the lowest among equals.
    pub(crate) position: u32,
    /// The squared distance to it, up to rounding.
    pub(crate) distance: f32,
}

/// The mean of some rows, summed in `f64`.
pub(crate) fn mean_of<'a>(rows: impl Iterator<Item = &'a [f32]>, dim: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dim];
    let mut count = 0_usize;
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        count += 1;
    }
    let scale = 1.0 / count.max(1) as f64;
    sums.into_iter().map(|sum| (sum * scale) as f32).collect()
}

impl NearestOf {
    /// Prepares k × `dim` vectors, around their mean.
    pub(crate) fn new(dim: usize, vectors: &[f32]) -> Self {
        Self::around(mean_of(vectors.chunks_exact(dim), dim), vectors)
    }

    /// Prepares k vectors around a given origin.
    pub(crate) fn around(origin: Vec<f32>, vectors: &[f32]) -> Self {
        let mut centred = Vec::with_capacity(vectors.len());
        centre_onto(vectors, &origin, &mut centred);
        let norms = centred.chunks_exact(origin.len()).map(norm_squared).collect();
        Self { origin, centred, norms }
    }

    pub(crate) fn dim(&self) -> usize {
        self.origin.len()
    }

    /// What is subtracted from rows before [`for_each_panel`](Self::for_each_panel).
    pub(crate) fn origin(&self) -> &[f32] {
        &self.origin
    }

    /// The nearest vector of each row, in parallel.
    pub(crate) fn assign(&self, rows: &[f32]) -> Vec<Nearest> {
        let blocks: Vec<Vec<Nearest>> = rows
            .par_chunks(ROW_BLOCK * self.dim())
            .map_init(Scratch::default, |scratch, block| self.assign_block(block, scratch))
            .collect();
        blocks.concat()
    }

    /// The nearest vector of each row.
    pub(crate) fn assign_block(&self, rows: &[f32], scratch: &mut Scratch) -> Vec<Nearest> {
        scratch.rows.clear();
        centre_onto(rows, &self.origin, &mut scratch.rows);
        let best = self.best_of_centred(&scratch.rows, &mut scratch.products);
        let norms = scratch.rows.chunks_exact(self.dim()).map(norm_squared);
        best.into_iter()
            .zip(norms)
            .map(|((score, position), norm)| Nearest { position, distance: (score + norm).max(0.0) })
            .collect()
    }

    /// The lowest score and its vector's position for each row, rows having been moved to the origin. Adding
    /// the squared length of a moved row makes its score the squared distance.
    pub(crate) fn best_of_centred(&self, rows: &[f32], products: &mut Vec<f32>) -> Vec<(f32, u32)> {
        let mut best = vec![(f32::INFINITY, 0_u32); rows.len() / self.dim()];
        self.for_each_panel(rows, products, |first, width, scores| {
            for (best, scores) in best.iter_mut().zip(scores.chunks_exact(width)) {
                for (position, &score) in (first as u32..).zip(scores) {
                    if score < best.0 {
                        *best = (score, position);
                    }
                }
            }
        });
        best
    }

    /// The scores |c|² − 2⟨x, c⟩ of moved rows with all vectors, n × k.
    pub(crate) fn scores_of_centred(&self, rows: &[f32], products: &mut Vec<f32>) -> Vec<f32> {
        let k = self.norms.len();
        let mut all = vec![0.0; rows.len() / self.dim() * k];
        self.for_each_panel(rows, products, |first, width, scores| {
            for (all, scores) in all.chunks_exact_mut(k).zip(scores.chunks_exact(width)) {
                all[first..][..width].copy_from_slice(scores);
            }
        });
        all
    }

    /// The `wanted` nearest vectors of each row, nearest first, one row after another; there must be as many.
    pub(crate) fn nearest_of_block(&self, rows: &[f32], wanted: usize, scratch: &mut Scratch) -> Vec<u32> {
        let k = self.norms.len();
        scratch.rows.clear();
        centre_onto(rows, &self.origin, &mut scratch.rows);
        let scores = self.scores_of_centred(&scratch.rows, &mut scratch.products);
        let mut found = Vec::with_capacity(rows.len() / self.dim() * wanted);
        let mut order: Vec<u64> = Vec::with_capacity(k);
        for scores in scores.chunks_exact(k) {
            order.clear();
            order.extend(scores.iter().zip(0..).map(|(score, at)| order_key(*score, at)));
            if wanted < k {
                order.select_nth_unstable(wanted);
            }
            order[..wanted].sort_unstable();
            found.extend(order[..wanted].iter().map(|key| *key as u32));
        }
        found
    }

    /// As [`nearest_of_block`](Self::nearest_of_block), in parallel, but all there are if there are fewer.
    pub(crate) fn neighbours(&self, rows: &[f32], wanted: usize) -> Vec<Vec<u32>> {
        let wanted = wanted.min(self.norms.len());
        let blocks: Vec<Vec<Vec<u32>>> = rows
            .par_chunks(ROW_BLOCK * self.dim())
            .map_init(Scratch::default, |scratch, block| {
                let found = self.nearest_of_block(block, wanted, scratch);
                found.chunks_exact(wanted).map(<[u32]>::to_vec).collect()
            })
            .collect();
        blocks.concat()
    }

    /// Calls `use_scores(first, width, scores)` for each panel of `width` vectors from `first`, with n × width
    /// scores.
    fn for_each_panel(
        &self,
        rows: &[f32],
        products: &mut Vec<f32>,
        mut use_scores: impl FnMut(usize, usize, &[f32]),
    ) {
        let dim = self.dim();
        for (index, panel) in self.centred.chunks(PANEL * dim).enumerate() {
            let first = index * PANEL;
            let norms = &self.norms[first..][..panel.len() / dim];
            products.clear();
            products.resize(rows.len() / dim * norms.len(), 0.0);
            dot_matrix(rows, panel, dim, products);
            for scores in products.chunks_exact_mut(norms.len()) {
                scores.iter_mut().zip(norms).for_each(|(product, norm)| *product = norm - 2.0 * *product);
            }
            use_scores(first, norms.len(), products);
        }
    }
}

/// A number that orders as the scores do, equal ones by position, which is in its lower half.
fn order_key(score: f32, position: u32) -> u64 {
    let bits = score.to_bits() as i32;
    let ordered = (bits ^ ((bits >> 31) as u32 >> 1) as i32) as u32 ^ 1 << 31;
    u64::from(ordered) << 32 | u64::from(position)
}

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) rows: Vec<f32>,
    pub(crate) products: Vec<f32>,
}

/// Appends `rows`, each minus `origin`.
pub(crate) fn centre_onto(rows: &[f32], origin: &[f32], out: &mut Vec<f32>) {
    for row in rows.chunks_exact(origin.len()) {
        out.extend(row.iter().zip(origin).map(|(value, origin)| value - origin));
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_kernels::l2_squared_f64;

    use super::*;
    use crate::random::Random;

    #[test]
    fn finds_the_nearest_also_far_from_the_origin() {
        let mut random = Random::new(1);
        for offset in [0.0, 1000.0] {
            let dim = 5;
            let mut make =
                |n: usize| -> Vec<f32> { (0..n * dim).map(|_| offset + random.uniform()).collect() };
            let (vectors, rows) = (make(700), make(300));
            let nearest = NearestOf::new(dim, &vectors).assign(&rows);
            for (row, nearest) in rows.chunks_exact(dim).zip(nearest) {
                let distance = |c: &[f32]| l2_squared_f64(row, c);
                let best = vectors.chunks_exact(dim).map(distance).fold(f64::INFINITY, f64::min);
                let found = distance(&vectors[nearest.position as usize * dim..][..dim]);
                assert!(found <= best + 1e-5, "{found} {best}");
                assert!((f64::from(nearest.distance) - found).abs() < 1e-5);
            }
        }
    }
}
