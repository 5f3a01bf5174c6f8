//! Reading one collection at one moment.

use std::sync::Arc;

use plimsoll_base::{Lsn, Metric, Version};

use super::search::Search;
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::model::{Document, Key};
use crate::state::{CollectionState, Found, View};
use crate::tree::{StoredPlace, Tree};

/// The whole database as it was when the snapshot was taken. It stays valid, and readable, for as long as it
/// is held; files that were compacted away meanwhile are kept for it.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) view: View,
}

impl Snapshot {
    /// The last write that the snapshot sees.
    pub fn lsn(&self) -> Lsn {
        self.view.visible
    }

    /// One of its collections.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`].
    pub fn collection(&self, name: &str) -> Result<ReadOnlyCollection> {
        let state =
            self.view.state.by_name(name).ok_or_else(|| Error::CollectionNotFound(name.to_owned()))?;
        Ok(ReadOnlyCollection { state: Arc::clone(state), visible: self.view.visible })
    }

    /// All its collections, by name.
    pub fn collections(&self) -> Vec<ReadOnlyCollection> {
        let read = |state: &Arc<CollectionState>| ReadOnlyCollection {
            state: Arc::clone(state),
            visible: self.view.visible,
        };
        let mut all: Vec<_> = self.view.state.users().map(read).collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot(LSN {})", self.view.visible)
    }
}

/// One collection as it was at one moment.
#[derive(Clone)]
pub struct ReadOnlyCollection {
    pub(crate) state: Arc<CollectionState>,
    pub(crate) visible: Lsn,
}

impl std::fmt::Debug for ReadOnlyCollection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadOnlyCollection({:?} at LSN {})", self.state.name, self.visible)
    }
}

impl ReadOnlyCollection {
    /// The collection's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The dimension of its vectors.
    pub fn dimension(&self) -> usize {
        self.state.config.dimension
    }

    /// Its metric.
    pub fn metric(&self) -> Metric {
        self.state.config.metric
    }

    /// The document with this key, if there is one.
    ///
    /// # Errors
    /// [`Error::Storage`] if the bytes are damaged; [`Error::IdCollision`].
    pub fn get(&self, key: impl Into<Key>) -> Result<Option<Document>> {
        let found = self.state.find_key(&key.into(), self.visible)?;
        found.map(|found| found.document()).transpose()
    }

    /// Whether there is a document with this key.
    ///
    /// # Errors
    /// As [`ReadOnlyCollection::get`].
    pub fn contains(&self, key: impl Into<Key>) -> Result<bool> {
        Ok(self.state.find_key(&key.into(), self.visible)?.is_some())
    }

    pub(crate) fn get_with_version(&self, key: &Key) -> Result<Option<(Document, Version)>> {
        let found = self.state.find_key(key, self.visible)?;
        found.map(|found| Ok((found.document()?, found.version()?))).transpose()
    }

    /// How many documents there are. Cost: one look-up for each unflushed document, none for flushed ones.
    ///
    /// # Errors
    /// [`Error::Storage`] if bytes are damaged.
    pub fn count(&self) -> Result<u64> {
        let tree = &self.state.tree;
        let mut count = tree.entry.live_documents();
        let newest_first: Vec<_> = self.state.memtables().collect();
        for (age, memtable) in newest_first.iter().enumerate() {
            for (id, entry) in memtable.newest(self.visible) {
                if newest_first[..age].iter().any(|newer| newer.shadows(id, self.visible)) {
                    continue;
                }
                let stored = tree.find(id)?.is_some();
                count += u64::from(!stored && !entry.is_delete());
                count -= u64::from(stored && entry.is_delete());
            }
        }
        Ok(count)
    }

    /// Every document once, in the order in which they were stored.
    pub fn scan(&self) -> Documents {
        Documents { places: Places::new(self) }
    }

    /// The key of every document once, in the order of [`ReadOnlyCollection::scan`].
    pub fn keys(&self) -> Keys {
        Keys { places: Places::new(self) }
    }

