//! `plimsoll bench ingest`: the speed of durable writes, beside what the disk can do in the same run.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use plimsoll::{Collection, CollectionConfig, Database, FlushPolicy, LogStats, Metric};
use serde::Serialize;

use super::disk::Disk;
use super::measure::{median, rate, table};
use super::workload::{Workload, temporary_directory};
use crate::args::IngestBench;
use crate::error::{CliError, Result};
use crate::output::{Output, bytes};
use crate::progress::Progress;

/// The rows of a large batch.
pub(super) const BATCH_ROWS: u64 = 1000;
/// The batches that are stored before the first flush.
const BULK_BATCHES: u64 = 40;
const WRITERS: u64 = 64;
/// How long each part runs that is measured by time.
const BUDGET: Duration = Duration::from_millis(1000);
/// In how many slices, with the disk measured in between.
const SLICES: u32 = 10;
/// Larger than anything stored before the first flush.
const NO_FLUSH: usize = 4 << 30;

/// What one round measured. Rates are per second.
#[derive(Debug, Default, Clone, Serialize)]
struct Round {
    record_bytes: f64,
    disk_records: f64,
    one_writer: f64,
    many_writers: f64,
    batches_per_sync: f64,
    disk_bytes: f64,
    bulk_bytes: f64,
    bulk_rows: f64,
    sustained_bytes: f64,
    sustained_rows: f64,
    sustained_flushes: u64,
    sustained_compactions: u64,
    sustained_stalls: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlite: Option<SqliteRound>,
}

/// Rows per second.
#[derive(Debug, Clone, Serialize)]
struct SqliteRound {
    bulk: f64,
    bulk_without_checkpoints: f64,
    sustained: f64,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    ours: f64,
    unit: &'static str,
    compared_with: &'static str,
    theirs: f64,
    ratio: f64,
    wanted: f64,
}

#[derive(Serialize)]
struct Report {
    dimension: usize,
    sustained_rows: u64,
    memtable_bytes: usize,
    lines: Vec<Line>,
    rounds: Vec<Round>,
}

pub(super) fn run(args: &IngestBench, output: &mut Output) -> Result<()> {
    if args.sqlite && !cfg!(feature = "sqlite") {
        let message = "this program was built without SQLite; build it with --features sqlite";
        return Err(CliError::Usage(message.to_owned()));
    }
    let workload = Workload::read(&args.vectors)?;
    let row_bytes = workload.dimension() * 4;
    let at_least = (5 * args.memtable_bytes).div_ceil(row_bytes);
    let sustained_rows = args.rows.unwrap_or(at_least.max(workload.len())) as u64;
    let progress = Progress::new(output.json, "measuring", Some(args.rounds as u64));
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let dir = temporary_directory(args.dir.as_deref())?;
        rounds.push(round(args, &workload, sustained_rows, dir.path())?);
        progress.advance(1);
    }
    drop(progress);
    let report = Report {
        dimension: workload.dimension(),
        sustained_rows,
        memtable_bytes: args.memtable_bytes,
        lines: lines(&rounds),
        rounds,
    };
    print(&report, output)
}

/// Everything once. The disk is measured in slices between slices of ours, because it is not the same from one
/// second to the next.
fn round(args: &IngestBench, workload: &Workload, sustained_rows: u64, dir: &Path) -> Result<Round> {
    let mut round = Round { record_bytes: record_bytes(dir, workload)?, ..Round::default() };
    let mut disk = Disk::new(dir, round.record_bytes as usize);
    round.one_writer = one_writer(dir, workload, &mut disk)?;
    round.disk_records = disk.records_per_second();
    (round.many_writers, round.batches_per_sync) = many_writers(dir, workload)?;

    let mut disk = Disk::new(dir, 1 << 20);
    (round.bulk_bytes, round.bulk_rows) = bulk(dir, workload, &mut disk)?;
    sustained(args, workload, sustained_rows, dir, &mut round)?;
    disk.run(BUDGET / SLICES)?;
    round.disk_bytes = disk.bytes_per_second();
    #[cfg(feature = "sqlite")]
    if args.sqlite {
        use super::sqlite::{Checkpoints, store};
        let store = |name: &str, rows, checkpoints| {
            let dir = dir.join(name);
            std::fs::create_dir(&dir).map_err(|error| CliError::file(&dir, &error))?;
            let rate = store(&dir, workload, rows, checkpoints)?;
            remove(&dir).map(|()| rate)
        };
        round.sqlite = Some(SqliteRound {
            bulk: store("sqlite-bulk", BULK_BATCHES * BATCH_ROWS, Checkpoints::Automatic)?,
            bulk_without_checkpoints: store("sqlite-log", BULK_BATCHES * BATCH_ROWS, Checkpoints::Never)?,
            sustained: store("sqlite-sustained", sustained_rows, Checkpoints::AutomaticAndFinal)?,
        });
    }
    Ok(round)
}

