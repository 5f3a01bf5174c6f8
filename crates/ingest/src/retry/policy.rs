//! How often something is tried again, and after how long, by the class of its failure.

use std::time::Duration;

use crate::failure::{Failure, FailureClass};

/// How a class of failures is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How often it is tried again after the first failure; 0: never.
    pub retries: u32,
    /// How long to wait before the first retry. Each further wait is twice as long.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// Which part of a wait is left to chance, in percent, so that many who failed together do not come back together.
    pub jitter_percent: u32,
}

/// The policies of all classes.
///
/// | class | retries | first wait | longest wait | why |
/// |---|---|---|---|---|
/// | network | 3 | 500 ms | 30 s | connections come back soon |
/// | storage | 3 | 1 s | 30 s | a disk that is full or busy needs a while |
/// | file system | 3 | 200 ms | 5 s | a file may be in the middle of being replaced |
/// | encoding | never | | | the bytes stay what they are |
/// | rate limit | 10 | 1 s | 60 s | the service has asked to come back |
/// | memory | never | | | an item that is too large stays so |
/// | timeout | 3 | 1 s | 30 s | a slow service is slower when it is pushed |
/// | validation | never | | | the item, or the configuration, is wrong |
/// | unknown | 3 | 1 s | 30 s | |
///
/// Half of each wait is left to chance. A wait that a service asks for is honoured in full, and lengthened by chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    of: Vec<(FailureClass, Policy)>,
    patience: Duration,
}

const fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn standard(class: FailureClass) -> Policy {
    let (retries, base, cap) = match class {
        FailureClass::Network => (3, 500, 30_000),
        FailureClass::FileSystem => (3, 200, 5000),
        FailureClass::RateLimit => (10, 1000, 60_000),
        FailureClass::Encoding | FailureClass::Memory | FailureClass::Validation => (0, 0, 0),
        // Storage, timeout, unknown, and what is added to them.
        _ => (3, 1000, 30_000),
    };
    Policy { retries, base: milliseconds(base), cap: milliseconds(cap), jitter_percent: 50 }
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            of: FailureClass::ALL.iter().map(|class| (*class, standard(*class))).collect(),
            patience: Duration::from_secs(600),
        }
    }
}

impl Policies {
    /// How a class is tried again.
    pub fn of(&self, class: FailureClass) -> Policy {
        self.of.iter().find(|(of, _)| *of == class).map_or_else(|| standard(class), |(_, policy)| *policy)
    }

    /// Replaces the policy of a class.
    #[must_use]
    pub fn with(mut self, class: FailureClass, policy: Policy) -> Self {
        self.of.retain(|(of, _)| *of != class);
        self.of.push((class, policy));
        self
    }

    /// Sets the number of retries of all classes that are tried again at all. A rate limit says nothing against the
    /// item, so it is tried ten times again at least, unless `retries` is 0.
    #[must_use]
    pub fn with_max_retries(mut self, retries: u32) -> Self {
        for (class, policy) in &mut self.of {
            if policy.retries > 0 {
                policy.retries = match class {
                    FailureClass::RateLimit if retries > 0 => retries.max(10),
                    _ => retries,
                };
            }
        }
        self
    }

    /// Sets the longest wait that is granted to a service that asks for it; 10 minutes unless it is said. Who asks for
    /// more is not waited for.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long to wait before the next try after `tries` have failed (1 after the first), or `None` to give up.
    ///
    /// The same arguments give the same wait: chance comes from `seed`, which should differ among those who wait.
    pub fn delay(&self, failure: &Failure, tries: u32, seed: u64) -> Option<Duration> {
        let policy = self.of(failure.class);
        let before = tries.saturating_sub(1);
        if before >= policy.retries || failure.retry_after.is_some_and(|asked| asked > self.patience) {
            return None;
        }
        let doubled = policy.base.saturating_mul(2u32.saturating_pow(before)).min(policy.cap);
        let random = random(seed ^ u64::from(tries).rotate_left(32)) % 1001;
        let jitter = doubled * policy.jitter_percent.min(100) / 100;
        // The random part, in thousandths.
        let part = jitter * u32::try_from(random).unwrap_or(0) / 1000;
        let own = doubled.saturating_sub(jitter) + part;
        Some(match failure.retry_after {
            Some(asked) if asked >= own => asked + part,
            _ => own,
        })
    }
}

/// SplitMix64, one step.
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> impl Strategy<Value = FailureClass> {
        proptest::sample::select(FailureClass::ALL)
    }

    #[test]
    fn what_can_not_get_better_is_never_tried_again() {
        let policies = Policies::default().with_max_retries(100);
        for class in [FailureClass::Validation, FailureClass::Encoding, FailureClass::Memory] {
            assert_eq!(policies.delay(&Failure::new(class, ""), 1, 0), None);
        }
        assert!(policies.delay(&Failure::new(FailureClass::Network, ""), 100, 0).is_some());
        assert!(policies.delay(&Failure::new(FailureClass::Network, ""), 101, 0).is_none());
        let none = Policies::default().with_max_retries(0);
        assert!(FailureClass::ALL.iter().all(|class| none.delay(&Failure::new(*class, ""), 1, 0).is_none()));
    }

    #[test]
    fn a_service_that_asks_for_too_much_patience_is_given_up() {
        let mut failure = Failure::new(FailureClass::RateLimit, "");
        failure.retry_after = Some(Duration::from_secs(601));
        assert_eq!(Policies::default().delay(&failure, 1, 0), None);
        assert!(Policies::default().with_patience(Duration::from_secs(700)).delay(&failure, 1, 0).is_some());
    }

    proptest! {
        #[test]
        fn waits_double_within_their_bounds(class in class(), tries in 1u32..50, seed: u64) {
            let policies = Policies::default().with_max_retries(40);
            let policy = policies.of(class);
            let failure = Failure::new(class, "");
            let delay = policies.delay(&failure, tries, seed);
            prop_assert_eq!(delay, policies.delay(&failure, tries, seed));
            prop_assert_eq!(delay.is_some(), tries <= policy.retries);
            if let Some(delay) = delay {
                let full = policy.base.saturating_mul(2u32.saturating_pow(tries - 1)).min(policy.cap);
                prop_assert!(delay >= full / 2 && delay <= full, "{:?} of {:?}", delay, full);
            }
        }

        #[test]
        fn a_wait_that_is_asked_for_is_honoured(tries in 1u32..10, seed: u64, asked in 0u64..600_000) {
            let mut failure = Failure::new(FailureClass::RateLimit, "");
            failure.retry_after = Some(Duration::from_millis(asked));
            let delay = Policies::default().delay(&failure, tries, seed).unwrap();
            prop_assert!(delay >= Duration::from_millis(asked));
            prop_assert!(delay <= Duration::from_millis(asked) + Duration::from_secs(60));
        }
    }

    #[test]
    fn those_who_failed_together_do_not_come_back_together() {
        let failure = Failure::new(FailureClass::Network, "");
        let mut delays: Vec<_> =
            (0..100).map(|seed| Policies::default().delay(&failure, 3, seed).unwrap()).collect();
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 50, "{}", delays.len());
    }
}
