//! Something happens in the middle of a compaction, at each of its files: a flush with replacements and
//! deletes, a drop, a close. Nothing is lost, nothing comes back, and nothing is published after a close.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use plimsoll::{CollectionConfig, Database, Document, Effort, Generation, Metric, WriteBatch};
use plimsoll_sim::{CrashPolicy, SimStorage};

use plimsoll_torture::hook::HookStorage;
use plimsoll_torture::model::Model;
use plimsoll_torture::recovery::{PATH, assert_allowed, check_recovery, contents, empty_disk};

struct Interleaved {
    disk: SimStorage,
    storage: HookStorage,
    db: Database,
    model: Model,
}

fn document(key: u64, version: u64) -> Document {
    Document::new(key).text(format!("v{version}")).vector([(key % 97) as f32, (key % 89 + version) as f32])
}

/// Writes and flushes; the model follows.
fn write(db: &Database, model: &mut Model, upserts: &[u64], deletes: &[u64], version: u64) {
    let mut batch = WriteBatch::new();
    for key in upserts {
        batch.upsert(document(*key, version));
        model.collection("a").put(document(*key, version));
    }
    for key in deletes {
        batch.delete(*key);
        model.collection("a").documents.remove(&(*key).into());
    }
    db.collection("a").unwrap().write(&batch).unwrap();
    db.flush().unwrap();
}

/// Several deltas with kills; `rows` of 4,096 or more make the compaction train an index.
fn prepared(rows: u64) -> Interleaved {
    let disk = empty_disk();
    let storage = HookStorage::new(Arc::new(disk.clone()));
    let db =
        Database::builder(PATH).storage(Arc::new(storage.clone())).background(false).seed(1).open().unwrap();
    let config = CollectionConfig::new(2, Metric::L2);
    db.create_collection("a", config.clone()).unwrap();
    let mut model = Model::default();
    model.create("a", &config);
    write(&db, &mut model, &(0..rows).collect::<Vec<_>>(), &[], 1);
    write(&db, &mut model, &[3, 4, rows], &[5], 2);
    write(&db, &mut model, &[4, rows + 1], &[6, rows], 3);
    Interleaved { disk, storage, db, model }
}

/// Does `act` before each file that a compaction of `rows` rows writes.
fn at_each_file(rows: u64, act: impl Fn(&Database, &mut Model) + Clone + Send + 'static) -> Vec<Interleaved> {
    let mut all = Vec::new();
    for n in 0.. {
        let on = prepared(rows);
        let model = Arc::new(Mutex::new(on.model.clone()));
        let (db, changed, act) = (on.db.clone(), Arc::clone(&model), act.clone());
        on.storage.before_file(n, move || act(&db, &mut changed.lock().unwrap()));
        on.db.compact().unwrap();
        if on.storage.cancel() {
            break;
        }
        let model = model.lock().unwrap().clone();
        let what = format!("before file {n} of a compaction of {rows} rows");
        assert_allowed(&contents(&on.db), &[&model], &what);
        let report = on.db.verify().unwrap();
        assert!(!report.is_damaged(), "{what}: {:?}", report.findings);
        check_recovery(&on.disk.after_crash(CrashPolicy::LoseAll), &[&model], &what);
        all.push(Interleaved { model, ..on });
    }
    assert!(all.len() >= 2, "a compaction writes files");
    all
}

#[test]
fn a_flush_in_a_compaction() {
    at_each_file(20, |db, model| write(db, model, &[3, 7, 8, 100], &[9, 10], 4));
}

#[test]
fn a_flush_in_the_training_of_an_index() {
    let mut two_generations = 0;
    for on in at_each_file(4200, |db, model| write(db, model, &[3, 7, 8, 9000], &[9, 10], 4)) {
        let stats = on.db.stats().collections[0].clone();
        assert!(stats.generation > Generation(0));
        let collection = on.db.collection("a").unwrap();
        for query in [[3.0, 7.0], [50.0, 50.0], [(9000 % 97) as f32, (9000 % 89 + 4) as f32]] {
            let exact = collection.search(&query).effort(Effort::Exact).run().unwrap();
            let routed = collection.search(&query).effort(Effort::Lists(usize::MAX)).run().unwrap();
            let distances =
                |found: &plimsoll::SearchResults| found.hits.iter().map(|h| h.distance).collect::<Vec<_>>();
            assert_eq!(distances(&exact), distances(&routed));
        }
        two_generations += usize::from(stats.vector_segments > 1);
        on.db.compact().unwrap();
        assert_allowed(&contents(&on.db), &[&on.model], "compacted again");
        assert_eq!(
            (on.db.stats().collections[0].vector_segments, on.db.stats().collections[0].killed),
            (1, 0)
        );
    }
    eprintln!("{two_generations} with rows of an older generation");
}

#[test]
fn a_drop_in_a_compaction() {
    let drop_it = |db: &Database, model: &mut Model| {
        db.drop_collection("a").unwrap();
        model.collections.remove("a");
    };
    for on in at_each_file(20, drop_it) {
        let data = on.disk.paths().into_iter().filter(|path| path.starts_with(format!("{PATH}/data")));
        assert_eq!(data.count(), 0, "a dropped collection leaves no files");
    }
    at_each_file(20, move |db, model| {
        drop_it(db, model);
        let config = CollectionConfig::new(2, Metric::Cosine);
        db.create_collection("a", config.clone()).unwrap();
        model.create("a", &config);
        write(db, model, &[1, 2, 300], &[], 5);
    });
}

#[test]
fn nothing_is_published_after_a_close() {
    for n in 0..3 {
        let on = prepared(20);
        let closer: Arc<Mutex<Option<thread::JoinHandle<()>>>> = Arc::default();
        let closed_at = Arc::new(AtomicU64::new(0));
        let (db, disk) = (on.db.clone(), on.disk.clone());
        let (started, at) = (Arc::clone(&closer), Arc::clone(&closed_at));
        on.storage.before_file(n, move || {
            let close = move || {
                db.close().unwrap();
                at.store(disk.operations(), Ordering::SeqCst);
            };
            *started.lock().unwrap() = Some(thread::spawn(close));
            thread::sleep(Duration::from_millis(100));
        });
        drop(on.db.compact());
        let Some(closer) = closer.lock().unwrap().take() else { continue };
        closer.join().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(
            on.disk.operations(),
            closed_at.load(Ordering::SeqCst),
            "the disk was changed after the close"
        );
        drop(on.db);
        check_recovery(&on.disk, &[&on.model], "reopened");
    }
}
