//! AVX2 with FMA: the 16 lanes are two registers.

use std::arch::x86_64::*;

use crate::LANES;
use crate::codes::{BLOCK, Estimate, FACTORS};
use crate::float64::Doubles;
use crate::lanes::{Lanes, kernel_table};
use crate::values::prefetch_line;

#[derive(Clone, Copy)]
struct Avx2 {
    low: __m256,
    high: __m256,
}

// Three queries by two rows: 12 accumulators of the 16 registers.
kernel_table!("avx2", "avx2,fma", Avx2, Avx2Doubles, 3, 2);

#[derive(Clone, Copy)]
struct Avx2Doubles([__m256d; 4]);

/// The mask of the first `count` of 8 lanes, for `count` up to 8.
static HEADS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The first `count` ≤ 8 values, the other lanes zero.
///
/// # Safety
/// The processor must have AVX2; `count` values must be readable.
#[inline(always)]
unsafe fn load_first(source: *const f32, count: usize) -> __m256 {
    // SAFETY: the mask is 8 of the 16 constants, from an index of at most 8; masked lanes are not touched.
    unsafe {
        let mask = _mm256_loadu_si256(HEADS[8 - count..].as_ptr().cast());
        _mm256_maskload_ps(source, mask)
    }
}

/// The tree of halves over 16 lanes given as two registers.
///
/// # Safety
/// The processor must have AVX.
#[inline(always)]
pub(crate) unsafe fn sum_of_halves(low: __m256, high: __m256) -> f32 {
    // SAFETY: the caller vouches for AVX.
    unsafe {
        let eights = _mm256_add_ps(low, high);
        let fours = _mm_add_ps(_mm256_castps256_ps128(eights), _mm256_extractf128_ps::<1>(eights));
        let twos = _mm_add_ps(fours, _mm_movehl_ps(fours, fours));
        _mm_cvtss_f32(_mm_add_ss(twos, _mm_shuffle_ps::<1>(twos, twos)))
    }
}

/// The steps `l + (l + 8)` and `+ 4` of the tree for two vectors at once: one in each half of the register.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn fours_of_two(a: Avx2, b: Avx2) -> __m256 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let a = _mm256_add_ps(a.low, a.high);
        let b = _mm256_add_ps(b.low, b.high);
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
    }
}

/// Lanes `l` and `l + h`, for h = 1, 2 and 4, become their sum and their difference: each lane of the second half is
/// negated, which is exact, and added to its partner of the first: the difference, bit for bit.
///
/// # Safety
/// The processor must have AVX2 and FMA.
#[inline(always)]
unsafe fn hadamard_of_8(values: __m256) -> __m256 {
    // SAFETY: the caller vouches for AVX2 and FMA.
    unsafe {
        let ones = _mm256_setr_ps(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0);
        let twos = _mm256_setr_ps(1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0);
        let fours = _mm256_setr_ps(1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0);
        let values = _mm256_fmadd_ps(values, ones, _mm256_permute_ps::<0b10_11_00_01>(values));
        let values = _mm256_fmadd_ps(values, twos, _mm256_permute_ps::<0b01_00_11_10>(values));
        _mm256_fmadd_ps(values, fours, _mm256_permute2f128_ps::<0x01>(values, values))
    }
}

