//! AVX-512 of Ice Lake, Zen 4 and later: with VNNI, which multiplies and adds in one instruction, and GFNI, which shifts
//! bytes. What it does not do better is that of AVX-512.

use std::arch::x86_64::*;

use crate::avx512::{estimates, sign_kernel};
use crate::dispatch::Table;
use crate::lanes::scan_kernel;

pub(crate) static TABLE: Table = Table { name: "avx512vnni", scan_blocks, dot_i8, ..crate::avx512::TABLE };

/// The upper four bits of each byte, by a product with a matrix of bits.
macro_rules! shifted {
    ($codes:expr, $mask:expr) => {
        _mm512_gf2p8affine_epi64_epi8::<0>($codes, _mm512_set1_epi64(0x1020_4080_0000_0000))
    };
}

sign_kernel!("avx512f,avx512bw,avx512vnni,gfni,avx2,fma", shifted);
scan_kernel!("avx512f,avx512bw,avx512vnni,gfni,avx2,fma");

/// As the scalar `dot_i8`.
///
/// # Safety
/// The lengths must agree and be multiples of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,gfni,avx2,fma")]
unsafe fn dot_i8(row: &[i8], query: &[i16]) -> i32 {
    let add = |sum: __m512i, at: usize| {
        // SAFETY: the callers below have 32 components left from `at` on in both.
        unsafe {
            let row = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.as_ptr().add(at).cast()));
            _mm512_dpwssd_epi32(sum, row, _mm512_loadu_si512(query.as_ptr().add(at).cast()))
        }
    };
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut at = 0;
    while at + 128 <= row.len() {
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = add(*sum, at + 32 * index);
        }
        at += 128;
    }
    while at + 32 <= row.len() {
        sums[0] = add(sums[0], at);
        at += 32;
    }
    let sum = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
    let mut total = _mm512_reduce_add_epi32(sum);
    if at < row.len() {
        // SAFETY: the last 16 components, with the same promise.
        total = total.wrapping_add(unsafe { crate::avx2::dot_i8(&row[at..], &query[at..]) });
    }
    total
}
