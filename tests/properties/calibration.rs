//! Calibration on the queries that a collection gets: they find what is asked for, the queries stay with the collection,
//! and whatever happens on the way, there is one calibration or the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{
    Collection, CollectionConfig, Database, DatabaseBuilder, Document, Effort, Error, Metric, WriteBatch,
};
use plimsoll_sim::{CrashPolicy, DirectoryModel, SimStorage};
use plimsoll_torture::random::Random;

const DIMENSION: usize = 16;
const ROWS: usize = 5000;

/// Rows around centres, more for each than could be copies of a row, and queries that are midway between rows of different
/// ones.
struct Points {
    random: Random,
    rows: Vec<Vec<f32>>,
}

impl Points {
    fn new(seed: u64) -> Self {
        let mut points = Self { random: Random::new(seed), rows: Vec::new() };
        let centres: Vec<Vec<f32>> =
            (0..60).map(|_| (0..DIMENSION).map(|_| points.random.normal()).collect()).collect();
        points.rows = (0..2 * ROWS)
            .map(|row| centres[row % 60].iter().map(|value| value + 0.2 * points.random.normal()).collect())
            .collect();
        points
    }

    fn queries(&mut self, count: usize) -> Vec<Vec<f32>> {
        let between = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect();
        let mut row = || self.random.below(ROWS);
        let pairs: Vec<_> = (0..count).map(|_| (row(), row())).collect();
        pairs.into_iter().map(|(a, b)| between(&self.rows[a], &self.rows[b])).collect()
    }

    /// Writes rows, flushes and compacts.
    fn store(&self, db: &Database, rows: std::ops::Range<usize>) {
        let mut batch = WriteBatch::new();
        for row in rows {
            batch.upsert(Document::new(row).vector(self.rows[row].clone()));
        }
        db.collection("c").unwrap().write(&batch).unwrap();
        db.flush().unwrap();
        db.compact().unwrap();
    }
}

fn created(builder: DatabaseBuilder, metric: Metric) -> (Database, Collection) {
    let db = builder.background(false).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(DIMENSION, metric)).unwrap();
    (db, collection)
}

/// The recall at ten that comes of one that is asked for, and the codes scanned for each query.
fn delivered(db: &Database, queries: &[Vec<f32>], recall: f32) -> (f64, f64) {
    let collection = db.collection("c").unwrap();
    let (mut found, mut codes) = (0, 0);
    let exact = collection.search(&[]).effort(Effort::Exact).run_each(queries);
    for (exact, fast) in
        exact.into_iter().zip(collection.search(&[]).effort(Effort::Recall(recall)).run_each(queries))
    {
        let (last, fast) = (exact.unwrap().hits[9].distance, fast.unwrap());
        found += fast.hits.iter().filter(|hit| hit.distance <= last).count();
        codes += fast.explain.codes_scanned;
    }
    let n = queries.len() as f64;
    (found as f64 / (10.0 * n), codes as f64 / n)
}

fn calibration_queries(db: &Database) -> usize {
    db.stats().collections[0].calibration_queries
}

#[test]
fn queries_unlike_rows_find_what_is_asked_for_until_the_calibration_is_reset() {
    for metric in [Metric::L2, Metric::Cosine] {
        let dir = tempfile::tempdir().unwrap();
        let builder = || Database::builder(dir.path().join("db"));
        let (db, collection) = created(builder(), metric);
        let mut points = Points::new(31);
        points.store(&db, 0..ROWS);
        let (given, others) = (points.queries(1500), points.queries(400));
        let before = delivered(&db, &others, 0.9);
        // Directions between clusters are still like those of rows.
        let is_unlike = metric == Metric::L2;
        assert!(!is_unlike || before.0 < 0.85, "{metric}: rows as queries would have done: {before:?}");
        let calibration = collection.calibrate(&given).unwrap();
        assert_eq!((calibration.queries, calibration_queries(&db)), (1000, 1000));
        let at = &calibration.recalls[0];
        // A hundred queries, whose recalls are spread.
        assert!(at.recall == 0.9 && at.after.recall > 0.84 && at.after.scanned < 1.0, "{at:?}");
        assert!(!is_unlike || at.before.recall + 0.05 < at.after.recall, "{at:?}");
        let is_enough = |db: &Database, what: &str| {
            for recall in [0.9, 0.95] {
                let found = delivered(db, &others, recall);
                println!("{metric}, {what}: {found:?} of {recall}");
                assert!(found.0 >= f64::from(recall) - 0.03, "{metric}, {what}: {found:?} of {recall}");
            }
            assert_eq!(calibration_queries(db), 1000, "{what}");
            assert!(!db.verify().unwrap().is_damaged(), "{what}");
        };
        is_enough(&db, "calibrated");
        db.close().unwrap();
        let (db, collection) = created(builder(), metric);
        is_enough(&db, "reopened");
        let generation = db.stats().collections[0].generation;
        points.store(&db, ROWS..ROWS + 100);
        assert_eq!(db.stats().collections[0].generation, generation);
        is_enough(&db, "compacted");
        points.store(&db, ROWS + 100..2 * ROWS);
        assert!(db.stats().collections[0].generation > generation, "it was not trained again");
        is_enough(&db, "trained again");
        db.close().unwrap();
        let db_path = dir.path().join("db");
        assert_eq!(
            plimsoll::ReadOnlyDatabase::open(&db_path).unwrap().stats().collections[0].calibration_queries,
            1000
        );
        drop(collection);
        let (db, collection) = created(builder(), metric);
        let calibrated = delivered(&db, &others, 0.9);
        collection.reset_calibration().unwrap();
        assert_eq!(calibration_queries(&db), 0);
        let reset = delivered(&db, &others, 0.9);
        assert!(
            !is_unlike || reset.0 < calibrated.0 && reset.1 < calibrated.1,
            "{metric}: {reset:?}, {calibrated:?}"
        );
        assert!(!db.verify().unwrap().is_damaged());
    }
}

