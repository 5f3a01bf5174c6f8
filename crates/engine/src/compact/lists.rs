//! All live rows of a collection, and the lists that they are assigned to.

use plimsoll_base::{ListId, Metric, ShardId};
use plimsoll_index::kmeans::sample_rows;
use plimsoll_index::{Centroids, Malformed};
use plimsoll_kernels as kernels;
use plimsoll_shard::PostingFile;

use crate::codebook::push_indexed;
use crate::error::{Error, Result};
use crate::tree::Tree;

/// Rows assigned at once.
const BLOCK: u32 = 4096;
/// Passes over all rows after the training on a sample, each followed by moving the centroids to the means of their
/// rows. Measured: they are worth what ten passes over a sample four times as large are, a tenth of the rows visited.
const PASSES: usize = 2;
/// The position of a row that is not live.
pub(super) const DEAD: u32 = u32::MAX;

pub(super) fn mean_of(rows: &[f32], dimension: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dimension];
    for row in rows.chunks_exact(dimension) {
        sums.iter_mut().zip(row).for_each(|(sum, component)| *sum += f64::from(*component));
    }
    let count = (rows.len() / dimension).max(1) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Which rows of the posting files are live.
pub(super) struct LiveRows<'a> {
    tree: &'a Tree,
    pub files: Vec<&'a PostingFile>,
    pub count: usize,
    live: Vec<Vec<bool>>,
}

impl<'a> LiveRows<'a> {
    pub(super) fn read(tree: &'a Tree) -> Result<Self> {
        let files = tree.posting_files()?;
        let mut live = Vec::with_capacity(files.len());
        let mut count = 0;
        for file in &files {
            let mut of_file = vec![false; file.rows() as usize];
            for document in 0..file.documents() {
                let entry = file.entry(document)?;
                if !tree.kills.contains(entry.ordinal())? {
                    let rows = file.rows_of(document)?;
                    let rows = rows.start as usize..rows.end as usize;
                    count += rows.len();
                    of_file[rows].fill(true);
                }
            }
            live.push(of_file);
        }
        Ok(Self { tree, files, count, live })
    }

    pub(super) fn metric(&self) -> Metric {
        self.tree.entry.config.metric
    }

    /// File and row of the live rows with these numbers, which ascend.
    pub(super) fn places(&self, numbers: &[usize]) -> Vec<(usize, u32)> {
        let all = self.live.iter().enumerate().flat_map(|(file, rows)| {
            rows.iter().enumerate().filter(|(_, live)| **live).map(move |(row, _)| (file, row as u32))
        });
        let mut wanted = numbers.iter().peekable();
        all.enumerate()
            .filter(|(number, _)| wanted.next_if_eq(&number).is_some())
            .map(|(_, place)| place)
            .collect()
    }

    /// About `wanted` live rows as the index sees them, one after another.
    pub(super) fn sample(&self, wanted: usize, seed: u64) -> Result<Vec<f32>> {
        let mut sample = Vec::with_capacity(wanted * self.tree.entry.config.dimension);
        for (file, row) in self.places(&sample_rows(self.count, wanted, seed)) {
            self.push(file, row, &mut sample)?;
        }
        Ok(sample)
    }

    /// Visits all live rows, some at a time, with the positions of their lists.
    fn each_block(&self, positions: &[Vec<u32>], mut visit: impl FnMut(&[f32], &[u32])) -> Result<()> {
        let (mut vectors, mut of_rows) = (Vec::new(), Vec::new());
        for (file, positions) in positions.iter().enumerate() {
            for (block, positions) in positions.chunks(BLOCK as usize).enumerate() {
                let live = (block as u32 * BLOCK..).zip(positions).filter(|(_, position)| **position != DEAD);
                for (row, position) in live {
                    self.push(file, row, &mut vectors)?;
                    of_rows.push(*position);
                }
                visit(&vectors, &of_rows);
                vectors.clear();
                of_rows.clear();
            }
        }
        Ok(())
    }

    pub(super) fn push(&self, file: usize, row: u32, block: &mut Vec<f32>) -> Result<()> {
        let posting = self.files[file];
        push_indexed(self.metric(), posting.vectors(row..row + 1)?, posting.norms(row..row + 1)?[0], block);
        Ok(())
    }
}

