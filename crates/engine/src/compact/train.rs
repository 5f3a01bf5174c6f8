//! Training a new index generation: centroids from a sample, every row to its list, lists to shards, and the
//! stop rules that reach a wanted recall.

use std::ops::Range;
use std::sync::Arc;

use plimsoll_base::{DocumentOrdinal, Generation, ListId, Metric, ShardId};
use plimsoll_index::kmeans::{KmeansOptions, lists_for, sample_rows, train};
use plimsoll_index::sharding::assign_shards;
use plimsoll_index::{Centroids, Scored, Scores, StopTable, calibrate};
use plimsoll_kernels as kernels;
use plimsoll_shard::index_file::{IndexContents, write_index_file};
use plimsoll_shard::{IndexHeader, IndexList, PostingFile, Rotation, StopRule};

use super::Rewrite;
use super::lists::{Assigned, DEAD, LiveRows, malformed, mean_of};
use super::plan::Urgency;
use super::vectors::{Repacked, merge_kills, write_base};
use crate::codebook::{self, Codebook};
use crate::core::Core;
use crate::error::Result;
use crate::manifest::IndexEntry;
use crate::rows::Row;
use crate::state::CollectionState;

/// Rows of the sample for each list.
const SAMPLE_PER_LIST: usize = 64;
/// Passes over the sample.
const ITERATIONS: usize = 6;
/// Calibration looks at this many queries at most, and at fewer when scoring them would take more
/// multiplications than an urgency allows, but never fewer than [`MIN_CALIBRATION`]: then the stop rules are
/// more careful than they need to be.
const MAX_CALIBRATION: usize = 1000;
const MIN_CALIBRATION: usize = 128;

/// The multiplications that calibration may take: in the background it competes with writers.
const fn calibration_cost(urgency: Urgency) -> usize {
    match urgency {
        Urgency::Due | Urgency::Busy | Urgency::Closing => 2_000_000_000,
        Urgency::Everything => 40_000_000_000,
    }
}

/// Where random choices start: training the same rows again gives the same index.
const SEED: u64 = 0x706c_696d_736f_6c6c;

/// Trains a generation on all live rows and assigns them to its lists.
pub(super) fn retrain<'a>(
    core: &'a Core,
    collection: &CollectionState,
    urgency: Urgency,
) -> Result<Rewrite<'a>> {
    let tree = &*collection.tree;
    let rows = LiveRows::read(tree)?;
    let lists = lists_for(rows.count);
    let sample = rows.sample(lists * SAMPLE_PER_LIST, SEED)?;
    let dimension = collection.config.dimension;
    let centroids = train(&sample, dimension, lists, KmeansOptions { seed: SEED, iterations: ITERATIONS });
    let mean = mean_of(&sample, dimension);
    drop(sample);
    let table = Table::assign(core, collection, centroids, &rows)?;
    let codebook = Codebook::new(collection.config.metric, SEED, &mean, &table.centroids);
    let stops = table.calibrate(&rows, &codebook, urgency)?;
    let rules: Vec<StopRule> = stops
        .entries()
        .iter()
        .map(|entry| StopRule { k: entry.k, recall: entry.recall, stop: entry.t })
        .collect();
    let epsilons: Vec<f32> = stops.entries().iter().map(|entry| entry.epsilon).collect();
    let generation = Generation(tree.generation().0 + 1);
    let header = IndexHeader {
        collection: collection.id,
        generation,
        metric: collection.config.metric,
        dimension: dimension as u32,
        rows_at_training: rows.count as u64,
        next_list: ListId(table.first_list + table.lists.len() as u32),
        next_shard: ShardId(table.first_shard + table.shards),
        rotation: Rotation { seed: SEED, rounds: codebook::ROUNDS },
    };
    let contents = IndexContents {
        header,
        mean: &mean,
        centroids: table.centroids.vectors(),
        lists: &table.lists,
        stops: &rules,
        epsilons: &epsilons,
        spreads: table.centroids.spreads(),
    };
    let opener = &core.opener;
    let number = core.allocate_file();
    let file = write_index_file(&*opener.storage, &opener.dir, number, opener.database, &contents)?;
    let entry = IndexEntry {
        file: *file.meta(),
        generation,
        rows_at_training: rows.count as u64,
        lists: table.lists.len() as u32,
        shards: table.shards,
    };
    let mut files = vec![file];
    let output =
        write_base(core, collection, (generation, Some(&codebook)), &table.rows(&rows)?, &mut files)?;
    let (old_kills, kills) = merge_kills(core, collection, true, &mut files)?;
    let all = |segment: &Arc<crate::tree::VectorSegment>| {
        (segment.file.meta, segment.live.iter().map(|(shard, _)| *shard).collect())
    };
    let repacked = Repacked {
        inputs: tree.vectors.iter().map(all).collect(),
        output,
        old_kills,
        kills,
        index: Some((entry, header)),
        trained: Some((collection.name.to_string(), generation)),
    };
    Ok(Rewrite { files, change: Box::new(repacked) })
}

/// The lists of the new generation, and which of them each row belongs to.
struct Table {
    centroids: Centroids,
    lists: Vec<IndexList>,
    shards: u32,
    first_list: u32,
    first_shard: u32,
    /// Per posting file, the position of each row's list, or [`DEAD`].
    positions: Vec<Vec<u32>>,
}

