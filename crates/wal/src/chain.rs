//! Which segments there are, and how they hang together.
//!
//! **Owns** the listing of the log's directory and the chain from the newest segment backwards. **Must not
//! know** records. **On a crash** it relies on two facts of the format: a segment under its final name has a
//! complete header, and only the newest segment can have a torn end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plimsoll_base::storage::{ReadFile, Storage, list_if_there};
use plimsoll_base::{FileNumber, Lsn, StorageError};

use crate::format::{SEGMENT_HEADER_LEN, SegmentHeader, segment_number, segment_path, spare_number};

/// What a manifest knows about the log, so that what is missing from it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Records at or below it are not needed any more.
    pub after: Lsn,
    /// The log was durable at least up to here when the manifest was written.
    pub durable: Lsn,
    /// A segment that was there then; 0: none is known of. The newest segment is never removed, so that it, or
    /// a newer one, still has to be there.
    pub newest: FileNumber,
}

impl Anchor {
    /// Nothing is known: everything is read that is there.
    pub const START: Self = Self { after: Lsn::ZERO, durable: Lsn::ZERO, newest: FileNumber(0) };

    /// What is durable for certain.
    pub(crate) fn proven(&self) -> Lsn {
        self.durable.max(self.after)
    }
}

/// A segment that is not written any more, and the last LSN that counts in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClosedSegment {
    pub(crate) number: FileNumber,
    pub(crate) last_lsn: Lsn,
    /// The file's length, preallocated space included.
    pub(crate) bytes: u64,
}

/// The log's files in its directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segments in ascending order.
    pub(crate) segments: Vec<FileNumber>,
    /// Their lengths in bytes.
    pub(crate) lengths: BTreeMap<FileNumber, u64>,
    /// Numbers of temporary files.
    pub(crate) strays: Vec<u64>,
    /// Names that are not the log's.
    pub(crate) foreign: Vec<String>,
}

impl Listing {
    /// Lists `dir`; a missing directory holds nothing.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Self, StorageError> {
        let mut listing = Self::default();
        for entry in list_if_there(storage, dir)? {
            if let Some(number) = segment_number(&entry.name).filter(|_| !entry.is_dir) {
                listing.segments.push(number);
                listing.lengths.insert(number, entry.len);
            } else if let Some(number) = spare_number(&entry.name).filter(|_| !entry.is_dir) {
                listing.strays.push(number);
            } else {
                listing.foreign.push(entry.name);
            }
        }
        listing.segments.sort();
        Ok(listing)
    }

    /// The path of what the manifest says is there and is not.
    pub(crate) fn missing(&self, dir: &Path, anchor: &Anchor) -> Option<PathBuf> {
        let has_newest = self.segments.last().is_some_and(|newest| *newest >= anchor.newest);
        match anchor.newest {
            FileNumber(0) => {
                (self.segments.is_empty() && anchor.proven() > Lsn::ZERO).then(|| dir.to_path_buf())
            }
            newest => (!has_newest).then(|| segment_path(dir, newest)),
        }
    }

    /// The length of segment `number` in bytes.
    pub(crate) fn length(&self, number: FileNumber) -> u64 {
        self.lengths.get(&number).copied().unwrap_or(0)
    }
}

/// Where a segment's records end, as its successor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordedEnd {
    pub(crate) offset: u64,
    pub(crate) last_lsn: Lsn,
}

/// A segment of the chain.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
    /// `None` for the newest segment.
    pub(crate) end: Option<RecordedEnd>,
}

/// The segments that hold what comes after some LSN, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) links: Vec<Link>,
    /// Every segment but the newest, also those outside the chain, with the last LSN that counts.
    pub(crate) closed: Vec<ClosedSegment>,
    pub(crate) bytes_read: u64,
}

impl Chain {
    /// Follows the chain from the newest segment of `listing` back to the one that holds `after` + 1.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`] for a damaged or foreign header. A segment that is missing in the middle
    /// is a `NotFound` error with its path: damage for a writer, a reason to look again for a reader.
    pub(crate) fn load(
        storage: &dyn Storage,
        dir: &Path,
        database: [u8; 16],
        listing: &Listing,
        after: Lsn,
    ) -> Result<Self, StorageError> {
        let mut chain = Self::default();
        let mut next = listing.segments.last().map(|newest| (*newest, None));
        while let Some((number, end)) = next {
            let path = segment_path(dir, number);
            let file = storage.open(&path)?;
            let header = read_header(&*file, &path)?;
            header.file.expect_identity(database, number, &path)?;
            // Of an older segment, only what its successor says is its end has to be there.
            if end.is_none() && file.len() < header.capacity {
                let what = format!("it has {} bytes and was created with {}", file.len(), header.capacity);
                return Err(StorageError::corrupted(&path, file.len(), what));
            }
            chain.bytes_read += SEGMENT_HEADER_LEN;
            let previous = header.previous;
            chain.links.push(Link { path, header, end });
            let recorded = RecordedEnd { offset: previous.end, last_lsn: previous.last_lsn };
            let more = previous.exists() && previous.last_lsn > after;
            next = more.then_some((previous.number, Some(recorded)));
        }
        chain.links.reverse();
        chain.close(listing);
        Ok(chain)
    }

    /// Finds for every segment but the newest the last LSN that counts in it.
    fn close(&mut self, listing: &Listing) {
        let Some(oldest) = self.links.first().map(|link| link.header) else { return };
        for number in &listing.segments {
            let in_chain = self.links.iter().find(|link| link.header.file.number == *number);
            let last_lsn = match in_chain {
                Some(Link { end: Some(end), .. }) => end.last_lsn,
                Some(Link { end: None, .. }) => continue,
                // Before the chain: at most what the chain begins after.
                None if *number < oldest.file.number => oldest.previous.last_lsn,
                // Given up while it was being started.
                None => Lsn::ZERO,
            };
            self.closed.push(ClosedSegment { number: *number, last_lsn, bytes: listing.length(*number) });
        }
    }
}

/// Reads and checks a segment's header.
pub(crate) fn read_header(file: &dyn ReadFile, path: &Path) -> Result<SegmentHeader, StorageError> {
    if file.len() < SEGMENT_HEADER_LEN {
        let what = format!("a WAL segment of {} bytes is shorter than its header", file.len());
        return Err(StorageError::corrupted(path, file.len(), what));
    }
    let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
    file.read_exact_at(0, &mut bytes)?;
    SegmentHeader::decode(&bytes, path)
}
