//! What readers see of a damaged database.

use std::collections::BTreeMap;

use plimsoll::{Document, Effort, Key, ReadOnlyCollection, ReadOnlyDatabase};

use super::Damage;
use super::victim::Victim;
use crate::model::ModelCollection;

/// What a reader saw of a damaged database.
pub(super) enum Seen {
    /// It did not open, with a typed error.
    Refused,
    Opened {
        /// Calls that were answered by a typed error.
        errors: usize,
        /// The documents that could be read.
        readable: BTreeMap<String, BTreeMap<Key, Document>>,
    },
}

impl Seen {
    pub(super) fn of(opened: plimsoll::Result<ReadOnlyDatabase>, victim: &Victim, damage: &Damage) -> Self {
        let db = match opened {
            Ok(db) => db,
            Err(error) => {
                victim.assert_typed(&error, damage);
                return Self::Refused;
            }
        };
        let mut readable = BTreeMap::new();
        let (mut errors, mut harmed) = (0, 0);
        for name in victim.model.collections.keys() {
            let collection = db.collection(name).unwrap_or_else(|error| panic!("collection {name}: {error}"));
            let mut reader = Reader { victim, damage, name, errors: 0, documents: BTreeMap::new() };
            reader.read(&collection);
            harmed += usize::from(reader.errors > 0);
            errors += reader.errors;
            readable.insert(name.clone(), reader.documents);
        }
        let in_data = damage.files().iter().all(|file| file.starts_with("data/"));
        if in_data && damage.files().len() == 1 {
            assert!(harmed <= 1, "damage in one file harms {harmed} collections");
        }
        Self::Opened { errors, readable }
    }
}

/// Reads one collection in every way.
struct Reader<'a> {
    victim: &'a Victim,
    damage: &'a Damage,
    name: &'a str,
    errors: usize,
    documents: BTreeMap<Key, Document>,
}

impl Reader<'_> {
    /// The result, if it is not a typed error about the damage.
    fn take<T>(&mut self, result: plimsoll::Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                self.victim.assert_typed(&error, self.damage);
                self.errors += 1;
            })
            .ok()
    }

    fn read(&mut self, collection: &ReadOnlyCollection) {
        let allowed = self.victim.allowed(self.name);
        let scanned: plimsoll::Result<Vec<Document>> = collection.scan().collect();
        if let Some(documents) = self.take(scanned) {
            let found: BTreeMap<Key, Document> =
                documents.into_iter().map(|document| (document.key.clone(), document)).collect();
            assert!(allowed.iter().any(|model| model.documents == found), "the scan shows something else");
        }
        let counted = collection.count();
        if let Some(count) = self.take(counted) {
            assert!(allowed.iter().any(|model| model.documents.len() as u64 == count), "{count} documents");
        }
        let keys: Vec<Key> = self
            .victim
            .written
            .keys()
            .filter(|(name, _)| name == self.name)
            .map(|(_, key)| key.clone())
            .collect();
        let mut got = BTreeMap::new();
        for key in keys {
            let result = collection.get(key.clone());
            let Some(found) = self.take(result) else { continue };
            got.insert(key, found);
        }
        let shows = |model: &&&ModelCollection| {
            got.iter().all(|(key, found)| model.documents.get(key) == found.as_ref())
        };
        let shown = *allowed.iter().find(shows).expect("what can be read is one of the allowed states");
        self.documents.extend(got.iter().filter_map(|(key, found)| Some((key.clone(), found.clone()?))));
        let query = vec![2.5; collection.dimension()];
        let efforts = [Effort::Exact, Effort::default()];
        for (effort, partial) in efforts.into_iter().flat_map(|effort| [(effort, false), (effort, true)]) {
            let search = collection.search(&query).k(7).effort(effort).allow_partial(partial);
            let found = search.with_text(true).with_vector(true).run();
            let Some(found) = self.take(found) else { continue };
            let is_partial = !found.explain.missing.is_empty();
            assert!(!is_partial || partial, "an answer is partial, and nobody allowed that");
            if is_partial {
                self.errors += 1;
            }
            shown.check_found(&query, 7, &found, is_partial);
        }
    }
}
