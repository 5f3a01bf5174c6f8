//! What readers see: one immutable value that says which memtables and files make up the database.
//!
//! A reader takes the current [`State`] and an LSN (see [`View`]) and needs nothing else; a seal, a flush, a
//! compaction, and the creation or dropping of a collection replace the state as a whole. No reader waits for
//! any of them, and none of them waits for a reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use plimsoll_base::sync::atomic::{AtomicU64, Ordering};
use plimsoll_base::{CollectionId, DocumentId, Lsn, StorageError, Version};
use plimsoll_shard::SealedView;

use crate::error::{Error, Result};
use crate::memtable::{Memtable, MemtableEntry};
use crate::model::{Document, Key};
use crate::options::CollectionConfig;
use crate::tree::{StoredPlace, Tree};

/// The whole database at one moment.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub collections: BTreeMap<CollectionId, Arc<CollectionState>>,
}

/// One collection at one moment.
#[derive(Clone)]
pub(crate) struct CollectionState {
    pub id: CollectionId,
    pub name: Arc<str>,
    pub config: CollectionConfig,
    pub active: Arc<Memtable>,
    /// Oldest first. They stay searchable until a manifest names what became of them.
    pub sealed: Vec<Sealed>,
    pub tree: Arc<Tree>,
    /// What keeps it from being written to and flushed: that would need what is damaged. Reads go on as far as
    /// they do without (rule R17), and all other collections are none the worse for it.
    pub damage: Option<StorageError>,
}

/// A memtable that takes no more writes.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub memtable: Arc<Memtable>,
    /// Every record up to here was applied when it was sealed (rule R3).
    pub seal: Lsn,
}

impl State {
    /// The collection of that name that a user made.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<CollectionState>> {
        self.users().find(|collection| &*collection.name == name)
    }

    /// This state with one collection replaced or added.
    pub(crate) fn with(&self, collection: CollectionState) -> Self {
        let mut next = self.clone();
        next.collections.insert(collection.id, Arc::new(collection));
        next
    }

    /// The collections that can be flushed.
    pub(crate) fn sound(&self) -> impl Iterator<Item = &Arc<CollectionState>> {
        self.collections.values().filter(|collection| collection.damage.is_none())
    }

    /// The last LSN up to which all that users wrote is in files, of those up to `visible`.
    pub(crate) fn flushed(&self, visible: Lsn) -> Lsn {
        let first = self.users().filter_map(|collection| collection.first_unflushed()).min();
        first.map_or(visible, |first| Lsn(first.0.saturating_sub(1)).min(visible))
    }

    /// The collections of users that can be flushed.
    pub(crate) fn sound_users(&self) -> impl Iterator<Item = &Arc<CollectionState>> {
        self.sound().filter(|collection| !collection.is_system())
    }

    /// Bytes of unflushed writes, over all collections of users that can be flushed. Records of jobs do not count: a flush
    /// makes more of them.
    pub(crate) fn memtable_bytes(&self) -> usize {
        self.sound_users().map(|collection| collection.active.bytes()).sum()
    }
}

impl CollectionState {
    pub(crate) fn new(tree: Tree) -> Self {
        let entry = &tree.entry;
        Self {
            id: entry.id,
            name: entry.name.as_str().into(),
            config: entry.config.clone(),
            active: Arc::new(Memtable::new(entry.config.dimension)),
            sealed: Vec::new(),
            damage: tree.damage().cloned(),
            tree: Arc::new(tree),
        }
    }

