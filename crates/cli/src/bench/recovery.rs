//! `plimsoll bench recovery`: what opening reads, which must not grow with the rows, and how fast the log is
//! replayed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll::{Database, Metric, Stats};
use serde::Serialize;

use super::measure::{median, rate, table};
use super::workload::{NO_FLUSH, Workload, temporary_directory};
use crate::args::RecoveryBench;
use crate::error::{CliError, Result};
use crate::output::{Output, bytes, duration};
use crate::progress::Progress;

/// Opening a cleanly closed database.
#[derive(Debug, Serialize)]
struct Opening {
    rows: usize,
    seconds: f64,
    bytes_read: u64,
    reads: u64,
    files_opened: u64,
    files_mapped: u64,
    posting_files: usize,
    vector_segments: usize,
    lists: u32,
    disk_bytes: u64,
}

/// Opening a database that was left as a crash leaves it.
#[derive(Debug, Serialize)]
struct Replay {
    rows: usize,
    wal_bytes: u64,
    records: u64,
    seconds: f64,
    bytes_per_second: f64,
}

#[derive(Serialize)]
struct Report {
    dimension: usize,
    opening: Vec<Opening>,
    replay: Replay,
}

pub(super) fn run(args: &RecoveryBench, output: &mut Output) -> Result<()> {
    let most = args.rows.iter().copied().max().unwrap_or(0);
    let workload = Workload::read_or_random(args.vectors.as_deref(), most, args.dim)?;
    let progress = Progress::new(output.json, "opening", Some(args.rows.len() as u64 + 1));
    let mut opening = Vec::new();
    for &rows in &args.rows {
        let dir = temporary_directory(args.dir.as_deref())?;
        opening.push(open_clean(args, &workload, rows, &dir.path().join("db"))?);
        progress.advance(1);
    }
    let dir = temporary_directory(args.dir.as_deref())?;
    let replay = replay(args, &workload, most, dir.path())?;
    drop(progress);
    print(&Report { dimension: workload.dimension(), opening, replay }, output)
}

fn open_clean(args: &RecoveryBench, workload: &Workload, rows: usize, dir: &Path) -> Result<Opening> {
    let db = workload.fill(dir, Metric::Cosine, rows as u64)?;
    db.flush()?;
    db.compact()?;
    db.close()?;
    drop(db);
    let (mut seconds, mut last): (Vec<f64>, Option<Stats>) = (Vec::new(), None);
    for _ in 0..args.rounds {
        let start = Instant::now();
        // Without the background, which may already be reading files when the figures are taken.
        let db = Database::builder(dir).background(false).open()?;
        seconds.push(start.elapsed().as_secs_f64());
        last = Some(db.stats());
        db.close()?;
    }
    let stats = last.ok_or_else(|| CliError::Usage("--rounds must be at least 1".to_owned()))?;
    let (io, collection) = (stats.io, stats.collections.first());
    Ok(Opening {
        rows,
        seconds: median(&seconds),
        bytes_read: io.bytes_read,
        reads: io.reads,
        files_opened: io.files_opened,
        files_mapped: io.files_mapped,
        posting_files: collection.map_or(0, |stats| stats.posting_files),
        vector_segments: collection.map_or(0, |stats| stats.vector_segments),
        lists: collection.map_or(0, |stats| stats.lists),
        disk_bytes: collection.map_or(0, |stats| stats.disk_bytes),
    })
}

/// Copies a database whose rows are only in its log, and opens the copy: a copy, because opening flushes, and
/// because the lock of the original is ours until this process ends.
fn replay(args: &RecoveryBench, workload: &Workload, rows: usize, dir: &Path) -> Result<Replay> {
    let original = dir.join("original");
    let db = workload.fill(&original, Metric::Cosine, rows as u64)?;
    let (mut rates, mut last) = (Vec::new(), None);
    for round in 0..args.rounds {
        let copy = dir.join(format!("copy-{round}"));
        copy_directory(&original, &copy)?;
        let opened = Database::builder(&copy).background(false).memtable_bytes(NO_FLUSH).open()?;
        let recovery = opened.stats().recovery;
        rates.push(rate(recovery.wal_bytes as f64, recovery.replay));
        last = Some(recovery);
        drop(opened);
        fs::remove_dir_all(&copy).map_err(|error| CliError::file(&copy, &error))?;
    }
    db.close()?;
    let recovery = last.unwrap_or_default();
    let bytes_per_second = median(&rates);
    let seconds = recovery.wal_bytes as f64 / bytes_per_second.max(1.0);
    Ok(Replay { rows, wal_bytes: recovery.wal_bytes, records: recovery.records, seconds, bytes_per_second })
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> std::io::Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), target)?;
            } else if copy_directory(&entry.path(), &target).is_err() {
                return Err(std::io::Error::other(format!("{} could not be copied", entry.path().display())));
            }
        }
        Ok(())
    };
    copy().map_err(|error| CliError::file(to, &error))
}

fn print(report: &Report, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(report);
    }
    output.line(format_args!("{} dimensions; opening a cleanly closed database:", report.dimension))?;
    let mut table = table([
        "rows",
        "on disk",
        "bytes read",
        "reads",
        "files opened",
        "mapped",
        "segments",
        "lists",
        "time",
    ]);
    for opening in &report.opening {
        table.add_row([
            opening.rows.to_string(),
            bytes(opening.disk_bytes),
            opening.bytes_read.to_string(),
            opening.reads.to_string(),
            opening.files_opened.to_string(),
            opening.files_mapped.to_string(),
            format!("{} + {}", opening.posting_files, opening.vector_segments),
            opening.lists.to_string(),
            duration(Duration::from_secs_f64(opening.seconds)),
        ]);
    }
    output.line(table)?;
    let replay = &report.replay;
    output.line(format_args!(
        "replay of an unflushed log: {} rows, {} records, {} in {}: {:.0} MB/s (wanted ≥ 200)",
        replay.rows,
        replay.records,
        bytes(replay.wal_bytes),
        duration(Duration::from_secs_f64(replay.seconds)),
        replay.bytes_per_second / 1e6
    ))
}
