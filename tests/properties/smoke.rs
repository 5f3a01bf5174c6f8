//! The shortest way through everything: if this fails, look here first.

use std::collections::BTreeSet;

use plimsoll::{CollectionConfig, Database, Document, Effort, Metric, ReadOnlyDatabase, verify};

#[test]
fn the_whole_life_of_a_document() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::open(&path).unwrap();
    let notes = db.create_collection("notes", CollectionConfig::new(2, Metric::L2)).unwrap();
    for n in 0..100 {
        let document = Document::new(n).text(format!("note {n}")).metadata("n", n).vector([n as f32, 0.0]);
        notes.upsert(document).unwrap();
    }
    assert!(notes.delete(7).unwrap());
    assert!(!notes.delete(7).unwrap());
    assert_eq!(notes.count().unwrap(), 99);
    let nearest = |k| {
        let found = notes.search(&[7.2, 0.0]).k(k).effort(Effort::Exact).run().unwrap();
        found.hits.iter().map(|hit| (hit.key.to_string(), hit.distance)).collect::<Vec<_>>()
    };
    let before = nearest(3);
    assert_eq!(before.iter().map(|hit| hit.0.as_str()).collect::<Vec<_>>(), ["8", "6", "9"]);
    let stats = db.flush().unwrap();
    assert_eq!((stats.rows, stats.operations_applied), (99, 100));
    assert_eq!(nearest(3), before);
    notes.upsert(Document::new(8).text("moved").vector([1000.0, 0.0])).unwrap();
    db.flush().unwrap();
    db.compact().unwrap();
    assert_eq!(nearest(1)[0].0, "6");
    let reader = ReadOnlyDatabase::open(&path).unwrap();
    assert_eq!(reader.collection("notes").unwrap().count().unwrap(), 99);
    drop(notes);
    db.close().unwrap();
    drop(db);
    assert_eq!(verify(&path).unwrap().findings, []);
    let db = Database::open(&path).unwrap();
    let notes = db.collection("notes").unwrap();
    assert_eq!(notes.get(8).unwrap().unwrap().text.as_deref(), Some("moved"));
    assert_eq!(notes.get(7).unwrap(), None);
}

#[test]
fn files_stay_for_as_long_as_a_snapshot_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let files = || -> BTreeSet<_> {
        std::fs::read_dir(path.join("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let db = Database::builder(&path).background(false).open().unwrap();
    let notes = db.create_collection("notes", CollectionConfig::new(2, Metric::L2)).unwrap();
    for n in 0..3 {
        notes.upsert(Document::new(n % 2).vector([n as f32, 1.0])).unwrap();
        db.flush().unwrap();
    }
    let snapshot = notes.snapshot().unwrap();
    let held = files();
    db.compact().unwrap();
    assert!(files().len() > held.len() && held.is_subset(&files()), "{held:?} became {:?}", files());
    assert_eq!(snapshot.count().unwrap(), 2);
    drop(snapshot);
    db.compact().unwrap();
    assert!(held.is_disjoint(&files()), "{held:?} became {:?}", files());
}
