//! Vector rows on their way into a segment: assigned to lists, grouped by shard and list, and written.

use plimsoll_base::{CollectionId, DocumentOrdinal, FileNumber, Generation, ListId, Metric, ShardId};
use plimsoll_shard::vector::{BLOCK_SLOTS, PLANE, RADII, REFINEMENTS, SIGNS};
use plimsoll_shard::{ListEntry, ListRows, PendingFile, SegmentKind, VectorInfo, VectorWriter};
use rayon::prelude::*;

use crate::codebook::{Codebook, RowEncoder, push_indexed};
use crate::error::{Error, Result};
use crate::router::Router;
use crate::tree::FileOpener;

/// Where rows of generation 0 are: they have no lists yet.
pub(crate) const UNLISTED: (ShardId, ListId) = (ShardId(0), ListId(0));

/// One vector row. The derived order is that of a segment: by shard, list, document and posting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub shard: ShardId,
    pub list: ListId,
    pub ordinal: DocumentOrdinal,
    pub posting: u16,
}

/// Rows that are being assigned, a block at a time.
pub(crate) struct RowAssigner<'a> {
    router: Option<&'a Router>,
    dimension: usize,
    block: Vec<f32>,
    waiting: Vec<(DocumentOrdinal, u16)>,
    pub rows: Vec<Row>,
}

/// Rows assigned at once: enough for all cores, few enough to stay in the cache.
const BLOCK: usize = 4096;

impl<'a> RowAssigner<'a> {
    /// Assigns to the lists of `router`; without one, to the pseudo list of generation 0.
    pub(crate) fn new(router: Option<&'a Router>, dimension: usize) -> Self {
        Self { router, dimension, block: Vec::new(), waiting: Vec::new(), rows: Vec::new() }
    }

    /// Adds the vectors of one document, in posting order from posting `first`.
    pub(crate) fn add(&mut self, ordinal: DocumentOrdinal, vectors: &[f32], norms: &[f32]) -> Result<()> {
        for (posting, (vector, norm)) in vectors.chunks_exact(self.dimension).zip(norms).enumerate() {
            self.add_one(ordinal, posting as u16, vector, *norm)?;
        }
        Ok(())
    }

    /// Adds one row.
    pub(crate) fn add_one(
        &mut self,
        ordinal: DocumentOrdinal,
        posting: u16,
        vector: &[f32],
        norm: f32,
    ) -> Result<()> {
        let Some(router) = self.router else {
            let (shard, list) = UNLISTED;
            self.rows.push(Row { shard, list, ordinal, posting });
            return Ok(());
        };
        router.push_indexed(vector, norm, &mut self.block);
        self.waiting.push((ordinal, posting));
        if self.waiting.len() >= BLOCK { self.assign(router) } else { Ok(()) }
    }

    fn assign(&mut self, router: &Router) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let places = router.assign(&self.block)?;
        for ((ordinal, posting), (shard, list)) in self.waiting.drain(..).zip(places) {
            self.rows.push(Row { shard, list, ordinal, posting });
        }
        self.block.clear();
        Ok(())
    }

    /// All rows, in segment order.
    pub(crate) fn finish(mut self) -> Result<Vec<Row>> {
        if let Some(router) = self.router {
            self.assign(router)?;
        }
        self.rows.par_sort_unstable();
        Ok(self.rows)
    }
}

/// Where the vectors of rows are.
pub(crate) trait RowVectors: Sync {
    /// The vector and the length of a row.
    fn vector(&self, ordinal: DocumentOrdinal, posting: u16) -> Result<(&[f32], f32)>;
}

/// What a segment is to be.
pub(crate) struct SegmentPlan<'a> {
    pub number: FileNumber,
    pub collection: CollectionId,
    pub generation: Generation,
    pub kind: SegmentKind,
    pub metric: Metric,
    /// What the rows are encoded with, if the generation has codes.
    pub codebook: Option<&'a Codebook>,
}

impl<'a> SegmentPlan<'a> {
    /// Writes rows that are in segment order; returns the file with the rows of each shard.
    pub(crate) fn write<'f>(
        &self,
        opener: &'f FileOpener,
        rows: &[Row],
        vectors: &dyn RowVectors,
    ) -> Result<(PendingFile<'f>, Vec<(ShardId, u64)>)> {
        let info = VectorInfo {
            collection: self.collection,
            generation: self.generation,
            kind: self.kind,
            codes: self.codebook.map(Codebook::lengths),
        };
        let mut writer =
            VectorWriter::create(&*opener.storage, &opener.dir, self.number, opener.database, info)?;
        let ordinals: Vec<DocumentOrdinal> = rows.iter().map(|row| row.ordinal).collect();
        let postings: Vec<u16> = rows.iter().map(|row| row.posting).collect();
        let mut shards = Vec::new();
        let mut start = 0;
        for of_shard in rows.chunk_by(|a, b| a.shard == b.shard) {
            let mut lists = Vec::new();
            for of_list in of_shard.chunk_by(|a, b| a.list == b.list) {
                let range = start..start + of_list.len();
                start = range.end;
                lists.push(ListRows {
                    list: of_list[0].list,
                    ordinals: &ordinals[range.clone()],
                    postings: &postings[range],
                });
            }
            let entries = writer.shard(of_shard[0].shard, &lists)?;
            if let Some(book) = self.codebook {
                ShardCodes { metric: self.metric, book, rows: of_shard, entries: &entries, vectors }
                    .write(&mut writer, of_shard[0].shard)?;
            }
            shards.push((of_shard[0].shard, of_shard.len() as u64));
        }
        Ok((writer.finish()?, shards))
    }
}

