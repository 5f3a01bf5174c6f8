//! Any sequence of operations leaves what the oracle says, in memory, on disk and in every snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::storage::{OsStorage, Storage};
use plimsoll::{
    Collection, CollectionConfig, Database, Document, Durability, Error, Key, ReadOnlyCollection,
    ReadOnlyDatabase, Severity, WriteBatch, verify_in,
};
use plimsoll_sim::SimStorage;

use plimsoll_torture::generate;
use plimsoll_torture::model::{Model, ModelCollection};
use plimsoll_torture::random::{Random, seeds};

/// A database, and what it should hold.
struct World {
    random: Random,
    model: Model,
    db: Database,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    background: bool,
    snapshots: Vec<(Arc<ModelCollection>, ReadOnlyCollection)>,
    created: usize,
}

const KEYS: usize = 60;

impl World {
    fn new(seed: u64, path: &Path, storage: Arc<dyn Storage>, background: bool) -> Self {
        let random = Random::new(seed);
        let db = open(path, &storage, background, seed);
        let (path, model) = (path.to_path_buf(), Model::default());
        Self { random, model, db, path, storage, background, snapshots: Vec::new(), created: 0 }
    }

    fn pick(&mut self) -> Option<(String, Collection)> {
        let names: Vec<&String> = self.model.collections.keys().collect();
        let name = (!names.is_empty()).then(|| (*self.random.pick(&names)).clone())?;
        let collection = self.db.collection(&name).unwrap();
        Some((name, collection))
    }

    fn document(&mut self, collection: &Collection) -> Document {
        let key = generate::key(&mut self.random, KEYS);
        generate::document(&mut self.random, key, collection.dimension())
    }

    fn step(&mut self) {
        if self.model.collections.len() < 2 || self.random.below(100) == 0 {
            return self.create();
        }
        if self.random.percent(1) {
            return self.reopen();
        }
        let Some((name, collection)) = self.pick() else { return };
        match self.random.below(100) {
            0..25 => {
                let document = self.document(&collection);
                collection.upsert(document.clone()).unwrap();
                self.model.collection(&name).put(document);
            }
            25..35 => self.insert(&name, &collection),
            35..45 => {
                let key = generate::key(&mut self.random, KEYS);
                let existed = self.model.collection(&name).documents.remove(&key).is_some();
                assert_eq!(collection.delete(key).unwrap(), existed);
            }
            45..60 => self.batch(&name, &collection),
            60..65 => self.update_metadata(&name, &collection),
            65..75 => {
                let key = generate::key(&mut self.random, KEYS);
                assert_eq!(
                    collection.get(key.clone()).unwrap().as_ref(),
                    self.model.collections[&name].documents.get(&key)
                );
            }
            75..83 => self.search(&name, &collection),
            83..87 => self.model.collections[&name].check(&collection.snapshot().unwrap()),
            87..90 => {
                let snapshot = (self.model.collections[&name].clone(), collection.snapshot().unwrap());
                self.snapshots.push(snapshot);
            }
            90..92 => self.check_snapshots(),
            92..95 => drop(self.db.flush().unwrap()),
            95..97 => drop(self.db.compact().unwrap()),
            97 => self.read_only(),
            98 => self.write_to_several(),
            _ => self.drop_collection(&name),
        }
    }

    fn create(&mut self) {
        let name = format!("collection {}", self.created % 4);
        let config = generate::config(&mut self.random, self.created);
        let other = CollectionConfig::new(config.dimension + 1, config.metric);
        self.created += 1;
        if let Some(existing) = self.model.collections.get(&name) {
            let config = existing.config.clone();
            self.db.create_collection(&name, config.clone()).unwrap();
            let other = CollectionConfig::new(config.dimension + 1, config.metric);
            assert!(matches!(self.db.create_collection(&name, other), Err(Error::SchemaMismatch { .. })));
        } else {
            self.db.create_collection(&name, config.clone()).unwrap();
            assert!(matches!(self.db.create_collection(&name, other), Err(Error::SchemaMismatch { .. })));
            self.model.create(&name, &config);
        }
    }

    fn insert(&mut self, name: &str, collection: &Collection) {
        let document = self.document(collection);
        let model = self.model.collection(name);
        match collection.insert(document.clone()) {
            Err(Error::AlreadyExists(key)) => assert!(model.documents.contains_key(&key)),
            result => {
                result.unwrap();
                assert!(!model.documents.contains_key(&document.key));
                model.put(document);
            }
        }
    }

