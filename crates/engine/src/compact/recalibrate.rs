//! New stop rules for the lists that there are: on queries that a user gives, or on the collection's own rows again.
//!
//! The newest generation gets another index file, with the same lists; the queries are kept in it, so that the next
//! training calibrates on them, too. It is installed as a step of a compaction is, and nothing else goes on meanwhile
//! that changes generations.

use plimsoll_base::{CollectionId, Generation, StorageError};
use plimsoll_index::{Centroids, Malformed, Rows};
use plimsoll_shard::index_file::{IndexContents, write_index_file};
use plimsoll_shard::{FileMeta, IndexHeader, SealedView};

use super::calibrate::{self, Sampled};
use super::lists::LiveRows;
use super::plan::Urgency;
use super::train::CALIBRATION_SEED;
use super::{Change, Rewrite};
use crate::codebook::Codebook;
use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::manifest::CollectionEntry;
use crate::router::Router;
use crate::state::CollectionState;
use crate::stats::CompactionStats;
use crate::tree::Tree;

/// Another file of the generation.
struct Recalibrated {
    generation: Generation,
    file: FileMeta,
}

impl Core {
    /// Calibrates a collection's newest generation on queries, one after another and as the index sees them; if there
    /// are none, on its own rows.
    pub(crate) fn calibrate(&self, (id, name): (CollectionId, &str), queries: &[f32]) -> Result<()> {
        let _one_at_a_time = lock(&self.compacting);
        if self.signals.stopping() {
            return Err(Error::Closed);
        }
        let state = self.published.state();
        let Some(collection) = state.collections.get(&id) else {
            return Err(Error::CollectionNotFound(name.to_owned()));
        };
        if let Some(damage) = &collection.damage {
            return Err(damage.clone().into());
        }
        let rewrite = recalibrate(self, collection, queries)?;
        self.install_rewrite(collection, rewrite, &mut CompactionStats::default())
    }
}

fn recalibrate<'a>(core: &'a Core, collection: &CollectionState, queries: &[f32]) -> Result<Rewrite<'a>> {
    let tree = &*collection.tree;
    let rows = LiveRows::read(tree)?;
    let index = match tree.router(tree.generation())? {
        Some(router) => router.codebook()?.map(|book| (router, book)),
        None => None,
    };
    let Some((router, book)) = index.filter(|_| rows.count() > 0) else {
        return Err(Error::NotIndexed { collection: collection.name.to_string(), rows: rows.count() as u64 });
    };
    let positions = positions(tree, &rows, router, book)?;
    let sampled = Sampled::new(Urgency::Everything, CALIBRATION_SEED, queries);
    let file = router.file();
    let reaching = book.needs_radii().then(|| reaching(tree, router)).transpose()?;
    let centroids = reaching.as_ref().map_or_else(|| router.centroids(), Ok)?;
    let stops = calibrate::stop_table(&rows, rows.metric(), (centroids, &positions), book, &sampled)?;
    let (stops, epsilons) = calibrate::stored(&stops);
    let contents = IndexContents {
        header: IndexHeader { rows_at_training: rows.count() as u64, ..*file.header() },
        mean: file.mean()?,
        centroids: file.centroids()?,
        lists: file.lists()?,
        stops: &stops,
        spreads: file.spreads()?,
        epsilons: &epsilons,
        queries,
    };
    let (opener, number) = (&core.opener, core.allocate_file());
    let file = write_index_file(&*opener.storage, &opener.dir, number, opener.database, &contents)?;
    let change = Recalibrated { generation: router.generation(), file: *file.meta() };
    Ok(Rewrite { files: vec![file], change: Box::new(change) })
}

/// The lists of a generation, as far as segments say that their rows are: searches under the dot product go by that.
fn reaching(tree: &Tree, router: &Router) -> Result<Centroids> {
    let reaching = router.centroids()?.clone().with_radii(tree.radii(router)?.to_vec());
    let path = router.file().sealed().path();
    Ok(reaching.map_err(|Malformed(what)| StorageError::corrupted(path, 0, what))?)
}

/// The position of the list of each live row. Rows of older generations are looked for where they would be.
fn positions(tree: &Tree, rows: &LiveRows<'_>, router: &Router, book: &Codebook) -> Result<Vec<u32>> {
    let mut positions = vec![None; rows.count()];
    for segment in tree.vectors.iter().filter(|segment| segment.generation == router.generation()) {
        let file = segment.file.get()?;
        for (shard, _) in &segment.live {
            for list in file.lists(*shard)? {
                let position = book.position(list.list).ok_or_else(|| {
                    let what = format!("the index has no list {}", list.list);
                    StorageError::corrupted(file.sealed().path(), 0, what)
                })?;
                let (ordinals, postings) = file.rows(*shard, list)?;
                for (&ordinal, &posting) in ordinals.iter().zip(postings) {
                    let Some((place, row)) = tree.row_place(ordinal, posting)? else { continue };
                    if let Some(number) = rows.number_of(place.file, row) {
                        positions[number as usize] = Some(position);
                    }
                }
            }
        }
    }
    let mut vector = Vec::with_capacity(rows.dim());
    let position = |(number, position): (usize, Option<u32>)| {
        if let Some(position) = position {
            return Ok(position);
        }
        vector.clear();
        rows.push(number as u32, &mut vector)?;
        Ok(router.centroids()?.assign(&vector)[0])
    };
    positions.into_iter().enumerate().map(position).collect()
}

impl Change for Recalibrated {
    fn enter(&self, entry: &mut CollectionEntry) {
        for index in entry.indexes.iter_mut().filter(|index| index.generation == self.generation) {
            index.file = self.file;
        }
    }

    /// It rewrites no rows.
    fn count(&self, _: &mut CompactionStats) {}
}