    /// The memtables, newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(self.sealed.iter().rev().map(|sealed| &sealed.memtable))
    }

    /// The first LSN that is in memory only.
    pub(crate) fn first_unflushed(&self) -> Option<Lsn> {
        self.memtables().filter_map(|memtable| memtable.lsns()).map(|(first, _)| first).min()
    }

    /// This collection with its writes so far sealed; `None` if there are none.
    pub(crate) fn seal(&self, seal: Lsn) -> Option<Self> {
        if self.active.is_empty() {
            return None;
        }
        let mut next = self.clone();
        next.sealed.push(Sealed { memtable: Arc::clone(&self.active), seal });
        next.active = Arc::new(Memtable::new(self.config.dimension));
        Some(next)
    }

    /// This collection after `flushed` became part of `tree`.
    pub(crate) fn flushed(&self, flushed: &[Sealed], tree: Arc<Tree>) -> Self {
        let mut next = self.clone();
        next.sealed
            .retain(|sealed| !flushed.iter().any(|done| Arc::ptr_eq(&done.memtable, &sealed.memtable)));
        next.tree = tree;
        next
    }

    /// The newest version of a document at or below `visible`.
    pub(crate) fn find(&self, id: DocumentId, visible: Lsn) -> Result<Option<Found<'_>>> {
        for memtable in self.memtables() {
            if let Some(entry) = memtable.get(id, visible) {
                return Ok((!entry.is_delete()).then_some(Found::Memory(entry)));
            }
        }
        Ok(self.tree.find(id)?.map(|place| Found::Stored(&self.tree, place)))
    }

    /// As [`CollectionState::find`], and requires that what is found has this very key.
    pub(crate) fn find_key(&self, key: &Key, visible: Lsn) -> Result<Option<Found<'_>>> {
        let Some(found) = self.find(key.id(), visible)? else { return Ok(None) };
        let stored = found.key()?;
        if stored == *key {
            return Ok(Some(found));
        }
        Err(Error::IdCollision { stored, given: key.clone() })
    }
}

/// A live version of a document.
pub(crate) enum Found<'a> {
    Memory(MemtableEntry<'a>),
    Stored(&'a Tree, StoredPlace),
}

impl Found<'_> {
    pub(crate) fn key(&self) -> Result<Key> {
        Ok(match self {
            Self::Memory(entry) => entry.key()?,
            Self::Stored(tree, place) => {
                let file = tree.posting(*place)?;
                Key::decode(file.key(place.document)?, file.sealed().path())?
            }
        })
    }

    pub(crate) fn version(&self) -> Result<Version> {
        Ok(match self {
            Self::Memory(entry) => entry.version(),
            Self::Stored(tree, place) => tree.posting(*place)?.entry(place.document)?.version(),
        })
    }

    pub(crate) fn document(&self) -> Result<Document> {
        match self {
            Self::Memory(entry) => Ok(entry.document()?),
            Self::Stored(tree, place) => tree.document(*place),
        }
    }
}

/// The state and the LSN that belongs to it, published without a lock.
pub(crate) struct Published {
    state: ArcSwap<State>,
    visible: AtomicU64,
}

/// A consistent view: a state, and the last LSN that is visible in it.
#[derive(Clone)]
pub(crate) struct View {
    pub state: Arc<State>,
    pub visible: Lsn,
}

impl Published {
    pub(crate) fn new(state: State, visible: Lsn) -> Self {
        Self { state: ArcSwap::from_pointee(state), visible: AtomicU64::new(visible.0) }
    }

    /// The current view.
    ///
    /// The LSN is read between two reads of the same state. Records above it go to the memtables of this or a
    /// later state, so the state holds everything at or below it; and the state's files hold nothing above
    /// it, because what was flushed had been visible before.
    pub(crate) fn view(&self) -> View {
        let mut state = self.state.load_full();
        loop {
            let visible = Lsn(self.visible.load(Ordering::SeqCst));
            let again = self.state.load_full();
            if Arc::ptr_eq(&state, &again) {
                return View { state, visible };
            }
            state = again;
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    pub(crate) fn visible(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::SeqCst))
    }

    /// Makes every record up to `lsn` visible. Only the commit leader calls this, after applying them.
    pub(crate) fn advance(&self, lsn: Lsn) {
        self.visible.fetch_max(lsn.0, Ordering::SeqCst);
    }

    /// Replaces the state by what `change` makes of it, which may be called more than once; `None` leaves it.
    pub(crate) fn update(&self, change: impl Fn(&State) -> Option<State>) {
        self.state.rcu(|state| change(state).map_or_else(|| Arc::clone(state), Arc::new));
    }
}
