//! NEON: the 16 lanes are four registers.

use std::arch::aarch64::*;

use crate::LANES;
use crate::codes::{BLOCK, Estimate, FACTORS};
use crate::float64::Doubles;
use crate::lanes::{Lanes, kernel_table};
use crate::values::prefetch_line;

#[derive(Clone, Copy)]
struct Neon([float32x4_t; 4]);

// Two queries by two rows: 16 accumulators of the 32 registers.
kernel_table!("neon", "neon", Neon, NeonDoubles, 2, 2);

#[derive(Clone, Copy)]
struct NeonDoubles([float64x2_t; 8]);

/// The sums of a block: a load is one group of all 32 vectors. Meanwhile as many bytes as the block has are prefetched
/// from `ahead`.
///
/// # Safety
/// The lengths must agree and be multiples of 64; no table entry is above 31.
#[target_feature(enable = "neon")]
unsafe fn sign_sums(table: &[u8], codes: &[u8], ahead: *const u8, sums: &mut [u16; BLOCK]) {
    for line in (0..table.len() + FACTORS).step_by(64) {
        prefetch_line(ahead.wrapping_add(line).cast());
    }
    let mask = vdupq_n_u8(15);
    let mut wide = [vdupq_n_u16(0); 4];
    // A byte holds the sum of eight entries.
    for (table, codes) in table.chunks(16 * 8).zip(codes.chunks(16 * 8)) {
        let mut bytes = [vdupq_n_u8(0); 2];
        for at in (0..table.len()).step_by(16) {
            // SAFETY: 16 bytes are left in both.
            let (table, codes) =
                unsafe { (vld1q_u8(table.as_ptr().add(at)), vld1q_u8(codes.as_ptr().add(at))) };
            bytes[0] = vaddq_u8(bytes[0], vqtbl1q_u8(table, vandq_u8(codes, mask)));
            bytes[1] = vaddq_u8(bytes[1], vqtbl1q_u8(table, vshrq_n_u8::<4>(codes)));
        }
        for half in 0..2 {
            wide[2 * half] = vaddw_u8(wide[2 * half], vget_low_u8(bytes[half]));
            wide[2 * half + 1] = vaddw_high_u8(wide[2 * half + 1], bytes[half]);
        }
    }
    for (index, eight) in wide.into_iter().enumerate() {
        // SAFETY: there are 8 sums at the pointer.
        unsafe { vst1q_u16(sums[8 * index..][..8].as_mut_ptr(), eight) };
    }
}

#[target_feature(enable = "neon")]
fn estimates(
    sums: &[u16; BLOCK],
    factors: &[u8; FACTORS],
    estimate: &Estimate,
    limit: f32,
    lows: &mut [f32; BLOCK],
) -> u32 {
    crate::codes::estimates(sums, factors, estimate, limit, lows)
}

#[target_feature(enable = "neon")]
fn dot_i8(row: &[i8], query: &[i16]) -> i32 {
    crate::scalar::dot_i8(row, query)
}

#[target_feature(enable = "neon")]
fn largest_group(query: &[f32]) -> f32 {
    crate::integers::largest_group(query)
}

#[target_feature(enable = "neon")]
fn sign_table(query: &[f32], per_unit: f32, table: &mut [u8]) -> u32 {
    crate::integers::sign_table(query, per_unit, table)
}

#[target_feature(enable = "neon")]
fn stream_sum(bytes: &[u8]) -> u64 {
    crate::values::stream_sum(bytes)
}

