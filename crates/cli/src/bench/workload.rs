//! The rows that benchmarks store, and the temporary directories they store them in.

use std::path::Path;

use plimsoll::{CollectionConfig, Database, FlushPolicy, Metric, WriteBatch};
use tempfile::TempDir;

use super::random::Random;
use crate::error::{CliError, Result};
use crate::input::{Matrix, read_matrix};

/// The seed of random vectors: every run has the same.
const SEED: u64 = 0x506c_696d_736f_6c6c;
/// Random vectors lie around so many centres, as real ones do.
const CENTRES: usize = 64;

const BATCH_ROWS: u64 = 1000;
/// Nothing is flushed unless someone does.
pub(super) const NO_FLUSH: usize = 4 << 30;

/// Vectors, repeated for as many rows as are asked for.
pub(super) struct Workload {
    matrix: Matrix,
}

impl Workload {
    /// The vectors of a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Ok(Self { matrix: read_matrix(path)? })
    }

    /// These vectors.
    pub(super) fn of(matrix: Matrix) -> Self {
        Self { matrix }
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

    /// Makes a database with rows in one collection, `c`, all of them in its log and none of them flushed. Nothing happens in
    /// its background.
    pub(super) fn fill(&self, dir: &Path, metric: Metric, rows: u64) -> Result<Database> {
        let builder = Database::builder(dir).background(false).memtable_bytes(NO_FLUSH);
        let db = builder.max_wal_bytes(NO_FLUSH as u64).open()?;
        let collection = db.create_collection("c", CollectionConfig::new(self.dimension(), metric))?;
        collection.set_flush_policy(FlushPolicy::manual())?;
        let mut row = 0;
        while row < rows {
            let end = rows.min(row + BATCH_ROWS);
            collection.write(&self.batch(row..end))?;
            row = end;
        }
        Ok(db)
    }

    /// Makes a database with these vectors in one collection, `c`, flushed, compacted and closed.
    pub(super) fn store(&self, dir: &Path, metric: Metric) -> Result<()> {
        let db = self.fill(dir, metric, self.len() as u64)?;
        db.flush()?;
        db.compact()?;
        Ok(db.close()?)
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

fn random(rows: usize, dimension: usize) -> Matrix {
    let mut random = Random::new(SEED);
    let centres: Vec<f32> = (0..CENTRES * dimension).map(|_| random.normal()).collect();
    let mut values = Vec::with_capacity(rows * dimension);
    for _ in 0..rows {
        let centre = random.below(CENTRES) * dimension;
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
