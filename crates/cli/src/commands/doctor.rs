//! `plimsoll doctor`: whether a database is in good order, at a glance.

use std::path::Path;
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
    cure: Option<String>,
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

    fn bad(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { ok: false, what: what.into(), cure: Some(cure.into()) }
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
    let free = OsStorage.free_space(&args.dir).map_err(plimsoll::Error::from)?;
    let mut findings = vec![manifest(&db), log(&db), room(free)];
    findings.extend(jobs(&args.dir, &db.jobs(JOBS)?));
    let report = Report { ok: findings.iter().all(|finding| finding.ok), findings };
    if output.json {
        output.value(&report)?;
    } else {
        for finding in &report.findings {
            output.line(format_args!("{}  {}", if finding.ok { "ok  " } else { "BAD " }, finding.what))?;
            if let Some(cure) = &finding.cure {
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

fn room(free: u64) -> Finding {
    let what = format!("{} are free on the disk", bytes(free));
    if free < ROOM { Finding::bad(what, "make room, or move the database") } else { Finding::good(what) }
}

fn jobs(dir: &Path, records: &[JobRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let now = SystemTime::now();
    let is_recent = |record: &JobRecord| {
        let ended = record.finished_at.or(record.started_at).unwrap_or(record.queued_at);
        now.duration_since(ended).is_ok_and(|age| age < RECENT)
    };
    for kind in JobKind::ALL {
        // The newest of a kind says whether they work: what an earlier one has left undone, it has done.
        let is_it = |record: &&JobRecord| record.kind == *kind && record.state != JobState::Cancelled;
        let Some(newest) = records.iter().find(is_it) else { continue };
        let error = newest.error.as_deref().unwrap_or("the cause is not known");
        match (kind, newest.state) {
            (JobKind::Flush, JobState::Failed | JobState::Retrying) => findings.push(Finding::bad(
                format!("flushes fail: job {} is {}, {error}", newest.id, newest.state),
                "nothing is lost, the log has it; after five failures the writer refuses writes until a flush succeeds",
            )),
            (_, JobState::Failed) if is_recent(newest) => findings.push(Finding::bad(
                format!("the last {kind} failed, job {} of {}: {error}", newest.id, newest.target),
                format!("`plimsoll jobs {} retry {}` does it once more", dir.display(), newest.id),
            )),
            _ => {}
        }
    }
    if findings.is_empty() {
        let open = records.iter().filter(|record| !record.state.is_final()).count() as u64;
        findings.push(Finding::good(match open {
            0 => "the last jobs of each kind went well".to_owned(),
            open => {
                format!("the last jobs of each kind went well; {} to be done", counted(open, "is", "are"))
            }
        }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_little_room_is_found() {
        assert!(room(ROOM).ok && room(u64::MAX).ok);
        let little = room(ROOM - 1);
        assert!(!little.ok && little.cure.is_some() && little.what.contains("MiB"), "{}", little.what);
    }
}
