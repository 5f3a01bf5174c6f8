//! Lists for all rows of a collection: k-means in two levels, then passes over all rows in which a row may move to the
//! lists near its own.
//!
//! Comparing every row with every centroid costs n²/150 distances a pass. Here the rows are divided among √k coarse
//! centroids first, each of which trains as many lists as its share of the rows; that this draws borders where the coarse
//! centroids met is mended by the passes that follow, which are those of k²-means (E. Agustsson, R. Timofte and L. Van
//! Gool, "k²-means for fast and accurate large scale clustering", 2017): a row is compared with the centroids that are
//! nearest to that of its list.
//!
//! Rows are read as they are needed, a few hundred at a time for each thread. The result does not depend on the number of
//! threads.

use std::ops::Range;

use plimsoll_kernels::l2_squared;
use rayon::prelude::*;

use crate::centroids::covering_radius;
use crate::kmeans::{KmeansOptions, sample_rows, train};
use crate::nearest::{NearestOf, Scratch};

/// Sample rows of a coarse centroid, and of a list while its coarse centroid is divided.
const SAMPLE_ROWS_COARSE: usize = 256;
const SAMPLE_ROWS: usize = 64;
/// Iterations on these samples.
const ITERATIONS: usize = 6;
/// Passes over all rows.
const PASSES: usize = 4;
/// A row stays in one of so many lists that are nearest to its own, by their centroids.
const NEAR: usize = 32;
/// Rows compared at once.
const BLOCK: usize = 128;
/// Rows assigned to coarse centroids by one thread at a time.
const PART: usize = 4096;

/// Rows, numbered from 0.
pub trait Rows: Sync {
    /// Why a row can not be read.
    type Error: Send;

    /// The number of components of a row, at least 1.
    fn dim(&self) -> usize;

    /// How many rows there are.
    fn count(&self) -> usize;

    /// Appends a row's components.
    ///
    /// # Errors
    /// If it can not be read.
    fn push(&self, row: u32, into: &mut Vec<f32>) -> Result<(), Self::Error>;
}

/// Lists, and which of them each row belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Lists {
    /// The mean of each list's rows, one after another.
    pub centroids: Vec<f32>,
    /// The position of each row's list.
    pub positions: Vec<u32>,
    /// The number of rows of each list; at least 1.
    pub counts: Vec<u32>,
    /// The largest distance of a row to its list's centroid, rounded up.
    pub radii: Vec<f32>,
    /// The mean squared distance.
    pub spreads: Vec<f32>,
}

impl Lists {
    /// About `k` lists of these rows; fewer where rows are equal.
    ///
    /// # Errors
    /// If a row can not be read.
    ///
    /// # Panics
    /// When there are more than 2³² rows.
    pub fn train<R: Rows>(rows: &R, k: usize, seed: u64) -> Result<Self, R::Error> {
        let mut members = Members::new(&divided(rows, k, seed)?);
        for _ in 0..PASSES {
            let centroids = means(rows, &members)?;
            members = Members::new(&moved(rows, &members, &centroids)?);
        }
        let described: Vec<Described> =
            members.lists().into_par_iter().map(|list| describe(rows, members.of(list))).collect::<Result<_, _>>()?;
        Ok(Self {
            positions: members.positions(),
            counts: members.lists().map(|list| members.of(list).len() as u32).collect(),
            radii: described.iter().map(|list| list.radius).collect(),
            spreads: described.iter().map(|list| list.spread).collect(),
            centroids: described.into_iter().flat_map(|list| list.centroid).collect(),
        })
    }
}

/// The rows of each list.
#[derive(Debug, Clone)]
pub struct Members {
    rows: Vec<u32>,
    starts: Vec<usize>,
}

impl Members {
    /// From the position of each row's list. Lists without rows are left out, the others keep their order; within a list
    /// rows ascend.
    pub fn new(positions: &[u32]) -> Self {
        let lists = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let mut starts = vec![0; lists + 1];
        positions.iter().for_each(|&position| starts[position as usize + 1] += 1);
        (0..lists).for_each(|list| starts[list + 1] += starts[list]);
        let mut next = starts.clone();
        let mut rows = vec![0; positions.len()];
        for (row, &position) in (0..).zip(positions) {
            rows[next[position as usize]] = row;
            next[position as usize] += 1;
        }
        starts.dedup();
        Self { rows, starts }
    }

    /// The lists, by number.
    pub fn lists(&self) -> Range<u32> {
        0..(self.starts.len() - 1) as u32
    }

    /// The rows of a list.
    ///
    /// # Panics
    /// When there is no such list.
    pub fn of(&self, list: u32) -> &[u32] {
        &self.rows[self.starts[list as usize]..self.starts[list as usize + 1]]
    }

    /// The list of each row.
    fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.rows.len()];
        for list in self.lists() {
            self.of(list).iter().for_each(|&row| positions[row as usize] = list);
        }
        positions
    }
}

