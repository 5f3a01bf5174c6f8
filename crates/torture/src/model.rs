//! The oracle: what a database must hold and answer, computed naively from a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll::{
    CollectionConfig, Database, Dedup, Document, Effort, Hit, Key, Metric, ReadOnlyCollection, SearchResults,
};

/// A database as it should be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// Its collections by name; copies of a model share those that did not change.
    pub collections: BTreeMap<String, Arc<ModelCollection>>,
}

/// A collection as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCollection {
    /// How it was created.
    pub config: CollectionConfig,
    /// Its documents by key.
    pub documents: BTreeMap<Key, Document>,
}

/// A posting of the oracle: its key, range and distance.
type Row = (Key, u32, u32, f64);

impl Model {
    /// What a database holds, read through `scan`.
    pub fn of(db: &Database) -> Self {
        Self::of_collections(&db.snapshot().collections())
    }

    /// What these collections hold, read through `scan`.
    pub fn of_collections(collections: &[ReadOnlyCollection]) -> Self {
        let of = |c: &ReadOnlyCollection| (c.name().to_owned(), Arc::new(ModelCollection::of(c)));
        Self { collections: collections.iter().map(of).collect() }
    }

    /// The collection of that name, to be changed.
    pub fn collection(&mut self, name: &str) -> &mut ModelCollection {
        Arc::make_mut(self.collections.get_mut(name).expect("the model has the collection"))
    }

    /// Adds an empty collection, unless there is one of that name.
    pub fn create(&mut self, name: &str, config: &CollectionConfig) {
        let new = ModelCollection { config: config.clone(), documents: BTreeMap::new() };
        self.collections.entry(name.to_owned()).or_insert(Arc::new(new));
    }
}

impl ModelCollection {
    fn of(collection: &ReadOnlyCollection) -> Self {
        let mut documents = BTreeMap::new();
        for document in collection.scan() {
            let document = document.expect("the scan reads every document");
            let twice = documents.insert(document.key.clone(), document);
            assert!(twice.is_none(), "scanned twice: {twice:?}");
        }
        Self { config: CollectionConfig::new(collection.dimension(), collection.metric()), documents }
    }

    /// Stores a document, replacing the one of its key.
    pub fn put(&mut self, document: Document) {
        self.documents.insert(document.key.clone(), document);
    }

    /// That the collection holds exactly this, whichever way it is read.
    pub fn check(&self, actual: &ReadOnlyCollection) {
        assert_eq!(actual.count().unwrap(), self.documents.len() as u64, "count of {}", actual.name());
        let scanned = Self::of(actual);
        for (key, document) in &scanned.documents {
            assert_same(document, self.documents.get(key).unwrap_or_else(|| panic!("{key:?} was invented")));
        }
        for (key, document) in &self.documents {
            assert!(scanned.documents.contains_key(key), "{key:?} is not scanned");
            let got = actual.get(key.clone()).unwrap().unwrap_or_else(|| panic!("{key:?} is lost"));
            assert_same(&got, document);
        }
        let keys: Vec<Key> = actual.keys().map(|key| key.unwrap()).collect();
        assert_eq!(keys.len(), self.documents.len());
        assert!(keys.iter().all(|key| self.documents.contains_key(key)));
    }

    fn rows(&self, query: &[f32], excluded: Option<&Key>) -> Vec<Row> {
        let metric = self.config.metric;
        let mut rows: Vec<Row> = self
            .documents
            .values()
            .filter(|document| Some(&document.key) != excluded)
            .flat_map(|document| document.postings.iter().map(move |posting| (&document.key, posting)))
            .map(|(key, posting)| {
                (key.clone(), posting.start, posting.length, distance(metric, query, &posting.vector))
            })
            .collect();
        rows.sort_by(|a, b| a.3.total_cmp(&b.3));
        rows
    }

