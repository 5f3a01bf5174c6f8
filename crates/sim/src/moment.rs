//! The moments of a run, and every state that a power cut at one of them may leave behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::Content;
use crate::crash::{CrashPolicy, DirectoryModel, SECTOR, after_power_cut, prefix, settled, subset};
use crate::disk::{Change, Disk, Inode};
use crate::names::{InodeId, NameChange, Node};
use crate::state::{Boot, RemovalGuard, State};
use crate::storage::SimStorage;

/// The disk just before one of the numbered operations of a run.
#[derive(Debug, Clone)]
pub struct Moment {
    number: u64,
    disk: Disk,
    boot: Boot,
}

/// A change, or in a journal several, that a power cut at a [`Moment`] may undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChange {
    /// The file whose name or bytes it changes; for a journal the directory that changed first.
    pub path: PathBuf,
    /// What it changes.
    pub kind: PendingKind,
    /// How many changes of the run it stands for.
    pub changes: usize,
    /// How many different outcomes it may have, the first being that it is lost. See [`PendingKind`].
    pub outcomes: usize,
}

/// What a [`PendingChange`] changes, and thereby which outcomes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PendingKind {
    /// A name in a directory: lost, or kept.
    Name,
    /// Names, in the order of a journal: the first 0, 1, 2… of them are kept.
    Journal,
    /// A length: lost, or kept.
    Length,
    /// Bytes: lost, kept, or zeros of their length; if it is the last change of its file, also its first 1, 2…
    /// sectors without the rest.
    Write,
}

/// Where a pending change is found on the disk.
enum Place {
    Name(usize),
    Journal,
    Bytes(InodeId, usize),
}

impl Moment {
    /// The number of the operation that comes next.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What a power cut may leave, as [`SimStorage::after_crash`].
    #[must_use]
    pub fn power_cut(&self, model: DirectoryModel, policy: CrashPolicy) -> SimStorage {
        self.storage(model, after_power_cut(&self.disk, model, policy))
    }

    /// What a kill leaves, as [`SimStorage::after_kill`].
    #[must_use]
    pub fn kill(&self, model: DirectoryModel) -> SimStorage {
        self.storage(model, self.disk.clone())
    }

    /// Every change that a power cut may undo, in an order that depends on nothing but the run. What only
    /// concerns files that no outcome gives a name is left out.
    pub fn pending(&self, model: DirectoryModel) -> Vec<PendingChange> {
        self.places(model).into_iter().map(|(pending, _)| pending).collect()
    }

    /// What a power cut leaves when each change of [`Moment::pending`] has the outcome of that number.
    #[must_use]
    pub fn power_cut_with(&self, model: DirectoryModel, outcomes: &[usize]) -> SimStorage {
        let places = self.places(model);
        let chosen: Vec<(&Place, usize)> =
            places.iter().map(|(_, place)| place).zip(outcomes.iter().copied()).collect();
        let names = &self.disk.names;
        let journal =
            chosen.iter().find_map(|(place, outcome)| matches!(place, Place::Journal).then_some(*outcome));
        let tree = match model {
            DirectoryModel::Journalled => prefix(names, |settled, _| settled + journal.unwrap_or(0)),
            DirectoryModel::Strict => subset(names, |index| {
                chosen
                    .iter()
                    .any(|(place, outcome)| matches!(place, Place::Name(at) if *at == index) && *outcome == 1)
            }),
        };
        let content = |id: InodeId, inode: &Inode| {
            if inode.unsynced.is_empty() {
                return Arc::clone(&inode.durable);
            }
            let mut content = Content::clone(&inode.durable);
            for (place, outcome) in &chosen {
                if let Place::Bytes(of, index) = place
                    && *of == id
                {
                    survive(&inode.unsynced[*index].change, *outcome, &mut content);
                }
            }
            Arc::new(content)
        };
        let disk = Disk::recovered_by_inode(tree, content, &self.disk);
        self.storage(model, disk)
    }

