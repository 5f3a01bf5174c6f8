//! The layer `faults`: every call into the disk fails, of every kind of operation, in every way.
//!
//! The caller gets a typed error; everything acknowledged stays readable and survives a crash; and the same
//! work succeeds when the cause is gone, or after reopening if a sync failed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plimsoll::{
    CollectionConfig, Database, Document, Durability, Error, Metadata, Metric, Result, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage, Times};

use crate::campaign::{Campaign, Layer};
use crate::model::Model;
use crate::recorder::Recorder;
use crate::recovery::{assert_allowed, assert_sound, builder, check_recovery, contents};

/// The error numbers that a disk may answer with.
pub const ERRNOS: [i32; 7] = [
    5,   // EIO
    28,  // ENOSPC
    122, // EDQUOT
    24,  // EMFILE
    13,  // EACCES
    30,  // EROFS
    4,   // EINTR
];

/// The ways in which a call that changes something fails. A sync that fails also drops its dirty pages.
fn failures() -> Vec<Failure> {
    let mut failures: Vec<Failure> = ERRNOS.map(Failure::errno).to_vec();
    failures.extend([5, 28, 4].map(|errno| Failure::errno(errno).after_bytes(7)));
    failures.extend([5, 28, 4].map(|errno| Failure::errno(errno).although_done()));
    failures.push(Failure::slow(Duration::from_micros(200)));
    failures
}

const TIMES: [Times; 3] = [Times::Once, Times::ForEver, Times::AllForEver];

/// The kinds of calls that only read.
const READING: [OperationKind; 5] = [
    OperationKind::Open,
    OperationKind::Read,
    OperationKind::Map,
    OperationKind::List,
    OperationKind::FreeSpace,
];

/// A kind of operation.
struct Act {
    name: &'static str,
    run: fn(&Database) -> Result<()>,
    /// What it makes of the model.
    change: fn(&mut Model),
    /// Whether it survives a crash once it has returned.
    is_durable: bool,
}

const ACTS: [Act; 11] = [
    Act { name: "flush", run: |db| db.flush().map(drop), change: |_| {}, is_durable: true },
    Act { name: "compact", run: |db| db.compact().map(drop), change: |_| {}, is_durable: true },
    Act { name: "sync", run: |db| db.sync().map(drop), change: |_| {}, is_durable: true },
    Act {
        name: "upsert",
        run: |db| db.collection("a")?.upsert(document(3, 9)).map(drop),
        change: |model| model.collection("a").put(document(3, 9)),
        is_durable: true,
    },
    Act {
        name: "delete",
        run: |db| db.collection("a")?.delete(3).map(drop),
        change: |model| drop(model.collection("a").documents.remove(&3.into())),
        is_durable: true,
    },
    Act {
        name: "batch",
        run: |db| write_batch(db, Durability::Durable),
        change: change_batch,
        is_durable: true,
    },
    Act {
        name: "buffered-batch",
        run: |db| write_batch(db, Durability::Buffered),
        change: change_batch,
        is_durable: false,
    },
    Act {
        name: "write-to-two",
        run: |db| {
            let (a, b) = (db.collection("a")?, db.collection("b")?);
            let mut batch = WriteBatch::new();
            batch.upsert(document(5, 12));
            db.write(&[(&a, batch.clone()), (&b, batch)]).map(drop)
        },
        change: |model| ["a", "b"].into_iter().for_each(|name| model.collection(name).put(document(5, 12))),
        is_durable: true,
    },
    Act {
        name: "update-metadata",
        run: |db| db.collection("a")?.update_metadata(4, Metadata::new()).map(drop),
        change: |model| {
            let documents = &mut model.collection("a").documents;
            documents.get_mut(&4.into()).unwrap().metadata = Metadata::new();
        },
        is_durable: true,
    },
    Act {
        name: "create-collection",
        run: |db| db.create_collection("c", CollectionConfig::new(3, Metric::Dot)).map(drop),
        change: |model| model.create("c", &CollectionConfig::new(3, Metric::Dot)),
        is_durable: true,
    },
    Act {
        name: "drop-collection",
        run: |db| match db.drop_collection("a") {
            Err(Error::CollectionNotFound(_)) => Ok(()),
            result => result,
        },
        change: |model| drop(model.collections.remove("a")),
        is_durable: true,
    },
];

