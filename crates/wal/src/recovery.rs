//! Replay by the next writer: what is in the log, and where it goes on.
//!
//! **Owns** the decision between a torn tail and damage (R4). **Must not know** what a record means; the
//! visitor does. **On a crash** during replay nothing has changed: it only reads.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn, StorageError};

use crate::chain::{Anchor, Chain, ClosedSegment, Link, Listing};
use crate::cursor::{Cursor, Next};
use crate::format::{Previous, segment_path};
use crate::tail::Tail;
use crate::{LsnRange, Record, SaltSource, Wal, WalError, WalOptions};

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The segment.
    pub segment: FileNumber,
    /// The offset in it, in bytes.
    pub offset: u64,
}

/// A torn tail that was cut: bytes of records that were never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: PathBuf,
    /// Where the cut is, in bytes from the file's start.
    pub offset: u64,
    /// The LSN of the record that is not there.
    pub lsn: Lsn,
    /// What was found instead.
    pub what: &'static str,
}

/// What replay found, and all that it takes to go on writing.
///
/// Records after [`Recovered::durable`] were found whole and have been visited, but nothing proves that they
/// are on disk: they may be in the page cache only. [`Wal::sync`] makes them durable (by copying them to a
/// new segment), and so does the first append with a sync; before that nothing that depends on them may be
/// published (R3).
#[derive(Debug)]
pub struct Recovered {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) database: [u8; 16],
    pub(crate) next_lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) next_number: FileNumber,
    pub(crate) closed: Vec<ClosedSegment>,
    pub(crate) inherited: Previous,
    pub(crate) tail: Option<Tail>,
    pub(crate) strays: Vec<u64>,
    end: Option<Position>,
    cut: Option<Cut>,
    records: u64,
    bytes_read: u64,
}

impl Recovered {
    /// A log without segments whose first record will follow `last_lsn` and whose first segment will follow
    /// `last_segment`: for a repair that has moved the damaged log away. It then calls [`Wal::rotate`], because a
    /// log that is missing altogether is damage when a manifest says that there was one.
    ///
    /// # Errors
    /// Listing the directory fails, or it holds segments.
    pub fn fresh(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        database: [u8; 16],
        last_lsn: Lsn,
        last_segment: FileNumber,
    ) -> Result<Self, WalError> {
        let listing = Listing::read(&**storage, dir)?;
        if let Some(segment) = listing.segments.first() {
            let what = "a new log was to be started where there is one";
            return Err(StorageError::corrupted(&segment_path(dir, *segment), 0, what).into());
        }
        let next_number = FileNumber(last_segment.0 + 1);
        Ok(Self { next_number, ..Self::empty(storage, dir, database, last_lsn, listing) })
    }

    fn empty(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        database: [u8; 16],
        last_lsn: Lsn,
        listing: Listing,
    ) -> Self {
        Self {
            storage: Arc::clone(storage),
            dir: dir.to_path_buf(),
            database,
            next_lsn: last_lsn.next(),
            durable: last_lsn,
            next_number: FileNumber(listing.segments.last().map_or(1, |newest| newest.0 + 1)),
            closed: Vec::new(),
            inherited: Previous::none(last_lsn),
            tail: None,
            strays: listing.strays,
            end: None,
            cut: None,
            records: 0,
            bytes_read: 0,
        }
    }

    /// The LSN that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// The last LSN that is proven to be durable.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Where the records end; `None` if there is no segment.
    pub fn end(&self) -> Option<Position> {
        self.end
    }

    /// The torn tail that was cut, if there was one.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// How many records were visited.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How many bytes were read.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The newest segment that counts; 0 if there is none.
    pub fn newest(&self) -> FileNumber {
        self.inherited.number
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.closed.len()
    }

    /// The writer that goes on after the last record.
    pub fn into_wal(self, options: WalOptions, salt: SaltSource) -> Wal {
        Wal::new(self, options, salt)
    }
}

/// Replays the log in `dir`: visits every record after `anchor.after` in order. Segments that lie at or below it
/// as a whole are not read. Memory is bounded by the largest record. The caller holds the writer's lock.
///
/// While replay runs, everything up to [`Record::durable_before`] of the record being visited is durable.
///
/// # Errors
/// [`StorageError::Corrupted`] with file and offset where the log is damaged (R4), [`StorageError::Io`], or
/// whatever `visit` returns. Records before the damage have been visited by then.
pub fn recover<E: From<WalError>>(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    database: [u8; 16],
    anchor: &Anchor,
    mut visit: impl FnMut(Record) -> Result<(), E>,
) -> Result<Recovered, E> {
    let (after, proven) = (anchor.after, anchor.proven());
    let (chain, listing) = load(&**storage, dir, database, anchor).map_err(WalError::from)?;
    let mut recovered = Recovered::empty(storage, dir, database, after, listing);
    recovered.closed.clone_from(&chain.closed);
    recovered.bytes_read = chain.bytes_read;
    let mut records = 0;
    let mut visit = |record: Record| -> Result<(), Stop<E>> {
        if record.lsn() > after {
            records += 1;
            visit(record).map_err(Stop::Visitor)?;
        }
        Ok(())
    };
    let mut replay = || -> Result<(), Stop<E>> {
        for link in &chain.links {
            let mut cursor = Cursor::open(&**storage, link)?;
            match link.end {
                Some(end) => cursor.read_closed(end, &mut visit)?,
                None => recovered.finish(link, &read_newest(&mut cursor, link, proven, &mut visit)?, &cursor),
            }
            recovered.bytes_read += cursor.reader.bytes_read();
        }
        Ok(())
    };
    replay().map_err(Stop::into_error)?;
    recovered.records = records;
    Ok(recovered)
}

