//! Plimsoll is an embedded, crash-safe vector database: a directory of files that one process writes and any
//! number read.
//!
//! It stores documents (a key, an optional text, metadata, and one or more vectors), finds the nearest ones to a
//! vector, and has every acknowledged write on disk whatever happens to the process or the machine.
//!
//! ```
//! use plimsoll::{CollectionConfig, Database, Document, Metric};
//!
//! fn main() -> plimsoll::Result<()> {
//!     # let scratch = tempfile::tempdir().unwrap();
//!     # std::env::set_current_dir(scratch.path()).unwrap();
//!     // Creates the directory the first time, and recovers whatever a crash has left every time.
//!     let db = Database::open("notes.db")?;
//!     let notes = db.create_collection("notes", CollectionConfig::new(3, Metric::Cosine))?;
//!
//!     // When `upsert` returns, the document is on disk and searches find it.
//!     notes.upsert(Document::new("n1").text("buy bread").metadata("done", false).vector([0.2, 0.9, 0.1]))?;
//!     notes.upsert(Document::new("n2").text("read a book").vector([0.9, 0.1, 0.3]))?;
//!
//!     for hit in notes.search(&[0.1, 1.0, 0.0]).k(2).with_text(true).run()? {
//!         println!("{:.3}  {}  {}", hit.distance, hit.key, hit.text.unwrap_or_default());
//!     }
//!     db.close()
//! }
//! ```
//!
//! # Where to go from here
//!
//! | to | see |
//! |---|---|
//! | open with other settings | [`Database::builder`], [`DatabaseBuilder`] |
//! | store many documents at once | [`WriteBatch`], [`Collection::write`]; [`Durability`] says when a write returns |
//! | search | [`Collection::search`], [`Search`], [`Effort`] |
//! | find what is asked for with queries unlike the rows | [`Collection::calibrate`] |
//! | read one moment while writes go on | [`Database::snapshot`], [`Snapshot`] |
//! | read from another process | [`ReadOnlyDatabase`] |
//! | know how much is on disk | [`Database::stats`], [`Watermarks`], [`Database::sync`], [`Database::flush`] |
//! | check files | [`verify`], [`dump`] |
//! | go on with damaged ones | [`repair`], [`salvage`], [`Search::allow_partial`] |
//! | know what may go wrong | [`Error`], [`StorageError`] |
//!
//! # Vectors
//!
//! A collection fixes its dimension (1 to 4,096) and its [`Metric`]. Distances are ascending: cosine is 1 − cos,
//! L2 the Euclidean distance, dot the negated inner product. They are computed in float64 from the vectors as
//! they were given, so an answer has the same distances before and after a flush, and on every processor.
//!
//! This crate re-exports `plimsoll-engine` and adds nothing to it.

#![forbid(unsafe_code)]

pub use plimsoll_engine::*;

/// The README's Rust code is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
