//! Searches on an idle database, and beside an import with flushes and compactions: `cargo bench --bench beside`, or with
//! a number of rows behind `--` (40,000 by default). Pin it to two cores that nobody else uses: what it shows otherwise is
//! how long the kernel gives a core to somebody else, of which the last column counts the times.

#![expect(clippy::unwrap_used, reason = "a benchmark that can not be set up is a panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use plimsoll::{Collection, CollectionConfig, Database, Document, Metric, WriteBatch};
use plimsoll_torture::random::Random;

const DIMENSION: usize = 384;
const CENTRES: usize = 300;
const QUERIES: usize = 1000;
const BATCH: u64 = 1000;

/// Vectors around some centres, in which far fewer dimensions count than there are.
struct Data {
    centres: Vec<Vec<f32>>,
    random: Random,
}

impl Data {
    fn new() -> Self {
        let mut random = Random::new(1);
        let centres = (0..CENTRES).map(|_| (0..DIMENSION).map(|_| random.normal()).collect()).collect();
        Self { centres, random }
    }

    fn vector(&mut self) -> Vec<f32> {
        let (a, b) = (self.random.below(CENTRES), self.random.below(CENTRES));
        let share = 0.5 * self.random.signed();
        let pairs = self.centres[a].iter().zip(&self.centres[b]);
        pairs.map(|(a, b)| a + share * b + 0.3 * self.random.normal()).collect()
    }
}

fn import(collection: &Collection, data: &mut Data, rows: std::ops::Range<u64>) {
    for first in rows.clone().step_by(BATCH as usize) {
        let mut batch = WriteBatch::new();
        for key in first..rows.end.min(first + BATCH) {
            batch.upsert(Document::new(key).vector(data.vector()));
        }
        collection.write(&batch).unwrap();
    }
}

/// Searches until there is nothing to wait for any more, and prints how long they took.
fn search(what: &str, collection: &Collection, queries: &[Vec<f32>], is_done: impl Fn() -> bool) {
    let (mut ns, mut waits, mut asked) = (Vec::new(), 0, 0);
    let taken_before = cores_taken();
    while ns.is_empty() || !is_done() {
        for query in queries {
            let start = Instant::now();
            let explain = collection.search(query).run().unwrap().explain;
            ns.push(start.elapsed().as_nanos() as u64);
            waits += explain.lock_waits;
            asked += explain.documents_asked;
        }
    }
    let taken = cores_taken().zip(taken_before).map(|(after, before)| after - before);
    ns.sort_unstable();
    let at = |share: f64| ns[((ns.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    println!(
        "{what:>12}: {} searches, p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, longest {:.0}; {waits} waits for locks, \
         {:.2} documents asked each, core taken away {taken:?} times",
        ns.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0),
        asked as f64 / ns.len() as f64,
    );
}

/// How often the kernel has given this thread's core to another one; Linux only.
fn cores_taken() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let count = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

fn main() {
    let rows = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(40_000);
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::Cosine)).unwrap();
    let mut data = Data::new();
    let queries: Vec<_> = (0..QUERIES).map(|_| data.vector()).collect();
    import(&collection, &mut data, 0..rows);
    db.flush().unwrap();
    db.compact().unwrap();
    for what in ["first", "idle"] {
        search(what, &collection, &queries, || true);
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Half of them replace rows that are stored.
            import(&collection, &mut data, rows / 2..rows * 2);
            db.flush().unwrap();
            db.compact().unwrap();
            is_done.store(true, Ordering::Relaxed);
        });
        search("beside", &collection, &queries, || is_done.load(Ordering::Relaxed));
    });
    let stats = db.stats();
    println!("{} flushes and {} compactions", stats.flushes.successful, stats.compactions);
    search("afterwards", &collection, &queries, || true);
}
