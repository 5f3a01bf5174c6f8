//! The memtable: one collection's writes since its last seal, searchable at once.
//!
//! **Owns** the records themselves (their buffers hold keys, texts and vectors; nothing is copied) and a hash
//! index from a document's id to its newest operation, from which a chain leads to older ones. **Must not
//! know** about files. **On a crash** it is gone; the log rebuilds it.
//!
//! One thread, the commit leader, applies; any number read. A reader holds an LSN and sees exactly the
//! versions at or below it (rule R1), without a lock: batches and index are published before the LSN is.

mod coded;
mod index;
mod shadowed;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plimsoll_base::arena::Arena;
use plimsoll_base::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use plimsoll_base::{DocumentId, Lsn, StorageError, Version};
use plimsoll_shard::PostingRange;
use plimsoll_wal::Record;

use self::coded::Codes;
pub(crate) use self::coded::{Chunk, RowPlace};
use self::index::IdIndex;
pub(crate) use self::shadowed::Shadowed;
use self::shadowed::Shadows;
use crate::append_list::AppendList;
use crate::model::limits::{MAX_MEMTABLE_BYTES, MAX_OPERATIONS};
use crate::model::{Document, Key, Posting, value};
use crate::policy::Unflushed;
use crate::record::{Group, Operation, OperationKind};

/// One collection's unflushed writes.
pub(crate) struct Memtable {
    dimension: usize,
    batches: AppendList<Batch>,
    newest: IdIndex,
    bytes: AtomicUsize,
    rows: AtomicUsize,
    deletions: AtomicUsize,
    /// When the first and the last record were applied, in nanoseconds by the database's clock.
    born: AtomicU64,
    touched: AtomicU64,
    first_lsn: AtomicU64,
    last_lsn: AtomicU64,
    arena: Arena,
    codes: Codes,
    shadows: Shadows,
}

/// One record's part for this collection.
pub(crate) struct Batch {
    record: Arc<Record>,
    pub lsn: Lsn,
    operations: Vec<Operation>,
    /// The operations that have rows, in row order.
    upserts: Vec<u32>,
    /// One for each operation.
    links: Vec<Link>,
    vectors: Range<usize>,
    norms: Range<usize>,
}

/// What an operation has to do with others of this memtable on the same id.
struct Link {
    /// The LSN of the next one, or `u64::MAX`.
    superseded: AtomicU64,
    /// The one before it.
    previous: OnceLock<Place>,
}

/// Where an operation is: the number of its batch in the memtable, and its own in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub batch: u32,
    pub operation: u32,
}

impl Place {
    /// Each batch counts for more than [`OPERATION_OVERHEAD`] bytes, so the largest memtable has fewer.
    const BATCH_BITS: u32 = 28;
    const OPERATION_BITS: u32 = 24;
}

