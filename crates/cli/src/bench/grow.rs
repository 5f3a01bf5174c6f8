//! `plimsoll bench grow`: a large set of vectors that resembles a small real one, for runs at a size for which there is no
//! real data.
//!
//! First come the real rows, then synthetic ones. Each of those has a real row as its parent, all of them in turn, and is
//! drawn from the normal distribution that has the mean and the covariance of the parent and its fifteen nearest
//! neighbours: mean + Σ wᵢ (neighbourᵢ − mean), with weights of variance 1/16. So it lies in the directions in which the
//! data spread there, and about as far from its parent as a real row would. (A point between a row and one of its neighbours
//! with noise in all directions does neither: searches of such rows find their parents first.) Rows of length 1 stay so.

mod check;
mod npy;

use std::path::Path;

use plimsoll::{Effort, Key, Metric, ReadOnlyDatabase};
use serde::Serialize;

use super::random::Random;
use super::workload::{Workload, temporary_directory};
use crate::args::GrowBench;
use crate::error::{CliError, Result};
use crate::input::{Matrix, read_matrix};
use crate::output::{Output, bytes};
use crate::progress::Progress;
use npy::NpyWriter;

/// How many neighbours a row has, itself not counted.
const NEIGHBOURS: usize = 15;
/// Neighbours need not be exactly the nearest.
const RECALL: f32 = 0.99;
/// How many rows ask for their neighbours at once.
const BATCH: usize = 1000;
/// How far the lengths of rows may be off 1 in a set of which all have length 1.
const UNIT_TOLERANCE: f32 = 1e-3;

#[derive(Serialize)]
struct Report {
    real_rows: usize,
    rows: usize,
    dimension: usize,
    /// Whether all rows have length 1.
    normalised: bool,
    seed: u64,
    bytes: u64,
}

pub(super) fn run(args: &GrowBench, output: &mut Output) -> Result<()> {
    let base = read_matrix(&args.base)?;
    let dir = args.dir.as_deref();
    match (&args.out, args.rows) {
        (Some(out), Some(rows)) if !args.check => write(base, out, rows, args.seed, dir, output),
        (None, None) if args.check => check::run(base, args, output),
        _ => Err(CliError::Usage("say OUT and --rows, or --check".to_owned())),
    }
}

fn write(
    base: Matrix,
    out: &Path,
    rows: usize,
    seed: u64,
    dir: Option<&Path>,
    output: &mut Output,
) -> Result<()> {
    let (real_rows, dimension) = (base.len(), base.dimension);
    let synthetic = rows.checked_sub(real_rows).ok_or_else(|| {
        CliError::Usage(format!("--rows {rows}: there are {real_rows} rows already, and none is left out"))
    })?;
    let family = Family::new(base, seed, dir)?;
    let failed = |error| CliError::file(out, &error);
    let progress = Progress::new(output.json, "growing", Some(rows as u64));
    let mut writer = NpyWriter::create(out, rows, dimension).map_err(failed)?;
    for row in 0..real_rows {
        writer.row(family.real.vector(row as u64)).map_err(failed)?;
        progress.advance(1);
    }
    let mut child = vec![0.0; dimension];
    for number in 0..synthetic {
        family.child(number, &mut child);
        writer.row(&child).map_err(failed)?;
        progress.advance(1);
    }
    let written = writer.finish().map_err(failed)?;
    drop(progress);
    let report = Report { real_rows, rows, dimension, normalised: family.normalised, seed, bytes: written };
    let text = format!(
        "{}: {rows} rows of {dimension}, {real_rows} of them real and {synthetic} synthetic, {}",
        out.display(),
        bytes(written)
    );
    output.either(&report, text)
}

/// Real rows, and who their neighbours are: what synthetic rows descend from.
struct Family {
    real: Workload,
    /// The neighbours of each row, [`NEIGHBOURS`] each or as many as there are, itself not among them.
    neighbours: Vec<Vec<u32>>,
    normalised: bool,
    seed: u64,
}

impl Family {
    /// Finds the neighbours, with a database that is made for it.
    fn new(base: Matrix, seed: u64, dir: Option<&Path>) -> Result<Self> {
        let is_unit = |row| {
            let row: &[f32] = base.row(row);
            (row.iter().map(|x| x * x).sum::<f32>().sqrt() - 1.0).abs() < UNIT_TOLERANCE
        };
        let normalised = (0..base.len()).all(is_unit);
        let real = Workload::of(base);
        let neighbours = neighbours(&real, dir)?;
        Ok(Self { real, neighbours, normalised, seed })
    }

