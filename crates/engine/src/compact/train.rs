//! Training a new index generation: centroids from a sample, every row to its list, lists to shards, and the
//! stop rules that reach a wanted recall.

use std::sync::Arc;

use plimsoll_base::{DocumentOrdinal, Generation, ListId, ShardId};
use plimsoll_index::kmeans::lists_for;
use plimsoll_index::sharding::assign_shards;
use plimsoll_index::{Centroids, Lists, Rows};
use plimsoll_shard::index_file::{IndexContents, write_index_file};
use plimsoll_shard::{IndexHeader, IndexList, Rotation, StopRule};
use rayon::prelude::*;

use super::lists::{LiveRows, malformed};
use super::plan::Urgency;
use super::vectors::{Repacked, merge_kills, write_base};
use super::{Rewrite, calibrate};
use crate::codebook::{self, Codebook};
use crate::core::Core;
use crate::error::Result;
use crate::manifest::IndexEntry;
use crate::rows::Row;
use crate::state::CollectionState;

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
    let count = rows.count();
    let dimension = collection.config.dimension;
    let trained = Lists::train(&rows, lists_for(count), SEED)?;
    let mean = mean_of(&trained, count);
    let table = Table::new(core, collection, trained)?;
    let codebook = Codebook::new(collection.config.metric, SEED, &mean, &table.centroids);
    let lists = (&table.centroids, &table.positions[..]);
    let queries = (calibrate::queries(urgency), SEED ^ 1);
    let stops = calibrate::stop_table(&rows, rows.metric(), lists, &codebook, queries)?;
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
        rows_at_training: count as u64,
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
        rows_at_training: count as u64,
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

/// The mean of all rows, from those of the lists.
fn mean_of(lists: &Lists, rows: usize) -> Vec<f32> {
    let dimension = lists.centroids.len() / lists.counts.len().max(1);
    let mut sums = vec![0.0_f64; dimension];
    for (centroid, count) in lists.centroids.chunks_exact(dimension.max(1)).zip(&lists.counts) {
        sums.iter_mut().zip(centroid).for_each(|(sum, value)| *sum += f64::from(*value) * f64::from(*count));
    }
    sums.into_iter().map(|sum| (sum / rows as f64) as f32).collect()
}

/// The lists of the new generation, and which of them each row belongs to.
struct Table {
    centroids: Centroids,
    lists: Vec<IndexList>,
    shards: u32,
    first_list: u32,
    first_shard: u32,
    /// The position of the list of each live row.
    positions: Vec<u32>,
}

impl Table {
    fn new(core: &Core, collection: &CollectionState, lists: Lists) -> Result<Self> {
        let Lists { centroids, positions, counts, radii, spreads } = lists;
        let dimension = collection.config.dimension;
        let entry = &collection.tree.entry;
        let (first_list, first_shard) = (entry.next_list.0, entry.next_shard.0);
        let ids: Vec<ListId> = (first_list..).take(counts.len()).map(ListId).collect();
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
        let index_lists = (0..counts.len()).map(index_list).collect();
        let centroids = Centroids::new(dimension, ids, shards, centroids, radii)
            .and_then(|centroids| centroids.with_statistics(spreads, counts))
            .map_err(malformed)?;
        Ok(Self { centroids, lists: index_lists, shards: shard_count, first_list, first_shard, positions })
    }

    /// All live rows, in segment order.
    fn rows(&self, live: &LiveRows<'_>) -> Result<Vec<Row>> {
        let mut rows = Vec::with_capacity(live.count());
        let mut places = live.places().iter().zip(&self.positions).peekable();
        for (number, file) in (0..).zip(live.files()) {
            for document in 0..file.documents() {
                let entry = file.entry(document)?;
                for (posting, row) in file.rows_of(document)?.enumerate() {
                    if let Some((_, position)) = places.next_if(|(place, _)| **place == (number, row)) {
                        let list = &self.lists[*position as usize];
                        let ordinal: DocumentOrdinal = entry.ordinal();
                        rows.push(Row { shard: list.shard, list: list.id, ordinal, posting: posting as u16 });
                    }
                }
            }
        }
        rows.par_sort_unstable();
        Ok(rows)
    }
}
