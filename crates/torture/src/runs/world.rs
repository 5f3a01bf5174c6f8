//! A run under way: the database, its disk, and what the database has been told.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll::{
    Collection, Database, Document, Durability, Error, JobKind, JobRecord, JobState, ReadOnlyDatabase,
    Result, Snapshot, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, OperationKind, SimStorage};

use super::history::History;
use super::plan::{Change, CrashKind, Plan, Step};
use crate::counters::Counters;
use crate::generate;
use crate::hook::HookStorage;
use crate::model::{Model, ModelCollection};
use crate::random::Random;
use crate::recovery::{PATH, assert_allowed, assert_sound, builder, check_recovery, contents, guard};

/// Few keys, so that documents meet.
const KEYS: usize = 40;
/// Collections with more documents than this are not read in full all the time.
const LARGE: usize = 1000;
/// How often opening is tried while the disk is in trouble.
const ATTEMPTS: usize = 4;

/// What steps and the steps injected into them share.
struct Shared {
    history: History,
    /// Calls may fail.
    in_trouble: bool,
    /// A sync has failed.
    poisoned: bool,
    injected: u64,
}

/// Performs steps that change what the database holds.
#[derive(Clone)]
struct Writer {
    db: Database,
    disk: SimStorage,
    shared: Arc<Mutex<Shared>>,
    counters: Arc<Counters>,
}

/// A run under way.
pub(super) struct World {
    plan: Plan,
    disk: SimStorage,
    hook: HookStorage,
    db: Option<Database>,
    shared: Arc<Mutex<Shared>>,
    held: Vec<(Model, Snapshot)>,
    /// A reader, and the version it showed last.
    reader: Option<(ReadOnlyDatabase, usize)>,
    /// How the process ends when the power goes, and after how many operations of the recovery again.
    crash: Option<(CrashKind, Option<u64>)>,
    counters: Arc<Counters>,
    boots: u64,
    /// A hash of every storage operation so far.
    digest: DefaultHasher,
    number: usize,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(slot: usize) -> String {
    format!("collection {slot}")
}

/// Runs a plan to its end; returns a hash of all its storage operations.
///
/// # Panics
/// Something is violated.
pub(super) fn run(plan: &Plan, disk: SimStorage, counters: &Arc<Counters>) -> u64 {
    let mut world = World::new(plan.clone(), disk, counters);
    world.open();
    for (number, step) in plan.steps.iter().enumerate() {
        world.number = number;
        world.step(step);
    }
    world.finish()
}

impl World {
    fn new(plan: Plan, disk: SimStorage, counters: &Arc<Counters>) -> Self {
        disk.set_model(plan.model);
        guard(&disk);
        let shared = Shared { history: History::new(), in_trouble: false, poisoned: false, injected: 0 };
        counters.workloads.one();
        Self {
            hook: HookStorage::new(Arc::new(disk.clone())),
            plan,
            disk,
            db: None,
            shared: Arc::new(Mutex::new(shared)),
            held: Vec::new(),
            reader: None,
            crash: None,
            counters: Arc::clone(counters),
            boots: 0,
            digest: DefaultHasher::new(),
            number: 0,
        }
    }

    fn try_open(&mut self) -> Result<Database> {
        self.boots += 1;
        let builder = builder(&self.disk).storage(Arc::new(self.hook.clone()));
        let builder = builder.seed(self.plan.seed.wrapping_mul(1000) + self.boots);
        builder.memtable_bytes(self.plan.memtable_bytes).wal_segment_bytes(self.plan.segment_bytes).open()
    }

    /// Opens the database, after a crash or not: it shows one of what is allowed, and is sound.
    fn open(&mut self) {
        let mut opened = self.try_open();
        for _ in 0..ATTEMPTS {
            if opened.is_ok() {
                break;
            }
            if self.disk.crashed() {
                self.reboot();
            } else {
                let in_trouble = lock(&self.shared).in_trouble;
                assert!(in_trouble, "does not open: {:?}", opened.err());
                self.heal_disk();
            }
            opened = self.try_open();
        }
        self.db = Some(opened.unwrap_or_else(|error| panic!("does not open: {error}")));
        if self.disk.crashed() {
            return self.recover();
        }
        let found = contents(self.db());
        let mut shared = lock(&self.shared);
        let allowed = shared.history.allowed();
        assert_allowed(&found, &allowed.iter().collect::<Vec<_>>(), "opened");
        shared.history.reopened(found);
        shared.poisoned = false;
        drop(shared);
        assert_sound(self.db(), "opened");
        self.counters.recoveries.one();
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("the database is open between steps")
    }

