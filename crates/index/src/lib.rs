//! Decisions over slices and ids: how vectors are grouped into lists, which lists a query visits and when it
//! may stop, how lists are grouped into shards, and which segments a document id can be in.
//!
//! **Owns** k-means ([`kmeans`]), the centroid table and its routing ([`Centroids`], [`Route`]), the stop rule
//! and its calibration ([`StopRule`], [`calibrate`]), the bytes of the bloom filter ([`bloom`]), and the
//! policies of splitting, merging, sharding and retraining ([`policy`], [`sharding`]).
//!
//! **Must not know** files, segments, manifests or the log: it gets slices and ids, and gives numbers back.
//! Everything is a pure function of its arguments and a seed, with the same result for any number of threads,
//! so that a crash can change nothing here.
//!
//! The structure is an inverted file (J. Sivic and A. Zisserman, "Video Google", 2003) whose lists are kept
//! small and balanced as in SPANN (Q. Chen et al., NeurIPS 2021) and LIRE/SPFresh (Y. Xu et al., SOSP 2023).

#![forbid(unsafe_code)]

pub mod bloom;
mod calibrate;
mod centroids;
pub mod kmeans;
mod lists;
mod nearest;
pub mod policy;
mod random;
mod route;
pub mod sharding;
mod stop;
#[cfg(test)]
mod testing;

pub use calibrate::{Depth, Estimated, Scored, Scores, calibrate, calibrate_on};
pub use centroids::{Centroids, Malformed, covering_radius};
pub use lists::{Lists, Members, Rows};
pub use route::{Route, Step, priority};
pub use stop::{Progress, StopEntry, StopRule, StopTable};
