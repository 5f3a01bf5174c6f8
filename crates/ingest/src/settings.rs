//! What a collection remembers of how its texts became vectors, so that everything that is added later, and every search by
//! text, is embedded in the same way.

use plimsoll::{Collection, ReadOnlyDatabase};
use serde::{Deserialize, Serialize};

use crate::chunk::Chunking;
use crate::embed::{Embedder, EmbedderSpec};
use crate::error::IngestError;

/// The property of the collection that holds the settings.
const PROPERTY: &str = "ingest";

/// How the texts of a collection become vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The embedder; [`EmbedderSpec::Given`] for a collection whose documents bring vectors.
    pub embedder: EmbedderSpec,
    /// What the embedder calls its model ([`Embedder::model`]).
    pub model: String,
    /// How many numbers a vector has.
    pub dimension: usize,
    /// How texts are cut.
    pub chunking: Chunking,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    embedder: String,
    model: String,
    dimension: usize,
    chunking: String,
}

impl Settings {
    /// The settings of an embedder, which may be asked for its dimension.
    ///
    /// # Errors
    /// [`IngestError::Embedder`] if it can not be asked.
    pub fn new(spec: EmbedderSpec, embedder: &dyn Embedder, chunking: Chunking) -> Result<Self, IngestError> {
        let dimension = embedder.dimension().map_err(IngestError::Embedder)?;
        Ok(Self { embedder: spec, model: embedder.model().to_owned(), dimension, chunking })
    }

    /// What decides the vectors of a text, as a part of the fingerprint of a source.
    pub fn fingerprint(&self) -> String {
        format!("{} × {}, {}", self.model, self.dimension, self.chunking)
    }

    /// The settings of a collection; `None` if nothing was ever embedded for it.
    ///
    /// # Errors
    /// [`IngestError::Database`]; [`IngestError::Settings`] if what is stored is not understood.
    pub fn of(collection: &Collection) -> Result<Option<Self>, IngestError> {
        decode(collection.name(), collection.property(PROPERTY)?)
    }

    /// The same, as a reader process sees it.
    ///
    /// # Errors
    /// As [`Settings::of`].
    pub fn of_reader(db: &ReadOnlyDatabase, collection: &str) -> Result<Option<Self>, IngestError> {
        decode(collection, db.property(collection, PROPERTY)?)
    }

    /// Has the collection remember these settings, to be called once its source is open. The first ones decide, but for the
    /// way to the model: another endpoint of the same model is remembered.
    ///
    /// # Errors
    /// As [`Settings::check`].
    pub fn keep(&self, collection: &Collection) -> Result<(), IngestError> {
        let stored = self.check(collection)?;
        let chunking = stored.as_ref().map_or(self.chunking, |stored| stored.chunking);
        let next = Self { chunking, ..self.clone() };
        if stored.as_ref() == Some(&next) {
            return Ok(());
        }
        let stored = Stored {
            embedder: next.embedder.to_string(),
            model: next.model,
            dimension: next.dimension,
            chunking: next.chunking.to_string(),
        };
        let json = serde_json::to_vec(&stored).map_err(|error| IngestError::Settings(error.to_string()))?;
        collection.set_property(PROPERTY, Some(&json))?;
        Ok(())
    }

    /// Whether vectors made in this way fit into a collection; what that remembers.
    ///
    /// # Errors
    /// [`IngestError::Settings`] if the collection was embedded with another model, or has another dimension.
    pub fn check(&self, collection: &Collection) -> Result<Option<Self>, IngestError> {
        let name = collection.name();
        if collection.dimension() != self.dimension {
            let (expected, got) = (collection.dimension(), self.dimension);
            let what = format!(
                "the collection {name:?} has {expected} dimensions, and {} makes {got}",
                self.embedder
            );
            return Err(IngestError::Settings(what));
        }
        let stored = Self::of(collection)?;
        stored.iter().try_for_each(|stored| stored.same_model(name, &self.model))?;
        Ok(stored)
    }

    /// Whether vectors of a model can be compared with those of a collection that has these settings.
    ///
    /// # Errors
    /// [`IngestError::Settings`] if it was embedded with another one.
    pub fn same_model(&self, collection: &str, model: &str) -> Result<(), IngestError> {
        if self.model == model {
            return Ok(());
        }
        let what = format!(
            "the collection {collection:?} was embedded with {:?}, and not with {model:?}: their vectors can not be compared",
            self.model
        );
        Err(IngestError::Settings(what))
    }
}

fn decode(collection: &str, stored: Option<Vec<u8>>) -> Result<Option<Settings>, IngestError> {
    let Some(json) = stored else { return Ok(None) };
    let unknown = |what: String| {
        IngestError::Settings(format!("how {collection:?} was embedded is not understood: {what}"))
    };
    let stored: Stored = serde_json::from_slice(&json).map_err(|error| unknown(error.to_string()))?;
    Ok(Some(Settings {
        embedder: stored.embedder.parse().map_err(|error: crate::SpecError| unknown(error.to_string()))?,
        model: stored.model,
        dimension: stored.dimension,
        chunking: stored
            .chunking
            .parse()
            .map_err(|error: crate::ChunkingError| unknown(error.to_string()))?,
    }))
}
