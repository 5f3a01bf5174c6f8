//! The circuit breaker: when flushes keep failing, new writes and flushes are refused for a while, with the cause, and
//! then a single flush is tried before everything goes on.
//!
//! Nothing that was accepted is lost by it: that is in the log and in memory, and is flushed by the probe or after it.

use std::collections::VecDeque;
use std::time::Duration;

use plimsoll_base::sync::Mutex;
use plimsoll_base::sync::atomic::{AtomicBool, Ordering};

use crate::core::lock;
use crate::error::{Error, Result};

/// So many failures ...
pub(super) const FAILURES: usize = 5;
/// ... within this time open the circuit, for as long.
pub(super) const WINDOW: Duration = Duration::from_secs(30);

/// Whether writes and flushes are taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Circuit {
    /// They are.
    #[default]
    Closed,
    /// They are refused: five flushes failed within 30 seconds, the last one for this cause.
    Open {
        /// Why the last flush failed.
        cause: String,
        /// After how long a single flush is tried.
        retry_in: Duration,
    },
    /// They are refused while a single flush is tried.
    HalfOpen {
        /// Why the flush before failed.
        cause: String,
    },
}

#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    /// Whether the circuit is not closed: what each write looks at.
    is_open: AtomicBool,
}

#[derive(Default)]
struct State {
    /// When flushes failed since the last one that succeeded.
    failures: VecDeque<Duration>,
    open: Option<Open>,
    opened: u64,
}

struct Open {
    until: Duration,
    is_probing: bool,
    cause: String,
}

impl Breaker {
    /// Refuses new work while the circuit is not closed.
    pub(super) fn check(&self, now: impl Fn() -> Duration) -> Result<()> {
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.circuit(now()) {
            Circuit::Closed => Ok(()),
            Circuit::Open { cause, retry_in } => Err(Error::CircuitOpen { cause, retry_in }),
            Circuit::HalfOpen { cause } => Err(Error::CircuitOpen { cause, retry_in: Duration::ZERO }),
        }
    }

    pub(super) fn circuit(&self, now: Duration) -> Circuit {
        match &lock(&self.state).open {
            None => Circuit::Closed,
            Some(Open { is_probing: true, cause, .. }) => Circuit::HalfOpen { cause: cause.clone() },
            Some(Open { until, cause, .. }) => {
                Circuit::Open { cause: cause.clone(), retry_in: until.saturating_sub(now) }
            }
        }
    }

    /// Whether a flush may begin: always while the circuit is closed, and a single one when its time is over.
    pub(super) fn admits(&self, now: Duration) -> bool {
        lock(&self.state).open.as_ref().is_none_or(|open| !open.is_probing && open.until <= now)
    }

    /// A flush begins that was admitted.
    pub(super) fn begin(&self) {
        if let Some(open) = &mut lock(&self.state).open {
            open.is_probing = true;
        }
    }

    /// When the next probe may begin, if the circuit is open.
    pub(super) fn probe_at(&self) -> Option<Duration> {
        lock(&self.state).open.as_ref().filter(|open| !open.is_probing).map(|open| open.until)
    }

    /// How often the circuit was opened.
    pub(super) fn opened(&self) -> u64 {
        lock(&self.state).opened
    }

    pub(super) fn succeeded(&self) {
        let mut state = lock(&self.state);
        state.failures.clear();
        if state.open.take().is_some() {
            self.is_open.store(false, Ordering::Release);
            tracing::info!("flushes succeed again: writes are taken");
        }
    }

    /// A flush that was begun says neither that the storage works nor that it does not.
    pub(super) fn undecided(&self) {
        if let Some(open) = &mut lock(&self.state).open {
            open.is_probing = false;
        }
    }

    pub(super) fn failed(&self, now: Duration, cause: &Error) {
        let mut state = lock(&self.state);
        state.failures.push_back(now);
        while state.failures.front().is_some_and(|first| now.saturating_sub(*first) > WINDOW) {
            state.failures.pop_front();
        }
        if state.open.is_some() || state.failures.len() >= FAILURES {
            tracing::error!(%cause, "flushes keep failing: writes are refused for {WINDOW:?}");
            state.opened += 1;
            self.is_open.store(true, Ordering::Release);
            state.open = Some(Open { until: now + WINDOW, is_probing: false, cause: cause.to_string() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fail(breaker: &Breaker, now: u64) {
        breaker.failed(at(now), &Error::Stalled("a cause".to_owned()));
    }

    #[test]
    fn five_failures_in_thirty_seconds_open_it_and_one_probe_closes_it() {
        let breaker = Breaker::default();
        let admit = |now| {
            let admits = breaker.admits(at(now));
            if admits {
                breaker.begin();
            }
            admits
        };
        for now in [0, 1, 2, 3] {
            fail(&breaker, now);
            assert!(breaker.check(|| at(now)).is_ok() && admit(now));
        }
        fail(&breaker, 4);
        assert_eq!(breaker.opened(), 1);
        let refused = breaker.check(|| at(10)).unwrap_err();
        let expected = "flushes keep failing, the last one for: writes are stalled: a cause; writes are taken again \
                        when one succeeds, which is tried in 24s";
        assert_eq!(refused.to_string(), expected);
        assert!(refused.is_retryable());
        assert!(!admit(33), "a probe before its time");
        assert!(admit(34) && !admit(34), "a single probe");
        assert!(matches!(breaker.circuit(at(34)), Circuit::HalfOpen { .. }));
        assert!(breaker.check(|| at(34)).is_err());
        fail(&breaker, 35);
        assert!(matches!(breaker.circuit(at(35)), Circuit::Open { .. }) && !admit(64));
        assert_eq!(breaker.probe_at(), Some(at(65)));
        assert!(admit(65));
        breaker.undecided();
        assert!(admit(66), "a probe that was cut off is not the last one");
        breaker.succeeded();
        assert!(breaker.check(|| at(66)).is_ok());
        assert_eq!(breaker.opened(), 2);
    }

    #[test]
    fn failures_that_are_long_ago_or_before_a_success_do_not_count() {
        let breaker = Breaker::default();
        for now in [0, 10, 20, 31, 41, 51, 62] {
            fail(&breaker, now);
        }
        assert!(breaker.check(|| at(62)).is_ok(), "never five in thirty seconds");
        for now in [70, 71, 72] {
            fail(&breaker, now);
            breaker.succeeded();
        }
        assert!(breaker.check(|| at(72)).is_ok());
    }
}
