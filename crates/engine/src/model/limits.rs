//! The stated limits. All are checked before anything is logged (rule R19).

/// The longest key, in bytes of its UTF-8 text.
pub const MAX_KEY_BYTES: usize = 1 << 10;
/// The longest text of a document, in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// The largest encoded metadata of a document, in bytes.
pub const MAX_METADATA_BYTES: usize = 1 << 20;
/// How deep metadata values may nest.
pub const MAX_METADATA_DEPTH: usize = 64;
/// The most postings of one document.
pub const MAX_POSTINGS: usize = u16::MAX as usize;
/// The largest batch, in bytes of its log record.
pub const MAX_BATCH_BYTES: usize = 256 << 20;
/// The most operations of a batch: each has more than 24 bytes in the record.
pub(crate) const MAX_OPERATIONS: usize = MAX_BATCH_BYTES / 24;
/// The most bytes of unflushed writes, whatever the options say.
pub const MAX_MEMTABLE_BYTES: u64 = 32 << 30;
/// The most dimensions of a vector.
pub const MAX_DIMENSION: usize = 4096;
/// The largest length of a vector: squares and inner products of such vectors stay finite in float32.
pub const MAX_NORM: f64 = (1u64 << 60) as f64;
/// The smallest length of a vector that has a direction, under [`Metric::Cosine`](crate::Metric::Cosine).
pub const MIN_COSINE_NORM: f64 = 1.0 / MAX_NORM;
/// The longest name of a collection, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// The longest text of a filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 64 << 10;
/// How deep parentheses (and `not`) may nest in a filter.
pub const MAX_FILTER_DEPTH: usize = 64;
/// The most tests in a filter; `in` counts as one for each of its values.
pub const MAX_FILTER_TESTS: usize = 1 << 12;
