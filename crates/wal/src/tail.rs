//! The tail of an inherited log: records that recovery found whole but could not prove to be durable.
//!
//! After a kill they may be in the page cache only, and after a failed sync the kernel may call pages clean
//! that never reached the disk. So the old file is not believed: the tail is copied to the new segment, which
//! gets its name only when the copy is synced, and which records that the old one ends before the tail.
//!
//! **Owns** that copy. **Must not know** when it happens. **On a crash** before the new segment has its name,
//! the old segment and its tail are what they were.

use std::path::Path;

use plimsoll_base::storage::{Storage, WriteFile};
use plimsoll_base::{FileNumber, Lsn, StorageError};

use crate::LsnRange;
use crate::format::{RecordKind, segment_path};
use crate::scan::{Found, SegmentReader};
use crate::writer::{append_coalesced, flush_coalesced};

/// Records of an inherited segment that are not proven durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) segment: FileNumber,
    pub(crate) salt: u64,
    /// Where the proven records end: the first of the tail, or a mark, stands here.
    pub(crate) from: u64,
    /// Where the last of them ends.
    pub(crate) to: u64,
    pub(crate) lsns: LsnRange,
}

impl Tail {
    /// How many bytes the copy takes at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.to - self.from
    }

    /// Appends the records to `target`, a segment with salt `salt`. Memory is bounded by the largest record.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`] if the records are not what recovery read.
    pub(crate) fn copy(
        &self,
        storage: &dyn Storage,
        dir: &Path,
        target: &mut dyn WriteFile,
        salt: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StorageError> {
        let path = segment_path(dir, self.segment);
        let mut reader = SegmentReader::open(storage, &path, self.salt, Some(self.to))?;
        let proven = Lsn(self.lsns.first.0 - 1);
        let (mut at, mut expected) = (self.from, self.lsns.first);
        buffer.clear();
        while at < self.to {
            let Found::Valid(header) = reader.header_at(at)? else {
                return Err(reader.corrupted(at, "a record has changed since it was recovered"));
            };
            // Marks are left out: the new segment's header says what is durable.
            if header.kind == RecordKind::Commit {
                match reader.record_at(at, header)? {
                    Found::Valid(mut record) if header.lsn == expected => {
                        record.seal(expected, proven, salt);
                        append_coalesced(target, buffer, &record)?;
                    }
                    _ => return Err(reader.corrupted(at, "a record has changed since it was recovered")),
                }
                expected = expected.next();
            }
            at += header.encoded_len();
        }
        if expected != self.lsns.last.next() {
            return Err(reader.corrupted(at, "records have vanished since they were recovered"));
        }
        flush_coalesced(target, buffer)
    }
}
