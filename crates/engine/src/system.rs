//! The system table: what the engine has to remember beside the data (rule R14).
//!
//! It is a collection that no user sees. Its documents are written in records of the log, carried to files by flushes,
//! and named by the manifest like any others, so that they are as durable as the data that they are about.

use std::sync::Arc;

use plimsoll_base::{CollectionId, Lsn, Metric};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::manifest::CollectionEntry;
use crate::model::{Document, Key};
use crate::options::CollectionConfig;
use crate::state::{CollectionState, State};

/// The table's id. Collections that users make have greater ones.
pub(crate) const TABLE: CollectionId = CollectionId(0);
/// What it is called where files are described.
pub(crate) const NAME: &str = "plimsoll.system";

/// Whether a collection is the system table.
pub(crate) fn is_system(id: CollectionId) -> bool {
    id == TABLE
}

/// An empty document of the table: it has a vector only because every document has one.
pub(crate) fn row(key: Key) -> Document {
    Document::new(key).vector([0.0])
}

impl CollectionEntry {
    /// The system table, which comes with a database.
    pub(crate) fn system() -> Self {
        Self::new(TABLE, NAME, CollectionConfig::new(1, Metric::L2), Lsn::ZERO)
    }
}

impl State {
    /// The collections that users made.
    pub(crate) fn users(&self) -> impl Iterator<Item = &Arc<CollectionState>> {
        self.collections.values().filter(|collection| !collection.is_system())
    }
}

impl CollectionState {
    /// Whether it is the system table.
    pub(crate) fn is_system(&self) -> bool {
        is_system(self.id)
    }
}

impl Core {
    /// The system table; a database from before there was one gets it now.
    pub(crate) fn system_table(&self) -> Result<Arc<CollectionState>> {
        let found = || self.published.state().collections.get(&TABLE).cloned();
        if let Some(table) = found() {
            return Ok(table);
        }
        self.create_system_table()?;
        found().ok_or(Error::Closed)
    }
}
