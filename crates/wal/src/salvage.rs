//! Reading a damaged log for what is whole in it: for a repair, which can not ask for more.
//!
//! **Owns** the choice of what counts where the chain of segments is broken: of an LSN that several segments
//! have, the newest one's; and of a segment whose header is damaged, what its salt, or its salt but for one
//! bit, still proves to be its own. **Must not** change anything. **On a crash**: it only reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plimsoll_base::header::HEADER_LEN;
use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn, StorageError};

use crate::chain::{Listing, read_header};
use crate::format::{RecordHeader, RecordKind, SEGMENT_HEADER_LEN, segment_path};
use crate::scan::{Found, SegmentReader};
use crate::{Anchor, Finding, LsnRange, Record, WalError};

/// What a damaged log still gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// The last LSN that is known to have been given to a record.
    pub last: Lsn,
    /// How many records were visited.
    pub records: u64,
    /// Records that had been there and are lost.
    pub lost: Vec<LsnRange>,
    /// Whether the end of the log is damaged or gone, so that there may have been more records, nobody knows how many.
    pub end_damaged: bool,
    /// What is wrong with which segment.
    pub findings: Vec<Finding>,
    /// The segments there are.
    pub segments: Vec<FileNumber>,
}

/// Visits every whole record after `anchor.after` in order, whatever is wrong around it. The caller holds the
/// writer's lock. Records that a crash left behind a hole are taken, too: nothing tells them from others here.
///
/// # Errors
/// Listing the directory fails, or what `visit` returns.
pub fn salvage<E: From<WalError>>(
    storage: &dyn Storage,
    dir: &Path,
    database: [u8; 16],
    anchor: &Anchor,
    mut visit: impl FnMut(Record) -> Result<(), E>,
) -> Result<Salvaged, E> {
    let listing = Listing::read(storage, dir).map_err(WalError::from)?;
    let mut log = Log { storage, dir, database, findings: Vec::new(), newest_is_another: false };
    if let Some(missing) = listing.missing(dir, anchor) {
        log.damage(&missing, 0, crate::recovery::NEWEST_IS_MISSING);
    }
    let mut places: BTreeMap<Lsn, Place> = BTreeMap::new();
    for segment in log.segments(&listing, anchor.after) {
        log.index(&segment, &mut places);
    }
    let mut salvaged = Salvaged {
        last: anchor.after,
        records: 0,
        lost: Vec::new(),
        end_damaged: false,
        findings: Vec::new(),
        segments: listing.segments,
    };
    let mut open: Option<(FileNumber, SegmentReader)> = None;
    for (lsn, place) in places.range(anchor.after.next()..) {
        let path = segment_path(dir, place.segment);
        let mut reader = match open.take().filter(|(segment, _)| *segment == place.segment) {
            Some((_, reader)) => reader,
            None => SegmentReader::open(storage, &path, place.salt, None).map_err(WalError::from)?,
        };
        // Read once more: the places of the records are kept in memory, not the records.
        let Ok(Found::Valid(record)) = reader.record_at(place.offset, place.header) else {
            log.damage(&path, place.offset, "a record can not be read");
            continue;
        };
        open = Some((place.segment, reader));
        if salvaged.last.next() < *lsn {
            salvaged.lost.push(LsnRange::after(salvaged.last, Lsn(lsn.0 - 1)));
        }
        visit(record)?;
        salvaged.records += 1;
        salvaged.last = *lsn;
    }
    if salvaged.last < anchor.durable {
        log.damage(dir, 0, "the end of the log is missing");
        salvaged.lost.push(LsnRange::after(salvaged.last, anchor.durable));
        salvaged.last = anchor.durable;
    }
    // Damage before the last record left a hole in the LSNs, which tells how much was there.
    let end = places.last_key_value().map(|(_, place)| (segment_path(dir, place.segment), place.offset));
    salvaged.end_damaged = log.newest_is_another
        || log
            .findings
            .iter()
            .any(|found| found.file == dir || Some((found.file.clone(), found.offset)) > end);
    salvaged.findings = log.findings;
    Ok(salvaged)
}

/// Where a whole record is.
struct Place {
    segment: FileNumber,
    salt: u64,
    offset: u64,
    header: RecordHeader,
}

/// A segment, as far as it can be read.
struct Segment {
    number: FileNumber,
    path: PathBuf,
    salt: u64,
    /// The first LSN, if the header says it.
    first: Option<Lsn>,
    /// Where the records end, if a successor says it.
    end: Option<u64>,
}

struct Log<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    database: [u8; 16],
    findings: Vec<Finding>,
    /// Whether another file is in the place of the newest segment.
    newest_is_another: bool,
}

