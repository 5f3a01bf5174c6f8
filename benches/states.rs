//! Whether recall that is asked is recall that is delivered, in the states that a collection gets into:
//! `cargo bench --bench states -- BASE.npy QUERIES.npy`.
//!
//! For each state and k it prints what was delivered of the recalls asked, on queries that are no rows, and how fast:
//! beside the curve of `Effort::Recall` at many recalls, read at the recall delivered, and beside that of `Effort::Lists`. Truth
//! is what `Effort::Exact` finds in the same state. Lines fall short if they deliver less than .89, .94, .985 of .90, .95, .99,
//! or that at less than 0.8 of the queries per second of the curve.

#![expect(clippy::unwrap_used, reason = "a benchmark that can not be set up is a panic")]

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use plimsoll::{
    Collection, CollectionConfig, Database, Durability, Effort, FlushPolicy, Metric, Search, SearchResults,
    WriteBatch,
};
use plimsoll_cli::{Format, Queries};
use plimsoll_torture::random::Random;

/// What is asked, and the least that has to be delivered.
const ASKED: [(f32, f64); 3] = [(0.90, 0.89), (0.95, 0.94), (0.99, 0.985)];
/// Other recalls, for the curve.
const CURVE: [f32; 12] = [0.7, 0.8, 0.85, 0.88, 0.92, 0.94, 0.96, 0.97, 0.98, 0.985, 0.995, 0.999];
/// The least share of the curve's queries per second.
const LEAST_SPEED: f64 = 0.8;
/// Each query of a setting is timed so often, all settings in turns; its best time counts.
const ROUNDS: usize = 3;
/// In the state of copies each row has so many.
const COPIES: usize = 20;
const BATCH: usize = 1000;

#[derive(Parser)]
struct Args {
    /// Rows: .npy or .fvecs.
    base: Option<PathBuf>,
    /// Queries: .npy or .fvecs. Without them a thousand rows are held out of the base to be queries.
    queries: Option<PathBuf>,
    #[arg(long, default_value = "cosine")]
    metric: Metric,
    /// So many rows are taken, spread over the base.
    #[arg(long, default_value_t = 60_000)]
    rows: usize,
    /// So many queries, too.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    k: Vec<usize>,
    /// The states of which the name begins with one of these words.
    #[arg(long, value_delimiter = ',', default_value = "")]
    states: Vec<String>,
    /// Lengths of rows are spread over so many decades, evenly in their logarithm.
    #[arg(long)]
    decades: Option<f32>,
    /// How far a copy is from its row, as a share of the row's length.
    #[arg(long, default_value_t = 0.001)]
    noise: f32,
    /// Where databases are made.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// What cargo tells benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn read(path: &Path) -> Vec<Vec<f32>> {
    let is_npy = path.extension().is_some_and(|extension| extension == "npy");
    let format = if is_npy { Format::Npy } else { Format::Fvecs };
    let file = Box::new(BufReader::new(File::open(path).unwrap()));
    let mut vectors = Queries::new(file, path.display().to_string(), format).unwrap();
    std::iter::from_fn(|| vectors.next_query().unwrap()).map(|(_, vector)| vector).collect()
}

/// So many of some vectors, spread over them, and the others.
fn spread(vectors: Vec<Vec<f32>>, wanted: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (count, mut number) = (vectors.len(), 0);
    vectors.into_iter().partition(|_| {
        number += 1;
        number * wanted / count > (number - 1) * wanted / count
    })
}

/// A database that gets from one state into the next.
struct Subject<'a> {
    args: &'a Args,
    rows: &'a [Vec<f32>],
    dir: PathBuf,
    db: Database,
    collection: Collection,
}

