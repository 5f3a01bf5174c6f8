//! The manifest: the one root that says which files exist and what of them is live.
//!
//! **Owns** the format of `MANIFEST-nnnnnnnnnnnn` and how one is published (rule R8). **Must not know** what is
//! inside the files it names. **On a crash** either the old manifest or the new one is the newest; both name
//! only files that are durable.
//!
//! ```text
//! the 64-byte file header; then little-endian
//! u64 next file number, u32 next collection id, u64 WAL pointer, u64 durable LSN,
//! u64 newest log segment (not in version 1)
//! u32 collections, then for each
//!   u32 id, name, u32 dimension, u8 metric,
//!   u8 limits of the flush policy (from version 3): the sum of 1 rows, 2 bytes, 4 age, 8 idle, 16 adaptive; then for
//!   each of these in this order a u64, adaptive two: the limit, times in milliseconds,
//!   u64 flushed LSN, u64 next ordinal, u32 next list, u32 next shard
//!   u32 posting files: file, u64 first ordinal, u64 last ordinal, u64 documents, u64 rows, u64 killed
//!   u32 vector segments: file, u32 generation, u8 base, u32 live sections: u32 shard, u64 rows
//!   u32 kill files: file, u64 ordinals
//!   u32 index files: file, u32 generation, u64 rows at training, u32 lists, u32 shards
//! u32 CRC-32 of everything before it
//! file = u64 number, u64 length, u32 CRC-32 of the whole file
//! ```

mod format;

use std::path::{Path, PathBuf};

use plimsoll_base::storage::{Storage, Syncs, publish_beside, read_all};
use plimsoll_base::{
    CollectionId, DocumentOrdinal, FileNumber, Generation, ListId, Lsn, ShardId, StorageError,
};
use plimsoll_shard::FileMeta;
use plimsoll_wal::Anchor;

use crate::options::CollectionConfig;
use crate::policy::FlushPolicy;

/// Everything one manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub number: FileNumber,
    pub database: [u8; 16],
    pub next_file: FileNumber,
    pub next_collection: CollectionId,
    /// Records of the log at or below it are not needed any more.
    pub wal_pointer: Lsn,
    /// The log was durable up to here when the manifest was written.
    pub durable: Lsn,
    /// The newest segment that the log had then; 0 if none is known of.
    pub newest_segment: FileNumber,
    pub collections: Vec<CollectionEntry>,
}

/// One collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectionEntry {
    pub id: CollectionId,
    pub name: String,
    pub config: CollectionConfig,
    pub policy: FlushPolicy,
    pub flushed: Lsn,
    pub next_ordinal: DocumentOrdinal,
    pub next_list: ListId,
    pub next_shard: ShardId,
    pub postings: Vec<PostingEntry>,
    pub vectors: Vec<VectorEntry>,
    pub kills: Vec<KillEntry>,
    pub indexes: Vec<IndexEntry>,
}

/// One posting file. The files of a collection stand in the order of their ordinals, which do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PostingEntry {
    pub file: FileMeta,
    pub first_ordinal: DocumentOrdinal,
    pub last_ordinal: DocumentOrdinal,
    pub documents: u64,
    pub rows: u64,
    /// How many of its documents are killed.
    pub killed: u64,
}

/// One vector segment and its live sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VectorEntry {
    pub file: FileMeta,
    pub generation: Generation,
    pub base: bool,
    pub live: Vec<(ShardId, u64)>,
}

/// One kill file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KillEntry {
    pub file: FileMeta,
    pub ordinals: u64,
}

/// One index generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub file: FileMeta,
    pub generation: Generation,
    pub rows_at_training: u64,
    pub lists: u32,
    pub shards: u32,
}

const PREFIX: &str = "MANIFEST-";
const OLD_PREFIX: &str = "PREVIOUS-";
/// A manifest larger than this is damage: it grows with files and sections only.
const MAX_BYTES: u64 = 256 << 20;

impl Manifest {
    /// The first manifest of a new database.
    pub(crate) fn new(database: [u8; 16]) -> Self {
        Self {
            number: FileNumber(1),
            database,
            next_file: FileNumber(1),
            next_collection: CollectionId(1),
            wal_pointer: Lsn::ZERO,
            durable: Lsn::ZERO,
            newest_segment: FileNumber(0),
            collections: Vec::new(),
        }
    }

    /// What it knows about the log.
    pub(crate) fn anchor(&self) -> Anchor {
        let flushed = self.collections.iter().map(|entry| entry.flushed).max().unwrap_or_default();
        let durable = self.durable.max(flushed);
        Anchor { after: self.wal_pointer, durable, newest: self.newest_segment }
    }

