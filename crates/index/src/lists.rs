//! Lists for all rows of a collection: k-means in which a row is compared with few centroids.
//!
//! Comparing every row with every centroid costs n²/150 distances a pass. Here a row is compared with the 12√k centroids of
//! one of √k groups, once, and then moves among the few that were nearest to it, while these move: first the rows of a
//! sample, then all rows. Measured at 400 lists: as few rows have to be visited as after six passes over a sample and two
//! over all rows that compare with every centroid, in half the time.
//!
//! Rows are read as they are needed, a thousand at a time for each thread. The result does not depend on the number of
//! threads.

use std::ops::Range;

use plimsoll_kernels::l2_squared;
use rayon::prelude::*;

use crate::centroids::covering_radius;
use crate::kmeans::{KmeansOptions, SAMPLE_ROWS_PER_LIST, first_centroids, sample_rows, train};
use crate::nearest::{NearestOf, Scratch};

/// Passes over the sample, and over all rows after it.
const SAMPLE_PASSES: usize = 6;
const PASSES: usize = 5;
/// A row moves among so many lists, those that were nearest to it at first.
const CANDIDATES: usize = 12;
/// A row is compared with so many times √k centroids at first, one of the sample with at least so many: its centroids are
/// rows taken at random, so that a group says less of what is near.
const COMPARED: usize = 12;
const COMPARED_IN_SAMPLE: usize = 1024;
/// Rows that pass the groups together, and how many of them are compared with one group together.
const PART: usize = 1024;
const BLOCK: usize = 128;
/// Rows are brought into the cache so many ahead.
const AHEAD: usize = 6;

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

    /// A row's components; `room` is for those that have to be made.
    ///
    /// # Errors
    /// If it can not be read.
    fn row<'b>(&'b self, row: u32, room: &'b mut Vec<f32>) -> Result<&'b [f32], Self::Error> {
        room.clear();
        self.push(row, room)?;
        Ok(room)
    }

    /// The row will soon be read.
    fn prefetch(&self, row: u32);
}

/// Lists, and which of them each row belongs to.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// About `k` lists of these rows; fewer where rows are equal, none of no rows.
    ///
    /// # Errors
    /// If a row can not be read.
    ///
    /// # Panics
    /// When there are 2³² rows or more.
    pub fn train<R: Rows>(rows: &R, k: usize, seed: u64) -> Result<Self, R::Error> {
        assert!(u32::try_from(rows.count()).is_ok(), "{} rows", rows.count());
        if k == 0 || rows.count() == 0 {
            return Ok(Self::default());
        }
        let chosen = sample_rows(rows.count(), k * SAMPLE_ROWS_PER_LIST, seed);
        let sample = Chosen { rows, numbers: chosen.into_iter().map(|row| row as u32).collect() };
        let seeds = seeds(&sample, k, seed)?;
        let compared = COMPARED * k.isqrt();
        let sampled = Clustering::around(&sample, seeds, compared.max(COMPARED_IN_SAMPLE), SAMPLE_PASSES)?;
        drop(sample);
        let all = Clustering::around(rows, sampled.centroids, compared, PASSES)?;
        let members = Members::new(&all.positions);
        let described: Vec<Described> = members
            .lists()
            .into_par_iter()
            .map(|list| describe(rows, members.of(list)))
            .collect::<Result<_, _>>()?;
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

/// Some of the rows.
struct Chosen<'a, R> {
    rows: &'a R,
    numbers: Vec<u32>,
}

impl<R: Rows> Rows for Chosen<'_, R> {
    type Error = R::Error;

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn count(&self) -> usize {
        self.numbers.len()
    }

    fn push(&self, row: u32, into: &mut Vec<f32>) -> Result<(), R::Error> {
        self.rows.push(self.numbers[row as usize], into)
    }

    fn row<'b>(&'b self, row: u32, room: &'b mut Vec<f32>) -> Result<&'b [f32], R::Error> {
        self.rows.row(self.numbers[row as usize], room)
    }

    fn prefetch(&self, row: u32) {
        self.rows.prefetch(self.numbers[row as usize]);
    }
}

/// `k` distinct rows, or all distinct rows if there are fewer.
fn seeds<R: Rows>(rows: &R, k: usize, seed: u64) -> Result<Vec<f32>, R::Error> {
    let among = |wanted: usize| {
        let mut some = Vec::new();
        let chosen = sample_rows(rows.count(), wanted, seed ^ 1);
        chosen.into_iter().try_for_each(|row| rows.push(row as u32, &mut some))?;
        Ok(first_centroids(&some, rows.dim(), k, seed))
    };
    // Twice as many rows are enough, unless there are many equal ones.
    let seeds = among(2 * k)?;
    if seeds.len() < k * rows.dim() { among(rows.count()) } else { Ok(seeds) }
}

