//! The simulated disk with its page cache, as a pure state machine over effects.

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::Content;
use crate::names::{InodeId, NameChange, Names, Node};

/// A change to the bytes of a file that a crash may undo.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Extend { len: u64 },
    Truncate { len: u64 },
}

impl Change {
    pub(crate) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(*offset, bytes),
            Self::Extend { len } => content.extend(*len),
            Self::Truncate { len } => content.resize(*len),
        }
    }
}

/// A change since the last successful sync.
#[derive(Debug, Clone)]
pub(crate) struct Unsynced {
    pub(crate) change: Change,
    /// How many changes of the file there were before it.
    number: u64,
    /// Whether a sync of it failed: its pages are marked clean, and no later sync writes them.
    dropped: bool,
}

/// A file: what reads see, and what is known to be on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inode {
    pub(crate) visible: Arc<Content>,
    pub(crate) durable: Arc<Content>,
    /// In order. `visible` is `durable` with all of them applied, but for dropped ones that later syncs
    /// have overtaken.
    pub(crate) unsynced: Vec<Unsynced>,
    /// How many changes there were.
    changes: u64,
    links: u32,
}

impl Inode {
    /// A file that a sync has just made durable.
    pub(crate) fn durable(content: Arc<Content>) -> Self {
        Self { visible: Arc::clone(&content), durable: content, ..Self::default() }
    }

    fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.visible));
        self.unsynced.push(Unsynced { change, number: self.changes, dropped: false });
        self.changes += 1;
    }

    /// Makes the first so many changes durable.
    fn sync(&mut self, covered: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|unsynced| {
            let stays = unsynced.dropped || unsynced.number >= covered;
            if !stays {
                unsynced.change.apply(Arc::make_mut(durable));
            }
            stays
        });
    }

    fn drop_dirty_pages(&mut self) {
        for unsynced in &mut self.unsynced {
            unsynced.dropped = true;
        }
    }

    fn edit(&mut self, change: &Change) {
        change.apply(Arc::make_mut(&mut self.visible));
        change.apply(Arc::make_mut(&mut self.durable));
    }
}

/// One step of the state machine. A call is one or more of them; a call without effect is none.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    MakeDir(PathBuf),
    Create(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDir(PathBuf),
    Change(InodeId, Change),
    /// A sync of the first so many changes.
    Sync(InodeId, u64),
    /// A sync that failed.
    DropDirtyPages(InodeId),
    /// A file put there by a test, as if it had always been there.
    Put(PathBuf, Arc<Content>),
    /// A directory put there by a test, with its parents, as if they had always been there.
    PutDir(PathBuf),
    /// A file taken away by a test, as if it had never been there.
    Delete(PathBuf),
    /// A change of the bytes at rest, by a test.
    Edit(InodeId, Change),
}

/// Inodes and names.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    inodes: BTreeMap<InodeId, Inode>,
    pub(crate) names: Names,
    next_inode: InodeId,
}

impl Disk {
    pub(crate) fn empty() -> Self {
        Self { inodes: BTreeMap::new(), names: Names::empty(), next_inode: 1 }
    }

    /// The disk that comes back after a crash: `tree` with the contents of its files, all of it durable.
    pub(crate) fn recovered(
        tree: BTreeMap<PathBuf, Node>,
        mut content: impl FnMut(&Inode) -> Arc<Content>,
        old: &Self,
    ) -> Self {
        Self::recovered_by_inode(tree, |_, inode| content(inode), old)
    }

    /// As [`Disk::recovered`], with contents that may depend on which inode it is.
    pub(crate) fn recovered_by_inode(
        tree: BTreeMap<PathBuf, Node>,
        mut content: impl FnMut(InodeId, &Inode) -> Arc<Content>,
        old: &Self,
    ) -> Self {
        let mut inodes: BTreeMap<InodeId, Inode> = BTreeMap::new();
        let mut linked: Vec<_> = tree.values().copied().filter_map(file_of).collect();
        linked.sort_unstable();
        for id in linked {
            let inode = inodes.entry(id).or_insert_with(|| match old.inodes.get(&id) {
                Some(inode) => Inode::durable(content(id, inode)),
                None => Inode::default(),
            });
            inode.links += 1;
        }
        Self { inodes, names: Names::durable(tree), next_inode: old.next_inode }
    }

    pub(crate) fn inode(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(&id)
    }