/// The sums of a block, of the vectors 0 to 7, 16 to 23, 8 to 15 and 24 to 31, in this order. Meanwhile as many bytes as
/// the block has are prefetched from `ahead`.
///
/// # Safety
/// The lengths must agree and be multiples of 64; no table entry is above 31.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn sign_sums(table: &[u8], codes: &[u8], ahead: *const u8, sums: &mut [u16; BLOCK]) {
    let mask = _mm256_set1_epi8(15);
    let zero = _mm256_setzero_si256();
    // All bytes as 16-bit numbers, and their odd bytes alone, of the vectors 0 to 15 and 16 to 31.
    let (mut all, mut odd) = ([zero; 2], [zero; 2]);
    // A load is two groups of all 32 vectors.
    let add = |bytes: &mut [__m256i; 2], at: usize| {
        // SAFETY: the callers below have 32 bytes left from `at` on in the table, and so in the codes.
        let (entries, codes) = unsafe {
            (
                _mm256_loadu_si256(table.as_ptr().add(at).cast()),
                _mm256_loadu_si256(codes.as_ptr().add(at).cast()),
            )
        };
        let low = _mm256_and_si256(codes, mask);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask);
        bytes[0] = _mm256_add_epi8(bytes[0], _mm256_shuffle_epi8(entries, low));
        bytes[1] = _mm256_add_epi8(bytes[1], _mm256_shuffle_epi8(entries, high));
    };
    let mut widen = |bytes: [__m256i; 2]| {
        for half in 0..2 {
            all[half] = _mm256_add_epi16(all[half], bytes[half]);
            odd[half] = _mm256_add_epi16(odd[half], _mm256_srli_epi16::<8>(bytes[half]));
        }
    };
    // A byte holds the sum of eight entries.
    let mut at = 0;
    while at + 32 * 8 <= table.len() {
        let mut bytes = [zero; 2];
        for step in 0..8 {
            if step % 2 == 0 {
                prefetch_line(ahead.wrapping_add(at + 32 * step).cast());
            }
            add(&mut bytes, at + 32 * step);
        }
        widen(bytes);
        at += 32 * 8;
    }
    if at < table.len() {
        let mut bytes = [zero; 2];
        while at < table.len() {
            prefetch_line(ahead.wrapping_add(at).cast());
            add(&mut bytes, at);
            add(&mut bytes, at + 32);
            at += 64;
        }
        widen(bytes);
    }
    for line in 0..FACTORS / 64 {
        prefetch_line(ahead.wrapping_add(at + 64 * line).cast());
    }
    // The two groups of a load are in the two halves of a register.
    let gather = |a: [__m256i; 2]| {
        let halves =
            [_mm256_permute2x128_si256::<0x20>(a[0], a[1]), _mm256_permute2x128_si256::<0x31>(a[0], a[1])];
        _mm256_add_epi16(halves[0], halves[1])
    };
    let (all, odd) = (gather(all), gather(odd));
    let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
    let sums = sums.as_mut_ptr();
    // SAFETY: there is room for 32 sums, in two registers.
    unsafe {
        _mm256_storeu_si256(sums.cast(), _mm256_unpacklo_epi16(even, odd));
        _mm256_storeu_si256(sums.add(16).cast(), _mm256_unpackhi_epi16(even, odd));
    }
}

/// The estimates of a block from its sums, as [`sign_sums`] leaves them.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn estimates(
    sums: &[u16; BLOCK],
    factors: &[u8; FACTORS],
    estimate: &Estimate,
    limit: f32,
    lows: &mut [f32; BLOCK],
) -> u32 {
    let factors: *const f32 = factors.as_ptr().cast();
    let mut found = [_mm256_setzero_si256(); 4];
    for (eight, place) in [0, 16, 8, 24].into_iter().enumerate() {
        let at = 8 * eight;
        // SAFETY: there are 8 sums from `place` on, and 8 values from `at` on in both factors and in the estimates;
        // nothing need be aligned.
        let estimates = unsafe {
            let sums = _mm256_cvtepu16_epi32(_mm_loadu_si128(sums.as_ptr().add(place).cast()));
            let measured = _mm256_fmadd_ps(
                _mm256_cvtepi32_ps(sums),
                _mm256_set1_ps(estimate.step),
                _mm256_set1_ps(estimate.shift),
            );
            let add = _mm256_add_ps(_mm256_loadu_ps(factors.add(at)), _mm256_set1_ps(estimate.base));
            let estimates = _mm256_fmadd_ps(_mm256_loadu_ps(factors.add(BLOCK + at)), measured, add);
            _mm256_storeu_ps(lows.as_mut_ptr().add(at), estimates);
            estimates
        };
        found[eight] = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LE_OQ>(estimates, _mm256_set1_ps(limit)));
    }
    // Packing takes from each half of both its operands: the fours end up in the order 0, 2, 4, 6, 1, 3, 5, 7.
    let packed =
        _mm256_packs_epi16(_mm256_packs_epi32(found[0], found[1]), _mm256_packs_epi32(found[2], found[3]));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_movemask_epi8(_mm256_permutevar8x32_epi32(packed, order)) as u32
}

