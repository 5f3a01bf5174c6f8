//! Random numbers that a seed repeats.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Whether something of this many in a hundred happens.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Uniform in [-1, 1).
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// About normally distributed.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.signed()).sum::<f32>() / std::f32::consts::SQRT_2
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// The seeds of a test: the one in `PLIMSOLL_SEED`, or `count` fixed ones. Each is printed, so that a failure
/// says how to repeat it.
pub(crate) fn seeds(test: &str, count: u64) -> Vec<u64> {
    let given = std::env::var("PLIMSOLL_SEED").ok().map(|seed| seed.parse().expect("PLIMSOLL_SEED is a number"));
    let seeds = given.map_or_else(|| (1..=count).collect(), |seed| vec![seed]);
    eprintln!("{test}: seeds {seeds:?}; PLIMSOLL_SEED=n repeats one");
    seeds
}
