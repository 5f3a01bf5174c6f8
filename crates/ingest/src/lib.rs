//! Resumable ingestion: what turns a stream of lines, or a folder of files, into documents of a collection, each exactly
//! once.
//!
//! The path of an item: it is read (`input`), its text is cut into passages (`chunk`), these get vectors (`embed`), and
//! the batch is committed with its position in one record of the log (`run`, over `plimsoll::Source`).
//!
//! **Owns** formats of input, chunking, embedders and their cache, retries, the run ledger. **Must not know** a command
//! line or a terminal. **On a crash** the collection and the position are those of the last batch committed; the cache
//! and the ledger are projections, which may lag behind and are made again.

//!
//! The parts of the second half can be used alone, and stack like this:
//!
//! ```
//! use std::sync::Arc;
//! use plimsoll_ingest::{
//!     Breaker, Cache, Cached, Chunking, Embedder, EmbedderOptions, EmbedderSpec, Patient, Pause, Policies, TextKind,
//! };
//!
//! let text = "A Plimsoll line shows how deep a ship lies in the water.\n\nBread needs flour, water and salt.";
//! let passages = "paragraphs".parse::<Chunking>()?.chunk(text)?;
//! let texts: Vec<&str> = passages.iter().map(|passage| &text[passage.range()]).collect();
//!
//! let spec: EmbedderSpec = "hash:256".parse()?;
//! let embedder = spec.build(&EmbedderOptions::default())?;
//! // Calls that fail are made again by the class of their failure; `stop` of the pause ends all waiting.
//! let pause = Arc::new(Pause::default());
//! let patient = Patient::new(embedder, Policies::default(), Arc::new(Breaker::default()), pause, 1);
//! // What was embedded once is not embedded again, here or in another run.
//! let directory = std::env::temp_dir().join(format!("plimsoll-doc-{}", std::process::id()));
//! let cached = Cached::new(patient, Arc::new(Cache::open(&directory, Cache::DEFAULT_BYTES)));
//! let vectors = cached.embed(&texts, TextKind::Passage)?;
//! assert_eq!(vectors.iter().filter(|vector| vector.is_ok()).count(), 2);
//! # drop(cached);
//! # std::fs::remove_dir_all(directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod cache;
mod chunk;
mod embed;
mod error;
mod failure;
pub mod input;
mod ledger;
mod retry;
mod run;
mod settings;
mod survey;

pub use cache::{Cache, CacheCounts, Cached, CallCounts};
pub use chunk::{ChunkError, Chunking, ChunkingError, Passage, Unit};
pub use embed::{
    ApiKey, CommandEmbedder, CommandSpec, Embedded, Embedder, EmbedderOptions, EmbedderSpec, Given,
    HashEmbedder, HttpEmbedder, HttpSpec, HttpTimeouts, KeySource, SpecError, TextKind,
};
pub use error::IngestError;
pub use failure::{Failure, FailureClass};
pub use ledger::Ledger;
pub use retry::{Breaker, Patient, Pause, Permit, Policies, Policy, Wait};
pub use run::{
    ChangesetRecord, Fed, Feed, Folder, History, Ingest, Item, Lines, Origin, PassedOver, Progress,
    Repository, Run, RunOptions, RunState, Work,
};
pub use settings::Settings;
pub use survey::Survey;