impl Lanes for Neon {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for NEON.
        unsafe { Self([vdupq_n_f32(0.0); 4]) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller vouches for NEON and 16 readable values; no alignment is needed.
        unsafe {
            Self([
                vld1q_f32(source),
                vld1q_f32(source.add(4)),
                vld1q_f32(source.add(8)),
                vld1q_f32(source.add(12)),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_head(source: *const f32, count: usize) -> Self {
        let mut padded = [0.0_f32; 16];
        // SAFETY: the caller vouches for NEON and `count` < 16 readable values; `padded` has room for them.
        unsafe {
            std::ptr::copy_nonoverlapping(source, padded.as_mut_ptr(), count.min(16));
            Self::load(padded.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        for (index, lane) in self.0.into_iter().enumerate() {
            // SAFETY: the caller vouches for NEON and 16 writable values; no alignment is needed.
            unsafe { vst1q_f32(target.add(4 * index), lane) };
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        let mut lanes = self.0;
        for (lane, other) in lanes.iter_mut().zip(other.0) {
            // SAFETY: the caller vouches for NEON.
            *lane = unsafe { vaddq_f32(*lane, other) };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        let mut lanes = self.0;
        for (lane, other) in lanes.iter_mut().zip(other.0) {
            // SAFETY: the caller vouches for NEON.
            *lane = unsafe { vmulq_f32(*lane, other) };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn hadamard(self) -> Self {
        // SAFETY: the caller vouches for NEON.
        let [a, b, c, d] = self.0.map(|four| unsafe {
            // Even lanes get the sums and odd ones the differences; then the same for the two pairs.
            let (even, odd) = (vtrn1q_f32(four, four), vtrn2q_f32(four, four));
            let ones = vtrn1q_f32(vaddq_f32(even, odd), vsubq_f32(even, odd));
            let (low, high) = (
                vcombine_f32(vget_low_f32(ones), vget_low_f32(ones)),
                vcombine_f32(vget_high_f32(ones), vget_high_f32(ones)),
            );
            vcombine_f32(vget_low_f32(vaddq_f32(low, high)), vget_low_f32(vsubq_f32(low, high)))
        });
        // SAFETY: the caller vouches for NEON.
        unsafe {
            let (ab, ba, cd, dc) = (vaddq_f32(a, b), vsubq_f32(a, b), vaddq_f32(c, d), vsubq_f32(c, d));
            Self([vaddq_f32(ab, cd), vaddq_f32(ba, dc), vsubq_f32(ab, cd), vsubq_f32(ba, dc)])
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        let mut lanes = self.0;
        for (lane, other) in lanes.iter_mut().zip(other.0) {
            // SAFETY: the caller vouches for NEON.
            *lane = unsafe { vsubq_f32(*lane, other) };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        let mut lanes = sum.0;
        for (index, lane) in lanes.iter_mut().enumerate() {
            // SAFETY: the caller vouches for NEON. `vfmaq_f32(s, a, b)` is s + a * b, rounded once.
            *lane = unsafe { vfmaq_f32(*lane, self.0[index], factor.0[index]) };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: the caller vouches for NEON.
        unsafe {
            let fours = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let twos = vadd_f32(vget_low_f32(fours), vget_high_f32(fours));
            vget_lane_f32::<0>(twos) + vget_lane_f32::<1>(twos)
        }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller vouches for NEON.
        unsafe { [a.sum(), b.sum(), c.sum(), d.sum()] }
    }
}

impl Doubles for NeonDoubles {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for NEON.
        unsafe { Self([vdupq_n_f64(0.0); 8]) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller vouches for NEON and sixteen values.
        unsafe { Self(std::array::from_fn(|n| vcvt_f64_f32(vld1_f32(source.add(2 * n))))) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller vouches for NEON.
        Self(std::array::from_fn(|n| unsafe { vsubq_f64(self.0[n], other.0[n]) }))
    }

    #[inline(always)]
    unsafe fn add_exact_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for NEON.
        Self(std::array::from_fn(|n| unsafe { vfmaq_f64(self.0[n], a.0[n], b.0[n]) }))
    }

    #[inline(always)]
    unsafe fn add_square(self, a: Self) -> Self {
        // SAFETY: the caller vouches for NEON.
        Self(std::array::from_fn(|n| unsafe { vaddq_f64(self.0[n], vmulq_f64(a.0[n], a.0[n])) }))
    }

    #[inline(always)]
    unsafe fn lanes(self) -> [f64; LANES] {
        let mut lanes = [0.0; LANES];
        for (n, lanes) in lanes.chunks_exact_mut(2).enumerate() {
            // SAFETY: the caller vouches for NEON; there is room for 2 values.
            unsafe { vst1q_f64(lanes.as_mut_ptr(), self.0[n]) };
        }
        lanes
    }
}
