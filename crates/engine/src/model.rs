//! What users store and get back: keys, documents, postings, metadata, and the limits on them.
//!
//! **Owns** these types and their byte encodings for keys and metadata. **Must not know** how they are logged,
//! stored or searched.

mod document;
mod key;
pub mod limits;
pub(crate) mod value;

pub use document::{Document, Posting};
pub use key::Key;
pub use value::{Metadata, Value};
