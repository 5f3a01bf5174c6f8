//! Properties of collections: what programs remember about a collection, beside its documents.
//!
//! They are rows of the system table (rule R14), as durable as the data, and go with their collection. **Must not know** what
//! they mean.

use plimsoll_base::{CollectionId, Lsn};

use crate::batch::WriteBatch;
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::query::ReadOnlyCollection;
use crate::read_only::ReadOnlyDatabase;
use crate::state::View;
use crate::system::{TABLE, pair, pair_key, value_of_pair};

/// The longest name and value of a property together, in bytes.
pub const MAX_PROPERTY_BYTES: usize = 256 << 10;

/// How the keys of a collection's properties begin.
pub(crate) fn properties(collection: CollectionId) -> String {
    format!("property {} ", collection.0)
}

fn find(view: &View, collection: CollectionId, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(table) = view.state.collections.get(&TABLE) else { return Ok(None) };
    let table = ReadOnlyCollection { state: table.clone(), visible: view.visible };
    let found = table.get(pair_key(&properties(collection), name))?;
    found.map(|document| value_of_pair(&document, name)).transpose()
}

impl Collection {
    /// The property of that name, as [`Collection::set_property`] left it.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`] if the collection was dropped; [`Error::Storage`] if the bytes are damaged.
    pub fn property(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.snapshot()?;
        find(&self.database.core().published.view(), self.id, name)
    }

    /// Has the collection remember `value` under `name`, durably; `None` removes it. Name and value have at most
    /// [`MAX_PROPERTY_BYTES`] together.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("notes");
    /// use plimsoll_engine::{CollectionConfig, Database, Metric};
    /// let db = Database::open(&path)?;
    /// let notes = db.create_collection("notes", CollectionConfig::new(384, Metric::Cosine))?;
    /// notes.set_property("model", Some(b"all-MiniLM-L6-v2"))?;
    /// assert_eq!(notes.property("model")?.as_deref(), Some(&b"all-MiniLM-L6-v2"[..]));
    /// # db.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is larger; as [`Collection::write`].
    pub fn set_property(&self, name: &str, value: Option<&[u8]>) -> Result<Lsn> {
        self.snapshot()?;
        let bytes = name.len() + value.map_or(0, <[u8]>::len);
        if bytes > MAX_PROPERTY_BYTES {
            let what = format!(
                "the property {name:.40?} has {bytes} bytes; at most {MAX_PROPERTY_BYTES} are allowed"
            );
            return Err(Error::InvalidArgument(what));
        }
        let core = self.database.core();
        let key = pair_key(&properties(self.id), name);
        let mut rows = WriteBatch::new();
        match value {
            Some(value) => rows.upsert(pair(key, name, value)),
            None => rows.delete(key),
        };
        let table = core.system_table()?;
        core.write(&[(table.id, &table.config, &rows)], Durability::Durable)
    }
}

impl ReadOnlyDatabase {
    /// A property of a collection; see [`Collection::set_property`].
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Storage`] if the bytes are damaged.
    pub fn property(&self, collection: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let found = self.view().state.by_name(collection);
        let found = found.ok_or_else(|| Error::CollectionNotFound(collection.to_owned()))?;
        find(self.view(), found.id, name)
    }
}
