//! What the kernels over compact codes are about: the shape of a block of sign codes, and of an estimate.

/// How many vectors a block of sign codes holds.
pub const BLOCK: usize = 32;

/// What turns the sums of a block's codes into estimates of distances: for the sum `s` of a vector with the factors
/// `add` and `scale`, the estimate is `fma(scale, fma(s, step, shift), add + base)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// What one unit of a sum is worth.
    pub step: f32,
    /// What is added to each sum, in the same measure.
    pub shift: f32,
    /// What is added to each estimate.
    pub base: f32,
}

/// The factors of a block's vectors.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// What is added to the estimate of each vector.
    pub add: &'a [f32; BLOCK],
    /// What the sum of each vector is multiplied by.
    pub scale: &'a [f32; BLOCK],
}
