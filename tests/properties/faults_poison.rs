//! A failed sync of the log: writes are refused from then on, reads go on, nothing is published, and
//! reopening decides what is there. And a full disk: typed errors, deletes go on, and space comes back.

use plimsoll::{CollectionConfig, Document, Durability, Error, Metric, WriteBatch};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind};

use plimsoll_torture::recorder::Recorder;
use plimsoll_torture::recovery::{PATH, assert_allowed, builder, check_recovery, contents};

fn document(key: u64) -> Document {
    Document::new(key).text("some text").vector([key as f32, 1.0])
}

fn prepared() -> Recorder {
    let mut run = Recorder::new();
    run.open();
    run.create("a", 2, Metric::L2);
    run.write("a", &(0..4).map(document).collect::<Vec<_>>(), &[], Durability::Durable);
    run.flush();
    run.write("a", &(4..6).map(document).collect::<Vec<_>>(), &[2], Durability::Durable);
    run
}

fn manifests(run: &Recorder) -> Vec<String> {
    let paths = run.disk.paths().into_iter().map(|path| path.display().to_string());
    paths.filter(|path| path.contains("MANIFEST-")).collect()
}

#[test]
fn a_failed_sync_refuses_writes_and_publishes_nothing() {
    for failure in [Failure::errno(5), Failure::errno(5).although_done()] {
        let mut run = prepared();
        let before = run.model.clone();
        let manifests_before = manifests(&run);
        run.disk.fail_next(OperationKind::Sync, failure, 1);
        let collection = run.db().collection("a").unwrap();
        let poisoned = |result: Result<(), Error>| match result {
            Err(Error::Poisoned { cause, .. }) => assert!(cause.contains("sync"), "{cause}"),
            other => panic!("{other:?} instead of Poisoned"),
        };
        poisoned(collection.upsert(document(9)).map(drop));
        // The disk works again, and is not believed.
        poisoned(collection.upsert(document(10)).map(drop));
        poisoned(collection.delete(0).map(drop));
        poisoned(collection.write_with(&batch(11), Durability::Buffered).map(drop));
        poisoned(run.db().sync().map(drop));
        poisoned(run.db().flush().map(drop));
        poisoned(run.db().create_collection("b", CollectionConfig::new(2, Metric::L2)).map(drop));
        poisoned(run.db().drop_collection("a"));
        drop(run.db().compact());
        assert_eq!(manifests(&run), manifests_before, "something was published");
        assert_allowed(&contents(run.db()), &[&before], "reads go on");
        before.collections["a"].check_search(&collection.snapshot().unwrap(), &[1.0, 1.0], 3);
        drop(collection);
        poisoned(run.db().close());
        run.db = None;
        let mut after = before.clone();
        after.collection("a").put(document(9));
        for policy in
            [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(1), CrashPolicy::Random(2)]
        {
            check_recovery(&run.disk.after_crash(policy), &[&before, &after], &format!("{policy:?}"));
        }
        check_recovery(&run.disk, &[&before, &after], "reopening");
    }
}

#[test]
fn a_poisoned_database_publishes_no_compaction() {
    for poisons in [false, true] {
        let mut run = prepared();
        run.flush();
        let before = manifests(&run);
        if poisons {
            run.disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
            let refused = run.db().collection("a").unwrap().upsert(document(9));
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        }
        // There is something to be merged; without the failure it is.
        let compacted = run.db().compact();
        assert_eq!(compacted.is_err(), poisons, "{compacted:?}");
        assert_eq!(manifests(&run) != before, !poisons, "poisoned: {poisons}");
    }
}

#[test]
fn a_poisoned_database_does_not_name_the_segment_of_its_log() {
    let mut unnamed = 0;
    for row in 1..60 {
        let run = Recorder::new();
        let db = builder(&run.disk).open().unwrap();
        let collection = db.create_collection("a", CollectionConfig::new(2, Metric::L2)).unwrap();
        for key in 0..row {
            collection.upsert(document(key)).unwrap();
        }
        // The name of a new segment is the first rename of a write, that of the manifest the second.
        let before = manifests(&run);
        run.disk.fail_after(OperationKind::Rename, 1, std::io::ErrorKind::PermissionDenied, 1);
        collection.upsert(document(100)).unwrap();
        run.disk.clear_faults();
        if run.disk.faults_struck().is_empty() {
            continue;
        }
        unnamed += 1;
        run.disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
        for key in 101..104 {
            let refused = collection.upsert(document(key));
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        }
        assert_eq!(manifests(&run), before, "row {row}");
    }
    assert!(unnamed > 0);
}

fn batch(key: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.upsert(document(key));
    batch
}

#[test]
fn lost_buffered_writes_are_named() {
    let run = prepared();
    let collection = run.db().collection("a").unwrap();
    let first = collection.write_with(&batch(20), Durability::Buffered).unwrap();
    let last = collection.write_with(&batch(21), Durability::Buffered).unwrap();
    run.disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    match run.db().sync() {
        Err(Error::Poisoned { lost, .. }) => assert_eq!(lost, Some((first, last))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_refuses_writes_and_allows_deletes() {
    let mut run = prepared();
    let used: u64 = run.disk.paths().iter().map(|path| run.disk.bytes(path).unwrap().len() as u64).sum();
    run.disk.set_capacity(used);
    let collection = run.db().collection("a").unwrap();
    let mut written = 0;
    let refused = loop {
        let key = 100 + written;
        let padded = Document::new(key).text("padding ".repeat(100)).vector([key as f32, 0.0]);
        match collection.upsert(padded.clone()) {
            Ok(_) => run.model.collection("a").put(padded),
            Err(error) => break error,
        }
        written += 1;
        assert!(written < 10_000, "the disk never fills");
    };
    assert!(refused.is_retryable(), "{refused:?}");
    assert_allowed(&contents(run.db()), &[&run.model], "full");
    let keys: Vec<_> = run.model.collections["a"].documents.keys().cloned().collect();
    for key in keys.into_iter().skip(3) {
        assert!(collection.delete(key.clone()).unwrap());
        run.model.collection("a").documents.remove(&key);
    }
    assert_allowed(&contents(run.db()), &[&run.model], "after deletes");
    // What the reserve has given is for what gives space back, and not for the next writer.
    assert_eq!(run.disk.bytes(format!("{PATH}/RESERVE")), Some(Vec::new()), "the reserve is spent");
    let refused = collection.upsert(document(1)).unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    run.db().flush().unwrap();
    run.db().compact().unwrap();
    assert_allowed(&contents(run.db()), &[&run.model], "after a compaction on a full disk");
    // There is room again: nothing needs to be reopened.
    run.disk.set_capacity(1 << 30);
    collection.upsert(document(1)).unwrap();
    run.model.collection("a").put(document(1));
    drop(collection);
    run.db().close().unwrap();
    run.db = None;
    assert!(run.disk.bytes(format!("{PATH}/RESERVE")).is_some(), "the reserve is put back");
    check_recovery(&run.disk, &[&run.model], "reopening");
}