fn document(key: u64, version: u64) -> Document {
    Document::new(key)
        .text(format!("text {version}"))
        .metadata("v", version)
        .vector([key as f32, version as f32 + 1.0])
}

fn documents(keys: std::ops::Range<u64>, version: u64) -> Vec<Document> {
    keys.map(|key| document(key, version)).collect()
}

fn write_batch(db: &Database, durability: Durability) -> Result<()> {
    let mut batch = WriteBatch::new();
    for document in documents(2..30, 11) {
        batch.upsert(document);
    }
    batch.delete(4);
    db.collection("a")?.write_with(&batch, durability).map(drop)
}

fn change_batch(model: &mut Model) {
    let collection = model.collection("a");
    documents(2..30, 11).into_iter().for_each(|document| collection.put(document));
    collection.documents.remove(&4.into());
}

/// A database with two flushed deltas, with kills, with unflushed writes and with unsynced ones.
fn prepared() -> Recorder {
    let mut run = Recorder::new();
    run.open();
    run.create("a", 2, Metric::L2);
    run.create("b", 2, Metric::Cosine);
    run.write("a", &documents(0..6, 1), &[], Durability::Durable);
    run.flush();
    run.write("a", &documents(4..8, 2), &[0], Durability::Durable);
    run.write("b", &documents(4..6, 2), &[], Durability::Durable);
    run.flush();
    run.write("a", &documents(7..9, 3), &[1], Durability::Durable);
    run
}

/// As [`prepared`]; an act that only makes things durable finds something that is not.
fn prepared_for(act: &Act) -> (Recorder, Model) {
    let mut run = prepared();
    let durable = run.model.clone();
    if matches!(act.name, "sync" | "flush") {
        run.write("a", &documents(20..22, 4), &[], Durability::Buffered);
    }
    (run, durable)
}

fn is_poisoned(error: &Error) -> bool {
    matches!(error, Error::Poisoned { .. })
}

/// Where a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    /// The numbered operation.
    Operation(u64),
    /// The call of that kind after so many others.
    Reading(OperationKind, u64),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operation(n) => write!(f, "{n}"),
            Self::Reading(kind, k) => write!(f, "{kind:?}-{k}"),
        }
    }
}

/// Every call of a run, as the operations from `first` on and the calls since the disk was `readings`.
fn targets(disk: &SimStorage, first: u64, readings: [u64; 5]) -> Vec<Target> {
    let operations = (first..disk.operations()).map(Target::Operation);
    let reading = READING.into_iter().zip(readings).flat_map(|(kind, before)| {
        // Of hundreds of equal reads, some.
        let count = disk.reads(kind) - before;
        (0..count).step_by(count.div_ceil(24).max(1) as usize).map(move |k| Target::Reading(kind, k))
    });
    operations.chain(reading).collect()
}

fn readings(disk: &SimStorage) -> [u64; 5] {
    READING.map(|kind| disk.reads(kind))
}

/// Every fault for a target; returns each with what it is called.
fn faults(target: Target) -> Vec<(Failure, Times)> {
    let failures = match target {
        Target::Operation(_) => failures(),
        Target::Reading(..) => ERRNOS.map(Failure::errno).to_vec(),
    };
    failures.into_iter().flat_map(|failure| TIMES.map(|times| (failure, times))).collect()
}

fn set(disk: &SimStorage, target: Target, failure: Failure, times: Times) {
    match target {
        Target::Operation(n) => disk.fail_operation(n, failure, times),
        Target::Reading(kind, skip) => {
            let count = match times {
                Times::Once => 1,
                Times::ForEver => 2,
                Times::AllForEver => u64::MAX,
            };
            disk.fail_after(kind, skip, failure, count);
        }
    }
}

pub(crate) fn matrix(campaign: &Campaign) {
    every(campaign, 1);
}

/// Every `stride`-th call of every kind of operation fails in every way.
pub fn every(campaign: &Campaign, stride: usize) {
    run(campaign, stride, |_| true);
}

/// There is nothing random about this layer: in a long run it takes one of its cases after another.
pub(crate) fn random(campaign: &Campaign, seed: u64) {
    let act = seed as usize % (ACTS.len() + WHOLE.len());
    run(campaign, 1, |index| index == act && seed < 2 * (ACTS.len() + WHOLE.len()) as u64);
}

