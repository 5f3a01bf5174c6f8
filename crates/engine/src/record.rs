//! What a record of the write-ahead log means: the one home of its payload format.
//!
//! A record is one batch, over one or several collections; everything in it was validated first (rule R19),
//! so that it always applies. The same decoder serves a fresh commit and a replay.
//!
//! ```text
//! payload   u8 format (1), u8[3] zero, u32 groups, then the groups
//! group     u32 collection, u32 dimension, u32 operations, u32 postings, u32 bytes of the operations, u32 zero
//!           the operations; zeros up to a multiple of 4
//!           postings × dimension f32: the vectors, in the order of the operations
//!           postings × f32: their Euclidean lengths, rounded from float64
//! operation u8 kind (1 upsert, 2 delete), u8 flags (1: has a text), u16 zero, u8[16] document id,
//!           u32 length + key; an upsert goes on with
//!           u32 length + text, u32 length + metadata, u32 postings, zeros up to a multiple of 4 of the payload,
//!           postings × {u32 start, u32 length}
//! ```
//! Everything is little-endian. The payload starts at an address that is a multiple of 4, so ranges and vectors can
//! be used where they lie: the record's buffer is the memtable's storage.

mod decode;
mod encode;

pub(crate) use decode::{Group, Operation, OperationKind, decode};
pub(crate) use encode::{Condition, Expectation, PreparedBatch, prepare, validated_norm};

const FORMAT: u8 = 1;
const UPSERT: u8 = 1;
const DELETE: u8 = 2;
const HAS_TEXT: u8 = 1;

#[cfg(test)]
mod tests;
