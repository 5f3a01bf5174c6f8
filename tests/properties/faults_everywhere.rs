//! A call into the disk that fails anywhere: the caller gets a typed error, everything acknowledged stays
//! readable and survives a crash, and the same work succeeds when the cause is gone.

use plimsoll::{CollectionConfig, Database, Document, Durability, Error, Metric, Result};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, Times};

use plimsoll_torture::model::Model;
use plimsoll_torture::recorder::Recorder;
use plimsoll_torture::recovery::{assert_allowed, builder, check_recovery, contents};

const FULL: i32 = 28;
const IO: i32 = 5;

fn document(key: u64, version: u64) -> Document {
    Document::new(key)
        .text(format!("text {version}"))
        .metadata("v", version)
        .vector([key as f32, version as f32 + 1.0])
}

/// A database with two flushed deltas, with kills, and with unflushed writes.
fn prepared() -> Recorder {
    let mut run = Recorder::new();
    run.open();
    run.create("a", 2, Metric::L2);
    run.write("a", &(0..6).map(|key| document(key, 1)).collect::<Vec<_>>(), &[], Durability::Durable);
    run.flush();
    run.write("a", &(4..8).map(|key| document(key, 2)).collect::<Vec<_>>(), &[0], Durability::Durable);
    run.flush();
    run.write("a", &(7..9).map(|key| document(key, 3)).collect::<Vec<_>>(), &[1], Durability::Durable);
    run
}

fn is_poisoned(error: &Error) -> bool {
    matches!(error, Error::Poisoned { .. })
}

/// Lets every disk operation of `act` fail in several ways. `changed` makes of the model what `act` does.
fn fail_everywhere(act: impl Fn(&Database) -> Result<()>, changed: impl Fn(&mut Model)) {
    let run = prepared();
    let first = run.disk.operations();
    act(run.db()).unwrap();
    let last = run.disk.operations();
    let operations = run.disk.log();
    assert!(last > first, "there is something to fail");
    for n in first..last {
        let failures = [
            ("full", Failure::errno(FULL)),
            ("short", Failure::errno(IO).after_bytes(7)),
            ("done", Failure::errno(IO).although_done()),
        ];
        for ((name, failure), times) in
            failures.into_iter().flat_map(|f| [(f, Times::Once), (f, Times::AllForEver)])
        {
            let what = format!("{} fails: {name}, {times:?}", operations[n as usize]);
            fail_at(n, failure, times, &act, &changed, &what);
        }
    }
}

fn fail_at(
    n: u64,
    failure: Failure,
    times: Times,
    act: impl Fn(&Database) -> Result<()>,
    changed: impl Fn(&mut Model),
    what: &str,
) {
    let mut run = prepared();
    let before = run.model.clone();
    let mut after = before.clone();
    changed(&mut after);
    run.disk.fail_operation(n, failure, times);
    let result = act(run.db());
    let allowed: Vec<&Model> = if result.is_ok() { vec![&after] } else { vec![&before, &after] };
    // What readers see now is what was acknowledged.
    assert_allowed(&contents(run.db()), &allowed[..1], what);
    for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(n)] {
        check_recovery(&run.disk.after_crash(policy), &allowed, &format!("{what}; {policy:?}"));
    }
    run.disk.clear_faults();
    match act(run.db()) {
        Ok(()) => {
            assert_allowed(&contents(run.db()), &[&after], &format!("{what}; again"));
            let report = run.db().verify().unwrap();
            assert!(!report.is_damaged(), "{what}; again: {:?}", report.findings);
            run.db = None;
            check_recovery(&run.disk, &[&after], &format!("{what}; again"));
        }
        Err(error) if is_poisoned(&error) => {
            assert!(result.is_err_and(|error| is_poisoned(&error)), "{what}: poisoned by success");
            assert_allowed(&contents(run.db()), &allowed[..1], &format!("{what}; poisoned"));
            run.db = None;
            check_recovery(&run.disk, &allowed, &format!("{what}; poisoned"));
        }
        Err(error) => panic!("{what}: again: {error}"),
    }
    assert_eq!(run.disk.violations(), [] as [String; 0], "{what}");
}

