//! Workloads on a simulated disk, and what a crash at any of their operations may leave.
//!
//! A workload runs once. Around each of its steps the number of disk operations is noted, so that for a
//! crash before operation n it is known which steps had been acknowledged, and which one was under way.

use std::path::Path;
use std::sync::Arc;

use plimsoll::{
    CollectionConfig, Database, DatabaseBuilder, Document, Durability, Metric, Severity, WriteBatch,
    verify_in,
};
use plimsoll_sim::{CrashPolicy, DirectoryModel, SimStorage};

use super::model::Model;

pub(crate) const PATH: &str = "/srv/db";

/// A disk with the directory that the database is going to be created in.
pub(crate) fn empty_disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.put_dir("/srv").unwrap();
    disk
}

/// Small limits, so that little data goes a long way; no threads, so that runs repeat.
pub(crate) fn builder(disk: &SimStorage) -> DatabaseBuilder {
    let storage = Arc::new(disk.clone());
    Database::builder(PATH).storage(storage).background(false).seed(disk.operations()).wal_segment_bytes(4096)
}

/// A workload under way.
pub(crate) struct Recorder {
    pub(crate) disk: SimStorage,
    pub(crate) db: Option<Database>,
    pub(crate) model: Model,
    pub(crate) memtable_bytes: usize,
    steps: Vec<Step>,
}

