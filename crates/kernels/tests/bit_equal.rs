//! Rule R20: every kernel gives the bits of its scalar twin, on any input, at any alignment.

use plimsoll_kernels::{BLOCK, Estimate, Kernels};
use proptest::prelude::*;

const DIMS: [usize; 5] = [384, 784, 1000, 1536, 4096];

/// A small generator (SplitMix64), so that a failure names a seed and nothing else.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.uniform() * scale).collect()
    }

    /// Any bit pattern that is a finite number: subnormal, huge, and all between.
    fn wild(&mut self, n: usize) -> Vec<f32> {
        std::iter::repeat_with(|| f32::from_bits(self.bits() as u32))
            .filter(|x| x.is_finite())
            .take(n)
            .collect()
    }
}

/// The bits, except that all NaN are one (IEEE 754 leaves their payload open).
fn bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

fn all_bits(values: &[f32]) -> Vec<u32> {
    values.iter().copied().map(bits).collect()
}

fn assert_pair_equal(a: &[f32], b: &[f32]) {
    let oracle = Kernels::scalar();
    for kernels in Kernels::available() {
        let (name, dim) = (kernels.name(), a.len());
        assert_eq!(bits(kernels.dot(a, b)), bits(oracle.dot(a, b)), "dot, {name}, {dim}");
        assert_eq!(bits(kernels.l2_squared(a, b)), bits(oracle.l2_squared(a, b)), "l2, {name}, {dim}");
        assert_eq!(kernels.dot_f64(a, b).to_bits(), oracle.dot_f64(a, b).to_bits(), "dot_f64, {name}, {dim}");
        let both = kernels.dot_and_square_f64(a, b);
        let apart = (oracle.dot_f64(a, b), oracle.dot_f64(b, b));
        let both_bits = |(dot, square): (f64, f64)| (dot.to_bits(), square.to_bits());
        assert_eq!(both_bits(both), both_bits(apart), "dot_and_square_f64, {name}, {dim}");
        let l2 = |kernels: Kernels| kernels.l2_squared_f64(a, b).to_bits();
        assert_eq!(l2(kernels), l2(oracle), "l2_f64, {name}, {dim}");
    }
}

fn assert_rows_equal(query: &[f32], rows: &[f32], n: usize) {
    let oracle = Kernels::scalar();
    let dim = query.len();
    let row = |index: usize| &rows[index * dim..][..dim];
    let dots: Vec<u32> = (0..n).map(|index| bits(oracle.dot(query, row(index)))).collect();
    let squares: Vec<u32> = (0..n).map(|index| bits(oracle.l2_squared(query, row(index)))).collect();
    for kernels in Kernels::available() {
        let mut out = vec![f32::NAN; n];
        kernels.dot_rows(query, rows, &mut out);
        assert_eq!(all_bits(&out), dots, "dot_rows, {}, {dim} x {n}", kernels.name());
        kernels.l2_squared_rows(query, rows, &mut out);
        assert_eq!(all_bits(&out), squares, "l2_squared_rows, {}, {dim} x {n}", kernels.name());
    }
}

fn assert_matrix_equal(queries: &[f32], rows: &[f32], dim: usize) {
    let (m, n) = (queries.len() / dim, rows.len() / dim);
    let mut expected = vec![0.0; m * n];
    Kernels::scalar().dot_matrix(queries, rows, dim, &mut expected);
    for kernels in Kernels::available() {
        let mut out = vec![f32::NAN; m * n];
        kernels.dot_matrix(queries, rows, dim, &mut out);
        assert_eq!(all_bits(&out), all_bits(&expected), "dot_matrix, {}, {m} x {n} x {dim}", kernels.name());
    }
}

#[test]
fn pairs_of_every_length_and_alignment() {
    let mut random = Random(1);
    for dim in (0..=130).chain(DIMS) {
        for scale in [1.0, 1e-20, f32::MIN_POSITIVE, 1e19, f32::MAX] {
            let (a, b) = (random.values(dim + 16, scale), random.values(dim + 16, scale));
            for shift in [0, 1, 7, 15] {
                assert_pair_equal(&a[shift..][..dim], &b[16 - shift..][..dim]);
            }
        }
        let (a, b) = (random.wild(dim), random.wild(dim));
        assert_pair_equal(&a, &b);
    }
}

