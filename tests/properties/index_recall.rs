//! The index: lists appear as a collection grows, searches look at a part of the rows and find nearly all of
//! the nearest, and exact searches find all, whatever happened to the files.

use std::collections::HashSet;
use std::path::PathBuf;

use plimsoll::{Collection, CollectionConfig, Database, Document, Effort, Generation, Key, Metric};

use plimsoll_torture::model::distance;
use plimsoll_torture::random::Random;

const DIMENSION: usize = 24;

/// Points around centres, as embeddings are.
struct Points {
    random: Random,
    centres: Vec<Vec<f32>>,
    /// Lengths are spread over so many decades more.
    decades: f32,
}

impl Points {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let centres = (0..60).map(|_| (0..DIMENSION).map(|_| random.normal()).collect()).collect();
        Self { random, centres, decades: 0.0 }
    }

    fn next(&mut self) -> Vec<f32> {
        let centre = self.random.below(self.centres.len());
        let scale = 0.5 + self.random.below(100) as f32 / 100.0;
        let scale = if self.decades > 0.0 {
            scale * 10.0_f32.powf(self.decades * self.random.below(1000) as f32 / 1000.0)
        } else {
            scale
        };
        (0..DIMENSION).map(|at| (self.centres[centre][at] + 0.35 * self.random.normal()) * scale).collect()
    }
}

/// A collection and the vectors that it should hold, by key.
struct Indexed {
    dir: tempfile::TempDir,
    db: Option<Database>,
    points: Points,
    vectors: Vec<Option<Vec<f32>>>,
    metric: Metric,
    shard_rows: u32,
}

impl Indexed {
    fn new(metric: Metric, shard_rows: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut new = Self { dir, db: None, points: Points::new(7), vectors: Vec::new(), metric, shard_rows };
        new.open();
        new.db().create_collection("c", CollectionConfig::new(DIMENSION, metric)).unwrap();
        new
    }

    fn open(&mut self) {
        self.db = None;
        let builder = Database::builder(self.dir.path().join("db")).background(false);
        self.db = Some(builder.shard_rows(self.shard_rows).open().unwrap());
    }

    fn db(&self) -> &Database {
        self.db.as_ref().unwrap()
    }

    fn collection(&self) -> Collection {
        self.db().collection("c").unwrap()
    }

    fn grow(&mut self, rows: usize) {
        let mut batch = plimsoll::WriteBatch::new();
        for _ in 0..rows {
            let vector = self.points.next();
            batch.upsert(Document::new(self.vectors.len()).vector(vector.clone()));
            self.vectors.push(Some(vector));
        }
        self.collection().write(&batch).unwrap();
    }

    /// Grows by as many rows, and trains the index.
    fn train(&mut self, rows: usize) {
        self.grow(rows);
        self.db().flush().unwrap();
        self.db().compact().unwrap();
    }