/// The rows of a shard on their way into codes.
struct ShardCodes<'a> {
    metric: Metric,
    book: &'a Codebook,
    rows: &'a [Row],
    entries: &'a [ListEntry],
    vectors: &'a dyn RowVectors,
}

/// Slots encoded by one thread at a time, in whole blocks, and how many such parts are held before they are written.
const PART: usize = 32 * BLOCK_SLOTS as usize;
const PARTS: usize = 16;

impl ShardCodes<'_> {
    /// Writes the code sections: the records as they are made, then the signs, which take a tenth of the room and waited
    /// in memory, and then the refinements, which take as much as the records and for which each row is rotated once more.
    fn write(&self, writer: &mut VectorWriter<'_>, shard: ShardId) -> Result<()> {
        let mut signs = Vec::new();
        let mut radii = vec![0.0_f32; self.entries.len()];
        writer.begin(PLANE, shard)?;
        for parts in self.slots().chunks(PART * PARTS) {
            let encoded: Vec<Encoded> = parts
                .par_chunks(PART)
                .map_init(|| RowEncoder::new(self.book), |encoder, part| self.encode(encoder, part))
                .collect::<Result<_>>()?;
            for part in encoded {
                writer.append(&part.records)?;
                signs.push(part.signs);
                for (list, radius) in part.radii {
                    if let Ok(index) = self.entries.binary_search_by_key(&list, |entry| entry.list) {
                        radii[index] = radii[index].max(radius);
                    }
                }
            }
        }
        writer.begin(SIGNS, shard)?;
        signs.iter().try_for_each(|signs| writer.append(signs))?;
        if self.book.needs_radii() {
            writer.begin(RADII, shard)?;
            writer.append(bytemuck::cast_slice(&radii))?;
        }
        if self.book.refines() {
            writer.begin(REFINEMENTS, shard)?;
            for rows in self.rows.chunks(PART * PARTS) {
                let encoded: Vec<Vec<u8>> = rows
                    .par_chunks(PART)
                    .map_init(|| RowEncoder::new(self.book), |encoder, part| self.refine(encoder, part))
                    .collect::<Result<_>>()?;
                encoded.iter().try_for_each(|part| writer.append(part))?;
            }
        }
        Ok(())
    }

    fn refine(&self, encoder: &mut RowEncoder<'_>, rows: &[Row]) -> Result<Vec<u8>> {
        let mut refinements = Vec::with_capacity(rows.len() * self.book.width());
        let mut indexed = Vec::new();
        for row in rows {
            self.indexed(row, &mut indexed)?;
            encoder.refinement(&indexed, &mut refinements);
        }
        Ok(refinements)
    }

    /// The row in each slot, or [`EMPTY`].
    fn slots(&self) -> Vec<u32> {
        let end = self.entries.last().map_or(0, |last| last.first_slot + last.rows);
        let mut slots = vec![EMPTY; end as usize];
        for entry in self.entries {
            let first = entry.first_slot as usize;
            for (slot, row) in slots[first..first + entry.rows as usize].iter_mut().zip(entry.first_row..) {
                *slot = row;
            }
        }
        slots
    }

    fn encode(&self, encoder: &mut RowEncoder<'_>, slots: &[u32]) -> Result<Encoded> {
        let lengths = self.book.lengths();
        let mut encoded = Encoded {
            signs: Vec::with_capacity(slots.len().div_ceil(BLOCK_SLOTS as usize) * lengths.block as usize),
            records: Vec::with_capacity(slots.len() * lengths.record as usize),
            radii: Vec::new(),
        };
        let mut indexed = Vec::new();
        for (slot, &row) in slots.iter().enumerate().filter(|(_, row)| **row != EMPTY) {
            let row = &self.rows[row as usize];
            self.indexed(row, &mut indexed)?;
            let position = self.book.position(row.list).ok_or_else(|| unknown_list(row))?;
            encoder.signs(&indexed, position, slot, &mut encoded.signs);
            encoder.record(&mut encoded.records);
            if self.book.needs_radii() {
                let radius = encoder.radius(position);
                match encoded.radii.last_mut().filter(|(list, _)| *list == row.list) {
                    Some((_, largest)) => *largest = largest.max(radius),
                    None => encoded.radii.push((row.list, radius)),
                }
            }
        }
        Ok(encoded)
    }

    fn indexed(&self, row: &Row, into: &mut Vec<f32>) -> Result<()> {
        let (vector, norm) = self.vectors.vector(row.ordinal, row.posting)?;
        into.clear();
        push_indexed(self.metric, vector, norm, into);
        Ok(())
    }
}

/// The codes of some slots.
struct Encoded {
    signs: Vec<u8>,
    records: Vec<u8>,
    /// How far the rows of each list are from its centroid at most.
    radii: Vec<(ListId, f32)>,
}

/// A slot without a row.
const EMPTY: u32 = u32::MAX;

fn unknown_list(row: &Row) -> Error {
    Error::InvalidArgument(format!("list {} is not of the generation whose codes are made", row.list))
}
