//! Rotated vectors and the compact codes made from them: pure functions over slices, the same on every processor.
//!
//! **Owns** the rotation ([`Rotation`]) and the bytes of sign codes ([`SignEncoder`], [`SignQuery`]), of 8-bit records
//! ([`PlaneEncoder`], [`PlaneQuery`]) and of their refinements ([`refine`]). **Must not know** files, lists, documents or
//! queries' options.

#![forbid(unsafe_code)]

mod planes;
mod random;
mod rotation;
mod signs;

pub use planes::{PlaneDistance, PlaneEncoder, PlaneError, PlaneQuery, RefinedDistance, record_len, refine};
pub use rotation::Rotation;
pub use signs::{Bound, Measure, SignEncoder, SignQuery, block_len, blocks_of};
