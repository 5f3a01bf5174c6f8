//! Replay by a process that only reads, while a writer may be at work (R10).
//!
//! **Owns** the rule of what a reader may believe: records that a recorded `durable_before`, a successor
//! segment or the manifest covers. **Must not** lock, create or remove anything. **On a crash** of the writer
//! it goes on; what it has shown stays in the log.

use std::io;
use std::path::Path;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Storage;
use plimsoll_base::{Lsn, StorageError};

use crate::chain::{Anchor, Chain, Link, Listing};
use crate::cursor::{Cursor, Next};
use crate::recovery::check_links;
use crate::scan::{Found, NOTHING};
use crate::{Record, WalError};

/// How often an empty listing is taken again.
const RELISTINGS: usize = 3;

/// What a reader found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSummary {
    /// The last LSN that may be shown: every record after `after` up to here has been visited.
    pub visible: Lsn,
    /// How many records were visited.
    pub records: u64,
    /// How many records after [`ReadSummary::visible`] are whole, but not known to be durable.
    pub pending: u64,
    /// How many bytes were read.
    pub bytes_read: u64,
}

/// Visits every record after `anchor.after` that is known to be durable, in order, and stops quietly where the
/// log is incomplete. The manifest was read before this call.
///
/// # Errors
/// `NotFound` ([`WalError::is_not_found`]) when a segment vanished because the writer has published a newer
/// manifest: read that one and call again. If the manifest is the same as before, the log is damaged. [`StorageError::Corrupted`] when a durable record is damaged.
pub fn read_durable<E: From<WalError>>(
    storage: &dyn Storage,
    dir: &Path,
    database: [u8; 16],
    anchor: &Anchor,
    mut visit: impl FnMut(Record) -> Result<(), E>,
) -> Result<ReadSummary, E> {
    let after = anchor.after;
    let chain = load(storage, dir, database, anchor).map_err(WalError::from)?;
    let mut summary =
        ReadSummary { visible: anchor.proven(), records: 0, pending: 0, bytes_read: chain.bytes_read };
    let Some(newest) = chain.links.last() else { return Ok(summary) };
    let (covered, last, bytes) = covered(storage, newest, summary.visible).map_err(WalError::from)?;
    summary.visible = if mutant::is(Mutant::ReaderShowsUnproven) { last } else { covered };
    let covered = summary.visible;
    summary.pending = last.0.saturating_sub(covered.0);
    summary.bytes_read += bytes;
    for link in &chain.links {
        let mut cursor = Cursor::open(storage, link).map_err(WalError::from)?;
        loop {
            let at_end = link.end.is_some_and(|end| cursor.at >= end.offset);
            if at_end || cursor.expected > covered {
                break;
            }
            match cursor.next().map_err(WalError::from)? {
                Next::Commit { record } if record.lsn() > after => {
                    summary.records += 1;
                    visit(record)?;
                }
                Next::Commit { .. } | Next::Mark { .. } => {}
                Next::Invalid(why) => return Err(WalError::from(cursor.damage(why)).into()),
            }
        }
        let last = link.end.map_or(covered, |end| end.last_lsn);
        if cursor.expected <= last {
            return Err(WalError::from(cursor.damage("the segment ends before it")).into());
        }
        summary.bytes_read += cursor.reader.bytes_read();
    }
    Ok(summary)
}

fn load(
    storage: &dyn Storage,
    dir: &Path,
    database: [u8; 16],
    anchor: &Anchor,
) -> Result<Chain, StorageError> {
    // A listing is not one moment: all that it found may have been removed, and what came instead be missing
    // from it. A log that once had a record always has a file.
    let mut listing = Listing::read(storage, dir)?;
    for _ in 0..RELISTINGS {
        if listing.missing(dir, anchor).is_none() {
            break;
        }
        listing = Listing::read(storage, dir)?;
    }
    if let Some(missing) = listing.missing(dir, anchor) {
        return Err(StorageError::io("open", &missing, io::ErrorKind::NotFound.into()));
    }
    let chain = Chain::load(storage, dir, database, &listing, anchor.after)?;
    check_links(&chain, anchor.after)?;
    Ok(chain)
}

/// How far the newest segment says that the log is durable, by its headers alone; its last record's LSN; and
/// the bytes read.
fn covered(storage: &dyn Storage, newest: &Link, proven: Lsn) -> Result<(Lsn, Lsn, u64), StorageError> {
    let mut covered = proven.max(newest.header.previous.last_lsn);
    let mut cursor = Cursor::open(storage, newest)?;
    let mut refreshed_at = 0;
    loop {
        match cursor.header()? {
            Found::Valid(header) => {
                covered = covered.max(header.durable_before);
                cursor.skip(&header);
            }
            // Where the writer will go on, or where its last bytes are not visible yet.
            Found::Invalid(NOTHING) => break,
            Found::Invalid(_) if cursor.reader.find_evidence(cursor.at + 8, cursor.expected)?.is_none() => {
                break;
            }
            // The evidence may be younger than our look at this header. A second look, younger than the
            // evidence, sees the header if it is sound.
            Found::Invalid(why) if refreshed_at == cursor.at => return Err(cursor.damage(why)),
            Found::Invalid(_) => {
                refreshed_at = cursor.at;
                cursor.reader.refresh();
            }
        }
    }
    let last = Lsn(cursor.expected.0.saturating_sub(1));
    Ok((covered, last, cursor.reader.bytes_read()))
}