/// As the scalar `dot_i8`.
///
/// # Safety
/// The lengths must agree and be multiples of 16.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn dot_i8(row: &[i8], query: &[i16]) -> i32 {
    let product = |at: usize| {
        // SAFETY: the callers below have 16 components left from `at` on in both.
        unsafe {
            let row = _mm256_cvtepi8_epi16(_mm_loadu_si128(row.as_ptr().add(at).cast()));
            _mm256_madd_epi16(row, _mm256_loadu_si256(query.as_ptr().add(at).cast()))
        }
    };
    let mut sums = [_mm256_setzero_si256(); 4];
    let mut at = 0;
    while at + 64 <= row.len() {
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_add_epi32(*sum, product(at + 16 * index));
        }
        at += 64;
    }
    while at < row.len() {
        sums[0] = _mm256_add_epi32(sums[0], product(at));
        at += 16;
    }
    let sum = _mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3]));
    let fours = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let twos = _mm_add_epi32(fours, _mm_shuffle_epi32::<0b01_00_11_10>(fours));
    _mm_cvtsi128_si32(_mm_add_epi32(twos, _mm_shuffle_epi32::<0b10_11_00_01>(twos)))
}

/// As the portable `largest_group`.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn largest_group(query: &[f32]) -> f32 {
    let (chunks, rest) = query.as_chunks::<32>();
    let absolute = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    let mut largest = _mm256_setzero_si256();
    for chunk in chunks {
        // SAFETY: there are four times 8 values in the chunk.
        let [a, b, c, d] = [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(chunk.as_ptr().add(at)) });
        let [a, b, c, d] = [a, b, c, d].map(|values| _mm256_and_ps(values, absolute));
        let groups = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        largest = _mm256_max_epu32(largest, _mm256_castps_si256(groups));
    }
    let fours = _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
    let twos = _mm_max_epu32(fours, _mm_shuffle_epi32::<0b01_00_11_10>(fours));
    let one = _mm_cvtsi128_si32(_mm_max_epu32(twos, _mm_shuffle_epi32::<0b10_11_00_01>(twos)));
    f32::from_bits((one as u32).max(crate::integers::largest_group(rest).to_bits()))
}

/// As the portable `sign_table`: two groups at a time, one in each half of a register.
///
/// # Safety
/// The table must have four times as many entries as the query components, which are a multiple of 8.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn sign_table(query: &[f32], per_unit: f32, table: &mut [u8]) -> u32 {
    let (scale, half) = (_mm256_set1_ps(per_unit), _mm256_set1_ps(0.5));
    let (zero, highest) = (_mm256_setzero_ps(), _mm256_set1_epi8(31));
    let mut totals = _mm256_setzero_si256();
    for at in (0..query.len()).step_by(8) {
        // SAFETY: 8 components are left.
        let values = unsafe { _mm256_loadu_ps(query.as_ptr().add(at)) };
        let scaled = _mm256_mul_ps(values, scale);
        // What a dimension adds where the sign is positive, and where it is negative.
        let positive = _mm256_max_ps(scaled, zero);
        let negative = _mm256_sub_ps(positive, scaled);
        let first = _mm256_unpacklo_ps(negative, positive);
        let second = _mm256_unpackhi_ps(negative, positive);
        // All four patterns of the first two dimensions, and of the other two.
        let patterns = |pair| {
            let (low, high) =
                (_mm256_permute_ps::<0b01_00_01_00>(pair), _mm256_permute_ps::<0b11_11_10_10>(pair));
            _mm256_add_ps(low, high)
        };
        let (first, second) = (_mm256_add_ps(patterns(first), half), patterns(second));
        let with = |other| _mm256_cvttps_epi32(_mm256_add_ps(first, other));
        let entries = _mm256_packus_epi16(
            _mm256_packs_epi32(
                with(_mm256_permute_ps::<0b00_00_00_00>(second)),
                with(_mm256_permute_ps::<0b01_01_01_01>(second)),
            ),
            _mm256_packs_epi32(
                with(_mm256_permute_ps::<0b10_10_10_10>(second)),
                with(_mm256_permute_ps::<0b11_11_11_11>(second)),
            ),
        );
        let entries = _mm256_min_epu8(entries, highest);
        totals = _mm256_add_epi64(totals, _mm256_sad_epu8(entries, _mm256_setzero_si256()));
        // SAFETY: the 32 entries of these 8 components are there.
        unsafe { _mm256_storeu_si256(table.as_mut_ptr().add(4 * at).cast(), entries) };
    }
    let twos = _mm_add_epi64(_mm256_castsi256_si128(totals), _mm256_extracti128_si256::<1>(totals));
    (_mm_cvtsi128_si32(_mm_add_epi64(twos, _mm_unpackhi_epi64(twos, twos)))) as u32
}

