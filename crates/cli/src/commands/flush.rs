//! `plimsoll flush`: moves what is only in the log into sealed files, and says what each phase took.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use plimsoll::{Database, FlushStats, JobHandle, JobOutcome, JobRequest};
use serde::Serialize;

use crate::args::Flush;
use crate::error::{CliError, Result};
use crate::output::Output;

/// What a flush did, for JSON. Times are in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct FlushReport {
    wal_drain: f64,
    shard_apply: f64,
    file_sync: f64,
    manifest_publish: f64,
    wal_advance: f64,
    validation: f64,
    total: f64,
    slowest_phase: &'static str,
    shards_touched: usize,
    files_synced: usize,
    operations_applied: u64,
    rows: u64,
    killed: u64,
    bytes_written: u64,
    first_lsn: u64,
    last_lsn: u64,
    reason: String,
    operations_per_second: f64,
    megabytes_per_second: f64,
}

impl From<&FlushStats> for FlushReport {
    fn from(stats: &FlushStats) -> Self {
        Self {
            wal_drain: stats.wal_drain.as_secs_f64(),
            shard_apply: stats.shard_apply.as_secs_f64(),
            file_sync: stats.file_sync.as_secs_f64(),
            manifest_publish: stats.manifest_publish.as_secs_f64(),
            wal_advance: stats.wal_advance.as_secs_f64(),
            validation: stats.validation.as_secs_f64(),
            total: stats.total.as_secs_f64(),
            slowest_phase: stats.slowest_phase().0,
            shards_touched: stats.shards_touched,
            files_synced: stats.files_synced,
            operations_applied: stats.operations_applied,
            rows: stats.rows,
            killed: stats.killed,
            bytes_written: stats.bytes_written,
            first_lsn: stats.first_lsn.0,
            last_lsn: stats.last_lsn.0,
            reason: stats.reason.to_string(),
            operations_per_second: stats.operations_per_second(),
            megabytes_per_second: stats.megabytes_per_second(),
        }
    }
}

/// Flushes, and says what that took, also when the background was quicker, or opening had to flush already.
pub(crate) fn flush(db: &Database) -> Result<FlushStats> {
    flushed(db, &db.start(JobRequest::flush())?)
}

/// What is printed of a flush that is waited for.
#[derive(Serialize)]
struct Waited {
    job: u64,
    #[serde(flatten)]
    report: FlushReport,
}

/// What is printed of a flush that is not waited for.
#[derive(Serialize)]
struct Started {
    job: u64,
}

pub(super) fn run(args: &Flush, output: &mut Output) -> Result<()> {
    if args.no_wait {
        return in_background(args, output);
    }
    let db = super::writer(&args.dir.dir)?;
    let request = match &args.collection {
        Some(name) => {
            super::named(db.collection(name), || super::names(&db))?;
            JobRequest::flush_collection(name)
        }
        None => JobRequest::flush(),
    };
    let job = db.start(request)?;
    if args.in_background {
        // Whoever has started this process reads the id, and is gone then.
        println!("{}", job.id());
        std::io::stdout().flush().map_err(|error| CliError::output(&error))?;
        job.wait()?;
        return Ok(db.close()?);
    }
    let stats = flushed(&db, &job)?;
    db.close()?;
    let report = FlushReport::from(&stats);
    output.either(&Waited { job: job.id().0, report }, format_args!("job {}: {stats}", job.id()))
}

/// What a flush did, also when opening had to flush already.
fn flushed(db: &Database, job: &JobHandle) -> Result<FlushStats> {
    let stats = match job.wait()? {
        JobOutcome::Flush(stats) => *stats,
        _ => FlushStats::default(),
    };
    let by_others = db.stats().last_flush.filter(|_| stats.is_empty());
    Ok(by_others.unwrap_or(stats))
}

/// Has another process flush, and returns as soon as that one has a durable record of the job.
fn in_background(args: &Flush, output: &mut Output) -> Result<()> {
    let failed = |what: &str, error: std::io::Error| CliError::failed("io", format!("{what}: {error}"));
    let program = std::env::current_exe().map_err(|error| failed("finding this program", error))?;
    let mut command = Command::new(program);
    command.arg("flush").arg("--in-background").arg("--json");
    if let Some(name) = &args.collection {
        // Also names that look like options.
        command.arg(format!("--collection={name}"));
    }
    command.arg("--").arg(&args.dir.dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|error| failed("starting a process in the background", error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(|error| failed("reading the job's id", error))?;
    }
    match line.trim().parse() {
        Ok(job) => output.either(&Started { job }, job),
        Err(_) => {
            // It has failed before it had a job, and said why.
            let ended = child.wait_with_output().map_err(|error| failed("waiting for the flush", error))?;
            Err(CliError::of_process(&String::from_utf8_lossy(&ended.stderr)))
        }
    }
}
