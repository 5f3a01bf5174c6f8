//! The kernels that turn vectors into integers: one body in plain Rust that the compiler vectorises, compiled once for
//! each instruction set. Rust never fuses a multiplication and an addition by itself, so the bits don't depend on the
//! machine.

use crate::LANES;

/// Adding it to a number of less than 2²² in absolute value leaves that number, rounded to the nearest integer and
/// halves to the even one, in the low bits of the sum.
const ROUND: f32 = (3 << 22) as f32;

/// The nearest integer, halves to the even one, of a number from −2¹⁵ to 2¹⁵.
#[inline(always)]
fn rounded(value: f32) -> i16 {
    (value + ROUND).to_bits() as i16
}

/// Comparisons that are one instruction everywhere; what is not a number becomes `low`.
#[inline(always)]
fn clamped(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    if value < high { value } else { high }
}

/// See [`sizes`](crate::sizes).
#[inline(always)]
pub(crate) fn sizes(values: &[f32]) -> (f32, f32) {
    let (mut largest, mut sums) = ([0_u32; LANES], [0.0_f32; LANES]);
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(chunk[lane].abs().to_bits());
            sums[lane] += chunk[lane].abs();
        }
    }
    for (lane, value) in tail.iter().enumerate() {
        largest[lane] = largest[lane].max(value.abs().to_bits());
        sums[lane] += value.abs();
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            largest[lane] = largest[lane].max(largest[lane + half]);
            sums[lane] += sums[lane + half];
        }
    }
    (f32::from_bits(largest[0]), sums[0])
}

/// See [`round_i16`](crate::round_i16).
#[inline(always)]
pub(crate) fn round_i16(values: &[f32], per_step: f32, out: &mut [i16]) -> u32 {
    let mut sum = 0_u32;
    for (value, out) in values.iter().zip(out) {
        *out = rounded(clamped(value * per_step, -32767.0, 32767.0));
        sum = sum.wrapping_add(u32::from(out.unsigned_abs()));
    }
    sum
}

/// See [`round_i8`](crate::round_i8).
#[inline(always)]
pub(crate) fn round_i8(values: &[f32], per_step: f32, out: &mut [i8]) {
    for (value, out) in values.iter().zip(out) {
        *out = rounded(clamped(value * per_step, -127.0, 127.0)) as i8;
    }
}

/// See [`butterfly`](crate::butterfly).
#[inline(always)]
pub(crate) fn butterfly(low: &mut [f32], high: &mut [f32]) {
    use std::f32::consts::FRAC_1_SQRT_2;
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = ((*a + *b) * FRAC_1_SQRT_2, (*a - *b) * FRAC_1_SQRT_2);
    }
}

/// See [`largest_group`](crate::largest_group).
#[inline(always)]
pub(crate) fn largest_group(query: &[f32]) -> f32 {
    let groups =
        query.chunks_exact(4).map(|four| (four[0].abs() + four[1].abs()) + (four[2].abs() + four[3].abs()));
    f32::from_bits(groups.map(f32::to_bits).fold(0, u32::max))
}

/// See [`sign_table`](crate::sign_table).
#[inline(always)]
pub(crate) fn sign_table(query: &[f32], per_unit: f32, table: &mut [u8]) -> u32 {
    let mut total = 0;
    for (four, entries) in query.chunks_exact(4).zip(table.chunks_exact_mut(16)) {
        for (pattern, entry) in entries.iter_mut().enumerate() {
            let agrees = |dim: usize| {
                let scaled = four[dim] * per_unit;
                let positive = if scaled > 0.0 { scaled } else { 0.0 };
                if pattern >> dim & 1 == 1 { positive } else { positive - scaled }
            };
            let sum = ((agrees(0) + agrees(1)) + 0.5) + (agrees(2) + agrees(3));
            *entry = (sum as u8).min(31);
            total += u32::from(*entry);
        }
    }
    total
}
