//! A clock that stands still until a test moves it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_base::clock::Clock;

/// A clock that shows what it was last set to. Its calendar begins in 2026.
///
/// ```
/// use plimsoll_base::clock::Clock;
/// use plimsoll_sim::SimClock;
/// use std::time::Duration;
///
/// let clock = SimClock::default();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now() - before, Duration::from_secs(3600));
/// ```
#[derive(Debug, Default)]
pub struct SimClock {
    nanos: AtomicU64,
    /// How long it takes to look at it.
    tick: u64,
}

/// The first second of 2026.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

impl SimClock {
    /// A clock on which so much time passes with each look: nothing takes no time at all.
    pub fn ticking(tick: Duration) -> Self {
        Self { nanos: AtomicU64::new(0), tick: tick.as_nanos() as u64 }
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.nanos.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos.fetch_add(self.tick, Ordering::SeqCst))
    }

    fn unix_time(&self) -> Duration {
        EPOCH + self.now()
    }
}
