//! From batches to one validated record.

use std::collections::HashMap;

use plimsoll_base::arena::Arena;
use plimsoll_base::codec::Encoder;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{CollectionId, Metric, Version};
use plimsoll_kernels as kernels;
use plimsoll_wal::{Record, RecordBuilder};

use super::{DELETE, FORMAT, HAS_TEXT, UPSERT};
use crate::batch::{Operation, WriteBatch};
use crate::error::{Error, Result};
use crate::model::limits::{
    MAX_BATCH_BYTES, MAX_METADATA_DEPTH, MAX_NORM, MAX_POSTINGS, MAX_TEXT_BYTES, MIN_COSINE_NORM,
};
use crate::model::{Document, Key, value};
use crate::options::CollectionConfig;

/// A record ready for the log, and what must hold for it to be written.
pub(crate) struct PreparedBatch {
    pub record: Record,
    pub collections: Vec<CollectionId>,
    pub conditions: Vec<Condition>,
}

/// Something that must be true of a document just before the record is logged.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub collection: CollectionId,
    pub key: Key,
    pub expectation: Expectation,
}

/// What a [`Condition`] expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expectation {
    Absent,
    Version(Version),
}

/// Validates the batches and encodes them as one record, in memory of the arena if one is given.
pub(crate) fn prepare(
    batches: &[(CollectionId, &CollectionConfig, &WriteBatch)],
    arena: Option<&Arena>,
) -> Result<PreparedBatch> {
    let mut groups = Vec::with_capacity(batches.len());
    for &(_, config, batch) in batches {
        groups.push(Group::encode(config, batch)?);
    }
    let conditions = find_conditions(batches)?;
    let bytes = 8 + groups.iter().map(Group::bytes).sum::<usize>();
    if bytes > MAX_BATCH_BYTES {
        return Err(Error::BatchTooLarge { bytes, limit: MAX_BATCH_BYTES });
    }
    let mut record = match arena {
        Some(arena) => RecordBuilder::in_arena(arena, bytes),
        None => RecordBuilder::with_capacity(bytes),
    };
    record.raw(head(groups.len() as u32).as_slice());
    for (&(collection, config, batch), group) in batches.iter().zip(&groups) {
        group.write(collection, config, batch, &mut record)?;
    }
    let collections = batches.iter().map(|(collection, ..)| *collection).collect();
    Ok(PreparedBatch { record: record.finish(), collections, conditions })
}

/// What stands before the groups.
pub(super) fn head(groups: u32) -> Encoder {
    let mut head = Encoder::with_capacity(8);
    head.u8(FORMAT).raw(&[0; 3]).u32(groups);
    head
}

/// One collection's part of a record, before it is written.
struct Group<'a> {
    operations: u32,
    encoded: Encoder,
    /// The key of the operation at hand.
    key: Encoder,
    vectors: Vec<&'a [f32]>,
    vector_bytes: usize,
}

const GROUP_HEAD: usize = 24;
/// An operation without text and metadata, in bytes: most have room without growing.
const TYPICAL_OPERATION: usize = 72;

impl<'a> Group<'a> {
    fn encode(config: &CollectionConfig, batch: &'a WriteBatch) -> Result<Self> {
        let mut group = Self {
            operations: batch.operations.len() as u32,
            encoded: Encoder::with_capacity(batch.operations.len() * TYPICAL_OPERATION),
            key: Encoder::new(),
            vectors: Vec::with_capacity(batch.operations.len()),
            vector_bytes: 0,
        };
        for (index, operation) in batch.operations.iter().enumerate() {
            group
                .operation(config, batch, operation)
                .map_err(|refusal| refusal.at(index, operation.key()))?;
            if group.bytes() > MAX_BATCH_BYTES {
                return Err(Error::BatchTooLarge { bytes: group.bytes(), limit: MAX_BATCH_BYTES });
            }
        }
        group.encoded.align(4);
        Ok(group)
    }

    fn bytes(&self) -> usize {
        GROUP_HEAD + self.encoded.len() + self.vector_bytes + self.vectors.len() * 4
    }

