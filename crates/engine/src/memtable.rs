//! The memtable: one collection's writes since its last seal, searchable at once.
//!
//! **Owns** the records themselves (their buffers hold keys, texts and vectors; nothing is copied) and an
//! ordered map from (document id, newest version first) to operations. **Must not know** about files.
//! **On a crash** it is gone; the log rebuilds it.
//!
//! One thread, the commit leader, applies; any number read. A reader holds an LSN and sees exactly the
//! versions at or below it (rule R1), without a lock: batches and map are published before the LSN is.

use std::cmp::Reverse;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam_skiplist::SkipMap;
use plimsoll_base::{DocumentId, Lsn, StorageError, Version};
use plimsoll_shard::PostingRange;
use plimsoll_wal::Record;

use crate::append_list::AppendList;
use crate::model::{Document, Key, Posting, value};
use crate::record::{Group, Operation, OperationKind};

/// One collection's unflushed writes.
pub(crate) struct Memtable {
    dimension: usize,
    batches: AppendList<Batch>,
    versions: SkipMap<(DocumentId, Reverse<Version>), Place>,
    bytes: AtomicUsize,
    rows: AtomicUsize,
    first_lsn: AtomicU64,
    last_lsn: AtomicU64,
}

/// One record's part for this collection.
pub(crate) struct Batch {
    record: Arc<Record>,
    pub lsn: Lsn,
    operations: Vec<Operation>,
    /// The operations that have rows, in row order.
    upserts: Vec<u32>,
    /// Per operation, the LSN of a later operation of this memtable on the same id, or `u64::MAX`.
    superseded: Vec<AtomicU64>,
    vectors: Range<usize>,
    norms: Range<usize>,
}

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub batch: u32,
    pub operation: u32,
}

/// One version of a document, as an operation left it.
#[derive(Clone, Copy)]
pub(crate) struct MemtableEntry<'a> {
    batch: &'a Batch,
    operation: &'a Operation,
    dimension: usize,
}

/// What rows a bytes-and-bookkeeping estimate adds for each operation of a memtable.
const OPERATION_OVERHEAD: usize = 200;

impl Memtable {
    pub(crate) fn new(dimension: usize) -> Self {
        Self {
            dimension,
            batches: AppendList::new(),
            versions: SkipMap::new(),
            bytes: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
            first_lsn: AtomicU64::new(u64::MAX),
            last_lsn: AtomicU64::new(0),
        }
    }

    /// Applies one group of a record. Only the commit leader calls this, in LSN order.
    pub(crate) fn apply(&self, record: &Arc<Record>, group: Group) {
        let lsn = record.lsn();
        let batch_index = self.batches.len() as u32;
        let stores = |n: &u32| matches!(group.operations[*n as usize].kind, OperationKind::Upsert { .. });
        let upserts = (0..group.operations.len() as u32).filter(stores).collect();
        let superseded = group.operations.iter().map(|_| AtomicU64::new(u64::MAX)).collect();
        let keys: Vec<_> = group.operations.iter().map(|operation| (operation.id, operation.index)).collect();
        let bytes = group.vectors.len()
            + group.norms.len()
            + group.operations.iter().map(operation_bytes).sum::<usize>();
        self.bytes.fetch_add(bytes, Relaxed);
        self.rows.fetch_add(group.norms.len() / 4, Relaxed);
        let batch = Batch {
            record: Arc::clone(record),
            lsn,
            operations: group.operations,
            upserts,
            superseded,
            vectors: group.vectors,
            norms: group.norms,
        };
        let pushed = self.batches.push(batch);
        debug_assert!(pushed.is_ok(), "two threads applied at once");
        for (operation, (id, index)) in keys.into_iter().enumerate() {
            if let Some(previous) = self.place(id, lsn) {
                self.supersede(previous, lsn);
            }
            let place = Place { batch: batch_index, operation: operation as u32 };
            self.versions.insert((id, Reverse(Version::new(lsn, index))), place);
        }
        self.first_lsn.fetch_min(lsn.0, Relaxed);
        self.last_lsn.fetch_max(lsn.0, Relaxed);
    }

    fn supersede(&self, place: Place, by: Lsn) {
        let batch = self.batches.get(place.batch as usize);
        if let Some(mark) = batch.and_then(|batch| batch.superseded.get(place.operation as usize)) {
            mark.fetch_min(by.0, Relaxed);
        }
    }

    fn place(&self, id: DocumentId, visible: Lsn) -> Option<Place> {
        let newest = (id, Reverse(Version::new(visible, u32::MAX)));
        let entry = self.versions.range(newest..).next()?;
        (entry.key().0 == id).then(|| *entry.value())
    }

