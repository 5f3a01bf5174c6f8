//! The scalar twins: the fixed order of rule R20 in plain Rust, and the oracle of every other kernel.
//!
//! Written to be read next to the rule, not to be fast, and sharing no code with the SIMD kernels.

use plimsoll_base::mutant::{self, Mutant};

use crate::LANES;
use crate::codes::{self, BLOCK, Estimate, FACTORS};
use crate::dispatch::Table;
use crate::integers;

pub(crate) static TABLE: Table = Table {
    name: "scalar",
    dot,
    l2_squared,
    dot_rows,
    l2_squared_rows,
    dot_matrix,
    dot_f64,
    dot_and_square_f64,
    l2_squared_f64,
    hadamard,
    butterfly: integers::butterfly,
    scan_blocks,
    largest_group: integers::largest_group,
    sign_table: integers::sign_table,
    sizes: integers::sizes,
    round_i16: integers::round_i16,
    round_i8: integers::round_i8,
    dot_i8,
    stream_sum: crate::values::stream_sum,
};

fn fma_product(a: f32, b: f32, sum: f32) -> f32 {
    a.mul_add(b, sum)
}

fn fma_square(a: f32, b: f32, sum: f32) -> f32 {
    let difference = a - b;
    difference.mul_add(difference, sum)
}

/// The first `tail.len()` lanes from `tail`, the rest zero.
fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}

fn accumulate_f64(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    for (index, (&a, &b)) in a.iter().zip(b).enumerate() {
        lanes[index % LANES] += term(f64::from(a), f64::from(b));
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    accumulate_f64(a, b, |a, b| a * b)
}

fn dot_and_square_f64(a: &[f32], b: &[f32]) -> (f64, f64) {
    (dot_f64(a, b), dot_f64(b, b))
}

fn l2_squared_f64(a: &[f32], b: &[f32]) -> f64 {
    accumulate_f64(a, b, |a, b| (a - b) * (a - b))
}

fn accumulate(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        let (a, b) = (padded(a), padded(b));
        for lane in 0..LANES {
            lanes[lane] = step(a[lane], b[lane], lanes[lane]);
        }
    }
    tree_sum(lanes)
}

/// The sum of all lanes as a tree of halves.
fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    if mutant::is(Mutant::AddInOrder) {
        return lanes.iter().sum();
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, fma_product)
}

fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, fma_square)
}

fn dot_rows(query: &[f32], rows: &[f32], out: &mut [f32]) {
    for (index, out) in out.iter_mut().enumerate() {
        *out = dot(query, &rows[index * query.len()..][..query.len()]);
    }
}

fn l2_squared_rows(query: &[f32], rows: &[f32], out: &mut [f32]) {
    for (index, out) in out.iter_mut().enumerate() {
        *out = l2_squared(query, &rows[index * query.len()..][..query.len()]);
    }
}

fn dot_matrix(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    for (query, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(rows.len() / dim)) {
        dot_rows(query, rows, out);
    }
}

fn scan_blocks(
    table: &[u8],
    blocks: &[u8],
    _next: &[u8],
    estimate: &Estimate,
    limit: f32,
    lows: &mut [f32],
    masks: &mut [u32],
) {
    let (lows, _) = lows.as_chunks_mut();
    for ((block, lows), mask) in blocks.chunks_exact(table.len() + FACTORS).zip(lows).zip(masks) {
        let Some((codes, factors)) = block.split_last_chunk() else { continue };
        let mut sums = [0; BLOCK];
        for (entries, codes) in table.chunks_exact(16).zip(codes.chunks_exact(16)) {
            for (vector, code) in codes.iter().enumerate() {
                sums[vector] += u16::from(entries[usize::from(code & 15)]);
                sums[vector + 16] += u16::from(entries[usize::from(code >> 4)]);
            }
        }
        *mask = codes::estimates(&sums, factors, estimate, limit, lows);
    }
}

pub(crate) fn dot_i8(row: &[i8], query: &[i16]) -> i32 {
    let products = row.iter().zip(query).map(|(a, b)| i32::from(*a) * i32::from(*b));
    products.fold(0, i32::wrapping_add)
}

fn hadamard(values: &mut [f32], factors: &[f32]) {
    for (value, factor) in values.iter_mut().zip(factors) {
        *value *= factor;
    }
    let mut half = 1;
    while half < values.len() {
        for block in values.chunks_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_documented_one() {
        // One element a lane: the result is the tree of halves over them, in any other order a different one.
        let a: Vec<f32> =
            (0..16_u8).map(|i| 1.0 + f32::from(i) * 1e-7 * 3.0_f32.powi(i32::from(i))).collect();
        let ones = [1.0; 16];
        let pair = |i: usize| a[i] + a[i + 8];
        let quad = |i: usize| pair(i) + pair(i + 4);
        let expected = (quad(0) + quad(2)) + (quad(1) + quad(3));
        assert_eq!(dot(&a, &ones).to_bits(), expected.to_bits());
    }

    #[test]
    fn a_tail_is_padded_with_zeros_that_are_added() {
        // The product underflows to -0.0, and the zero of the padding step turns that into +0.0.
        let (tiny, mut a) = (f32::from_bits(1), vec![0.0; 17]);
        a[3] = -tiny;
        let b = vec![tiny; 17];
        assert_eq!(dot(&a, &b).to_bits(), 0.0_f32.to_bits());
    }
}
