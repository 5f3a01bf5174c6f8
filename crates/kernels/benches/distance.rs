//! One core against its memory: distance kernels over rows that live in the second-level cache, in the
//! third, and in main memory, beside a plain read of the same bytes; the blocked matrix product; scans of lists of sign
//! codes in the same three places; and what a query costs before and after them.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plimsoll_kernels::{BLOCK, Estimate, Kernels};

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
            group.bench_function(
                BenchmarkId::new(format!("dot_and_square_f64/{}", kernels.name()), dim),
                |bench| {
                    bench.iter(|| kernels.dot_and_square_f64(black_box(a), black_box(b)));
                },
            );
            group.bench_function(
                BenchmarkId::new(format!("l2_squared_f64/{}", kernels.name()), dim),
                |bench| {
                    bench.iter(|| kernels.l2_squared_f64(black_box(a), black_box(b)));
                },
            );
        }
    }
    group.finish();
}

/// Lists of 7 blocks of sign codes, in a random order, as a query meets them.
fn signs(criterion: &mut Criterion) {
    const BLOCKS: usize = 7;
    let floats = Floats::new(SIZES[2].1 / 4);
    let bytes = floats.bytes(SIZES[2].1 / 4);
    for (place, size) in SIZES {
        for dim in [384, 784] {
            let len = BLOCKS * (4 * dim + 8 * BLOCK);
            let lists = size / len;
            // A large prime step visits each list once.
            let order: Vec<&[u8]> =
                (0..lists).map(|n| &bytes[n * 2_654_435_761 % lists * len..][..len]).collect();
            let table: Vec<u8> = (0..4 * dim).map(|entry| (entry * 7 % 32) as u8).collect();
            let estimate = Estimate { step: 0.1, shift: -1.0, base: 3.0 };
            let (mut lows, mut masks) = ([0.0; BLOCK * BLOCKS], [0; BLOCKS]);
            let mut group = criterion.benchmark_group(format!("signs/{place}/{dim}"));
            group.throughput(Throughput::Elements((lists * BLOCKS * BLOCK) as u64)).sample_size(10);
            for kernels in Kernels::available().into_iter().skip(1) {
                group.bench_function(BenchmarkId::new("scan_blocks", kernels.name()), |bench| {
                    bench.iter(|| {
                        for (index, list) in order.iter().enumerate() {
                            let next = order.get(index + 1).copied().unwrap_or_default();
                            kernels.scan_blocks(
                                black_box(&table),
                                list,
                                next,
                                &estimate,
                                0.0,
                                &mut lows,
                                &mut masks,
                            );
                        }
                        masks[0]
                    });
                });
            }
            group.finish();
        }
    }
}

/// The kernels of a query's preparation and of its last distances, in the nearest cache.
fn integers(criterion: &mut Criterion) {
    let floats = Floats::new(4096);
    let mut group = criterion.benchmark_group("integers");
    for dim in [384, 784] {
        let values = floats.get(dim).to_vec();
        let block = 1 << dim.ilog2();
        let factors = vec![1.0 / (block as f32).sqrt(); block];
        let (mut table, mut words) = (vec![0; 4 * dim], vec![0; dim]);
        let mut high = vec![0; dim];
        for kernels in Kernels::available() {
            let id = |what: &str| BenchmarkId::new(format!("{what}/{}", kernels.name()), dim);
            let mut copy = values.clone();
            group.bench_function(id("hadamard"), |bench| {
                bench.iter(|| kernels.hadamard(black_box(&mut copy[..block]), &factors));
            });
            group.bench_function(id("sign_table"), |bench| {
                bench.iter(|| {
                    let largest = kernels.largest_group(black_box(&values));
                    kernels.sign_table(&values, 31.0 / largest, &mut table)
                });
            });
            group.bench_function(id("round_i16"), |bench| {
                bench.iter(|| {
                    let (largest, _) = kernels.sizes(black_box(&values));
                    kernels.round_i16(&values, 32_767.0 / largest, &mut words)
                });
            });
            group.bench_function(id("round_i8"), |bench| {
                bench.iter(|| kernels.round_i8(black_box(&values), 127.0, &mut high));
            });
            group.bench_function(id("dot_i8"), |bench| {
                bench.iter(|| kernels.dot_i8(black_box(&high), black_box(&words)));
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
    targets = reads, rows, matrix, pairs, signs, integers
}
criterion_main!(benches);