type Step = fn(&mut Subject<'_>);

/// Rows of a state that are in the index when it is trained.
fn part(rows: usize, tenths: usize) -> usize {
    rows * tenths / 10
}

/// What is done one after another to one database, and what the state is called that each step leads to.
const LIVES: &[&[(&str, Step)]] = &[
    &[
        ("trained", |on| {
            on.insert(0..on.rows.len());
            on.compact();
        }),
        ("deleted 30 %", |on| on.delete()),
        ("deleted 30 %, compacted", |on| on.compact()),
    ],
    &[
        ("inserted 30 %", |on| {
            let first = part(on.rows.len(), 7);
            on.insert(0..first);
            on.compact();
            on.insert(first..on.rows.len());
        }),
        ("inserted 30 %, compacted", |on| on.compact()),
    ],
    &[("inserted 15 %, compacted", |on| {
        let first = on.rows.len() * 85 / 100;
        on.insert(0..first);
        on.compact();
        on.insert(first..on.rows.len());
        on.compact();
    })],
    &[("ten deltas", |on| {
        let first = part(on.rows.len(), 3);
        on.insert(0..first);
        on.compact();
        let each = (on.rows.len() - first).div_ceil(10);
        (first..on.rows.len())
            .step_by(each)
            .for_each(|start| on.insert(start..on.rows.len().min(start + each)));
    })],
    &[("copies", |on| {
        on.insert_copies(on.rows.len() / (COPIES + 1));
        on.compact();
    })],
];

impl<'a> Subject<'a> {
    fn new(args: &'a Args, rows: &'a [Vec<f32>], dir: PathBuf) -> Self {
        let db = Self::open(&dir);
        let config = CollectionConfig::new(rows[0].len(), args.metric);
        let collection = db.create_collection("c", config).unwrap();
        collection.set_flush_policy(FlushPolicy::manual()).unwrap();
        Self { args, rows, dir, db, collection }
    }

    /// Nothing happens unless someone says so.
    fn open(dir: &Path) -> Database {
        let builder = Database::builder(dir).background(false).memtable_bytes(4 << 30);
        builder.max_wal_bytes(4 << 30).open().unwrap()
    }

    fn reopen(&mut self) {
        self.db.close().unwrap();
        self.db = Self::open(&self.dir);
        self.collection = self.db.collection("c").unwrap();
    }

    fn write(&self, batch: &WriteBatch) {
        self.collection.write_with(batch, Durability::Buffered).unwrap();
    }

    /// Inserts rows as one flush.
    fn insert(&self, rows: Range<usize>) {
        for start in rows.clone().step_by(BATCH) {
            let mut batch = WriteBatch::new();
            for row in start..rows.end.min(start + BATCH) {
                batch.upsert_vector(row, &self.rows[row]);
            }
            self.write(&batch);
        }
        self.db.flush().unwrap();
    }

    /// Inserts so many rows, spread over all of them, each with its copies.
    fn insert_copies(&self, rows: usize) {
        let mut random = Random::new(1);
        for row in 0..rows {
            let vector = &self.rows[row * self.rows.len() / rows];
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            let noise = self.args.noise * length / (vector.len() as f32).sqrt();
            let mut batch = WriteBatch::new();
            batch.upsert_vector(row * (COPIES + 1), vector);
            for copy in 1..=COPIES {
                let vector: Vec<f32> = vector.iter().map(|x| x + noise * random.normal()).collect();
                batch.upsert_vector(row * (COPIES + 1) + copy, &vector);
            }
            self.write(&batch);
        }
        self.db.flush().unwrap();
    }

    /// Deletes three rows of ten.
    fn delete(&self) {
        let mut batch = WriteBatch::new();
        for row in (0..self.rows.len()).filter(|row| row % 10 < 3) {
            batch.delete(row);
        }
        self.write(&batch);
        self.db.flush().unwrap();
    }

    fn compact(&self) {
        self.db.compact().unwrap();
    }

    /// Prints a line for each recall asked, and says how many of them fall short.
    fn measure(&self, state: &str, queries: &[Vec<f32>]) -> usize {
        let deepest = *self.args.k.iter().max().unwrap();
        let truth: Vec<Vec<f32>> = queries
            .iter()
            .map(|query| self.search(query, deepest, Effort::Exact).run().unwrap().distances())
            .collect();
        let lists = self.db.stats().collections[0].lists as usize;
        self.args.k.iter().map(|&k| Curves::new(self, queries, &truth, k, lists).print(state, k)).sum()
    }

    fn search<'q>(&self, query: &'q [f32], k: usize, effort: Effort) -> Search<'q> {
        self.collection.search(query).k(k).effort(effort)
    }
}

trait Distances {
    fn distances(&self) -> Vec<f32>;
}

impl Distances for SearchResults {
    fn distances(&self) -> Vec<f32> {
        self.hits.iter().map(|hit| hit.distance).collect()
    }
}

/// One setting, measured.
struct Point {
    effort: Effort,
    recall: f64,
    /// The standard error of the recall.
    error: f64,
    codes: f64,
    /// The best time of each query.
    seconds: Vec<f64>,
}

impl Point {
    fn new(on: &Subject<'_>, queries: &[Vec<f32>], truth: &[Vec<f32>], k: usize, effort: Effort) -> Self {
        let (mut sum, mut squares, mut codes) = (0.0, 0.0, 0);
        for (query, truth) in queries.iter().zip(truth) {
            let found = on.search(query, k, effort).exact_distances(true).run().unwrap();
            let truth = &truth[..k.min(truth.len())];
            // Such distances do not depend on how a row was found.
            let right =
                found.hits.iter().filter(|hit| truth.last().is_some_and(|last| hit.distance <= *last));
            let recall = right.count() as f64 / truth.len() as f64;
            sum += recall;
            squares += recall * recall;
            codes += found.explain.codes_scanned;
        }
        let n = queries.len() as f64;
        let recall = sum / n;
        let error = ((squares / n - recall * recall).max(0.0) / n).sqrt();
        Self { effort, recall, error, codes: codes as f64 / n, seconds: vec![f64::INFINITY; queries.len()] }
    }

