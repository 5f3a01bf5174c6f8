//! What a power cut may leave behind.
//!
//! For each inode: the synced bytes, and of each change since then nothing, all of it, its length without
//! its data, or any of its 512-byte sectors; each change on its own, so that a later one may survive an
//! earlier, with zeros in the gap. What a failed sync dropped stays undoable for ever. For the names: every change whose directory was synced afterwards, and of
//! the others what the [`DirectoryModel`] allows. A change that rests on a lost one is lost with it; a file
//! in a directory whose own name was lost is lost.

use std::sync::Arc;

use crate::content::Content;
use crate::disk::{Change, Disk, Inode};
use crate::names::{NameChange, Names, Tree, reachable};
use crate::random::SplitMix64;

/// The unit, in bytes, that a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

/// Which of the changes that a crash may undo it does undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPolicy {
    /// All of them: only what was synced is there.
    LoseAll,
    /// None of them: everything had just reached the disk. As to contents, this is also what a `kill -9`
    /// leaves; see [`SimStorage::after_kill`](crate::SimStorage::after_kill) for the difference.
    KeepAll,
    /// A choice that depends on the seed alone.
    Random(u64),
}

/// What is known about name changes whose directory was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DirectoryModel {
    /// They survive as a prefix, over all directories, in the order they were made; syncing one directory
    /// therefore settles everything before its last change (ext4, XFS, btrfs, NTFS).
    Journalled,
    /// Any subset may survive in which each change finds what it needs (what POSIX promises: nothing).
    #[default]
    Strict,
}

/// The disk that `disk` may be after a power cut.
pub(crate) fn after_power_cut(disk: &Disk, model: DirectoryModel, policy: CrashPolicy) -> Disk {
    match policy {
        CrashPolicy::KeepAll => {
            Disk::recovered(disk.names.visible().clone(), |inode| Arc::clone(&inode.visible), disk)
        }
        CrashPolicy::LoseAll => {
            let tree = match model {
                DirectoryModel::Journalled => prefix(&disk.names, |settled, _| settled),
                DirectoryModel::Strict => subset(&disk.names, |_| false),
            };
            Disk::recovered(tree, |inode| Arc::clone(&inode.durable), disk)
        }
        CrashPolicy::Random(seed) => {
            let mut random = SplitMix64::new(seed);
            let tree = match model {
                DirectoryModel::Journalled => prefix(&disk.names, |settled, all| {
                    // All, none, or any number of them.
                    match random.below(4) {
                        0 => settled,
                        1 => all,
                        _ => settled + random.below(all - settled + 1),
                    }
                }),
                DirectoryModel::Strict => {
                    let extent = Extent::choose(&mut random, disk.names.pending().len());
                    subset(&disk.names, |index| extent.keeps(&mut random, index))
                }
            };
            Disk::recovered(tree, |inode| survivors(inode, &mut random), disk)
        }
    }
}

/// The names after the first `cut(settled, all)` pending changes, of which `settled` can't be lost.
pub(crate) fn prefix(names: &Names, cut: impl FnOnce(usize, usize) -> usize) -> Tree {
    let pending = names.pending();
    let mut kept = cut(settled(names), pending.len());
    // A journal holds both halves of a rename between directories in one transaction.
    if pending.get(kept).is_some_and(|next| matches!(next.change, NameChange::UnlinkMoved { .. })) {
        kept += 1;
    }
    let mut tree = names.on_disk().clone();
    for pending in &pending[..kept] {
        pending.change.apply(&mut tree);
    }
    reachable(tree)
}

/// How many pending changes a journal can't lose: all up to the last that is synced.
pub(crate) fn settled(names: &Names) -> usize {
    names.pending().iter().rposition(|pending| pending.synced).map_or(0, |last| last + 1)
}

/// The names after those pending changes that are synced or that `keep` keeps.
pub(crate) fn subset(names: &Names, mut keep: impl FnMut(usize) -> bool) -> Tree {
    let mut tree = names.on_disk().clone();
    for (index, pending) in names.pending().iter().enumerate() {
        if pending.synced || keep(index) {
            pending.change.apply(&mut tree);
        }
    }
    reachable(tree)
}

/// How much of a sequence of changes survives. Independent coins alone would almost never lose or keep a
/// long sequence whole, and those are the likely crashes.
#[derive(Debug, Clone, Copy)]
enum Extent {
    None,
    All,
    Prefix(usize),
    Any,
}

impl Extent {
    fn choose(random: &mut SplitMix64, changes: usize) -> Self {
        match random.below(5) {
            0 => Self::None,
            1 => Self::All,
            2 => Self::Prefix(random.below(changes + 1)),
            _ => Self::Any,
        }
    }

    fn keeps(self, random: &mut SplitMix64, index: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Prefix(kept) => index < kept,
            Self::Any => random.coin(),
        }
    }
}

/// What of a file survives.
fn survivors(inode: &Inode, random: &mut SplitMix64) -> Arc<Content> {
    if inode.unsynced.is_empty() {
        return Arc::clone(&inode.durable);
    }
    let mut content = Content::clone(&inode.durable);
    let extent = Extent::choose(random, inode.unsynced.len());
    for (index, unsynced) in inode.unsynced.iter().enumerate() {
        match extent {
            Extent::Any => keep_some(&unsynced.change, &mut content, random),
            // The change at the cut itself was under way.
            Extent::Prefix(kept) if index == kept => keep_some(&unsynced.change, &mut content, random),
            _ if extent.keeps(random, index) => unsynced.change.apply(&mut content),
            _ => {}
        }
    }
    Arc::new(content)
}

/// Keeps none, all or a part of one change.
fn keep_some(change: &Change, content: &mut Content, random: &mut SplitMix64) {
    match (random.below(4), change) {
        (0, _) => {}
        (1, Change::Write { offset, bytes }) => content.extend(offset + bytes.len() as u64),
        (2, Change::Write { offset, bytes }) => tear(*offset, bytes, content, random),
        _ => change.apply(content),
    }
}

/// Keeps some sectors of a write, and perhaps its length.
fn tear(offset: u64, bytes: &[u8], content: &mut Content, random: &mut SplitMix64) {
    let mut start = 0;
    while start < bytes.len() {
        let at = offset + start as u64;
        let end = bytes.len().min(start + (SECTOR - at % SECTOR) as usize);
        if random.coin() {
            content.write(at, &bytes[start..end]);
        }
        start = end;
    }
    if random.coin() {
        content.extend(offset + bytes.len() as u64);
    }
}