    fn writer(&self) -> Writer {
        Writer {
            db: self.db().clone(),
            disk: self.disk.clone(),
            shared: Arc::clone(&self.shared),
            counters: Arc::clone(&self.counters),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Flush(Some((file, inner))) => {
                self.inject(JobKind::Flush, *file, inner);
                self.writer().perform(&Step::Flush(None));
                self.hook.cancel();
            }
            Step::Compact(inner) => {
                if let Some((file, inner)) = inner {
                    self.inject(JobKind::Compaction, *file, inner);
                }
                let result = self.db().compact().map(drop);
                self.hook.cancel();
                self.writer().accept(&result);
            }
            Step::Close => {
                let version = lock(&self.shared).history.now();
                let closed = self.db().close();
                self.writer().accept(&closed);
                if closed.is_ok() {
                    lock(&self.shared).history.acknowledged(version);
                }
                self.reopen();
            }
            Step::Abandon => self.reopen(),
            Step::HoldSnapshot => {
                let shown = lock(&self.shared).history.shown().clone();
                self.held.push((shown, self.db().snapshot()));
            }
            Step::CheckSnapshots => self.check_snapshots(),
            Step::Read => self.read(),
            Step::Search { slot, seed } => self.search(*slot, *seed),
            Step::Check => {
                self.check();
                if !self.disk.crashed() {
                    assert_sound(self.db(), "verify");
                }
            }
            Step::Fail { kind, skip, failure, for_ever } => {
                self.disk.fail_after(*kind, *skip, *failure, if *for_ever { u64::MAX } else { 1 });
                lock(&self.shared).in_trouble = true;
            }
            Step::FailReading { kind, skip, failure } => {
                self.disk.fail_after(*kind, *skip, *failure, 1);
                lock(&self.shared).in_trouble = true;
                self.writer().perform(&Step::Flush(None));
                let result = self.db().compact().map(drop);
                self.writer().accept(&result);
                self.heal();
            }
            Step::Fill { free } => {
                let used = (1 << 40) - self.disk.free_bytes();
                self.disk.set_capacity(used + free);
                lock(&self.shared).in_trouble = true;
            }
            Step::Heal => self.heal(),
            Step::Crash { after, kind, again } => {
                self.crash = Some((*kind, *again));
                if *after == 0 {
                    self.disk.crash();
                } else {
                    self.disk.crash_at(self.disk.operations() + after);
                }
            }
            changing => self.writer().perform(changing),
        }
        if self.disk.crashed() {
            self.recover();
        }
        if self.number.is_multiple_of(4) {
            self.check();
        }
        if self.number % 8 == 3 {
            self.check_acknowledged();
        }
    }

    /// Lets steps happen in the middle of the next flush or compaction.
    fn inject(&self, during: JobKind, file: usize, steps: &[Step]) {
        let (writer, steps) = (self.writer(), steps.to_vec());
        self.hook.before_file(file, move || {
            // A flush that failed and was due again comes before the compaction; its file is none of that, and what waits
            // for a flush to end would wait for itself: there is only this thread.
            if during == JobKind::Compaction && writer.is_flushing() {
                return;
            }
            lock(&writer.shared).injected += 1;
            writer.counters.injections.one();
            steps.iter().for_each(|step| writer.perform(step));
        });
    }

    fn reopen(&mut self) {
        self.held.clear();
        self.db = None;
        if self.disk.crashed() {
            return self.recover();
        }
        self.open();
    }

    /// The cause of the trouble is gone: everything works, after reopening if a sync has failed.
    fn heal(&mut self) {
        self.heal_disk();
        if lock(&self.shared).poisoned {
            self.reopen();
        }
    }

    fn heal_disk(&self) {
        self.counters.faults_of(&self.disk);
        self.disk.clear_faults();
        self.disk.set_capacity(1 << 40);
        lock(&self.shared).in_trouble = false;
    }

    /// The power was cut or the process killed: the next boot finds one of what is allowed.
    fn recover(&mut self) {
        // Other outcomes of the same crash are looked at on the way.
        let now = self.disk.now();
        let allowed = lock(&self.shared).history.allowed();
        let allowed: Vec<&Model> = allowed.iter().collect();
        for seed in 0..3 {
            let policy = CrashPolicy::Random(self.plan.seed ^ seed ^ now.number() << 32);
            let disk = now.power_cut(self.plan.model, policy);
            disk.set_capacity(1 << 40);
            self.counters.state(&disk);
            self.counters.recoveries.one();
            check_recovery(&disk, &allowed, &format!("another outcome, {policy:?}"));
        }
        let again = self.crash.take();
        self.end(again.map(|(kind, _)| kind));
        if let Some((_, Some(after))) = again {
            self.crash = Some((CrashKind::PowerCut(CrashPolicy::Random(after)), None));
            self.disk.crash_at(after);
            self.counters.second_crashes.one();
        }
        self.open();
    }

