//! Which batches may be committed when several are in hand: operations on one document take effect in the order of the
//! stream, and all others in whatever order they are ready.

use std::collections::{BTreeMap, HashSet};

use parking_lot::{Condvar, Mutex};
use plimsoll::Key;

/// The batches in hand, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Order {
    batches: Mutex<BTreeMap<u64, Batch>>,
    changed: Condvar,
}

/// A batch in hand; of one that is not parsed yet it is not known which documents it is about.
#[derive(Debug, Default)]
struct Batch {
    keys: Option<HashSet<Key>>,
}

impl Order {
    /// A batch was read. Numbers ascend.
    pub(super) fn enter(&self, number: u64) {
        self.batches.lock().insert(number, Batch::default());
    }

    /// The batch is about these documents.
    pub(super) fn parsed(&self, number: u64, keys: HashSet<Key>) {
        if let Some(batch) = self.batches.lock().get_mut(&number) {
            batch.keys = Some(keys);
        }
        self.changed.notify_all();
    }

    /// Waits until no batch before this one is about one of its documents.
    pub(super) fn wait_for_turn(&self, number: u64) {
        let mut batches = self.batches.lock();
        while Self::is_blocked(&batches, number) {
            self.changed.wait(&mut batches);
        }
    }

    fn is_blocked(batches: &BTreeMap<u64, Batch>, number: u64) -> bool {
        let Some(keys) = batches.get(&number).and_then(|batch| batch.keys.as_ref()) else { return false };
        batches.range(..number).any(|(_, earlier)| match &earlier.keys {
            None => true,
            Some(earlier) => !earlier.is_disjoint(keys),
        })
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
    fn a_batch_waits_for_those_before_it_that_share_a_document_or_are_not_parsed() {
        let order = Order::default();
        for number in 1..=3 {
            order.enter(number);
        }
        let is_blocked = |number| Order::is_blocked(&order.batches.lock(), number);
        order.parsed(3, keys([7]));
        assert!(is_blocked(3), "nobody knows yet what the others are about");
        order.parsed(1, keys([7, 8]));
        order.parsed(2, keys([9]));
        assert!(!is_blocked(1) && !is_blocked(2) && is_blocked(3));
        order.leave(1);
        assert!(!is_blocked(3));
        order.wait_for_turn(3);
        order.wait_for_room(3);
    }
}