    /// The sealed files of a kind.
    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("db/data")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == kind)).collect()
    }

    /// Deletes every seventh document and moves every fifth.
    fn churn(&mut self) {
        let mut batch = plimsoll::WriteBatch::new();
        for key in 0..self.vectors.len() {
            if key % 7 == 0 {
                batch.delete(key);
                self.vectors[key] = None;
            } else if key % 5 == 0 {
                let vector = self.points.next();
                batch.upsert(Document::new(key).vector(vector.clone()));
                self.vectors[key] = Some(vector);
            }
        }
        self.collection().write(&batch).unwrap();
    }

    fn nearest(&self, query: &[f32], k: usize) -> Vec<(usize, f64)> {
        let live = self.vectors.iter().enumerate().filter_map(|(key, vector)| Some((key, vector.as_ref()?)));
        let mut all: Vec<_> = live.map(|(key, vector)| (key, distance(self.metric, query, vector))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(k);
        all
    }

    fn live(&self) -> usize {
        self.vectors.iter().flatten().count()
    }

    /// Recall at 10 and the share of rows scanned of default searches; exact ones are compared with the oracle.
    fn check(&mut self, what: &str) {
        const QUERIES: usize = 60;
        let collection = self.collection();
        assert_eq!(collection.count().unwrap() as usize, self.live(), "{what}");
        let (mut found, mut scanned, mut total) = (0, 0, 0);
        for _ in 0..QUERIES {
            let query = self.points.next();
            let truth = self.nearest(&query, 10);
            let exact = collection.search(&query).effort(Effort::Exact).run().unwrap();
            assert!(exact.explain.exact);
            assert_eq!(exact.hits.len(), 10, "{what}");
            for (hit, (key, distance)) in exact.hits.iter().zip(&truth) {
                assert_eq!(hit.key, Key::from(*key), "{what}");
                assert!(
                    (f64::from(hit.distance) - distance).abs() <= 1e-6 * (1.0 + distance.abs()),
                    "{what}"
                );
            }
            let truth: HashSet<Key> = truth.into_iter().map(|(key, _)| Key::from(key)).collect();
            let routed = collection.search(&query).effort(Effort::Recall(0.95)).run().unwrap();
            assert_eq!(routed.hits.len(), 10, "{what}");
            assert!(routed.hits.is_sorted_by(|a, b| a.distance <= b.distance));
            found += routed.hits.iter().filter(|hit| truth.contains(&hit.key)).count();
            scanned += routed.explain.rows_scanned + routed.explain.codes_scanned;
            total += routed.explain.rows_total;
            let all = collection.search(&query).effort(Effort::Lists(usize::MAX)).run().unwrap();
            assert!(all.hits.iter().all(|hit| truth.contains(&hit.key)), "{what}: all lists are all rows");
        }
        let recall = found as f64 / (QUERIES * 10) as f64;
        let share = scanned as f64 / total.max(1) as f64;
        eprintln!("{what}: recall {recall:.3}, {:.1} % of the rows", share * 100.0);
        assert!(recall >= 0.9, "{what}: recall {recall}");
        if self.stats().generation > Generation(0) {
            assert!(share < 0.8, "{what}: {share} of the rows were scanned");
        }
        assert!(!self.db().verify().unwrap().is_damaged(), "{what}");
    }

    fn stats(&self) -> plimsoll::CollectionStats {
        self.db().stats().collections[0].clone()
    }
}

#[test]
fn through_a_whole_life() {
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let mut on = Indexed::new(metric, 2048);
        on.grow(4095);
        on.db().flush().unwrap();
        on.db().compact().unwrap();
        assert_eq!(on.stats().generation, Generation(0), "fewer than 4,096 rows have no lists");
        on.grow(1500);
        on.db().flush().unwrap();
        on.db().compact().unwrap();
        let stats = on.stats();
        assert_eq!(stats.generation, Generation(1));
        assert!(stats.lists >= 20 && stats.shards >= 2, "{stats:?}");
        on.check(&format!("{metric}: trained"));
        on.grow(500);
        on.check(&format!("{metric}: unflushed rows on top"));
        on.db().flush().unwrap();
        on.check(&format!("{metric}: a delta on top"));
        on.churn();
        on.check(&format!("{metric}: unflushed deletes and upserts"));
        on.db().flush().unwrap();
        on.check(&format!("{metric}: flushed deletes and upserts"));
        on.open();
        on.check(&format!("{metric}: reopened"));
        on.db().compact().unwrap();
        assert_eq!(on.stats().killed, 0, "a compaction drops what was killed");
        on.check(&format!("{metric}: compacted"));
        on.open();
        on.check(&format!("{metric}: reopened again"));
    }
}

