//! Random numbers that are the same in every run.

/// A generator of random numbers: SplitMix64.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator of one of many things that are made with the same seed, in whichever order.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut mixed = Self(number);
        Self(seed ^ mixed.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// About normally distributed, with variance 1: a sum of twelve.
    pub(super) fn normal(&mut self) -> f32 {
        let bits = [self.next(), self.next(), self.next()];
        let sum: u64 =
            bits.iter().map(|bits| (0..4).map(|part| bits >> (16 * part) & 0xffff).sum::<u64>()).sum();
        sum as f32 / 65_536.0 - 6.0
    }

    /// The numbers below `end` in a random order.
    pub(super) fn permutation(&mut self, end: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..end).collect();
        for last in (1..end).rev() {
            numbers.swap(last, self.below(last + 1));
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_has_every_number_once_and_is_not_sorted() {
        let mut numbers = Random::new(1).permutation(100);
        assert_eq!(numbers, Random::new(1).permutation(100));
        assert_ne!(numbers, (0..100).collect::<Vec<_>>());
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1_and_every_generator_its_own() {
        let numbers: Vec<f32> = (0..10_000).map(|number| Random::of(1, number).normal()).collect();
        let mean = numbers.iter().sum::<f32>() / 1e4;
        let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.05 && (0.95..1.05).contains(&variance), "{mean} {variance}");
        assert_ne!(Random::of(1, 0).next(), Random::of(2, 0).next());
    }
}
