//! Resumable ingestion: what turns a stream of lines, or a folder of files, into documents of a collection, each exactly
//! once.
//!
//! The path of an item: it is read (`input`), its text is cut into passages (`chunk`), these get vectors (`embed`), and
//! the batch is committed with its position in one record of the log (`run`, over `plimsoll::Source`).
//!
//! **Owns** formats of input, chunking, embedders and their cache, retries, the run ledger. **Must not know** a command
//! line or a terminal. **On a crash** the collection and the position are those of the last batch committed; the cache
//! and the ledger are projections, which may lag behind and are made again.

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
    ChangesetRecord, Fed, Feed, Folder, History, Ingest, Item, Lines, Origin, Progress, Repository, Run,
    RunOptions, RunState, Work,
};
pub use settings::Settings;
pub use survey::Survey;
