//! How failures of each class are tried again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::failure::FailureClass;

/// For each class: whether it is tried again, and after how long.
#[derive(Debug, Clone, Default)]
pub struct Policies {}

impl Policies {
    pub(crate) fn is_retried(&self, class: FailureClass) -> bool {
        !matches!(class, FailureClass::Validation | FailureClass::Encoding | FailureClass::Memory)
    }

    pub(crate) fn delay(
        &self,
        _class: FailureClass,
        attempt: u32,
        retry_after: Option<Duration>,
    ) -> Duration {
        let backoff = Duration::from_secs((1u64 << attempt.min(5)).min(30));
        retry_after.unwrap_or_default().max(backoff)
    }
}

/// Stops calls to what keeps failing.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: Mutex<(u32, Option<Instant>)>,
}

impl Breaker {
    pub(crate) fn check(&self) -> Result<(), Duration> {
        Ok(())
    }
    pub(crate) fn succeeded(&self) {
        *self.failures.lock() = (0, None);
    }
    pub(crate) fn failed(&self) {
        self.failures.lock().0 += 1;
    }
}
