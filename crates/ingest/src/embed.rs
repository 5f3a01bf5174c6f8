//! Vectors from texts: what an embedder is, and the embedders that come with the crate.
//!
//! **Owns** the trait, the string that names an embedder ([`EmbedderSpec`]) and the ways to get vectors: hashing
//! ([`HashEmbedder`]), an HTTP endpoint ([`HttpEmbedder`]), a program ([`CommandEmbedder`]), or none because documents
//! bring theirs ([`Given`]). **Must not know** documents, collections, or when to try again: `retry` does. **On a
//! crash** nothing is lost but the calls that were under way.

mod build;
mod check;
mod command;
mod given;
mod hash;
mod http;
mod narrow;
mod spec;

use std::fmt;

pub use build::EmbedderOptions;
pub use command::CommandEmbedder;
pub use given::Given;
pub use hash::HashEmbedder;
pub use http::{ApiKey, HttpEmbedder, HttpTimeouts};
pub use spec::{CommandSpec, EmbedderSpec, HttpSpec, KeySource, SpecError};

use crate::failure::Failure;

/// What a text is, for models that treat the two differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TextKind {
    /// Something that is stored, to be found.
    Passage,
    /// Something that is looked for.
    Query,
}

impl TextKind {
    /// Its name, as it is sent to programs and stored in the cache.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passage => "passage",
            Self::Query => "query",
        }
    }
}

impl fmt::Display for TextKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What became of one text: its vector, or why it has none.
pub type Embedded = Result<Vec<f32>, Failure>;

/// Makes vectors from texts.
///
/// Implementations are shared by threads, and may be called by several at once.
pub trait Embedder: Send + Sync {
    /// The model's name, with everything that changes its vectors. It is part of a collection's fingerprint and of the
    /// key of the cache, so it stays the same as long as the same text gets the same vector.
    fn model(&self) -> &str;

    /// How many numbers each vector has. This may ask the model, once.
    ///
    /// # Errors
    /// When the model can not be asked, or there is none.
    fn dimension(&self) -> Result<usize, Failure>;

    /// How many texts a call should have at most; at least 1. More are embedded, too, in several steps.
    fn max_batch(&self) -> usize;

    /// How many texts were longer than the model takes, and got the vector of a part of them, since the embedder was
    /// made; `None` if it can not tell, as an endpoint that says nothing about it.
    fn truncated(&self) -> Option<u64> {
        None
    }

    /// Embeds texts: one result per text, in their order. All vectors have the same length and finite numbers.
    ///
    /// An `Err` inside is about that text, or says that the call broke off before it was its turn; its class tells the
    /// two apart ([`FailureClass::Validation`](crate::FailureClass::Validation) is the text's own fault).
    ///
    /// # Errors
    /// `Err` outside when the call failed for a reason that has nothing to do with any of the texts: the endpoint is
    /// down, refuses the key, or does not know the model. Trying again helps unless the class is `Validation`, which
    /// here means that the configuration is wrong: the caller should stop, and blame no item.
    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure>;
}

macro_rules! embedder_by_reference {
    ($($pointer:ty),*) => {$(
        impl<E: Embedder + ?Sized> Embedder for $pointer {
            fn model(&self) -> &str {
                (**self).model()
            }
            fn dimension(&self) -> Result<usize, Failure> {
                (**self).dimension()
            }
            fn max_batch(&self) -> usize {
                (**self).max_batch()
            }
            fn truncated(&self) -> Option<u64> {
                (**self).truncated()
            }
            fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
                (**self).embed(texts, kind)
            }
        }
    )*};
}

embedder_by_reference!(&E, Box<E>, std::sync::Arc<E>);
