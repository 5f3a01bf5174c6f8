//! Batches: operations that are stored together or not at all.

use std::ops::Range;

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
    /// The vectors of [`Operation::UpsertVector`], one after another.
    vectors: Vec<f32>,
}

/// One operation of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Upsert(Document),
    /// A document that is nothing but a key and the vector at that place of the batch.
    UpsertVector(Key, Range<usize>),
    Insert(Document),
    /// Replaces the document only while its stored version is the one that was read.
    Replace(Document, plimsoll_base::Version),
    Delete(Key),
}

impl Operation {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Upsert(document) | Self::Insert(document) | Self::Replace(document, _) => &document.key,
            Self::Delete(key) | Self::UpsertVector(key, _) => key,
        }
    }

    pub(crate) fn document(&self) -> Option<&Document> {
        match self {
            Self::Upsert(document) | Self::Insert(document) | Self::Replace(document, _) => Some(document),
            Self::Delete(_) | Self::UpsertVector(..) => None,
        }
    }

    fn is_conditional(&self) -> bool {
        matches!(self, Self::Insert(_) | Self::Replace(..))
    }

    /// How many rows it stores.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Upsert(document) | Self::Insert(document) | Self::Replace(document, _) => {
                document.postings.len()
            }
            Self::UpsertVector(..) => 1,
            Self::Delete(_) => 0,
        }
    }
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch of one operation, which is not [`Operation::UpsertVector`].
    pub(crate) fn of(operation: Operation) -> Self {
        Self { operations: vec![operation], vectors: Vec::new() }
    }

    /// An empty batch with room for so many operations.
    pub fn with_capacity(operations: usize) -> Self {
        Self { operations: Vec::with_capacity(operations), vectors: Vec::new() }
    }

    /// Stores a document, replacing the whole of the one that has its key, if any.
    pub fn upsert(&mut self, document: Document) -> &mut Self {
        self.operations.push(Operation::Upsert(document));
        self
    }

    /// As [`WriteBatch::upsert`] of `Document::new(key).vector(vector)`, at less cost: the vectors of a batch
    /// lie together, and the memory is used again after [`WriteBatch::clear`].
    ///
    /// ```
    /// use plimsoll_engine::WriteBatch;
    /// let matrix = [[1.0, 0.0], [0.6, 0.8]];
    /// let mut batch = WriteBatch::with_capacity(matrix.len());
    /// for (row, vector) in matrix.iter().enumerate() {
    ///     batch.upsert_vector(row, vector);
    /// }
    /// ```
    pub fn upsert_vector(&mut self, key: impl Into<Key>, vector: &[f32]) -> &mut Self {
        let start = self.vectors.len();
        self.vectors.extend_from_slice(vector);
        self.operations.push(Operation::UpsertVector(key.into(), start..self.vectors.len()));
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

    /// The vector of an [`Operation::UpsertVector`].
    pub(crate) fn vector(&self, place: &Range<usize>) -> &[f32] {
        &self.vectors[place.clone()]
    }

    /// Whether it may be refused for what is stored already.
    pub(crate) fn is_conditional(&self) -> bool {
        self.operations.iter().any(Operation::is_conditional)
    }

    /// The documents that it stores, in their order.
    pub(crate) fn into_documents(self) -> impl Iterator<Item = Document> {
        self.operations.into_iter().filter_map(|operation| match operation {
            Operation::Upsert(document) | Operation::Insert(document) | Operation::Replace(document, _) => {
                Some(document)
            }
            Operation::UpsertVector(..) | Operation::Delete(_) => None,
        })
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
        self.operations.iter().map(operation_bytes).sum::<usize>() + self.vectors.len() * 4
    }

    /// Removes all operations, keeping the memory.
    pub fn clear(&mut self) {
        self.operations.clear();
        self.vectors.clear();
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
