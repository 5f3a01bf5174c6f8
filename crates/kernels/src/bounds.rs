//! How far the `f32` kernels can be from the exact result: a priori bounds for the fixed order, rounded up.
//!
//! The analysis is the standard one (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed.,
//! chapter 3): with u = 2⁻²⁴, a value that passes n roundings carries a factor 1 + θ with |θ| ≤ γₙ =
//! n u / (1 − n u). A term enters its lane by a fused multiply-add, which rounds once, passes at most
//! ⌈d / 16⌉ of them, and then 4 additions of the tree.
//!
//! The bounds hold while nothing overflows; sums and differences are exact in the subnormal range, so
//! underflow adds at most 2⁻¹⁵⁰ for each fused multiply-add: [`dot_underflow`].

use crate::LANES;

/// γₙ as an `f32` that is not below it.
fn gamma(roundings: usize) -> f32 {
    let nu = roundings as f64 * f64::from(f32::EPSILON) / 2.0;
    ((nu / (1.0 - nu)) as f32).next_up()
}

/// γ such that |`dot(a, b)` − ⟨a, b⟩| ≤ γ · Σ|aᵢ bᵢ| ≤ γ · |a| |b|, plus [`dot_underflow`], for vectors of
/// `dim` elements whose product does not overflow.
///
/// It is relative to the lengths, not to the result: where terms cancel the result can lose all its digits.
///
/// ```
/// assert!(plimsoll_kernels::dot_error(768) < 4e-6);
/// ```
pub fn dot_error(dim: usize) -> f32 {
    gamma(dim.div_ceil(LANES) + 4)
}

/// γ such that |`l2_squared(a, b)` − |a − b|²| ≤ γ · |a − b|², plus [`dot_underflow`].
///
/// Relative to the result itself: the terms are squares and cannot cancel, and each difference is rounded
/// once, which the square counts twice.
///
/// ```
/// assert!(plimsoll_kernels::l2_error(768) < 4e-6);
/// ```
pub fn l2_error(dim: usize) -> f32 {
    gamma(dim.div_ceil(LANES) + 6)
}

/// The absolute error that underflow can add to `dot` and `l2_squared`: `dim` · 2⁻¹⁴⁹ (one half of that from
/// the roundings themselves, the rest covers their growth in the later sums).
///
/// ```
/// assert!(plimsoll_kernels::dot_underflow(768) < 1e-41);
/// ```
pub fn dot_underflow(dim: usize) -> f32 {
    dim.next_multiple_of(LANES) as f32 * f32::from_bits(1)
}
