//! The standard library's mutex, which counts how often a thread had to wait for one.

use std::cell::Cell;
use std::sync::{LockResult, MutexGuard, TryLockError, TryLockResult};

thread_local! {
    static WAITS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has found a lock taken and waited for it.
pub fn waits() -> u64 {
    WAITS.get()
}

/// As [`std::sync::Mutex`].
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock that is free.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits until the lock is free, and takes it.
    ///
    /// # Errors
    /// As [`std::sync::Mutex::lock`].
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => {
                WAITS.set(WAITS.get() + 1);
                self.0.lock()
            }
        }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// As [`std::sync::Mutex::try_lock`].
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        self.0.try_lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_waiting_counts_and_only_for_the_thread_that_waits() {
        let before = waits();
        let mutex = Mutex::new(0);
        *mutex.lock().unwrap() += 1;
        let waits_of_another = |held: Duration| {
            std::thread::scope(|scope| {
                let guard = mutex.lock().unwrap();
                assert!(mutex.try_lock().is_err());
                let other = scope.spawn(|| {
                    *mutex.lock().unwrap() += 1;
                    waits()
                });
                std::thread::sleep(held);
                drop(guard);
                other.join().unwrap()
            })
        };
        // Until the other thread comes while the lock is held.
        let waited = (0..12).any(|doubled| waits_of_another(Duration::from_millis(1 << doubled)) == 1);
        assert!(waited);
        assert_eq!(waits(), before);
    }
}
