//! Kernels over values rather than pairs: validity, normalisation, prefetching, and the plain read.

/// The index of the first NaN or infinity, if there is one.
///
/// Cost: about that of reading the slice.
///
/// ```
/// assert_eq!(plimsoll_kernels::first_invalid(&[1.0, f32::NAN, f32::INFINITY]), Some(1));
/// assert_eq!(plimsoll_kernels::first_invalid(&[1.0, f32::MAX]), None);
/// ```
pub fn first_invalid(values: &[f32]) -> Option<usize> {
    const BLOCK: usize = 64;
    // An exponent of all ones, and only that, carries into the sign bit when one is added to it.
    let carry = |value: &f32| (value.to_bits() & 0x7fff_ffff) + 0x0080_0000;
    for (index, block) in values.chunks(BLOCK).enumerate() {
        if block.iter().map(carry).fold(0, |all, carry| all | carry) >> 31 == 1 {
            return block.iter().position(|value| !value.is_finite()).map(|within| index * BLOCK + within);
        }
    }
    None
}

/// Writes `src` scaled to length 1 into `dst`, and returns the length it had.
///
/// The length and the scaling are computed in `f64`, so neither overflows or underflows for any finite input;
/// each element is rounded once to `f32`. A zero vector has no direction: `dst` is then zero, and so is the
/// returned length.
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// let mut unit = [0.0; 2];
/// assert_eq!(plimsoll_kernels::normalise_into(&[3.0, 4.0], &mut unit), 5.0);
/// assert_eq!(unit, [0.6, 0.8]);
/// ```
pub fn normalise_into(src: &[f32], dst: &mut [f32]) -> f64 {
    assert!(src.len() == dst.len(), "vectors of different lengths: {} and {}", src.len(), dst.len());
    let length = crate::dot_f64(src, src).sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    for (dst, &src) in dst.iter_mut().zip(src) {
        *dst = (f64::from(src) * scale) as f32;
    }
    length
}

/// Asks the processor to bring a slice into its nearest cache. A hint: it never faults and changes no value.
///
/// Cost: one instruction a cache line of 64 bytes.
///
/// ```
/// plimsoll_kernels::prefetch(&[0.0; 100]);
/// ```
#[inline]
pub fn prefetch<T>(slice: &[T]) {
    // Lines begin at multiples of 64, wherever the slice does.
    let range = slice.as_ptr_range();
    let mut line = range.start.cast::<u8>().wrapping_sub(range.start.addr() % 64);
    while line.addr() < range.end.addr() {
        prefetch_line(line.cast());
        line = line.wrapping_add(64);
    }
}

/// Prefetches the cache line of an address, which need not be a valid one.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch never faults, whatever the address, and touches neither registers nor flags.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// The body of [`stream_sum`](crate::stream_sum), compiled once for each instruction set.
#[inline(always)]
pub(crate) fn stream_sum(bytes: &[u8]) -> u64 {
    const WORDS: usize = 32;
    let mut sums = [0_u64; WORDS];
    let (blocks, rest) = bytes.as_chunks::<{ 8 * WORDS }>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for index in 0..WORDS {
            sums[index] = sums[index].wrapping_add(u64::from_le_bytes(words[index]));
        }
    }
    let (words, tail) = rest.as_chunks();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word)).chain(sums).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn first_invalid_finds_what_a_plain_search_finds(
            mut values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL, 0..300),
            spoilt in prop::collection::vec((0_usize..300, prop::sample::select(vec![
                f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -f32::NAN,
            ])), 0..3),
        ) {
            for (index, value) in spoilt {
                if let Some(slot) = values.get_mut(index) {
                    *slot = value;
                }
            }
            prop_assert_eq!(first_invalid(&values), values.iter().position(|value| !value.is_finite()));
        }

        #[test]
        fn stream_sum_adds_every_byte(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
            let expected = bytes.iter().enumerate().fold(0_u64, |sum, (index, &byte)| {
                sum.wrapping_add(u64::from(byte) << (8 * (index % 8)))
            });
            for kernels in crate::Kernels::available() {
                prop_assert_eq!(kernels.stream_sum(&bytes), expected);
            }
        }
    }

    #[test]
    fn normalising_works_at_both_ends_of_the_range() {
        for scale in [f32::from_bits(1), 1e-40, 1e-20, 1.0, 1e20, f32::MAX] {
            let mut unit = [0.0; 4];
            let length = normalise_into(&[scale, 0.0, scale, 0.0], &mut unit);
            assert!((length / f64::from(scale) - 2.0_f64.sqrt()).abs() < 1e-9);
            assert_eq!(unit, [0.5_f64.sqrt() as f32, 0.0, 0.5_f64.sqrt() as f32, 0.0]);
        }
        let mut unit = [7.0; 3];
        assert_eq!(normalise_into(&[0.0; 3], &mut unit), 0.0);
        assert_eq!(unit, [0.0; 3]);
    }
}
