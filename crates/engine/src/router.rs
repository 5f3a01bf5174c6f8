//! One index generation in use: from an index file to lists for rows and queries.

use std::sync::{Arc, OnceLock};

use plimsoll_base::{Generation, ListId, Metric, ShardId, StorageError};
use plimsoll_index::{Centroids, Malformed, Route, StopEntry, StopRule, StopTable};
use plimsoll_shard::{IndexFile, SealedView};

use crate::codebook::{self, Codebook, push_indexed};
use crate::error::Result;
use crate::options::CollectionConfig;
use crate::tree::Tree;

/// An index generation. Its centroids are read when they are first needed.
pub(crate) struct Router {
    file: Arc<IndexFile>,
    metric: Metric,
    loaded: OnceLock<Loaded>,
}

struct Loaded {
    centroids: Centroids,
    stops: StopTable,
    codebook: Option<Codebook>,
}

impl Router {
    pub(crate) fn new(file: Arc<IndexFile>, config: &CollectionConfig) -> Self {
        Self { file, metric: config.metric, loaded: OnceLock::new() }
    }

    pub(crate) fn generation(&self) -> Generation {
        self.file.header().generation
    }

    /// The file.
    pub(crate) fn file(&self) -> &IndexFile {
        &self.file
    }

    /// The queries that the generation's stop rules are calibrated on, one after another, as the index sees them; none if
    /// these are the collection's own rows.
    pub(crate) fn queries(&self) -> Result<&[f32]> {
        Ok(self.file.queries()?)
    }

    fn loaded(&self) -> Result<&Loaded> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        self.file.ask_for();
        let lists = self.file.lists()?;
        let centroids = Centroids::new(
            self.file.header().dimension as usize,
            lists.iter().map(|list| list.id).collect(),
            lists.iter().map(|list| list.shard).collect(),
            self.file.centroids()?.to_vec(),
            lists.iter().map(|list| list.radius).collect(),
        )
        .and_then(|centroids| match self.file.spreads() {
            Ok(spreads) if !spreads.is_empty() => {
                centroids.with_statistics(spreads.to_vec(), lists.iter().map(|list| list.rows).collect())
            }
            _ => Ok(centroids),
        })
        .map_err(|Malformed(what)| StorageError::corrupted(self.file.sealed().path(), 0, what))?;
        let stops = self.file.stops()?.iter();
        let epsilons = self.file.epsilons()?;
        let entry = |(index, stop): (usize, &plimsoll_shard::StopRule)| StopEntry {
            k: stop.k,
            recall: stop.recall,
            t: stop.stop,
            epsilon: epsilons.get(index).copied().unwrap_or(f32::INFINITY),
        };
        let entries: Vec<_> = stops.enumerate().map(entry).collect();
        let stops = StopTable::new(self.metric, entries);
        let (seed, mean) = (self.file.header().rotation.seed, self.file.mean()?);
        let codebook = self.has_codes().then(|| Codebook::new(self.metric, seed, mean, &centroids));
        Ok(self.loaded.get_or_init(|| Loaded { centroids, stops, codebook }))
    }

    /// Whether the generation's rows are encoded.
    pub(crate) fn has_codes(&self) -> bool {
        self.file.header().rotation.rounds == codebook::ROUNDS && self.file.has_spreads()
    }

    /// What the generation's rows are encoded with; `None` for one of before there were codes, whose lists are not
    /// used any more.
    pub(crate) fn codebook(&self) -> Result<Option<&Codebook>> {
        Ok(self.loaded()?.codebook.as_ref())
    }

    pub(crate) fn centroids(&self) -> Result<&Centroids> {
        Ok(&self.loaded()?.centroids)
    }

    /// Appends a row as the index sees it: normalised under cosine.
    pub(crate) fn push_indexed(&self, vector: &[f32], norm: f32, block: &mut Vec<f32>) {
        push_indexed(self.metric, vector, norm, block);
    }

    /// The shard and list of each row of a block made by [`Router::push_indexed`].
    pub(crate) fn assign(&self, block: &[f32]) -> Result<Vec<(ShardId, ListId)>> {
        let centroids = self.centroids()?;
        let place = |position: u32| {
            let position = position as usize;
            (centroids.shards()[position], centroids.ids()[position])
        };
        Ok(centroids.assign(block).into_iter().map(place).collect())
    }

    /// The stop rule that reaches `recall` at `k` in a tree, and how careful bounds by codes have to be.
    ///
    /// `k` is `None` where it is not known yet: whichever of the calibrated k it will be, it has to be enough.
    pub(crate) fn stop_for(&self, recall: f32, k: Option<usize>, tree: &Tree) -> Result<(StopRule, f32)> {
        let stops = &self.loaded()?.stops;
        let of_lists = match self.metric {
            Metric::Cosine | Metric::L2 => recall,
            Metric::Dot => {
                let calibrated = self.file.header().rows_at_training.max(1);
                recall_of_fewer(recall, tree.live_rows() as f64 / calibrated as f64)
            }
        };
        let of_k = |k| (stops.stop_for(of_lists, k), stops.epsilon_for(recall, k));
        let (t, epsilon) = k.map_or_else(
            || {
                let all = StopTable::KS.iter().map(|k| of_k(*k as usize));
                all.fold((f32::NEG_INFINITY, 0.0), |most, of| (most.0.max(of.0), most.1.max(of.1)))
            },
            of_k,
        );
        Ok((StopRule::new(self.metric, t), epsilon))
    }

    /// The lists in the order in which a query visits them under the dot product, if their rows are as far from the centroids
    /// as `radii` say.
    pub(crate) fn route_within(&self, query: &[f32], radii: &[f32], rule: &StopRule) -> Result<Route> {
        Ok(self.centroids()?.route_within(query, radii, rule.t()))
    }

    /// The shards and ids of the lists, by their positions in routes.
    pub(crate) fn lists(&self) -> Result<(&[ShardId], &[ListId])> {
        let centroids = self.centroids()?;
        Ok((centroids.shards(), centroids.ids()))
    }
}

/// The recall that a calibration has to be asked for where a collection has `growth` times as many rows by now.
///
/// Rules of cosine and L2 count rows. Under the dot product a list is left when its rows probably are not good enough; the more
/// it has, the more of them are good enough all the same, so that each may be missed so many times less often.
fn recall_of_fewer(recall: f32, growth: f64) -> f32 {
    // Beyond what is calibrated nothing may be missed, which takes every list.
    let highest = StopTable::RECALLS.into_iter().fold(recall, f32::max);
    let missed = (1.0 - f64::from(recall)) / growth.max(1.0);
    ((1.0 - missed) as f32).clamp(recall, highest)
}

#[cfg(test)]
mod tests {
    use super::recall_of_fewer;

    #[test]
    fn what_may_be_missed_is_shared_by_all_rows() {
        assert!((recall_of_fewer(0.9, 4.0) - 0.975).abs() < 1e-6);
        assert_eq!(recall_of_fewer(0.99, 1e6), 0.999);
        for (recall, growth) in [(0.9, 1.0), (0.95, 0.3), (0.9, f64::NAN), (0.9995, 8.0), (1.0, 8.0)] {
            assert_eq!(recall_of_fewer(recall, growth), recall, "{recall}, {growth}");
        }
    }
}
