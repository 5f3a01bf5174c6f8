//! The centroid table of one index generation: which list a row belongs to.
//!
//! Owns the assignment of rows to lists, flat or through a level of super-centroids; routing a query over the
//! same table is `route.rs`. It is built from plain slices, as the engine reads them from an index file, and
//! never changes.

use std::fmt;

use plimsoll_base::{ListId, ShardId};
use plimsoll_kernels::{l2_error, l2_squared, norm_squared};
use rayon::prelude::*;

use crate::kmeans::{KmeansOptions, grouped, train};
use crate::nearest::{NearestOf, Scratch, centre_onto};

/// Up to this many lists, rows are compared with every centroid: measured, the upper level is slower at 300
/// lists, even at 1,000, and takes half the time at 3,000.
const FLAT_LISTS: usize = 1024;
/// Rows that pass the super-centroids together, so that those meeting one group are multiplied together.
const ROW_BLOCK: usize = 1024;

/// The slices given to [`Centroids::new`] do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed centroid table: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Lists with their centroids, radii and shards; positions number the lists from 0 in the given order.
#[derive(Clone)]
pub struct Centroids {
    dim: usize,
    ids: Vec<ListId>,
    shards: Vec<ShardId>,
    vectors: Vec<f32>,
    norms: Vec<f32>,
    radii: Vec<f32>,
    spreads: Vec<f32>,
    rows: Vec<u32>,
    nearest: Option<NearestOf>,
    groups: Option<Groups>,
}

/// The upper level: about √n super-centroids and the lists nearest to each.
#[derive(Clone)]
struct Groups {
    supers: NearestOf,
    members: Vec<Group>,
    probes: usize,
}

#[derive(Clone)]
struct Group {
    positions: Vec<u32>,
    vectors: NearestOf,
}

impl fmt::Debug for Centroids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Centroids({} lists of dimension {})", self.len(), self.dim)
    }
}

impl Centroids {
    /// A table of n lists: `ids`, `shards` and `radii` have n elements, `vectors` n × `dim`. A radius is the
    /// largest distance of a row of the list to its centroid, or anything above it.
    ///
    /// Cost: n·√n·`dim` multiply-adds beyond 1,024 lists, for the upper level.
    ///
    /// # Errors
    /// [`Malformed`] when the lengths don't fit, a centroid is not finite, or a radius is not a number ≥ 0.
    pub fn new(
        dim: usize,
        ids: Vec<ListId>,
        shards: Vec<ShardId>,
        vectors: Vec<f32>,
        radii: Vec<f32>,
    ) -> Result<Self, Malformed> {
        let n = ids.len();
        if dim == 0 || n.checked_mul(dim) != Some(vectors.len()) || u32::try_from(n).is_err() {
            return Err(Malformed("the centroids are not one vector a list"));
        }
        if shards.len() != n {
            return Err(Malformed("not one shard a list"));
        }
        if plimsoll_kernels::first_invalid(&vectors).is_some() {
            return Err(Malformed("a centroid is not finite"));
        }
        let norms = vectors.chunks_exact(dim).map(norm_squared).collect();
        let nearest = (n > 0).then(|| NearestOf::new(dim, &vectors));
        let groups = (n > FLAT_LISTS).then(|| Groups::new(dim, &vectors));
        let (spreads, rows) = (vec![0.0; n], vec![0; n]);
        let bare =
            Self { dim, ids, shards, vectors, norms, radii: vec![0.0; n], spreads, rows, nearest, groups };
        bare.with_radii(radii)
    }

    /// The table with other radii.
    ///
    /// # Errors
    /// [`Malformed`] when there is not one a list, or one is not a number ≥ 0.
    pub fn with_radii(mut self, radii: Vec<f32>) -> Result<Self, Malformed> {
        if radii.len() != self.len() {
            return Err(Malformed("not one radius a list"));
        }
        if radii.iter().any(|radius| radius.is_nan() || *radius < 0.0) {
            return Err(Malformed("a radius is not a number of at least 0"));
        }
        self.radii = radii;
        Ok(self)
    }

