//! Batches: operations that are stored together or not at all.

use crate::model::{Document, Key};

/// Operations on one collection that become one record of the log: after a crash all of them are there, or
/// none. Within a batch, the last operation on a key wins.
///
/// ```
/// use plimsoll_engine::{Document, WriteBatch};
/// let mut batch = WriteBatch::new();
/// batch.upsert(Document::new(1).vector([1.0, 0.0]));
/// batch.delete(2);
/// assert_eq!(batch.len(), 2);
/// ```
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    pub(crate) operations: Vec<Operation>,
}

/// One operation of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Upsert(Document),
    Insert(Document),
    /// Replaces the document only while its stored version is the one that was read.
    Replace(Document, plimsoll_base::Version),
    Delete(Key),
}

impl Operation {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Upsert(document) | Self::Insert(document) | Self::Replace(document, _) => &document.key,
            Self::Delete(key) => key,
        }
    }

    pub(crate) fn document(&self) -> Option<&Document> {
        match self {
            Self::Upsert(document) | Self::Insert(document) | Self::Replace(document, _) => Some(document),
            Self::Delete(_) => None,
        }
    }
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for so many operations.
    pub fn with_capacity(operations: usize) -> Self {
        Self { operations: Vec::with_capacity(operations) }
    }

    /// Stores a document, replacing the whole of the one that has its key, if any.
    pub fn upsert(&mut self, document: Document) -> &mut Self {
        self.operations.push(Operation::Upsert(document));
        self
    }

    /// Stores a document that must not be there yet; if it is, the whole batch is refused with
    /// [`Error::AlreadyExists`](crate::Error::AlreadyExists).
    pub fn insert(&mut self, document: Document) -> &mut Self {
        self.operations.push(Operation::Insert(document));
        self
    }

    /// Removes a document, if it is there.
    pub fn delete(&mut self, key: impl Into<Key>) -> &mut Self {
        self.operations.push(Operation::Delete(key.into()));
        self
    }

    pub(crate) fn is_delete_only(&self) -> bool {
        self.operations.iter().all(|operation| matches!(operation, Operation::Delete(_)))
    }

    /// How many operations the batch has.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether the batch has no operations.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// About how many bytes the batch will have in the log.
    pub fn bytes(&self) -> usize {
        self.operations.iter().map(operation_bytes).sum()
    }

    /// Removes all operations, keeping the memory.
    pub fn clear(&mut self) {
        self.operations.clear();
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    const FIXED: usize = 64;
    let document = operation.document().map_or(0, |document| {
        let postings: usize = document.postings.iter().map(|posting| 12 + posting.vector.len() * 4).sum();
        document.text.as_ref().map_or(0, String::len) + document.metadata.len() * 32 + postings
    });
    FIXED + document
}
