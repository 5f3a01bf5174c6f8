//! AVX-512F: the 16 lanes are one register.

use std::arch::x86_64::*;

use crate::LANES;
use crate::avx2::largest_group;
use crate::codes::{BLOCK, Estimate, FACTORS};
use crate::float64::Doubles;
use crate::lanes::{Lanes, kernel_table};

#[derive(Clone, Copy)]
struct Avx512(__m512);

// Six queries by four rows: 24 accumulators of the 32 registers.
kernel_table!("avx512", "avx512f,avx512bw,avx2,fma", Avx512, Avx512Doubles, 6, 4);

#[derive(Clone, Copy)]
struct Avx512Doubles([__m512d; 2]);

/// Defines `sign_sums` for a set of instructions that includes AVX-512BW, with a macro that takes the upper four bits of each
/// byte to the lower ones. (A closure would be a function without the instructions.)
macro_rules! sign_kernel {
    ($features:tt, $high:ident) => {
        /// The sums of a block. Meanwhile as many bytes as it has are prefetched from `ahead`.
        ///
        /// # Safety
        /// The lengths must agree and be multiples of 64; no table entry is above 31.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn sign_sums(
            table: &[u8],
            codes: &[u8],
            ahead: *const u8,
            sums: &mut [u16; $crate::codes::BLOCK],
        ) {
            let mask = _mm512_set1_epi8(15);
            let zero = _mm512_setzero_si512();
            // All bytes as 16-bit numbers, and their odd bytes alone, of the vectors 0 to 15 and 16 to 31.
            let (mut all, mut odd) = ([zero; 2], [zero; 2]);
            // A load is four groups of all 32 vectors.
            let add = |bytes: &mut [__m512i; 2], at: usize| {
                $crate::values::prefetch_line(ahead.wrapping_add(at).cast());
                // SAFETY: the callers below have 64 bytes left from `at` on in the table, and so in the codes.
                let (entries, codes) = unsafe {
                    (
                        _mm512_loadu_si512(table.as_ptr().add(at).cast()),
                        _mm512_loadu_si512(codes.as_ptr().add(at).cast()),
                    )
                };
                let low = _mm512_and_si512(codes, mask);
                let high = $high!(codes, mask);
                bytes[0] = _mm512_add_epi8(bytes[0], _mm512_shuffle_epi8(entries, low));
                bytes[1] = _mm512_add_epi8(bytes[1], _mm512_shuffle_epi8(entries, high));
            };
            let mut widen = |bytes: [__m512i; 2]| {
                for half in 0..2 {
                    all[half] = _mm512_add_epi16(all[half], bytes[half]);
                    odd[half] = _mm512_add_epi16(odd[half], _mm512_srli_epi16::<8>(bytes[half]));
                }
            };
            // A byte holds the sum of eight entries.
            let mut at = 0;
            while at + 64 * 8 <= table.len() {
                let mut bytes = [zero; 2];
                for step in 0..8 {
                    add(&mut bytes, at + 64 * step);
                }
                widen(bytes);
                at += 64 * 8;
            }
            if at < table.len() {
                let mut bytes = [zero; 2];
                while at < table.len() {
                    add(&mut bytes, at);
                    at += 64;
                }
                widen(bytes);
            }
            for line in 0..$crate::codes::FACTORS / 64 {
                $crate::values::prefetch_line(ahead.wrapping_add(at + 64 * line).cast());
            }
            // The four groups of a load are in the four quarters of a register. The first two and the last two are added, of both
            // halves of the vectors at once; then the two that are left, of all bytes and of the odd ones at once.
            let pairs = |of: [__m512i; 2]| {
                _mm512_add_epi16(
                    _mm512_shuffle_i64x2::<0b01_00_01_00>(of[0], of[1]),
                    _mm512_shuffle_i64x2::<0b11_10_11_10>(of[0], of[1]),
                )
            };
            let (all, odd) = (pairs(all), pairs(odd));
            let both = _mm512_add_epi16(
                _mm512_shuffle_i64x2::<0b10_00_10_00>(all, odd),
                _mm512_shuffle_i64x2::<0b11_01_11_01>(all, odd),
            );
            let (all, odd) = (_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both));
            let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
            let (low, high) = (_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd));
            let sums = sums.as_mut_ptr();
            // SAFETY: there is room for four times eight sums.
            unsafe {
                _mm_storeu_si128(sums.cast(), _mm256_castsi256_si128(low));
                _mm_storeu_si128(sums.add(8).cast(), _mm256_castsi256_si128(high));
                _mm_storeu_si128(sums.add(16).cast(), _mm256_extracti128_si256::<1>(low));
                _mm_storeu_si128(sums.add(24).cast(), _mm256_extracti128_si256::<1>(high));
            }
        }
    };
}

pub(crate) use sign_kernel;

