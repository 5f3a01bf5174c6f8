//! Recovery may have to flush before it is done. It does so whatever a crashed flush has left behind, and a
//! drop whose outcome is unknown loses nothing that is acknowledged after it.

use std::path::Path;
use std::sync::Arc;

use plimsoll::{CollectionConfig, Database, DatabaseBuilder, Document, Metric};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage};

const DIR: &str = "/db";

fn builder(storage: &SimStorage) -> DatabaseBuilder {
    Database::builder(DIR).background(false).seed(1).storage(Arc::new(storage.clone()))
}

fn config() -> CollectionConfig {
    CollectionConfig::new(2, Metric::L2)
}

#[test]
fn a_flush_during_recovery_is_not_stopped_by_the_files_of_a_crashed_one() {
    let storage = SimStorage::new();
    storage.put_dir(DIR).unwrap();
    let db = builder(&storage).open().unwrap();
    let rows = db.create_collection("c", config()).unwrap();
    for key in 0..10 {
        rows.upsert(Document::new(key).vector([key as f32, 1.0])).unwrap();
    }
    // What a flush that was killed leaves: files of the numbers that come next, under either kind of name.
    let crashed = storage.after_kill();
    for name in
        ["000000000001.posting.tmp", "000000000002.vectors", "000000000004.posting", "000000000005.kills.tmp"]
    {
        crashed.put(Path::new(DIR).join("data").join(name), b"half a file").unwrap();
    }
    // So small a memtable that recovery flushes at every group.
    let db = builder(&crashed).memtable_bytes(1).open().unwrap();
    assert_eq!(db.collection("c").unwrap().count().unwrap(), 10);
    assert!(db.stats().flushes.successful > 0, "this recovery was meant to flush");
    assert_eq!(db.stats().recovery.orphans_removed, 4);
    db.close().unwrap();
    let db = builder(&crashed).open().unwrap();
    assert_eq!(db.collection("c").unwrap().count().unwrap(), 10);
    assert!(db.verify().unwrap().findings.is_empty());
}

#[test]
fn what_is_acknowledged_after_a_drop_of_unknown_outcome_is_kept() {
    let storage = SimStorage::new();
    storage.put_dir(DIR).unwrap();
    let db = builder(&storage).open().unwrap();
    let rows = db.create_collection("c", config()).unwrap();
    rows.upsert(Document::new(1).vector([1.0, 1.0])).unwrap();
    // The manifest without the collection reaches the disk, and the caller is told that it did not.
    storage.fail_next(OperationKind::SyncDir, Failure::errno(5).although_done(), 1);
    assert!(db.drop_collection("c").is_err());
    rows.upsert(Document::new(2).vector([2.0, 1.0])).unwrap();
    for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(7)] {
        let db = builder(&storage.after_crash(policy)).open().unwrap();
        assert_eq!(db.collection("c").unwrap().count().unwrap(), 2, "{policy:?}");
    }
    let db = builder(&storage.after_kill()).open().unwrap();
    assert_eq!(db.collection("c").unwrap().count().unwrap(), 2);
}
