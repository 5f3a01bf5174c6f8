//! Holding syncs up, so that a test can look at what goes on meanwhile.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What syncs pass before they begin to do anything.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many guards hold it closed.
    holders: u32,
    waiting: usize,
    /// How many may pass all the same.
    passes: usize,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the gate is open.
    pub(crate) fn pass(&self) {
        let mut state = self.state();
        state.waiting += 1;
        self.changed.notify_all();
        while state.holders > 0 && state.passes == 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.passes = state.passes.saturating_sub(1);
        state.waiting -= 1;
    }
}

/// Syncs are held up until this is dropped: see [`SimStorage::hold_syncs`](crate::SimStorage::hold_syncs).
#[derive(Debug)]
pub struct HeldSyncs {
    gate: Arc<Gate>,
}

impl HeldSyncs {
    pub(crate) fn new(gate: &Arc<Gate>) -> Self {
        gate.state().holders += 1;
        Self { gate: Arc::clone(gate) }
    }

    /// Lets one sync go on, now or when it comes.
    pub fn let_one_pass(&self) {
        self.gate.state().passes += 1;
        self.gate.changed.notify_all();
    }

    /// Waits until at least one sync is held up.
    ///
    /// # Panics
    /// If none is for a minute.
    pub fn wait_for_one(&self) {
        let (state, patience) = (self.gate.state(), Duration::from_secs(60));
        let waited = self.gate.changed.wait_timeout_while(state, patience, |state| state.waiting == 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(state.waiting > 0, "nothing has been synced for {patience:?}");
    }
}

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.gate.state().holders -= 1;
        self.gate.changed.notify_all();
    }
}
