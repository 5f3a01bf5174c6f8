//! Where a source is: which positions are done, and what became of them.
//!
//! A cursor is a low watermark, below which everything is done, and a compact bitmap of what is done above it, so that
//! workers may finish out of order. **Promises** that each position is counted once: what is done is what was committed,
//! set aside or rejected, also of a cursor that was read from disk.

use std::ops::Range;
use std::time::SystemTime;

use roaring::RoaringTreemap;

use super::SourceError;
use super::step::{Done, Step};
use crate::model::{Document, Key, Metadata, Value};
use crate::system::{bytes_of, from_millis, millis, row, text_of, unsigned, value_of};

/// What became of the positions of a source. Whoever received `n` of them has `n - done()` in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SourceCounts {
    /// Positions whose operations are stored.
    pub committed: u64,
    /// Positions that are set aside, with their payload, and can be tried again.
    pub dead_lettered: u64,
    /// Positions at which there was nothing to store, for good.
    pub rejected: u64,
}

impl SourceCounts {
    /// All positions that are done.
    pub const fn done(&self) -> u64 {
        self.committed + self.dead_lettered + self.rejected
    }

    fn of(&mut self, done: Done) -> &mut u64 {
        match done {
            Done::Committed => &mut self.committed,
            Done::DeadLettered => &mut self.dead_lettered,
            Done::Rejected => &mut self.rejected,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cursor {
    pub fingerprint: String,
    /// Every position before this one is done.
    pub watermark: u64,
    /// What is done above.
    pub above: RoaringTreemap,
    pub counts: SourceCounts,
    pub state: Vec<u8>,
    pub is_paused: bool,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
}

impl Cursor {
    pub(super) fn new(fingerprint: String, now: SystemTime) -> Self {
        Self {
            fingerprint,
            watermark: 0,
            above: RoaringTreemap::new(),
            counts: SourceCounts::default(),
            state: Vec::new(),
            is_paused: false,
            created_at: now,
            updated_at: now,
        }
    }

    pub(super) fn is_done(&self, position: u64) -> bool {
        position < self.watermark || self.above.contains(position)
    }

    /// One beyond the last position that is done.
    pub(super) fn end(&self) -> u64 {
        self.above.max().map_or(self.watermark, |last| last.saturating_add(1))
    }

    /// What is not done below [`Cursor::end`], `limit` ranges at most.
    pub(super) fn gaps(&self, limit: usize) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut from = self.watermark;
        for position in &self.above {
            if gaps.len() == limit {
                break;
            }
            if position > from {
                gaps.push(from..position);
            }
            from = position.saturating_add(1);
        }
        gaps
    }

    /// Takes note of what a step does; `is_letter` says which positions are dead letters now. The cursor is unchanged
    /// after an error.
    pub(super) fn take(&mut self, step: &Step, is_letter: impl Fn(u64) -> bool) -> Result<(), SourceError> {
        if let Some(position) = step.twice {
            return Err(SourceError::Twice { position });
        }
        let fits = |position: &u64| match *position {
            u64::MAX => Err(SourceError::AlreadyDone { position: *position }),
            position if self.is_done(position) && !is_letter(position) => {
                Err(SourceError::AlreadyDone { position })
            }
            _ => Ok(()),
        };
        step.done.keys().try_for_each(fits)?;
        for (position, done) in &step.done {
            if self.is_done(*position) {
                self.counts.dead_lettered -= 1;
            } else if *position == self.watermark && self.above.is_empty() {
                self.watermark += 1;
            } else {
                self.above.insert(*position);
            }
            *self.counts.of(*done) += 1;
        }
        self.advance();
        Ok(())
    }

    /// Moves the watermark up to the first position that is not done.
    fn advance(&mut self) {
        while self.above.contains(self.watermark) {
            // One at a time is one at a time for each position ever; a run is dropped at once.
            let run = self.above.iter().zip(self.watermark..).take_while(|(done, expected)| done == expected);
            let end = self.watermark + run.count() as u64;
            self.above.remove_range(..end);
            self.watermark = end;
        }
    }

    pub(super) fn document(&self, key: Key) -> Document {
        let mut bitmap = Vec::new();
        // Writing to memory does not fail.
        let _written = self.above.serialize_into(&mut bitmap);
        let document = row(key)
            .metadata("fingerprint", self.fingerprint.clone())
            .metadata("watermark", self.watermark)
            .metadata("committed", self.counts.committed)
            .metadata("dead_lettered", self.counts.dead_lettered)
            .metadata("rejected", self.counts.rejected)
            .metadata("paused", self.is_paused)
            .metadata("created_at", millis(self.created_at))
            .metadata("updated_at", millis(self.updated_at))
            .metadata("state", value_of(&self.state));
        if self.above.is_empty() { document } else { document.metadata("above", value_of(&bitmap)) }
    }

    /// Reads one back; `None` if it is none, or if what is done is not what its counts say.
    pub(super) fn decode(document: &Document) -> Option<Self> {
        let fields: &Metadata = &document.metadata;
        let number = |name: &str| fields.get(name).and_then(unsigned);
        let above = match fields.get("above") {
            Some(_) => RoaringTreemap::deserialize_from(&bytes_of(fields, "above")?[..]).ok()?,
            None => RoaringTreemap::new(),
        };
        let cursor = Self {
            fingerprint: text_of(fields, "fingerprint")?,
            watermark: number("watermark")?,
            above,
            counts: SourceCounts {
                committed: number("committed")?,
                dead_lettered: number("dead_lettered")?,
                rejected: number("rejected")?,
            },
            state: bytes_of(fields, "state")?,
            is_paused: matches!(fields.get("paused")?, Value::Bool(true)),
            created_at: from_millis(number("created_at")?)?,
            updated_at: from_millis(number("updated_at")?)?,
        };
        let counts = [cursor.counts.committed, cursor.counts.dead_lettered, cursor.counts.rejected];
        let counted = counts.into_iter().try_fold(0u64, u64::checked_add)?;
        let done = cursor.watermark.checked_add(cursor.above.len())?;
        let is_above = cursor.above.min().is_none_or(|first| first > cursor.watermark);
        (counted == done && is_above).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor() -> Cursor {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
        Cursor::new("f".to_owned(), at)
    }

    fn committed(positions: impl IntoIterator<Item = u64>) -> Step {
        let mut step = Step::new();
        positions.into_iter().for_each(|position| {
            step.committed(position);
        });
        step
    }

    #[test]
    fn the_watermark_passes_what_was_done_out_of_order() {
        let mut cursor = cursor();
        cursor.take(&committed([3, 1]), |_| false).unwrap();
        assert_eq!((cursor.watermark, cursor.end()), (0, 4));
        assert_eq!(cursor.gaps(9), [0..1, 2..3]);
        assert_eq!(cursor.gaps(1).len(), 1);
        cursor.take(&committed([0]), |_| false).unwrap();
        assert_eq!(cursor.watermark, 2);
        cursor.take(&committed([2]), |_| false).unwrap();
        assert_eq!((cursor.watermark, cursor.above.len(), cursor.counts.committed), (4, 0, 4));
    }

    #[test]
    fn a_position_is_done_once_and_a_refused_step_changes_nothing() {
        let mut cursor = cursor();
        cursor.take(&committed([0, 1, 5]), |_| false).unwrap();
        let before = cursor.clone();
        for position in [0, 1, 5, u64::MAX] {
            let refused = cursor.take(&committed([7, position]), |_| false).unwrap_err();
            assert_eq!(refused, SourceError::AlreadyDone { position });
        }
        let mut twice = committed([8]);
        twice.rejected(8);
        assert_eq!(cursor.take(&twice, |_| false).unwrap_err(), SourceError::Twice { position: 8 });
        assert_eq!(cursor, before);
        // That of a letter may be done again.
        cursor.counts = SourceCounts { committed: 2, dead_lettered: 1, rejected: 0 };
        cursor.take(&committed([5]), |position| position == 5).unwrap();
        assert_eq!(cursor.counts, SourceCounts { committed: 3, dead_lettered: 0, rejected: 0 });
    }

    proptest! {
        #[test]
        fn any_order_of_any_outcomes_ends_at_the_end_and_survives_storage(
            order in Just((0..60u64).collect::<Vec<_>>()).prop_shuffle(),
            outcomes in prop::collection::vec(0..3, 60),
            state in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut cursor = cursor();
            for (position, outcome) in order.into_iter().zip(outcomes) {
                let mut step = Step::new();
                match outcome {
                    0 => step.committed(position),
                    1 => step.rejected(position),
                    _ => step.mark_for_tests(position),
                };
                cursor.take(&step, |_| false).unwrap();
                cursor.state.clone_from(&state);
                let read = Cursor::decode(&cursor.document(Key::from("c"))).unwrap();
                prop_assert_eq!(&read, &cursor);
                prop_assert_eq!(read.counts.done(), read.watermark + read.above.len());
            }
            prop_assert_eq!((cursor.watermark, cursor.above.len()), (60, 0));
        }
    }

    #[test]
    fn a_cursor_whose_counts_lie_is_none() {
        let mut cursor = cursor();
        cursor.take(&committed([0, 1, 5]), |_| false).unwrap();
        for change in [
            |cursor: &mut Cursor| cursor.counts.committed += 1,
            |cursor: &mut Cursor| cursor.watermark += 1,
            |cursor: &mut Cursor| cursor.counts.rejected = u64::MAX,
            |cursor: &mut Cursor| cursor.above = RoaringTreemap::from([2]),
        ] {
            let mut wrong = cursor.clone();
            change(&mut wrong);
            assert_eq!(Cursor::decode(&wrong.document(Key::from("c"))), None);
        }
        for field in ["fingerprint", "watermark", "committed", "state", "paused", "created_at"] {
            let mut document = cursor.document(Key::from("c"));
            document.metadata.remove(field);
            assert_eq!(Cursor::decode(&document), None, "{field}");
        }
    }
}