/// Rows in lists around the means of these rows. A list that loses all its rows keeps its centroid.
struct Clustering {
    centroids: Vec<f32>,
    positions: Vec<u32>,
}

impl Clustering {
    /// Each pass moves rows to the nearest of their candidates, and then centroids to the means of their rows.
    fn around<R: Rows>(
        rows: &R,
        mut centroids: Vec<f32>,
        compared: usize,
        passes: usize,
    ) -> Result<Self, R::Error> {
        let candidates = Groups::new(rows.dim(), &centroids, compared).candidates(rows)?;
        let mut positions: Vec<u32> = (0..rows.count() as u32).map(|row| candidates.of(row)[0]).collect();
        let mut sums = Sums::new(centroids.len() / rows.dim(), rows.dim());
        sums.update(rows, None, &positions)?;
        sums.means(&mut centroids);
        for _ in 1..passes {
            let next = nearest(rows, &candidates, &centroids)?;
            sums.update(rows, Some(&positions), &next)?;
            sums.means(&mut centroids);
            positions = next;
        }
        Ok(Self { centroids, positions })
    }
}

/// The sums and numbers of each list's rows, kept as rows move.
struct Sums {
    values: Vec<f64>,
    counts: Vec<i64>,
}

/// A row that joins (1) or leaves (−1) a list.
#[derive(Clone, Copy)]
struct Change {
    list: u32,
    row: u32,
    sign: i8,
}

impl Sums {
    /// Of no rows.
    fn new(lists: usize, dim: usize) -> Self {
        Self { values: vec![0.0; lists * dim], counts: vec![0; lists] }
    }

    /// Moves rows from the lists where they were, if they were in any, to those where they are.
    fn update<R: Rows>(&mut self, rows: &R, before: Option<&[u32]>, after: &[u32]) -> Result<(), R::Error> {
        let mut changes: Vec<Change> = Vec::new();
        for (row, &list) in (0..).zip(after) {
            let before = before.map(|before| before[row as usize]);
            if before != Some(list) {
                changes.extend(before.map(|list| Change { list, row, sign: -1 }));
                changes.push(Change { list, row, sign: 1 });
            }
        }
        changes.sort_unstable_by_key(|change| (change.list, change.row));
        let mut of_list = vec![&[][..]; self.counts.len()];
        changes
            .chunk_by(|a, b| a.list == b.list)
            .for_each(|changes| of_list[changes[0].list as usize] = changes);
        self.values.par_chunks_mut(rows.dim()).zip(&mut self.counts).zip(of_list).try_for_each_init(
            Vec::new,
            |room, ((sums, count), changes)| {
                *count += changes.iter().map(|change| i64::from(change.sign)).sum::<i64>();
                add(rows, changes.iter().map(|change| (change.row, f64::from(change.sign))), sums, room)
            },
        )
    }

    /// Moves the centroids of lists that have rows.
    fn means(&self, centroids: &mut [f32]) {
        let dim = centroids.len() / self.counts.len();
        let lists = centroids.par_chunks_mut(dim).zip(self.values.par_chunks(dim)).zip(&self.counts);
        lists.filter(|(_, count)| **count > 0).for_each(|((mean, sums), count)| {
            let share = 1.0 / *count as f64;
            mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum * share) as f32);
        });
    }
}

/// Adds rows, each with a factor.
fn add<R: Rows>(
    rows: &R,
    which: impl Iterator<Item = (u32, f64)> + Clone,
    sums: &mut [f64],
    room: &mut Vec<f32>,
) -> Result<(), R::Error> {
    let mut ahead = which.clone().skip(AHEAD);
    for (row, factor) in which {
        if let Some((next, _)) = ahead.next() {
            rows.prefetch(next);
        }
        let vector = rows.row(row, room)?;
        sums.iter_mut().zip(vector).for_each(|(sum, &value)| *sum += factor * f64::from(value));
    }
    Ok(())
}

/// The nearest of each row's candidates, the first among equals.
fn nearest<R: Rows>(rows: &R, candidates: &Candidates, centroids: &[f32]) -> Result<Vec<u32>, R::Error> {
    let dim = rows.dim();
    let mut positions = vec![0; rows.count()];
    positions.par_chunks_mut(PART).enumerate().try_for_each_init(Vec::new, |room, (part, positions)| {
        let first = (part * PART) as u32..;
        for (row, position) in first.zip(positions) {
            let vector = rows.row(row, room)?;
            let distance = |list: &u32| l2_squared(vector, &centroids[*list as usize * dim..][..dim]);
            let measured = candidates.of(row).iter().map(|list| (distance(list), *list));
            let best = measured.min_by(|a, b| a.0.total_cmp(&b.0));
            *position = best.map_or(0, |best| best.1);
        }
        Ok(())
    })?;
    Ok(positions)
}

