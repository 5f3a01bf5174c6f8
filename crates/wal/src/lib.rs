//! The segmented write-ahead log.
//!
//! **Owns** the bytes of the files in the log's directory ([`mod@format`] is their specification), the order
//! of log sequence numbers, what is known to be durable, and the rules by which replay tells a torn tail from
//! damage (rules R3 to R6, R10 and R16 of the design). **Must not know** what a payload means, what a
//! collection, a memtable or a manifest is, nor any clock. **On a crash** it promises that [`recover`] gives
//! back every record up to [`Wal::durable`] of that moment, in order and bit for bit, then possibly some that
//! were appended later, whole and without a gap, and nothing that was never appended; or says which file is
//! damaged, and where.
//!
//! The life of a record: a caller's thread builds it ([`RecordBuilder`]), [`GroupCommit`] makes one of the
//! waiting threads the leader of all, and the leader hands the group to [`Wal::append_group`]. That syncs, or leaves it to
//! a thread that does so while others append ([`Wal::begin_sync`]).

#![forbid(unsafe_code)]

mod chain;
mod cursor;
mod error;
pub mod format;
mod group;
mod obsolete;
mod pending;
mod reader;
mod record;
mod recovery;
mod salvage;
mod scan;
mod segment;
mod tail;
mod verify;
mod writer;

pub use chain::Anchor;
pub use error::{LsnRange, Result, WalError};
pub use group::{GroupCommit, GroupLimits, LeaderPanicked};
pub use obsolete::Obsolete;
pub use pending::{FinishedSync, PendingSync};
pub use reader::{ReadSummary, read_durable};
pub use record::{Record, RecordBuilder};
pub use recovery::{Cut, Position, Recovered, recover};
pub use salvage::{Salvaged, salvage};
pub use segment::Spares;
pub use verify::{Finding, RecordInfo, SegmentInfo, describe, verify};
pub use writer::{SaltSource, Wal, WalOptions, WalStats};
