//! `plimsoll repair`: makes a damaged database one that opens, and says what was saved and what is lost.

use plimsoll::{CollectionRepair, RepairReport};
use serde::Serialize;

use super::verify::FindingReport;
use crate::args::Dir;
use crate::error::Result;
use crate::json::KeyJson;
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
                uncounted: log.uncounted,
            }),
            moved_to: report.moved_to.as_ref().map(|path| path.display().to_string()),
            files_moved: report.files_moved,
        }
    }
}

pub(super) fn run(args: &Dir, output: &mut Output) -> Result<()> {
    let report = plimsoll::repair(&args.dir)?;
    if output.json {
        return output.value(&Report::from(&report));
    }
    if !report.was_damaged() {
        return output.line("ok: nothing is damaged, nothing was changed");
    }
    tell(&report, |line| output.line(line))?;
    if let Some(moved_to) = &report.moved_to {
        let files = counted(report.files_moved, "file", "files");
        output.line(format_args!("{files} moved to {}", moved_to.display()))?;
    }
    let uncounted = report.manifest.is_some() || report.log.as_ref().is_some_and(|log| log.uncounted);
    output.line(match (report.lost_anything(), uncounted) {
        (true, _) => "repaired, with losses: what is there now is sound",
        (false, true) => "repaired, perhaps with losses that can not be counted: what is there now is sound",
        (false, false) => "repaired: nothing that was stored is known to be lost",
    })
}

/// Says what was damaged, what of it was saved and what is lost, a line each.
pub(super) fn tell(report: &RepairReport, mut line: impl FnMut(String) -> Result<()>) -> Result<()> {
    report.findings.iter().try_for_each(|finding| line(finding.to_string()))?;
    if let Some(manifest) = &report.manifest {
        line(format!("manifest: {manifest}"))?;
    }
    for repair in &report.collections {
        tell_collection(repair, &mut line)?;
    }
    if let Some(log) = &report.log {
        let kept = counted(log.batches_kept, "batch", "batches");
        let end = if log.uncounted { ", and perhaps more that can not be counted" } else { "" };
        line(format!("log: {kept} saved, {} lost{end}", log.batches_lost))?;
    }
    Ok(())
}

fn tell_collection(repair: &CollectionRepair, line: &mut impl FnMut(String) -> Result<()>) -> Result<()> {
    let name = &repair.name;
    let documents = counted(repair.documents_kept, "document", "documents");
    line(format!("{name}: {documents} saved, {} lost", repair.documents_lost))?;
    if !repair.lost_keys.is_empty() {
        let keys: Vec<String> = repair.lost_keys.iter().map(|key| format!("{key:#}")).collect();
        let others = match repair.documents_lost.saturating_sub(keys.len() as u64) {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        line(format!("{name}: lost are {}{others}", keys.join(", ")))?;
    }
    if repair.deletions_lost > 0 {
        let documents = counted(repair.deletions_lost, "document", "documents");
        line(format!("{name}: up to {documents} that had been deleted or replaced may be back"))?;
    }
    if repair.rebuilt.is_empty() {
        Ok(())
    } else {
        line(format!("{name}: made anew: {}", repair.rebuilt.join(", ")))
    }
}