/// What is wrong with a log that does not have what the manifest knows of.
pub(crate) const NEWEST_IS_MISSING: &str = "the newest part of the log is missing";

/// Why replay stops early.
enum Stop<E> {
    Storage(StorageError),
    Visitor(E),
}

impl<E> From<StorageError> for Stop<E> {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl<E: From<WalError>> Stop<E> {
    fn into_error(self) -> E {
        match self {
            Self::Storage(error) => WalError::from(error).into(),
            Self::Visitor(error) => error,
        }
    }
}

/// The chain of segments, with everything wrong with it that can be known before records are read.
pub(crate) fn load(
    storage: &dyn Storage,
    dir: &Path,
    database: [u8; 16],
    anchor: &Anchor,
) -> Result<(Chain, Listing), StorageError> {
    let listing = Listing::read(storage, dir)?;
    if let Some(missing) = listing.missing(dir, anchor) {
        return Err(StorageError::corrupted(&missing, 0, NEWEST_IS_MISSING));
    }
    let after = anchor.after;
    let chain = Chain::load(storage, dir, database, &listing, after).map_err(|error| match error {
        StorageError::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            StorageError::corrupted(&path, 0, "a segment in the middle of the log is missing")
        }
        error => error,
    })?;
    check_links(&chain, after)?;
    Ok((chain, listing))
}

/// The oldest segment must reach back to `after`, and a writer must know every feature of what it continues.
pub(crate) fn check_links(chain: &Chain, after: Lsn) -> Result<(), StorageError> {
    if let Some(oldest) = chain.links.first()
        && oldest.header.previous.last_lsn > after
    {
        let what = format!("the log begins at LSN {}, {} is needed", oldest.header.first_lsn(), after.next());
        return Err(StorageError::corrupted(&oldest.path, 96, what));
    }
    for link in &chain.links {
        let features = link.header.file.read_only_compatible;
        if features != 0 {
            let what = format!("read-only-compatible feature bits {features:#x}");
            return Err(StorageError::UpgradeRequired { file: link.path.clone(), what });
        }
    }
    Ok(())
}

/// The end of the newest segment.
pub(crate) struct NewestEnd {
    /// What is proven to be durable.
    pub(crate) proven: Lsn,
    /// Where the last record ends that is. A mark behind it proves something, but is not proven itself.
    proven_end: u64,
    /// What was found in place of the next record.
    pub(crate) why: &'static str,
}

/// Reads the newest segment to its end, which is a torn tail unless something proves that it is damage.
pub(crate) fn read_newest<E: From<StorageError>>(
    cursor: &mut Cursor,
    link: &Link,
    proven: Lsn,
    mut visit: impl FnMut(Record) -> Result<(), E>,
) -> Result<NewestEnd, E> {
    let mut proven = proven.max(link.header.previous.last_lsn);
    // Bounded by the segment: 16 bytes for a record of at least 32.
    let mut unproven: VecDeque<(Lsn, u64)> = VecDeque::new();
    let mut proven_end = cursor.at;
    let why = loop {
        if mutant::is(Mutant::ReplayPastHole) {
            cursor.skip_hole()?;
        }
        let durable = match cursor.next()? {
            Next::Commit { record } => {
                unproven.push_back((record.lsn(), cursor.at));
                let durable = record.durable_before();
                visit(record)?;
                durable
            }
            Next::Mark { durable } => durable,
            Next::Invalid(why) => break why,
        };
        proven = proven.max(durable);
        while let Some((_, end)) = unproven.pop_front_if(|(lsn, _)| *lsn <= proven) {
            proven_end = end;
        }
    };
    if mutant::is(Mutant::DamageIsTornTail) {
        return Ok(NewestEnd { proven: proven.min(Lsn(cursor.expected.0 - 1)), proven_end, why });
    }
    if cursor.expected <= proven || (is_torn(why) && mutant::is(Mutant::TornTailIsDamage)) {
        return Err(cursor.damage(why).into());
    }
    if let Some(at) = cursor.reader.find_evidence(cursor.at + 8, cursor.expected)? {
        return Err(cursor.damage(&format!("{why} (the record at byte {at} proves it)")).into());
    }
    Ok(NewestEnd { proven, proven_end, why })
}

impl Recovered {
    /// Notes where the log goes on after its newest segment.
    fn finish(&mut self, link: &Link, end: &NewestEnd, cursor: &Cursor) {
        let segment = link.header.file.number;
        let last_lsn = Lsn(cursor.expected.0 - 1);
        self.next_lsn = cursor.expected;
        self.durable = end.proven;
        self.end = Some(Position { segment, offset: cursor.at });
        self.cut = end.is_cut().then(|| Cut {
            file: link.path.clone(),
            offset: cursor.at,
            lsn: cursor.expected,
            what: end.why,
        });
        self.tail = (end.proven < last_lsn).then(|| Tail {
            segment,
            salt: link.header.salt,
            from: end.proven_end,
            to: cursor.at,
            lsns: LsnRange::after(end.proven, last_lsn),
        });
        self.inherited = Previous { number: segment, end: end.proven_end, last_lsn: end.proven };
        self.closed.push(ClosedSegment {
            number: segment,
            last_lsn: end.proven,
            bytes: cursor.reader.limit(),
        });
    }
}

impl NewestEnd {
    /// Whether something was written where the records end, and did not survive.
    pub(crate) fn is_cut(&self) -> bool {
        is_torn(self.why)
    }
}

fn is_torn(why: &str) -> bool {
    why != crate::scan::NOTHING && why != crate::scan::NO_ROOM
}