const _: () = assert!(MAX_OPERATIONS < 1 << Place::OPERATION_BITS);
const _: () = assert!(MAX_MEMTABLE_BYTES / (OPERATION_OVERHEAD as u64) < 1 << Place::BATCH_BITS);

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
            newest: IdIndex::new(),
            bytes: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
            deletions: AtomicUsize::new(0),
            born: AtomicU64::new(u64::MAX),
            touched: AtomicU64::new(0),
            first_lsn: AtomicU64::new(u64::MAX),
            last_lsn: AtomicU64::new(0),
            arena: Arena::default(),
            codes: Codes::default(),
            shadows: Shadows::default(),
        }
    }

    /// Where the records that will be applied here should have their buffers.
    pub(crate) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Applies one group of a record. Only the commit leader calls this, in LSN order.
    pub(crate) fn apply(&self, record: &Arc<Record>, group: Group, now: Duration) {
        if group.operations.is_empty() {
            return;
        }
        let lsn = record.lsn();
        let batch_index = self.batches.len() as u32;
        let stores = |n: &u32| matches!(group.operations[*n as usize].kind, OperationKind::Upsert { .. });
        let upserts = (0..group.operations.len() as u32).filter(stores).collect();
        let ids: Vec<_> = group.operations.iter().map(|operation| operation.id).collect();
        let unlinked = || Link { superseded: AtomicU64::new(u64::MAX), previous: OnceLock::new() };
        let links = std::iter::repeat_with(unlinked).take(ids.len()).collect();
        let bytes = group.vectors.len()
            + group.norms.len()
            + group.operations.iter().map(operation_bytes).sum::<usize>();
        let deletes = |operation: &&Operation| matches!(operation.kind, OperationKind::Delete);
        let deletions = group.operations.iter().filter(deletes).count();
        self.deletions.fetch_add(deletions, Relaxed);
        self.born.fetch_min(now.as_nanos() as u64, Relaxed);
        self.touched.store(now.as_nanos() as u64, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.rows.fetch_add(group.norms.len() / 4, Relaxed);
        let batch = Batch {
            record: Arc::clone(record),
            lsn,
            operations: group.operations,
            upserts,
            links,
            vectors: group.vectors,
            norms: group.norms,
        };
        let pushed = self.batches.push(batch);
        debug_assert!(pushed.is_ok(), "two threads applied at once");
        for (operation, id) in ids.into_iter().enumerate() {
            let place = Place { batch: batch_index, operation: operation as u32 };
            let all =
                || self.operations().take_while(move |at| *at != place).filter_map(|at| self.if_newest(at));
            self.newest.replace(
                id,
                place,
                |at| self.is_on(at, id),
                all,
                |older| self.link(older, place, lsn),
            );
        }
        self.first_lsn.fetch_min(lsn.0, Relaxed);
        self.last_lsn.fetch_max(lsn.0, Relaxed);
    }

    fn is_on(&self, place: Place, id: DocumentId) -> bool {
        self.operation(place).is_some_and(|(_, operation, _)| operation.id == id)
    }

    /// The operation `older` was the newest on its id until `newer`, of the record `lsn`.
    fn link(&self, older: Place, newer: Place, lsn: Lsn) {
        if let Some((.., link)) = self.operation(older) {
            link.superseded.store(lsn.0, Relaxed);
        }
        if let Some((.., link)) = self.operation(newer) {
            let _first = link.previous.set(older);
        }
    }

    /// All operations, in the order in which they were applied.
    fn operations(&self) -> impl Iterator<Item = Place> {
        let batches = self.batches.iter().enumerate();
        batches.flat_map(|(batch, entry)| {
            (0..entry.operations.len() as u32).map(move |operation| Place { batch: batch as u32, operation })
        })
    }

    fn operation(&self, place: Place) -> Option<(&Batch, &Operation, &Link)> {
        let batch = self.batches.get(place.batch as usize)?;
        let operation = place.operation as usize;
        Some((batch, batch.operations.get(operation)?, batch.links.get(operation)?))
    }

    fn if_newest(&self, place: Place) -> Option<(DocumentId, Place)> {
        let (_, operation, link) = self.operation(place)?;
        (link.superseded.load(Relaxed) == u64::MAX).then_some((operation.id, place))
    }

    fn place(&self, id: DocumentId, visible: Lsn) -> Option<Place> {
        let mut place = self.newest.get(id, |at| self.is_on(at, id))?;
        loop {
            let (batch, _, link) = self.operation(place)?;
            if batch.lsn <= visible {
                return Some(place);
            }
            place = *link.previous.get()?;
        }
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
        let (batch, operation, _) = self.operation(place)?;
        Some(MemtableEntry { batch, operation, dimension: self.dimension })
    }

    /// The newest version of every document at or below `visible`, deletions too, in the order of writing.
    pub(crate) fn newest(&self, visible: Lsn) -> impl Iterator<Item = (DocumentId, MemtableEntry<'_>)> {
        self.batches(visible).flat_map(move |(_, batch)| {
            let operations = batch.operations.iter().zip(&batch.links);
            operations.filter(move |(_, link)| !link.is_superseded(visible)).map(move |(operation, _)| {
                (operation.id, MemtableEntry { batch, operation, dimension: self.dimension })
            })
        })
    }

    /// The batches at or below `visible`, with their numbers.
    pub(crate) fn batches(&self, visible: Lsn) -> impl Iterator<Item = (u32, &Batch)> {
        self.batches_from(0, visible)
    }

    /// As [`Memtable::batches`], from a number on.
    pub(crate) fn batches_from(&self, first: u32, visible: Lsn) -> impl Iterator<Item = (u32, &Batch)> {
        let numbers = first..self.batches.len() as u32;
        numbers.filter_map(|n| Some((n, self.batch(n)?))).filter(move |(_, batch)| batch.lsn <= visible)
    }

    /// A batch by its number.
    pub(crate) fn batch(&self, number: u32) -> Option<&Batch> {
        self.batches.get(number as usize)
    }

    /// How many documents it has something on.
    pub(crate) fn documents(&self) -> usize {
        self.newest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.len() == 0
    }

    /// Roughly how much memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        // Records that were refused hold their chunk's memory as long as others in it are held.
        if self.is_empty() {
            0
        } else {
            self.bytes.load(Relaxed).max(self.arena.bytes()) + self.codes.bytes()
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.load(Relaxed)
    }

    /// Rows and deletions.
    pub(crate) fn entries(&self) -> usize {
        self.rows() + self.deletions.load(Relaxed)
    }

    /// When the first record was applied, by the database's clock.
    pub(crate) fn born(&self) -> Duration {
        Duration::from_nanos(self.born.load(Relaxed))
    }

    /// What waits here to be flushed.
    pub(crate) fn unflushed(&self, now: Duration) -> Unflushed {
        let since = |nanos: &AtomicU64| now.saturating_sub(Duration::from_nanos(nanos.load(Relaxed)));
        Unflushed {
            rows: self.entries() as u64,
            bytes: self.bytes() as u64,
            age: since(&self.born),
            idle: since(&self.touched),
        }
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
        self.links.get(operation as usize).is_none_or(|link| link.is_superseded(visible))
    }
}

impl Link {
    fn is_superseded(&self, visible: Lsn) -> bool {
        let by = self.superseded.load(Relaxed);
        by != u64::MAX && by <= visible.0
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

    /// The vector and the length of one posting.
    pub(crate) fn row(&self, posting: usize) -> Option<(&'a [f32], f32)> {
        let vector = self.vectors().chunks_exact(self.dimension).nth(posting)?;
        Some((vector, *self.norms().get(posting)?))
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
