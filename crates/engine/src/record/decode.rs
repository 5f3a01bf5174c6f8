//! From a record's payload back to operations, without copying their bytes.

use std::ops::Range;
use std::path::Path;

use plimsoll_base::codec::Decoder;
use plimsoll_base::{CollectionId, DocumentId, StorageError};
use plimsoll_wal::{Record, RecordBuilder};

use super::encode::head;
use super::{DELETE, FORMAT, HAS_TEXT, UPSERT};
use crate::model::limits::{MAX_DIMENSION, MAX_OPERATIONS, MAX_POSTINGS};

/// One collection's part of a record. All ranges are bytes of the payload.
#[derive(Debug)]
pub(crate) struct Group {
    pub collection: CollectionId,
    pub dimension: usize,
    pub operations: Vec<Operation>,
    pub vectors: Range<usize>,
    pub norms: Range<usize>,
    /// All of it.
    bytes: Range<usize>,
}

/// One operation. All ranges are bytes of the payload; rows count from the group's first.
#[derive(Debug)]
pub(crate) struct Operation {
    /// The operation's index in the batch, over all its groups.
    pub index: u32,
    pub id: DocumentId,
    pub key: Range<u32>,
    pub kind: OperationKind,
}

/// What an operation does.
#[derive(Debug)]
pub(crate) enum OperationKind {
    Upsert { text: Option<Range<u32>>, metadata: Range<u32>, ranges: Range<u32>, rows: Range<u32> },
    Delete,
}

/// Decodes a payload, which stands in `file` (for messages).
pub(crate) fn decode(payload: &[u8], file: &Path) -> Result<Vec<Group>, StorageError> {
    let mut decoder = Decoder::new(payload, file, 0);
    let format = decoder.u8()?;
    if format != FORMAT {
        let what = format!("log record format {format}");
        return Err(StorageError::UpgradeRequired { file: file.to_path_buf(), what });
    }
    decoder.array::<3>()?;
    let groups = decoder.count(24)?;
    let mut operations = 0;
    let groups = (0..groups).map(|_| group(&mut decoder, &mut operations)).collect::<Result<_, _>>()?;
    decoder.finish()?;
    Ok(groups)
}

fn group(decoder: &mut Decoder<'_>, done: &mut u32) -> Result<Group, StorageError> {
    let start = decoder.position();
    let collection = CollectionId(decoder.u32()?);
    let dimension = decoder.u32()? as usize;
    if !(1..=MAX_DIMENSION).contains(&dimension) {
        return Err(decoder.corrupted(format!("a dimension of {dimension}")));
    }
    let count = decoder.count(24)?;
    if count > MAX_OPERATIONS {
        return Err(decoder.corrupted(format!("{count} operations; a batch has at most {MAX_OPERATIONS}")));
    }
    let postings = decoder.u32()? as usize;
    let bytes = decoder.u32()? as usize;
    decoder.u32()?;
    let end = decoder.position() + bytes;
    let mut rows = 0;
    let operations = (0..count)
        .map(|_| {
            *done += 1;
            operation(decoder, *done - 1, &mut rows)
        })
        .collect::<Result<_, _>>()?;
    decoder.align(4)?;
    if decoder.position() != end || rows as usize != postings {
        return Err(decoder.corrupted("the operations do not have the stated length"));
    }
    let vectors = span(decoder, postings * dimension * 4)?;
    let norms = span(decoder, postings * 4)?;
    let wide = |range: Range<u32>| range.start as usize..range.end as usize;
    let bytes = start..decoder.position();
    Ok(Group { collection, dimension, operations, vectors: wide(vectors), norms: wide(norms), bytes })
}

impl Group {
    /// The group in a record of its own, so that whoever keeps it keeps nothing else of `record`, which it is from. The
    /// operations have the indexes that they had.
    pub(crate) fn alone(mut self, record: &Record) -> (Record, Self) {
        let head = head(1);
        let mut builder = RecordBuilder::with_capacity(head.len() + self.bytes.len());
        builder.raw(head.as_slice()).raw(&record.payload()[self.bytes.clone()]);
        let by = self.bytes.start - head.len();
        let near = |range: &mut Range<u32>| *range = range.start - by as u32..range.end - by as u32;
        for operation in &mut self.operations {
            near(&mut operation.key);
            if let OperationKind::Upsert { text, metadata, ranges, .. } = &mut operation.kind {
                text.iter_mut().chain([metadata, ranges]).for_each(near);
            }
        }
        for range in [&mut self.vectors, &mut self.norms, &mut self.bytes] {
            *range = range.start - by..range.end - by;
        }
        (builder.finish_part(record), self)
    }
}

fn operation(decoder: &mut Decoder<'_>, index: u32, rows: &mut u32) -> Result<Operation, StorageError> {
    let (kind, flags) = (decoder.u8()?, decoder.u8()?);
    decoder.u16()?;
    let id = DocumentId(decoder.array()?);
    let key = prefixed(decoder)?;
    let kind = match kind {
        DELETE => OperationKind::Delete,
        UPSERT => {
            let text = prefixed(decoder)?;
            let metadata = prefixed(decoder)?;
            let postings = decoder.count(8)?;
            if !(1..=MAX_POSTINGS).contains(&postings) {
                return Err(decoder.corrupted(format!("{postings} postings")));
            }
            decoder.align(4)?;
            let ranges = span(decoder, postings * 8)?;
            let first = *rows;
            *rows += postings as u32;
            let text = (flags & HAS_TEXT != 0).then_some(text);
            OperationKind::Upsert { text, metadata, ranges, rows: first..*rows }
        }
        other => return Err(decoder.corrupted(format!("unknown operation {other}"))),
    };
    Ok(Operation { index, id, key, kind })
}

/// Skips `bytes` bytes and says where they are. Payloads are bounded far below 4 GiB by the log.
fn span(decoder: &mut Decoder<'_>, bytes: usize) -> Result<Range<u32>, StorageError> {
    let start = decoder.position() as u32;
    decoder.raw(bytes)?;
    Ok(start..decoder.position() as u32)
}

fn prefixed(decoder: &mut Decoder<'_>) -> Result<Range<u32>, StorageError> {
    let length = decoder.u32()? as usize;
    span(decoder, length)
}
