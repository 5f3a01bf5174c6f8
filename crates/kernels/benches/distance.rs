//! One core against its memory: distance kernels over rows that live in the second-level cache, in the
//! third, and in main memory, beside a plain read of the same bytes; and the blocked matrix product.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plimsoll_kernels::Kernels;

const DIMS: [usize; 5] = [128, 384, 784, 1024, 1536];
const SIZES: [(&str, usize); 3] = [("L2", 256 << 10), ("L3", 8 << 20), ("DRAM", 256 << 20)];

/// Floats from a linear congruence, 64-byte aligned by skipping at most 15 of them.
struct Floats {
    values: Vec<f32>,
    skip: usize,
}

impl Floats {
    fn new(n: usize) -> Self {
        let mut state = 1_u32;
        let values: Vec<f32> = (0..n + 16)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let skip = values.as_ptr().align_offset(64).min(16);
        Self { values, skip }
    }

    fn get(&self, n: usize) -> &[f32] {
        &self.values[self.skip..][..n]
    }

    fn bytes(&self, n: usize) -> Vec<u8> {
        self.get(n).iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

fn reads(criterion: &mut Criterion) {
    let floats = Floats::new(SIZES[2].1 / 4);
    for (place, bytes) in SIZES {
        let copy = floats.bytes(bytes / 4);
        let mut group = criterion.benchmark_group(format!("read/{place}"));
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
        group.bench_function("stream_sum", |bench| {
            bench.iter(|| Kernels::detect().stream_sum(black_box(&copy)));
        });
        group.finish();
    }
}

fn rows(criterion: &mut Criterion) {
    let floats = Floats::new(SIZES[2].1 / 4);
    for (place, bytes) in SIZES {
        for dim in DIMS {
            let n = bytes / 4 / dim;
            let (query, rows) = (floats.get(dim).to_vec(), floats.get(n * dim));
            let mut out = vec![0.0; n];
            let mut group = criterion.benchmark_group(format!("rows/{place}/{dim}"));
            group.throughput(Throughput::Bytes((4 * n * dim) as u64)).sample_size(10);
            for kernels in Kernels::available().into_iter().skip(1) {
                group.bench_function(BenchmarkId::new("dot_rows", kernels.name()), |bench| {
                    bench.iter(|| kernels.dot_rows(black_box(&query), rows, &mut out));
                });
                group.bench_function(BenchmarkId::new("l2_squared_rows", kernels.name()), |bench| {
                    bench.iter(|| kernels.l2_squared_rows(black_box(&query), rows, &mut out));
                });
            }
            group.finish();
        }
    }
}

fn matrix(criterion: &mut Criterion) {
    let (m, n) = (384, 512);
    for dim in DIMS {
        let floats = Floats::new((m + n) * dim + 16);
        let (queries, rows) = floats.get((m + n) * dim).split_at(m * dim);
        let mut out = vec![0.0; m * n];
        let mut group = criterion.benchmark_group(format!("matrix/{dim}"));
        group.throughput(Throughput::Elements((m * n * dim) as u64)).sample_size(10);
        for kernels in Kernels::available().into_iter().skip(1) {
            group.bench_function(kernels.name(), |bench| {
                bench.iter(|| kernels.dot_matrix(black_box(queries), rows, dim, &mut out));
            });
        }
        group.finish();
    }
}

fn pairs(criterion: &mut Criterion) {
    let floats = Floats::new(2 * 4096);
    let mut group = criterion.benchmark_group("pair");
    for dim in [128, 784, 1536] {
        let (a, b) = floats.get(2 * dim).split_at(dim);
        for kernels in Kernels::available() {
            group.bench_function(BenchmarkId::new(format!("dot/{}", kernels.name()), dim), |bench| {
                bench.iter(|| kernels.dot(black_box(a), black_box(b)));
            });
            group.bench_function(BenchmarkId::new(format!("dot_f64/{}", kernels.name()), dim), |bench| {
                bench.iter(|| kernels.dot_f64(black_box(a), black_box(b)));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = reads, rows, matrix, pairs
}
criterion_main!(benches);