/// The upper four bits of each byte: there is no shift of bytes, and what comes from the next one is cleared.
macro_rules! shifted {
    ($codes:expr, $mask:expr) => {
        _mm512_and_si512(_mm512_srli_epi16::<4>($codes), $mask)
    };
}

sign_kernel!("avx512f,avx512bw,avx2,fma", shifted);

/// The estimates of a block from its sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub(crate) fn estimates(
    sums: &[u16; BLOCK],
    factors: &[u8; FACTORS],
    estimate: &Estimate,
    limit: f32,
    lows: &mut [f32; BLOCK],
) -> u32 {
    let factors: *const f32 = factors.as_ptr().cast();
    let mut within = 0;
    for at in [0, 16] {
        // SAFETY: there are 16 values from `at` on in the sums, in both factors and in the estimates; nothing need be
        // aligned.
        let estimates = unsafe {
            let sums = _mm512_cvtepu16_epi32(_mm256_loadu_si256(sums.as_ptr().add(at).cast()));
            let measured = _mm512_fmadd_ps(
                _mm512_cvtepi32_ps(sums),
                _mm512_set1_ps(estimate.step),
                _mm512_set1_ps(estimate.shift),
            );
            let add = _mm512_add_ps(_mm512_loadu_ps(factors.add(at)), _mm512_set1_ps(estimate.base));
            let estimates = _mm512_fmadd_ps(_mm512_loadu_ps(factors.add(BLOCK + at)), measured, add);
            _mm512_storeu_ps(lows.as_mut_ptr().add(at), estimates);
            estimates
        };
        within |= u32::from(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(estimates, _mm512_set1_ps(limit))) << at;
    }
    within
}

/// As the scalar `dot_i8`.
///
/// # Safety
/// The lengths must agree and be multiples of 16.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
unsafe fn dot_i8(row: &[i8], query: &[i16]) -> i32 {
    let (wide, rest) = (row.len() / 32, row.len() % 32);
    let mut sum = _mm512_setzero_si512();
    for at in (0..wide).map(|n| 32 * n) {
        // SAFETY: 32 components are left in both.
        let products = unsafe {
            let row = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.as_ptr().add(at).cast()));
            _mm512_madd_epi16(row, _mm512_loadu_si512(query.as_ptr().add(at).cast()))
        };
        sum = _mm512_add_epi32(sum, products);
    }
    let mut total = _mm512_reduce_add_epi32(sum);
    if rest > 0 {
        // SAFETY: the last 16 components, with the same promise.
        total = total.wrapping_add(unsafe { crate::avx2::dot_i8(&row[32 * wide..], &query[32 * wide..]) });
    }
    total
}

/// As the portable `sign_table`: four groups at a time, one in each quarter of a register.
///
/// # Safety
/// The table must have four times as many entries as the query components, which are a multiple of 8.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
unsafe fn sign_table(query: &[f32], per_unit: f32, table: &mut [u8]) -> u32 {
    let (scale, half) = (_mm512_set1_ps(per_unit), _mm512_set1_ps(0.5));
    let (zero, highest) = (_mm512_setzero_ps(), _mm512_set1_epi8(31));
    let mut totals = _mm512_setzero_si512();
    let wide = query.len() / 16 * 16;
    for at in (0..wide).step_by(16) {
        // SAFETY: 16 components are left.
        let values = unsafe { _mm512_loadu_ps(query.as_ptr().add(at)) };
        let scaled = _mm512_mul_ps(values, scale);
        // What a dimension adds where the sign is positive, and where it is negative.
        let positive = _mm512_max_ps(scaled, zero);
        let negative = _mm512_sub_ps(positive, scaled);
        let first = _mm512_unpacklo_ps(negative, positive);
        let second = _mm512_unpackhi_ps(negative, positive);
        // All four patterns of the first two dimensions, and of the other two.
        let patterns = |pair| {
            let (low, high) =
                (_mm512_permute_ps::<0b01_00_01_00>(pair), _mm512_permute_ps::<0b11_11_10_10>(pair));
            _mm512_add_ps(low, high)
        };
        let (first, second) = (_mm512_add_ps(patterns(first), half), patterns(second));
        let with = |other| _mm512_cvttps_epi32(_mm512_add_ps(first, other));
        let entries = _mm512_packus_epi16(
            _mm512_packs_epi32(
                with(_mm512_permute_ps::<0b00_00_00_00>(second)),
                with(_mm512_permute_ps::<0b01_01_01_01>(second)),
            ),
            _mm512_packs_epi32(
                with(_mm512_permute_ps::<0b10_10_10_10>(second)),
                with(_mm512_permute_ps::<0b11_11_11_11>(second)),
            ),
        );
        let entries = _mm512_min_epu8(entries, highest);
        totals = _mm512_add_epi64(totals, _mm512_sad_epu8(entries, _mm512_setzero_si512()));
        // SAFETY: the 64 entries of these 16 components are there.
        unsafe { _mm512_storeu_si512(table.as_mut_ptr().add(4 * at).cast(), entries) };
    }
    // SAFETY: what is left are 8 components or none, with the same promise.
    let rest = unsafe { crate::avx2::sign_table(&query[wide..], per_unit, &mut table[4 * wide..]) };
    _mm512_reduce_add_epi64(totals) as u32 + rest
}

