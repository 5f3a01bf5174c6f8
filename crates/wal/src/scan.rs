//! Reading the records of one segment: the one place where disk bytes become records.
//!
//! **Owns** the window over a segment's bytes, the checks of record headers and payloads, and the search for
//! headers further on. Lengths from disk are believed only within the file. **Must not know** the chain of
//! segments, nor whether something invalid is damage. **On a crash** the bytes may be anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::storage::{ReadFile, Storage};
use plimsoll_base::{Lsn, StorageError};

use crate::Record;
use crate::format::{RECORD_ALIGNMENT, RECORD_HEADER_LEN, RecordHeader};

/// How much is read at once; records up to half of it are copied out of the window.
const WINDOW: usize = 1 << 20;
/// Why there is no header: the file ends.
pub(crate) const NO_ROOM: &str = "there is no room for a record";
/// Why there is no header: zeros.
pub(crate) const NOTHING: &str = "nothing was written here";
/// A header in units of the alignment, and the place of the LSN in it.
const HEADER_WORDS: usize = RECORD_HEADER_LEN / RECORD_ALIGNMENT;
const LSN_WORD: usize = 1;

/// Reads a segment's records up to a limit.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: Arc<dyn ReadFile>,
    path: PathBuf,
    salt: u64,
    limit: u64,
    window: Vec<u8>,
    window_at: u64,
    bytes_read: u64,
}

/// What stands at an offset.
#[derive(Debug)]
pub(crate) enum Found<T> {
    /// Something whose checksum holds.
    Valid(T),
    /// Anything else, and why.
    Invalid(&'static str),
}

impl SegmentReader {
    /// Reads the segment at `path` up to byte `limit`, or to the end of the file.
    pub(crate) fn open(
        storage: &dyn Storage,
        path: &Path,
        salt: u64,
        limit: Option<u64>,
    ) -> Result<Self, StorageError> {
        let file = storage.open(path)?;
        let len = file.len();
        let limit = limit.unwrap_or(len);
        if limit > len {
            let what = format!("the file has {len} bytes, its records end at byte {limit}");
            return Err(StorageError::corrupted(path, len, what));
        }
        let path = path.to_path_buf();
        Ok(Self { file, path, salt, limit, window: Vec::new(), window_at: 0, bytes_read: 0 })
    }

    /// The header at `offset`.
    pub(crate) fn header_at(&mut self, offset: u64) -> Result<Found<RecordHeader>, StorageError> {
        let Some(bytes) = self.view(offset, RECORD_HEADER_LEN)? else {
            return Ok(Found::Invalid(NO_ROOM));
        };
        let mut header = [0; RECORD_HEADER_LEN];
        header.copy_from_slice(bytes);
        match RecordHeader::decode(&header, self.salt) {
            Some(header) if header.encoded_len() <= self.limit - offset => Ok(Found::Valid(header)),
            Some(_) => Ok(Found::Invalid("the record reaches beyond the end")),
            None if header == [0; RECORD_HEADER_LEN] => Ok(Found::Invalid(NOTHING)),
            None => Ok(Found::Invalid("the record header's checksum does not match")),
        }
    }

    /// The record at `offset`, whose header is `header`.
    pub(crate) fn record_at(
        &mut self,
        offset: u64,
        header: RecordHeader,
    ) -> Result<Found<Record>, StorageError> {
        let len = header.encoded_len() as usize;
        let record = if len <= WINDOW / 2 {
            match self.view(offset, len)? {
                Some(bytes) => Record::copy_of(header, bytes),
                None => None,
            }
        } else {
            self.bytes_read += len as u64;
            Record::read(header, |buffer| self.file.read_exact_at(offset, buffer))?
        };
        Ok(record.map_or(Found::Invalid("the payload's checksum does not match"), Found::Valid))
    }

    /// The first header at or after `from` that says by its `durable_before` that LSN `expected` is durable.
    pub(crate) fn find_evidence(&mut self, from: u64, expected: Lsn) -> Result<Option<u64>, StorageError> {
        let found = self.find_header(from, expected, |header| header.durable_before >= expected)?;
        Ok(found.map(|(offset, _)| offset))
    }

    /// The first header at or after `from` with an LSN of at least `least` that `accept` takes.
    pub(crate) fn find_header(
        &mut self,
        from: u64,
        least: Lsn,
        accept: impl Fn(&RecordHeader) -> bool,
    ) -> Result<Option<(u64, RecordHeader)>, StorageError> {
        // Each record takes at least a header, so LSNs can not be arbitrarily far ahead.
        let most = least.0.saturating_add(self.limit / RECORD_HEADER_LEN as u64);
        let salt = self.salt;
        let mut at = from.next_multiple_of(RECORD_ALIGNMENT as u64);
        while let Some(left) = self.limit.checked_sub(at).filter(|left| *left >= RECORD_HEADER_LEN as u64) {
            let len = left.min(WINDOW as u64) as usize;
            let Some(bytes) = self.view(at, len)? else { break };
            let (words, _) = bytes.as_chunks::<RECORD_ALIGNMENT>();
            // Only positions with room for a header; the rest comes with the next round.
            let positions = words.len() - (HEADER_WORDS - 1);
            for position in 0..positions {
                let lsn = u64::from_le_bytes(words[position + LSN_WORD]);
                if lsn < least.0 || lsn > most {
                    continue;
                }
                let mut header = [0; RECORD_HEADER_LEN];
                header.copy_from_slice(words[position..position + HEADER_WORDS].as_flattened());
                if let Some(header) = RecordHeader::decode(&header, salt).filter(&accept) {
                    return Ok(Some((at + (position * RECORD_ALIGNMENT) as u64, header)));
                }
            }
            at += (positions * RECORD_ALIGNMENT) as u64;
        }
        Ok(None)
    }

    /// Damage at `offset` of this segment.
    pub(crate) fn corrupted(&self, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::corrupted(&self.path, offset, what)
    }

    /// How many bytes were read from the file.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Where the segment's records end at the latest.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Forgets what was read, so that what a live writer has written since is seen.
    pub(crate) fn refresh(&mut self) {
        self.window.clear();
    }

    /// The bytes from `offset`, at most a window long; `None` if they reach beyond the limit.
    fn view(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>, StorageError> {
        let Some(left) = self.limit.checked_sub(offset).filter(|left| *left >= len as u64) else {
            return Ok(None);
        };
        let inside = offset.checked_sub(self.window_at).map(|start| start as usize);
        let start = match inside {
            Some(start) if start.saturating_add(len) <= self.window.len() => start,
            _ => {
                let wanted = left.min(WINDOW as u64) as usize;
                // The window says nothing while it is being filled.
                self.window.resize(wanted, 0);
                self.window_at = offset;
                if let Err(error) = self.file.read_exact_at(offset, &mut self.window) {
                    self.window.clear();
                    return Err(error);
                }
                self.bytes_read += wanted as u64;
                0
            }
        };
        Ok(Some(&self.window[start..start + len]))
    }
}
