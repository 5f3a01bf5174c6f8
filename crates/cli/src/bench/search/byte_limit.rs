//! The byte limit: what a query would take if it did nothing but read what it has to, at the rates at which this machine
//! reads, and the share of it that a search reaches.
//!
//! | part of the limit | bytes | rate |
//! |---|---|---|
//! | the query's rotation, table and integers | | the kernels' own time |
//! | signs of all centroids, records of twice the lists visited | lists · (D/8 + 8) + 2 · visited · (D + 64) | a plain stream over as many bytes as all sign codes have |
//! | sign codes scanned | codes · (D/8 + 8) | the same |
//! | records of re-ranked rows | re-ranked · (D + 8) | random reads with prefetch from memory |
//! | refinements of the last rows | refined · D | the same |
//! | vectors of rows that these do not settle | measured · 4 d | the same |
//!
//! Every query reads a part of the sign codes, so that caches keep them if they can; between two visits to one row there are
//! thousands of others, and caches have other things to keep. Where a cache holds all records, the limit is more than it has to
//! take.
//!
//! Everything is measured in the same run with the same kernels that searches use; reading is measured before and after the
//! settings, and the faster one counts. Rates of a stream in second-level cache, third-level cache and memory are said beside
//! it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use plimsoll_kernels as kernels;
use serde::Serialize;

use super::super::measure::{cpu_time, rate};
use super::super::random::Random;
use super::measured::Touched;

/// Larger than any cache of one core, so that reading it is reading memory.
pub(super) const MEMORY_BYTES: usize = 256 << 20;
const SIZES: [(&str, usize); 3] = [("L2", 256 << 10), ("L3", 8 << 20), ("memory", MEMORY_BYTES)];
/// So many passes over a buffer, of which the best counts, each over at least so many bytes in all.
const PASSES: usize = 5;
const PASS_BYTES: usize = 64 << 20;
/// So many reads ahead a random read is prefetched.
const AHEAD: usize = 32;
const READS: usize = 50_000;
const ROTATION_ROUNDS: usize = 3;

/// How fast this machine reads what a collection has.
#[derive(Debug, Clone, Serialize)]
pub(in crate::bench) struct Rates {
    /// Plain streams in bytes per second, in second-level cache, third-level cache and memory.
    streams: [(&'static str, f64); SIZES.len()],
    /// The same over as many bytes as all sign codes have.
    codes: f64,
    /// Nanoseconds of a random read of a record, of a refinement, and of a vector.
    record_ns: f64,
    refinement_ns: f64,
    vector_ns: f64,
    /// Nanoseconds of preparing a query.
    prepare_ns: f64,
    #[serde(skip)]
    shape: Shape,
}

/// What there is to be read.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Shape {
    pub dimension: usize,
    pub rows: usize,
    pub lists: usize,
}

/// What a setting takes, beside the least that its reads take.
#[derive(Debug, Clone, Copy, Serialize)]
pub(in crate::bench) struct Share {
    /// Bytes a query reads.
    pub bytes: f64,
    pub limit_us: f64,
    pub measured_us: f64,
    pub share: f64,
}

impl Shape {
    /// The dimension as it is stored, a multiple of 16.
    fn width(self) -> usize {
        self.dimension.next_multiple_of(16)
    }

    /// The bytes of a row's sign code.
    fn code(self) -> usize {
        self.width() / 8 + 8
    }

    fn record(self) -> usize {
        self.width() + 8
    }

    fn vector(self) -> usize {
        4 * self.dimension
    }
}

impl Rates {
    pub(super) fn measure(shape: Shape) -> Self {
        // Which need not be larger than what no cache holds.
        let codes = (shape.code() * shape.rows).clamp(shape.code(), MEMORY_BYTES);
        Self {
            streams: SIZES.map(|(name, bytes)| (name, stream(bytes))),
            codes: stream(codes),
            record_ns: random_reads(MEMORY_BYTES, shape.record()),
            refinement_ns: random_reads(MEMORY_BYTES, shape.width()),
            vector_ns: random_reads(MEMORY_BYTES, shape.vector()),
            prepare_ns: prepare(shape.width()),
            shape,
        }
    }

    /// The better of two measurements of each.
    pub(super) fn best(&self, other: &Self) -> Self {
        let mut best = self.clone();
        for (stream, other) in best.streams.iter_mut().zip(&other.streams) {
            stream.1 = stream.1.max(other.1);
        }
        best.codes = best.codes.max(other.codes);
        best.record_ns = best.record_ns.min(other.record_ns);
        best.refinement_ns = best.refinement_ns.min(other.refinement_ns);
        best.vector_ns = best.vector_ns.min(other.vector_ns);
        best.prepare_ns = best.prepare_ns.min(other.prepare_ns);
        best
    }

