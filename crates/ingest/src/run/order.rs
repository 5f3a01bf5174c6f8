//! Which batches may be committed when several are in hand: operations on one document take effect in the order of the
//! stream, and all others in whatever order they are ready.

use std::collections::{BTreeMap, HashSet};

use parking_lot::{Condvar, Mutex};
use plimsoll::Key;

/// The batches in hand, by their numbers: the documents that they are about.
#[derive(Debug, Default)]
pub(super) struct Order {
    batches: Mutex<BTreeMap<u64, HashSet<Key>>>,
    changed: Condvar,
}

impl Order {
    /// A batch is in hand, which is about these documents. Numbers ascend.
    pub(super) fn enter(&self, number: u64, keys: HashSet<Key>) {
        self.batches.lock().insert(number, keys);
    }

    /// Waits until no batch before this one is about one of its documents.
    pub(super) fn wait_for_turn(&self, number: u64) {
        let mut batches = self.batches.lock();
        while Self::is_blocked(&batches, number) {
            self.changed.wait(&mut batches);
        }
    }

    fn is_blocked(batches: &BTreeMap<u64, HashSet<Key>>, number: u64) -> bool {
        let Some(keys) = batches.get(&number) else { return false };
        batches.range(..number).any(|(_, earlier)| !earlier.is_disjoint(keys))
    }

    /// The batch is done, or given up.
    pub(super) fn leave(&self, number: u64) {
        self.batches.lock().remove(&number);
        self.changed.notify_all();
    }

    /// Waits until fewer than `most` batches are in hand.
    pub(super) fn wait_for_room(&self, most: usize) {
        let mut batches = self.batches.lock();
        while batches.len() >= most {
            self.changed.wait(&mut batches);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<const N: usize>(keys: [u64; N]) -> HashSet<Key> {
        keys.into_iter().map(Key::from).collect()
    }

    #[test]
    fn a_batch_waits_for_those_before_it_that_share_a_document() {
        let order = Order::default();
        order.enter(1, keys([7, 8]));
        order.enter(2, keys([9]));
        order.enter(3, keys([7]));
        let is_blocked = |number| Order::is_blocked(&order.batches.lock(), number);
        assert!(!is_blocked(1) && !is_blocked(2) && is_blocked(3));
        order.leave(1);
        assert!(!is_blocked(3));
        order.wait_for_turn(3);
        order.wait_for_room(3);
    }
}