    /// The power was cut once more before the database was open.
    fn reboot(&mut self) {
        let kind = self.crash.take().map(|(kind, _)| kind);
        self.end(kind);
    }

    /// Ends the process and starts the machine again.
    fn end(&mut self, kind: Option<CrashKind>) {
        self.held.clear();
        self.reader = None;
        self.db = None;
        self.put_away();
        self.counters.crash_points.one();
        self.disk = match kind {
            Some(CrashKind::PowerCut(policy)) => self.disk.after_crash(policy),
            Some(CrashKind::Kill) | None => {
                self.counters.kills.one();
                self.disk.after_kill()
            }
        };
        self.counters.state(&self.disk);
        self.hook = HookStorage::new(Arc::new(self.disk.clone()));
        self.heal_disk();
    }

    /// Counts what the disk of this boot has seen.
    fn put_away(&mut self) {
        let log = self.disk.log();
        self.counters.operations.add(log.len() as u64);
        let removals = log.iter().filter(|operation| operation.kind == OperationKind::Remove).count();
        self.counters.removals.add(removals as u64);
        log.iter().for_each(|operation| operation.to_string().hash(&mut self.digest));
        self.disk.fingerprint().hash(&mut self.digest);
        self.counters.faults_of(&self.disk);
        assert_eq!(self.disk.violations(), [] as [String; 0]);
    }

    /// That the database shows what it was told, whichever way it is read.
    fn check(&self) {
        if self.disk.crashed() {
            return;
        }
        let shown = lock(&self.shared).history.shown().clone();
        let snapshot = self.db().snapshot();
        for (name, model) in &shown.collections {
            let actual = snapshot.collection(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            if model.documents.len() <= LARGE {
                model.check(&actual);
            } else {
                assert_eq!(actual.count().unwrap(), model.documents.len() as u64);
            }
        }
        assert_eq!(snapshot.collections().len(), shown.collections.len(), "collections");
    }

    /// That what was acknowledged would survive if everything else were lost now.
    fn check_acknowledged(&self) {
        if self.disk.crashed() {
            return;
        }
        let disk = self.disk.after_crash(CrashPolicy::LoseAll);
        disk.set_capacity(1 << 40);
        self.counters.state(&disk);
        self.counters.acknowledgements.one();
        let allowed = lock(&self.shared).history.allowed();
        let db = builder(&disk).open().unwrap_or_else(|error| panic!("acknowledged, does not open: {error}"));
        assert_allowed(&Model::of(&db), &allowed.iter().collect::<Vec<_>>(), "if the power were cut now");
    }

    fn check_snapshots(&mut self) {
        if self.disk.crashed() {
            return;
        }
        for (model, snapshot) in self.held.drain(..) {
            self.counters.snapshots.one();
            assert_eq!(Model::of_collections(&snapshot.collections()), model, "a snapshot has changed");
            for (name, collection) in &model.collections {
                if collection.documents.len() <= LARGE {
                    collection.check(&snapshot.collection(name).unwrap());
                }
            }
        }
    }

    /// A reader shows only what is durable, nothing that was not there, and never goes back.
    fn read(&mut self) {
        if self.disk.crashed() {
            return;
        }
        let path = Path::new(PATH);
        let reader = match self.reader.take() {
            Some((mut reader, version)) => reader.refresh().map(|_| (reader, version)),
            None => {
                ReadOnlyDatabase::open_in(path, Arc::new(self.disk.clone()), false).map(|reader| (reader, 0))
            }
        };
        let (reader, version) = match reader {
            Ok(reader) => reader,
            Err(error) => {
                assert!(lock(&self.shared).in_trouble, "a reader can't read: {error}");
                return;
            }
        };
        self.counters.readers.one();
        let shown = Model::of_collections(&reader.collections());
        let lost = self.disk.after_crash(CrashPolicy::LoseAll);
        lost.set_capacity(1 << 40);
        let left = Model::of(&builder(&lost).open().unwrap());
        let shared = lock(&self.shared);
        let found = shared.history.version_of(&shown, version);
        let found = found.unwrap_or_else(|| {
            let keys = |model: &Model| -> Vec<(String, Vec<String>)> {
                let of = |name: &String| model.collections[name].documents.keys().map(ToString::to_string);
                model.collections.keys().map(|name| (name.clone(), of(name).collect())).collect()
            };
            let any = shared.history.version_of(&shown, 0);
            let (then, now) = (keys(&shown), keys(shared.history.shown()));
            panic!(
                "a reader went back, or shows what was never there: {then:?}, version {any:?}; now {now:?}"
            )
        });
        let is_durable =
            shared.history.version_of(&left, found).is_some() || !shared.history.is_version(&left);
        assert!(is_durable, "a reader shows what a power cut would lose");
        drop(shared);
        self.reader = Some((reader, found));
    }

    fn search(&self, slot: usize, seed: u64) {
        if self.disk.crashed() {
            return;
        }
        let shown = lock(&self.shared).history.shown().clone();
        let Some(model) = shown.collections.get(&name(slot)) else { return };
        if model.documents.len() > LARGE {
            return;
        }
        let random = &mut Random::new(seed);
        let query = generate::vector(random, model.config.dimension);
        let k = *random.pick(&[1, 3, 10, 1000]);
        let snapshot = self.db().collection(&name(slot)).unwrap().snapshot().unwrap();
        model.check_search(&snapshot, &query, k);
        self.counters.searches.one();
        self.counters.model_operations.one();
    }

    fn finish(mut self) -> u64 {
        self.heal();
        if self.disk.crashed() {
            self.recover();
        }
        self.disk.crash_at(u64::MAX);
        self.check_snapshots();
        self.check();
        self.check_acknowledged();
        self.db().close().unwrap_or_else(|error| panic!("close: {error}"));
        self.db = None;
        crate::recovery::check_verified(&self.disk, "closed");
        self.put_away();
        self.digest.finish()
    }
}

impl Writer {
    /// Goes along with a result that changes nothing: an error needs a cause.
    fn accept(&self, result: &Result<()>) {
        self.counters.model_operations.one();
        let mut shared = lock(&self.shared);
        let Err(error) = result else { return };
        shared.poisoned |= matches!(error, Error::Poisoned { .. });
        let has_cause = shared.in_trouble || shared.poisoned || self.disk.crashed();
        assert!(has_cause, "an error without a cause: {error}");
    }

