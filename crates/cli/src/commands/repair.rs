//! `plimsoll repair`: makes a damaged database one that opens, and says what was saved and what is lost.

use plimsoll::{CollectionRepair, Error, RepairReport, StorageError};
use plimsoll_lines::KeyJson;
use serde::Serialize;

use super::verify::FindingReport;
use crate::args::Dir;
use crate::error::{CliError, Result};
use crate::output::{Output, counted};

#[derive(Serialize)]
struct Report {
    damaged: bool,
    findings: Vec<FindingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    collections: Vec<Collection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Log>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_to: Option<String>,
    files_moved: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
}

#[derive(Serialize)]
struct Collection {
    name: String,
    documents_kept: u64,
    documents_lost: u64,
    lost_ids: Vec<serde_json::Value>,
    deletions_lost: u64,
    rebuilt: Vec<String>,
}

#[derive(Serialize)]
struct Log {
    batches_kept: u64,
    batches_lost: u64,
    lsns_lost: Vec<[u64; 2]>,
    uncounted: bool,
}

impl From<&RepairReport> for Report {
    fn from(report: &RepairReport) -> Self {
        let ids = |repair: &CollectionRepair| {
            repair.lost_keys.iter().filter_map(|key| serde_json::to_value(KeyJson(key)).ok()).collect()
        };
        let collection = |repair: &CollectionRepair| Collection {
            name: repair.name.clone(),
            documents_kept: repair.documents_kept,
            documents_lost: repair.documents_lost,
            lost_ids: ids(repair),
            deletions_lost: repair.deletions_lost,
            rebuilt: repair.rebuilt.clone(),
        };
        let log = report.log.as_ref();
        Self {
            damaged: report.was_damaged(),
            findings: report.findings.iter().map(FindingReport::from).collect(),
            manifest: report.manifest.clone(),
            collections: report.collections.iter().map(collection).collect(),
            log: log.map(|log| Log {
                batches_kept: log.batches_kept,
                batches_lost: log.batches_lost,
                lsns_lost: log.lsns_lost.iter().map(|(first, last)| [first.0, last.0]).collect(),
                uncounted: log.uncounted,
            }),
            moved_to: report.moved_to.as_ref().map(|path| path.display().to_string()),
            files_moved: report.files_moved,
            earlier: report.earlier.iter().map(|path| path.display().to_string()).collect(),
        }
    }
}

pub(super) fn run(args: &Dir, output: &mut Output) -> Result<()> {
    let report = plimsoll::repair(&args.dir).map_err(|error| match error {
        Error::Storage(StorageError::Corrupted { .. } | StorageError::Io { .. }) => CliError::Repair(error),
        error => error.into(),
    })?;
    if output.json {
        return output.value(&Report::from(&report));
    }
    if !report.was_damaged() {
        return output.line("ok: nothing is damaged, nothing was changed");
    }
    output.line(report.to_string().trim_end())?;
    if let Some(moved_to) = &report.moved_to {
        let moved_to = moved_to.display();
        match report.files_moved {
            0 => output.line(format_args!("this report is in {moved_to}"))?,
            files => {
                let files = counted(files, "file", "files");
                output.line(format_args!(
                    "{files} that the database does without, and this report, are in {moved_to}"
                ))?;
            }
        }
    }
    let uncounted = report.manifest.is_some() || report.log.as_ref().is_some_and(|log| log.uncounted);
    output.line(match (report.lost_anything(), uncounted, report.earlier.is_empty()) {
        (true, _, _) => "repaired, with losses: what is there now is sound",
        (false, true, _) => {
            "repaired, perhaps with losses that can not be counted: what is there now is sound"
        }
        (false, false, false) => {
            "repaired: nothing more than what the earlier repair lost is known to be lost"
        }
        (false, false, true) => "repaired: nothing that was stored is known to be lost",
    })
}

/// Says on standard error what reading a damaged database without changing it leaves out.
pub(super) fn tell_salvaged(report: &RepairReport, json: bool) {
    if !report.was_damaged() {
        return;
    }
    if json {
        let salvaged = serde_json::json!({ "salvaged": Report::from(report) });
        eprintln!("{salvaged}");
    } else {
        report.to_string().lines().for_each(|line| eprintln!("plimsoll: {line}"));
    }
}
