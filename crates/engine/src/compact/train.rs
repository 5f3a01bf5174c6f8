//! Training a new index generation: centroids from a sample, every row to its list, lists to shards, and the
//! stop rules that reach a wanted recall.

use std::sync::Arc;

use plimsoll_base::{DocumentOrdinal, Generation, ListId, Metric, ShardId};
use plimsoll_index::kmeans::{KmeansOptions, lists_for, sample_rows, train};
use plimsoll_index::sharding::assign_shards;
use plimsoll_index::{Centroids, Malformed, Scores, StopTable, calibrate};
use plimsoll_kernels as kernels;
use plimsoll_shard::index_file::{IndexContents, write_index_file};
use plimsoll_shard::{IndexHeader, IndexList, PostingFile, Rotation, StopRule};

use super::Rewrite;
use super::plan::Urgency;
use super::vectors::{Repacked, merge_kills, write_base};
use crate::codebook::{self, Codebook};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::manifest::IndexEntry;
use crate::router::push_indexed;
use crate::rows::Row;
use crate::state::CollectionState;
use crate::tree::Tree;

/// Rows of the sample for each list.
const SAMPLE_PER_LIST: usize = 64;
/// Rows assigned at once.
const BLOCK: u32 = 4096;
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
/// The position of a row that is not live.
const DEAD: u32 = u32::MAX;

/// Trains a generation on all live rows and assigns them to its lists.
pub(super) fn retrain<'a>(
    core: &'a Core,
    collection: &CollectionState,
    urgency: Urgency,
) -> Result<Rewrite<'a>> {
    let tree = &*collection.tree;
    let rows = LiveRows::read(tree)?;
    let lists = lists_for(rows.count);
    let sample = rows.sample(lists * SAMPLE_PER_LIST)?;
    let dimension = collection.config.dimension;
    let centroids =
        train(&sample, dimension, lists, KmeansOptions { seed: SEED, ..KmeansOptions::default() });
    let mean = mean_of(&sample, dimension);
    drop(sample);
    let table = Table::assign(core, collection, centroids, &rows)?;
    let stops = table.calibrate(&rows, urgency)?;
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
        stops: &stops,
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
    let codebook = Codebook::new(collection.config.metric, SEED, &mean, &table.centroids);
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

fn mean_of(rows: &[f32], dimension: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dimension];
    for row in rows.chunks_exact(dimension) {
        sums.iter_mut().zip(row).for_each(|(sum, component)| *sum += f64::from(*component));
    }
    let count = (rows.len() / dimension).max(1) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Which rows of the posting files are live.
struct LiveRows<'a> {
    tree: &'a Tree,
    files: Vec<&'a PostingFile>,
    count: usize,
    live: Vec<Vec<bool>>,
}

impl<'a> LiveRows<'a> {
    fn read(tree: &'a Tree) -> Result<Self> {
        let files = tree.posting_files()?;
        let mut live = Vec::with_capacity(files.len());
        let mut count = 0;
        for file in &files {
            let mut of_file = vec![false; file.rows() as usize];
            for document in 0..file.documents() {
                let entry = file.entry(document)?;
                if !tree.kills.contains(entry.ordinal())? {
                    let rows = file.rows_of(document)?;
                    let rows = rows.start as usize..rows.end as usize;
                    count += rows.len();
                    of_file[rows].fill(true);
                }
            }
            live.push(of_file);
        }
        Ok(Self { tree, files, count, live })
    }

    fn metric(&self) -> Metric {
        self.tree.entry.config.metric
    }

    /// File and row of the live rows with these numbers, which ascend.
    fn places(&self, numbers: &[usize]) -> Vec<(usize, u32)> {
        let all = self.live.iter().enumerate().flat_map(|(file, rows)| {
            rows.iter().enumerate().filter(|(_, live)| **live).map(move |(row, _)| (file, row as u32))
        });
        let mut wanted = numbers.iter().peekable();
        all.enumerate()
            .filter(|(number, _)| wanted.next_if_eq(&number).is_some())
            .map(|(_, place)| place)
            .collect()
    }

    /// About `wanted` live rows as the index sees them, one after another.
    fn sample(&self, wanted: usize) -> Result<Vec<f32>> {
        let mut sample = Vec::with_capacity(wanted * self.tree.entry.config.dimension);
        for (file, row) in self.places(&sample_rows(self.count, wanted, SEED)) {
            self.push(file, row, &mut sample)?;
        }
        Ok(sample)
    }