/// The lists that each row may be in: those whose centroids were nearest to it.
struct Candidates {
    of_row: usize,
    /// Those of each row, nearest first.
    lists: Vec<u32>,
}

impl Candidates {
    fn of(&self, row: u32) -> &[u32] {
        &self.lists[row as usize * self.of_row..][..self.of_row]
    }
}

/// Groups of centroids that overlap: the candidates of a row are among those of the nearest group.
struct Groups {
    nearest: NearestOf,
    groups: Vec<(Vec<u32>, NearestOf)>,
    /// How many candidates a row gets.
    of_row: usize,
}

impl Groups {
    /// Groups of at least `compared` centroids; one of all, if there are not more.
    fn new(dim: usize, centroids: &[f32], compared: usize) -> Self {
        let k = centroids.len() / dim;
        let groups = if k <= compared { 1 } else { k.isqrt() };
        let middles = train(centroids, dim, groups, KmeansOptions { iterations: 8, seed: 0x51ed });
        let nearest = NearestOf::new(dim, &middles);
        let mut near = NearestOf::new(dim, centroids).neighbours(&middles, compared);
        near.iter_mut().for_each(|near| near.sort_unstable());
        // Every list is in the group it is nearest to, at least.
        for (list, group) in (0..).zip(nearest.assign(centroids)) {
            let near = &mut near[group.position as usize];
            if let Err(place) = near.binary_search(&list) {
                near.insert(place, list);
            }
        }
        let of_row = near.iter().map(Vec::len).min().unwrap_or(0).min(CANDIDATES);
        let group = |near: Vec<u32>| {
            let vectors = NearestOf::new(dim, &vectors_at(centroids, dim, &near));
            (near, vectors)
        };
        Self { nearest, groups: near.into_iter().map(group).collect(), of_row }
    }

    fn candidates<R: Rows>(&self, rows: &R) -> Result<Candidates, R::Error> {
        let mut lists = vec![0; rows.count() * self.of_row];
        let dim = rows.dim();
        lists.par_chunks_mut(PART * self.of_row).enumerate().try_for_each_init(
            || (Scratch::default(), Vec::new(), Vec::new()),
            |(scratch, vectors, together), (part, lists)| {
                vectors.clear();
                let first = (part * PART) as u32;
                let count = lists.len() / self.of_row;
                (first..first + count as u32).try_for_each(|row| rows.push(row, vectors))?;
                let groups = self.nearest.assign_block(vectors, scratch);
                let mut order: Vec<(u32, u32)> = groups.iter().map(|group| group.position).zip(0..).collect();
                order.sort_unstable();
                for members in order.chunk_by(|a, b| a.0 == b.0).flat_map(|members| members.chunks(BLOCK)) {
                    let (near, centroids) = &self.groups[members[0].0 as usize];
                    together.clear();
                    members
                        .iter()
                        .for_each(|m| together.extend_from_slice(&vectors[m.1 as usize * dim..][..dim]));
                    let found = centroids.nearest_of_block(together, self.of_row, scratch);
                    for ((_, at), found) in members.iter().zip(found.chunks_exact(self.of_row)) {
                        let lists = &mut lists[*at as usize * self.of_row..][..self.of_row];
                        lists.iter_mut().zip(found).for_each(|(list, at)| *list = near[*at as usize]);
                    }
                }
                Ok(())
            },
        )?;
        Ok(Candidates { of_row: self.of_row, lists })
    }
}

/// Some of the vectors, one after another.
fn vectors_at(vectors: &[f32], dim: usize, positions: &[u32]) -> Vec<f32> {
    let mut chosen = Vec::with_capacity(positions.len() * dim);
    positions.iter().for_each(|&at| chosen.extend_from_slice(&vectors[at as usize * dim..][..dim]));
    chosen
}

struct Described {
    centroid: Vec<f32>,
    radius: f32,
    spread: f32,
}

fn describe<R: Rows>(rows: &R, members: &[u32]) -> Result<Described, R::Error> {
    let (mut sums, mut room) = (vec![0.0; rows.dim()], Vec::with_capacity(rows.dim()));
    add(rows, members.iter().map(|&row| (row, 1.0)), &mut sums, &mut room)?;
    let share = 1.0 / members.len() as f64;
    let centroid: Vec<f32> = sums.into_iter().map(|sum| (sum * share) as f32).collect();
    let (mut largest, mut sum) = (0.0_f32, 0.0_f64);
    for &row in members {
        let distance = l2_squared(rows.row(row, &mut room)?, &centroid);
        largest = largest.max(distance);
        sum += f64::from(distance);
    }
    Ok(Described {
        radius: covering_radius(largest, rows.dim()),
        spread: (sum / members.len() as f64) as f32,
        centroid,
    })
}

#[cfg(test)]
mod tests;