#[test]
fn what_can_not_be_calibrated_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (db, collection) = created(Database::builder(dir.path().join("db")), Metric::Cosine);
    let mut points = Points::new(32);
    let queries = points.queries(50);
    collection.reset_calibration().unwrap();
    assert!(matches!(collection.calibrate(&queries), Err(Error::NotIndexed { rows: 0, .. })));
    points.store(&db, 0..4095);
    assert!(matches!(collection.calibrate(&queries), Err(Error::NotIndexed { rows: 4095, .. })));
    points.store(&db, 4095..ROWS);
    assert!(matches!(collection.calibrate::<Vec<f32>>(&[]), Err(Error::InvalidArgument(_))));
    let with = |number: usize, query: Vec<f32>| {
        let mut queries = queries.clone();
        queries[number] = query;
        collection.calibrate(&queries).unwrap_err()
    };
    let mismatch = with(3, vec![1.0; DIMENSION + 1]);
    assert!(
        matches!(mismatch, Error::DimensionMismatch { expected: DIMENSION, got } if got == DIMENSION + 1),
        "{mismatch}"
    );
    for (number, wrong) in [(0, f32::NAN), (7, f32::INFINITY), (49, 0.0)] {
        let error = with(number, vec![wrong; DIMENSION]);
        assert!(matches!(error, Error::InvalidQuery { query, .. } if query == number), "{error}");
    }
    assert_eq!(calibration_queries(&db), 0, "a refused calibration changed something");
    collection.calibrate(&queries[..1]).unwrap();
    assert_eq!(calibration_queries(&db), 1);
    db.drop_collection("c").unwrap();
    assert!(matches!(collection.calibrate(&queries), Err(Error::CollectionNotFound(_))));
    db.close().unwrap();
    assert!(matches!(collection.calibrate(&queries), Err(Error::Closed)));
    assert!(matches!(collection.reset_calibration(), Err(Error::Closed)));
}

/// The newest file of a kind.
fn newest(dir: &Path, kind: &str) -> PathBuf {
    let names = std::fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == kind)).max().unwrap()
}

/// What was stored in a database that is calibrated on 300 queries, and closed.
struct Calibrated {
    points: Points,
    given: Vec<Vec<f32>>,
    others: Vec<Vec<f32>>,
    /// What other queries got, asked for .95.
    sound: (f64, f64),
}

impl Calibrated {
    fn closed(path: &Path, seed: u64) -> Self {
        let (db, collection) = created(Database::builder(path), Metric::L2);
        let mut points = Points::new(seed);
        points.store(&db, 0..ROWS);
        let (given, others) = (points.queries(300), points.queries(30));
        collection.calibrate(&given).unwrap();
        let sound = delivered(&db, &others, 0.95);
        db.close().unwrap();
        Self { points, given, others, sound }
    }
}

