//! `plimsoll jobs`: what was done in the background, and what is still to be done.

use std::time::{Duration, SystemTime};

use comfy_table::{Table, presets};
use plimsoll::{Database, FlushStats, JobId, JobOutcome, JobRecord, JobTarget};
use serde::Serialize;

use super::flush::FlushReport;
use crate::args::{Jobs, JobsAction, Reading};
use crate::error::Result;
use crate::output::{Output, duration};

/// A job, for JSON. Times are in seconds since 1970.
#[derive(Serialize)]
pub(super) struct Report {
    id: u64,
    kind: &'static str,
    target: String,
    state: &'static str,
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    attempts: u32,
    queued_at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flush: Option<FlushReport>,
}

impl From<&JobRecord> for Report {
    fn from(record: &JobRecord) -> Self {
        Self {
            id: record.id.0,
            kind: record.kind.name(),
            target: target_of(&record.target),
            state: record.state.name(),
            priority: record.priority.name(),
            reason: record.reason.map(plimsoll::FlushReason::name),
            attempts: record.attempts,
            queued_at: seconds(record.queued_at),
            started_at: record.started_at.map(seconds),
            finished_at: record.finished_at.map(seconds),
            first_lsn: record.lsns.map(|(first, _)| first.0),
            last_lsn: record.lsns.map(|(_, last)| last.0),
            summary: record.summary.clone(),
            error: record.error.clone(),
            flush: stats_of(record).map(FlushReport::from),
        }
    }
}

fn target_of(target: &JobTarget) -> String {
    match target {
        JobTarget::Database => "all".to_owned(),
        other => other.to_string(),
    }
}

fn stats_of(record: &JobRecord) -> Option<&FlushStats> {
    match &record.outcome {
        Some(JobOutcome::Flush(stats)) => Some(stats),
        _ => None,
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

pub(super) fn run(args: &Jobs, output: &mut Output) -> Result<()> {
    let dir = &args.dir.dir;
    let reader = |output: &Output| super::reader(dir, Reading { salvage: false }, output);
    match args.action {
        JobsAction::Ls { limit } => list(&reader(output)?.jobs(limit)?, output),
        JobsAction::Show { id } => show(&reader(output)?.job(JobId(id))?, output),
        JobsAction::Cancel { id } => {
            // Without threads of its own, which would begin what is to be cancelled.
            let db = Database::builder(dir).create(false).background(false).open()?;
            db.cancel_job(JobId(id))?;
            let record = db.job(JobId(id))?;
            db.close()?;
            output.either(&Report::from(&record), format_args!("job {id} is cancelled"))
        }
        JobsAction::Retry { id } => {
            let db = super::writer(dir)?;
            let job = db.retry_job(JobId(id))?;
            let ended = job.wait();
            let record = job.record();
            db.close()?;
            ended?;
            show(&record, output)
        }
    }
}

fn list(records: &[JobRecord], output: &mut Output) -> Result<()> {
    if output.json {
        return records.iter().try_for_each(|record| output.value(&Report::from(record)));
    }
    if records.is_empty() {
        return output.line("no jobs yet");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["job", "kind", "target", "state", "reason", "attempts", "began", "took", "what"]);
    for record in records {
        let what = match (stats_of(record), &record.error, &record.summary) {
            (Some(stats), ..) if !stats.is_empty() => {
                format!("{} rows, LSN {} to {}", stats.rows, stats.first_lsn, stats.last_lsn)
            }
            (_, Some(error), _) if record.state != plimsoll::JobState::Completed => error.clone(),
            (.., Some(summary)) => summary.clone(),
            _ => String::new(),
        };
        table.add_row([
            record.id.to_string(),
            record.kind.to_string(),
            target_of(&record.target),
            record.state.to_string(),
            record.reason.map(|reason| reason.to_string()).unwrap_or_default(),
            record.attempts.to_string(),
            record.started_at.map(time).unwrap_or_default(),
            record.duration().map(duration).unwrap_or_default(),
            what,
        ]);
    }
    output.line(table)
}

/// A time to the second, as UTC.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

fn show(record: &JobRecord, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(&Report::from(record));
    }
    let JobRecord { id, kind, state, priority, attempts, .. } = record;
    output.line(format_args!("job       {id}: {kind} of {}, {state}", target_of(&record.target)))?;
    let reason = record.reason.map(|reason| format!(", reason: {reason}")).unwrap_or_default();
    output.line(format_args!("priority  {priority}{reason}, attempts: {attempts}"))?;
    output.line(format_args!("queued    {}", time(record.queued_at)))?;
    if let Some(started) = record.started_at {
        output.line(format_args!("began     {}", time(started)))?;
    }
    if let Some(finished) = record.finished_at {
        let took = record.duration().map(|took: Duration| format!(", after {}", duration(took)));
        output.line(format_args!("ended     {}{}", time(finished), took.unwrap_or_default()))?;
    }
    if let Some(error) = &record.error {
        output.line(format_args!("error     {error}"))?;
    }
    match (stats_of(record), &record.summary) {
        (Some(stats), _) => output.line(stats),
        (None, Some(summary)) => output.line(summary),
        (None, None) => Ok(()),
    }
}