    /// Searches for the rows nearest to `query`.
    pub fn search<'a>(&self, query: &'a [f32]) -> Search<'a> {
        Search::new(self.clone(), query.into())
    }

    /// Searches for the rows nearest to the first posting of a document, which itself is not among the hits.
    ///
    /// # Errors
    /// [`Error::DocumentNotFound`], [`Error::Storage`].
    pub fn search_like(&self, key: impl Into<Key>) -> Result<Search<'static>> {
        let key = key.into();
        let document = self.get(&key)?.ok_or_else(|| Error::DocumentNotFound(key.clone()))?;
        let vector = document.postings.into_iter().next().map(|posting| posting.vector).unwrap_or_default();
        Ok(Search::new(self.clone(), vector.into()).excluding(key.id()))
    }
}

/// Where the documents of a view are, one after another.
struct Places {
    collection: ReadOnlyCollection,
    file: usize,
    document: usize,
    /// Unflushed documents, found when the files are done; last first.
    unflushed: Option<Vec<Key>>,
}

/// One document of a view.
enum Place {
    Stored(StoredPlace),
    Unflushed(Key),
}

impl Places {
    fn new(collection: &ReadOnlyCollection) -> Self {
        Self { collection: collection.clone(), file: 0, document: 0, unflushed: None }
    }

    fn tree(&self) -> &Tree {
        &self.collection.state.tree
    }

    fn next(&mut self) -> Result<Option<Place>> {
        while let Some(slot) = self.tree().postings.get(self.file) {
            let file = slot.get()?;
            if self.document >= file.documents() {
                (self.file, self.document) = (self.file + 1, 0);
                continue;
            }
            let place = StoredPlace { file: self.file, document: self.document };
            let entry = *file.entry(self.document)?;
            self.document += 1;
            let (state, visible) = (&self.collection.state, self.collection.visible);
            let shadowed = state.memtables().any(|memtable| memtable.shadows(entry.id(), visible));
            if !shadowed && !self.tree().kills.contains(entry.ordinal())? {
                return Ok(Some(Place::Stored(place)));
            }
        }
        if self.unflushed.is_none() {
            self.unflushed = Some(self.collection.unflushed_keys()?);
        }
        Ok(self.unflushed.as_mut().and_then(Vec::pop).map(Place::Unflushed))
    }

    /// After an error, what is left would be a guess: the iteration ends.
    fn end(&mut self) {
        self.file = usize::MAX;
        self.unflushed = Some(Vec::new());
    }

    fn map<T>(&mut self, read: impl Fn(&ReadOnlyCollection, Place) -> Result<T>) -> Option<Result<T>> {
        let place = self.next().transpose()?;
        let result = place.and_then(|place| read(&self.collection, place));
        if result.is_err() {
            self.end();
        }
        Some(result)
    }
}

impl ReadOnlyCollection {
    /// The keys of unflushed documents, the last one written first.
    fn unflushed_keys(&self) -> Result<Vec<Key>> {
        let newest_first: Vec<&Arc<Memtable>> = self.state.memtables().collect();
        let mut live = Vec::new();
        for (age, memtable) in newest_first.iter().enumerate() {
            for (id, entry) in memtable.newest(self.visible) {
                let hidden = newest_first[..age].iter().any(|newer| newer.shadows(id, self.visible));
                if !hidden && !entry.is_delete() {
                    live.push((entry.version(), entry.key()?));
                }
            }
        }
        live.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
        Ok(live.into_iter().map(|(_, key)| key).collect())
    }

    fn found(&self, place: &Place) -> Result<Found<'_>> {
        match place {
            Place::Stored(place) => Ok(Found::Stored(&self.state.tree, *place)),
            Place::Unflushed(key) => {
                let found = self.state.find(key.id(), self.visible)?;
                found.ok_or_else(|| Error::DocumentNotFound(key.clone()))
            }
        }
    }
}

/// All documents of a view; see [`ReadOnlyCollection::scan`]. It ends after the first error.
pub struct Documents {
    places: Places,
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        self.places.map(|collection, place| collection.found(&place)?.document())
    }
}

/// All keys of a view; see [`ReadOnlyCollection::keys`]. It ends after the first error.
pub struct Keys {
    places: Places,
}

impl Iterator for Keys {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Self::Item> {
        self.places.map(|collection, place| collection.found(&place)?.key())
    }
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Documents of {:?}", self.places.collection)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys of {:?}", self.places.collection)
    }
}
