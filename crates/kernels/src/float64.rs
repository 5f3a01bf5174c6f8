//! The `f64` kernels: one body in plain Rust that the compiler vectorises, compiled once for each instruction
//! set. Rust never fuses a multiplication and an addition by itself, so the bits don't depend on the machine.

use crate::LANES;

#[inline(always)]
fn accumulate(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        // Converted and combined as whole arrays first: the vectoriser follows that, and the order is the same.
        let (a, b) = (a.map(f64::from), b.map(f64::from));
        let mut terms = [0.0; LANES];
        for lane in 0..LANES {
            terms[lane] = term(a[lane], b[lane]);
        }
        for lane in 0..LANES {
            lanes[lane] += terms[lane];
        }
    }
    for (lane, (&a, &b)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[lane] += term(f64::from(a), f64::from(b));
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// The inner product; each product is exact.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    accumulate(a, b, |a, b| a * b)
}

/// The squared distance.
#[inline(always)]
pub(crate) fn l2_squared(a: &[f32], b: &[f32]) -> f64 {
    accumulate(a, b, |a, b| (a - b) * (a - b))
}
