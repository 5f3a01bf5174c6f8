//! Recording workloads on a simulated disk, with what a crash at any of their operations may leave.
//!
//! A workload runs once. Around each of its steps the number of disk operations is noted, so that for a
//! crash before operation n it is known which steps had been acknowledged, and which one was under way.

use std::path::Path;
use std::sync::Arc;

use plimsoll::{
    Collection, CollectionConfig, Database, Document, Durability, Error, JobRequest, Metadata, Metric,
    ReadOnlyDatabase, Snapshot, WriteBatch,
};
use plimsoll_sim::{Failure, Moment, OperationKind, SimStorage};

use crate::hook::HookStorage;
use crate::model::Model;
use crate::recovery::{PATH, builder, empty_disk, guard};

/// A workload under way.
pub struct Recorder {
    /// Its disk.
    pub disk: SimStorage,
    /// The database, while it is open.
    pub db: Option<Database>,
    /// What it must show.
    pub model: Model,
    /// The size of a memtable at the next opening.
    pub memtable_bytes: usize,
    hook: HookStorage,
    steps: Vec<Step>,
    /// What the disk may have held before the first step.
    before: Model,
    snapshots: Vec<(Model, Snapshot)>,
}

struct Step {
    started: u64,
    ended: u64,
    /// Whether it, and everything before it, was acknowledged as durable when it ended.
    acknowledged: bool,
    after: Model,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// A workload that begins on an empty disk.
    pub fn new() -> Self {
        Self::on(empty_disk())
    }

    /// A workload that begins on a disk without any acknowledged content.
    pub fn on(disk: SimStorage) -> Self {
        guard(&disk);
        let hook = HookStorage::new(Arc::new(disk.clone()));
        let (model, before) = (Model::default(), Model::default());
        let (steps, snapshots) = (Vec::new(), Vec::new());
        Self { disk, db: None, model, memtable_bytes: 1 << 20, hook, steps, before, snapshots }
    }

    fn step<T>(&mut self, acknowledged: bool, run: impl FnOnce(&mut Self) -> T) -> T {
        let started = self.disk.operations();
        let result = run(self);
        let ended = self.disk.operations();
        self.steps.push(Step { started, ended, acknowledged, after: self.model.clone() });
        result
    }

    /// The open database.
    pub fn db(&self) -> &Database {
        self.db.as_ref().expect("the database is open")
    }

    fn of(&self, name: &str) -> Collection {
        self.db().collection(name).unwrap()
    }

    /// Opens the database.
    pub fn open(&mut self) {
        self.step(true, |run| {
            let builder = builder(&run.disk).memtable_bytes(run.memtable_bytes);
            run.db = Some(builder.storage(Arc::new(run.hook.clone())).open().unwrap());
        });
    }

    /// Closes the database.
    pub fn close(&mut self) {
        self.step(true, |run| run.db.take().unwrap().close().unwrap());
    }

    /// Drops the database without closing it, and opens it again: what it shows then is taken as it is, if it
    /// is one of what a crash would have been allowed to leave.
    pub fn reopen(&mut self) {
        self.step(false, |run| run.db = None);
        let now = self.disk.operations() + 1;
        self.step(true, |run| {
            run.db = Some(builder(&run.disk).storage(Arc::new(run.hook.clone())).open().unwrap());
            let found = Model::of(run.db());
            assert!(run.allowed(now).contains(&&found), "reopening shows something else");
            run.model = found;
            run.db().sync().unwrap();
        });
    }

    /// Creates a collection.
    pub fn create(&mut self, name: &str, dimension: usize, metric: Metric) {
        self.step(true, |run| {
            let config = CollectionConfig::new(dimension, metric);
            run.db().create_collection(name, config.clone()).unwrap();
            run.model.create(name, &config);
        });
    }

    /// Drops a collection.
    pub fn drop_collection(&mut self, name: &str) {
        self.step(true, |run| {
            run.db().drop_collection(name).unwrap();
            run.model.collections.remove(name);
        });
    }