    fn random_batch(&mut self, collection: &Collection, model: &mut ModelCollection) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for _ in 0..self.random.below(12) {
            let document = self.document(collection);
            let key = document.key.clone();
            match self.random.below(4) {
                0 => {
                    model.documents.remove(&key);
                    batch.delete(key);
                }
                1 if !model.documents.contains_key(&key) => {
                    model.put(document.clone());
                    batch.insert(document);
                }
                _ => {
                    model.put(document.clone());
                    batch.upsert(document);
                }
            }
        }
        batch
    }

    fn batch(&mut self, name: &str, collection: &Collection) {
        let mut after = ModelCollection::clone(&self.model.collections[name]);
        let mut batch = self.random_batch(collection, &mut after);
        if self.random.percent(20) {
            // Something that refuses the batch as a whole.
            if let Some(key) = after.documents.keys().next().cloned() {
                batch.insert(generate::document(&mut self.random, key, collection.dimension()));
                assert!(matches!(collection.write(&batch), Err(Error::AlreadyExists(_))));
                return self.model.collections[name].check(&collection.snapshot().unwrap());
            }
        }
        let durability = if self.random.percent(50) { Durability::Durable } else { Durability::Buffered };
        collection.write_with(&batch, durability).unwrap();
        *self.model.collection(name) = after;
    }

    fn write_to_several(&mut self) {
        let names: Vec<String> = self.model.collections.keys().cloned().collect();
        let mut model = self.model.clone();
        let collections: Vec<Collection> =
            names.iter().map(|name| self.db.collection(name).unwrap()).collect();
        let batches: Vec<(&Collection, WriteBatch)> = collections
            .iter()
            .map(|collection| {
                (collection, self.random_batch(collection, model.collection(collection.name())))
            })
            .collect();
        self.db.write(&batches).unwrap();
        self.model = model;
    }

    fn update_metadata(&mut self, name: &str, collection: &Collection) {
        let key = generate::key(&mut self.random, KEYS);
        let metadata = generate::metadata(&mut self.random);
        let result = collection.update_metadata(key.clone(), metadata.clone());
        match self.model.collection(name).documents.get_mut(&key) {
            Some(document) => {
                result.unwrap();
                document.metadata = metadata;
            }
            None => assert!(matches!(result, Err(Error::DocumentNotFound(_)))),
        }
    }

    fn search(&mut self, name: &str, collection: &Collection) {
        let query = generate::vector(&mut self.random, collection.dimension());
        let k = *self.random.pick(&[1, 3, 10, 1000]);
        let snapshot = collection.snapshot().unwrap();
        let model = &self.model.collections[name];
        model.check_search(&snapshot, &query, k);
        let keys: Vec<&Key> = model.documents.keys().collect();
        if !keys.is_empty() {
            model.check_search_like(&snapshot, keys[self.random.below(keys.len())], k);
        }
    }

    fn check_snapshots(&mut self) {
        for (model, snapshot) in &self.snapshots {
            model.check(snapshot);
            let query = generate::vector(&mut self.random, snapshot.dimension());
            model.check_search(snapshot, &query, 10);
        }
        let kept = self.random.below(4);
        self.snapshots.truncate(kept);
    }

    fn drop_collection(&mut self, name: &str) {
        if self.random.percent(40) {
            self.db.drop_collection(name).unwrap();
            self.model.collections.remove(name);
            assert!(matches!(self.db.collection(name), Err(Error::CollectionNotFound(_))));
        }
    }

    fn reopen(&mut self) {
        if self.random.percent(50) {
            self.db.close().unwrap();
        }
        let (path, storage) = (self.path.clone(), Arc::clone(&self.storage));
        let seed = self.random.bits();
        // The old handle is dropped before the new one opens: one writer at a time.
        let parked = Database::builder("/nowhere").storage(Arc::new(SimStorage::new())).background(false);
        self.db = parked.open().unwrap();
        self.db = open(&path, &storage, self.background, seed);
        self.check();
    }

    fn read_only(&mut self) {
        self.db.sync().unwrap();
        self.db.flush().unwrap();
        let mapped = self.random.percent(50);
        let reader = ReadOnlyDatabase::open_in(&self.path, Arc::clone(&self.storage), mapped).unwrap();
        for collection in reader.collections() {
            self.model.collections[collection.name()].check(&collection);
        }
        assert_eq!(reader.collections().len(), self.model.collections.len());
    }

    fn check(&self) {
        for (name, model) in &self.model.collections {
            model.check(&self.db.collection(name).unwrap().snapshot().unwrap());
        }
        assert_eq!(self.db.collections().len(), self.model.collections.len());
    }

    fn finish(mut self) {
        self.check_snapshots();
        self.snapshots.clear();
        self.check();
        let report = self.db.verify().unwrap();
        assert!(!report.is_damaged(), "{:?}", report.findings);
        self.db.close().unwrap();
        let report = verify_in(&self.path, &self.storage).unwrap();
        let damage: Vec<_> =
            report.findings.iter().filter(|finding| finding.severity == Severity::Damage).collect();
        assert!(damage.is_empty(), "{damage:?}");
        self.reopen();
    }
}

fn open(path: &Path, storage: &Arc<dyn Storage>, background: bool, seed: u64) -> Database {
    let builder = Database::builder(path).storage(Arc::clone(storage)).background(background).seed(seed);
    let builder = builder.memtable_bytes(20_000).wal_segment_bytes(16_384).max_wal_bytes(200_000);
    builder.mapped(!seed.is_multiple_of(3)).open().unwrap()
}

#[test]
fn a_simulated_disk_without_background() {
    for seed in seeds("a_simulated_disk_without_background", 12) {
        let disk = SimStorage::new();
        disk.put_dir("/").unwrap();
        let mut world = World::new(seed, Path::new("/db"), Arc::new(disk.clone()), false);
        (0..600).for_each(|_| world.step());
        world.finish();
        assert_eq!(disk.violations(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn real_files_with_background() {
    for seed in seeds("real_files_with_background", 4) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(seed, &dir.path().join("db"), Arc::new(OsStorage), true);
        (0..400).for_each(|_| world.step());
        world.finish();
    }
}