    pub(crate) fn collection(&self, id: CollectionId) -> Option<&CollectionEntry> {
        self.collections.iter().find(|entry| entry.id == id)
    }

    pub(crate) fn collection_mut(&mut self, id: CollectionId) -> Option<&mut CollectionEntry> {
        self.collections.iter_mut().find(|entry| entry.id == id)
    }

    /// Every file it names.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FileMeta> {
        self.collections.iter().flat_map(CollectionEntry::files)
    }

    /// Makes this manifest the newest, durably.
    pub(crate) fn publish(&self, storage: &dyn Storage, dir: &Path) -> Result<(), StorageError> {
        self.publish_beside(storage, dir, Syncs::InOrder, || Ok(()))
    }

    /// As [`Manifest::publish`], once `beside` has made durable what else it takes.
    pub(crate) fn publish_beside(
        &self,
        storage: &dyn Storage,
        dir: &Path,
        syncs: Syncs,
        beside: impl FnOnce() -> Result<(), StorageError> + Send,
    ) -> Result<(), StorageError> {
        let path = path(dir, self.number);
        let temporary = path.with_extension("tmp");
        publish_beside(storage, &temporary, &path, &self.encode(), syncs, beside).inspect_err(|_| {
            // Only to give the space back early: nothing reads a temporary file.
            let _ignored = storage.remove(&temporary);
        })
    }

    /// Reads the manifest with that number.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path, number: FileNumber) -> Result<Self, StorageError> {
        Self::read_from(storage, &path(dir, number), number)
    }

    /// Reads the manifest with that number from where it is.
    pub(crate) fn read_from(
        storage: &dyn Storage,
        path: &Path,
        number: FileNumber,
    ) -> Result<Self, StorageError> {
        Self::decode(&read_all(storage, path, MAX_BYTES)?, path, number)
    }
}

impl CollectionEntry {
    pub(crate) fn new(id: CollectionId, name: &str, config: CollectionConfig, flushed: Lsn) -> Self {
        Self {
            id,
            name: name.to_owned(),
            config,
            policy: FlushPolicy::default(),
            flushed,
            next_ordinal: DocumentOrdinal(0),
            next_list: ListId(1),
            next_shard: ShardId(1),
            postings: Vec::new(),
            vectors: Vec::new(),
            kills: Vec::new(),
            indexes: Vec::new(),
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &FileMeta> {
        let postings = self.postings.iter().map(|entry| &entry.file);
        let vectors = self.vectors.iter().map(|entry| &entry.file);
        let kills = self.kills.iter().map(|entry| &entry.file);
        postings.chain(vectors).chain(kills).chain(self.indexes.iter().map(|entry| &entry.file))
    }

    pub(crate) fn live_documents(&self) -> u64 {
        self.postings.iter().map(|entry| entry.documents.saturating_sub(entry.killed)).sum()
    }
}

/// How far beyond the last number that a manifest knows one can be that was given out: by work that a crash cut off.
const REACH: u64 = 1 << 20;

/// Whether `number` can have been given out by a database that knows of `known`. What has a greater one in its name is
/// a stranger's.
pub(crate) fn is_within_reach(number: FileNumber, known: FileNumber) -> bool {
    number.0 <= known.0.saturating_add(REACH)
}

/// Where the manifest with that number is.
pub(crate) fn path(dir: &Path, number: FileNumber) -> PathBuf {
    dir.join(format!("{PREFIX}{:012}", number.0))
}

/// Where the manifest with that number is once it was put by.
pub(crate) fn old_path(dir: &Path, number: FileNumber) -> PathBuf {
    dir.join(format!("{OLD_PREFIX}{:012}", number.0))
}

/// The number in a manifest's name.
pub(crate) fn number_of(name: &str) -> Option<FileNumber> {
    number_after(PREFIX, name)
}

/// The number in the name of a manifest that was put by.
pub(crate) fn old_number_of(name: &str) -> Option<FileNumber> {
    number_after(OLD_PREFIX, name)
}

fn number_after(prefix: &str, name: &str) -> Option<FileNumber> {
    let digits = name.strip_prefix(prefix)?;
    let canonical = digits.len() == 12 || (digits.len() > 12 && !digits.starts_with('0'));
    let all_digits = canonical && digits.bytes().all(|digit| digit.is_ascii_digit());
    if all_digits { digits.parse().ok().map(FileNumber) } else { None }
}