/// What is delivered of the recall that is asked, on queries that are no rows.
fn assert_delivers(collection: &Collection, queries: &[Vec<f32>], tolerance: f64, what: &str) {
    for k in [1, 10] {
        for asked in [0.9, 0.95] {
            let mut found = 0;
            for query in queries {
                let search = collection.search(query).k(k).exact_distances(true);
                let exact = search.clone().effort(Effort::Exact).run().unwrap();
                let worst = exact.hits.last().unwrap().distance;
                let routed = search.effort(Effort::Recall(asked)).run().unwrap();
                assert!(!routed.explain.exact, "{what}");
                found += routed.hits.iter().filter(|hit| hit.distance <= worst).count();
            }
            let recall = found as f64 / (queries.len() * k) as f64;
            eprintln!("{what}: {recall:.3} of {asked}, k {k}");
            assert!(recall >= f64::from(asked) - tolerance, "{what}: {recall:.3} of {asked}, k {k}");
        }
    }
}

#[test]
fn recall_that_is_asked_is_delivered_in_every_state() {
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let of = |part: usize| {
            let mut on = Indexed::new(metric, 2048);
            on.grow(part);
            on.db().flush().unwrap();
            on.db().compact().unwrap();
            assert_eq!(on.stats().generation, Generation(1));
            on
        };
        let deliver = |on: &mut Indexed, what: &str| {
            on.open();
            let queries: Vec<_> = (0..300).map(|_| on.points.next()).collect();
            // What chance does in so many queries.
            assert_delivers(&on.collection(), &queries, 0.04, &format!("{metric}: {what}"));
        };
        let mut on = of(6000);
        deliver(&mut on, "trained");
        let mut batch = plimsoll::WriteBatch::new();
        for key in (0..6000_usize).filter(|key| key % 10 < 3) {
            batch.delete(key);
        }
        on.collection().write(&batch).unwrap();
        on.db().flush().unwrap();
        deliver(&mut on, "30 % deleted");
        on.db().compact().unwrap();
        deliver(&mut on, "30 % deleted, compacted");
        let mut on = of(4200);
        for _ in 0..10 {
            on.grow(180);
            on.db().flush().unwrap();
        }
        deliver(&mut on, "30 % inserted, in ten deltas");
        on.db().compact().unwrap();
        assert_eq!(on.stats().generation, Generation(2));
        deliver(&mut on, "30 % inserted, compacted");
    }
}

/// Under the dot product long rows are what is found, and lists of few of them were told little by their training.
#[test]
fn long_rows_that_come_after_the_training_are_found_under_the_dot_product() {
    let mut on = Indexed::new(Metric::Dot, 65_536);
    on.points.decades = 1.0;
    on.train(4200);
    on.points.decades = 2.0;
    let queries: Vec<_> = (0..300).map(|_| on.points.next()).collect();
    let deliver = |on: &mut Indexed, what: &str| {
        on.open();
        assert_eq!(on.stats().generation, Generation(1), "{what}");
        assert_delivers(&on.collection(), &queries, 0.04, what);
    };
    deliver(&mut on, "trained");
    for _ in 0..5 {
        on.grow(2000);
        on.db().flush().unwrap();
    }
    deliver(&mut on, "3.4 times as many");
    let counted = |on: &Indexed| {
        let file = on.files("index").into_iter().max().unwrap();
        let fields = plimsoll::dump(&file).unwrap().fields;
        fields.into_iter().find(|(name, _)| name == "rows at training").unwrap().1
    };
    assert_eq!(counted(&on), "4200");
    let others: Vec<_> = (0..1000).map(|_| on.points.next()).collect();
    on.collection().calibrate(&others).unwrap();
    // It has grown since no more.
    assert_eq!(counted(&on), "14200");
    deliver(&mut on, "calibrated as they are");
}