/// A new database with an empty collection, which is flushed when its memtable is full.
fn create(
    dir: &Path,
    name: &str,
    memtable_bytes: usize,
    workload: &Workload,
) -> Result<(Database, Collection)> {
    let mut builder = Database::builder(dir.join(name)).memtable_bytes(memtable_bytes);
    if memtable_bytes == NO_FLUSH {
        builder = builder.max_wal_bytes(NO_FLUSH as u64);
    }
    let db = builder.open()?;
    let collection =
        db.create_collection("c", CollectionConfig::new(workload.dimension(), Metric::Cosine))?;
    collection.set_flush_policy(FlushPolicy::manual())?;
    Ok((db, collection))
}

/// Closes a database that has served its purpose, and removes it: the next one finds the machine as this one did.
fn discard(db: Database, dir: &Path, name: &str) -> Result<()> {
    db.close()?;
    remove(&dir.join(name))
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).map_err(|error| CliError::file(dir, &error))
}

/// What was added to the log since `before`.
fn since(db: &Database, before: &LogStats) -> LogStats {
    let mut log = db.stats().wal;
    log.bytes_appended -= before.bytes_appended;
    log.batches -= before.batches;
    log.syncs -= before.syncs;
    log
}

/// How many bytes a batch of one row has in the log.
fn record_bytes(dir: &Path, workload: &Workload) -> Result<f64> {
    let (db, collection) = create(dir, "record", NO_FLUSH, workload)?;
    let before = db.stats().wal;
    for row in 0..16 {
        collection.write(&workload.batch(row..row + 1))?;
    }
    let log = since(&db, &before);
    discard(db, dir, "record")?;
    Ok(log.bytes_appended as f64 / log.batches.max(1) as f64)
}

/// Batches of one row, one after another. Returns batches per second.
fn one_writer(dir: &Path, workload: &Workload, disk: &mut Disk) -> Result<f64> {
    let (db, collection) = create(dir, "one", NO_FLUSH, workload)?;
    let (mut row, mut time) = (0, Duration::ZERO);
    for _ in 0..SLICES {
        disk.run(BUDGET / SLICES)?;
        let start = Instant::now();
        while start.elapsed() < BUDGET / SLICES {
            collection.write(&workload.batch(row..row + 1))?;
            row += 1;
        }
        time += start.elapsed();
    }
    discard(db, dir, "one")?;
    Ok(rate(row as f64, time))
}

/// Batches of one row from many threads. Returns batches per second, and batches per sync.
fn many_writers(dir: &Path, workload: &Workload) -> Result<(f64, f64)> {
    let (db, collection) = create(dir, "many", NO_FLUSH, workload)?;
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let before = db.stats().wal;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let write = || -> Result<()> {
            while !stop.load(Relaxed) {
                let row = next.fetch_add(1, Relaxed);
                collection.write(&workload.batch(row..row + 1))?;
            }
            Ok(())
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        std::thread::sleep(BUDGET);
        stop.store(true, Relaxed);
        let failed = || Err(CliError::failed("panicked", "a writer panicked"));
        writers.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(|_| failed()))
    })?;
    let elapsed = start.elapsed();
    let log = since(&db, &before);
    discard(db, dir, "many")?;
    Ok((rate(log.batches as f64, elapsed), log.batches as f64 / log.syncs.max(1) as f64))
}

/// Large batches before the first flush. Returns bytes of log and rows per second.
fn bulk(dir: &Path, workload: &Workload, disk: &mut Disk) -> Result<(f64, f64)> {
    let (db, collection) = create(dir, "bulk", NO_FLUSH, workload)?;
    let before = db.stats().wal;
    let mut time = Duration::ZERO;
    for batch in 0..BULK_BATCHES {
        if batch % (BULK_BATCHES / u64::from(SLICES)) == 0 {
            disk.run(BUDGET / SLICES)?;
        }
        let start = Instant::now();
        collection.write(&workload.batch(batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS))?;
        time += start.elapsed();
    }
    let log = since(&db, &before);
    discard(db, dir, "bulk")?;
    Ok((rate(log.bytes_appended as f64, time), rate((BULK_BATCHES * BATCH_ROWS) as f64, time)))
}