#[test]
fn rows_of_every_length() {
    let mut random = Random(2);
    for dim in (0..=66).chain(DIMS) {
        for n in [0, 1, 3, 4, 5, 9] {
            let (query, rows) = (random.values(dim, 1.0), random.values(1 + n * dim, 1.0));
            assert_rows_equal(&query, &rows[1..], n);
            let (query, rows) = (random.wild(dim), random.wild(n * dim));
            assert_rows_equal(&query, &rows, n);
        }
    }
}

#[test]
fn matrices_of_every_shape() {
    let mut random = Random(3);
    for dim in [1, 2, 15, 16, 17, 48, 100] {
        for m in 0..=13 {
            for n in 0..=9 {
                assert_matrix_equal(&random.values(m * dim, 1.0), &random.values(n * dim, 1.0), dim);
            }
        }
    }
    assert_matrix_equal(&random.wild(7 * 784), &random.wild(131 * 784), 784);
    assert_matrix_equal(&random.values(13 * 4096, 1.0), &random.values(29 * 4096, 1.0), 4096);
}

proptest! {
    #[test]
    fn pairs_of_any_bits(values in prop::collection::vec((any::<u32>(), any::<u32>()), 0..200)) {
        let (a, b): (Vec<f32>, Vec<f32>) =
            values.into_iter().map(|(a, b)| (f32::from_bits(a), f32::from_bits(b))).unzip();
        let oracle = Kernels::scalar();
        for kernels in Kernels::available() {
            prop_assert_eq!(bits(kernels.dot(&a, &b)), bits(oracle.dot(&a, &b)));
            prop_assert_eq!(bits(kernels.l2_squared(&a, &b)), bits(oracle.l2_squared(&a, &b)));
        }
    }
}

#[test]
#[should_panic(expected = "vectors of different lengths: 3 and 2")]
fn a_pair_of_different_lengths_is_a_bug() {
    plimsoll_kernels::dot(&[0.0; 3], &[0.0; 2]);
}

#[test]
#[should_panic(expected = "11 row values are not 4 rows of the query's dimension 3")]
fn rows_that_do_not_fit_are_a_bug() {
    plimsoll_kernels::l2_squared_rows(&[0.0; 3], &[0.0; 11], &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "don't fit 5 outputs")]
fn a_matrix_that_does_not_fit_is_a_bug() {
    plimsoll_kernels::dot_matrix(&[0.0; 6], &[0.0; 6], 3, &mut [0.0; 5]);
}

#[test]
fn hadamard_transforms_are_equal_and_their_own_inverse() {
    let mut random = Random(7);
    for len in [16, 32, 64, 128, 256, 512, 1024, 2048, 4096] {
        let values = random.values(len, 3.0);
        let norm = 1.0 / (len as f32).sqrt();
        let factors: Vec<f32> = (0..len).map(|_| if random.bits() & 1 == 0 { norm } else { -norm }).collect();
        let transformed = |kernels: Kernels| {
            let mut out = values.clone();
            kernels.hadamard(&mut out, &factors);
            out
        };
        let oracle = transformed(Kernels::scalar());
        for kernels in Kernels::available() {
            assert_eq!(all_bits(&transformed(kernels)), all_bits(&oracle), "{}, {len}", kernels.name());
        }
        let mut back = oracle;
        Kernels::scalar().hadamard(&mut back, &vec![1.0; len]);
        for (index, value) in values.iter().enumerate() {
            let again = back[index] * factors[index];
            assert!((again - value).abs() < 1e-4, "{len}: {again} {value}");
        }
    }
}

/// A list of `count` blocks of random codes, with factors.
fn sign_blocks(random: &mut Random, table_len: usize, count: usize) -> Vec<u8> {
    let mut blocks = Vec::new();
    for _ in 0..count {
        blocks.extend((0..table_len).map(|_| random.bits() as u8));
        let (add, scale) = (random.values(BLOCK, 9.0), random.values(BLOCK, 2.0));
        blocks.extend(add.iter().chain(&scale).flat_map(|factor| factor.to_le_bytes()));
    }
    blocks
}

