//! Lanes of a block as bits of a mask.

/// Lanes of a block.
pub(crate) const LANES: usize = 32;

/// A mask of the lanes in which this is true.
#[inline]
pub(crate) fn mask_of<T: Copy>(values: &[T; LANES], is: impl Fn(T) -> bool) -> u32 {
    // As bytes, which compilers make many of at once, and of which all that are 1 are gathered by a product.
    let bytes = values.map(|value| u8::from(is(value)));
    bytes.as_chunks().0.iter().rev().fold(0, |mask, bytes| {
        let eight = u64::from_le_bytes(*bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask << 8 | eight as u32
    })
}

/// The lanes that are set, ascending.
#[inline]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            lane
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_a_mask_are_those_in_which_it_is_true() {
        for number in 0..LANES {
            let values = std::array::from_fn(|lane| ((lane * 7 + number * 5) % LANES) as f32);
            let expected: Vec<usize> = (0..LANES).filter(|lane| values[*lane] <= 9.0).collect();
            assert_eq!(expected.len(), 10);
            assert_eq!(lanes(mask_of(&values, |value| value <= 9.0)).collect::<Vec<_>>(), expected);
        }
        assert_eq!(mask_of(&[f32::NAN; LANES], |value| value <= f32::MAX), 0);
        assert_eq!(mask_of(&[7_u8; LANES], |_| true), u32::MAX);
        assert_eq!(lanes(0).next(), None);
        assert!(lanes(u32::MAX).eq(0..LANES));
    }
}
