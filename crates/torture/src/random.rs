//! Random numbers that a seed repeats.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Numbers that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Whether something of this many in a hundred happens.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// About normally distributed.
    pub fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.signed()).sum::<f32>() / std::f32::consts::SQRT_2
    }

    /// One of several; there must be one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// The seeds of a test: the one in `PLIMSOLL_SEED`, or as many as `PLIMSOLL_SEEDS` says, or `count`. They are
/// printed, so that a failure says how to repeat it.
pub fn seeds(test: &str, count: u64) -> impl Iterator<Item = u64> {
    let number = |name| {
        let value = std::env::var(name).ok();
        value.map(|value: String| value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let seeds = match (number("PLIMSOLL_SEED"), number("PLIMSOLL_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 1..seeds.unwrap_or(count) + 1,
    };
    let name = test.to_owned();
    seeds.inspect(move |seed| eprintln!("{name}: PLIMSOLL_SEED={seed} repeats this"))
}
