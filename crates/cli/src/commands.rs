//! The commands, one module each, and what they share: opening a database for reading or for writing.

mod backup;
mod calibrate;
mod compact;
mod create;
mod delete;
mod doctor;
mod drop;
mod dump;
mod export;
mod flush;
mod get;
mod import;
mod ingest;
mod jobs;
mod ls;
mod repair;
mod search;
mod source;
mod stats;
mod verify;

use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll::{Database, Error, Lsn, ReadOnlyCollection, ReadOnlyDatabase, StorageError};

use crate::args::{Command, Reading, Target};
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::{bench, demo};

pub(crate) use flush::{FlushReport, flush};
pub(crate) use search::snippet;

/// How long a living writer may take to prove its last records durable, and how often that is looked at.
const PROOF_DEADLINE: Duration = Duration::from_secs(2);
const PROOF_INTERVAL: Duration = Duration::from_millis(20);

/// Runs a command.
pub(crate) fn run(command: Command, output: &mut Output) -> Result<()> {
    match command {
        Command::Demo => demo::run(output),
        Command::Create(args) => create::run(&args, output),
        Command::Ls(args) => ls::run(&args, output),
        Command::Drop(args) => drop::run(&args, output),
        Command::Import(args) => import::run(&args, output),
        Command::Ingest(args) => ingest::run(&args, output),
        Command::Source(args) => source::run(&args, output),
        Command::Search(args) => search::run(&args, output),
        Command::Get(args) => get::run(&args, output),
        Command::Delete(args) => delete::run(&args, output),
        Command::Count(args) => ls::count(&args, output),
        Command::Export(args) => export::run(&args, output),
        Command::Flush(args) => flush::run(&args, output),
        Command::Jobs(args) => jobs::run(&args, output),
        Command::Stats(args) => stats::run(&args, output),
        Command::Backup(args) => backup::run(&args, output),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Compact(args) => compact::run(&args, output),
        Command::Calibrate(args) => calibrate::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::Repair(args) => repair::run(&args, output),
        Command::Dump(args) => dump::run(&args, output),
        Command::Bench(command) => bench::run(command, output),
    }
}

/// Opens an existing database for writing.
fn writer(dir: &Path) -> Result<Database> {
    Ok(Database::builder(dir).create(false).open()?)
}

/// Opens a database for reading, beside a writer if there is one. What it shows stays as it is now.
///
/// A reader shows only what is proven to be on disk, and the last records of a log have no proof yet. A living
/// writer gives it when it pauses; after a crash, recovery does. So that everything acknowledged before this
/// call is shown, either is waited for.
///
/// A damaged database is salvaged if that is asked for, and what is lost is said.
pub(crate) fn reader(dir: &Path, reading: Reading, output: &Output) -> Result<ReadOnlyDatabase> {
    if reading.salvage {
        let (db, report) = plimsoll::salvage(dir)?;
        repair::tell_salvaged(&report, output.json);
        return Ok(db);
    }
    let mut db = ReadOnlyDatabase::open(dir)?;
    if db.pending_records() == 0 {
        return Ok(db);
    }
    let wanted = Lsn(db.lsn().0 + db.pending_records());
    match recover(dir) {
        Ok(()) => {
            db.refresh()?;
        }
        Err(Error::Storage(StorageError::Locked { .. })) => {
            let deadline = Instant::now() + PROOF_DEADLINE;
            while db.lsn() < wanted && Instant::now() < deadline {
                std::thread::sleep(PROOF_INTERVAL);
                db.refresh()?;
            }
        }
        Err(
            error @ Error::Storage(StorageError::Corrupted { .. } | StorageError::UpgradeRequired { .. }),
        ) => {
            return Err(error.into());
        }
        Err(error) => {
            let pending = db.pending_records();
            eprintln!(
                "plimsoll: the last {pending} writes are not shown before a writer has recovered them: {error}"
            );
        }
    }
    Ok(db)
}

/// Recovers what a crash has left, and leaves it in the log.
fn recover(dir: &Path) -> Result<(), Error> {
    Database::builder(dir).create(false).background(false).open().map(drop)
}

/// Opens a collection for reading.
fn collection(target: &Target, reading: Reading, output: &Output) -> Result<ReadOnlyCollection> {
    let db = reader(&target.dir, reading, output)?;
    named(db.collection(&target.collection), || {
        db.collections().iter().map(|collection| collection.name().to_owned()).collect()
    })
}

fn names(db: &Database) -> Vec<String> {
    db.collections().iter().map(|collection| collection.name().to_owned()).collect()
}

/// A collection, or an error that says which ones there are.
fn named<T>(found: Result<T, Error>, names: impl FnOnce() -> Vec<String>) -> Result<T> {
    found.map_err(|error| match error {
        Error::CollectionNotFound(_) => {
            let names = names();
            let there = match names.is_empty() {
                true => "there are none".to_owned(),
                false => format!("there are: {}", names.join(", ")),
            };
            CliError::failed("collection_not_found", format!("{error}; {there}"))
        }
        other => other.into(),
    })
}
