//! Filters: a search finds the nearest among the documents that match, wherever they are, and no other.

use std::collections::HashSet;

use plimsoll::{
    Collection, CollectionConfig, Database, Document, Effort, Error, Filter, FilterError, Key, Metric,
};

use plimsoll_torture::model::distance;
use plimsoll_torture::random::Random;

const DIMENSION: usize = 20;
const DOCUMENTS: u64 = 9000;

/// A document as the test knows it.
struct Known {
    vector: Vec<f32>,
    year: i64,
    lang: &'static str,
}

struct World {
    db: Database,
    collection: Collection,
    known: Vec<Option<Known>>,
    random: Random,
    metric: Metric,
}

type Oracle = fn(&Known) -> bool;

/// Conditions that let through most, some, few and none.
const CONDITIONS: [(&str, Oracle); 6] = [
    ("lang != 'de'", |known| known.lang != "de"),
    ("lang = 'de'", |known| known.lang == "de"),
    ("lang in ('fr', 'de') and not year < 2000", |known| known.lang != "en" && known.year >= 2000),
    ("year >= 1990 and year <= 1994", |known| (1990..=1994).contains(&known.year)),
    ("year = 2007", |known| known.year == 2007),
    ("year > 3000", |_| false),
];

impl World {
    fn new(dir: &std::path::Path, metric: Metric) -> Self {
        let db = Database::builder(dir.join("db")).background(false).open().unwrap();
        let collection = db.create_collection("c", CollectionConfig::new(DIMENSION, metric)).unwrap();
        Self { db, collection, known: Vec::new(), random: Random::new(31), metric }
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.random.below(40) as f32;
        (0..DIMENSION).map(|at| (centre * (at as f32 + 1.0)).sin() + 0.4 * self.random.normal()).collect()
    }

    /// Writes the documents with these keys, new or again.
    fn write(&mut self, keys: impl Iterator<Item = u64>) {
        for key in keys {
            let known = Known {
                vector: self.vector(),
                year: 1980 + self.random.below(40) as i64,
                lang: ["en", "en", "en", "de", "fr"][self.random.below(5)],
            };
            let document = Document::new(key).vector(known.vector.clone());
            let document = document.metadata("year", known.year).metadata("lang", known.lang);
            self.collection.upsert(document).unwrap();
            if self.known.len() <= key as usize {
                self.known.resize_with(key as usize + 1, || None);
            }
            self.known[key as usize] = Some(known);
        }
    }

    fn delete(&mut self, keys: impl Iterator<Item = u64>) {
        for key in keys {
            self.collection.delete(key).unwrap();
            self.known[key as usize] = None;
        }
    }

    /// The distances of the ten nearest that match.
    fn nearest(&self, query: &[f32], oracle: Oracle) -> Vec<(u64, f64)> {
        let live = (0..).zip(&self.known).filter_map(|(key, known)| Some((key, known.as_ref()?)));
        let mut found: Vec<(u64, f64)> = live
            .filter(|(_, known)| oracle(known))
            .map(|(key, known)| (key, distance(self.metric, query, &known.vector)))
            .collect();
        found.sort_by(|a, b| a.1.total_cmp(&b.1));
        found.truncate(10);
        found
    }

    fn check(&mut self, what: &str) {
        const QUERIES: usize = 25;
        for (text, oracle) in CONDITIONS {
            let filter = Filter::parse(text).unwrap();
            let (mut found, mut wanted) = (0, 0);
            for _ in 0..QUERIES {
                let query = self.vector();
                let truth = self.nearest(&query, oracle);
                let search = || self.collection.search(&query).filter(filter.clone());
                let exact = search().effort(Effort::Exact).run().unwrap();
                let keys: Vec<Key> = truth.iter().map(|(key, _)| Key::from(*key)).collect();
                assert_eq!(
                    exact.hits.iter().map(|hit| hit.key.clone()).collect::<Vec<_>>(),
                    keys,
                    "{what}: {text}"
                );
                let routed = search().effort(Effort::Recall(0.95)).run().unwrap();
                assert_eq!(routed.hits.len(), truth.len(), "{what}: {text}");
                for hit in &routed.hits {
                    let Key::Integer(key) = hit.key else { panic!("{:?}", hit.key) };
                    let known = self.known[key as usize].as_ref();
                    assert!(known.is_some_and(oracle), "{what}: {text} found {key}");
                }
                let truth: HashSet<Key> = keys.into_iter().collect();
                found += routed.hits.iter().filter(|hit| truth.contains(&hit.key)).count();
                wanted += truth.len();
            }
            let recall = found as f64 / wanted.max(1) as f64;
            println!("{what}: {text}: recall {recall:.3} of {wanted}");
            assert!(wanted == 0 || recall >= 0.9, "{what}: {text}: recall {recall}");
        }
    }
}

