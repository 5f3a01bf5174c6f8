//! Sign codes of a memtable's rows, by which a search passes over most of them without looking at their vectors.
//!
//! They are made by the searches that come by, some rows each, so that writes cost no more for them; one search at a
//! time does that, and the others use what there is. All rows count as one list whose centroid is the mean of the index
//! generation. A search sees one immutable value, as of when it began.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use plimsoll_base::Generation;
use plimsoll_base::aligned::AlignedBytes;
use plimsoll_base::sync::PlainMutex;
use plimsoll_kernels::BLOCK;

use super::Memtable;
use crate::codebook::RowEncoder;

/// Rows that one search encodes at most: a quarter of a millisecond.
const ENCODED_AT_ONCE: usize = 4 * BLOCK;
/// Chunks with fewer rows than this are joined.
const LONG: usize = 64 * BLOCK;

/// Where a row is: the number of its batch, and its own in the batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowPlace {
    pub batch: u32,
    pub row: u32,
}

/// The codes of a memtable's first rows.
pub(crate) struct CodedRows {
    generation: Generation,
    chunks: Vec<Arc<Chunk>>,
    rows: usize,
    /// The first row without codes.
    pub next: RowPlace,
}

/// Some rows, and whole blocks of their codes.
pub(crate) struct Chunk {
    pub blocks: AlignedBytes,
    pub rows: Vec<RowPlace>,
}

/// The codes of a memtable for one generation at a time.
#[derive(Default)]
pub(super) struct Codes {
    current: ArcSwapOption<CodedRows>,
    encoding: PlainMutex<()>,
}

impl CodedRows {
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter().map(|chunk| &**chunk)
    }

    fn empty(generation: Generation) -> Self {
        Self { generation, chunks: Vec::new(), rows: 0, next: RowPlace::default() }
    }

    /// These and the rows of one more chunk.
    fn with(&self, chunk: Chunk, next: RowPlace) -> Self {
        let rows = self.rows + chunk.rows.len();
        let mut chunks = self.chunks.clone();
        let mut last = Arc::new(chunk);
        // As digits are carried: each row is copied a few times at most.
        while let Some(before) =
            chunks.pop_if(|before| before.rows.len() <= last.rows.len() && before.rows.len() < LONG)
        {
            last = Arc::new(before.joined(&last));
        }
        chunks.push(last);
        Self { generation: self.generation, chunks, rows, next }
    }

    fn bytes(&self) -> usize {
        let bytes = |chunk: &Chunk| chunk.blocks.len() + size_of_val(&chunk.rows[..]);
        self.chunks().map(bytes).sum()
    }
}

impl Chunk {
    fn joined(&self, other: &Self) -> Self {
        let mut blocks = AlignedBytes::zeroed(self.blocks.len() + other.blocks.len());
        let (first, second) = blocks.split_at_mut(self.blocks.len());
        first.copy_from_slice(&self.blocks);
        second.copy_from_slice(&other.blocks);
        Self { blocks, rows: [&self.rows[..], &other.rows[..]].concat() }
    }
}

impl Codes {
    /// How much memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.current.load().as_ref().map_or(0, |coded| coded.bytes())
    }
}

impl Memtable {
    /// The codes of its first rows for a generation, whose encoder appends the codes of a vector with some length to
    /// blocks, at a slot. Some rows that have none yet may get theirs now.
    pub(crate) fn coded<'a>(
        &self,
        generation: Generation,
        encoder: impl FnOnce() -> RowEncoder<'a>,
    ) -> Option<Arc<CodedRows>> {
        let current = || self.codes.current.load_full().filter(|coded| coded.generation == generation);
        let coded = current();
        let rows = |coded: &Option<Arc<CodedRows>>| coded.as_ref().map_or(0, |coded| coded.rows);
        if self.rows() < rows(&coded) + BLOCK {
            return coded;
        }
        let Ok(_guard) = self.codes.encoding.try_lock() else { return coded };
        let coded = current().unwrap_or_else(|| Arc::new(CodedRows::empty(generation)));
        let places = self.places_from(coded.next, ENCODED_AT_ONCE);
        let Some(last) = places.last().copied() else { return Some(coded) };
        let (mut encoder, mut blocks) = (encoder(), Vec::new());
        for (slot, place) in places.iter().enumerate() {
            if let Some((vector, norm)) = self.row(*place) {
                encoder.signs_around_mean(vector, norm, slot, &mut blocks);
            }
        }
        let chunk = Chunk { blocks: AlignedBytes::copy_of(&blocks), rows: places };
        let coded = Arc::new(coded.with(chunk, RowPlace { row: last.row + 1, ..last }));
        self.codes.current.store(Some(Arc::clone(&coded)));
        Some(coded)
    }

    /// Where the rows from a place on are: as many whole blocks of them as there are, but at most `most`.
    fn places_from(&self, from: RowPlace, most: usize) -> Vec<RowPlace> {
        let mut places = Vec::with_capacity(most);
        let batches = (from.batch..).map_while(|batch| Some((batch, self.batch(batch)?)));
        for (number, batch) in batches {
            let first = if number == from.batch { from.row } else { 0 };
            let rows = (first..batch.norms().len() as u32).map(|row| RowPlace { batch: number, row });
            places.extend(rows.take(most - places.len()));
            if places.len() == most {
                break;
            }
        }
        places.truncate(places.len() / BLOCK * BLOCK);
        places
    }

    /// The vector and the length of a row.
    fn row(&self, place: RowPlace) -> Option<(&[f32], f32)> {
        let batch = self.batch(place.batch)?;
        let vector = batch.vectors().chunks_exact(self.dimension).nth(place.row as usize)?;
        Some((vector, *batch.norms().get(place.row as usize)?))
    }
}