    fn time(&mut self, on: &Subject<'_>, queries: &[Vec<f32>], k: usize) {
        for (query, best) in queries.iter().zip(&mut self.seconds) {
            let start = Instant::now();
            on.search(query, k, self.effort).run().unwrap();
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }

    fn qps(&self) -> f64 {
        self.seconds.len() as f64 / self.seconds.iter().sum::<f64>()
    }
}

/// The settings asked for, and the curves beside them.
struct Curves {
    asked: Vec<Point>,
    recalls: Vec<Point>,
    lists: Vec<Point>,
}

impl Curves {
    fn new(on: &Subject<'_>, queries: &[Vec<f32>], truth: &[Vec<f32>], k: usize, lists: usize) -> Self {
        let point = |effort| Point::new(on, queries, truth, k, effort);
        let numbers = std::iter::successors(Some(1), |n| Some(n + (n / 2).max(1)));
        let mut new = Self {
            asked: ASKED.iter().map(|asked| point(Effort::Recall(asked.0))).collect(),
            recalls: CURVE.iter().map(|recall| point(Effort::Recall(*recall))).collect(),
            lists: numbers.take_while(|n| 2 * *n < lists).map(|n| point(Effort::Lists(n))).collect(),
        };
        for _ in 0..ROUNDS {
            let all = new.asked.iter_mut().chain(&mut new.recalls).chain(&mut new.lists);
            all.for_each(|point| point.time(on, queries, k));
        }
        new
    }

    fn print(&self, state: &str, k: usize) -> usize {
        let mut short = 0;
        for (point, (asked, least)) in self.asked.iter().zip(ASKED) {
            let share = |curve: &[Point]| at(curve, point.recall).map(|qps| point.qps() / qps);
            let shares = [share(&self.recalls), share(&self.lists)];
            let verdict = match () {
                () if point.recall + 2.0 * point.error < least => "SHORT",
                () if point.recall < least => "SHORT, maybe by chance",
                () if shares.into_iter().flatten().any(|share| share < LEAST_SPEED) => "SLOW",
                () => "",
            };
            short += usize::from(!verdict.is_empty());
            let [recalls, lists] =
                shares.map(|share| share.map_or("-".to_owned(), |share| format!("{share:.2}")));
            println!(
                "{state:<26} {k:>4} {asked:>5.2}  {:.4} ± {:.4} {:>8.0} {:>8.0} {recalls:>7} {lists:>7}  {verdict}",
                point.recall,
                point.error,
                point.codes,
                point.qps(),
            );
        }
        short
    }
}

/// The queries per second that a curve has at a recall, between its two points beside it; `None` beyond its ends.
fn at(curve: &[Point], recall: f64) -> Option<f64> {
    let faster = |a: &&Point, b: &&Point| a.qps().total_cmp(&b.qps());
    let below = curve.iter().filter(|point| point.recall <= recall);
    let below = below.max_by(|a, b| a.recall.total_cmp(&b.recall).then(faster(a, b)))?;
    let above = curve.iter().filter(|point| point.recall >= recall);
    let above = above.min_by(|a, b| a.recall.total_cmp(&b.recall).then(faster(b, a)))?;
    let place = |recall: f64| -(1.0 - recall).max(1e-6).ln();
    let width = place(above.recall) - place(below.recall);
    let share = if width > 0.0 { (place(recall) - place(below.recall)) / width } else { 0.0 };
    Some((below.qps().ln() * (1.0 - share) + above.qps().ln() * share).exp())
}

fn main() {
    let args = Args::parse();
    let Some(base) = &args.base else {
        println!("no rows: say BASE.npy QUERIES.npy");
        return;
    };
    let (queries, rows) = match &args.queries {
        Some(queries) => (read(queries), read(base)),
        None => spread(read(base), args.limit),
    };
    let (queries, (mut rows, _)) = (spread(queries, args.limit.max(1)).0, spread(rows, args.rows));
    if let Some(decades) = args.decades {
        let mut random = Random::new(2);
        for row in &mut rows {
            let scale = 10_f32.powf(decades * (random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5));
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
    println!("{} rows of {}, {} queries, {}", rows.len(), rows[0].len(), queries.len(), args.metric);
    println!(
        "{:<26} {:>4} {:>5}  {:<15} {:>8} {:>8} {:>7} {:>7}",
        "state", "k", "asked", "delivered", "codes", "QPS", "/recall", "/lists"
    );
    let mut short = 0;
    for life in LIVES {
        let wanted = |name: &str| args.states.iter().any(|word| name.starts_with(word.as_str()));
        let Some(last) = life.iter().rposition(|(name, _)| wanted(name)) else { continue };
        let dir = tempfile::Builder::new().prefix("plimsoll-bench-").tempdir_in(&args.dir).unwrap();
        let mut subject = Subject::new(&args, &rows, dir.path().join("db"));
        for (state, step) in &life[..=last] {
            step(&mut subject);
            subject.reopen();
            if wanted(state) {
                short += subject.measure(state, &queries);
            }
        }
        subject.db.close().unwrap();
    }
    println!("{short} lines fall short");
}
