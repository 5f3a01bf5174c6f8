//! The names of the simulated disk: what the running system sees, and which changes are still undoable.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The number of an inode.
pub(crate) type InodeId = u64;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Dir,
    File(InodeId),
}

/// One set of names by absolute path; the root is always there.
pub(crate) type Tree = BTreeMap<PathBuf, Node>;

/// A change to one directory.
#[derive(Debug, Clone)]
pub(crate) enum NameChange {
    MakeDir {
        path: PathBuf,
    },
    Link {
        path: PathBuf,
        inode: InodeId,
    },
    Unlink {
        path: PathBuf,
        inode: InodeId,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: InodeId,
    },
    /// The second half of a rename between directories, whose first is `Link` of `to`: the old name never
    /// goes without the new one being there.
    UnlinkMoved {
        from: PathBuf,
        to: PathBuf,
        inode: InodeId,
    },
}

impl NameChange {
    /// The name that changes; of a rename the old one.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::MakeDir { path } | Self::Link { path, .. } | Self::Unlink { path, .. } => path,
            Self::Rename { from, .. } | Self::UnlinkMoved { from, .. } => from,
        }
    }

    fn dir(&self) -> &Path {
        let path = self.path();
        path.parent().unwrap_or(path)
    }

    /// Applies the change if its precondition holds; a change that depends on a lost one is lost with it.
    pub(crate) fn apply(&self, tree: &mut Tree) {
        let is = |tree: &Tree, path: &Path, inode: InodeId| tree.get(path) == Some(&Node::File(inode));
        match self {
            Self::MakeDir { path } => {
                tree.entry(path.clone()).or_insert(Node::Dir);
            }
            Self::Link { path, inode } => {
                tree.entry(path.clone()).or_insert(Node::File(*inode));
            }
            Self::Unlink { path, inode } => {
                if is(tree, path, *inode) {
                    tree.remove(path);
                }
            }
            Self::Rename { from, to, inode } => {
                if is(tree, from, *inode) && !tree.contains_key(to) {
                    tree.remove(from);
                    tree.insert(to.clone(), Node::File(*inode));
                }
            }
            Self::UnlinkMoved { from, to, inode } => {
                if is(tree, from, *inode) && is(tree, to, *inode) {
                    tree.remove(from);
                }
            }
        }
    }
}

/// A change that a crash may still undo, or that waits for an earlier one which may be.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) change: NameChange,
    /// Whether its directory was synced since.
    pub(crate) synced: bool,
}

/// All names.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// What the running system sees.
    visible: Tree,
    /// What is on disk before any of `pending`.
    durable: Tree,
    /// Changes in order since the first that is not durable.
    pending: Vec<Pending>,
}

impl Names {
    /// A disk that holds `tree` and nothing that could be undone.
    pub(crate) fn durable(tree: Tree) -> Self {
        Self { visible: tree.clone(), durable: tree, pending: Vec::new() }
    }

    /// An empty root directory.
    pub(crate) fn empty() -> Self {
        Self::durable(Tree::from([(PathBuf::from("/"), Node::Dir)]))
    }

    pub(crate) fn visible(&self) -> &Tree {
        &self.visible
    }

    pub(crate) fn on_disk(&self) -> &Tree {
        &self.durable
    }

    pub(crate) fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Makes a change that is durable once its directory is synced.
    pub(crate) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.visible);
        self.pending.push(Pending { change, synced: false });
    }

    /// Makes the changes so far in `dir` durable.
    pub(crate) fn sync(&mut self, dir: &Path) {
        for pending in &mut self.pending {
            pending.synced |= pending.change.dir() == dir;
        }
        let settled = self.pending.iter().take_while(|pending| pending.synced).count();
        for pending in self.pending.drain(..settled) {
            pending.change.apply(&mut self.durable);
        }
    }

    /// Sets a name as if it had always been there (or, with `None`, never).
    pub(crate) fn set_durable(&mut self, path: &Path, node: Option<Node>) {
        for tree in [&mut self.visible, &mut self.durable] {
            match node {
                Some(node) => tree.insert(path.to_path_buf(), node),
                None => tree.remove(path),
            };
        }
    }

    /// What `path` stands for.
    ///
    /// # Errors
    /// `NotFound`, or `NotADirectory` when one of its parents is a file.
    pub(crate) fn lookup(&self, path: &Path) -> io::Result<Node> {
        if let Some(node) = self.visible.get(path) {
            return Ok(*node);
        }
        let nearest = path.ancestors().find_map(|ancestor| self.visible.get(ancestor));
        match nearest {
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Dir) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The inode of the file `path`.
    pub(crate) fn file(&self, path: &Path) -> io::Result<InodeId> {
        match self.lookup(path)? {
            Node::File(inode) => Ok(inode),
            Node::Dir => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Succeeds if `path` is a directory.
    pub(crate) fn is_dir(&self, path: &Path) -> io::Result<()> {
        match self.lookup(path)? {
            Node::Dir => Ok(()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Succeeds if a name could be made at `path`: it is free, in a directory that exists.
    pub(crate) fn is_free(&self, path: &Path) -> io::Result<()> {
        if self.visible.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.is_dir(path.parent().unwrap_or(path))
    }

    /// The directories that must be made for `dir` to exist, outermost first.
    pub(crate) fn missing_dirs(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for ancestor in dir.ancestors() {
            match self.visible.get(ancestor) {
                None => missing.push(ancestor.to_path_buf()),
                Some(Node::Dir) => break,
                Some(Node::File(_)) if missing.is_empty() => return Err(io::ErrorKind::AlreadyExists.into()),
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        missing.reverse();
        Ok(missing)
    }

    /// The entries of the directory `dir`, in order.
    pub(crate) fn children<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a Path, Node)> + 'a {
        self.visible
            .range(dir.to_path_buf()..)
            .take_while(move |(path, _)| path.starts_with(dir))
            .filter(move |(path, _)| path.parent() == Some(dir))
            .map(|(path, node)| (path.as_path(), *node))
    }
}

/// Removes the names that no chain of directories leads to: their directory's own name was lost.
pub(crate) fn reachable(tree: Tree) -> Tree {
    let mut kept = Tree::new();
    // Parents sort before their children.
    for (path, node) in tree {
        if path.parent().is_none_or(|parent| kept.get(parent) == Some(&Node::Dir)) {
            kept.insert(path, node);
        }
    }
    kept
}

/// The absolute form of `path`, without `.` and `..`; relative paths start at the root.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    absolute
}