    /// The table with what is known of each list's rows: their mean squared distance to the centroid, and how many
    /// there were when the index was trained. Without it both are 0.
    ///
    /// # Errors
    /// [`Malformed`] when the lengths don't fit, or a spread is not a number ≥ 0.
    pub fn with_statistics(mut self, spreads: Vec<f32>, rows: Vec<u32>) -> Result<Self, Malformed> {
        if spreads.len() != self.len() || rows.len() != self.len() {
            return Err(Malformed("not one spread and one count a list"));
        }
        if spreads.iter().any(|spread| spread.is_nan() || *spread < 0.0) {
            return Err(Malformed("a spread is not a number of at least 0"));
        }
        (self.spreads, self.rows) = (spreads, rows);
        Ok(self)
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True of a table without lists.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The lists' ids, by position.
    pub fn ids(&self) -> &[ListId] {
        &self.ids
    }

    /// The lists' shards, by position.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The lists' radii, by position.
    pub fn radii(&self) -> &[f32] {
        &self.radii
    }

    /// The mean squared distances of the lists' rows to their centroids, by position.
    pub fn spreads(&self) -> &[f32] {
        &self.spreads
    }

    /// How many rows the lists had when the index was trained, by position.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// All centroids, n × dim.
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// The squared lengths of the centroids, by position.
    pub fn norms_squared(&self) -> &[f32] {
        &self.norms
    }

    /// The centroid of the list at `position`.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn vector(&self, position: u32) -> &[f32] {
        &self.vectors[position as usize * self.dim..][..self.dim]
    }

    /// The position of the list each row (n × dim) belongs to: the nearest by Euclidean distance, found
    /// through the upper level if there is one. In parallel; the same for any number of threads.
    ///
    /// Through the upper level at most three rows in a hundred (those about as near to two lists) get a list
    /// that is not the very nearest, and the mean distance grows by less than 1 %.
    ///
    /// # Panics
    /// When the table is empty or `rows` is not whole rows.
    pub fn assign(&self, rows: &[f32]) -> Vec<u32> {
        let Some(groups) = &self.groups else { return self.assign_flat(rows) };
        self.check_rows(rows);
        let blocks: Vec<Vec<u32>> = rows
            .par_chunks(ROW_BLOCK * self.dim)
            .map_init(Scratch::default, |scratch, block| groups.assign(block, scratch))
            .collect();
        blocks.concat()
    }

    /// As [`assign`](Self::assign), always comparing with every centroid.
    ///
    /// # Panics
    /// When the table is empty or `rows` is not whole rows.
    pub fn assign_flat(&self, rows: &[f32]) -> Vec<u32> {
        self.check_rows(rows);
        let Some(nearest) = &self.nearest else { return Vec::new() };
        nearest.assign(rows).into_iter().map(|nearest| nearest.position).collect()
    }

    fn check_rows(&self, rows: &[f32]) {
        assert!(rows.len().is_multiple_of(self.dim), "{} values are not rows of {}", rows.len(), self.dim);
        assert!(rows.is_empty() || !self.is_empty(), "no list to assign rows to");
    }

    /// The radius each list needs to cover the rows (n × dim) assigned to it at `positions`: the largest
    /// distance to its centroid, rounded up; 0 for lists without rows.
    ///
    /// # Panics
    /// When the lengths don't fit or a position is not in the table.
    pub fn radii_for(&self, rows: &[f32], positions: &[u32]) -> Vec<f32> {
        assert!(positions.len() * self.dim == rows.len(), "not one list for each row");
        let distances: Vec<f32> = rows
            .par_chunks_exact(self.dim)
            .zip(positions)
            .map(|(row, &position)| l2_squared(row, self.vector(position)))
            .collect();
        let mut squares = vec![0.0_f32; self.len()];
        for (&position, distance) in positions.iter().zip(distances) {
            let square = &mut squares[position as usize];
            *square = square.max(distance);
        }
        squares.into_iter().map(|square| covering_radius(square, self.dim)).collect()
    }
}

