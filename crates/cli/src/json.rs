//! How keys, documents and hits look as JSON, and what ids look like on the command line.
//!
//! **Promises** that what is printed here reads back bit for bit through [`crate::input`]: the type of a key,
//! every bit of a vector, the type of every metadata value.

mod document;
mod key;

pub use document::DocumentLine;
pub(crate) use document::{MetadataJson, VectorJson};
pub(crate) use key::{KeyJson, parse_argument, parse_key};
