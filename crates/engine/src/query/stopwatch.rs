//! How long the stages of a search take, where someone wants to know.

use std::time::{Duration, Instant};

use super::search::Stages;

/// Adds up the time of stages; does nothing, and reads no clock, unless it was asked to.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch(Option<(Instant, Stages)>);

impl Stopwatch {
    pub(crate) fn new(on: bool) -> Self {
        Self(on.then(|| (Instant::now(), Stages::default())))
    }

    /// Adds the time since the last lap to a stage.
    #[inline]
    pub(crate) fn lap(&mut self, stage: impl Fn(&mut Stages) -> &mut Duration) {
        if let Some((last, stages)) = &mut self.0 {
            let now = Instant::now();
            *stage(stages) += now - *last;
            *last = now;
        }
    }

    pub(crate) fn stages(&self) -> Option<Stages> {
        self.0.map(|(_, stages)| stages)
    }
}
