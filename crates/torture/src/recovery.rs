//! What must hold after a crash: the disk opens, has one of the allowed contents, is sound, and can be used.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plimsoll::storage::Storage;
use plimsoll::{
    CollectionConfig, Database, DatabaseBuilder, Document, Effort, Error, Metric, Severity, verify_in,
};
use plimsoll_sim::{CrashPolicy, DirectoryModel, Moment, SimClock, SimStorage};

use crate::counters::Counters;
use crate::model::Model;

/// Where the database is.
pub const PATH: &str = "/srv/db";

/// Where the workload with a backup has it.
pub const COPY: &str = "/srv/copy";

/// Contents of more documents than this are not read in every way at each of very many places.
const LARGE: usize = 1000;

/// A disk with the directory that the database is going to be created in.
pub fn empty_disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.put_dir("/srv").unwrap();
    disk
}

/// Small limits, so that little data goes a long way; no threads, so that runs repeat.
pub fn builder(disk: &SimStorage) -> DatabaseBuilder {
    let storage = Arc::new(disk.clone());
    // What is stored says how long things took: the same each time.
    let clock = Arc::new(SimClock::ticking(Duration::from_micros(1)));
    let builder = Database::builder(PATH).storage(storage).clock(clock).background(false);
    builder.seed(disk.operations()).wal_segment_bytes(4096)
}