#[test]
fn of_a_flush() {
    fail_everywhere(|db| db.flush().map(drop), |_| {});
}

#[test]
fn of_a_compaction() {
    fail_everywhere(|db| db.compact().map(drop), |_| {});
}

#[test]
fn of_a_write() {
    let write = |db: &Database| db.collection("a")?.upsert(document(3, 9)).map(drop);
    fail_everywhere(write, |model| model.collection("a").put(document(3, 9)));
}

#[test]
fn of_a_delete() {
    let delete = |db: &Database| db.collection("a")?.delete(3).map(drop);
    fail_everywhere(delete, |model| drop(model.collection("a").documents.remove(&3.into())));
}

#[test]
fn of_creating_a_collection() {
    let config = CollectionConfig::new(3, Metric::Dot);
    let create = |db: &Database| db.create_collection("b", config.clone()).map(drop);
    fail_everywhere(create, |model| model.create("b", &config));
}

#[test]
fn of_dropping_a_collection() {
    let drop_it = |db: &Database| match db.drop_collection("a") {
        Err(Error::CollectionNotFound(_)) => Ok(()),
        result => result,
    };
    fail_everywhere(drop_it, |model| drop(model.collections.remove("a")));
}

#[test]
fn of_opening() {
    let prepare = || {
        let mut run = prepared();
        run.db = None;
        run
    };
    let run = prepare();
    let first = run.disk.operations();
    run.disk.fail_operation(u64::MAX, Failure::errno(IO), Times::Once);
    builder(&run.disk).memtable_bytes(100).open().unwrap();
    for n in first..run.disk.operations() {
        for failure in [Failure::errno(FULL), Failure::errno(IO).although_done()] {
            for times in [Times::Once, Times::AllForEver] {
                let run = prepare();
                run.disk.fail_operation(n, failure, times);
                let what = format!("operation {n} fails: {failure:?}, {times:?}");
                let opened = builder(&run.disk).memtable_bytes(100).open();
                if let Ok(db) = &opened {
                    assert_allowed(&contents(db), &[&run.model], &what);
                }
                drop(opened);
                check_recovery(&run.disk.after_crash(CrashPolicy::LoseAll), &[&run.model], &what);
                run.disk.clear_faults();
                check_recovery(&run.disk, &[&run.model], &what);
            }
        }
    }
}

#[test]
fn of_reading() {
    use OperationKind::{FreeSpace, List, Map, Open, Read};
    type Act = fn(&Database) -> Result<()>;
    let acts: [(&str, Act); 3] = [
        ("flush", |db| db.flush().map(drop)),
        ("compact", |db| db.compact().map(drop)),
        ("write", |db| db.collection("a")?.upsert(document(3, 1)).map(drop)),
    ];
    for (name, act) in acts {
        for kind in [FreeSpace, List, Map, Open, Read] {
            for count in [1, 2, 3, u64::MAX] {
                let what = format!("{name}: {count} times {kind:?} fails");
                let mut run = prepared();
                if name == "write" {
                    run.model.collection("a").put(document(3, 1));
                }
                run.disk.fail_next(kind, Failure::errno(IO), count);
                let _either = act(run.db());
                run.disk.clear_faults();
                let after = run.disk.after_crash(CrashPolicy::LoseAll);
                act(run.db()).unwrap_or_else(|error| panic!("{what}: again: {error}"));
                act(run.db()).unwrap_or_else(|error| panic!("{what}: a third time: {error}"));
                assert_allowed(&contents(run.db()), &[&run.model], &what);
                let report = run.db().verify().unwrap();
                assert!(!report.is_damaged(), "{what}: {:?}", report.findings);
                run.db = None;
                check_recovery(&run.disk, &[&run.model], &what);
                let unwritten = prepared();
                check_recovery(&after, &[&run.model, &unwritten.model], &what);
            }
        }
    }
}
