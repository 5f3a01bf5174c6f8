//! What a vector from outside must be before it is believed.

/// The largest dimension that is taken from an embedder: that of the database.
pub(crate) const MAX_DIMENSION: usize = plimsoll::limits::MAX_DIMENSION;
