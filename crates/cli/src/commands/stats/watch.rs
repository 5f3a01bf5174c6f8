//! `plimsoll stats --watch`: a database beside its writer, look after look.

use std::io::{IsTerminal as _, stdout};
use std::thread::sleep;
use std::time::{Duration, Instant};

use plimsoll::{Error, FlushStats, JobOutcome, JobRecord, JobState, ReadOnlyDatabase, Stats};
use serde::Serialize;

use super::{Args, Watermarks};
use crate::error::Result;
use crate::output::{Output, bytes, duration};

/// How many jobs are looked at.
const JOBS: usize = 100;

/// One look.
#[derive(Serialize)]
struct Look {
    lsn: Watermarks,
    /// What is written and not flushed.
    unflushed_rows: u64,
    unflushed_bytes: u64,
    flushed_rows: u64,
    disk_bytes: u64,
    queued: usize,
    running: usize,
    /// Changes since the look before, per second.
    batches_per_second: f64,
    flushed_rows_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_flush: Option<LastFlush>,
}

#[derive(Serialize)]
struct LastFlush {
    job: u64,
    reason: String,
    rows: u64,
    seconds: f64,
    slowest_phase: &'static str,
    #[serde(skip)]
    stats: FlushStats,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<()> {
    let mut db = ReadOnlyDatabase::open(&args.dir.dir)?;
    let mut before: Option<(Instant, Stats)> = None;
    let mut left = args.times;
    loop {
        let (stats, jobs) = (db.stats(), db.jobs(JOBS)?);
        let now = Instant::now();
        let look = Look::new(&stats, &jobs, before.as_ref().map(|(at, stats)| (now - *at, stats)));
        if output.json {
            output.value(&look)?;
        } else {
            print(&look, &jobs, output)?;
        }
        output.flush()?;
        left = left.map(|left| left - 1);
        if left == Some(0) {
            return Ok(());
        }
        before = Some((now, stats));
        sleep(args.interval);
        match db.refresh() {
            // The writer was quicker this time: the next look shows it.
            Ok(_) | Err(Error::Stalled(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Look {
    fn new(stats: &Stats, jobs: &[JobRecord], before: Option<(Duration, &Stats)>) -> Self {
        let sum = |of: fn(&plimsoll::CollectionStats) -> u64, stats: &Stats| -> u64 {
            stats.collections.iter().map(of).sum()
        };
        let rate = |of: &dyn Fn(&Stats) -> u64| {
            before.map_or(0.0, |(passed, before)| {
                of(stats).saturating_sub(of(before)) as f64 / passed.as_secs_f64().max(1e-9)
            })
        };
        let state = |wanted: &[JobState]| jobs.iter().filter(|job| wanted.contains(&job.state)).count();
        Self {
            lsn: Watermarks::from(&stats.lsn),
            unflushed_rows: sum(|c| c.memtable_rows, stats),
            unflushed_bytes: sum(|c| c.memtable_bytes, stats),
            flushed_rows: sum(|c| c.flushed_rows, stats),
            disk_bytes: sum(|c| c.disk_bytes, stats),
            queued: state(&[JobState::Queued, JobState::Retrying]),
            running: state(&[JobState::Running]),
            batches_per_second: rate(&|stats| stats.lsn.appended.0),
            flushed_rows_per_second: rate(&|stats| sum(|c| c.flushed_rows, stats)),
            last_flush: jobs.iter().find_map(LastFlush::of),
        }
    }
}

impl LastFlush {
    fn of(record: &JobRecord) -> Option<Self> {
        let Some(JobOutcome::Flush(stats)) = &record.outcome else { return None };
        (!stats.is_empty()).then(|| Self {
            job: record.id.0,
            reason: stats.reason.to_string(),
            rows: stats.rows,
            seconds: stats.total.as_secs_f64(),
            slowest_phase: stats.slowest_phase().0,
            stats: FlushStats::clone(stats),
        })
    }
}

fn print(look: &Look, jobs: &[JobRecord], output: &mut Output) -> Result<()> {
    if stdout().is_terminal() {
        // Home, and nothing below.
        output.text("\x1b[H\x1b[J")?;
    }
    let Watermarks { appended, durable, applied, flushed } = &look.lsn;
    output.line(format_args!(
        "LSN      appended {appended}, durable {durable}, applied {applied}, flushed {flushed}"
    ))?;
    output.line(format_args!(
        "rates    {:.0} batches/s written, {:.0} rows/s flushed",
        look.batches_per_second, look.flushed_rows_per_second
    ))?;
    output.line(format_args!(
        "rows     {} in files ({}), {} unflushed ({})",
        look.flushed_rows,
        bytes(look.disk_bytes),
        look.unflushed_rows,
        bytes(look.unflushed_bytes)
    ))?;
    output.line(format_args!("jobs     {} queued, {} running", look.queued, look.running))?;
    for job in jobs.iter().filter(|job| !job.state.is_final()) {
        let error = job.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        output
            .line(format_args!("         {} {} of {}, {}{error}", job.id, job.kind, job.target, job.state))?;
    }
    if let Some(last) = &look.last_flush {
        let took = duration(last.stats.total);
        output
            .line(format_args!("flush    job {}, {}: {} rows in {took}", last.job, last.reason, last.rows))?;
        for (name, took) in last.stats.phases() {
            output.line(format_args!("         {name:<17} {}", duration(took)))?;
        }
    }
    output.line("")
}