fn run(campaign: &Campaign, stride: usize, chosen: impl Fn(usize) -> bool) {
    for (_, act) in ACTS.iter().enumerate().filter(|(index, _)| chosen(*index)) {
        let targets = or_violation(campaign, act.name, || {
            let (run, _) = prepared_for(act);
            let (first, before) = (run.disk.operations(), readings(&run.disk));
            (act.run)(run.db()).unwrap();
            targets(&run.disk, first, before)
        });
        campaign.counters.workloads.one();
        let checked = Checked::default();
        let case = |target: &Target| format!("{}@{target}", act.name);
        campaign.each(Layer::Faults, targets.into_iter().step_by(stride), case, |target| {
            fail_act(campaign, &checked, act, *target);
        });
    }
    for (_, whole) in WHOLE.iter().enumerate().filter(|(index, _)| chosen(ACTS.len() + index)) {
        let targets = or_violation(campaign, whole.name, || {
            let run = prepared();
            let (disk, run) = (whole.prepare)(run);
            let (first, before) = (disk.operations(), readings(&disk));
            (whole.run)(&disk, run.db.as_ref()).unwrap();
            targets(&disk, first, before)
        });
        campaign.counters.workloads.one();
        let checked = Checked::default();
        let case = |target: &Target| format!("{}@{target}", whole.name);
        campaign.each(Layer::Faults, targets.into_iter().step_by(stride), case, |target| {
            fail_whole(campaign, &checked, whole, *target);
        });
    }
}

/// The targets; that finding them fails is a violation.
fn or_violation(campaign: &Campaign, name: &str, find: impl FnOnce() -> Vec<Target>) -> Vec<Target> {
    let mut targets = Vec::new();
    campaign.case(Layer::Faults, || name.to_owned(), || targets = find());
    targets
}

/// States that were checked already, with a number for what was allowed then.
#[derive(Default)]
struct Checked(Mutex<HashSet<(u64, usize)>>);

impl Checked {
    /// Checks the recovery of a state, unless it was checked against as much before.
    fn recovery(&self, campaign: &Campaign, disk: &SimStorage, allowed: &[&Model], what: &str) {
        let state = (campaign.counters.state(disk), allowed.len());
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(state) {
            campaign.counters.recoveries.one();
            check_recovery(disk, allowed, what);
        }
    }
}

/// Lets a call of an act fail in every way.
fn fail_act(campaign: &Campaign, checked: &Checked, act: &Act, target: Target) {
    for (failure, times) in faults(target) {
        let what = format!("{} with {target} failing: {failure}, {times:?}", act.name);
        fail_once(campaign, checked, act, target, (failure, times), &what);
    }
}

fn fail_once(
    campaign: &Campaign,
    checked: &Checked,
    act: &Act,
    target: Target,
    (failure, times): (Failure, Times),
    what: &str,
) {
    let (mut run, durable) = prepared_for(act);
    let before = run.model.clone();
    let mut after = before.clone();
    (act.change)(&mut after);
    set(&run.disk, target, failure, times);
    let result = (act.run)(run.db());
    campaign.counters.faults_of(&run.disk);
    campaign.counters.model_operations.one();
    let shown = if result.is_ok() { &after } else { &before };
    let allowed: Vec<&Model> = match &result {
        Ok(()) if act.is_durable && act.name != "compact" => vec![&after],
        _ => vec![&after, &before, &durable],
    };
    if matches!(target, Target::Operation(_)) {
        // What readers see now is what was acknowledged.
        assert_allowed(&contents(run.db()), &[shown], what);
    }
    for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(3)] {
        checked.recovery(campaign, &run.disk.after_crash(policy), &allowed, &format!("{what}; {policy:?}"));
    }
    run.disk.clear_faults();
    assert_allowed(&contents(run.db()), &[shown], what);
    match (act.run)(run.db()) {
        Ok(()) => {
            assert_allowed(&contents(run.db()), &[&after], &format!("{what}; again"));
            assert_sound(run.db(), &format!("{what}; again"));
            run.db = None;
            checked.recovery(campaign, &run.disk, &[&after], &format!("{what}; again"));
        }
        Err(error) if is_poisoned(&error) => {
            let is_known = result.as_ref().is_err_and(is_poisoned) || act.name == "compact";
            assert!(is_known, "{what}: poisoned, and said {result:?}");
            run.db = None;
            checked.recovery(campaign, &run.disk, &allowed, &format!("{what}; poisoned"));
        }
        Err(error) => panic!("{what}: again: {error}"),
    }
    assert_eq!(run.disk.violations(), [] as [String; 0], "{what}");
}

