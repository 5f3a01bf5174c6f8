//! From a document's id to the newest operation on it: a hash table that one thread fills while any number
//! read it, without a lock.
//!
//! Open addressing with linear probing over 64-bit slots, each with a few bits of the id and a [`Place`]. Ids
//! are hashes already, so their own bits choose the slot. A slot is only ever changed to a newer operation on
//! the same id; older ones are reached by the chain through the batches. A full table is replaced by one of
//! twice the size, and readers that hold the smaller one still find what was there when they began: what they
//! may see was applied before their LSN became visible.

use std::sync::OnceLock;

use plimsoll_base::DocumentId;
use plimsoll_base::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Place;

/// The slots of the first table.
const FIRST: usize = 128;
/// Enough tables for every batch and operation that a [`Place`] can name.
const TABLES: usize = 44;

/// A hash index of one memtable.
pub(super) struct IdIndex {
    tables: [OnceLock<Box<[AtomicU64]>>; TABLES],
    current: AtomicUsize,
    len: AtomicUsize,
}

/// A slot that holds something, or the empty one where it belongs.
struct Slot<'a> {
    slot: &'a AtomicU64,
    place: Option<Place>,
}

impl IdIndex {
    pub(super) fn new() -> Self {
        Self {
            tables: [const { OnceLock::new() }; TABLES],
            current: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
        }
    }

    /// How many ids there are.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// The newest operation on `id`. `is_of_id` says whether an operation is on it, as the few bits in a slot
    /// can not.
    pub(super) fn get(&self, id: DocumentId, is_of_id: impl Fn(Place) -> bool) -> Option<Place> {
        let table = self.tables[self.current.load(Ordering::Acquire)].get()?;
        find(table, id, is_of_id)?.place
    }

    /// Makes `place` the newest operation on `id`; `before` is told of the one that was, before any reader can
    /// find the new one. Only one thread may call this. When the table has to grow, `all` names the newest
    /// operation on each id, this one not among them.
    pub(super) fn replace<I: Iterator<Item = (DocumentId, Place)>>(
        &self,
        id: DocumentId,
        place: Place,
        is_of_id: impl Fn(Place) -> bool,
        all: impl FnOnce() -> I,
        before: impl FnOnce(Place),
    ) {
        let len = self.len.load(Ordering::Relaxed);
        let table = self.table_for(len + 1, all);
        let Some(found) = find(table, id, is_of_id) else { return };
        match found.place {
            Some(older) => before(older),
            None => self.len.store(len + 1, Ordering::Relaxed),
        }
        found.slot.store(pack(id, place), Ordering::Release);
    }

    /// The table, grown if it would be more than half full with `len` ids.
    fn table_for<I: Iterator<Item = (DocumentId, Place)>>(
        &self,
        len: usize,
        all: impl FnOnce() -> I,
    ) -> &[AtomicU64] {
        let current = self.current.load(Ordering::Relaxed);
        let table = self.tables[current].get_or_init(|| empty(FIRST));
        if len * 2 <= table.len() || current + 1 == TABLES {
            return table;
        }
        let larger = self.tables[current + 1].get_or_init(|| {
            let larger = empty(table.len() * 2);
            for (id, place) in all() {
                if let Some(slot) = find(&larger, id, |_| false) {
                    slot.slot.store(pack(id, place), Ordering::Relaxed);
                }
            }
            larger
        });
        self.current.store(current + 1, Ordering::Release);
        larger
    }
}

fn empty(slots: usize) -> Box<[AtomicU64]> {
    (0..slots).map(|_| AtomicU64::new(0)).collect()
}

/// The slot of `id`, or the empty one where it belongs; `None` in a full table, which there never is.
fn find(table: &[AtomicU64], id: DocumentId, is_of_id: impl Fn(Place) -> bool) -> Option<Slot<'_>> {
    let mask = table.len() - 1;
    let first = low(id) as usize;
    let tag = tag(id);
    (0..table.len()).map(|step| &table[(first + step) & mask]).find_map(|slot| {
        let packed = slot.load(Ordering::Acquire);
        if packed == 0 {
            return Some(Slot { slot, place: None });
        }
        let place = unpack(packed);
        (packed & TAG == tag && is_of_id(place)).then_some(Slot { slot, place: Some(place) })
    })
}

/// The bits of a slot that belong to the id. The highest is always set, so that no occupied slot is 0.
const TAG: u64 = !0 << (Place::BATCH_BITS + Place::OPERATION_BITS);

fn pack(id: DocumentId, place: Place) -> u64 {
    tag(id) | u64::from(place.batch) << Place::OPERATION_BITS | u64::from(place.operation)
}

fn unpack(packed: u64) -> Place {
    let bits = packed & !TAG;
    let operation = bits & ((1 << Place::OPERATION_BITS) - 1);
    Place { batch: (bits >> Place::OPERATION_BITS) as u32, operation: operation as u32 }
}

fn tag(id: DocumentId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = id.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h]) & TAG | 1 << 63
}

fn low(id: DocumentId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Few different bits where slots and tags come from, so that many ids collide in both.
    fn id(n: u32) -> DocumentId {
        let mut bytes = [0; 16];
        bytes[0] = (n % 7) as u8;
        bytes[4..8].copy_from_slice(&n.to_be_bytes());
        DocumentId(bytes)
    }

    #[test]
    fn places_survive_packing() {
        let last = Place { batch: (1 << Place::BATCH_BITS) - 1, operation: (1 << Place::OPERATION_BITS) - 1 };
        for place in [Place { batch: 0, operation: 0 }, Place { batch: 77, operation: 5 }, last] {
            assert_eq!(unpack(pack(id(3), place)), place);
            assert_ne!(pack(DocumentId([0; 16]), place), 0);
        }
    }

    #[test]
    fn the_newest_place_of_each_id_is_found_however_slots_collide() {
        let index = IdIndex::new();
        let mut model: HashMap<u32, Place> = HashMap::new();
        let mut ids = Vec::new();
        let steps = if cfg!(miri) { 30 } else { 3000 };
        for step in 0..steps {
            let n = step * 7919 % (steps / 3);
            let place = Place { batch: step, operation: step % 3 };
            ids.push(n);
            let mut before = None;
            let all = || model.iter().map(|(n, place)| (id(*n), *place)).collect::<Vec<_>>().into_iter();
            index.replace(id(n), place, |at| ids[at.batch as usize] == n, all, |at| before = Some(at));
            assert_eq!(before, model.insert(n, place));
        }
        for n in 0..1100 {
            assert_eq!(index.get(id(n), |at| ids[at.batch as usize] == n), model.get(&n).copied());
        }
    }
}