/// Lists, and which of them each row belongs to.
pub(super) struct Assigned {
    /// The mean of each list's rows, one after another.
    pub centroids: Vec<f32>,
    /// Per posting file, the position of each row's list, or [`DEAD`].
    pub positions: Vec<Vec<u32>>,
    /// The number of rows of each list.
    pub counts: Vec<u32>,
    /// The largest distance of a row to its list's centroid.
    pub radii: Vec<f32>,
    /// The mean squared distance.
    pub spreads: Vec<f32>,
}

impl Assigned {
    /// Assigns all rows to lists around these centroids, and the centroids to their rows.
    pub(super) fn refine(mut centroids: Vec<f32>, dimension: usize, rows: &LiveRows<'_>) -> Result<Self> {
        let lists = centroids.len() / dimension;
        let (mut positions, mut counts) = (Vec::new(), Vec::new());
        for _ in 0..PASSES {
            let table = unnamed(dimension, centroids)?;
            positions = assign_rows(&table, rows)?;
            (centroids, counts) = means(&table, rows, &positions)?;
        }
        let table = unnamed(dimension, centroids)?;
        let (mut radii, mut spreads) = (vec![0.0_f32; lists], vec![0.0_f64; lists]);
        rows.each_block(&positions, |vectors, positions| {
            let of_block = table.radii_for(vectors, positions);
            radii.iter_mut().zip(of_block).for_each(|(radius, of_block)| *radius = radius.max(of_block));
            for (vector, position) in vectors.chunks_exact(dimension).zip(positions) {
                spreads[*position as usize] +=
                    f64::from(kernels::l2_squared(vector, table.vector(*position)));
            }
        })?;
        let spreads =
            spreads.iter().zip(&counts).map(|(sum, count)| (sum / f64::from((*count).max(1))) as f32);
        Ok(Self { spreads: spreads.collect(), centroids: table.vectors().to_vec(), positions, counts, radii })
    }
}

/// A table of lists that have no names yet.
fn unnamed(dimension: usize, centroids: Vec<f32>) -> Result<Centroids> {
    let lists = centroids.len() / dimension;
    let ids = (0..lists as u32).map(ListId).collect();
    Centroids::new(dimension, ids, vec![ShardId(0); lists], centroids, vec![0.0; lists]).map_err(malformed)
}

pub(super) fn malformed(Malformed(what): Malformed) -> Error {
    Error::InvalidArgument(format!("training gave a malformed table: {what}"))
}

/// The list of every live row.
fn assign_rows(centroids: &Centroids, rows: &LiveRows<'_>) -> Result<Vec<Vec<u32>>> {
    let mut positions = Vec::with_capacity(rows.live.len());
    for (file, live) in rows.live.iter().enumerate() {
        let mut of_file = vec![DEAD; live.len()];
        for first in (0..live.len() as u32).step_by(BLOCK as usize) {
            let block = first..(live.len() as u32).min(first + BLOCK);
            let wanted: Vec<u32> = block.filter(|row| live[*row as usize]).collect();
            let mut vectors = Vec::with_capacity(wanted.len() * centroids.dim());
            wanted.iter().try_for_each(|row| rows.push(file, *row, &mut vectors))?;
            let assigned = centroids.assign(&vectors);
            wanted.iter().zip(assigned).for_each(|(row, position)| of_file[*row as usize] = position);
        }
        positions.push(of_file);
    }
    Ok(positions)
}

/// The mean and the number of each list's rows; a list without rows keeps its centroid.
fn means(table: &Centroids, rows: &LiveRows<'_>, positions: &[Vec<u32>]) -> Result<(Vec<f32>, Vec<u32>)> {
    let dimension = table.dim();
    let mut sums = vec![0.0_f64; table.vectors().len()];
    let mut counts = vec![0_u32; table.len()];
    rows.each_block(positions, |vectors, positions| {
        for (vector, position) in vectors.chunks_exact(dimension).zip(positions) {
            let sums = &mut sums[*position as usize * dimension..][..dimension];
            sums.iter_mut().zip(vector).for_each(|(sum, component)| *sum += f64::from(*component));
            counts[*position as usize] += 1;
        }
    })?;
    let mut means = table.vectors().to_vec();
    for ((mean, sum), count) in
        means.chunks_exact_mut(dimension).zip(sums.chunks_exact(dimension)).zip(&counts)
    {
        if *count > 0 {
            let share = 1.0 / f64::from(*count);
            mean.iter_mut().zip(sum).for_each(|(mean, sum)| *mean = (sum * share) as f32);
        }
    }
    Ok((means, counts))
}
