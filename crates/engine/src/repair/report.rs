//! What a repair found, saved and lost: for programs, and in words.

use std::fmt;
use std::path::PathBuf;

use plimsoll_base::{Lsn, StorageError};

use crate::check::{Finding, Severity};
use crate::model::Key;

/// What [`repair`](crate::repair()) found and did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was damaged. Empty: nothing was, and nothing was done.
    pub findings: Vec<Finding>,
    /// Where the newest manifest was damaged: what was taken in its place, and what that means.
    pub manifest: Option<String>,
    /// The collections in which something was damaged.
    pub collections: Vec<CollectionRepair>,
    /// What became of the log, if it was damaged.
    pub log: Option<LogRepair>,
    /// Where the damaged files are now, if there are any.
    pub moved_to: Option<PathBuf>,
    /// How many files there are: damaged ones, and those that no manifest names any more.
    pub files_moved: u64,
    /// Where earlier repairs that were cut off have put files aside. What they lost is in the file `REPORT` there, and
    /// not in this report.
    pub earlier: Vec<PathBuf>,
}

/// What became of a damaged collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectionRepair {
    /// The collection.
    pub name: String,
    /// Documents it has now, without those that are in the log only.
    pub documents_kept: u64,
    /// Documents that it had in its files and that these have no more. Of some the log may have a newer version, which
    /// is there.
    pub documents_lost: u64,
    /// The keys of lost documents, as far as they can be read, a hundred at most.
    pub lost_keys: Vec<Key>,
    /// Documents that had been deleted or replaced and may be back, because the record of that is lost.
    pub deletions_lost: u64,
    /// What was made anew, such as `"lists"`.
    pub rebuilt: Vec<String>,
}

impl CollectionRepair {
    /// Whether data is known to be lost, or deletions to be undone.
    pub fn lost_anything(&self) -> bool {
        self.documents_lost > 0 || self.deletions_lost > 0
    }
}

/// What became of a damaged log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRepair {
    /// Batches that were read from it, and are in files now.
    pub batches_kept: u64,
    /// Batches that are known to be lost, each of them as a whole.
    pub batches_lost: u64,
    /// Their LSNs, from the first to the last of each gap.
    pub lsns_lost: Vec<(Lsn, Lsn)>,
    /// Whether more batches may be lost, and nobody knows how many: its end is damaged or gone, or its beginning is
    /// together with the newest manifest.
    pub uncounted: bool,
}

impl fmt::Display for RepairReport {
    /// What was damaged, what of it was saved and what is lost, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        for earlier in &self.earlier {
            let earlier = earlier.display();
            writeln!(
                f,
                "what an earlier repair, which was cut off, has put aside and lost is in {earlier}/REPORT"
            )?;
        }
        if let Some(manifest) = &self.manifest {
            writeln!(f, "manifest: {manifest}")?;
        }
        self.collections.iter().try_for_each(|repair| write!(f, "{repair}"))?;
        self.log.iter().try_for_each(|log| writeln!(f, "{log}"))
    }
}

/// A number of things, with their name in the singular and the plural.
fn counted(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

impl fmt::Display for CollectionRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        let documents = counted(self.documents_kept, "document", "documents");
        writeln!(f, "{name}: {documents} saved, {} lost", self.documents_lost)?;
        if !self.lost_keys.is_empty() {
            let keys: Vec<String> = self.lost_keys.iter().map(|key| format!("{key:#}")).collect();
            let others = match self.documents_lost.saturating_sub(keys.len() as u64) {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            writeln!(f, "{name}: lost are {}{others}", keys.join(", "))?;
        }
        if self.deletions_lost > 0 {
            let documents = counted(self.deletions_lost, "document", "documents");
            writeln!(f, "{name}: up to {documents} that had been deleted or replaced may be back")?;
        }
        if !self.rebuilt.is_empty() {
            writeln!(f, "{name}: made anew: {}", self.rebuilt.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for LogRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = counted(self.batches_kept, "batch", "batches");
        write!(f, "log: {kept} saved, {} lost", self.batches_lost)?;
        let range = |(first, last): &(Lsn, Lsn)| match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        };
        if !self.lsns_lost.is_empty() {
            let ranges: Vec<String> = self.lsns_lost.iter().map(range).collect();
            write!(f, " (LSN {})", ranges.join(", "))?;
        }
        if self.uncounted {
            write!(f, ", and perhaps more that can not be counted")?;
        }
        Ok(())
    }
}

impl RepairReport {
    /// Whether there was anything to repair.
    pub fn was_damaged(&self) -> bool {
        !self.findings.is_empty() || self.log.is_some()
    }

    /// Whether data is known to be lost, or deletions to be undone.
    pub fn lost_anything(&self) -> bool {
        self.collections.iter().any(CollectionRepair::lost_anything)
            || self.log.as_ref().is_some_and(|log| log.batches_lost > 0)
    }

    pub(super) fn found(&mut self, error: &StorageError) {
        let (file, offset, what) = match error {
            StorageError::Corrupted { file, offset, what } => (file.clone(), Some(*offset), what.clone()),
            StorageError::Io { path, source, .. } => (path.clone(), None, source.to_string()),
            other => (PathBuf::new(), None, other.to_string()),
        };
        self.findings.push(Finding { severity: Severity::Damage, file, offset, what });
    }
}