impl Log<'_> {
    fn damage(&mut self, file: &Path, offset: u64, what: impl Into<String>) {
        self.findings.push(Finding { file: file.to_path_buf(), offset, what: what.into(), damage: true });
    }

    fn report(&mut self, error: StorageError) {
        match error {
            StorageError::Corrupted { file, offset, what } => self.damage(&file, offset, what),
            StorageError::Io { path, source, .. } => self.damage(&path, 0, source.to_string()),
            other => self.damage(self.dir, 0, other.to_string()),
        }
    }

    /// The segments that hold what comes after `after`, oldest first: along the chain, and past its breaks.
    fn segments(&mut self, listing: &Listing, after: Lsn) -> Vec<Segment> {
        let mut found = Vec::new();
        let mut next = listing.segments.last().map(|newest| (*newest, None));
        while let Some((number, end)) = next {
            let path = segment_path(self.dir, number);
            let below =
                || listing.segments.iter().rev().find(|other| **other < number).map(|other| (*other, None));
            let header = self.storage.open(&path).and_then(|file| {
                let header = read_header(&*file, &path)?;
                let is_it = header.file.expect_identity(self.database, number, &path);
                self.newest_is_another |= is_it.is_err() && listing.segments.last() == Some(&number);
                is_it?;
                Ok((header, file.len()))
            });
            next = match header {
                Ok((header, len)) => {
                    if end.is_none() && len < header.capacity {
                        self.damage(&path, len, "the segment was cut off");
                    }
                    let previous = header.previous;
                    let first = Some(header.first_lsn());
                    found.push(Segment { number, path, salt: header.salt, first, end });
                    let more = previous.exists() && previous.last_lsn > after;
                    more.then_some((previous.number, Some(previous.end)))
                }
                Err(error) => {
                    self.report(error);
                    if let Some(salt) = self.guess_salt(&path) {
                        found.push(Segment { number, path, salt, first: None, end });
                    }
                    below()
                }
            };
        }
        found.reverse();
        found
    }

    /// The salt of a segment with a damaged header: as it stands there, or with one bit flipped, if a record
    /// agrees with it.
    fn guess_salt(&self, path: &Path) -> Option<u64> {
        let mut bytes = [0; 8];
        self.storage.open(path).ok()?.read_exact_at(HEADER_LEN as u64, &mut bytes).ok()?;
        let salt = u64::from_le_bytes(bytes);
        let mut candidates = std::iter::once(salt).chain((0..64).map(|bit| salt ^ (1 << bit)));
        candidates.find(|salt| {
            let reader = SegmentReader::open(self.storage, path, *salt, None);
            let first = reader.and_then(|mut reader| reader.header_at(SEGMENT_HEADER_LEN));
            matches!(first, Ok(Found::Valid(_)))
        })
    }

    /// Adds the whole records of a segment, in place of what older segments have of their LSNs and above.
    fn index(&mut self, segment: &Segment, places: &mut BTreeMap<Lsn, Place>) {
        let path = &segment.path;
        let length = self.storage.open(path).map_or(0, |file| file.len());
        let limit = segment.end.map(|end| end.min(length));
        let mut reader = match SegmentReader::open(self.storage, path, segment.salt, limit) {
            Ok(reader) => reader,
            Err(error) => return self.report(error),
        };
        if segment.end.is_some_and(|end| end > length) {
            self.damage(path, length, "the segment was cut off");
        }
        if let Some(first) = segment.first {
            places.split_off(&first);
        }
        let mut first = segment.first;
        let (mut at, mut end) = (SEGMENT_HEADER_LEN, SEGMENT_HEADER_LEN);
        let mut least = first.unwrap_or(Lsn(0));
        loop {
            let found = match reader.header_at(at) {
                Ok(Found::Valid(header)) => Ok(Some((at, header))),
                Ok(Found::Invalid(_)) => reader.find_header(at, least, |_| true),
                Err(error) => Err(error),
            };
            let (offset, header) = match found {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) => return self.report(error),
            };
            if header.encoded_len() > reader.limit() - offset {
                // A header without its payload.
                at = offset + 8;
                continue;
            }
            if offset > end {
                self.damage(path, end, format!("{} bytes are no records", offset - end));
            }
            match reader.record_at(offset, header) {
                Ok(Found::Valid(_)) if header.kind == RecordKind::Commit => {
                    if first.is_none() {
                        places.split_off(&header.lsn);
                        first = Some(header.lsn);
                    }
                    let (segment, salt) = (segment.number, segment.salt);
                    places.insert(header.lsn, Place { segment, salt, offset, header });
                }
                Ok(Found::Valid(_)) => {}
                Ok(Found::Invalid(why)) => self.damage(path, offset, why),
                Err(error) => return self.report(error),
            }
            least = header.lsn;
            at = offset + header.encoded_len();
            end = at;
        }
        if let Some(limit) = limit.filter(|limit| *limit > end) {
            self.damage(path, end, format!("{} bytes are no records", limit - end));
        }
    }
}
