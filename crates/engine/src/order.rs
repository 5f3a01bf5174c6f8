//! Numbers that are ordered by a float32 and then by an index: they are sorted and selected faster than pairs.

/// The number for a value, in the order of [`f32::total_cmp`], and an index.
pub(crate) fn key(value: f32, index: u32) -> u64 {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(index)
}

/// The value of a number.
pub(crate) fn value(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// The index of a number.
pub(crate) fn index(key: u64) -> u32 {
    key as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_order_of_their_values() {
        let values = [f32::NEG_INFINITY, -2.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3e38, f32::INFINITY];
        let keys: Vec<u64> =
            values.iter().zip([9, 8, 7, 6, 5, 4, 3, 2, 1]).map(|(value, at)| key(*value, at)).collect();
        assert!(keys.is_sorted());
        assert!(key(1.0, 3) < key(1.0, 4));
        for (number, expected) in keys.iter().zip(values) {
            assert_eq!(value(*number).to_bits(), expected.to_bits());
        }
        assert_eq!(index(key(-7.0, u32::MAX)), u32::MAX);
    }
}