    /// Whether a flush is under way, or that can't be told.
    fn is_flushing(&self) -> bool {
        let is_it = |job: &JobRecord| job.kind == JobKind::Flush && job.state == JobState::Running;
        self.db.jobs(100).map_or(true, |jobs| jobs.iter().any(is_it))
    }

    /// The model of a collection, and a handle to it.
    fn of(&self, slot: usize) -> Option<(Model, Collection)> {
        let shown = lock(&self.shared).history.shown().clone();
        shown.collections.contains_key(&name(slot)).then(|| {
            let collection = self.db.collection(&name(slot));
            (shown, collection.unwrap_or_else(|error| panic!("{}: {error}", name(slot))))
        })
    }

    fn perform(&self, step: &Step) {
        match step {
            Step::Create { slot, seed } => self.create(*slot, *seed),
            Step::Drop { slot } => self.drop_collection(*slot),
            Step::Insert { slot, seed } => self.insert(*slot, *seed),
            Step::Delete { slot, seed } => self.delete(*slot, *seed),
            Step::UpdateMetadata { slot, seed } => self.update_metadata(*slot, *seed),
            Step::Write { parts, durability } => self.write(parts, *durability),
            Step::WriteMany { slot, seed } => self.write_many(*slot, *seed),
            Step::Sync => self.cover(|db| db.sync().map(drop)),
            Step::Flush(_) => self.cover(|db| db.flush().map(drop)),
            other => unreachable!("{other:?} is not the writer's"),
        }
    }

    /// Does what acknowledges everything before it.
    fn cover(&self, act: impl FnOnce(&Database) -> Result<()>) {
        let version = lock(&self.shared).history.now();
        let result = act(&self.db);
        self.accept(&result);
        if result.is_ok() {
            lock(&self.shared).history.acknowledged(version);
        }
    }

    fn create(&self, slot: usize, seed: u64) {
        let shown = lock(&self.shared).history.shown().clone();
        if shown.collections.contains_key(&name(slot)) {
            return;
        }
        let config = generate::config(&mut Random::new(seed), seed as usize % 3);
        let result = self.db.create_collection(&name(slot), config.clone()).map(drop);
        self.accept(&result);
        let history = &mut lock(&self.shared).history;
        match result {
            Ok(()) => history.created(&name(slot), &config),
            Err(_) => history.not_created(&name(slot), &config),
        }
    }