/// Searches do not need the queries (rule R17); a training does, and says so; calibrating again puts them right.
#[test]
fn damaged_queries_cost_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let Calibrated { points, given, others, sound } = Calibrated::closed(&path, 33);
    let file = newest(&path, "index");
    let dump = plimsoll::dump(&file).unwrap();
    let section = dump.fields.iter().find(|(name, _)| name.contains("QUERIES")).unwrap();
    let numbers: Vec<usize> = section.1.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [len, offset] = numbers[..] else { panic!("{section:?}") };
    assert_eq!(len, 300 * DIMENSION * 4);
    assert!(dump.fields.contains(&("calibrated on".to_owned(), "300 queries".to_owned())));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[offset + len / 2] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let damaged = tempfile::tempdir().unwrap();
    let copy = damaged.path().join("db");
    copy_all(&path, &copy);

    let (db, collection) = created(Database::builder(&path), Metric::L2);
    assert_eq!(delivered(&db, &others, 0.95), sound);
    assert!(db.verify().unwrap().is_damaged());
    let mut batch = WriteBatch::new();
    (ROWS..2 * ROWS).for_each(|row| _ = batch.upsert(Document::new(row).vector(points.rows[row].clone())));
    collection.write(&batch).unwrap();
    db.flush().unwrap();
    let error = db.compact().unwrap_err();
    assert!(error.is_corruption(), "{error}");
    collection.calibrate(&given).unwrap();
    assert!(!db.verify().unwrap().is_damaged());
    db.compact().unwrap();
    assert_eq!(calibration_queries(&db), 300);
    drop((db, collection));

    // A repair does without the file, and says what is lost with it.
    let report = plimsoll::repair(&copy).unwrap();
    let rebuilt = report.collections[0].rebuilt.join("; ");
    assert!(rebuilt.contains("the queries that they were calibrated on are lost"), "{rebuilt}");
    let (db, _) = created(Database::builder(&copy), Metric::L2);
    assert_eq!(calibration_queries(&db), 0);
    assert!(!db.verify().unwrap().is_damaged());
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A repair that puts lists right keeps the index, and with it the queries.
#[test]
fn a_repair_of_something_else_keeps_the_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let Calibrated { others, sound, .. } = Calibrated::closed(&path, 34);
    let lists = newest(&path, "vectors");
    let mut bytes = std::fs::read(&lists).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&lists, bytes).unwrap();
    assert!(!plimsoll::repair(&path).unwrap().findings.is_empty());
    let (db, _) = created(Database::builder(&path), Metric::L2);
    assert_eq!(calibration_queries(&db), 300);
    // Rows may be in other lists than before.
    let found = delivered(&db, &others, 0.95);
    assert!((found.1 / sound.1 - 1.0).abs() < 0.02, "{found:?}, {sound:?}");
}

/// A power cut before each operation of a calibration: afterwards there is the calibration of before or the new one.
#[test]
fn a_crash_leaves_one_calibration_or_the_other() {
    let disk = SimStorage::new();
    disk.put_dir("/srv").unwrap();
    let builder =
        |disk: &SimStorage| Database::builder("/srv/db").storage(Arc::new(disk.clone()) as Arc<dyn Storage>);
    let (db, collection) = created(builder(&disk), Metric::L2);
    let mut points = Points::new(35);
    points.store(&db, 0..ROWS);
    let (given, others) = (points.queries(200), points.queries(10));
    let mut known = vec![(0, delivered(&db, &others, 0.95))];
    let mut steps = vec![disk.operations()];
    for queries in [&given[..200], &given[..80]] {
        collection.calibrate(queries).unwrap();
        known.push((queries.len(), delivered(&db, &others, 0.95)));
        steps.push(disk.operations());
    }
    assert!(known[0].1 != known[1].1, "a calibration that changes nothing shows nothing");
    let (mut cuts, mut seen) = (0, std::collections::HashSet::new());
    for moment in disk.moments().filter(|moment| moment.number() > steps[0]) {
        let under_way = steps.iter().rposition(|step| *step < moment.number()).unwrap();
        let allowed = &known[under_way..known.len().min(under_way + 2)];
        for model in [DirectoryModel::Strict, DirectoryModel::Journalled] {
            for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(moment.number())] {
                let after = moment.power_cut(model, policy);
                let (db, collection) = created(builder(&after), Metric::L2);
                let found = (calibration_queries(&db), delivered(&db, &others, 0.95));
                assert!(
                    allowed.contains(&found),
                    "{policy:?} before operation {}: {found:?}",
                    moment.number()
                );
                seen.insert(found.0);
                cuts += 1;
                assert!(!db.verify().unwrap().is_damaged());
                if cuts % 10 == 0 {
                    collection.calibrate(&given[..50]).unwrap();
                    assert_eq!(calibration_queries(&db), 50, "it does not go on");
                }
            }
        }
    }
    assert!(cuts > 60 && seen.len() == 3, "{cuts} cuts, {seen:?}");
    assert_eq!(disk.violations(), [] as [String; 0]);
}
