//! The one seam for time, so that an hour can pass in a test.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// Where a database takes the time from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time since some fixed moment. It never goes back.
    fn now(&self) -> Duration;

    /// The time since the beginning of 1970, by the calendar. It may go back.
    fn unix_time(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}