    fn operation(
        &mut self,
        config: &CollectionConfig,
        batch: &'a WriteBatch,
        operation: &'a Operation,
    ) -> Result<(), Refusal> {
        if let Some(problem) = operation.key().problem() {
            return Err(Refusal::Problem(problem));
        }
        operation.key().put(self.key.clear());
        let key = self.key.as_slice();
        let has_text = operation.document().is_some_and(|document| document.text.is_some());
        let kind = if matches!(operation, Operation::Delete(_)) { DELETE } else { UPSERT };
        self.encoded.u8(kind).u8(if has_text { HAS_TEXT } else { 0 }).u16(0);
        self.encoded.raw(&Key::id_of_encoded(key).0).prefixed(key);
        match operation {
            Operation::Delete(_) => Ok(()),
            Operation::UpsertVector(_, place) => {
                self.encoded.prefixed(&[]).prefixed(&[]).u32(1).align(4);
                self.posting(config, 0, 0, batch.vector(place))
            }
            Operation::Upsert(document) | Operation::Insert(document) | Operation::Replace(document, _) => {
                self.document(config, document)
            }
        }
    }

    fn posting(
        &mut self,
        config: &CollectionConfig,
        start: u32,
        length: u32,
        vector: &'a [f32],
    ) -> Result<(), Refusal> {
        if vector.len() != config.dimension {
            return Err(Refusal::Dimension { expected: config.dimension, got: vector.len() });
        }
        self.encoded.u32(start).u32(length);
        self.vector_bytes += vector.len() * 4;
        self.vectors.push(vector);
        Ok(())
    }

    fn document(&mut self, config: &CollectionConfig, document: &'a Document) -> Result<(), Refusal> {
        let text = document.text.as_deref().unwrap_or_default();
        if text.len() > MAX_TEXT_BYTES {
            return refuse(format!(
                "the text has {} bytes; at most {MAX_TEXT_BYTES} are allowed",
                text.len()
            ));
        }
        if value::is_too_deep(&document.metadata) {
            return refuse(format!("the metadata nests deeper than {MAX_METADATA_DEPTH}"));
        }
        let metadata = value::encode(&document.metadata);
        if let Some(problem) = value::problem(&document.metadata, metadata.len()) {
            return refuse(problem);
        }
        if document.postings.is_empty() || document.postings.len() > MAX_POSTINGS {
            let postings = document.postings.len();
            return refuse(format!("{postings} postings; a document has 1 to {MAX_POSTINGS}"));
        }
        self.encoded
            .prefixed(text.as_bytes())
            .prefixed(&metadata)
            .u32(document.postings.len() as u32)
            .align(4);
        for (index, posting) in document.postings.iter().enumerate() {
            let named = |problem| Refusal::Problem(format!("posting {index}: {problem}"));
            if document.text.is_some() {
                range_problem(text, posting.start, posting.length).map_or(Ok(()), |why| Err(named(why)))?;
            } else if posting.start.checked_add(posting.length).is_none() {
                return Err(named("the range ends beyond 4 GiB".to_owned()));
            }
            self.posting(config, posting.start, posting.length, &posting.vector)?;
        }
        Ok(())
    }

    /// Writes the group, and looks at each vector while it is at hand.
    fn write(
        &self,
        collection: CollectionId,
        config: &CollectionConfig,
        batch: &WriteBatch,
        record: &mut RecordBuilder,
    ) -> Result<()> {
        let (dimension, rows) = (config.dimension as u32, self.vectors.len());
        let mut head = Encoder::new();
        head.u32(collection.0).u32(dimension).u32(self.operations).u32(rows as u32);
        head.u32(self.encoded.len() as u32).u32(0);
        record.raw(head.as_slice());
        record.raw(self.encoded.as_slice());
        let mut norms = Vec::with_capacity(rows);
        for (row, vector) in self.vectors.iter().enumerate() {
            record.f32s(vector);
            let norm = match validated_norm(config.metric, vector) {
                Err(_) if mutant::is(Mutant::SkipValidation) => Ok(1.0),
                norm => norm,
            };
            norms.push(norm.map_err(|problem| refused_row(batch, row, &problem))? as f32);
        }
        record.f32s(&norms);
        Ok(())
    }
}