/// Four 64-byte loads at a time, spelled out: the vectoriser does not find them.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
fn stream_sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<256>();
    let mut sums = [_mm512_setzero_si512(); 4];
    for block in blocks {
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the block has four times 64 bytes; no alignment is needed.
            let words = unsafe { _mm512_loadu_si512(block.as_ptr().add(64 * index).cast()) };
            *sum = _mm512_add_epi64(*sum, words);
        }
    }
    let sum = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
    crate::values::stream_sum(rest).wrapping_add(_mm512_reduce_add_epi64(sum) as u64)
}

/// The sums of values and their partners; in the lanes of the mask, where the partner is the first of the pair, partner
/// less value. No closure: that would be a function without the instructions.
///
/// # Safety
/// The processor must have AVX-512F.
#[inline(always)]
unsafe fn stage(values: __m512, partner: __m512, second: __mmask16) -> __m512 {
    // SAFETY: the caller vouches for AVX-512F.
    unsafe { _mm512_mask_sub_ps(_mm512_add_ps(values, partner), second, partner, values) }
}

impl Lanes for Avx512 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { Self(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX-512F and 16 readable values; no alignment is needed.
        unsafe { Self(_mm512_loadu_ps(source)) }
    }

    #[inline(always)]
    unsafe fn load_head(source: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for AVX-512F and `count` readable values; masked lanes are not touched.
        unsafe { Self(_mm512_maskz_loadu_ps(((1_u32 << count) - 1) as u16, source)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller vouches for AVX-512F and 16 writable values; no alignment is needed.
        unsafe { _mm512_storeu_ps(target, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn hadamard(self) -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe {
            let values = self.0;
            let values = stage(values, _mm512_permute_ps::<0b10_11_00_01>(values), 0xaaaa);
            let values = stage(values, _mm512_permute_ps::<0b01_00_11_10>(values), 0xcccc);
            let values = stage(values, _mm512_shuffle_f32x4::<0b10_11_00_01>(values, values), 0xf0f0);
            Self(stage(values, _mm512_shuffle_f32x4::<0b01_00_11_10>(values, values), 0xff00))
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, sum.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller vouches for AVX-512F, which implies AVX.
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0)));
            crate::avx2::sum_of_halves(_mm512_castps512_ps256(self.0), high)
        }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller vouches for AVX-512F; the array has the 16 bytes that are stored.
        unsafe {
            // Quarters of 4 lanes: [a0+a2, a1+a3, b0+b2, b1+b3], the step `l + (l + 8)` of two vectors at once.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a.0, b.0),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a.0, b.0),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c.0, d.0),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c.0, d.0),
            );
            // `+ 4`: one quarter for each vector.
            let fours = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            // `+ 2`, then `+ 1`, within each quarter; its first lane holds the sum.
            let twos = _mm512_add_ps(fours, _mm512_permute_ps::<0b01_00_11_10>(fours));
            let ones = _mm512_add_ps(twos, _mm512_permute_ps::<0b10_11_00_01>(twos));
            let packed = _mm512_maskz_compress_ps(0b0001_0001_0001_0001, ones);
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(packed));
            sums
        }
    }
}

impl Doubles for Avx512Doubles {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { Self([_mm512_setzero_pd(); 2]) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX-512 and sixteen values.
        unsafe { Self(std::array::from_fn(|n| _mm512_cvtps_pd(_mm256_loadu_ps(source.add(8 * n))))) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Self(std::array::from_fn(|n| unsafe { _mm512_sub_pd(self.0[n], other.0[n]) }))
    }

    #[inline(always)]
    unsafe fn add_exact_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Self(std::array::from_fn(|n| unsafe { _mm512_fmadd_pd(a.0[n], b.0[n], self.0[n]) }))
    }

    #[inline(always)]
    unsafe fn add_square(self, a: Self) -> Self {
        // SAFETY: the caller vouches for AVX-512.
        Self(std::array::from_fn(|n| unsafe { _mm512_add_pd(self.0[n], _mm512_mul_pd(a.0[n], a.0[n])) }))
    }

    #[inline(always)]
    unsafe fn lanes(self) -> [f64; LANES] {
        let mut lanes = [0.0; LANES];
        for (n, lanes) in lanes.chunks_exact_mut(8).enumerate() {
            // SAFETY: the caller vouches for AVX-512; there is room for 8 values.
            unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), self.0[n]) };
        }
        lanes
    }
}