/// How far rows are from their centroids is derived, too.
#[test]
fn damaged_radii_cost_time_and_no_answer() {
    let mut on = Indexed::new(Metric::Dot, 65_536);
    on.train(4200);
    on.grow(300);
    on.db().flush().unwrap();
    let file = on.files("vectors").into_iter().max().unwrap();
    let fields = plimsoll::dump(&file).unwrap().fields;
    let section = &fields.iter().find(|(name, _)| name.contains("RADII")).unwrap().1;
    let numbers: Vec<usize> = section.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [len, offset] = numbers[..] else { panic!("{section}") };
    on.db = None;
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[offset + len / 2] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    on.open();
    for _ in 0..20 {
        let query = on.points.next();
        let found = on.collection().search(&query).run().unwrap();
        assert!(found.explain.exact && found.explain.lists_damaged.is_some());
        let truth = on.nearest(&query, 10).into_iter().map(|(key, _)| Key::from(key));
        assert!(found.hits.into_iter().map(|hit| hit.key).eq(truth));
    }
    assert!(on.db().verify().unwrap().is_damaged());
}

/// A row that has near copies is an easy query, unlike one from outside, however near the copies are.
#[test]
fn queries_from_outside_get_the_recall_they_ask_for_where_rows_have_copies() {
    for metric in [Metric::Cosine, Metric::L2] {
        for noise in [1e-3, 0.15] {
            let on = Indexed::new(metric, 100_000);
            let mut random = Random::new(11);
            // Far from each other: which list has the nearest is not plain.
            let mut next = || (0..DIMENSION).map(|_| random.normal()).collect::<Vec<f32>>();
            let mut batch = plimsoll::WriteBatch::new();
            for row in 0..300 {
                let vector = next();
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                for copy in 0..21 {
                    let noise = noise * length / (DIMENSION as f32).sqrt();
                    let copied = vector.iter().zip(next()).map(|(x, y)| x + noise * y);
                    batch.upsert(Document::new(row * 21 + copy).vector(copied.collect::<Vec<f32>>()));
                }
            }
            on.collection().write(&batch).unwrap();
            on.db().flush().unwrap();
            on.db().compact().unwrap();
            let queries: Vec<_> = (0..300).map(|_| next()).collect();
            // Of so few originals, each list is of few, and the calibration is a little too hopeful. Copies that are taken
            // for what a query finds cost a third and more.
            assert_delivers(&on.collection(), &queries, 0.1, &format!("{metric}, copies at {noise}"));
        }
    }
}

#[test]
fn unflushed_rows_are_found_through_their_codes_as_of_the_snapshot() {
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let mut on = Indexed::new(metric, 2048);
        on.train(5000);
        let snapshot = on.db().snapshot();
        let before = snapshot.collection("c").unwrap();
        let query = on.points.next();
        let expected = before.search(&query).run().unwrap().hits;
        for rows in [1, 40, 3, 700, 31, 1, 1, 900, 64].into_iter().chain([5; 40]) {
            on.grow(rows);
        }
        on.check(&format!("{metric}: many batches"));
        let after = on.collection().search(&query).run().unwrap().explain;
        assert_eq!(after.memtable_rows, on.stats().memtable_rows, "every row was looked at");
        let rows = after.memtable_rows;
        assert!(after.codes_scanned > rows - 32, "{metric}: {after:?}, of {rows} rows");
        assert_eq!(
            before.search(&query).run().unwrap().hits,
            expected,
            "{metric}: a snapshot does not change"
        );
        on.churn();
        on.check(&format!("{metric}: replaced and deleted"));
        // What was just written is found at once.
        for _ in 0..50 {
            on.grow(1);
            let (key, vector) = (on.vectors.len() - 1, on.vectors.last().cloned().flatten().unwrap());
            let hits = on.collection().search(&vector).k(1000).run().unwrap().hits;
            assert!(hits.iter().any(|hit| hit.key == Key::from(key)), "{metric}: {key}");
        }
    }
}

#[test]
fn searches_of_many_threads_make_the_codes_of_one_writer() {
    let mut on = Indexed::new(Metric::L2, 2048);
    on.train(5000);
    let queries: Vec<Vec<f32>> = (0..20).map(|_| on.points.next()).collect();
    let collection = on.collection();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for query in &queries {
                        assert_eq!(collection.search(query).run().unwrap().hits.len(), 10);
                    }
                }
            });
        }
        for _ in 0..100 {
            on.grow(30);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    on.check("after searches beside writes");
}

