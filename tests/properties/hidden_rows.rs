//! Stored rows of documents that were replaced or deleted in memory do not count, and nothing is missed for them: checked
//! against a model, also through snapshots that are older than the last flush.

use std::collections::{BTreeMap, HashSet};

use plimsoll::{
    Collection, CollectionConfig, Database, Dedup, Document, Effort, Key, Metric, ReadOnlyCollection,
    WriteBatch,
};

use plimsoll_torture::model::distance;
use plimsoll_torture::random::{Random, seeds};

const DIMENSION: usize = 12;
const DOCUMENTS: u64 = 4500;
const K: usize = 10;
const POLICIES: [Dedup; 4] = [Dedup::None, Dedup::Document, Dedup::Position, Dedup::Vector];

type Model = BTreeMap<u64, Document>;

struct World {
    db: Database,
    collection: Collection,
    model: Model,
    /// What was replaced or deleted lately: queries look where it was.
    gone: Vec<Vec<f32>>,
    random: Random,
    /// Searches beside unflushed rows: those that had to ask some documents, and those that had to ask none.
    asked: [usize; 2],
}

impl World {
    fn vector(&mut self) -> Vec<f32> {
        let centre = self.random.below(40) as f32;
        (0..DIMENSION).map(|at| (centre * (at as f32 + 1.0)).sin() + 0.2 * self.random.normal()).collect()
    }

    fn write(&mut self, keys: impl Iterator<Item = u64>) {
        let mut batch = WriteBatch::new();
        for key in keys {
            let mut document = Document::new(key).text("ten bytes.");
            for part in 0..=self.random.below(2) as u32 {
                document = document.posting(5 * part, 5, self.vector());
            }
            batch.upsert(document.clone());
            self.forget(key);
            self.model.insert(key, document);
        }
        self.collection.write(&batch).unwrap();
    }

    fn delete(&mut self, keys: impl Iterator<Item = u64>) {
        let mut batch = WriteBatch::new();
        for key in keys {
            batch.delete(key);
            self.forget(key);
        }
        self.collection.write(&batch).unwrap();
    }

    fn forget(&mut self, key: u64) {
        let gone = self.model.remove(&key);
        self.gone
            .extend(gone.and_then(|document| document.postings.into_iter().next()).map(|row| row.vector));
    }

    /// Some keys, of which most are stored.
    fn keys(&mut self) -> impl Iterator<Item = u64> + use<> {
        let count = *self.random.pick(&[1, 5, 40, 700]);
        let keys: HashSet<u64> =
            (0..count).map(|_| self.random.below(DOCUMENTS as usize * 11 / 10) as u64).collect();
        keys.into_iter()
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=3 => {
                let keys = self.keys();
                self.write(keys);
            }
            4..=6 => {
                let keys = self.keys();
                self.delete(keys);
            }
            7 => drop(self.db.flush().unwrap()),
            8 if self.random.percent(30) => drop(self.db.compact().unwrap()),
            _ => {}
        }
    }

    fn search(&mut self, view: &ReadOnlyCollection, model: &Model, what: &str) {
        let query = match self.gone.is_empty() || self.random.percent(30) {
            true => self.vector(),
            false => self.random.pick(&self.gone).clone(),
        };
        let mut rows: Vec<(f64, u64, usize)> = Vec::new();
        for (key, document) in model {
            let postings = document.postings.iter().enumerate();
            rows.extend(postings.map(|(n, row)| (distance(Metric::L2, &query, &row.vector), *key, n)));
        }
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        for dedup in POLICIES {
            let mut seen = HashSet::new();
            // No two rows are equal, so that the other policies find each of them.
            let counts = |(_, key, _): &&(f64, u64, usize)| dedup != Dedup::Document || seen.insert(*key);
            let best: Vec<f64> = rows.iter().filter(counts).take(K).map(|row| row.0).collect();
            for effort in [Effort::Exact, Effort::Recall(0.99)] {
                let results = view.search(&query).k(K).dedup(dedup).effort(effort).run().unwrap();
                let hits = &results.hits;
                assert_eq!(hits.len(), K, "{what}, {dedup:?}, {effort:?}");
                for hit in hits {
                    let Key::Integer(key) = &hit.key else { panic!("{:?}", hit.key) };
                    let live = u64::try_from(*key).ok().and_then(|key| model.get(&key));
                    let row =
                        live.and_then(|document| document.postings.iter().find(|row| row.start == hit.start));
                    let row = row.unwrap_or_else(|| panic!("{what}, {dedup:?}, {effort:?}: {hit:?} is gone"));
                    let true_distance = distance(Metric::L2, &query, &row.vector);
                    let off = (f64::from(hit.distance) - true_distance).abs();
                    assert!(off < true_distance / 4096.0 + 1e-5, "{what}: {hit:?}, {true_distance}");
                }
                let found: Vec<f64> = hits.iter().map(|hit| f64::from(hit.distance)).collect();
                let near = found.iter().filter(|distance| **distance <= best[K - 1] + 1e-4).count();
                match effort {
                    Effort::Exact => assert_eq!(near, K, "{what}, {dedup:?}: {found:?}, not {best:?}"),
                    _ => assert!(near >= K * 7 / 10, "{what}, {dedup:?}: {found:?}, not {best:?}"),
                }
                if results.explain.memtable_rows > 0 {
                    self.asked[usize::from(results.explain.documents_asked == 0)] += 1;
                }
            }
        }
    }
}

#[test]
fn what_is_replaced_or_deleted_in_memory_does_not_count() {
    let mut asked = [0, 0];
    for seed in seeds("hidden rows", 3) {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::builder(dir.path().join("db")).background(false).open().unwrap();
        let collection = db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::L2)).unwrap();
        let random = Random::new(seed);
        let mut world =
            World { db, collection, model: Model::new(), gone: Vec::new(), random, asked: [0, 0] };
        world.write(0..DOCUMENTS);
        world.db.flush().unwrap();
        world.db.compact().unwrap();
        let mut kept: Option<(ReadOnlyCollection, Model)> = None;
        for step in 0..40 {
            world.step();
            let view = world.collection.snapshot().unwrap();
            let model = world.model.clone();
            world.search(&view, &model, &format!("seed {seed}, step {step}"));
            if let Some((view, model)) = &kept {
                world.search(view, model, &format!("seed {seed}, step {step}, a snapshot"));
            }
            if world.random.percent(15) {
                kept = Some((view, model));
            }
        }
        asked = [asked[0] + world.asked[0], asked[1] + world.asked[1]];
    }
    // Both ways were gone.
    assert!(asked.iter().all(|searches| *searches > 50), "{asked:?}");
}