#[test]
fn scans_of_sign_codes_are_equal() {
    let mut random = Random(8);
    for width in [16, 32, 48, 64, 80, 128, 384, 784, 1536, 4096] {
        for round in 0..12 {
            let len = 4 * width;
            // The largest sums in some rounds.
            let table: Vec<u8> =
                (0..len).map(|_| if round == 0 { 31 } else { (random.bits() % 32) as u8 }).collect();
            let count = if round < 4 { round } else { (random.bits() % 12) as usize };
            let blocks = sign_blocks(&mut random, len, count);
            let estimate =
                Estimate { step: random.uniform(), shift: random.uniform(), base: random.uniform() };
            let limit = 100.0 * random.uniform();
            let scan = |kernels: Kernels, blocks: &[u8]| {
                let count = blocks.len() / (len + 8 * BLOCK);
                let (mut lows, mut masks) = (vec![f32::NAN; count * BLOCK], vec![0; count]);
                kernels.scan_blocks(
                    &table,
                    blocks,
                    &blocks[blocks.len() / 2..],
                    &estimate,
                    limit,
                    &mut lows,
                    &mut masks,
                );
                (masks, all_bits(&lows))
            };
            let oracle = scan(Kernels::scalar(), &blocks);
            for kernels in Kernels::available() {
                assert_eq!(scan(kernels, &blocks), oracle, "{}, {width} x {count}", kernels.name());
                // Each block by itself, at an odd address.
                for (index, block) in blocks.chunks(len + 8 * BLOCK).enumerate() {
                    let shifted: Vec<u8> = std::iter::once(0).chain(block.iter().copied()).collect();
                    let (masks, lows) = scan(kernels, &shifted[1..]);
                    assert_eq!(masks[0], oracle.0[index], "{}, {width}", kernels.name());
                    assert_eq!(lows, oracle.1[BLOCK * index..][..BLOCK], "{}, {width}", kernels.name());
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "scan_blocks: 319 bytes, 32 estimates and 1 masks, for a table of 64 bytes")]
fn a_list_that_is_not_whole_blocks_is_a_bug() {
    let estimate = Estimate { step: 1.0, shift: 0.0, base: 0.0 };
    plimsoll_kernels::scan_blocks(&[0; 64], &[0; 319], &[], &estimate, 0.0, &mut [0.0; 32], &mut [0]);
}

#[test]
fn integer_products_are_equal() {
    let mut random = Random(9);
    for width in [0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 384, 784, 1536, 4096] {
        for _ in 0..20 {
            let row: Vec<i8> = (0..width).map(|_| random.bits() as i8).collect();
            let query: Vec<i16> = (0..width).map(|_| random.bits() as i16 / 8).collect();
            for kernels in Kernels::available() {
                let dot = |kernels: Kernels| kernels.dot_i8(&row, &query);
                assert_eq!(dot(kernels), dot(Kernels::scalar()), "{}, {width}", kernels.name());
            }
        }
    }
}

#[test]
fn what_turns_vectors_into_integers_is_equal() {
    let mut random = Random(10);
    for len in [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 100, 384, 784, 1001, 4096] {
        for scale in [1.0, 1e-20, 1e19] {
            let mut values = random.values(len, scale);
            values.iter_mut().step_by(7).for_each(|value| *value = 0.0);
            let more = random.values(len, scale);
            let per_step = 300.0 / scale * random.uniform().abs();
            let all = |kernels: Kernels| {
                let (mut low, mut high) = (values.clone(), more.clone());
                kernels.butterfly(&mut low, &mut high);
                let (largest, sum) = kernels.sizes(&values);
                let mut words = vec![0; len];
                let words_sum = kernels.round_i16(&values, 100.0 * per_step, &mut words);
                let mut bytes = vec![0; len];
                kernels.round_i8(&values, per_step, &mut bytes);
                let (mut table, mut total, mut group) = (vec![0; 4 * len], 0, 0.0);
                if len % 8 == 0 {
                    group = kernels.largest_group(&values);
                    total = kernels.sign_table(&values, per_step / 20.0, &mut table);
                }
                let floats = (all_bits(&low), all_bits(&high), bits(largest), bits(sum), bits(group));
                (floats, words, words_sum, bytes, table, total)
            };
            let oracle = all(Kernels::scalar());
            assert_eq!(oracle.2, oracle.1.iter().map(|word| u32::from(word.unsigned_abs())).sum::<u32>());
            assert_eq!(oracle.5, oracle.4.iter().map(|entry| u32::from(*entry)).sum::<u32>());
            for (index, value) in values.iter().enumerate() {
                let word = (value * (100.0 * per_step)).round_ties_even().clamp(-32767.0, 32767.0);
                assert_eq!(f32::from(oracle.1[index]), word);
                let steps = (value * per_step).clamp(-127.0, 127.0);
                assert_eq!(f32::from(oracle.3[index]), steps.round_ties_even());
            }
            for kernels in Kernels::available() {
                assert!(all(kernels) == oracle, "{}, {len}, {scale}", kernels.name());
            }
        }
    }
}