    /// Writes documents and deletes keys in one batch.
    pub fn write(&mut self, name: &str, documents: &[Document], deleted: &[u64], durability: Durability) {
        self.step(durability == Durability::Durable, |run| {
            let batch = run.prepare(name, documents, deleted);
            run.of(name).write_with(&batch, durability).unwrap();
        });
    }

    /// A batch, which the model has done already.
    fn prepare(&mut self, name: &str, documents: &[Document], deleted: &[u64]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let model = self.model.collection(name);
        for document in documents {
            batch.upsert(document.clone());
            model.put(document.clone());
        }
        for key in deleted {
            batch.delete(*key);
            model.documents.remove(&(*key).into());
        }
        batch
    }

    /// Writes documents to several collections, as one.
    pub fn write_to_each<const N: usize>(&mut self, names: [&str; N], documents: [Document; N]) {
        self.step(true, |run| {
            let collections = names.map(|name| run.of(name));
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

    /// Writes a batch that a disk refuses; whether it survives a crash shows later.
    pub fn write_refused(&mut self, name: &str, documents: &[Document]) -> Error {
        let before = self.model.clone();
        let error = self.step(false, |run| {
            let batch = run.prepare(name, documents, &[]);
            run.of(name).write(&batch).expect_err("the disk was meant to refuse this")
        });
        self.step(false, |run| run.model = before);
        error
    }

    /// Stores a document that is not there, and is refused one that is: as one batch.
    pub fn insert(&mut self, name: &str, document: Document) {
        let is_there = self.model.collections[name].documents.contains_key(&document.key);
        // A refusal writes nothing, and makes nothing durable.
        self.step(!is_there, |run| match run.of(name).insert(document.clone()) {
            Err(Error::AlreadyExists(key)) => assert!(is_there && key == document.key),
            inserted => {
                inserted.unwrap();
                assert!(!is_there, "a document that is there was inserted");
                run.model.collection(name).put(document);
            }
        });
    }

    /// Replaces the metadata of a document that is there.
    pub fn update_metadata(&mut self, name: &str, key: u64, metadata: Metadata) {
        self.step(true, |run| {
            run.of(name).update_metadata(key, metadata.clone()).unwrap();
            let documents = &mut run.model.collection(name).documents;
            documents.get_mut(&key.into()).unwrap().metadata = metadata;
        });
    }

    /// Makes everything durable.
    pub fn sync(&mut self) {
        self.step(true, |run| {
            run.db().sync().unwrap();
        });
    }

    /// Flushes.
    pub fn flush(&mut self) {
        self.step(true, |run| assert!(run.db().flush().is_ok()));
    }

    /// Tries to flush; from its first file on the next `count` calls of a kind fail.
    pub fn flush_refused(&mut self, kind: OperationKind, failure: Failure, count: u64) {
        self.step(false, |run| {
            let disk = run.disk.clone();
            run.hook.before_file(0, move || disk.fail_next(kind, failure, count));
            assert!(run.db().flush().is_err(), "the flush was meant to fail");
            assert!(!run.hook.cancel(), "the flush had no file");
            run.disk.clear_faults();
        });
    }

    /// Has a job done.
    pub fn job(&mut self, request: JobRequest) {
        self.step(false, |run| drop(run.db().start(request).unwrap().wait().unwrap()));
    }

    /// Compacts.
    pub fn compact(&mut self) {
        self.step(false, |run| assert!(run.db().compact().is_ok()));
    }

    /// Calibrates a collection on queries; without any, on its rows.
    pub fn calibrate(&mut self, name: &str, queries: &[[f32; 2]]) {
        self.step(false, |run| {
            let collection = run.of(name);
            match queries {
                [] => collection.reset_calibration().unwrap(),
                queries => assert_eq!(collection.calibrate(queries).unwrap().queries, queries.len()),
            }
        });
    }

    /// Compacts; before its `n`-th file is created, a batch is written and flushed.
    pub fn compact_around_flush(&mut self, n: usize, name: &str, documents: &[Document], deleted: &[u64]) {
        let before = self.model.clone();
        let batch = self.prepare(name, documents, deleted);
        let (db, disk) = (self.db().clone(), self.disk.clone());
        let started = disk.operations();
        let (sender, acknowledged) = std::sync::mpsc::channel();
        let collection = self.of(name);
        self.hook.before_file(n, move || {
            collection.write(&batch).unwrap();
            sender.send(disk.operations()).unwrap();
            db.flush().unwrap();
        });
        self.db().compact().unwrap();
        assert!(!self.hook.cancel(), "the compaction has no file {n}");
        let written = acknowledged.recv().unwrap();
        let ended = self.disk.operations();
        let after = self.model.clone();
        self.steps.push(Step { started, ended: started, acknowledged: false, after: before });
        self.steps.push(Step { started, ended: written, acknowledged: true, after: after.clone() });
        self.steps.push(Step { started: written, ended, acknowledged: false, after });
    }

    /// Holds a snapshot.
    pub fn hold_snapshot(&mut self) {
        self.snapshots.push((self.model.clone(), self.db().snapshot()));
    }

    /// Checks that every held snapshot shows what it did, and lets them go.
    pub fn check_snapshots(&mut self) {
        for (model, snapshot) in self.snapshots.drain(..) {
            for (name, collection) in &model.collections {
                collection.check(&snapshot.collection(name).unwrap());
            }
        }
    }

    /// Opens the database for reading only beside the writer: it shows something that a crash now may leave.
    pub fn read_beside(&self) {
        let reader = ReadOnlyDatabase::open_in(Path::new(PATH), Arc::new(self.disk.clone()), false).unwrap();
        let shown = Model::of_collections(&reader.collections());
        let known = self.steps.iter().any(|step| step.after == shown) || shown == self.before;
        assert!(known, "a reader shows what was never there");
    }

    /// What may be there after a crash before operation `n`: as acknowledged, up to as far as it had got.
    pub fn allowed(&self, n: u64) -> Vec<&Model> {
        let (first, end) = self.under_way(n);
        let mut allowed: Vec<&Model> = self.steps[first..end].iter().map(|step| &step.after).collect();
        allowed.push(if first == 0 { &self.before } else { &self.steps[first - 1].after });
        allowed
    }

    /// The steps that are under way before operation `n`, the one before them being certain.
    fn under_way(&self, n: u64) -> (usize, usize) {
        let certain = self.steps.iter().rposition(|step| step.acknowledged && step.ended <= n);
        let first = certain.map_or(0, |at| at + 1);
        let count = self.steps[first..].iter().take_while(|step| step.started < n).count();
        (first, first + count)
    }

    /// The recording, once the workload has ended as if its process had been killed.
    pub fn finish(self) -> Recording {
        let Self { disk, steps, before, .. } = &self;
        assert_eq!(disk.violations(), [] as [String; 0]);
        assert!(steps.iter().all(|step| step.ended <= disk.operations()) && before == &Model::default());
        let moments = disk.moments().collect();
        Recording { moments, recorder: self }
    }
}

/// A workload that has run.
pub struct Recording {
    moments: Vec<Moment>,
    recorder: Recorder,
}

impl Recording {
    /// The moments before each of its storage operations, and the one after the last.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// What may be there after a crash at a moment.
    pub fn allowed(&self, moment: &Moment) -> Vec<&Model> {
        self.recorder.allowed(moment.number())
    }

    /// A number that tells apart what is allowed at two moments of this recording.
    pub fn allowance(&self, moment: &Moment) -> (usize, usize) {
        self.recorder.under_way(moment.number())
    }

    /// The disk at the end.
    pub fn disk(&self) -> &SimStorage {
        &self.recorder.disk
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        self.recorder.steps.len()
    }

    /// Its storage operations around a moment, for people to read.
    pub fn describe(&self, moment: &Moment) -> String {
        let log = self.disk().log();
        let at = moment.number() as usize;
        let shown = at.saturating_sub(12)..(at + 3).min(log.len());
        let line = |n: usize| format!("{} {}\n", if n == at { "cut >" } else { "     " }, log[n]);
        shown.map(line).collect()
    }
}
