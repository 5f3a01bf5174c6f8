//! `plimsoll demo`: the whole story on bundled real data, in a temporary directory.
//!
//! A child process imports, is killed, and what it left is held against the source bit for bit. Then the import
//! is resumed, flushed, searched, compared with the true answers, and verified.

mod answers;
mod crash;
mod data;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll::{Collection, Database, FlushStats, VerifyReport, WriteBatch};
use serde::Serialize;

use crate::commands::FlushReport;
use crate::error::{CliError, Result};
use crate::output::{Output, bytes, duration};
use answers::Answers;
use crash::{Crash, Survivors};
use data::Bundle;

/// The collection that the demo makes.
const COLLECTION: &str = "rustdocs";
/// The rows of a batch when the import is resumed.
const RESUME_ROWS: usize = 100;

/// Everything that was found out.
#[derive(Serialize)]
struct Report {
    ok: bool,
    rows: usize,
    crash: Crash,
    survivors: Survivors,
    resumed: usize,
    flush: FlushReport,
    answers: Answers,
    damage: usize,
    seconds: Vec<(&'static str, f64)>,
    bytes: Vec<(&'static str, u64)>,
}

/// How long each part took, in order.
#[derive(Default)]
struct Clock {
    times: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn time<T>(&mut self, what: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work()?;
        self.times.push((what, start.elapsed()));
        Ok(result)
    }
}

pub(crate) fn run(output: &mut Output) -> Result<()> {
    let bundle = Bundle::load()?;
    let dir = tempfile::tempdir()
        .map_err(|error| CliError::failed("io", format!("a temporary directory: {error}")))?;
    let path = dir.path().join("demo.db");
    let report = story(&bundle, &path, output)?;
    if output.json {
        output.value(&report)?;
    } else {
        print_costs(&report, output)?;
    }
    output.flush()?;
    match report.ok {
        true => Ok(()),
        false => Err(CliError::failed("demo_failed", "the demo did not end as it should")),
    }
}

/// The steps, each told as it happens.
fn story(bundle: &Bundle, path: &Path, output: &mut Output) -> Result<Report> {
    let mut clock = Clock::default();
    let rows = bundle.documents.len();
    say(
        output,
        format_args!("1. A child process imports {rows} passages of the Rust documentation, and is killed."),
    )?;
    let crash = clock.time("import in a child, until SIGKILL", || crash::import_and_kill(bundle, path))?;
    say(output, format_args!("   SIGKILL after it had acknowledged {} of {rows} rows.", crash.acknowledged))?;

    say(output, "2. The database is opened again.")?;
    let db = clock.time("opening after the kill", || Ok(Database::open(path)?))?;
    let collection = db.collection(COLLECTION)?;
    let recovery = db.stats().recovery;
    say(
        output,
        format_args!("   {} of log replayed, {} records.", bytes(recovery.wal_bytes), recovery.records),
    )?;
    let survivors = clock
        .time("comparing every row with its source", || crash::survivors(bundle, &crash, &collection))?;
    say(output, format_args!("   {survivors}"))?;

    let resumed = clock.time("importing the rest", || resume(bundle, survivors.rows, &collection))?;
    say(
        output,
        format_args!("3. The import is resumed: {resumed} rows more, {} in all.", collection.count()?),
    )?;
    let log_bytes = db.stats().wal.bytes_appended;

    say(output, "4. What is only in the log is flushed into sealed files.")?;
    let flush = clock.time("flushing", || crate::commands::flush(&db))?;
    tell_flush(&flush, output)?;

    say(output, "5. Questions are answered.")?;
    let answers = clock.time("searching, approximate and exact", || answers::all(bundle, &collection))?;
    for line in answers.examples() {
        say(output, format_args!("   {line}"))?;
    }
    say(output, format_args!("   {answers}"))?;

    let sealed_bytes = db.stats().collections.iter().map(|collection| collection.disk_bytes).sum();
    db.close()?;
    let verified = clock.time("verifying every byte", || Ok(plimsoll::verify(path)?))?;
    let damage = verified.findings.len();
    tell_verified(&verified, output)?;
    let ok = survivors.are_right()
        && collection_is_whole(survivors.rows + resumed, rows)
        && answers.are_right()
        && damage == 0;
    Ok(Report {
        ok,
        rows,
        crash,
        survivors,
        resumed,
        flush: FlushReport::from(&flush),
        answers,
        damage,
        seconds: clock.times.iter().map(|(what, time)| (*what, time.as_secs_f64())).collect(),
        bytes: vec![
            ("rows as JSON", bundle.json_bytes()),
            ("written to the log by the resumed import", log_bytes),
            ("sealed files", sealed_bytes),
            ("the directory, reserves included", disk_bytes(path)?),
        ],
    })
}

/// Stores the rows from `first` on.
fn resume(bundle: &Bundle, first: usize, collection: &Collection) -> Result<usize> {
    let rest = &bundle.documents[first.min(bundle.documents.len())..];
    for rows in rest.chunks(RESUME_ROWS) {
        let mut batch = WriteBatch::new();
        for document in rows {
            batch.upsert(document.clone());
        }
        collection.write(&batch)?;
    }
    Ok(rest.len())
}

fn collection_is_whole(stored: usize, rows: usize) -> bool {
    stored == rows
}

/// Tells a step, unless a program listens.
fn say(output: &mut Output, text: impl std::fmt::Display) -> Result<()> {
    if output.json {
        return Ok(());
    }
    output.line(text)?;
    output.flush()
}

fn tell_flush(flush: &FlushStats, output: &mut Output) -> Result<()> {
    flush.to_string().lines().try_for_each(|line| say(output, format_args!("   {line}")))
}

fn tell_verified(report: &VerifyReport, output: &mut Output) -> Result<()> {
    let (files, read) = (report.files, bytes(report.bytes));
    say(output, format_args!("6. Verified: {files} files, {read}, {} findings.", report.findings.len()))?;
    report.findings.iter().try_for_each(|finding| say(output, format_args!("   {finding}")))
}

fn print_costs(report: &Report, output: &mut Output) -> Result<()> {
    output.line("Where the time went:")?;
    for (what, seconds) in &report.seconds {
        output.line(format_args!("   {what:42}{:>12}", duration(Duration::from_secs_f64(*seconds))))?;
    }
    output.line("Where the bytes went:")?;
    for (what, count) in &report.bytes {
        output.line(format_args!("   {what:42}{:>12}", bytes(*count)))?;
    }
    output.line(if report.ok { "All is well." } else { "This is not as it should be." })
}

/// The bytes of all files in a directory.
fn disk_bytes(dir: &Path) -> Result<u64> {
    let sum = || -> std::io::Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            sum += match entry.file_type()?.is_dir() {
                true => disk_bytes(&entry.path()).map_err(std::io::Error::other)?,
                false => entry.metadata()?.len(),
            };
        }
        Ok(sum)
    };
    sum().map_err(|error| CliError::file(dir, &error))
}
