//! Why a run came to an end before its input did. What is wrong with a single item is a [`Failure`] of that item.

use crate::failure::Failure;
use crate::input::InputError;

/// Why a run of ingestion ended early. What was committed before stays, and another run goes on behind it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The input can not be read, or is not the one that was read before.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The database refused.
    #[error(transparent)]
    Database(#[from] plimsoll::Error),
    /// The embedder can not be used, or did not answer in spite of all attempts. No item is blamed for it.
    #[error("{0}")]
    Embedder(Failure),
    /// A text is to be embedded, and nobody said how.
    #[error("position {position} is a text without vectors, and no embedder was named")]
    NoEmbedder {
        /// The position of the first such item.
        position: u64,
    },
    /// The collection was embedded in another way.
    #[error("{0}")]
    Settings(String),
}