#[test]
fn growth_trains_a_new_generation() {
    let mut on = Indexed::new(Metric::Cosine, 65_536);
    on.grow(4200);
    on.db().flush().unwrap();
    on.db().compact().unwrap();
    let first = on.stats();
    on.grow(2500);
    on.db().flush().unwrap();
    on.check("two sections");
    on.db().compact().unwrap();
    let second = on.stats();
    assert!(second.generation > first.generation && second.lists > first.lists, "{second:?}");
    assert_eq!(second.flushed_rows, 6700);
    on.check("a second generation");
    on.open();
    on.check("reopened");
    // A search that was begun before the training goes on with the old index.
    let snapshot = on.collection().snapshot().unwrap();
    let query = on.points.next();
    let before = snapshot.search(&query).run().unwrap();
    on.grow(3000);
    on.db().flush().unwrap();
    on.db().compact().unwrap();
    assert!(on.stats().generation > second.generation);
    assert_eq!(snapshot.search(&query).run().unwrap().hits, before.hits);
    on.check("a third generation");
}

#[test]
fn the_background_trains_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::builder(dir.path().join("db")).memtable_bytes(200_000).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::L2)).unwrap();
    let mut points = Points::new(3);
    for batch in 0..60 {
        let mut writes = plimsoll::WriteBatch::new();
        for n in 0..100 {
            writes.upsert(Document::new(batch * 100 + n).vector(points.next()));
        }
        collection.write(&writes).unwrap();
    }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while db.stats().collections[0].generation == Generation(0) {
        assert!(std::time::Instant::now() < end, "no index appears: {:?}", db.stats());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(collection.count().unwrap(), 6000);
    db.close().unwrap();
}

/// Codes are derived: where they are damaged, the raw vectors answer, and the search says so (rule R17).
#[test]
fn damaged_codes_cost_time_and_no_answer() {
    let mut indexed = Indexed::new(Metric::L2, 100_000);
    indexed.train(5000);
    let queries: Vec<Vec<f32>> = (0..20).map(|_| indexed.points.next()).collect();
    let sound = |indexed: &Indexed, query: &Vec<f32>| {
        let found = indexed.collection().search(query).effort(Effort::Exact).run().unwrap();
        found.hits.into_iter().map(|hit| hit.key).collect::<Vec<_>>()
    };
    let truth: Vec<_> = queries.iter().map(|query| sound(&indexed, query)).collect();
    let file = indexed.files("vectors").into_iter().max().unwrap();
    let len = std::fs::metadata(&file).unwrap().len();
    let whole = std::fs::read(&file).unwrap();
    let mut noticed = [0, 0];
    for at in (4096..len - 4096).step_by(len as usize / 9) {
        indexed.db = None;
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 0x10;
        std::fs::write(&file, &bytes).unwrap();
        indexed.open();
        for (query, truth) in queries.iter().zip(&truth) {
            for effort in [Effort::Recall(0.9), Effort::Exact] {
                let found = indexed.collection().search(query).effort(effort).run().unwrap();
                let keys: Vec<Key> = found.hits.iter().map(|hit| hit.key.clone()).collect();
                let is_damaged = found.explain.lists_damaged.is_some();
                noticed[usize::from(effort == Effort::Exact)] += u32::from(is_damaged);
                if is_damaged || effort == Effort::Exact {
                    assert!(found.explain.exact);
                    assert_eq!(&keys, truth, "byte {at}");
                }
            }
        }
    }
    assert!(noticed.iter().all(|times| *times > 0), "no damage was met: {noticed:?}");
    std::fs::write(&file, &whole).unwrap();
}

