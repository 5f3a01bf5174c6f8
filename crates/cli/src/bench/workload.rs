//! The rows that benchmarks store, and the temporary directories they store them in.

use std::path::Path;

use plimsoll::WriteBatch;
use tempfile::TempDir;

use crate::error::{CliError, Result};
use crate::input::{Matrix, read_matrix};

/// The seed of random vectors: every run has the same.
const SEED: u64 = 0x506c_696d_736f_6c6c;
/// Random vectors lie around so many centres, as real ones do.
const CENTRES: usize = 64;

/// Vectors, repeated for as many rows as are asked for.
pub(super) struct Workload {
    matrix: Matrix,
}

impl Workload {
    /// The vectors of a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Ok(Self { matrix: read_matrix(path)? })
    }

    /// The vectors of a file, or `rows` random ones.
    pub(super) fn read_or_random(path: Option<&Path>, rows: usize, dimension: usize) -> Result<Self> {
        path.map_or_else(|| Ok(Self { matrix: random(rows, dimension) }), Self::read)
    }

    pub(super) fn dimension(&self) -> usize {
        self.matrix.dimension
    }

    /// How many different vectors there are.
    pub(super) fn len(&self) -> usize {
        self.matrix.len()
    }

    /// The vector of a row.
    pub(super) fn vector(&self, row: u64) -> &[f32] {
        self.matrix.row((row % self.len() as u64) as usize)
    }

    /// Rows as one batch, their numbers as ids.
    pub(super) fn batch(&self, rows: std::ops::Range<u64>) -> WriteBatch {
        let mut batch = WriteBatch::with_capacity((rows.end - rows.start) as usize);
        for row in rows {
            batch.upsert_vector(row, self.vector(row));
        }
        batch
    }
}

/// A generator of random numbers: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// About normally distributed, with variance 1: a sum of twelve.
    fn normal(&mut self) -> f32 {
        let bits = [self.next(), self.next(), self.next()];
        let sum: u64 =
            bits.iter().map(|bits| (0..4).map(|part| bits >> (16 * part) & 0xffff).sum::<u64>()).sum();
        sum as f32 / 65_536.0 - 6.0
    }
}

fn random(rows: usize, dimension: usize) -> Matrix {
    let mut random = Random(SEED);
    let centres: Vec<f32> = (0..CENTRES * dimension).map(|_| random.normal()).collect();
    let mut values = Vec::with_capacity(rows * dimension);
    for _ in 0..rows {
        let centre = random.next() as usize % CENTRES * dimension;
        values.extend(centres[centre..][..dimension].iter().map(|value| value + 0.7 * random.normal()));
    }
    Matrix { dimension, values }
}

/// A new directory in `dir`, or in the current one, that goes away with the value.
pub(super) fn temporary_directory(dir: Option<&Path>) -> Result<TempDir> {
    let parent = dir.unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix("plimsoll-bench-").tempdir_in(parent);
    made.map_err(|error| CliError::file(parent, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_rows_repeat_and_have_the_right_spread() {
        let rows = random(300, 16);
        assert_eq!(rows, random(300, 16));
        let variance = rows.values.iter().map(|value| value * value).sum::<f32>() / rows.values.len() as f32;
        assert!((1.0..2.2).contains(&variance), "{variance}");
        let workload = Workload { matrix: rows };
        assert_eq!(workload.vector(305), workload.vector(5));
        assert_eq!(workload.batch(3..8).len(), 5);
    }
}