    fn places(&self, model: DirectoryModel) -> Vec<(PendingChange, Place)> {
        let mut places = Vec::new();
        let pending = self.disk.names.pending();
        let first = match model {
            DirectoryModel::Journalled => settled(&self.disk.names),
            DirectoryModel::Strict => 0,
        };
        let open = || pending.iter().enumerate().skip(first).filter(|(_, pending)| !pending.synced);
        match model {
            DirectoryModel::Strict => places.extend(open().map(|(index, pending)| {
                let path = pending.change.path().to_path_buf();
                (PendingChange { path, kind: PendingKind::Name, changes: 1, outcomes: 2 }, Place::Name(index))
            })),
            DirectoryModel::Journalled => places.extend(open().next().map(|(_, earliest)| {
                let (path, changes) = (earliest.change.path().to_path_buf(), pending.len() - first);
                let journal =
                    PendingChange { path, kind: PendingKind::Journal, changes, outcomes: changes + 1 };
                (journal, Place::Journal)
            })),
        }
        for (id, path) in self.files() {
            let Some(inode) = self.disk.inode(id) else { continue };
            for (index, unsynced) in inode.unsynced.iter().enumerate() {
                let is_last = index + 1 == inode.unsynced.len();
                let (kind, outcomes) = outcomes(&unsynced.change, is_last);
                let path = path.clone();
                places.push((PendingChange { path, kind, changes: 1, outcomes }, Place::Bytes(id, index)));
            }
        }
        places
    }

    /// Every file that some outcome gives a name, with one of its names.
    fn files(&self) -> Vec<(InodeId, PathBuf)> {
        let names = &self.disk.names;
        let linked = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(inode) => Some((*inode, path.clone())),
            Node::Dir => None,
        };
        let renamed = names.pending().iter().filter_map(|pending| match &pending.change {
            NameChange::Link { path, inode } | NameChange::Rename { to: path, inode, .. } => {
                Some((*inode, path.clone()))
            }
            _ => None,
        });
        let all: BTreeSet<_> = names.on_disk().iter().filter_map(linked).chain(renamed).collect();
        let mut seen = BTreeSet::new();
        all.into_iter().filter(|(inode, _)| seen.insert(*inode)).collect()
    }

    fn storage(&self, model: DirectoryModel, disk: Disk) -> SimStorage {
        SimStorage::with(State::booted(disk, Boot { model, ..self.boot.clone() }))
    }
}

/// What kind of change it is, and how many outcomes it has.
fn outcomes(change: &Change, is_last: bool) -> (PendingKind, usize) {
    match change {
        Change::Extend { .. } | Change::Truncate { .. } => (PendingKind::Length, 2),
        Change::Write { offset, bytes } => {
            let torn = if is_last { sectors(*offset, bytes.len()) - 1 } else { 0 };
            (PendingKind::Write, 3 + torn)
        }
    }
}

/// How many sectors a write touches.
fn sectors(offset: u64, length: usize) -> usize {
    let last = (offset + length.max(1) as u64 - 1) / SECTOR;
    (last - offset / SECTOR + 1) as usize
}

/// Applies what the numbered outcome leaves of a change.
fn survive(change: &Change, outcome: usize, content: &mut Content) {
    match (outcome, change) {
        (0, _) => {}
        (2, Change::Write { offset, bytes }) => content.extend(offset + bytes.len() as u64),
        (3.., Change::Write { offset, bytes }) => {
            let kept = (outcome - 2) as u64 * SECTOR - offset % SECTOR;
            content.write(*offset, &bytes[..(kept as usize).min(bytes.len())]);
        }
        _ => change.apply(content),
    }
}

impl SimStorage {
    /// The moments of the run so far: before operation 0, before each next one, and now.
    pub fn moments(&self) -> impl Iterator<Item = Moment> + use<> {
        let (mut disk, steps, operations, boot) = {
            let state = self.state();
            (state.origin.clone(), state.steps.clone(), state.operations(), state.boot())
        };
        let mut steps = steps.into_iter().peekable();
        (0..=operations).map(move |number| {
            while let Some((_, effect)) = steps.next_if(|(begun, _)| *begun <= number) {
                disk.apply(&effect);
            }
            Moment { number, disk: disk.clone(), boot: boot.clone() }
        })
    }

    /// The moment now.
    pub fn now(&self) -> Moment {
        let state = self.state();
        Moment { number: state.operations(), disk: state.disk.clone(), boot: state.boot() }
    }

    /// A number that depends on the names and contents of all files, and on nothing else: two states with the
    /// same are equal, but for a chance of 1 in 2⁶⁴.
    pub fn fingerprint(&self) -> u64 {
        self.state().disk.fingerprint()
    }

    /// Asks `guard` about each file that is removed from now on, on this disk and on those it becomes after
    /// crashes. It is given the disk as a power cut that loses everything unsynced would leave it, without the
    /// file; an error becomes one of the [`SimStorage::violations`].
    pub fn guard_removals(&self, guard: impl Fn(&Self, &Path) -> Result<(), String> + Send + Sync + 'static) {
        self.state().removal_guard = Some(RemovalGuard(Arc::new(guard)));
    }
}
