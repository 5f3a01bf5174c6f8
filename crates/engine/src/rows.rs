//! Vector rows on their way into a segment: assigned to lists, grouped by shard and list, and written.

use plimsoll_base::{CollectionId, DocumentOrdinal, FileNumber, Generation, ListId, ShardId};
use plimsoll_shard::{ListRows, PendingFile, SegmentKind, VectorInfo, VectorWriter};
use rayon::slice::ParallelSliceMut;

use crate::error::Result;
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

/// Writes rows that are in segment order as a segment; returns it with the rows of each shard.
pub(crate) fn write_segment<'a>(
    opener: &'a FileOpener,
    number: FileNumber,
    collection: CollectionId,
    generation: Generation,
    kind: SegmentKind,
    rows: &[Row],
) -> Result<(PendingFile<'a>, Vec<(ShardId, u64)>)> {
    let info = VectorInfo { collection, generation, kind };
    let mut writer = VectorWriter::create(&*opener.storage, &opener.dir, number, opener.database, info)?;
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
        writer.shard(of_shard[0].shard, &lists)?;
        shards.push((of_shard[0].shard, of_shard.len() as u64));
    }
    Ok((writer.finish()?, shards))
}
