//! `plimsoll doctor`: whether a database is in good order, at a glance.

use std::time::{Duration, SystemTime};

use plimsoll::storage::{OsStorage, Storage as _};
use plimsoll::{JobKind, JobRecord, JobState, ReadOnlyDatabase};
use serde::Serialize;

use crate::args::{Dir, Reading};
use crate::error::{CliError, Result};
use crate::output::{Output, bytes, counted};

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    ok: bool,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<&'static str>,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { ok: true, what: what.into(), cure: None }
    }

    fn bad(what: impl Into<String>, cure: &'static str) -> Self {
        Self { ok: false, what: what.into(), cure: Some(cure) }
    }
}

/// Less room than this, and flushes and compactions may soon find none.
const ROOM: u64 = 256 << 20;
/// Jobs that failed longer ago are history.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// How many jobs are looked at.
const JOBS: usize = 200;

pub(super) fn run(args: &Dir, output: &mut Output) -> Result<()> {
    let db = super::reader(&args.dir, Reading { salvage: false }, output)?;
    let mut findings = vec![manifest(&db), log(&db), room(args)?];
    findings.extend(jobs(&db.jobs(JOBS)?));
    let report = Report { ok: findings.iter().all(|finding| finding.ok), findings };
    if output.json {
        output.value(&report)?;
    } else {
        for finding in &report.findings {
            output.line(format_args!("{}  {}", if finding.ok { "ok  " } else { "BAD " }, finding.what))?;
            if let Some(cure) = finding.cure {
                output.line(format_args!("      {cure}"))?;
            }
        }
    }
    if report.ok { Ok(()) } else { Err(CliError::Reported) }
}

fn manifest(db: &ReadOnlyDatabase) -> Finding {
    let collections = db.collections().len() as u64;
    let files: usize = db.stats().collections.iter().map(|c| c.posting_files + c.vector_segments).sum();
    let collections = counted(collections, "collection", "collections");
    let files = counted(files as u64, "posting and vector file", "posting and vector files");
    Finding::good(format!("the manifest, and every file that it names, is there: {collections}, {files}"))
}

fn log(db: &ReadOnlyDatabase) -> Finding {
    let stats = db.stats();
    let rows: u64 = stats.collections.iter().map(|collection| collection.memtable_rows).sum();
    let rows = counted(rows, "row", "rows");
    match db.pending_records() {
        0 => Finding::good(format!("{rows} wait in the log for their flush")),
        pending => Finding::good(format!(
            "{rows} wait in the log for their flush; {} more are not proven durable yet, which a writer does, or the \
             next opening",
            counted(pending, "write", "writes")
        )),
    }
}

fn room(args: &Dir) -> Result<Finding> {
    let free = OsStorage.free_space(&args.dir).map_err(plimsoll::Error::from)?;
    let what = format!("{} are free on the disk", bytes(free));
    Ok(if free < ROOM { Finding::bad(what, "make room, or move the database") } else { Finding::good(what) })
}

fn jobs(records: &[JobRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let now = SystemTime::now();
    let is_recent = |record: &&JobRecord| {
        let ended = record.finished_at.or(record.started_at).unwrap_or(record.queued_at);
        now.duration_since(ended).is_ok_and(|age| age < RECENT)
    };
    // What the newest flush says holds: what an earlier one left behind, it has flushed.
    let newest_flush = records.iter().find(|record| record.kind == JobKind::Flush);
    let is_bad = |record: &JobRecord| matches!(record.state, JobState::Failed | JobState::Retrying);
    if let Some(record) = newest_flush.filter(|record| is_bad(record)) {
        let error = record.error.as_deref().unwrap_or("the cause is not known");
        let what = format!("flushes fail: job {} is {}, {error}", record.id, record.state);
        findings.push(Finding::bad(
            what,
            "nothing is lost, the log has it; after five failures the writer refuses writes until a flush succeeds",
        ));
    }
    // Who has followed the advice is not given it again.
    let is_made_good = |failed: &JobRecord| {
        let mut later = records.iter().filter(|record| record.id > failed.id);
        later.any(|record| {
            (record.kind, &record.target) == (failed.kind, &failed.target)
                && matches!(record.state, JobState::Completed | JobState::Skipped)
        })
    };
    for record in records.iter().filter(is_recent) {
        if record.kind != JobKind::Flush && record.state == JobState::Failed && !is_made_good(record) {
            let error = record.error.as_deref().unwrap_or("the cause is not known");
            let what = format!("job {} ({} of {}) failed: {error}", record.id, record.kind, record.target);
            findings.push(Finding::bad(what, "`plimsoll jobs DIR retry ID` does it once more"));
        }
    }
    if findings.is_empty() {
        let open = records.iter().filter(|record| !record.state.is_final()).count() as u64;
        findings.push(Finding::good(match open {
            0 => "no job has failed lately".to_owned(),
            open => format!("no job has failed lately; {} to be done", counted(open, "is", "are")),
        }));
    }
    findings
}
