//! The stages of a query on codes, one at a time and in the nearest cache: `cargo bench --bench stages`. The kernels below
//! them are in `crates/kernels/benches`, a whole search in `database.rs`.

#![expect(clippy::unwrap_used, reason = "a benchmark that can not be set up is a panic")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use plimsoll_codes::{
    Measure, PlaneEncoder, PlaneQuery, Rotation, SignEncoder, SignQuery, blocks_of, record_len,
};

const DIMENSIONS: [usize; 4] = [128, 384, 784, 1024];
/// The rows of a list: seven blocks of codes.
const ROWS: usize = 7 * 32;

/// A vector of sines: what is in it does not matter.
fn vector(number: usize, dimension: usize) -> Vec<f32> {
    (0..dimension).map(|component| (1.7 * (number * dimension + component) as f32).sin()).collect()
}

fn prepare(c: &mut Criterion) {
    let mut group = c.benchmark_group("prepare");
    for dimension in DIMENSIONS {
        let rotation = Rotation::new(dimension, 1);
        let query = vector(0, dimension);
        let mut rotated = vec![0.0; rotation.width()];
        let (mut signs, mut records) = (SignQuery::default(), PlaneQuery::default());
        group.bench_function(BenchmarkId::new("rotate", dimension), |b| {
            b.iter(|| rotation.rotate(black_box(&query), &mut rotated));
        });
        group.bench_function(BenchmarkId::new("table of signs", dimension), |b| {
            b.iter(|| signs.set(black_box(&rotated)));
        });
        group.bench_function(BenchmarkId::new("integers", dimension), |b| {
            b.iter(|| records.set(black_box(&rotated), Measure::L2));
        });
    }
}

fn list(c: &mut Criterion) {
    let mut group = c.benchmark_group("a list of 224 rows");
    for dimension in DIMENSIONS {
        let rotation = Rotation::new(dimension, 1);
        let rotate = |number| {
            let mut rotated = vec![0.0; rotation.width()];
            rotation.rotate(&vector(number, dimension), &mut rotated);
            rotated
        };
        let centroid = vec![0.0; rotation.width()];
        let mut encoder = SignEncoder::new(rotation.width(), Measure::L2);
        let (mut blocks, mut records) = (Vec::new(), Vec::new());
        for row in 0..ROWS {
            encoder.put(&rotate(row), &centroid, row, &mut blocks);
            PlaneEncoder::new(Measure::L2).encode(&rotate(row), &mut records);
        }
        let (mut signs, mut plane) = (SignQuery::default(), PlaneQuery::default());
        signs.set(&rotate(ROWS));
        plane.set(&rotate(ROWS), Measure::L2);
        let squared = rotate(ROWS).iter().map(|x| x * x).sum();
        let (mut lows, mut masks) = ([0.0; ROWS], [0; blocks_of(ROWS)]);
        group.bench_function(BenchmarkId::new("scan", dimension), |b| {
            b.iter(|| {
                let bound = signs.bound(squared, squared, 1.5);
                signs.scan(black_box(&blocks), &[], &bound, squared, &mut lows, &mut masks)
            });
        });
        let len = record_len(rotation.width());
        group.bench_function(BenchmarkId::new("re-rank 32", dimension), |b| {
            b.iter(|| {
                let distances =
                    black_box(&records).chunks_exact(len).take(32).map(|record| plane.distance(record));
                distances.map(|distance| distance.unwrap().distance).fold(f32::INFINITY, f32::min)
            });
        });
    }
}

criterion_group!(benches, prepare, list);
criterion_main!(benches);
