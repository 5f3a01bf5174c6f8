//! Which stored documents a memtable has newer versions of: their rows do not count any more.
//!
//! A search would have to ask that of every row that may be among the best, by the id of its document, which it has to
//! read first. So the ids that a memtable writes are looked up in the files instead, each once, and the ordinals found are
//! kept. Searches that come by do that, some ids each, so that writes cost no more for it; one search at a time does it,
//! and the others ask as long as not all ids were looked up.
//!
//! The set is of what one state of the files has: a flush adds documents that a newer memtable may have newer versions of,
//! and the set is made anew after it. A compaction changes no ordinals. The set may have more than a reader is to miss
//! (versions above its LSN); so the documents in it are asked, and no others.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use plimsoll_base::sync::PlainMutex;
use plimsoll_base::{DocumentOrdinal, Lsn};
use roaring::RoaringTreemap;

use super::{Memtable, Place};
use crate::tree::Tree;

/// Ids that one search looks up at most: about a tenth of a millisecond.
const LOOKED_UP_AT_ONCE: usize = 256;

/// The stored documents that the ids up to a place are of.
#[derive(Debug)]
pub(crate) struct Shadowed {
    /// The next ordinal of the files that were asked. Files with the same one have the same documents; or fewer, after a
    /// flush of nothing but deletions, and whoever reads the older ones has these in an older memtable, whose set it is.
    stored: DocumentOrdinal,
    ordinals: Arc<RoaringTreemap>,
    /// The first operation whose id was not looked up.
    next: Place,
}

/// Those of a memtable, for one state of the files at a time.
#[derive(Default)]
pub(super) struct Shadows {
    current: ArcSwapOption<Shadowed>,
    looking: PlainMutex<()>,
}

impl Shadowed {
    pub(crate) fn is_empty(&self) -> bool {
        self.ordinals.is_empty()
    }

    pub(crate) fn contains(&self, ordinal: DocumentOrdinal) -> bool {
        self.ordinals.contains(ordinal.0)
    }
}

impl Memtable {
    /// The live documents of a tree of which there may be versions at or below `visible` here: of all others there are
    /// none. `None` if that is not known yet; some more ids may have been looked up for the next search.
    pub(crate) fn shadowed(&self, tree: &Tree, visible: Lsn) -> Option<Arc<Shadowed>> {
        let stored = tree.entry.next_ordinal;
        let known = || self.shadows.current.load_full();
        let is_done = |known: &Arc<Shadowed>| known.stored == stored && self.is_behind(known.next, visible);
        if let Some(done) = known().filter(is_done) {
            return Some(done);
        }
        let _guard = self.shadows.looking.try_lock().ok()?;
        let begun = match known() {
            Some(known) if known.stored == stored => known,
            // Readers of older files do not undo what was done for the newest.
            Some(known) if known.stored > stored => return None,
            _ => Arc::new(Shadowed {
                stored,
                ordinals: Arc::default(),
                next: Place { batch: 0, operation: 0 },
            }),
        };
        let more = Arc::new(self.looked_up(tree, &begun)?);
        self.shadows.current.store(Some(Arc::clone(&more)));
        Some(more).filter(is_done)
    }

    /// Whether no operation at or below `visible` is at this place or after it.
    fn is_behind(&self, next: Place, visible: Lsn) -> bool {
        self.batch(next.batch).is_none_or(|batch| batch.lsn > visible)
    }

    /// These, and what is stored of some more ids; `None` if that can not be said because a file is damaged: searches do
    /// without it then.
    fn looked_up(&self, tree: &Tree, known: &Shadowed) -> Option<Shadowed> {
        let Shadowed { stored, ref ordinals, mut next } = *known;
        let mut ordinals = Arc::clone(ordinals);
        let mut left = LOOKED_UP_AT_ONCE;
        while let Some(batch) = self.batch(next.batch) {
            let first = next.operation as usize;
            for (operation, link) in batch.operations.iter().zip(&batch.links).skip(first).take(left) {
                // Of several operations on an id, the first one was looked up.
                if link.previous.get().is_none()
                    && let Some(ordinal) = tree.ordinal_of(operation.id).ok()?
                {
                    Arc::make_mut(&mut ordinals).insert(ordinal.0);
                }
            }
            let done = left.min(batch.operations.len() - first);
            left -= done;
            next.operation += done as u32;
            if (next.operation as usize) < batch.operations.len() {
                break;
            }
            next = Place { batch: next.batch + 1, operation: 0 };
        }
        Some(Shadowed { stored, ordinals, next })
    }
}