    /// The newest version of a document at or below `visible`; it may be a deletion.
    pub(crate) fn get(&self, id: DocumentId, visible: Lsn) -> Option<MemtableEntry<'_>> {
        if self.is_empty() {
            return None;
        }
        self.entry(self.place(id, visible)?)
    }

    /// Whether a version of a document at or below `visible` is here, so that it hides every older one.
    pub(crate) fn shadows(&self, id: DocumentId, visible: Lsn) -> bool {
        !self.is_empty() && self.place(id, visible).is_some()
    }

    pub(crate) fn entry(&self, place: Place) -> Option<MemtableEntry<'_>> {
        let batch = self.batches.get(place.batch as usize)?;
        let operation = batch.operations.get(place.operation as usize)?;
        Some(MemtableEntry { batch, operation, dimension: self.dimension })
    }

    /// The newest version of every document at or below `visible`, deletions too, ordered by id.
    pub(crate) fn newest(&self, visible: Lsn) -> impl Iterator<Item = (DocumentId, MemtableEntry<'_>)> {
        let mut last = None;
        self.versions.iter().filter_map(move |entry| {
            let (id, Reverse(version)) = *entry.key();
            if version.lsn > visible || last == Some(id) {
                return None;
            }
            last = Some(id);
            Some((id, self.entry(*entry.value())?))
        })
    }

    /// The batches at or below `visible`, with their numbers.
    pub(crate) fn batches(&self, visible: Lsn) -> impl Iterator<Item = (u32, &Batch)> {
        self.batches
            .iter()
            .enumerate()
            .map(|(n, batch)| (n as u32, batch))
            .filter(move |(_, b)| b.lsn <= visible)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.len() == 0
    }

    /// Roughly how much memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.load(Relaxed)
    }

    /// The first and last LSN applied here, if any.
    pub(crate) fn lsns(&self) -> Option<(Lsn, Lsn)> {
        (!self.is_empty()).then(|| (Lsn(self.first_lsn.load(Relaxed)), Lsn(self.last_lsn.load(Relaxed))))
    }
}

impl std::fmt::Debug for Memtable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memtable({} rows, {} bytes)", self.rows(), self.bytes())
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    let held = match &operation.kind {
        OperationKind::Upsert { text, metadata, .. } => {
            text.as_ref().map_or(0, ExactSizeIterator::len) + metadata.len()
        }
        OperationKind::Delete => 0,
    };
    held + operation.key.len() + OPERATION_OVERHEAD
}

impl Batch {
    /// All vectors of the batch, one after another.
    pub(crate) fn vectors(&self) -> &[f32] {
        bytemuck::try_cast_slice(&self.record.payload()[self.vectors.clone()]).unwrap_or_default()
    }

    /// The Euclidean lengths of these vectors.
    pub(crate) fn norms(&self) -> &[f32] {
        bytemuck::try_cast_slice(&self.record.payload()[self.norms.clone()]).unwrap_or_default()
    }

    /// The operation that row `row` of the batch belongs to.
    pub(crate) fn operation_of(&self, row: u32) -> Option<(u32, &Operation)> {
        let rows = |operation: u32| match &self.operations[operation as usize].kind {
            OperationKind::Upsert { rows, .. } => rows.clone(),
            OperationKind::Delete => 0..0,
        };
        let at = self.upserts.partition_point(|operation| rows(*operation).end <= row);
        let operation = *self.upserts.get(at)?;
        Some((operation, &self.operations[operation as usize]))
    }

    /// Whether a later operation at or below `visible` replaced or removed what this one stored.
    pub(crate) fn is_superseded(&self, operation: u32, visible: Lsn) -> bool {
        self.superseded.get(operation as usize).is_none_or(|mark| mark.load(Relaxed) <= visible.0)
    }
}

impl<'a> MemtableEntry<'a> {
    fn bytes(&self, range: &Range<u32>) -> &'a [u8] {
        &self.batch.record.payload()[range.start as usize..range.end as usize]
    }

    pub(crate) fn id(&self) -> DocumentId {
        self.operation.id
    }

    pub(crate) fn version(&self) -> Version {
        Version::new(self.batch.lsn, self.operation.index)
    }

    pub(crate) fn is_delete(&self) -> bool {
        matches!(self.operation.kind, OperationKind::Delete)
    }

    pub(crate) fn encoded_key(&self) -> &'a [u8] {
        self.bytes(&self.operation.key)
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.operation.kind {
            OperationKind::Upsert { text: Some(text), .. } => std::str::from_utf8(self.bytes(text)).ok(),
            _ => None,
        }
    }

    pub(crate) fn encoded_metadata(&self) -> &'a [u8] {
        match &self.operation.kind {
            OperationKind::Upsert { metadata, .. } => self.bytes(metadata),
            OperationKind::Delete => &[],
        }
    }

    /// The ranges of its postings.
    pub(crate) fn ranges(&self) -> &'a [PostingRange] {
        match &self.operation.kind {
            OperationKind::Upsert { ranges, .. } => {
                bytemuck::try_cast_slice(self.bytes(ranges)).unwrap_or_default()
            }
            OperationKind::Delete => &[],
        }
    }

    fn rows(&self) -> Range<usize> {
        match &self.operation.kind {
            OperationKind::Upsert { rows, .. } => rows.start as usize..rows.end as usize,
            OperationKind::Delete => 0..0,
        }
    }

    /// The vectors of its postings, one after another.
    pub(crate) fn vectors(&self) -> &'a [f32] {
        let rows = self.rows();
        &self.batch.vectors()[rows.start * self.dimension..rows.end * self.dimension]
    }

    /// The Euclidean lengths of these vectors.
    pub(crate) fn norms(&self) -> &'a [f32] {
        &self.batch.norms()[self.rows()]
    }

    pub(crate) fn first_row(&self) -> u32 {
        self.rows().start as u32
    }

    pub(crate) fn key(&self) -> Result<Key, StorageError> {
        Key::decode(self.encoded_key(), Path::new("memtable"))
    }

    /// The whole document, copied out.
    pub(crate) fn document(&self) -> Result<Document, StorageError> {
        let vectors = self.vectors().chunks_exact(self.dimension);
        let postings = self
            .ranges()
            .iter()
            .zip(vectors)
            .map(|(range, vector)| Posting {
                start: range.start,
                length: range.length,
                vector: vector.to_vec(),
            })
            .collect();
        Ok(Document {
            key: self.key()?,
            text: self.text().map(str::to_owned),
            metadata: value::decode(self.encoded_metadata(), Path::new("memtable"))?,
            postings,
        })
    }
}