struct Step {
    started: u64,
    ended: u64,
    /// Whether it, and everything before it, was acknowledged as durable when it ended.
    acknowledged: bool,
    after: Model,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let (disk, model) = (empty_disk(), Model::default());
        Self { disk, db: None, model, memtable_bytes: 1 << 20, steps: Vec::new() }
    }

    fn step(&mut self, acknowledged: bool, run: impl FnOnce(&mut Self)) {
        let started = self.disk.operations();
        run(self);
        let ended = self.disk.operations();
        self.steps.push(Step { started, ended, acknowledged, after: self.model.clone() });
    }

    pub(crate) fn db(&self) -> &Database {
        self.db.as_ref().expect("the database is open")
    }

    pub(crate) fn open(&mut self) {
        self.step(true, |run| {
            run.db = Some(builder(&run.disk).memtable_bytes(run.memtable_bytes).open().unwrap());
        });
    }

    pub(crate) fn close(&mut self) {
        self.step(true, |run| run.db.take().unwrap().close().unwrap());
    }

    pub(crate) fn create(&mut self, name: &str, dimension: usize, metric: Metric) {
        self.step(true, |run| {
            let config = CollectionConfig::new(dimension, metric);
            run.db().create_collection(name, config.clone()).unwrap();
            run.model.create(name, &config);
        });
    }

    pub(crate) fn drop_collection(&mut self, name: &str) {
        self.step(true, |run| {
            run.db().drop_collection(name).unwrap();
            run.model.collections.remove(name);
        });
    }

    /// Writes documents and deletes keys in one batch.
    pub(crate) fn write(
        &mut self,
        name: &str,
        documents: &[Document],
        deleted: &[u64],
        durability: Durability,
    ) {
        self.step(durability == Durability::Durable, |run| {
            let mut batch = WriteBatch::new();
            let collection = run.db().collection(name).unwrap();
            for document in documents {
                batch.upsert(document.clone());
                run.model.collection(name).put(document.clone());
            }
            for key in deleted {
                batch.delete(*key);
                run.model.collection(name).documents.remove(&(*key).into());
            }
            collection.write_with(&batch, durability).unwrap();
        });
    }

    /// Writes one document to each of two collections, as one.
    pub(crate) fn write_both(&mut self, names: [&str; 2], documents: [Document; 2]) {
        self.step(true, |run| {
            let collections = names.map(|name| run.db().collection(name).unwrap());
            let mut batches = Vec::new();
            for (collection, document) in collections.iter().zip(documents) {
                run.model.collection(collection.name()).put(document.clone());
                let mut batch = WriteBatch::new();
                batch.upsert(document);
                batches.push((collection, batch));
            }
            run.db().write(&batches).unwrap();
        });
    }

    pub(crate) fn sync(&mut self) {
        self.step(true, |run| {
            run.db().sync().unwrap();
        });
    }

    pub(crate) fn flush(&mut self) {
        self.step(true, |run| assert!(run.db().flush().is_ok()));
    }

    pub(crate) fn compact(&mut self) {
        self.step(false, |run| drop(run.db().compact().unwrap()));
    }

    /// What may be there after a crash before operation `n`: as acknowledged, up to as far as it had got.
    pub(crate) fn allowed(&self, n: u64) -> Vec<&Model> {
        let certain = self.steps.iter().rposition(|step| step.acknowledged && step.ended <= n);
        let first = certain.map_or(0, |at| at + 1);
        let under_way = self.steps[first..].iter().take_while(|step| step.started < n);
        let mut allowed: Vec<&Model> = under_way.map(|step| &step.after).collect();
        let empty = const { &Model { collections: std::collections::BTreeMap::new() } };
        allowed.push(certain.map_or(empty, |at| &self.steps[at].after));
        allowed
    }

    /// Crashes before each operation (every `stride`-th) of the workload in each way, and checks what is there.
    pub(crate) fn crash_everywhere(&self, stride: usize) {
        assert_eq!(self.disk.violations(), [] as [String; 0]);
        let mut crashes = 0;
        for model in [DirectoryModel::Strict, DirectoryModel::Journalled] {
            self.disk.set_model(model);
            for n in (0..=self.disk.operations()).rev().step_by(stride) {
                for policy in policies(n) {
                    let what = format!("crash before operation {n}, {policy:?}, {model:?}");
                    check_recovery(&self.disk.after_crash_at(n, policy), &self.allowed(n), &what);
                    crashes += 1;
                }
                let what = format!("kill before operation {n}, {model:?}");
                let killed = self.disk.after_kill_at(n);
                killed.set_model(model);
                check_recovery(&killed, &self.allowed(n), &what);
            }
        }
        eprintln!("{} operations, {crashes} crashes", self.disk.operations());
    }

    /// Crashes (or kills) before every `stride`-th operation, and crashes again at each operation of the
    /// recovery and the first write after it.
    pub(crate) fn crash_again_while_recovering(&self, stride: usize) {
        for model in [DirectoryModel::Strict, DirectoryModel::Journalled] {
            self.disk.set_model(model);
            for n in (0..=self.disk.operations()).rev().step_by(stride) {
                let mut firsts = vec![(self.disk.after_kill_at(n), "kill".to_owned())];
                for policy in policies(n) {
                    firsts.push((self.disk.after_crash_at(n, policy), format!("{policy:?}")));
                }
                for (disk, how) in firsts {
                    disk.set_model(model);
                    let what = format!("{how} before operation {n}, {model:?}");
                    check_second_crash(&disk, &self.allowed(n), &what);
                }
            }
        }
    }
}

/// The two extremes, and something between that depends on where.
fn policies(n: u64) -> [CrashPolicy; 4] {
    use CrashPolicy::{KeepAll, LoseAll, Random};
    [LoseAll, KeepAll, Random(2 * n), Random(2 * n + 1)]
}

fn open(disk: &SimStorage, what: &str) -> Database {
    builder(disk).open().unwrap_or_else(|error| panic!("{what}: does not open: {error}"))
}

/// What the database holds, after a check that all ways of reading it agree.
pub(crate) fn contents(db: &Database) -> Model {
    let found = Model::of(db);
    for (name, collection) in &found.collections {
        collection.check(&db.snapshot().collection(name).unwrap());
    }
    found
}

