//! The generator behind every seed: SplitMix64 (G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom
//! Number Generators", 2014). Fixed, so that a seed means the same on every machine and in every version.

/// A stream of pseudo-random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0 (bias below 2⁻⁶⁴ · bound, by multiplication).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
impl Random {
    /// Uniform in −1 to 1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Nearly normal with variance 1: a sum of 12 uniform numbers.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() / 2.0
    }

    /// `n` rows around `clusters` random centres; `spread` is the noise relative to the centres.
    pub(crate) fn clustered(&mut self, n: usize, dim: usize, clusters: usize, spread: f32) -> Vec<f32> {
        let centres: Vec<f32> = (0..clusters * dim).map(|_| self.normal()).collect();
        let mut rows = Vec::with_capacity(n * dim);
        for _ in 0..n {
            let centre = self.below(clusters);
            rows.extend((0..dim).map(|i| centres[centre * dim + i]));
            let begin = rows.len() - dim;
            rows[begin..].iter_mut().for_each(|value| *value += spread * self.normal());
        }
        rows
    }
}