#[target_feature(enable = "avx2,fma")]
fn stream_sum(bytes: &[u8]) -> u64 {
    crate::values::stream_sum(bytes)
}

impl Lanes for Avx2 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX2.
        unsafe { Self { low: _mm256_setzero_ps(), high: _mm256_setzero_ps() } }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX2 and 16 readable values; no alignment is needed.
        unsafe { Self { low: _mm256_loadu_ps(source), high: _mm256_loadu_ps(source.add(8)) } }
    }

    #[inline(always)]
    unsafe fn load_head(source: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for AVX2 and `count` readable values; where the second half is empty its
        // pointer is only computed, not read.
        unsafe {
            Self {
                low: load_first(source, count.min(8)),
                high: load_first(source.wrapping_add(8), count.saturating_sub(8)),
            }
        }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller vouches for AVX2 and 16 writable values; no alignment is needed.
        unsafe {
            _mm256_storeu_ps(target, self.low);
            _mm256_storeu_ps(target.add(8), self.high);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            Self { low: _mm256_add_ps(self.low, other.low), high: _mm256_add_ps(self.high, other.high) }
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            Self { low: _mm256_mul_ps(self.low, other.low), high: _mm256_mul_ps(self.high, other.high) }
        }
    }

    #[inline(always)]
    unsafe fn hadamard(self) -> Self {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let (low, high) = (hadamard_of_8(self.low), hadamard_of_8(self.high));
            Self { low: _mm256_add_ps(low, high), high: _mm256_sub_ps(low, high) }
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            Self { low: _mm256_sub_ps(self.low, other.low), high: _mm256_sub_ps(self.high, other.high) }
        }
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, sum: Self) -> Self {
        // SAFETY: the caller vouches for FMA.
        unsafe {
            Self {
                low: _mm256_fmadd_ps(self.low, factor.low, sum.low),
                high: _mm256_fmadd_ps(self.high, factor.high, sum.high),
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { sum_of_halves(self.low, self.high) }
    }

    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller vouches for AVX2; the array has the 16 bytes that are stored.
        unsafe {
            let (ab, cd) = (fours_of_two(a, b), fours_of_two(c, d));
            // `+ 2`: [a, a, c, c | b, b, d, d]; `+ 1`: [a, c, a, c | b, d, b, d].
            let twos = _mm256_add_ps(
                _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
                _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            );
            let ones = _mm256_add_ps(
                _mm256_shuffle_ps::<0b10_00_10_00>(twos, twos),
                _mm256_shuffle_ps::<0b11_01_11_01>(twos, twos),
            );
            let packed = _mm_unpacklo_ps(_mm256_castps256_ps128(ones), _mm256_extractf128_ps::<1>(ones));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), packed);
            sums
        }
    }
}

impl Doubles for Avx2Doubles {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX2 and FMA.
        unsafe { Self([_mm256_setzero_pd(); 4]) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller vouches for AVX2 and FMA and sixteen values.
        unsafe { Self(std::array::from_fn(|n| _mm256_cvtps_pd(_mm_loadu_ps(source.add(4 * n))))) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller vouches for AVX2 and FMA.
        Self(std::array::from_fn(|n| unsafe { _mm256_sub_pd(self.0[n], other.0[n]) }))
    }

    #[inline(always)]
    unsafe fn add_exact_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for AVX2 and FMA.
        Self(std::array::from_fn(|n| unsafe { _mm256_fmadd_pd(a.0[n], b.0[n], self.0[n]) }))
    }

    #[inline(always)]
    unsafe fn add_square(self, a: Self) -> Self {
        // SAFETY: the caller vouches for AVX2 and FMA.
        Self(std::array::from_fn(|n| unsafe { _mm256_add_pd(self.0[n], _mm256_mul_pd(a.0[n], a.0[n])) }))
    }

    #[inline(always)]
    unsafe fn lanes(self) -> [f64; LANES] {
        let mut lanes = [0.0; LANES];
        for (n, lanes) in lanes.chunks_exact_mut(4).enumerate() {
            // SAFETY: the caller vouches for AVX2 and FMA; there is room for 4 values.
            unsafe { _mm256_storeu_pd(lanes.as_mut_ptr(), self.0[n]) };
        }
        lanes
    }
}