/// Something done to a database as a whole, which does not change what it holds.
struct Whole {
    name: &'static str,
    /// The disk to do it to, and what has to be kept for it.
    prepare: fn(Recorder) -> (SimStorage, Recorder),
    run: fn(&SimStorage, Option<&Database>) -> Result<()>,
}

fn closed(mut run: Recorder) -> (SimStorage, Recorder) {
    run.db = None;
    (run.disk.clone(), run)
}

const WHOLE: [Whole; 5] = [
    Whole {
        name: "open",
        prepare: closed,
        run: |disk, _| builder(disk).memtable_bytes(100).open().map(drop),
    },
    Whole {
        name: "open-after-a-kill",
        prepare: |run| (run.disk.after_kill(), run),
        run: |disk, _| builder(disk).open().map(drop),
    },
    Whole {
        name: "close",
        prepare: |run| (run.disk.clone(), run),
        run: |_, db| db.map_or(Ok(()), Database::close),
    },
    Whole {
        name: "read",
        prepare: |run| (run.disk.clone(), run),
        run: |disk, _| {
            let path = std::path::Path::new(crate::recovery::PATH);
            let reader = plimsoll::ReadOnlyDatabase::open_in(path, std::sync::Arc::new(disk.clone()), false)?;
            let collection = reader.collection("a")?;
            collection.scan().collect::<Result<Vec<_>>>()?;
            collection.get(4)?;
            collection.search(&[1.0, 2.0]).run().map(drop)
        },
    },
    Whole {
        name: "create",
        prepare: |_| {
            let run = Recorder::new();
            (run.disk.clone(), run)
        },
        run: |disk, _| builder(disk).open().map(drop),
    },
];

/// Lets a call of something done to the whole database fail in every way: it says so or it is done, and nothing
/// is lost.
fn fail_whole(campaign: &Campaign, checked: &Checked, whole: &Whole, target: Target) {
    for (failure, times) in faults(target) {
        let what = format!("{} with {target} failing: {failure}, {times:?}", whole.name);
        let (disk, mut run) = (whole.prepare)(prepared());
        let model = run.model.clone();
        set(&disk, target, failure, times);
        drop((whole.run)(&disk, run.db.as_ref()));
        campaign.counters.faults_of(&disk);
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(5)] {
            checked.recovery(campaign, &disk.after_crash(policy), &[&model], &format!("{what}; {policy:?}"));
        }
        disk.clear_faults();
        run.db = None;
        checked.recovery(campaign, &disk, &[&model], &what);
    }
}

pub(crate) fn replay(campaign: &Campaign, case: &str) -> std::result::Result<String, String> {
    let wrong = || format!("{case:?} is no case: ACT@OPERATION or ACT@KIND-NUMBER");
    let (name, at) = case.split_once('@').ok_or_else(wrong)?;
    let target = match at.split_once('-') {
        None => Target::Operation(at.parse().map_err(|_| wrong())?),
        Some((kind, k)) => {
            let kind = READING.into_iter().find(|reading| format!("{reading:?}") == kind);
            Target::Reading(kind.ok_or_else(wrong)?, k.parse().map_err(|_| wrong())?)
        }
    };
    let act = ACTS.iter().find(|act| act.name == name);
    let whole = WHOLE.iter().find(|whole| whole.name == name);
    campaign.case(
        Layer::Faults,
        || case.to_owned(),
        || match (act, whole) {
            (Some(act), _) => fail_act(campaign, &Checked::default(), act, target),
            (None, Some(whole)) => fail_whole(campaign, &Checked::default(), whole, target),
            (None, None) => panic!("there is no act {name:?}"),
        },
    );
    Ok(format!("{name}, with call {target} failing in every way"))
}