    /// The synthetic row of a number.
    fn child(&self, number: usize, out: &mut [f32]) {
        let parent = number % self.real.len();
        let mut random = Random::of(self.seed, number as u64);
        let others = &self.neighbours[parent];
        let rows = || std::iter::once(parent as u32).chain(others.iter().copied());
        let count = (others.len() + 1) as f32;
        let weights: Vec<f32> = rows().map(|_| random.normal() / count.sqrt()).collect();
        // mean + Σ wᵢ (xᵢ − mean) = Σ (wᵢ + (1 − Σ w) / count) xᵢ
        let share = (1.0 - weights.iter().sum::<f32>()) / count;
        out.fill(0.0);
        for (row, weight) in rows().zip(weights) {
            let vector = self.real.vector(u64::from(row));
            out.iter_mut().zip(vector).for_each(|(out, x)| *out += (weight + share) * x);
        }
        if self.normalised {
            let length = out.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > 0.0 {
                out.iter_mut().for_each(|x| *x /= length);
            }
        }
    }
}

fn neighbours(real: &Workload, dir: Option<&Path>) -> Result<Vec<Vec<u32>>> {
    let scratch = temporary_directory(dir)?;
    let path = scratch.path().join("db");
    real.store(&path, Metric::L2)?;
    let collection = ReadOnlyDatabase::open(&path)?.collection("c")?;
    let search = collection.search(&[]).k(NEIGHBOURS + 1).effort(Effort::Recall(RECALL));
    let rows: Vec<u64> = (0..real.len() as u64).collect();
    let mut neighbours = Vec::with_capacity(rows.len());
    for rows in rows.chunks(BATCH) {
        let queries: Vec<&[f32]> = rows.iter().map(|&row| real.vector(row)).collect();
        for (&row, results) in rows.iter().zip(search.run_each(&queries)) {
            let found = results?.hits.into_iter().filter_map(|hit| match hit.key {
                Key::Integer(found) if found != i128::from(row) => Some(found as u32),
                _ => None,
            });
            neighbours.push(found.take(NEIGHBOURS).collect());
        }
    }
    Ok(neighbours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(values: Vec<f32>, seed: u64) -> Family {
        let dir = tempfile::tempdir().unwrap();
        Family::new(Matrix { dimension: 3, values }, seed, Some(dir.path())).unwrap()
    }

    fn child(family: &Family, number: usize) -> Vec<f32> {
        let mut out = vec![0.0; 3];
        family.child(number, &mut out);
        out
    }

    /// Points on a line, and points on another one far away.
    fn lines() -> Vec<f32> {
        (0..40)
            .flat_map(|row| if row % 2 == 0 { [row as f32, 0.0, 5.0] } else { [900.0, row as f32, 7.0] })
            .collect()
    }

    #[test]
    fn a_synthetic_row_lies_where_its_parent_and_their_neighbours_do() {
        let family = family(lines(), 1);
        assert!(!family.normalised);
        let children: Vec<Vec<f32>> = (0..400).map(|number| child(&family, number)).collect();
        for (number, child) in children.iter().enumerate() {
            let (still, fixed) = if number % 2 == 0 { ([1, 2], [0.0, 5.0]) } else { ([0, 2], [900.0, 7.0]) };
            for (component, value) in still.into_iter().zip(fixed) {
                assert!((child[component] - value).abs() < 1e-2, "{number}: {child:?}");
            }
        }
        // The parent 20 and its neighbours are 6, 8, ..., 34, and 4 or 36: a mean of 19 or 21, and a variance of 85.
        let brothers: Vec<f32> = (0..4000).map(|turn| child(&family, 20 + 40 * turn)[0]).collect();
        let mean = brothers.iter().sum::<f32>() / 4000.0;
        let variance = brothers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4000.0;
        assert!(
            ((mean - 20.0).abs() - 1.0).abs() < 0.5 && (78.0..92.0).contains(&variance),
            "{mean} {variance}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_rows_and_lengths_of_1_stay() {
        let unit = |values: Vec<f32>| -> Vec<f32> {
            let rows = values.chunks(3).flat_map(|row| {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter().map(move |x| x / length).collect::<Vec<_>>()
            });
            rows.collect()
        };
        let (one, again, other) =
            (family(unit(lines()), 1), family(unit(lines()), 1), family(unit(lines()), 2));
        assert!(one.normalised);
        for number in 0..100 {
            let row = child(&one, number);
            assert_eq!(row, child(&again, number));
            assert_ne!(row, child(&other, number));
            assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
