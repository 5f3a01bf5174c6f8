//! What it costs to know the position: lines with given vectors, in batches of 100, with a source and without, beside the old
//! way, which is one transaction of SQLite for each line that is done.
//!
//! ```text
//! cargo bench -p plimsoll-ingest --bench checkpoints -- [--lines 100000] [--old-lines 5000] [--rounds 3]
//! ```
//!
//! All three parse the same lines and store the same rows durably, in turns; medians are printed, of
//! the lines per second and of the ratios in each round. The old way is
//! given fewer lines, because it takes long; lines per second are compared.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that can not go on says why and ends"
)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::Instant;

use plimsoll::{CollectionConfig, Database, Metric, WriteBatch};
use plimsoll_ingest::input::{Change, Files, Input, Inputs, Parser};
use plimsoll_ingest::{Ingest, Ledger, Lines, RunOptions};

const DIMENSION: usize = 96;
const BATCH: usize = 100;

fn argument(name: &str, default: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map_or(default, |value| value.parse().expect("a number"))
}

/// Lines of about a kilobyte.
fn write_lines(path: &Path, lines: usize) {
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let mut bits = 1u64;
    let mut line = String::new();
    for id in 0..lines {
        line.clear();
        write!(line, "{{\"id\": {id}, \"text\": \"line {id} {}\", \"vector\": [", "words ".repeat(40))
            .unwrap();
        for component in 0..DIMENSION {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            write!(line, "{}{value:.4}", if component == 0 { "" } else { ", " }).unwrap();
        }
        writeln!(file, "{line}]}}").unwrap();
    }
    file.flush().unwrap();
}

fn open(dir: &Path) -> Database {
    let db = Database::builder(dir.join("db")).bulk_load(true).open().unwrap();
    db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::Cosine)).unwrap();
    db
}

/// Batches that know nothing of positions, as an import has them.
fn without(path: &Path, dir: &Path) -> f64 {
    let start = Instant::now();
    let db = open(dir);
    let collection = db.collection("c").unwrap();
    let parser = Parser::new(Files::none());
    let mut batch = WriteBatch::new();
    let mut stored = 0;
    for line in BufReader::with_capacity(1 << 18, File::open(path).unwrap()).lines() {
        let Change::Upsert(document) = parser.parse_text(&line.unwrap()).change.unwrap() else { continue };
        batch.upsert(document);
        if batch.len() == BATCH {
            collection.write(&batch).unwrap();
            batch.clear();
        }
        stored += 1;
    }
    collection.write(&batch).unwrap();
    let took = start.elapsed().as_secs_f64();
    db.close().unwrap();
    f64::from(stored) / took
}

/// The same with a source, and with a ledger if that is asked for.
fn with(path: &Path, dir: &Path, ledger: bool) -> f64 {
    let start = Instant::now();
    let db = open(dir);
    let source = db.source("s", "c").unwrap().open().unwrap();
    let mut lines = Lines::resume(Inputs::new([Input::File(path.to_path_buf())]), &source).unwrap();
    let mut options = RunOptions::default();
    options.batch_size = BATCH;
    let ledger = ledger.then(|| Ledger::open(dir.join("ledger.sqlite")));
    let mut ingest = Ingest::new(&source, Parser::new(Files::none()), options);
    if let Some(ledger) = &ledger {
        ingest = ingest.ledger(ledger);
    }
    let run = ingest.run(&mut lines).unwrap();
    let took = start.elapsed().as_secs_f64();
    drop(ingest);
    drop(source);
    db.close().unwrap();
    run.committed as f64 / took
}

/// A row and the number of its line in one transaction each, as SQLite does it unless it is told otherwise.
fn old_way(path: &Path, dir: &Path, lines: usize) -> f64 {
    let start = Instant::now();
    let mut connection = rusqlite::Connection::open(dir.join("old.sqlite")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT, vector BLOB);
             CREATE TABLE completed_lines (run TEXT, line INTEGER, path TEXT, PRIMARY KEY (run, line))",
        )
        .unwrap();
    let parser = Parser::new(Files::none());
    let file = BufReader::with_capacity(1 << 18, File::open(path).unwrap());
    for (number, line) in file.lines().take(lines).enumerate() {
        let Change::Upsert(document) = parser.parse_text(&line.unwrap()).change.unwrap() else { continue };
        let vector: Vec<u8> = document.postings[0].vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let transaction = connection.transaction().unwrap();
        let row = rusqlite::params![number as i64, document.text, vector];
        transaction.prepare_cached("INSERT INTO rows VALUES (?1, ?2, ?3)").unwrap().execute(row).unwrap();
        let done = rusqlite::params!["run", number as i64, "lines.jsonl"];
        transaction
            .prepare_cached("INSERT INTO completed_lines VALUES (?1, ?2, ?3)")
            .unwrap()
            .execute(done)
            .unwrap();
        transaction.commit().unwrap();
    }
    lines as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The most memory that the process ever had, in MB.
fn peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1e3)
}

fn main() {
    let (lines, old_lines, rounds) =
        (argument("--lines", 100_000), argument("--old-lines", 5_000), argument("--rounds", 3));
    let scratch = tempfile::tempdir_in(".").unwrap();
    let path = scratch.path().join("lines.jsonl");
    write_lines(&path, lines);
    let bytes = path.metadata().unwrap().len();
    println!("{lines} lines of {} bytes, batches of {BATCH}, {rounds} rounds", bytes / lines as u64);
    let mut rates: [Vec<f64>; 4] = std::array::from_fn(|_| Vec::new());
    for round in 0..rounds {
        // In turn forwards and backwards, each on a disk that has nothing left to write.
        for turn in 0..rates.len() {
            let turn = (round / 2 + turn) % rates.len();
            let system = if round % 2 == 0 { turn } else { rates.len() - 1 - turn };
            let dir = scratch.path().join(format!("{system} {round}"));
            std::fs::create_dir(&dir).unwrap();
            rustix::fs::sync();
            rates[system].push(match system {
                0 => without(&path, &dir),
                1 => with(&path, &dir, false),
                2 => with(&path, &dir, true),
                _ => old_way(&path, &dir, old_lines.min(lines)),
            });
            std::fs::remove_dir_all(&dir).unwrap();
        }
        if let Some(peak) = peak().filter(|_| round == 0) {
            println!("peak memory {peak:.0} MB, the parsing and three databases of the first round");
        }
    }
    // Of each round by itself: what else the machine does meanwhile falls on all that is compared.
    let cost = |system: usize| {
        median(
            rates[0]
                .iter()
                .zip(&rates[system])
                .map(|(without, with)| (without / with - 1.0) * 100.0)
                .collect(),
        )
    };
    let (of_source, of_ledger) = (cost(1), cost(2));
    let [without, with, ledger, old] = rates.map(median);
    println!("without positions       {without:>10.0} lines/s");
    println!("with a source           {with:>10.0} lines/s   {of_source:+.1} %");
    println!("with a source, a ledger {ledger:>10.0} lines/s   {of_ledger:+.1} %");
    println!("the old way             {old:>10.0} lines/s   1/{:.0}", ledger / old);
}