    /// How much of the limit a query reaches that touches this and takes so many nanoseconds.
    pub(super) fn share(&self, touched: &Touched, ns: f64) -> Share {
        let shape = self.shape;
        let routed = (shape.lists * shape.code()) as f64 + 2.0 * touched.lists * (shape.width() + 64) as f64;
        let streamed = routed + touched.codes * shape.code() as f64;
        let random = [
            (touched.reranked, shape.record(), self.record_ns),
            (touched.refined, shape.width(), self.refinement_ns),
            (touched.measured, shape.vector(), self.vector_ns),
        ];
        let bytes = streamed + random.iter().map(|(rows, bytes, _)| rows * *bytes as f64).sum::<f64>();
        let reads: f64 = random.iter().map(|(rows, _, ns)| rows * ns).sum();
        let limit = self.prepare_ns + streamed / self.codes * 1e9 + reads;
        Share { bytes, limit_us: limit / 1e3, measured_us: ns / 1e3, share: limit / ns }
    }

    /// The rates in words.
    pub(super) fn text(&self) -> String {
        let streams: Vec<String> =
            self.streams.iter().map(|(name, rate)| format!("{name} {:.1} GB/s", rate / 1e9)).collect();
        format!(
            "one core reads in this run: {}; all sign codes {:.1} GB/s; a record {:.0} ns, a vector {:.0} ns; preparing takes {:.2} µs",
            streams.join(", "),
            self.codes / 1e9,
            self.record_ns,
            self.vector_ns,
            self.prepare_ns / 1e3
        )
    }
}

/// The bytes per second that one core reads again and again from so many: the best of five passes.
pub(super) fn stream(bytes: usize) -> f64 {
    let buffer: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
    let turns = PASS_BYTES.div_ceil(bytes);
    let pass = || {
        for _ in 0..turns {
            black_box(kernels::stream_sum(black_box(&buffer)));
        }
    };
    rate((bytes * turns) as f64, best(pass))
}

/// The shortest of some runs, in processor time where that can be told: others may be running, too.
fn best(mut run: impl FnMut()) -> Duration {
    let times = (0..PASSES).map(|_| {
        let (wall, cpu) = (Instant::now(), cpu_time());
        run();
        let cpu = cpu_time().zip(cpu).map(|(after, before)| after.saturating_sub(before));
        cpu.unwrap_or_else(|| wall.elapsed())
    });
    times.min().unwrap_or_default()
}

/// The nanoseconds that reading `length` bytes at a random place of so many takes, prefetched.
fn random_reads(bytes: usize, length: usize) -> f64 {
    let buffer: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
    let mut random = Random::new(1);
    let places: Vec<usize> = (0..READS + AHEAD).map(|_| random.below(bytes / length) * length).collect();
    let run = || {
        for (place, ahead) in places.iter().zip(&places[AHEAD..]) {
            kernels::prefetch(&buffer[*ahead..][..length]);
            black_box(kernels::stream_sum(black_box(&buffer[*place..][..length])));
        }
    };
    best(run).as_nanos() as f64 / READS as f64
}

/// The nanoseconds of rotating a query of a width and of making its table and its integers: the kernels alone.
fn prepare(width: usize) -> f64 {
    let turns = 1000;
    let transform = 1 << width.ilog2();
    let transforms = ROTATION_ROUNDS * if width.is_power_of_two() { 1 } else { 2 };
    let factors = vec![1.0 / (transform as f32).sqrt(); transform];
    let query: Vec<f32> = (0..width).map(|component| (component as f32).sin()).collect();
    let (mut rotated, mut table, mut integers) = (query.clone(), vec![0; 4 * width], vec![0; width]);
    let run = || {
        for _ in 0..turns {
            rotated.copy_from_slice(black_box(&query));
            for turn in 0..transforms {
                let start = if turn % 2 == 0 { 0 } else { width - transform };
                kernels::hadamard(&mut rotated[start..start + transform], &factors);
            }
            black_box(kernels::sign_table(&rotated, 3.0, &mut table));
            black_box(kernels::round_i16(&rotated, 1000.0, &mut integers));
        }
    };
    best(run).as_nanos() as f64 / f64::from(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_sum_of_its_parts() {
        let shape = Shape { dimension: 20, rows: 1000, lists: 10 };
        let rates = Rates {
            streams: SIZES.map(|(name, _)| (name, 1.0)),
            codes: 2e9,
            record_ns: 10.0,
            refinement_ns: 20.0,
            vector_ns: 100.0,
            prepare_ns: 500.0,
            shape,
        };
        let (lists, codes, reranked) = (2.0, 100.0, 5.0);
        let touched = Touched { lists, codes, reranked, refined: 4.0, measured: 3.0, ..Touched::default() };
        let share = rates.share(&touched, 2000.0);
        let streamed = 10.0 * 12.0 + 4.0 * 96.0 + 100.0 * 12.0;
        assert_eq!(share.bytes, streamed + 5.0 * 40.0 + 4.0 * 32.0 + 3.0 * 80.0);
        assert_eq!(share.limit_us, (500.0 + streamed / 2.0 + 50.0 + 80.0 + 300.0) / 1e3);
        assert_eq!((share.measured_us, share.share), (2.0, share.limit_us / 2.0));
        let slower = Rates { codes: 1e9, record_ns: 5.0, ..rates.clone() };
        let best = rates.best(&slower);
        assert_eq!((best.codes, best.record_ns), (2e9, 5.0));
    }

    #[test]
    fn what_is_measured_takes_time() {
        assert!(stream(1 << 20) > 1e6 && random_reads(1 << 20, 392) > 0.1 && prepare(48) > 1.0);
    }
}