impl Table {
    fn assign(
        core: &Core,
        collection: &CollectionState,
        centroids: Vec<f32>,
        rows: &LiveRows<'_>,
    ) -> Result<Self> {
        let dimension = collection.config.dimension;
        let Assigned { centroids, positions, counts, radii, spreads } =
            Assigned::refine(centroids, dimension, rows)?;
        let lists = counts.len();
        let entry = &collection.tree.entry;
        let (first_list, first_shard) = (entry.next_list.0, entry.next_shard.0);
        let ids: Vec<ListId> = (first_list..).take(lists).map(ListId).collect();
        let limit = u64::from(core.options.shard_rows);
        let shards = assign_shards(&centroids, dimension, &counts, limit, SEED);
        let shard_count = shards.iter().max().map_or(0, |last| last + 1);
        let shards: Vec<ShardId> = shards.into_iter().map(|shard| ShardId(first_shard + shard)).collect();
        let index_list = |position: usize| IndexList {
            id: ids[position],
            shard: shards[position],
            rows: counts[position],
            radius: radii[position],
        };
        let index_lists = (0..lists).map(index_list).collect();
        let centroids = Centroids::new(dimension, ids, shards, centroids, radii)
            .and_then(|centroids| centroids.with_statistics(spreads, counts))
            .map_err(malformed)?;
        Ok(Self { centroids, lists: index_lists, shards: shard_count, first_list, first_shard, positions })
    }

    /// All live rows, in segment order.
    fn rows(&self, live: &LiveRows<'_>) -> Result<Vec<Row>> {
        let mut rows = Vec::with_capacity(live.count);
        for (file, positions) in live.files.iter().zip(&self.positions) {
            for document in 0..file.documents() {
                let entry = file.entry(document)?;
                for (posting, row) in file.rows_of(document)?.enumerate() {
                    let position = positions[row as usize];
                    if position != DEAD {
                        let list = &self.lists[position as usize];
                        let ordinal: DocumentOrdinal = entry.ordinal();
                        rows.push(Row { shard: list.shard, list: list.id, ordinal, posting: posting as u16 });
                    }
                }
            }
        }
        rows.sort_unstable();
        Ok(rows)
    }

    /// The stop rules, from rows that take the part of queries.
    fn calibrate(&self, rows: &LiveRows<'_>, book: &Codebook, urgency: Urgency) -> Result<StopTable> {
        let dimension = self.centroids.dim();
        let affordable = calibration_cost(urgency) / (rows.count * dimension).max(1);
        let queries = affordable.clamp(MIN_CALIBRATION, MAX_CALIBRATION).min(rows.count);
        let places = rows.places(&sample_rows(rows.count, queries, SEED ^ 1));
        // Touch everything once, so that damage is an error and not a short answer below.
        rows.files.iter().try_for_each(|file| file.vectors(0..file.rows()).map(|_| ()))?;
        let score = |range: Range<usize>, scores: &mut [Scores]| {
            let places = &places[range];
            let mut queries = Vec::with_capacity(places.len() * dimension);
            if places.iter().any(|(file, row)| rows.push(*file, *row, &mut queries).is_err()) {
                return;
            }
            for ((query, scores), (file, row)) in
                queries.chunks_exact(dimension).zip(scores.iter_mut()).zip(places)
            {
                scores.set_query(query, Some(self.positions[*file][*row as usize]));
            }
            for (file, posting) in rows.files.iter().enumerate() {
                let own: Vec<_> = places.iter().map(|place| (place.0 == file).then_some(place.1)).collect();
                self.score(rows.metric(), &queries, &own, (file, posting), &self.positions[file], scores);
            }
        };
        let estimate = |query: &[f32], found: &[Scored]| {
            book.estimates(query, found, |row, into| {
                rows.push((row >> 32) as usize, row as u32, into).is_ok()
            })
        };
        Ok(calibrate(&self.centroids, rows.metric(), places.len(), score, estimate))
    }

    /// Scores the live rows of a file for some queries; `own` are the rows that the queries are made of.
    fn score(
        &self,
        metric: Metric,
        queries: &[f32],
        own: &[Option<u32>],
        (number, file): (usize, &PostingFile),
        positions: &[u32],
        scores: &mut [Scores],
    ) {
        const BLOCK: u32 = 256;
        let dimension = self.centroids.dim();
        let lengths: Vec<f32> = queries.chunks_exact(dimension).map(kernels::norm_squared).collect();
        let mut products = vec![0.0; BLOCK as usize * own.len()];
        let rows = file.rows();
        for first in (0..rows).step_by(BLOCK as usize) {
            let block = first..rows.min(first + BLOCK);
            let (Ok(vectors), Ok(norms)) = (file.vectors(block.clone()), file.norms(block.clone())) else {
                return;
            };
            let products = &mut products[..norms.len() * own.len()];
            kernels::dot_matrix(queries, vectors, dimension, products);
            for (query, products) in products.chunks_exact(norms.len()).enumerate() {
                for ((row, norm), product) in block.clone().zip(norms).zip(products) {
                    let position = positions[row as usize];
                    if position != DEAD && own[query] != Some(row) {
                        let score = match metric {
                            Metric::L2 => (lengths[query] + norm * norm - 2.0 * product).max(0.0),
                            Metric::Dot => -product,
                            Metric::Cosine => (2.0 - 2.0 * product / norm).max(0.0),
                        };
                        scores[query].push(position, (number as u64) << 32 | u64::from(row), score);
                    }
                }
            }
        }
    }
}