/// A vector that is damaged is missed by searches that need it, and by no others.
#[test]
fn a_damaged_vector_is_in_the_way_of_searches_that_measure_it_only() {
    let mut indexed = Indexed::new(Metric::L2, 100_000);
    indexed.train(5000);
    let len = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    let file = indexed.files("posting").into_iter().max_by_key(len).unwrap();
    // Another file, which is sound.
    indexed.grow(20);
    indexed.db().flush().unwrap();
    let query = indexed.points.next();
    let nearest = indexed.nearest(&query, 10);
    let damaged = nearest.iter().map(|(key, _)| *key).find(|key| *key < 5000).unwrap();
    let vector = indexed.vectors[damaged].clone().unwrap();
    let sound = indexed.collection().search(&query).effort(Effort::Recall(0.999)).run().unwrap();
    assert!(sound.explain.rows_refined > 0 && sound.explain.rows_measured < sound.explain.rows_refined);
    indexed.db = None;
    let mut bytes = std::fs::read(&file).unwrap();
    let wanted: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    indexed.open();
    let collection = indexed.collection();
    let search = || collection.search(&query).effort(Effort::Recall(0.999));
    let is_damage = |found: plimsoll::Result<plimsoll::SearchResults>| match found {
        Err(plimsoll::Error::Storage(plimsoll::StorageError::Corrupted { file: named, .. })) => named == file,
        _ => false,
    };
    assert!(is_damage(search().exact_distances(true).run()), "it can not be measured");
    assert!(is_damage(search().with_vector(true).run()), "nor shown");
    let partial = search().exact_distances(true).allow_partial(true).run().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(partial.explain.missing.iter().any(|missing| missing.contains(name)), "{:?}", partial.explain);
    assert!(!partial.hits.is_empty() && partial.hits.iter().all(|hit| hit.key != Key::from(damaged)));
    // Most rows are in no block with it, and one that is not measured is not read.
    let others = (0..50).filter(|_| {
        let query = indexed.points.next();
        collection.search(&query).run().is_ok()
    });
    assert!(others.count() > 25);
}

/// A length that float32 can hold, but not square, is measured rather than lost.
#[test]
fn rows_and_queries_of_enormous_length_are_found() {
    let mut indexed = Indexed::new(Metric::L2, 100_000);
    indexed.grow(4500);
    let mut far = vec![0.0; DIMENSION];
    far[3] = 1e18;
    indexed.collection().upsert(Document::new("far").vector(far.clone())).unwrap();
    indexed.db().flush().unwrap();
    indexed.db().compact().unwrap();
    let found = indexed.collection().search(&far).k(1).run().unwrap();
    assert_eq!((found.hits[0].key.to_string(), found.hits[0].distance), ("far".to_owned(), 0.0));
    let near = indexed.points.next();
    let all = indexed.collection().search(&near).k(4501).effort(Effort::Lists(10_000)).run().unwrap();
    assert_eq!(all.hits.len(), 4501);
    assert_eq!(all.hits[4500].key.to_string(), "far");
    let most = indexed.collection().search(&near).k(4501).effort(Effort::Recall(0.999)).run().unwrap();
    assert_eq!(most.hits.len(), 4501, "a k above the number of rows returns all of them");
}

#[test]
fn many_queries_at_once_are_answered_like_single_ones() {
    let mut indexed = Indexed::new(Metric::Cosine, 100_000);
    indexed.train(5000);
    indexed.grow(100);
    let mut queries: Vec<Vec<f32>> = (0..300).map(|_| indexed.points.next()).collect();
    queries[7] = vec![0.5; DIMENSION + 1];
    queries[250] = vec![f32::NAN; DIMENSION];
    let collection = indexed.collection();
    let together = collection.search(&[]).k(5).run_each(&queries);
    assert_eq!(together.len(), queries.len());
    for (number, (query, found)) in queries.iter().zip(together).enumerate() {
        match (collection.search(query).k(5).run(), found) {
            (Ok(single), Ok(found)) => assert_eq!(found.hits, single.hits),
            (Err(single), Err(found)) => {
                assert!(number == 7 || number == 250, "{single}");
                assert_eq!(found.to_string(), single.to_string());
            }
            (single, found) => panic!("{single:?} and {found:?}"),
        }
    }
}
