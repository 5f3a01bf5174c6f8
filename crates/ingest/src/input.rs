//! Reading what is to be ingested: lines of files and streams, and folders.
//!
//! A line comes from [`Inputs`], which knows the place after it, and becomes a [`Change`] by [`Parser::parse`]. A folder
//! is read by [`Walk`], which compares it with what was seen the last time and gives changes at once.
//!
//! | a line | is | key | becomes |
//! |---|---|---|---|
//! | nothing but white space | blank | | [`Change::Skip`] |
//! | a JSON object with `new_changeset` | a control record: `{"new_changeset": {…}, "repo": "…", "line": 9}` | | [`Change::Control`], never stored as a document |
//! | a JSON object with `id` | a row of import: `{"id", "text", "metadata", "op": "upsert"\|"delete"}`, with `vector` or `postings` | `id` | [`Change::Upsert`] with vectors; [`Change::Text`] without; [`Change::Delete`] |
//! | a JSON object with `path` | a change: `{"line", "path", "op": "add"\|"modify"\|"delete", "repo", "content"\|"content_base64"\|"content_ref", "size", "mime", "skip_index"}` | `path`, or `repo:path` | [`Change::Text`]; [`Change::Delete`]; [`Change::Skip`] for `skip_index` |
//! | anything else that begins with `{` | malformed | | a failure of class validation |
//! | anything else | the path of a file, just as it stands | the path | [`Change::Text`] with the file's content |
//!
//! A row may have no field that is not named here, as with `import`; of a change unknown fields are ignored, because
//! producers add to them, and a field that is `null` is one that is not there. Without `op` a row is an upsert and a
//! change a modify; add and modify do the same. A change without any content means the file at `path`. Files are read
//! below one directory only ([`Files`]).
//!
//! **Owns** these formats, places in them, and what a folder looked like. **Must not know** collections, embedders, or
//! what became of a change. **On a crash** nothing is lost, because nothing is kept here: the place of the last batch
//! that was committed is all it takes to go on.

mod change;
mod content;
mod error;
mod fields;
mod fingerprint;
mod follow;
mod inputs;
mod line;
mod place;
mod walk;

pub use change::{Change, Changeset, Entry, Format, Op, Parser, SkipReason};
pub use content::{Files, MAX_CONTENT_BYTES};
pub use error::InputError;
pub use fingerprint::Fingerprint;
pub use follow::Follow;
pub use inputs::{Input, Inputs, Next};
pub use line::{HEAD_BYTES, Line, LineReader, MAX_LINE_BYTES};
pub use place::{Place, Start};
pub use walk::{Seen, SeenFiles, SeenState, SeenUpdate, Walk, WalkItem, WalkOptions};
