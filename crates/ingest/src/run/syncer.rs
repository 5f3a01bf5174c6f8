//! Makes what was committed durable while the next batch is read and parsed.
//!
//! A batch is in the log, where a killed process leaves it, before the next one is read; it is on disk before the next one
//! is embedded or committed. So a crash costs no more than the batch in hand, and a power cut what was read beside the sync.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use plimsoll::{Error, Result, Source};

/// A thread that syncs, one time after the other.
pub(super) struct Syncer {
    begin: Sender<()>,
    ended: Receiver<Result<()>>,
    is_busy: Cell<bool>,
}

impl Syncer {
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, source: &'scope Source) -> Self {
        let (begin, begun) = channel();
        let (tell, ended) = channel();
        scope.spawn(move || {
            while begun.recv().is_ok() {
                // Nobody listens any more only where the run has panicked.
                let _told = tell.send(source.sync().map(drop));
            }
        });
        Self { begin, ended, is_busy: Cell::new(false) }
    }

    /// Begins to make durable what was committed by now. The one before has been waited for.
    pub(super) fn begin(&self) {
        self.is_busy.set(self.begin.send(()).is_ok());
    }

    /// Waits until what was committed before [`Syncer::begin`] is durable.
    ///
    /// # Errors
    /// As [`Source::sync`].
    pub(super) fn wait(&self) -> Result<()> {
        if !self.is_busy.replace(false) {
            return Ok(());
        }
        self.ended.recv().unwrap_or(Err(Error::Closed))
    }
}