/// A radius of at least the distance whose square was computed by [`l2_squared`](plimsoll_kernels::l2_squared) to be this.
pub fn covering_radius(square: f32, dim: usize) -> f32 {
    let slack = 1.0 + f64::from(l2_error(dim));
    if square > 0.0 { ((f64::from(square) * slack).sqrt() as f32).next_up() } else { 0.0 }
}

impl Groups {
    fn new(dim: usize, vectors: &[f32]) -> Self {
        let n = vectors.len() / dim;
        let trained = train(vectors, dim, n.isqrt(), KmeansOptions { iterations: 8, seed: 0x51ed });
        let supers = NearestOf::new(dim, &trained);
        let nearest = supers.assign(vectors).into_iter().map(|nearest| nearest.position);
        let members: Vec<Group> = grouped(nearest, trained.len() / dim)
            .into_iter()
            .map(|positions| Group::new(supers.origin(), vectors, positions))
            .collect();
        // Measured on normally distributed rows, the hardest kind: a third finds the nearest list of 95.6 % of
        // them, two fifths of 97.3 %, a half of 99.1 %. Copying lists into two groups does no better.
        let probes = (2 * members.len()).div_ceil(5);
        Self { supers, probes, members }
    }

    /// Each row looks into the groups of its nearest super-centroids; each group multiplies the rows that
    /// look into it together. All share one origin, so scores of different groups compare.
    fn assign(&self, rows: &[f32], scratch: &mut Scratch) -> Vec<u32> {
        let dim = self.supers.dim();
        let mut centred = std::mem::take(&mut scratch.rows);
        centred.clear();
        centre_onto(rows, self.supers.origin(), &mut centred);
        let mut best = vec![(f32::INFINITY, 0_u32); rows.len() / dim];
        let mut gathered = Vec::new();
        for (group, visitors) in self.members.iter().zip(self.visitors(&centred, &mut scratch.products)) {
            gathered.clear();
            visitors
                .iter()
                .for_each(|&row| gathered.extend_from_slice(&centred[row as usize * dim..][..dim]));
            let found = group.vectors.best_of_centred(&gathered, &mut scratch.products);
            for (row, (score, member)) in visitors.into_iter().zip(found) {
                let best = &mut best[row as usize];
                if score < f32::INFINITY {
                    *best = best_of(*best, (score, group.positions[member as usize]));
                }
            }
        }
        scratch.rows = centred;
        best.into_iter().map(|(_, position)| position).collect()
    }

    /// The rows that look into each group.
    fn visitors(&self, centred: &[f32], products: &mut Vec<f32>) -> Vec<Vec<u32>> {
        let groups = self.members.len();
        let mut visitors = vec![Vec::new(); groups];
        let mut order: Vec<u32> = Vec::with_capacity(groups);
        for (row, scores) in (0..).zip(self.supers.scores_of_centred(centred, products).chunks_exact(groups))
        {
            order.clear();
            order.extend(0..groups as u32);
            let by_score =
                |a: &u32, b: &u32| scores[*a as usize].total_cmp(&scores[*b as usize]).then(a.cmp(b));
            order.select_nth_unstable_by(self.probes - 1, by_score);
            order[..self.probes].iter().for_each(|&group| visitors[group as usize].push(row));
        }
        visitors
    }
}

/// The lower score; of equal ones the lower position.
fn best_of(a: (f32, u32), b: (f32, u32)) -> (f32, u32) {
    if b < a { b } else { a }
}

impl Group {
    fn new(origin: &[f32], vectors: &[f32], positions: Vec<u32>) -> Self {
        let dim = origin.len();
        let own: Vec<f32> = positions
            .iter()
            .flat_map(|&position| &vectors[position as usize * dim..][..dim])
            .copied()
            .collect();
        Self { positions, vectors: NearestOf::around(origin.to_vec(), &own) }
    }
}

#[cfg(test)]
mod tests;
