//! `plimsoll verify`: checks every byte of a database, also of one that does not open, and changes nothing.

use std::sync::Arc;

use plimsoll::storage::{OsStorage, Storage};
use plimsoll::{Finding, Severity, VerifyReport};
use serde::Serialize;

use crate::args::Dir;
use crate::error::{CliError, Result};
use crate::output::{Output, bytes, counted};
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    ok: bool,
    findings: Vec<FindingReport>,
    files: u64,
    bytes: u64,
    rows: u64,
}

/// One finding, for JSON.
#[derive(Serialize)]
pub(super) struct FindingReport {
    severity: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    what: String,
}

impl From<&Finding> for FindingReport {
    fn from(finding: &Finding) -> Self {
        Self {
            severity: if is_damage(finding) { "damage" } else { "note" },
            file: finding.file.display().to_string(),
            offset: finding.offset,
            what: finding.what.clone(),
        }
    }
}

fn is_damage(finding: &Finding) -> bool {
    finding.severity == Severity::Damage
}

pub(super) fn run(args: &Dir, output: &mut Output) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(OsStorage);
    let bar = Progress::bytes(output.json, "verifying");
    let report = plimsoll::verify_with(&args.dir, &storage, |now| bar.reach(now.bytes, now.total))?;
    drop(bar);
    let damaged = report.findings.iter().any(is_damage);
    if output.json {
        let VerifyReport { findings, files, bytes, rows, .. } = &report;
        let findings = findings.iter().map(FindingReport::from).collect();
        let (files, bytes, rows) = (*files, *bytes, *rows);
        output.value(&Report { ok: !damaged, findings, files, bytes, rows })?;
    } else {
        for finding in &report.findings {
            output.line(finding)?;
        }
        let files = counted(report.files, "file", "files");
        let verdict = if damaged { "damaged" } else { "ok" };
        output.line(format_args!("{verdict}: {files}, {}, {} rows", bytes(report.bytes), report.rows))?;
    }
    output.flush()?;
    if damaged { Err(CliError::Reported) } else { Ok(()) }
}
