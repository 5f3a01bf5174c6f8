//! A circuit breaker: a service that fails all the time is left alone for a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use plimsoll::{Clock, SystemClock};

/// Lets calls through as long as they work.
///
/// Closed, all calls go through. After 5 failures in a row within 30 seconds it opens, and no call goes through for 30
/// seconds; then one does, as a probe. If that works it closes, else it stays open for as long again.
#[derive(Debug)]
pub struct Breaker {
    clock: Arc<dyn Clock>,
    threshold: usize,
    window: Duration,
    open_for: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// When the last failures in a row were.
    Closed(VecDeque<Duration>),
    /// Until when.
    Open(Duration),
    /// A probe is under way.
    Probing,
}

/// The right to make one call. Whoever has it says how the call went.
///
/// Dropped without a word, as by a panic, it counts as neither; a probe then makes room for another one.
#[derive(Debug)]
#[must_use = "a permit says how its call went"]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
    told: bool,
}

impl Breaker {
    /// Failures in a row that open it.
    pub const THRESHOLD: usize = 5;
    /// How long it takes at most from the first of them to the last.
    pub const WINDOW: Duration = Duration::from_secs(30);
    /// How long it stays open.
    pub const OPEN_FOR: Duration = Duration::from_secs(30);

    /// A closed one, which takes the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with(clock, Self::THRESHOLD, Self::WINDOW, Self::OPEN_FOR)
    }

    /// A closed one with other limits. A threshold of 0 counts as 1.
    pub fn with(clock: Arc<dyn Clock>, threshold: usize, window: Duration, open_for: Duration) -> Self {
        let state = Mutex::new(State::Closed(VecDeque::new()));
        Self { clock, threshold: threshold.max(1), window, open_for, state }
    }

    /// Asks for a call.
    ///
    /// # Errors
    /// How long to wait before asking again. While a probe is under way nobody knows, and it is a second.
    pub fn admit(&self) -> Result<Permit<'_>, Duration> {
        let mut state = self.state.lock();
        let probe = match *state {
            State::Closed(_) => false,
            State::Probing => return Err(self.open_for.min(Duration::from_secs(1))),
            State::Open(until) => {
                let now = self.clock.now();
                if now < until {
                    return Err(until - now);
                }
                *state = State::Probing;
                true
            }
        };
        Ok(Permit { breaker: self, probe, told: false })
    }

    /// Whether calls are held back.
    pub fn is_open(&self) -> bool {
        !matches!(*self.state.lock(), State::Closed(_))
    }

    fn success(&self, probe: bool) {
        let mut state = self.state.lock();
        match &mut *state {
            // A call that began before it opened says nothing about the service now.
            State::Open(_) => {}
            State::Probing if !probe => {}
            state => *state = State::Closed(VecDeque::new()),
        }
    }

    fn failure(&self, probe: bool) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let open = match &mut *state {
            State::Closed(failures) => {
                failures.push_back(now);
                failures.retain(|at| now.saturating_sub(*at) <= self.window);
                failures.len() >= self.threshold
            }
            State::Open(_) => false,
            State::Probing => probe,
        };
        if open {
            *state = State::Open(now + self.open_for);
        }
    }

    /// A probe that said nothing: the next one may ask at once.
    fn abandoned(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Probing) {
            *state = State::Open(self.clock.now());
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Permit<'_> {
    /// The call worked, or failed through no fault of the service.
    pub fn succeeded(mut self) {
        self.told = true;
        self.breaker.success(self.probe);
    }

    /// The service failed.
    pub fn failed(mut self) {
        self.told = true;
        self.breaker.failure(self.probe);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.breaker.abandoned();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A clock that stands still until it is told.
    #[derive(Debug, Default)]
    pub(crate) struct TestClock(Mutex<Duration>);

    impl TestClock {
        pub(crate) fn advance(&self, time: Duration) {
            *self.0.lock() += time;
        }
    }

    impl Clock for TestClock {
        fn now(&self) -> Duration {
            *self.0.lock()
        }

        fn unix_time(&self) -> Duration {
            self.now()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Arc<TestClock>, Breaker) {
        let clock = Arc::new(TestClock::default());
        let breaker = Breaker::new(Arc::<TestClock>::clone(&clock));
        (clock, breaker)
    }

    fn fail(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.admit().unwrap().failed();
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_for_thirty_seconds() {
        let (clock, breaker) = breaker();
        fail(&breaker, 4);
        breaker.admit().unwrap().succeeded();
        fail(&breaker, 4);
        assert!(!breaker.is_open());
        fail(&breaker, 1);
        assert_eq!(breaker.admit().unwrap_err(), 30 * SECOND);
        clock.advance(29 * SECOND);
        assert_eq!(breaker.admit().unwrap_err(), SECOND);
        clock.advance(SECOND);
        assert!(breaker.admit().is_ok());
    }

    #[test]
    fn failures_far_apart_do_not_open_it() {
        let (clock, breaker) = breaker();
        for _ in 0..20 {
            fail(&breaker, 1);
            clock.advance(8 * SECOND);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_probe_decides() {
        let (clock, breaker) = breaker();
        fail(&breaker, 5);
        clock.advance(30 * SECOND);
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err(), "one at a time");
        probe.failed();
        assert_eq!(breaker.admit().unwrap_err(), 30 * SECOND);
        clock.advance(30 * SECOND);
        drop(breaker.admit().unwrap());
        breaker.admit().expect("a probe that said nothing makes room").succeeded();
        assert!(!breaker.is_open());
        fail(&breaker, 4);
        assert!(!breaker.is_open(), "it counts anew");
    }

    #[test]
    fn calls_from_before_it_opened_change_nothing() {
        let (clock, breaker) = breaker();
        let (late, later) = (breaker.admit().unwrap(), breaker.admit().unwrap());
        fail(&breaker, 5);
        late.succeeded();
        assert!(breaker.is_open());
        clock.advance(30 * SECOND);
        let probe = breaker.admit().unwrap();
        later.failed();
        probe.succeeded();
        assert!(!breaker.is_open());
    }
}