/// Lets no file be removed that a power cut could still need: without it, and without anything unsynced, the
/// database must be sound.
pub fn guard(disk: &SimStorage) {
    disk.guard_removals(|disk, path| {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let is_manifest = path.display().to_string().contains("MANIFEST-") && path.extension().is_none();
        match verify_in(Path::new(PATH), &storage) {
            Ok(report) if !report.is_damaged() => Ok(()),
            Ok(report) => Err(format!("{:?}", report.findings)),
            // Its creation is under way.
            Err(Error::NotADatabase { .. } | Error::DatabaseNotFound(_)) if !is_manifest => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    });
}

fn open(disk: &SimStorage, what: &str) -> Database {
    // Some recoveries flush on the way.
    let memtable_bytes = if disk.fingerprint().is_multiple_of(3) { 300 } else { 64 << 20 };
    let opened = builder(disk).memtable_bytes(memtable_bytes).open();
    opened.unwrap_or_else(|error| panic!("{what}: does not open: {error}"))
}

/// What the database holds, after a check that all ways of reading it agree.
pub fn contents(db: &Database) -> Model {
    let found = Model::of(db);
    let snapshot = db.snapshot();
    for (name, collection) in &found.collections {
        let actual = snapshot.collection(name).unwrap();
        collection.check(&actual);
        if collection.documents.len() <= LARGE {
            let query = vec![1.0; collection.config.dimension];
            collection.check_search(&actual, &query, 3);
        } else {
            let query = vec![1.0; collection.config.dimension];
            let found = actual.search(&query).k(1).effort(Effort::Exact).run().unwrap();
            assert_eq!(found.hits.len(), 1);
        }
    }
    found
}

/// That the contents are one of those allowed.
pub fn assert_allowed(found: &Model, allowed: &[&Model], what: &str) {
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

/// That an open database is sound.
pub fn assert_sound(db: &Database, what: &str) {
    let report = db.verify().unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    assert!(!report.is_damaged(), "{what}: {:?}", report.findings);
}

/// A write that is acknowledged, and its effect on the model.
fn write_one(db: &Database, model: &mut Model, key: &str) {
    if model.collections.is_empty() {
        let config = CollectionConfig::new(2, Metric::L2);
        db.create_collection("after", config.clone()).unwrap();
        model.create("after", &config);
    }
    let name = model.collections.keys().next().unwrap().clone();
    let collection = model.collection(&name);
    let vector = vec![1.0; collection.config.dimension];
    let document = Document::new(key).text("written after the crash").vector(vector);
    db.collection(&name).unwrap().upsert(document.clone()).unwrap();
    collection.put(document);
}

/// That a disk after a crash opens, has one of the allowed contents, is sound, and can be used.
pub fn check_recovery(disk: &SimStorage, allowed: &[&Model], what: &str) {
    check_copy(disk, what);
    let db = open(disk, what);
    let mut model = contents(&db);
    assert_allowed(&model, allowed, what);
    assert_sound(&db, what);
    drop(db);
    let db = open(disk, &format!("{what}; second reopening"));
    assert_eq!(Model::of(&db), model, "{what}: the second reopening changed something");
    check_jobs(&db, what);
    write_one(&db, &mut model, "after the crash");
    db.flush().unwrap_or_else(|error| panic!("{what}: flush: {error}"));
    assert_eq!(contents(&db), model, "{what}: after a flush");
    db.close().unwrap_or_else(|error| panic!("{what}: close: {error}"));
    drop(db);
    check_verified(disk, what);
    assert_eq!(disk.violations(), [] as [String; 0], "{what}");
}

/// That the records of jobs are whole; and that what was left is done once, and what had ended stays as it was.
fn check_jobs(db: &Database, what: &str) {
    let records = || db.jobs(usize::MAX).unwrap_or_else(|error| panic!("{what}: records of jobs: {error}"));
    let before = records();
    assert!(before.is_sorted_by(|a, b| a.id > b.id), "{what}: an id is there twice: {before:?}");
    if before.iter().any(|job| !job.state.is_final()) {
        db.run_due_jobs().unwrap_or_else(|error| panic!("{what}: resuming: {error}"));
    }
    let after = records();
    for job in &before {
        let now = after.iter().find(|now| now.id == job.id);
        let now = now.unwrap_or_else(|| panic!("{what}: the record of {job:?} is gone"));
        assert!(now.state.is_final(), "{what}: {job:?} is left as {now:?}");
        let again = u32::from(!job.state.is_final());
        assert!(now.attempts <= job.attempts + again, "{what}: {job:?} was done more than once: {now:?}");
        assert!(again == 1 || now.state == job.state, "{what}: {job:?} became {now:?}");
    }
}

/// That a copy of a database is not one before it is whole.
fn check_copy(disk: &SimStorage, what: &str) {
    let is_manifest = |name: &str| name.starts_with("MANIFEST-") && !name.ends_with(".tmp");
    let Ok(entries) = disk.list(Path::new(COPY)) else { return };
    if entries.iter().any(|entry| is_manifest(&entry.name)) {
        let storage = Arc::new(disk.clone());
        let copy = Database::builder(COPY).storage(storage).background(false).open();
        let copy = copy.unwrap_or_else(|error| panic!("{what}: the copy does not open: {error}"));
        assert_sound(&copy, &format!("{what}; the copy"));
        let found = contents(&copy);
        assert!(!found.collections.is_empty(), "{what}: the copy is empty");
    }
}

/// That a closed database is sound.
pub fn check_verified(disk: &SimStorage, what: &str) {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let report =
        verify_in(Path::new(PATH), &storage).unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    let damage = report.findings.iter().find(|finding| finding.severity == Severity::Damage);
    assert!(damage.is_none(), "{what}: {}", damage.unwrap());
}

/// That a disk after a crash recovers, with a second crash at `points` moments of the recovery and of the first
/// write after it, or at all of them if there are fewer.
pub fn check_second_crash(
    counters: &Counters,
    disk: &SimStorage,
    model: DirectoryModel,
    allowed: &[&Model],
    points: usize,
    what: &str,
) {
    let db = open(disk, what);
    let found = contents(&db);
    assert_allowed(&found, allowed, what);
    let opened = disk.operations();
    let mut written = found.clone();
    write_one(&db, &mut written, "after the crash");
    let acknowledged = disk.operations();
    // Creating the collection to write to is a step of its own.
    let mut created = found.clone();
    if found.collections.is_empty() {
        let config = &written.collections["after"].config;
        created.create("after", config);
    }
    let mut possible = allowed.to_vec();
    possible.extend([&created, &written]);
    let moments: Vec<Moment> = disk.moments().collect();
    let stride = moments.len().div_ceil(points);
    let mut seen = HashSet::new();
    for moment in moments.iter().rev().step_by(stride) {
        let m = moment.number();
        for policy in [CrashPolicy::LoseAll, CrashPolicy::Random(m), CrashPolicy::KeepAll] {
            let what =
                format!("{what}; {policy:?} before operation {m} of the recovery ({opened} for opening)");
            let again = moment.power_cut(model, policy);
            counters.second_crashes.one();
            if !seen.insert((counters.state(&again), m == acknowledged)) {
                continue;
            }
            let only_written: &[&Model] = &[&written];
            let possible = if m == acknowledged { only_written } else { &possible };
            let db = open(&again, &what);
            assert_allowed(&contents(&db), possible, &what);
            assert_sound(&db, &what);
        }
    }
    assert_eq!(disk.violations(), [] as [String; 0], "{what}");
}
