//! Documents, keys, metadata and vectors as JSON: the lines that `plimsoll export` prints, and that `plimsoll import`
//! and `plimsoll ingest` read.
//!
//! **Owns** that format: [`parse_line`] reads a line, [`DocumentLine`] prints one, and the parts of both are here for
//! other formats that have them, too. **Must not know** files, streams or databases. **Promises** that what is printed
//! here reads back bit for bit: the type of a key, every bit of a vector, the type of every metadata value.
//!
//! ```
//! use plimsoll_lines::{DocumentLine, Operation, parse_line};
//!
//! let line = r#"{"id":7,"text":"bake a cake","metadata":{"page":12},"vector":[0.3,0.8]}"#;
//! let Operation::Upsert(document) = parse_line(line)? else { unreachable!() };
//! assert_eq!(serde_json::to_string(&DocumentLine(&document)).unwrap(), line);
//! # Ok::<(), plimsoll_lines::Malformed>(())
//! ```

#![forbid(unsafe_code)]

mod component;
mod document;
mod key;
mod metadata;
mod row;

pub use component::{Components, narrow};
pub use document::{DocumentLine, MetadataJson, VectorJson};
pub use key::{KeyJson, parse_argument, parse_key};
pub use metadata::parse_metadata;
pub use row::{Malformed, Operation, PostingField, from_json, parse_line, parse_vector, set_once};
