//! The rules of the caller that can be checked call by call, without knowing what a file means.

use std::collections::BTreeMap;
use std::path::Path;

use crate::names::InodeId;

/// What happened to an inode since the storage was made.
#[derive(Debug, Default, Clone, Copy)]
struct History {
    /// Handles that are open now.
    open: u32,
    append_failed: bool,
    sync_failed: bool,
    mapped: bool,
}

/// The histories, and the rules that were broken.
#[derive(Debug, Default)]
pub(crate) struct Protocol {
    histories: BTreeMap<InodeId, History>,
    violations: Vec<String>,
}

impl Protocol {
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn opened(&mut self, inode: InodeId) {
        self.history(inode).open += 1;
    }

    pub(crate) fn closed(&mut self, inode: InodeId) {
        let history = self.history(inode);
        history.open = history.open.saturating_sub(1);
    }

    pub(crate) fn is_open(&self, inode: InodeId) -> bool {
        self.histories.get(&inode).is_some_and(|history| history.open > 0)
    }

    pub(crate) fn append_failed(&mut self, inode: InodeId) {
        self.history(inode).append_failed = true;
    }

    pub(crate) fn sync_failed(&mut self, inode: InodeId) {
        self.history(inode).sync_failed = true;
    }

    /// A file is about to be written to.
    pub(crate) fn writing(&mut self, inode: InodeId, path: &Path, number: u64) {
        let history = *self.history(inode);
        self.check(!history.sync_failed, number, path, "written to after a failed sync");
        self.check(!history.append_failed, number, path, "written to after a failed append");
        self.check(!history.mapped, number, path, "written to after it was mapped");
    }

    /// A file is about to be synced.
    pub(crate) fn syncing(&mut self, inode: InodeId, path: &Path, number: u64) {
        let failed = self.history(inode).sync_failed;
        self.check(!failed, number, path, "synced again after a failed sync, as if that could be believed");
    }

    /// A file is about to be renamed.
    pub(crate) fn renaming(&mut self, inode: InodeId, has_unsynced: bool, to: &Path, number: u64) {
        if to.extension().is_some_and(|extension| extension == "tmp") {
            return;
        }
        let failed = self.history(inode).sync_failed;
        self.check(!failed, number, to, "published after a failed sync");
        self.check(failed || !has_unsynced, number, to, "published with unsynced bytes");
    }

    /// A file is about to be mapped.
    pub(crate) fn mapping(&mut self, inode: InodeId, has_unsynced: bool, path: &Path, number: u64) {
        self.history(inode).mapped = true;
        self.check(!has_unsynced, number, path, "mapped with unsynced bytes");
    }

    /// A file is about to be removed that is still needed.
    pub(crate) fn removed(&mut self, path: &Path, number: u64, why: &str) {
        self.check(false, number, path, &format!("removed while a power cut could still need it: {why}"));
    }

    fn history(&mut self, inode: InodeId) -> &mut History {
        self.histories.entry(inode).or_default()
    }

    fn check(&mut self, holds: bool, number: u64, path: &Path, what: &str) {
        if !holds {
            self.violations.push(format!("operation #{number}: {} {what}", path.display()));
        }
    }
}
