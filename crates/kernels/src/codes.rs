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

/// How many bytes of factors a block has behind its codes: what is added to the estimates of its vectors, and what their
/// sums are multiplied by, as little-endian `f32`.
pub(crate) const FACTORS: usize = 8 * BLOCK;

/// How many bytes ahead of its loads a scan prefetches when it does not know what comes next.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const AHEAD: usize = 4096;

/// What to prefetch while the block `at` bytes into `blocks` is scanned: its counterpart in the next list, if there is
/// one, or else what follows in this one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(crate) fn ahead(blocks: &[u8], next: &[u8], at: usize) -> *const u8 {
    if at < next.len() { next.as_ptr().wrapping_add(at) } else { blocks.as_ptr().wrapping_add(at + AHEAD) }
}

/// The estimates of a block from its sums and the bytes of its factors, one by one.
#[inline(always)]
pub(crate) fn estimates(
    sums: &[u16; BLOCK],
    factors: &[u8; FACTORS],
    estimate: &Estimate,
    limit: f32,
    lows: &mut [f32; BLOCK],
) -> u32 {
    let (factors, _) = factors.as_chunks();
    let (add, scale) = factors.split_at(BLOCK);
    let mut within = 0;
    for vector in 0..BLOCK {
        let (add, scale) = (f32::from_le_bytes(add[vector]), f32::from_le_bytes(scale[vector]));
        let measured = f32::from(sums[vector]).mul_add(estimate.step, estimate.shift);
        lows[vector] = scale.mul_add(measured, add + estimate.base);
        within |= u32::from(lows[vector] <= limit) << vector;
    }
    within
}