    fn push(&self, file: usize, row: u32, block: &mut Vec<f32>) -> Result<()> {
        let posting = self.files[file];
        push_indexed(self.metric(), posting.vectors(row..row + 1)?, posting.norms(row..row + 1)?[0], block);
        Ok(())
    }
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
        let lists = centroids.len() / dimension;
        let entry = &collection.tree.entry;
        let (first_list, first_shard) = (entry.next_list.0, entry.next_shard.0);
        let ids: Vec<ListId> = (first_list..).take(lists).map(ListId).collect();
        let unsharded =
            make(dimension, ids.clone(), vec![ShardId(0); lists], centroids.clone(), vec![0.0; lists])?;
        let (positions, radii) = assign_rows(&unsharded, rows)?;
        let mut counts = vec![0_u32; lists];
        positions
            .iter()
            .flatten()
            .filter(|position| **position != DEAD)
            .for_each(|p| counts[*p as usize] += 1);
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
        let centroids = make(dimension, ids, shards, centroids, radii)?;
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
    fn calibrate(&self, rows: &LiveRows<'_>, urgency: Urgency) -> Result<Vec<StopRule>> {
        let dimension = self.centroids.dim();
        let affordable = calibration_cost(urgency) / (rows.count * dimension).max(1);
        let queries = affordable.clamp(MIN_CALIBRATION, MAX_CALIBRATION).min(rows.count);
        let places = rows.places(&sample_rows(rows.count, queries, SEED ^ 1));
        // Touch everything once, so that damage is an error and not a short answer below.
        rows.files.iter().try_for_each(|file| file.vectors(0..file.rows()).map(|_| ()))?;
        let table: StopTable = calibrate(&self.centroids, rows.metric(), places.len(), |range, scores| {
            let places = &places[range];
            let mut queries = Vec::with_capacity(places.len() * dimension);
            if places.iter().any(|(file, row)| rows.push(*file, *row, &mut queries).is_err()) {
                return;
            }
            for (query, scores) in queries.chunks_exact(dimension).zip(scores.iter_mut()) {
                scores.set_query(query);
            }
            for (file, posting) in rows.files.iter().enumerate() {
                let own: Vec<_> = places.iter().map(|place| (place.0 == file).then_some(place.1)).collect();
                self.score(rows.metric(), &queries, &own, posting, &self.positions[file], scores);
            }
        });
        let entries = table.entries().iter();
        Ok(entries.map(|entry| StopRule { k: entry.k, recall: entry.recall, stop: entry.t }).collect())
    }

    /// Scores the live rows of a file for some queries; `own` are the rows that the queries are made of.
    fn score(
        &self,
        metric: Metric,
        queries: &[f32],
        own: &[Option<u32>],
        file: &PostingFile,
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
                        scores[query].push(position, score);
                    }
                }
            }
        }
    }
}

fn make(
    dimension: usize,
    ids: Vec<ListId>,
    shards: Vec<ShardId>,
    vectors: Vec<f32>,
    radii: Vec<f32>,
) -> Result<Centroids> {
    Centroids::new(dimension, ids, shards, vectors, radii)
        .map_err(|Malformed(what)| Error::InvalidArgument(format!("training gave a malformed table: {what}")))
}

/// The list of every live row, and the radius of every list.
fn assign_rows(centroids: &Centroids, rows: &LiveRows<'_>) -> Result<(Vec<Vec<u32>>, Vec<f32>)> {
    let mut radii = vec![0.0_f32; centroids.len()];
    let mut positions = Vec::with_capacity(rows.live.len());
    for (file, live) in rows.live.iter().enumerate() {
        let mut of_file = vec![DEAD; live.len()];
        for first in (0..live.len() as u32).step_by(BLOCK as usize) {
            let block = first..(live.len() as u32).min(first + BLOCK);
            let wanted: Vec<u32> = block.filter(|row| live[*row as usize]).collect();
            let mut vectors = Vec::with_capacity(wanted.len() * centroids.dim());
            wanted.iter().try_for_each(|row| rows.push(file, *row, &mut vectors))?;
            let assigned = centroids.assign(&vectors);
            let of_block = centroids.radii_for(&vectors, &assigned);
            radii.iter_mut().zip(of_block).for_each(|(radius, of_block)| *radius = radius.max(of_block));
            wanted.iter().zip(assigned).for_each(|(row, position)| of_file[*row as usize] = position);
        }
        positions.push(of_file);
    }
    Ok((positions, radii))
}
