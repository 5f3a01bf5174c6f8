//! Compares a database with what its streams of rows come to.

use std::path::Path;

use plimsoll::{Collection, Database, Error, Severity};

use super::rows::{Rows, Stream};
use super::{Failure, Result};
use plimsoll_torture::random::Random;

/// What a check found.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Checked {
    /// Rows of batches that were not acknowledged and are there.
    pub(crate) beyond: u64,
    /// Batches that were acknowledged while the power was going and are not there.
    pub(crate) lost_late: u64,
    /// Whether the log ended in a torn record.
    pub(crate) torn: bool,
    /// Whether records had to be replayed.
    pub(crate) replayed: bool,
}

/// How a check leaves the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Flushed and closed.
    Closed,
    /// With its log as it is.
    Unflushed,
}

impl Leave {
    pub(crate) fn either(random: &mut Random) -> Self {
        if random.below(3) == 0 { Self::Closed } else { Self::Unflushed }
    }
}

/// Verifies the database in `dir`, opens it, and compares every document. The streams go on from what is there.
pub(crate) fn check(
    dir: &Path,
    streams: &mut [Stream],
    leave: Leave,
    random: &mut Random,
) -> Result<Checked> {
    let mut checked = Checked { torn: verify(dir, streams)?, ..Checked::default() };
    if !dir.exists() {
        for stream in streams {
            checked.lost_late += settle(stream, &Rows::new())?;
        }
        return Ok(checked);
    }
    let failed = |what: &str, error: &Error| Failure::Violation(format!("{what}: {error}"));
    let db = Database::builder(dir).background(random.below(2) == 0).mapped(random.below(2) == 0).open();
    let db = db.map_err(|error| failed("it does not open", &error))?;
    checked.replayed = db.stats().recovery.records > 0;
    for stream in streams.iter_mut() {
        let found = match db.collection(&stream.name()) {
            Ok(collection) => found(&collection, stream)?,
            Err(Error::CollectionNotFound(_)) => Rows::new(),
            Err(error) => return Err(failed("a collection does not open", &error)),
        };
        let acknowledged = stream.acknowledged;
        checked.lost_late += settle(stream, &found)?;
        checked.beyond += stream.stored - acknowledged;
    }
    if leave == Leave::Closed {
        db.close().map_err(|error| failed("it does not close", &error))?;
    }
    drop(db);
    verify(dir, streams)?;
    Ok(checked)
}

fn settle(stream: &mut Stream, found: &Rows) -> Result<u64> {
    stream.settle(found).map_err(Failure::Violation)
}

/// The documents of a collection, each of which must be one that its stream has made.
fn found(collection: &Collection, stream: &Stream) -> Result<Rows> {
    let failed = |error: Error| Failure::Violation(format!("{}: {error}", stream.name()));
    let mut rows = Rows::new();
    for document in collection.scan().map_err(failed)? {
        let document = document.map_err(failed)?;
        match stream.recognise(&document) {
            Some((key, row)) if rows.insert(key, row).is_none() => {}
            Some((key, _)) => {
                return Err(Failure::Violation(format!("{}: {key} is there twice", stream.name())));
            }
            None => return Err(Failure::Violation(format!("{}: nobody wrote {document:?}", stream.name()))),
        }
    }
    let count = collection.count().map_err(failed)?;
    if count == rows.len() as u64 {
        return Ok(rows);
    }
    let what = format!("{}: {count} documents are counted and {} found", stream.name(), rows.len());
    Err(Failure::Violation(what))
}

/// Checks every byte. Returns whether the log has a torn tail. A database whose creation was interrupted has
/// nothing to be checked, as long as nothing was acknowledged.
fn verify(dir: &Path, streams: &[Stream]) -> Result<bool> {
    let report = match plimsoll::verify(dir) {
        Ok(report) => report,
        Err(_) if streams.iter().all(|stream| stream.acknowledged == 0) => return Ok(false),
        Err(error) => return Err(Failure::Violation(format!("it can not be verified: {error}"))),
    };
    if let Some(damage) = report.findings.iter().find(|finding| finding.severity == Severity::Damage) {
        return Err(Failure::Violation(damage.to_string()));
    }
    Ok(report.findings.iter().any(|finding| finding.what.contains("torn tail")))
}
