//! The read path: get, scan, count and search over one consistent view.
//!
//! A query takes a snapshot, which is a pointer and an LSN, and from then on touches only what never changes.
//! It waits for nobody, and nobody waits for it.

mod coded;
mod exact;
mod interrupt;
mod measure;
mod memory;
mod pool;
mod preload;
mod read;
mod records;
mod refine;
mod search;
mod selection;
mod stopwatch;
mod top;
mod unbounded;

pub use interrupt::Cancel;
pub use preload::Preloaded;
pub use read::{Documents, Keys, ReadOnlyCollection, Snapshot};
pub use search::{Effort, Explain, Hit, Search, SearchResults, Stages};
pub(crate) use selection::FilterCache;
pub use top::Dedup;
