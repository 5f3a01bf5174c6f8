//! Exact search by records answers bit for bit what it answers by vectors: two databases with the same rows, of which
//! one has codes and the other none. And an approximate search finds the same rows in the same order whether or not its
//! distances come from 16 bits a component.

use std::path::Path;

use plimsoll::{
    Collection, CollectionConfig, Database, Dedup, Document, Effort, Filter, Metric, Search, SearchResults,
    WriteBatch,
};

use plimsoll_torture::random::Random;

const ROWS: u64 = 4300;

/// How the vectors of a collection are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Around centres.
    Clusters,
    /// Lengths over four decades.
    Lengths,
    /// All close together, far from the origin.
    Far,
    /// Twenty near copies of each, and equal rows.
    Copies,
    /// So small that squares underflow, and so large that they nearly overflow.
    Extreme,
}

struct Vectors {
    random: Random,
    dimension: usize,
    kind: Kind,
    last: Vec<f32>,
}

impl Vectors {
    fn next(&mut self) -> Vec<f32> {
        let centre = self.random.below(25) as f32;
        let mut normal = || self.random.normal();
        let mut vector: Vec<f32> =
            (0..self.dimension).map(|at| (centre * (at as f32 + 1.0)).sin() + 0.3 * normal()).collect();
        let scale = match self.kind {
            Kind::Clusters => 1.0,
            Kind::Lengths => 10_f32.powf(4.0 * self.random.below(1000) as f32 / 1000.0 - 2.0),
            Kind::Far => {
                vector.iter_mut().for_each(|x| *x = 30.0 + 0.01 * *x);
                1.0
            }
            Kind::Copies => {
                if !self.last.is_empty() && self.random.below(20) > 0 {
                    let noise = if self.random.below(4) == 0 { 0.0 } else { 1e-3 };
                    vector = self.last.clone();
                    vector.iter_mut().for_each(|x| *x += noise * self.random.normal());
                } else {
                    self.last.clone_from(&vector);
                }
                1.0
            }
            Kind::Extreme => [1e-14, 1e-12, 1.0, 1e16][self.random.below(4)],
        };
        vector.iter_mut().for_each(|x| *x *= scale);
        vector
    }
}

struct Pair {
    coded: (Database, Collection),
    plain: (Database, Collection),
    vectors: Vectors,
    what: String,
}

impl Pair {
    fn new(dir: &Path, metric: Metric, dimension: usize, kind: Kind) -> Self {
        let open = |name: &str| {
            let db = Database::builder(dir.join(name)).background(false).open().unwrap();
            let collection = db.create_collection("c", CollectionConfig::new(dimension, metric)).unwrap();
            (db, collection)
        };
        let vectors = Vectors { random: Random::new(dimension as u64), dimension, kind, last: Vec::new() };
        let what = format!("{metric}, {dimension} dimensions, {kind:?}");
        Self { coded: open("coded"), plain: open("plain"), vectors, what }
    }

    fn collections(&self) -> [&Collection; 2] {
        [&self.coded.1, &self.plain.1]
    }

    fn write(&mut self, keys: impl Iterator<Item = u64>) {
        let mut batch = WriteBatch::new();
        for key in keys {
            let mut document = Document::new(key).metadata("third", key % 3 == 0).text("some text");
            for part in 0..1 + u32::from(key % 5 == 0) {
                document = document.posting(part, 3, self.vectors.next());
            }
            batch.upsert(document);
        }
        for collection in self.collections() {
            collection.write(&batch).unwrap();
        }
    }

    /// Stores as many rows as are coded.
    fn store(&mut self) {
        self.write(0..ROWS);
        self.flush();
        self.coded.0.compact().unwrap();
    }

    /// Replaces and deletes rows, in files and in memory.
    fn churn(&mut self) {
        self.write((0..ROWS).step_by(9));
        self.flush();
        self.write((0..ROWS).step_by(31));
        let mut batch = WriteBatch::new();
        for key in (5..ROWS).step_by(40) {
            batch.delete(key);
        }
        for collection in self.collections() {
            collection.write(&batch).unwrap();
        }
    }

    fn flush(&self) {
        self.coded.0.flush().unwrap();
        self.plain.0.flush().unwrap();
    }

    /// The coded database answers as the plain one; from how many records on the average of all searches.
    fn check(&mut self) -> (u64, u64) {
        let (mut measured, mut searches) = (0, 0);
        let third = Filter::parse("third = true").unwrap();
        for (k, dedup, filtered) in [
            (1, Dedup::None, false),
            (10, Dedup::None, false),
            (10, Dedup::None, true),
            (10, Dedup::Document, false),
            (10, Dedup::Vector, false),
            (300, Dedup::Position, true),
            (10_000, Dedup::None, false),
        ] {
            for _ in 0..6 {
                let query = self.vectors.next();
                let describe = |search: Search<'_>| -> SearchResults {
                    let search = search.k(k).dedup(dedup).effort(Effort::Exact).with_vector(true);
                    let search = if filtered { search.filter(third.clone()) } else { search };
                    search.run().unwrap()
                };
                let [by_records, by_vectors] =
                    self.collections().map(|collection| describe(collection.search(&query)));
                assert_eq!(by_records.hits, by_vectors.hits, "{}, {k}, {dedup:?}, {filtered}", self.what);
                assert!(by_records.explain.exact && by_vectors.explain.exact);
                assert_eq!(by_vectors.explain.rows_reranked, 0);
                if !filtered && k == 10 && by_records.explain.rows_reranked > 0 {
                    assert_eq!(by_records.explain.rows_scanned, 0, "{}", self.what);
                    measured += by_records.explain.rows_measured;
                    searches += 1;
                }
            }
        }
        (measured, searches)
    }
}

