//! Looking at a log without using it: `verify` and `dump`.
//!
//! **Owns** the listing of a segment's records and the findings about a log. **Must not** change anything or
//! need a healthy database. **On a crash**: it only reads.

use std::path::{Path, PathBuf};

use plimsoll_base::storage::Storage;
use plimsoll_base::{Lsn, StorageError};

use crate::Result;
use crate::chain::{Anchor, Chain, Link, Listing, read_header};
use crate::cursor::Cursor;
use crate::format::{RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader, segment_path, spare_path};
use crate::recovery::{NEWEST_IS_MISSING, NewestEnd, check_links, read_newest};
use crate::scan::{Found, SegmentReader};

/// A segment's header and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The decoded header.
    pub header: SegmentHeader,
    /// The file's length in bytes, preallocated space included.
    pub file_len: u64,
    /// The end of the last valid record.
    pub records_end: u64,
}

/// A record as `dump` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInfo {
    /// Where it begins, in bytes from the file's start.
    pub offset: u64,
    /// Its header.
    pub header: RecordHeader,
    /// Whether the payload's checksum holds.
    pub payload_valid: bool,
    /// The bytes between the record before it and this one that are no record: more than 0 after damage.
    pub gap: u64,
}

/// Something that `verify` noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub file: PathBuf,
    /// Where in the file, in bytes from its start.
    pub offset: u64,
    /// What was noticed.
    pub what: String,
    /// Whether it is damage, rather than what a crash leaves behind and the next writer clears away.
    pub damage: bool,
}

/// Visits the records of one segment in file order, also those behind damage, whatever database it is of.
///
/// # Errors
/// The file can not be read, or its header is damaged, so that its salt is unknown.
pub fn describe(
    storage: &dyn Storage,
    path: &Path,
    mut visit: impl FnMut(RecordInfo) -> Result<()>,
) -> Result<SegmentInfo> {
    let file = storage.open(path)?;
    let header = read_header(&*file, path)?;
    let mut reader = SegmentReader::open(storage, path, header.salt, None)?;
    let (mut at, mut end, mut least) = (SEGMENT_HEADER_LEN, SEGMENT_HEADER_LEN, header.previous.last_lsn);
    loop {
        let record = match reader.header_at(at)? {
            Found::Valid(record) => record,
            Found::Invalid(_) => match reader.find_header(at, least, |_| true)? {
                None => break,
                Some((found, record)) => {
                    at = found;
                    // A header whose payload would reach beyond the file.
                    if record.encoded_len() > reader.limit() - at {
                        at += 8;
                        continue;
                    }
                    record
                }
            },
        };
        let payload_valid = matches!(reader.record_at(at, record)?, Found::Valid(_));
        visit(RecordInfo { offset: at, header: record, payload_valid, gap: at - end })?;
        least = record.lsn;
        // The length of a valid header can be trusted, as long as it stays within the file.
        at += record.encoded_len();
        end = at;
    }
    Ok(SegmentInfo { header, file_len: file.len(), records_end: end })
}

/// Checks the whole log as [`recover`](crate::recover) would, but reports instead of stopping at the first
/// damage. Where no manifest is readable, the anchor is [`Anchor::START`].
///
/// # Errors
/// Only what keeps it from looking: listing or reading fails.
pub fn verify(
    storage: &dyn Storage,
    dir: &Path,
    database: [u8; 16],
    anchor: &Anchor,
) -> Result<Vec<Finding>> {
    let mut findings = Findings::default();
    let listing = Listing::read(storage, dir)?;
    let (after, proven) = (anchor.after, anchor.proven());
    if let Some(missing) = listing.missing(dir, anchor) {
        findings.damage(&missing, 0, NEWEST_IS_MISSING.to_owned());
    }
    for stray in &listing.strays {
        findings.note(&spare_path(dir, *stray), 0, "a temporary file; the next writer removes it");
    }
    for name in &listing.foreign {
        findings.note(&dir.join(name), 0, "this is not a file of the log");
    }
    for number in &listing.segments {
        let path = segment_path(dir, *number);
        let checked = storage.open(&path).and_then(|file| read_header(&*file, &path));
        findings
            .take(&path, checked.and_then(|header| header.file.expect_identity(database, *number, &path)))?;
    }
    if !findings.is_damaged() {
        let chain = Chain::load(storage, dir, database, &listing, after);
        if let Some(chain) = findings.take(dir, chain)? {
            findings.take(dir, check_links(&chain, after))?;
            for link in &chain.links {
                verify_link(storage, link, proven, &mut findings)?;
            }
        }
    }
    Ok(findings.list)
}

fn verify_link(storage: &dyn Storage, link: &Link, proven: Lsn, findings: &mut Findings) -> Result<()> {
    let Some(mut cursor) = findings.take(&link.path, Cursor::open(storage, link))? else { return Ok(()) };
    let Some(end) = link.end else {
        let look = |cursor: &mut Cursor| read_newest(cursor, link, proven, |_| Ok::<_, StorageError>(()));
        let mut newest = look(&mut cursor);
        // Beside a writer the evidence may be younger than the look at what it speaks of. A look that is younger than
        // the evidence sees that if it is sound, and gets further; damage stays where it is.
        while let Err(StorageError::Corrupted { .. }) = newest {
            let before = cursor.at;
            cursor = Cursor::open(storage, link)?;
            newest = look(&mut cursor);
            if cursor.at <= before {
                break;
            }
        }
        if let Some(end) = findings.take(&link.path, newest)?.filter(NewestEnd::is_cut) {
            let what = format!("a torn tail: {}; the next writer goes on before it", end.why);
            findings.note(&link.path, cursor.at, &what);
        }
        return Ok(());
    };
    findings.take(&link.path, cursor.read_closed(end, |_| Ok::<_, StorageError>(()))).map(|_| ())
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn note(&mut self, file: &Path, offset: u64, what: &str) {
        self.list.push(Finding { file: file.to_path_buf(), offset, what: what.to_owned(), damage: false });
    }

    fn damage(&mut self, file: &Path, offset: u64, what: String) {
        self.list.push(Finding { file: file.to_path_buf(), offset, what, damage: true });
    }

    fn is_damaged(&self) -> bool {
        self.list.iter().any(|finding| finding.damage)
    }

    /// Turns damage, a newer format and a missing file into a finding, and passes other errors on.
    fn take<T>(&mut self, file: &Path, result: Result<T, StorageError>) -> Result<Option<T>> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(StorageError::Corrupted { file, offset, what }) => self.damage(&file, offset, what),
            Err(error @ StorageError::UpgradeRequired { .. }) => self.damage(file, 0, error.to_string()),
            Err(StorageError::Io { path, source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                self.damage(&path, 0, "the file is missing".to_owned());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }
}