/// Large batches with a small memtable; flushes and compaction run, and all of it is in the measured time.
fn sustained(
    args: &IngestBench,
    workload: &Workload,
    rows: u64,
    dir: &Path,
    round: &mut Round,
) -> Result<()> {
    let (db, collection) = create(dir, "sustained", args.memtable_bytes, workload)?;
    let before = db.stats().wal;
    let start = Instant::now();
    let mut row = 0;
    while row < rows {
        let end = rows.min(row + BATCH_ROWS);
        collection.write(&workload.batch(row..end))?;
        row = end;
    }
    let log = since(&db, &before);
    db.flush()?;
    let stats = db.stats();
    db.close()?;
    let elapsed = start.elapsed();
    remove(&dir.join("sustained"))?;
    round.sustained_bytes = rate(log.bytes_appended as f64, elapsed);
    round.sustained_rows = rate(rows as f64, elapsed);
    round.sustained_flushes = stats.flushes.successful;
    round.sustained_compactions = stats.compactions;
    round.sustained_stalls = stats.stalls.stopped;
    Ok(())
}

/// Medians over the rounds; a ratio is the median of the rounds' ratios, so that a slow minute hits both sides.
fn lines(rounds: &[Round]) -> Vec<Line> {
    let line = |what, unit, compared_with, wanted, figures: &dyn Fn(&Round) -> Option<(f64, f64)>| {
        let pairs: Vec<(f64, f64)> = rounds.iter().filter_map(figures).collect();
        let of = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
        let (ours, theirs, ratio) = (of(|pair| pair.0), of(|pair| pair.1), of(|pair| pair.0 / pair.1));
        (!pairs.is_empty()).then_some(Line { what, ours, unit, compared_with, theirs, ratio, wanted })
    };
    let disk = "disk, 1 MiB appends";
    let lines = [
        line("batch 1, one writer", "writes/s", "disk, append + fdatasync", 0.8, &|round| {
            Some((round.one_writer, round.disk_records))
        }),
        line("batch 1, 64 writers", "writes/s", "one writer", 5.0, &|round| {
            Some((round.many_writers, round.one_writer))
        }),
        line("batches per sync, 64 writers", "batches", "one sync", 16.0, &|round| {
            Some((round.batches_per_sync, 1.0))
        }),
        line("batch 1000, before a flush", "log MB/s", disk, 0.5, &|round| {
            Some((round.bulk_bytes / 1e6, round.disk_bytes / 1e6))
        }),
        line("batch 1000, sustained", "log MB/s", disk, 0.2, &|round| {
            Some((round.sustained_bytes / 1e6, round.disk_bytes / 1e6))
        }),
        line("batch 1000, before a flush", "rows/s", "SQLite", 3.0, &|round| {
            Some((round.bulk_rows, round.sqlite.as_ref()?.bulk))
        }),
        line("batch 1000, before a flush", "rows/s", "SQLite without checkpoints", f64::NAN, &|round| {
            Some((round.bulk_rows, round.sqlite.as_ref()?.bulk_without_checkpoints))
        }),
        line("batch 1000, sustained", "rows/s", "SQLite", 1.5, &|round| {
            Some((round.sustained_rows, round.sqlite.as_ref()?.sustained))
        }),
    ];
    lines.into_iter().flatten().collect()
}

fn print(report: &Report, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(report);
    }
    let Some(last) = report.rounds.last() else { return Ok(()) };
    output.line(format_args!(
        "{} dimensions, {:.0} bytes of log a row; sustained: {} rows, memtable {}; medians of {} rounds",
        report.dimension,
        last.record_bytes,
        report.sustained_rows,
        bytes(report.memtable_bytes as u64),
        report.rounds.len()
    ))?;
    let mut table = table(["durable writes", "ours", "unit", "compared with", "theirs", "ratio", "wanted"]);
    for line in &report.lines {
        let wanted = if line.wanted.is_nan() { "-".to_owned() } else { format!("≥ {}", line.wanted) };
        table.add_row([
            line.what.to_owned(),
            format!("{:.1}", line.ours),
            line.unit.to_owned(),
            line.compared_with.to_owned(),
            format!("{:.1}", line.theirs),
            format!("{:.2}", line.ratio),
            wanted,
        ]);
    }
    output.line(table)?;
    output.line(format_args!(
        "sustained, last round: {} flushes, {} compactions, {} stalled writes",
        last.sustained_flushes, last.sustained_compactions, last.sustained_stalls
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_medians_of_the_rounds_ratios() {
        let round = |ours, disk| Round { one_writer: ours, disk_records: disk, ..Round::default() };
        let rounds = [round(90.0, 100.0), round(50.0, 50.0), round(70.0, 100.0)];
        let lines = lines(&rounds);
        assert_eq!((lines[0].ours, lines[0].theirs, lines[0].ratio), (70.0, 100.0, 0.9));
        assert!(lines.iter().all(|line| !line.compared_with.contains("SQLite")));
    }
}
