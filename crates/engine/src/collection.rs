//! One collection of an open database: writing to it and reading from it.

use std::sync::Arc;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{CollectionId, Lsn, Metric};

use crate::batch::{Operation, WriteBatch};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::model::{Document, Key, Metadata};
use crate::options::{CollectionConfig, Durability};
use crate::policy::FlushPolicy;
use crate::query::{Documents, Keys, Preloaded, ReadOnlyCollection, Search};
use crate::stats::FlushStats;

/// One collection of a database.
#[derive(Clone)]
pub struct Collection {
    pub(crate) database: Database,
    pub(crate) id: CollectionId,
    pub(crate) name: Arc<str>,
    pub(crate) config: CollectionConfig,
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collection({:?}, {} × {})", self.name, self.config.dimension, self.config.metric)
    }
}

impl Collection {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dimension of its vectors.
    pub fn dimension(&self) -> usize {
        self.config.dimension
    }

    /// Its metric.
    pub fn metric(&self) -> Metric {
        self.config.metric
    }

    /// The collection as it is now, to be read for as long as it is held.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`] if it was dropped.
    pub fn snapshot(&self) -> Result<ReadOnlyCollection> {
        let view = self.database.core().published.view();
        let state = view.state.collections.get(&self.id);
        let state = state.ok_or_else(|| Error::CollectionNotFound(self.name.to_string()))?;
        let visible = if mutant::is(Mutant::SnapshotSeesLaterWrites) { Lsn(u64::MAX) } else { view.visible };
        Ok(ReadOnlyCollection { state: Arc::clone(state), visible })
    }

    /// Stores a document, replacing the whole of the one that has its key, if any. When it returns, the
    /// document is on disk and searches find it.
    ///
    /// # Errors
    /// [`Error::InvalidDocument`], [`Error::DimensionMismatch`], [`Error::BatchTooLarge`]: nothing was stored.
    /// [`Error::Stalled`], [`Error::Storage`]: nothing was stored, and it may be tried again.
    /// [`Error::Poisoned`]: whether it was stored shows when the database is opened again.
    pub fn upsert(&self, document: Document) -> Result<Lsn> {
        self.one(Operation::Upsert(document))
    }

    /// Stores a document that must not be there yet.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], and as [`Collection::upsert`].
    pub fn insert(&self, document: Document) -> Result<Lsn> {
        self.one(Operation::Insert(document))
    }

    /// Removes a document; says whether it was there.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn delete(&self, key: impl Into<Key>) -> Result<bool> {
        let key = key.into();
        let existed = self.snapshot()?.contains(&key)?;
        if existed {
            self.one(Operation::Delete(key))?;
        }
        Ok(existed)
    }

    /// Replaces the metadata of a document, and nothing else of it.
    ///
    /// # Errors
    /// [`Error::DocumentNotFound`], and as [`Collection::upsert`].
    pub fn update_metadata(&self, key: impl Into<Key>, metadata: Metadata) -> Result<Lsn> {
        let key = key.into();
        loop {
            let snapshot = self.snapshot()?;
            let (mut document, version) =
                snapshot.get_with_version(&key)?.ok_or_else(|| Error::DocumentNotFound(key.clone()))?;
            document.metadata.clone_from(&metadata);
            match self.one(Operation::Replace(document, version)) {
                Err(Error::Changed(_)) => {}
                result => return result,
            }
        }
    }

    fn one(&self, operation: Operation) -> Result<Lsn> {
        self.write(&WriteBatch::of(operation))
    }

    /// Stores a batch as a whole. When it returns, the batch is on disk and searches find it.
    ///
    /// # Errors
    /// As [`Collection::upsert`], and [`Error::AlreadyExists`] for an insert; an invalid document is named by
    /// its index in the batch. In every case nothing of the batch was stored.
    pub fn write(&self, batch: &WriteBatch) -> Result<Lsn> {
        self.write_with(batch, Durability::Durable)
    }

    /// As [`Collection::write`], with the choice of when it returns.
    ///
    /// # Errors
    /// As [`Collection::write`].
    pub fn write_with(&self, batch: &WriteBatch, durability: Durability) -> Result<Lsn> {
        self.database.core().write(&[(self.id, &self.config, batch)], durability)
    }

    /// Moves every write accepted before this call from the log to sealed files.
    ///
    /// # Errors
    /// As [`Database::flush`](crate::Database::flush).
    pub fn flush(&self) -> Result<FlushStats> {
        self.database.flush_collection(&self.name)
    }

    /// When its writes are flushed.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`] if the collection was dropped.
    pub fn flush_policy(&self) -> Result<FlushPolicy> {
        let state = self.database.core().published.state();
        let found = state.collections.get(&self.id);
        let found = found.ok_or_else(|| Error::CollectionNotFound(self.name.to_string()))?;
        Ok(found.tree.entry.policy.clone())
    }

    /// Changes when its writes are flushed, from now on and after every opening. Times count to the millisecond.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a policy that can not be meant; [`Error::CollectionNotFound`];
    /// [`Error::Storage`].
    pub fn set_flush_policy(&self, policy: FlushPolicy) -> Result<()> {
        self.database.core().check_open()?;
        self.database.core().set_flush_policy(self.id, &self.name, &policy)
    }

    /// The document with this key, if there is one.
    ///
    /// # Errors
    /// [`Error::Storage`] if the bytes are damaged.
    pub fn get(&self, key: impl Into<Key>) -> Result<Option<Document>> {
        self.snapshot()?.get(key)
    }

    /// How many documents there are.
    ///
    /// # Errors
    /// [`Error::Storage`] if bytes are damaged.
    pub fn count(&self) -> Result<u64> {
        self.snapshot()?.count()
    }

    /// Every document as of now, once.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`] if the collection was dropped.
    pub fn scan(&self) -> Result<Documents> {
        Ok(self.snapshot()?.scan())
    }

    /// The key of every document as of now, once.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`] if the collection was dropped.
    pub fn keys(&self) -> Result<Keys> {
        Ok(self.snapshot()?.keys())
    }

    /// Brings what searches read into memory; see [`ReadOnlyCollection::preload`].
    ///
    /// # Errors
    /// As [`ReadOnlyCollection::preload`], and [`Error::CollectionNotFound`] if the collection was dropped.
    pub fn preload(&self, at_most: u64) -> Result<Preloaded> {
        self.snapshot()?.preload(at_most)
    }

    /// Searches for the rows nearest to `query` as of now.
    /// That the collection was dropped meanwhile is reported by [`Search::run`].
    pub fn search<'a>(&self, query: &'a [f32]) -> Search<'a> {
        match self.snapshot() {
            Ok(snapshot) => snapshot.search(query),
            Err(error) => Search::failed(error),
        }
    }

    /// Searches for the rows nearest to the first posting of a document, which itself is not among the hits.
    ///
    /// # Errors
    /// [`Error::DocumentNotFound`], [`Error::Storage`].
    pub fn search_like(&self, key: impl Into<Key>) -> Result<Search<'static>> {
        self.snapshot()?.search_like(key)
    }
}