    /// That searching answers what looking at everything in float64 answers; ties may stand in any order.
    pub fn check_search(&self, actual: &ReadOnlyCollection, query: &[f32], k: usize) {
        let rows = self.rows(query, None);
        for effort in [Effort::Exact, Effort::default()] {
            let found =
                actual.search(query).k(k).effort(effort).with_text(true).with_vector(true).run().unwrap();
            assert!(found.explain.exact, "fewer than 4,096 rows are searched exactly");
            check_hits(&found, &rows, k);
            found.hits.iter().for_each(|hit| self.check_hit(hit));
        }
        // Deduplicated by document, every document counts once, with its best posting.
        let mut seen = std::collections::HashSet::new();
        let best: Vec<Row> = rows.into_iter().filter(|row| seen.insert(row.0.clone())).collect();
        let found = actual.search(query).k(k).dedup(Dedup::Document).run().unwrap();
        check_distances(&found, &best, k);
        let keys: std::collections::HashSet<_> = found.hits.iter().map(|hit| &hit.key).collect();
        assert_eq!(keys.len(), found.hits.len(), "a document is there twice");
    }

    /// That what a search with texts and vectors has found is right: everything (rows of damaged parts may be
    /// missing if `partial`), in order, with its distance.
    pub fn check_found(&self, query: &[f32], k: usize, found: &SearchResults, partial: bool) {
        let rows = self.rows(query, None);
        if !partial {
            check_hits(found, &rows, k);
        }
        let mut last = f32::NEG_INFINITY;
        for hit in &found.hits {
            assert!(hit.distance >= last, "hits are out of order");
            last = hit.distance;
            let row = rows.iter().find(|row| (&row.0, row.1, row.2) == (&hit.key, hit.start, hit.length));
            let row = row.unwrap_or_else(|| panic!("{hit:?} is no row"));
            assert!(close(f64::from(hit.distance), row.3), "{hit:?} instead of a distance of {}", row.3);
            self.check_hit(hit);
        }
    }

    /// That the hit's text and vector are those of one of its document's postings.
    fn check_hit(&self, hit: &Hit) {
        let document = &self.documents[&hit.key];
        let (start, end) = (hit.start as usize, (hit.start + hit.length) as usize);
        assert_eq!(hit.text.as_deref(), document.text.as_deref().map(|text| &text[start..end]));
        let is_stored =
            |vector: &Vec<f32>| document.postings.iter().any(|posting| same_bits(&posting.vector, vector));
        assert!(hit.vector.as_ref().is_some_and(is_stored), "{hit:?} has the vector of no posting");
    }

    /// That a search by example answers the neighbours, without the document itself.
    pub fn check_search_like(&self, actual: &ReadOnlyCollection, key: &Key, k: usize) {
        let rows = self.rows(&self.documents[key].postings[0].vector, Some(key));
        check_hits(&actual.search_like(key.clone()).unwrap().k(k).run().unwrap(), &rows, k);
    }
}

/// The distance by its definition, in float64.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let sum =
        |f: fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
    let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    match metric {
        Metric::L2 => sum(|a, b| (a - b).powi(2)).sqrt(),
        Metric::Dot => -sum(|a, b| a * b),
        _ => 1.0 - sum(|a, b| a * b) / (length(a) * length(b)),
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * (1.0 + b.abs())
}

fn check_distances(found: &SearchResults, rows: &[Row], k: usize) {
    assert_eq!(found.hits.len(), rows.len().min(k), "hits for k = {k}");
    for (hit, row) in found.hits.iter().zip(rows) {
        assert!(close(f64::from(hit.distance), row.3), "distance {} instead of {}", hit.distance, row.3);
    }
}

/// That the hits have the smallest distances, in order, and that each is a row of its own with its distance.
fn check_hits(found: &SearchResults, rows: &[Row], k: usize) {
    check_distances(found, rows, k);
    let mut left: Vec<&Row> = rows.iter().collect();
    for hit in &found.hits {
        let is_it = |row: &&Row| {
            (&row.0, row.1, row.2) == (&hit.key, hit.start, hit.length)
                && close(f64::from(hit.distance), row.3)
        };
        let at = left.iter().position(is_it);
        left.swap_remove(at.unwrap_or_else(|| panic!("{hit:?} is no row, or there twice")));
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
}

/// That two documents are equal, vectors bit for bit.
pub fn assert_same(actual: &Document, expected: &Document) {
    assert_eq!(actual, expected);
    let mut pairs = actual.postings.iter().zip(&expected.postings);
    assert!(pairs.all(|(a, b)| same_bits(&a.vector, &b.vector)), "bits of {:?}", expected.key);
}