#[test]
fn matching_documents_are_found_in_memory_in_files_and_in_lists() {
    for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path(), metric);
        world.write(0..500);
        world.check("in memory");
        world.db.flush().unwrap();
        world.check("flushed");
        world.write(500..DOCUMENTS);
        world.db.flush().unwrap();
        world.db.compact().unwrap();
        world.check("in lists");
        world.write((0..DOCUMENTS).step_by(7));
        world.delete((3..DOCUMENTS).step_by(5));
        world.check("changed in memory");
        world.db.flush().unwrap();
        world.check("changed in files");
    }
}

#[test]
fn few_matches_are_searched_exactly_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), Metric::L2);
    world.write(0..DOCUMENTS);
    world.db.flush().unwrap();
    world.db.compact().unwrap();
    let query = world.vector();
    let search = |text| world.collection.search(&query).filter(Filter::parse(text).unwrap()).run().unwrap();
    let few = search("year = 2007");
    let matching = world.known.iter().flatten().filter(|known| known.year == 2007).count() as u64;
    assert_eq!(few.explain.documents_matching, Some(matching));
    assert!(few.explain.exact && few.explain.codes_scanned == 0);
    let many = search("lang = 'en'");
    assert!(!many.explain.exact && many.explain.codes_scanned > 0);
    assert_eq!(world.collection.search(&query).run().unwrap().explain.documents_matching, None);
}

#[test]
fn a_field_that_no_document_has_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), Metric::L2);
    let unknown = |world: &World, text: &str| {
        let filter = Filter::parse(text).unwrap();
        match world.collection.search(&[0.5; DIMENSION]).filter(filter).run() {
            Err(Error::Filter(FilterError::UnknownField { field })) => Some(field),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(unknown(&world, "nobody = 1"), None, "nothing is known of an empty collection");
    world.write(0..10);
    for _ in 0..2 {
        assert_eq!(unknown(&world, "year = 1 or nobody = 1"), Some("nobody".to_owned()));
        assert_eq!(unknown(&world, "year = 1"), None);
        world.db.flush().unwrap();
    }
    world.collection.upsert(Document::new("x").vector([0.1; DIMENSION]).metadata("nobody", 1)).unwrap();
    assert_eq!(unknown(&world, "year = 1 or nobody = 1"), None);
}

/// A range search finds what is not farther than the limit, and nothing else.
#[test]
fn nothing_is_found_beyond_a_limit() {
    for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path(), metric);
        world.write(0..DOCUMENTS);
        world.db.flush().unwrap();
        world.db.compact().unwrap();
        world.write(DOCUMENTS..DOCUMENTS + 50);
        let (mut found, mut wanted) = (0, 0);
        for _ in 0..20 {
            let query = world.vector();
            let nearest = world.collection.search(&query).k(40).effort(Effort::Exact).run().unwrap().hits;
            let limit = nearest[24].distance;
            for effort in [Effort::Exact, Effort::Recall(0.95)] {
                let within =
                    world.collection.search(&query).k(1000).within(limit).effort(effort).run().unwrap();
                assert!(within.hits.iter().all(|hit| hit.distance <= limit), "{metric}");
                if effort == Effort::Exact {
                    // The limit is a rounded distance: the 25th itself may lie on either side of it.
                    assert!((24..=25).contains(&within.hits.len()), "{metric}: {}", within.hits.len());
                    assert_eq!(within.hits[..24], nearest[..24]);
                } else {
                    found += within.hits.len();
                    wanted += 25;
                }
                let first = world.collection.search(&query).k(3).within(limit).effort(effort).run().unwrap();
                assert_eq!(first.hits.len(), 3, "{metric}, {effort:?}, {limit}: {:?}", first.explain);
            }
        }
        assert!(found * 100 >= wanted * 85, "{metric}: {found} of {wanted}");
        let none = world.collection.search(&[1.0; DIMENSION]).within(f32::NEG_INFINITY).run().unwrap();
        assert!(none.hits.is_empty());
        let refused = world.collection.search(&[1.0; DIMENSION]).within(f32::NAN).run();
        assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    }
}