pub(crate) fn assert_allowed(found: &Model, allowed: &[&Model], what: &str) {
    if !allowed.contains(&found) {
        let show = |model: &Model| {
            let names = model.collections.iter();
            names
                .map(|(n, c)| format!("{n}: {:?}", c.documents.keys().collect::<Vec<_>>()))
                .collect::<Vec<_>>()
        };
        let allowed: Vec<_> = allowed.iter().map(|model| show(model)).collect();
        panic!("{what}: found {:?}, allowed are {allowed:?} (or texts differ)", show(found));
    }
}

/// A write that is acknowledged, and its effect on the model.
fn write_one(db: &Database, model: &mut Model, key: &str) {
    if model.collections.is_empty() {
        let config = CollectionConfig::new(2, Metric::L2);
        db.create_collection("after", config.clone()).unwrap();
        model.create("after", &config);
    }
    let (name, collection) = model.collections.iter_mut().next().unwrap();
    let vector = vec![1.0; collection.config.dimension];
    let document = Document::new(key).text("written after the crash").vector(vector);
    db.collection(name).unwrap().upsert(document.clone()).unwrap();
    collection.put(document);
}

/// That a disk after a crash opens, has one of the allowed contents, is sound, and can be used.
pub(crate) fn check_recovery(disk: &SimStorage, allowed: &[&Model], what: &str) {
    let db = open(disk, what);
    let mut model = contents(&db);
    assert_allowed(&model, allowed, what);
    let report = db.verify().unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    assert!(!report.is_damaged(), "{what}: {:?}", report.findings);
    drop(db);
    let db = open(disk, &format!("{what}; second reopening"));
    assert_eq!(contents(&db), model, "{what}: the second reopening changed something");
    write_one(&db, &mut model, "after the crash");
    db.flush().unwrap_or_else(|error| panic!("{what}: flush: {error}"));
    assert_eq!(contents(&db), model, "{what}: after a flush");
    db.close().unwrap();
    drop(db);
    check_verified(disk, what);
    assert_eq!(disk.violations(), [] as [String; 0], "{what}");
}

pub(crate) fn check_verified(disk: &SimStorage, what: &str) {
    let storage: Arc<dyn plimsoll::storage::Storage> = Arc::new(disk.clone());
    let report =
        verify_in(Path::new(PATH), &storage).unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    let damage = report.findings.iter().find(|finding| finding.severity == Severity::Damage);
    assert!(damage.is_none(), "{what}: {}", damage.unwrap());
}

/// As [`check_recovery`], with a second crash before each operation of the recovery.
fn check_second_crash(disk: &SimStorage, allowed: &[&Model], what: &str) {
    let db = open(disk, what);
    let found = contents(&db);
    assert_allowed(&found, allowed, what);
    let opened = disk.operations();
    let mut written = found.clone();
    write_one(&db, &mut written, "after the crash");
    let acknowledged = disk.operations();
    // Large contents are compared at fewer places.
    let is_large = found.collections.values().any(|collection| collection.documents.len() > 1000);
    for m in (0..=acknowledged).rev().step_by(if is_large { 7 } else { 1 }) {
        for policy in [CrashPolicy::LoseAll, CrashPolicy::Random(m), CrashPolicy::KeepAll] {
            let what =
                format!("{what}; {policy:?} before operation {m} of the recovery ({opened} for opening)");
            let again = disk.after_crash_at(m, policy);
            let mut possible = allowed.to_vec();
            // Creating the collection to write to is a step of its own.
            let mut created = found.clone();
            created.collections.extend(written.collections.iter().map(|(name, written)| {
                let mut empty = written.clone();
                empty.documents.clear();
                (name.clone(), found.collections.get(name).cloned().unwrap_or(empty))
            }));
            possible.push(&created);
            possible.push(&written);
            if m == acknowledged {
                possible = vec![&written];
            }
            let db = open(&again, &what);
            assert_allowed(&contents(&db), &possible, &what);
            let report = db.verify().unwrap();
            assert!(!report.is_damaged(), "{what}: {:?}", report.findings);
        }
    }
    assert_eq!(disk.violations(), [] as [String; 0], "{what}");
}