    /// What reads of the inode see.
    pub(crate) fn content(&self, id: InodeId) -> Arc<Content> {
        self.inodes.get(&id).map(|inode| Arc::clone(&inode.visible)).unwrap_or_default()
    }

    pub(crate) fn len(&self, id: InodeId) -> u64 {
        self.inodes.get(&id).map_or(0, |inode| inode.visible.len())
    }

    /// How many changes of the inode there were.
    pub(crate) fn changes(&self, id: InodeId) -> u64 {
        self.inodes.get(&id).map_or(0, |inode| inode.changes)
    }

    /// A hash of the names and what reads of the files see.
    pub(crate) fn fingerprint(&self) -> u64 {
        // Its keys are fixed.
        let mut hasher = std::hash::DefaultHasher::new();
        for (path, node) in self.names.visible() {
            path.hash(&mut hasher);
            match node {
                Node::Dir => hasher.write_u8(0),
                Node::File(inode) => self.content(*inode).hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    /// Whether a crash could change what the inode holds.
    pub(crate) fn has_unsynced(&self, id: InodeId) -> bool {
        self.inodes.get(&id).is_some_and(|inode| !inode.unsynced.is_empty())
    }

    /// The bytes taken by files that have a name or that `is_open`.
    pub(crate) fn used(&self, is_open: impl Fn(InodeId) -> bool) -> u64 {
        let taken = self.inodes.iter().filter(|(id, inode)| inode.links > 0 || is_open(**id));
        taken.map(|(_, inode)| inode.visible.len()).sum()
    }

    /// Performs a step whose preconditions the caller has checked.
    pub(crate) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::MakeDir(path) => self.names.change(NameChange::MakeDir { path: path.clone() }),
            Effect::Create(path) => {
                let inode = self.add(Inode::default());
                self.names.change(NameChange::Link { path: path.clone(), inode });
            }
            Effect::Rename(from, to) => self.rename(from, to),
            Effect::Remove(path) => {
                if let Some(inode) = self.named(path) {
                    self.unlink(inode);
                    self.names.change(NameChange::Unlink { path: path.clone(), inode });
                }
            }
            Effect::SyncDir(dir) => self.names.sync(dir),
            Effect::Change(id, change) => self.with(*id, |inode| inode.change(change.clone())),
            Effect::Sync(id, covered) => self.with(*id, |inode| inode.sync(*covered)),
            Effect::DropDirtyPages(id) => self.with(*id, Inode::drop_dirty_pages),
            Effect::Put(path, content) => self.put(path, Arc::clone(content)),
            Effect::PutDir(path) => self.put_dir(path),
            Effect::Delete(path) => {
                if let Some(inode) = self.named(path) {
                    self.unlink(inode);
                    self.names.set_durable(path, None);
                }
            }
            Effect::Edit(id, change) => self.with(*id, |inode| inode.edit(change)),
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let Some(inode) = self.named(from) else { return };
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        if from.parent() == to.parent() {
            self.names.change(NameChange::Rename { from, to, inode });
        } else {
            self.names.change(NameChange::Link { path: to.clone(), inode });
            self.names.change(NameChange::UnlinkMoved { from, to, inode });
        }
    }

    fn put(&mut self, path: &Path, content: Arc<Content>) {
        if let Some(replaced) = self.named(path) {
            self.unlink(replaced);
        }
        self.put_dir(path.parent().unwrap_or(path));
        let inode = self.add(Inode::durable(content));
        self.names.set_durable(path, Some(Node::File(inode)));
    }

    fn put_dir(&mut self, path: &Path) {
        for dir in path.ancestors() {
            self.names.set_durable(dir, Some(Node::Dir));
        }
    }

    /// Adds a file with one name.
    fn add(&mut self, inode: Inode) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode { links: 1, ..inode });
        id
    }

    fn unlink(&mut self, id: InodeId) {
        self.with(id, |inode| inode.links = inode.links.saturating_sub(1));
    }

    fn named(&self, path: &Path) -> Option<InodeId> {
        self.names.visible().get(path).copied().and_then(file_of)
    }

    fn with(&mut self, id: InodeId, step: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            step(inode);
        }
    }
}

fn file_of(node: Node) -> Option<InodeId> {
    match node {
        Node::File(inode) => Some(inode),
        Node::Dir => None,
    }
}
