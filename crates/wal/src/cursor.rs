//! Walking the records of one segment in LSN order.
//!
//! **Owns** the rule that LSNs are strictly consecutive. **Must not know** whether the end of the walk is a torn
//! tail or damage. **On a crash** a record either follows the one before it or is invalid: a valid header with
//! another LSN is never the trace of a crash, because the writer never goes on in a segment after a failed
//! append, and never writes over anything.

use plimsoll_base::storage::Storage;
use plimsoll_base::{Lsn, StorageError};

use crate::Record;
use crate::chain::{Link, RecordedEnd};
use crate::format::{RecordHeader, RecordKind, SEGMENT_HEADER_LEN};
use crate::scan::{Found, SegmentReader};

/// A place between two records of a segment.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) reader: SegmentReader,
    /// Where the next record begins.
    pub(crate) at: u64,
    /// The LSN of the next commit.
    pub(crate) expected: Lsn,
}

/// What follows the cursor.
#[derive(Debug)]
pub(crate) enum Next {
    /// A commit.
    Commit { record: Record },
    /// A mark that says what is durable.
    Mark { durable: Lsn },
    /// No valid record of the expected LSN.
    Invalid(&'static str),
}

impl Cursor {
    /// The beginning of a segment's records.
    pub(crate) fn open(storage: &dyn Storage, link: &Link) -> Result<Self, StorageError> {
        let limit = link.end.map(|end| end.offset);
        let reader = SegmentReader::open(storage, &link.path, link.header.salt, limit)?;
        Ok(Self { reader, at: SEGMENT_HEADER_LEN, expected: link.header.first_lsn() })
    }

    /// The header at the cursor, which stays.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`] for a valid header with an LSN that can not stand here.
    pub(crate) fn header(&mut self) -> Result<Found<RecordHeader>, StorageError> {
        let found = self.reader.header_at(self.at)?;
        if let Found::Valid(header) = &found {
            let follows = match header.kind {
                RecordKind::Commit => header.lsn == self.expected,
                RecordKind::Mark => header.lsn.next() == self.expected,
            };
            if !follows {
                let what = format!("LSN {} was found where LSN {} belongs", header.lsn, self.expected);
                return Err(self.reader.corrupted(self.at, what));
            }
        }
        Ok(found)
    }

    /// Goes to the next valid header, if there is none here ([`Mutant::ReplayPastHole`]).
    ///
    /// [`Mutant::ReplayPastHole`]: plimsoll_base::mutant::Mutant::ReplayPastHole
    pub(crate) fn skip_hole(&mut self) -> Result<(), StorageError> {
        if let Found::Invalid(_) = self.reader.header_at(self.at)?
            && let Some((at, header)) = self.reader.find_header(self.at + 8, self.expected, |_| true)?
        {
            (self.at, self.expected) = (at, header.lsn);
        }
        Ok(())
    }

    /// Goes past the record whose header is `header`, without reading its payload.
    pub(crate) fn skip(&mut self, header: &RecordHeader) {
        self.at += header.encoded_len();
        if header.kind == RecordKind::Commit {
            self.expected = self.expected.next();
        }
    }

    /// Reads the next record and goes past it, if it is valid.
    pub(crate) fn next(&mut self) -> Result<Next, StorageError> {
        let header = match self.header()? {
            Found::Valid(header) => header,
            Found::Invalid(why) => return Ok(Next::Invalid(why)),
        };
        let next = match self.reader.record_at(self.at, header)? {
            Found::Invalid(why) => return Ok(Next::Invalid(why)),
            Found::Valid(record) if header.kind == RecordKind::Commit => Next::Commit { record },
            Found::Valid(_) => Next::Mark { durable: header.durable_before },
        };
        self.skip(&header);
        Ok(next)
    }

    /// Reads the whole of a segment that has a successor. All of it had been synced before the successor got
    /// its name, so anything invalid before its end is damage.
    pub(crate) fn read_closed<E: From<StorageError>>(
        &mut self,
        end: RecordedEnd,
        mut visit: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.at < end.offset {
            match self.next()? {
                Next::Commit { record } => visit(record)?,
                Next::Mark { .. } => {}
                Next::Invalid(why) => return Err(self.damage(why).into()),
            }
        }
        if self.expected != end.last_lsn.next() {
            let what = format!(
                "the segment ends before LSN {}, its successor names {}",
                self.expected, end.last_lsn
            );
            return Err(self.reader.corrupted(self.at, what).into());
        }
        Ok(())
    }

    /// Damage at the cursor, of a record that had been durable.
    pub(crate) fn damage(&self, why: &str) -> StorageError {
        self.reader.corrupted(self.at, format!("LSN {} had been durable, but {why}", self.expected))
    }
}
