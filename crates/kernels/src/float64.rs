//! The `f64` kernels, written once over the sixteen [`Doubles`] of an instruction set.
//!
//! Whether a product and an addition are fused makes no difference where the product is one of two `f32`, which is
//! exact in `f64`; the square of a difference is not, and is never fused.

use crate::LANES;

/// Sixteen `f64` in registers.
pub(crate) trait Doubles: Copy {
    /// # Safety
    /// The processor must have the instruction set; so for all of these.
    unsafe fn zero() -> Self;

    /// # Safety
    /// Sixteen values must be readable; they need not be aligned.
    unsafe fn load(source: *const f32) -> Self;

    /// `self − other`.
    ///
    /// # Safety
    /// See [`Doubles::zero`].
    unsafe fn sub(self, other: Self) -> Self;

    /// `self + a · b`, where the product is exact.
    ///
    /// # Safety
    /// See [`Doubles::zero`].
    unsafe fn add_exact_product(self, a: Self, b: Self) -> Self;

    /// `self + a²`, rounded twice.
    ///
    /// # Safety
    /// See [`Doubles::zero`].
    unsafe fn add_square(self, a: Self) -> Self;

    /// # Safety
    /// See [`Doubles::zero`].
    unsafe fn lanes(self) -> [f64; LANES];
}

/// Calls `step` with sixteen components of each at a time, the last ones padded with zeros.
///
/// # Safety
/// The processor must have the instruction set; the lengths must agree.
#[inline(always)]
unsafe fn each<D: Doubles>(a: &[f32], b: &[f32], mut step: impl FnMut(D, D)) {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        // SAFETY: both are sixteen values.
        unsafe { step(D::load(a.as_ptr()), D::load(b.as_ptr())) };
    }
    if !a_tail.is_empty() {
        let (mut a_last, mut b_last) = ([0.0; LANES], [0.0; LANES]);
        a_last[..a_tail.len()].copy_from_slice(a_tail);
        b_last[..b_tail.len()].copy_from_slice(b_tail);
        // SAFETY: both are sixteen values.
        unsafe { step(D::load(a_last.as_ptr()), D::load(b_last.as_ptr())) };
    }
}

/// The tree of halves.
#[inline(always)]
fn sum_of_halves(mut lanes: [f64; LANES]) -> f64 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// The inner product; each product is exact.
///
/// # Safety
/// The processor must have the instruction set; the lengths must agree.
#[inline(always)]
pub(crate) unsafe fn dot<D: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    // SAFETY: the caller vouches for all of it.
    unsafe {
        let mut sums = D::zero();
        each::<D>(a, b, |a, b| sums = sums.add_exact_product(a, b));
        sum_of_halves(sums.lanes())
    }
}

/// The inner product, and that of `b` with itself.
///
/// # Safety
/// The processor must have the instruction set; the lengths must agree.
#[inline(always)]
pub(crate) unsafe fn dot_and_square<D: Doubles>(a: &[f32], b: &[f32]) -> (f64, f64) {
    // SAFETY: the caller vouches for all of it.
    unsafe {
        let (mut dots, mut squares) = (D::zero(), D::zero());
        each::<D>(a, b, |a, b| {
            dots = dots.add_exact_product(a, b);
            squares = squares.add_exact_product(b, b);
        });
        (sum_of_halves(dots.lanes()), sum_of_halves(squares.lanes()))
    }
}

/// The squared distance.
///
/// # Safety
/// The processor must have the instruction set; the lengths must agree.
#[inline(always)]
pub(crate) unsafe fn l2_squared<D: Doubles>(a: &[f32], b: &[f32]) -> f64 {
    // SAFETY: the caller vouches for all of it.
    unsafe {
        let mut sums = D::zero();
        each::<D>(a, b, |a, b| sums = sums.add_square(a.sub(b)));
        sum_of_halves(sums.lanes())
    }
}
