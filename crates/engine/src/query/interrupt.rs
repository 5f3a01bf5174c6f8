//! Ending a search before it is done: its time is over, or somebody says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_base::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::{Error, Result};

/// Ends searches that were given it, from any thread; see [`Search::cancel`](crate::Search::cancel). Clones are the same
/// switch, and it stays thrown.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use plimsoll_engine::{Cancel, CollectionConfig, Database, Document, Error, Metric};
/// let db = Database::open(dir.path().join("db"))?;
/// let points = db.create_collection("points", CollectionConfig::new(2, Metric::L2))?;
/// points.upsert(Document::new("a").vector([1.0, 0.0]))?;
/// let cancel = Cancel::new();
/// let search = points.search(&[0.9, 0.1]).cancel(&cancel);
/// assert_eq!(search.run()?.hits.len(), 1);
/// cancel.cancel();
/// assert!(matches!(search.run(), Err(Error::Cancelled)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A switch that is not thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the searches, those that run and those to come.
    pub fn cancel(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it is thrown.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// When a search has to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    deadline: Option<Instant>,
    cancel: Option<Cancel>,
}

impl Interrupt {
    /// The time counts from now; so much of it that no clock goes that far is no limit.
    pub(crate) fn new(timeout: Option<Duration>, cancel: Option<&Cancel>) -> Self {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self { deadline, cancel: cancel.cloned() }
    }

    /// An error once the search has to end. Searches ask before every list, and every few hundred rows where they look
    /// at all of them.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Error::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Error::Timeout),
            _ => Ok(()),
        }
    }
}