/// The error about a batch's row, counted over all its postings.
fn refused_row(batch: &WriteBatch, mut row: usize, problem: &str) -> Error {
    for (index, operation) in batch.operations.iter().enumerate() {
        if row < operation.rows() {
            let refusal = Refusal::Problem(format!("posting {row}: {problem}"));
            return refusal.at(index, operation.key());
        }
        row -= operation.rows();
    }
    Error::InvalidArgument(problem.to_owned())
}

/// Why an operation is refused, before its place in the batch is known.
enum Refusal {
    Problem(String),
    Dimension { expected: usize, got: usize },
}

impl Refusal {
    fn at(self, operation: usize, key: &Key) -> Error {
        match self {
            Self::Problem(problem) => Error::InvalidDocument { operation, key: key.clone(), problem },
            Self::Dimension { expected, got } => Error::DimensionMismatch { expected, got },
        }
    }
}

fn refuse<T>(problem: String) -> Result<T, Refusal> {
    Err(Refusal::Problem(problem))
}

fn range_problem(text: &str, start: u32, length: u32) -> Option<String> {
    let (start, end) = (start as usize, start as usize + length as usize);
    if end > text.len() {
        return Some(format!("bytes {start} to {end} are outside the text of {} bytes", text.len()));
    }
    if !text.is_char_boundary(start) || !text.is_char_boundary(end) {
        return Some(format!("bytes {start} to {end} do not begin and end on character boundaries"));
    }
    None
}

/// The length of a vector that may be stored, or why it may not. One pass: a sum of squares is finite only
/// if every component is.
pub(crate) fn validated_norm(metric: Metric, vector: &[f32]) -> Result<f64, String> {
    let norm = kernels::dot_f64(vector, vector).sqrt();
    if norm <= MAX_NORM && (metric != Metric::Cosine || norm >= MIN_COSINE_NORM) {
        return Ok(norm);
    }
    Err(match vector.iter().position(|component| !component.is_finite()) {
        Some(index) => format!("component {index} of the vector is {}", vector[index]),
        None if norm > MAX_NORM => format!("the vector's length {norm:e} exceeds {MAX_NORM:e}"),
        None if norm == 0.0 => "a zero vector has no direction, which the metric cosine needs".to_owned(),
        None => format!("the vector's length {norm:e} is too small for the metric cosine"),
    })
}

/// What inserts and replacements expect of the state before the record. Operations earlier in it count as done:
/// an insert after a delete of its key expects nothing, an insert after an upsert is refused here.
fn find_conditions(batches: &[(CollectionId, &CollectionConfig, &WriteBatch)]) -> Result<Vec<Condition>> {
    let mut conditions = Vec::new();
    if !batches.iter().any(|(.., batch)| batch.is_conditional()) {
        return Ok(conditions);
    }
    let mut seen: HashMap<(CollectionId, &Key), bool> = HashMap::new();
    let operations = batches.iter().flat_map(|(collection, _, batch)| {
        batch.operations.iter().map(move |operation| (*collection, operation))
    });
    for (collection, operation) in operations {
        let key = operation.key();
        let expectation = match operation {
            Operation::Insert(_) => match seen.get(&(collection, key)) {
                Some(true) => return Err(Error::AlreadyExists(key.clone())),
                Some(false) => None,
                None => Some(Expectation::Absent),
            },
            Operation::Replace(_, version) => Some(Expectation::Version(*version)),
            Operation::Upsert(_) | Operation::UpsertVector(..) | Operation::Delete(_) => None,
        };
        if let Some(expectation) = expectation {
            conditions.push(Condition { collection, key: key.clone(), expectation });
        }
        seen.insert((collection, key), !matches!(operation, Operation::Delete(_)));
    }
    Ok(conditions)
}