    fn drop_collection(&self, slot: usize) {
        if self.of(slot).is_none() {
            return;
        }
        let result = self.db.drop_collection(&name(slot));
        self.accept(&result);
        let history = &mut lock(&self.shared).history;
        match result {
            Ok(()) => history.dropped(&name(slot)),
            Err(_) => history.not_dropped(&name(slot)),
        }
    }

    /// The history goes along with a write that would lead to `after`.
    fn wrote(&self, result: &Result<()>, after: Model, durability: Durability) {
        let was_poisoned = lock(&self.shared).poisoned;
        self.accept(result);
        let history = &mut lock(&self.shared).history;
        match result {
            Ok(()) => history.wrote(after, durability == Durability::Durable),
            // Refused before anything was done.
            Err(Error::Poisoned { .. }) if was_poisoned => {}
            Err(_) => history.failed(after),
        }
    }

    fn insert(&self, slot: usize, seed: u64) {
        let Some((mut after, collection)) = self.of(slot) else { return };
        let document = document(seed, collection.dimension());
        let model = after.collection(&name(slot));
        let exists = model.documents.contains_key(&document.key);
        match collection.insert(document.clone()).map(drop) {
            Err(Error::AlreadyExists(key)) => assert!(exists && key == document.key, "{key:#} is not there"),
            result => {
                assert!(!(exists && result.is_ok()), "{:#} was there", document.key);
                if !exists {
                    model.put(document);
                }
                self.wrote(&result, after, Durability::Durable);
            }
        }
    }

    fn delete(&self, slot: usize, seed: u64) {
        let Some((mut after, collection)) = self.of(slot) else { return };
        let key = generate::key(&mut Random::new(seed), KEYS);
        let existed = after.collection(&name(slot)).documents.remove(&key).is_some();
        let result = collection.delete(key).map(|deleted| assert_eq!(deleted, existed, "existed"));
        if existed {
            self.wrote(&result, after, Durability::Durable);
        } else {
            self.accept(&result);
        }
    }

    fn update_metadata(&self, slot: usize, seed: u64) {
        let Some((mut after, collection)) = self.of(slot) else { return };
        let random = &mut Random::new(seed);
        let (key, metadata) = (generate::key(random, KEYS), generate::metadata(random));
        let result = collection.update_metadata(key.clone(), metadata.clone()).map(drop);
        match after.collection(&name(slot)).documents.get_mut(&key) {
            Some(document) => {
                document.metadata = metadata;
                self.wrote(&result, after, Durability::Durable);
            }
            None => assert!(matches!(result, Err(Error::DocumentNotFound(_))), "{result:?}"),
        }
    }

    fn write(&self, parts: &[(usize, Vec<Change>)], durability: Durability) {
        let mut after = lock(&self.shared).history.shown().clone();
        let mut batches = Vec::new();
        for (slot, changes) in parts {
            let Some((_, collection)) = self.of(*slot) else { continue };
            let batch = batch(changes, after.collection(&name(*slot)));
            self.counters.model_operations.add(batch.len() as u64);
            batches.push((collection, batch));
        }
        let result = match &batches[..] {
            [] => return,
            [(collection, batch)] => collection.write_with(batch, durability).map(drop),
            several => {
                let several: Vec<_> = several.iter().map(|(of, batch)| (of, batch.clone())).collect();
                self.db.write(&several).map(drop)
            }
        };
        self.wrote(&result, after, durability);
    }

    fn write_many(&self, slot: usize, seed: u64) {
        let Some((mut after, collection)) = self.of(slot) else { return };
        let random = &mut Random::new(seed);
        let mut batch = WriteBatch::new();
        let model = after.collection(&name(slot));
        for key in 0..4100 + random.below(500) as u64 {
            let document = Document::new(1000 + key).vector(generate::vector(random, collection.dimension()));
            batch.upsert(document.clone());
            model.put(document);
        }
        self.counters.model_operations.add(batch.len() as u64);
        let result = collection.write(&batch).map(drop);
        self.wrote(&result, after, Durability::Durable);
    }
}

fn document(seed: u64, dimension: usize) -> Document {
    let random = &mut Random::new(seed);
    let key = generate::key(random, KEYS);
    generate::document(random, key, dimension)
}

/// A batch, which the model has done already.
fn batch(changes: &[Change], model: &mut ModelCollection) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for change in changes {
        match change {
            Change::Upsert(seed) => {
                let document = document(*seed, model.config.dimension);
                batch.upsert(document.clone());
                model.put(document);
            }
            Change::Delete(seed) => {
                let key = generate::key(&mut Random::new(*seed), KEYS);
                batch.delete(key.clone());
                model.documents.remove(&key);
            }
        }
    }
    batch
}
