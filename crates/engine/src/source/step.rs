//! What is committed at a time: operations, positions, dead letters, entries and the state of a source.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::failure::FailureClass;
use crate::batch::WriteBatch;
use crate::model::{Document, Key};
use crate::system::kept;

/// An item that could not be stored, with all it takes to try it again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its position in the source.
    pub position: u64,
    /// The kind of failure.
    pub class: FailureClass,
    /// Why it failed, a sentence for people.
    pub message: String,
    /// The item as it came, byte for byte; at most [`DeadLetter::MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
    /// The document it was about, where that is known. A later operation on the same document supersedes the letter.
    pub key: Option<Key>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed last, to the millisecond. The beginning of 1970 stands for the moment at which it is committed.
    pub failed_at: SystemTime,
    /// When it is to be tried again by itself; never if `None`.
    pub retry_at: Option<SystemTime>,
}

impl DeadLetter {
    /// The longest payload, in bytes.
    pub const MAX_PAYLOAD: usize = 8 << 20;

    /// A letter about the item at `position`, which fails at its first attempt when it is committed.
    pub fn new(
        position: u64,
        class: FailureClass,
        message: impl Into<String>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            position,
            class,
            message: message.into(),
            payload: payload.into(),
            key: None,
            attempts: 1,
            failed_at: SystemTime::UNIX_EPOCH,
            retry_at: None,
        }
    }

    /// Says which document it is about.
    #[must_use]
    pub fn key(mut self, key: impl Into<Key>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Says how often it was tried.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Says when it failed.
    #[must_use]
    pub fn failed_at(mut self, at: SystemTime) -> Self {
        self.failed_at = kept(at);
        self
    }

    /// Says when it is to be tried again.
    #[must_use]
    pub fn retry_at(mut self, at: SystemTime) -> Self {
        self.retry_at = Some(kept(at));
        self
    }
}

/// What became of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It is stored.
    Committed,
    /// It is set aside, with its payload.
    DeadLettered,
    /// There is nothing to store, for good.
    Rejected,
}

/// A step of a source: what one call of [`Source::commit`](super::Source::commit) makes durable as a whole. Operations are
/// applied in the order in which they were added; the last one on a key wins.
///
/// Each position is done once: it is committed, set aside as a dead letter, or rejected. The position of a dead letter may
/// be done once more, which removes the letter.
///
/// ```
/// use plimsoll_engine::{Document, FailureClass, DeadLetter, Step};
/// let mut step = Step::new();
/// step.upsert(0, Document::new("a").vector([1.0, 0.0]));
/// step.delete(1, "b");
/// step.dead_letter(DeadLetter::new(2, FailureClass::Encoding, "the text is not UTF-8", b"\xff".as_slice()));
/// step.state(b"offset 4096".as_slice());
/// assert_eq!(step.positions(), 3);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub(super) batch: WriteBatch,
    pub(super) done: BTreeMap<u64, Done>,
    /// A position that was added twice.
    pub(super) twice: Option<u64>,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) state: Option<Vec<u8>>,
    pub(super) entries: BTreeMap<String, Option<Vec<u8>>>,
}

impl Step {
    /// A step that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a document, which came at `position`, replacing the whole of the one that has its key.
    pub fn upsert(&mut self, position: u64, document: Document) -> &mut Self {
        self.batch.upsert(document);
        self.mark(position, Done::Committed)
    }

    /// Removes a document, as was asked for at `position`.
    pub fn delete(&mut self, position: u64, key: impl Into<Key>) -> &mut Self {
        self.batch.delete(key);
        self.mark(position, Done::Committed)
    }

    /// What came at `position` is done, and asked for no operation that was not added already.
    pub fn committed(&mut self, position: u64) -> &mut Self {
        self.mark(position, Done::Committed)
    }

    /// What came at `position` is nothing to store, for good: a record that only controls the source, or one that was
    /// superseded. Nothing is kept of it.
    pub fn rejected(&mut self, position: u64) -> &mut Self {
        self.mark(position, Done::Rejected)
    }

    /// Sets an item aside, with its payload.
    pub fn dead_letter(&mut self, letter: DeadLetter) -> &mut Self {
        let position = letter.position;
        self.letters.push(letter);
        self.mark(position, Done::DeadLettered)
    }

    /// Replaces what the source remembers beside its position: at most [`Step::MAX_STATE`] bytes that only its owner
    /// understands, such as the place in a file.
    pub fn state(&mut self, state: impl Into<Vec<u8>>) -> &mut Self {
        self.state = Some(state.into());
        self
    }

    /// Replaces an entry of the source's own table, such as what it knows about one file. At most
    /// [`Step::MAX_ENTRY`] bytes.
    pub fn put_entry(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.entries.insert(key.into(), Some(value.into()));
        self
    }

    /// Removes an entry of the source's own table, if it is there.
    pub fn remove_entry(&mut self, key: impl Into<String>) -> &mut Self {
        self.entries.insert(key.into(), None);
        self
    }

    /// How many positions it does.
    pub fn positions(&self) -> usize {
        self.done.len()
    }

    /// The documents that it was to store, in the order in which they were added: for whoever tries again what was refused.
    pub fn into_documents(self) -> impl Iterator<Item = Document> {
        self.batch.into_documents()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.batch.is_empty() && self.state.is_none() && self.entries.is_empty()
    }

    /// About how many bytes it will have in the log.
    pub fn bytes(&self) -> usize {
        let letters: usize = self.letters.iter().map(|letter| letter.payload.len() + 128).sum();
        self.batch.bytes() + letters
    }

    /// The largest state, in bytes.
    pub const MAX_STATE: usize = 256 << 10;
    /// The largest entry, in bytes.
    pub const MAX_ENTRY: usize = 256 << 10;

    fn mark(&mut self, position: u64, done: Done) -> &mut Self {
        if self.done.insert(position, done).is_some() {
            self.twice.get_or_insert(position);
        }
        self
    }
}

#[cfg(test)]
impl Step {
    pub(super) fn mark_for_tests(&mut self, position: u64) -> &mut Self {
        self.mark(position, Done::DeadLettered)
    }
}