impl Pair {
    /// Refined distances put rows in the order of the measured ones, and are as near to them as is promised. How many rows
    /// were refined, and how many of them were measured all the same.
    fn check_refined(&mut self) -> (u64, u64) {
        let (mut refined, mut measured) = (0, 0);
        let third = Filter::parse("third = true").unwrap();
        for (k, recall, filtered, searches) in [
            (1, 0.9, false, 25),
            (10, 0.95, false, 25),
            (10, 0.99, true, 25),
            (100, 0.95, false, 25),
            (20_000, 0.9, false, 1),
        ] {
            for number in 0..searches {
                let query = self.vectors.next();
                let search = match number % 5 {
                    // As an example, which is not found.
                    0 if k < 20_000 => self.coded.1.search_like(number * 100 + 6).unwrap(),
                    _ => self.coded.1.search(&query),
                };
                let search = search.k(k).effort(Effort::Recall(recall));
                let search = if filtered { search.filter(third.clone()) } else { search };
                let (said, exact) =
                    (search.clone().run().unwrap(), search.exact_distances(true).run().unwrap());
                assert_eq!(exact.explain.rows_refined, 0);
                assert_eq!(said.explain.lists_probed, exact.explain.lists_probed);
                let order = |results: &SearchResults| -> Vec<_> {
                    results.hits.iter().map(|hit| (hit.key.clone(), hit.start)).collect()
                };
                assert_eq!(order(&said), order(&exact), "{}, {k}", self.what);
                // Of a distance, half of what its square is off.
                let most = if self.coded.1.metric() == Metric::L2 { 1.1 / 8192.0 } else { 1.0 / 4096.0 };
                for (said, exact) in said.hits.iter().zip(&exact.hits) {
                    let off = (said.distance - exact.distance).abs();
                    let (is, was) = (said.distance, exact.distance);
                    assert!(off <= exact.distance.abs() * most, "{}: {is} is not {was}", self.what);
                }
                if k < 20_000 {
                    refined += said.explain.rows_refined;
                    measured += if said.explain.rows_refined > 0 { said.explain.rows_measured } else { 0 };
                }
            }
        }
        (refined, measured)
    }
}

#[test]
fn refined_distances_give_the_order_of_the_vectors() {
    for (metric, dimension) in
        [(Metric::L2, 33), (Metric::Cosine, 3), (Metric::Dot, 20), (Metric::Cosine, 96)]
    {
        for kind in [Kind::Clusters, Kind::Lengths, Kind::Far, Kind::Copies, Kind::Extreme] {
            let dir = tempfile::tempdir().unwrap();
            let mut pair = Pair::new(dir.path(), metric, dimension, kind);
            pair.store();
            let (refined, measured) = pair.check_refined();
            assert_eq!(refined > 0, metric != Metric::Dot, "{}: {refined}", pair.what);
            if kind == Kind::Clusters && dimension > 64 {
                assert!(measured <= refined / 2, "{}: {measured} of {refined} rows", pair.what);
            }
            // Rows in memory are measured always.
            pair.churn();
            let (again, _) = pair.check_refined();
            assert_eq!(again > 0, metric != Metric::Dot, "{}: {again}", pair.what);
        }
    }
}

#[test]
fn what_was_stored_is_found_at_no_distance() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(dir.path(), Metric::L2, 48, Kind::Clusters);
    pair.store();
    for key in (0..ROWS).step_by(97) {
        let vector = pair.coded.1.get(key).unwrap().unwrap().postings.swap_remove(0).vector;
        let found = pair.coded.1.search(&vector).run().unwrap();
        assert!(found.explain.rows_refined > 0);
        assert_eq!((found.hits[0].key.to_string(), found.hits[0].distance), (key.to_string(), 0.0));
    }
}

#[test]
fn records_give_the_answers_of_the_vectors() {
    for (metric, dimension) in
        [(Metric::L2, 33), (Metric::Cosine, 3), (Metric::Dot, 100), (Metric::Cosine, 64)]
    {
        for kind in [Kind::Clusters, Kind::Lengths, Kind::Far, Kind::Copies, Kind::Extreme] {
            let dir = tempfile::tempdir().unwrap();
            let mut pair = Pair::new(dir.path(), metric, dimension, kind);
            pair.store();
            let (measured, searches) = pair.check();
            assert!(searches > 0, "{}: no records were scanned", pair.what);
            // Where distances differ by more than records round, few rows are measured.
            if kind == Kind::Clusters && dimension > 3 {
                assert!(measured < searches * ROWS / 10, "{}: {measured} in {searches}", pair.what);
            }
            pair.churn();
            assert!(pair.check().1 > 0, "{}", pair.what);
        }
    }
}