/// The position of each row's list after both levels.
fn divided<R: Rows>(rows: &R, k: usize, seed: u64) -> Result<Vec<u32>, R::Error> {
    let (dim, count) = (rows.dim(), rows.count());
    let options = KmeansOptions { iterations: ITERATIONS, seed };
    let coarse_count = k.isqrt().max(1);
    let sample = sample_of(rows, sample_rows(count, coarse_count * SAMPLE_ROWS_COARSE, seed).into_iter())?;
    let coarse = NearestOf::new(dim, &train(&sample, dim, coarse_count, options));
    drop(sample);
    let all: Vec<u32> = (0..count as u32).collect();
    let assigned: Vec<Vec<u32>> = all
        .par_chunks(PART)
        .map_init(Buffers::default, |buffers, part| nearest(rows, part, &coarse, buffers))
        .collect::<Result<_, _>>()?;
    let members = Members::new(&assigned.concat());
    let shares = shares(members.lists().map(|list| members.of(list).len()), count, k);
    let fine: Vec<(usize, Vec<u32>)> = members
        .lists()
        .into_par_iter()
        .zip(shares)
        .map_init(Buffers::default, |buffers, (list, share)| {
            let own = members.of(list);
            let chosen = sample_rows(own.len(), share * SAMPLE_ROWS, seed);
            let sample = sample_of(rows, chosen.into_iter().map(|row| own[row] as usize))?;
            let centroids = train(&sample, dim, share, options);
            let found = nearest(rows, own, &NearestOf::new(dim, &centroids), buffers)?;
            Ok((centroids.len() / dim, found))
        })
        .collect::<Result<_, _>>()?;
    let mut positions = vec![0; count];
    let mut first = 0;
    for (list, (lists, found)) in members.lists().zip(fine) {
        members.of(list).iter().zip(found).for_each(|(&row, at)| positions[row as usize] = first + at);
        first += lists as u32;
    }
    Ok(positions)
}

fn sample_of<R: Rows>(rows: &R, chosen: impl Iterator<Item = usize>) -> Result<Vec<f32>, R::Error> {
    let mut sample = Vec::new();
    for row in chosen {
        rows.push(row as u32, &mut sample)?;
    }
    Ok(sample)
}

/// `k` divided in proportion to these numbers of rows, whose sum is `total`: at least 1 where there are rows.
fn shares(sizes: impl Iterator<Item = usize>, total: usize, k: usize) -> Vec<usize> {
    let mut before = 0;
    let share = |size: usize| {
        let place = |rows: usize| (rows as u128 * k as u128 / total.max(1) as u128) as usize;
        let share = place(before + size) - place(before);
        before += size;
        share.max(usize::from(size > 0))
    };
    sizes.map(share).collect()
}

/// Buffers of one thread.
#[derive(Default)]
struct Buffers {
    rows: Vec<f32>,
    scratch: Scratch,
}

/// The nearest of some vectors for each of some rows.
fn nearest<R: Rows>(
    rows: &R,
    numbers: &[u32],
    vectors: &NearestOf,
    buffers: &mut Buffers,
) -> Result<Vec<u32>, R::Error> {
    let mut positions = Vec::with_capacity(numbers.len());
    for block in numbers.chunks(BLOCK) {
        buffers.rows.clear();
        block.iter().try_for_each(|&row| rows.push(row, &mut buffers.rows))?;
        let found = vectors.assign_block(&buffers.rows, &mut buffers.scratch);
        positions.extend(found.into_iter().map(|nearest| nearest.position));
    }
    Ok(positions)
}

/// The mean of each list's rows.
fn means<R: Rows>(rows: &R, members: &Members) -> Result<Vec<f32>, R::Error> {
    let means: Vec<Vec<f32>> =
        members.lists().into_par_iter().map(|list| mean(rows, members.of(list))).collect::<Result<_, _>>()?;
    Ok(means.concat())
}

fn mean<R: Rows>(rows: &R, members: &[u32]) -> Result<Vec<f32>, R::Error> {
    let mut sums = vec![0.0_f64; rows.dim()];
    let mut vector = Vec::with_capacity(rows.dim());
    for &row in members {
        vector.clear();
        rows.push(row, &mut vector)?;
        sums.iter_mut().zip(&vector).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    let share = 1.0 / members.len() as f64;
    Ok(sums.into_iter().map(|sum| (sum * share) as f32).collect())
}

/// The nearest of the lists near its own, for each row.
fn moved<R: Rows>(rows: &R, members: &Members, centroids: &[f32]) -> Result<Vec<u32>, R::Error> {
    let dim = rows.dim();
    let near = NearestOf::new(dim, centroids).neighbours(centroids, NEAR);
    let found: Vec<Vec<u32>> = members
        .lists()
        .into_par_iter()
        .zip(near)
        .map_init(Buffers::default, |buffers, (list, near)| {
            let of = |position: &u32| &centroids[*position as usize * dim..][..dim];
            let candidates: Vec<f32> = near.iter().flat_map(of).copied().collect();
            let found = nearest(rows, members.of(list), &NearestOf::new(dim, &candidates), buffers)?;
            Ok(found.into_iter().map(|at| near[at as usize]).collect())
        })
        .collect::<Result<_, _>>()?;
    let mut positions = vec![0; rows.count()];
    for (list, found) in members.lists().zip(found) {
        members.of(list).iter().zip(found).for_each(|(&row, position)| positions[row as usize] = position);
    }
    Ok(positions)
}

struct Described {
    centroid: Vec<f32>,
    radius: f32,
    spread: f32,
}

fn describe<R: Rows>(rows: &R, members: &[u32]) -> Result<Described, R::Error> {
    let centroid = mean(rows, members)?;
    let (mut largest, mut sum) = (0.0_f32, 0.0_f64);
    let mut vector = Vec::with_capacity(rows.dim());
    for &row in members {
        vector.clear();
        rows.push(row, &mut vector)?;
        let distance = l2_squared(&vector, &centroid);
        largest = largest.max(distance);
        sum += f64::from(distance);
    }
    Ok(Described { radius: covering_radius(largest, rows.dim()), spread: (sum / members.len() as f64) as f32, centroid })
}
