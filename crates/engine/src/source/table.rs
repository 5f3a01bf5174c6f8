//! Sources as rows of the system table: how their keys look, and how they are read.
//!
//! The cursor of a source has the key `source C NAME`, where `C` is the id of its collection; its dead letters and entries
//! have keys that begin with `letter C NAME` and `entry C NAME`, each followed by a zero byte and what tells them apart. A
//! name has no control characters, so none of these is the beginning of another source's.

use plimsoll_base::{CollectionId, Lsn};

use super::cursor::Cursor;
use super::step::DeadLetter;
use crate::error::Result;
use crate::model::{Document, Key};
use crate::properties::properties;
use crate::query::ReadOnlyCollection;
use crate::state::View;
use crate::system::{self, malformed, pair_key, pair_of, value_of_pair};

/// Which source of which collection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceId {
    pub collection: CollectionId,
    pub name: String,
}

const CURSOR: &str = "source ";

impl SourceId {
    pub(super) fn cursor(&self) -> Key {
        Key::from(format!("{CURSOR}{} {}", self.collection.0, self.name))
    }

    fn of_cursor(key: &Key) -> Option<Self> {
        let Key::String(key) = key else { return None };
        let (collection, name) = key.strip_prefix(CURSOR)?.split_once(' ')?;
        Some(Self { collection: CollectionId(collection.parse().ok()?), name: name.to_owned() })
    }

    fn letters(&self) -> String {
        format!("letter {} {}\0", self.collection.0, self.name)
    }

    pub(super) fn letter(&self, position: u64) -> Key {
        Key::from(format!("{}{position}", self.letters()))
    }

    fn entries(&self) -> String {
        format!("entry {} {}\0", self.collection.0, self.name)
    }

    /// Keys of entries may be longer than those of documents: what tells them apart is the identity of the key.
    pub(super) fn entry(&self, key: &str) -> Key {
        pair_key(&self.entries(), key)
    }
}

/// What a view shows of sources.
pub(super) struct Table<'a> {
    view: &'a View,
    /// `None` in a database from before there was a system table.
    rows: Option<ReadOnlyCollection>,
}

impl<'a> Table<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let state = view.state.collections.get(&system::TABLE);
        let rows = state.map(|state| ReadOnlyCollection { state: state.clone(), visible: view.visible });
        Self { view, rows }
    }

    fn get(&self, key: &Key) -> Result<Option<Document>> {
        self.rows.as_ref().map_or(Ok(None), |rows| rows.get(key.clone()))
    }

    pub(super) fn cursor(&self, source: &SourceId) -> Result<Option<Cursor>> {
        let decode = |document: Document| {
            Cursor::decode(&document).ok_or_else(|| malformed(&format!("the cursor of {:?}", source.name)))
        };
        self.get(&source.cursor())?.map(decode).transpose()
    }

    pub(super) fn letter(&self, source: &SourceId, position: u64) -> Result<Option<DeadLetter>> {
        self.get(&source.letter(position))?.map(|document| letter(source, document)).transpose()
    }

    pub(super) fn entry(&self, source: &SourceId, key: &str) -> Result<Option<Vec<u8>>> {
        self.get(&source.entry(key))?.map(|document| value_of_pair(&document, key)).transpose()
    }

    /// The sources of the collections that there are, with the names of these, by both names.
    pub(super) fn sources(&self) -> Result<Vec<(SourceId, String, Cursor)>> {
        let mut all = Vec::new();
        for key in self.keys()? {
            let Some(id) = SourceId::of_cursor(&key) else { continue };
            let Some(collection) = self.view.state.collections.get(&id.collection) else { continue };
            if let Some(cursor) = self.cursor(&id)? {
                all.push((id, collection.name.to_string(), cursor));
            }
        }
        all.sort_by(|a, b| (&a.1, &a.0.name).cmp(&(&b.1, &b.0.name)));
        Ok(all)
    }

    fn keys(&self) -> Result<Vec<Key>> {
        self.rows.as_ref().map_or(Ok(Vec::new()), |rows| rows.keys().collect())
    }

    /// The keys of this table that begin with `prefix`.
    fn keys_from(&self, prefix: &str) -> Result<Vec<Key>> {
        let begins = |key: &Key| matches!(key, Key::String(key) if key.starts_with(prefix));
        Ok(self.keys()?.into_iter().filter(begins).collect())
    }

    /// The positions of its dead letters, ascending.
    pub(super) fn letter_positions(&self, source: &SourceId) -> Result<Vec<u64>> {
        let prefix = source.letters();
        let position = |key: &Key| match key {
            Key::String(key) => key.strip_prefix(&prefix)?.parse().ok(),
            _ => None,
        };
        let keys = self.keys_from(&prefix)?;
        let mut positions = keys
            .iter()
            .map(|key| position(key).ok_or_else(|| malformed("the key of a dead letter")))
            .collect::<Result<Vec<u64>>>()?;
        positions.sort_unstable();
        Ok(positions)
    }

    /// Its entries, by key.
    pub(super) fn entries(&self, source: &SourceId) -> Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        for key in self.keys_from(&source.entries())? {
            if let Some(document) = self.get(&key)? {
                all.push(pair_of(&document)?);
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The keys of everything that is kept of a source, its cursor too.
    pub(super) fn all_of(&self, source: &SourceId) -> Result<Vec<Key>> {
        let (letters, entries, cursor) = (source.letters(), source.entries(), source.cursor());
        let is_of = |key: &Key| match key {
            Key::String(text) => text.starts_with(&letters) || text.starts_with(&entries) || *key == cursor,
            _ => false,
        };
        Ok(self.keys()?.into_iter().filter(is_of).collect())
    }

    /// The keys of everything that is kept of the sources of a collection.
    pub(super) fn all_of_collection(&self, collection: CollectionId) -> Result<Vec<Key>> {
        let of = |kind: &str| format!("{kind} {} ", collection.0);
        let prefixes = [of("source"), of("letter"), of("entry"), properties(collection)];
        let is_of = |key: &Key| match key {
            Key::String(text) => prefixes.iter().any(|prefix| text.starts_with(prefix)),
            _ => false,
        };
        Ok(self.keys()?.into_iter().filter(is_of).collect())
    }

    pub(super) fn visible(&self) -> Lsn {
        self.view.visible
    }
}

pub(super) fn letter(source: &SourceId, document: Document) -> Result<DeadLetter> {
    DeadLetter::decode(document).ok_or_else(|| malformed(&format!("a dead letter of {:?}", source.name)))
}
