//! The run ledger: what became of every source, run and failed item, in an SQLite file that the program `sqlite3` reads.
//!
//! It is a projection of the system tables, keyed by source and position, for people and their tools: nothing is ever read
//! back from it, and it can be made anew from the database at any time ([`Ledger::rebuild`]). **Promises** that it holds up
//! nothing: it is written once a second and when a run ends, what can not be written is counted and said, and the run goes on.
//! **On a crash** it may lag behind by a second, and after a power cut be ahead by a batch; the next run puts that right. A damaged file is put aside, and another one begun.
//!
//! | table | a row |
//! |---|---|
//! | `sources` | `collection, name, fingerprint, position, end, committed, dead_lettered, rejected, paused, created_at, updated_at` |
//! | `runs` | `collection, source, id, state, started_at, updated_at, received, committed, dead_lettered, rejected, retries, error` |
//! | `failed_items` | `collection, source, position, class, message, payload, key, attempts, failed_at, next_retry_at` |
//! | `changesets` | `collection, source, position, run, repo, json, at` |
//! | `repositories` | `collection, source, name, committed, dead_lettered, last_position, updated_at` |
//!
//! Times are texts in UTC, such as `2026-01-31 12:00:00.000`.

mod follower;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use plimsoll::{Database, DeadLetter, SourceStatus};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::error::IngestError;
use crate::run::{ChangesetRecord, History, Repository, Run};
pub(crate) use follower::Follower;

/// How long a lock of somebody who reads the ledger is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The version of the tables, in `PRAGMA user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS sources (collection TEXT, name TEXT, fingerprint TEXT, position INTEGER, end INTEGER,
    committed INTEGER, dead_lettered INTEGER, rejected INTEGER, paused INTEGER, created_at TEXT, updated_at TEXT,
    PRIMARY KEY (collection, name));
CREATE TABLE IF NOT EXISTS runs (collection TEXT, source TEXT, id INTEGER, state TEXT, started_at TEXT, updated_at TEXT,
    received INTEGER, committed INTEGER, dead_lettered INTEGER, rejected INTEGER, retries INTEGER, error TEXT,
    PRIMARY KEY (collection, source, id));
CREATE TABLE IF NOT EXISTS failed_items (collection TEXT, source TEXT, position INTEGER, class TEXT, message TEXT,
    payload BLOB, key TEXT, attempts INTEGER, failed_at TEXT, next_retry_at TEXT,
    PRIMARY KEY (collection, source, position));
CREATE TABLE IF NOT EXISTS changesets (collection TEXT, source TEXT, position INTEGER, run INTEGER, repo TEXT, json TEXT,
    at TEXT, PRIMARY KEY (collection, source, position));
CREATE TABLE IF NOT EXISTS repositories (collection TEXT, source TEXT, name TEXT, committed INTEGER,
    dead_lettered INTEGER, last_position INTEGER, updated_at TEXT, PRIMARY KEY (collection, source, name));
";

/// How many columns each table has.
const COLUMNS: [(&str, usize); 5] =
    [("sources", 11), ("runs", 12), ("failed_items", 10), ("changesets", 7), ("repositories", 7)];

/// A ledger in a file.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
    failures: AtomicU64,
}

impl Ledger {
    /// Opens the ledger at `path`, or begins one. A file that is damaged, or was written by a newer version, is renamed to
    /// `….damaged` first. If none can be opened, the ledger is one that only counts what it can not write.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let opened = connect(&path).or_else(|error| {
            if is_busy(&error) {
                return Err(error);
            }
            let aside = path.with_added_extension("damaged");
            tracing::warn!(%error, aside = %aside.display(), "the ledger is damaged; another one is begun");
            for extra in ["-wal", "-shm"] {
                let mut name = path.clone().into_os_string();
                name.push(extra);
                // It is a file of the one that is put aside, if it is there at all.
                let _removed = std::fs::remove_file(name);
            }
            match std::fs::rename(&path, &aside) {
                Ok(()) => connect(&path),
                Err(_) => Err(error),
            }
        });
        let failures = AtomicU64::new(0);
        let connection = opened.map_or_else(
            |error| {
                tracing::warn!(%error, path = %path.display(), "there is no ledger of this run");
                failures.fetch_add(1, Ordering::Relaxed);
                None
            },
            Some,
        );
        Self { path, connection: Mutex::new(connection), failures }
    }

    /// Where the ledger of a database is: in the directory that has the database's name and `.ingest` at its end.
    pub fn path_for(database: &Path) -> PathBuf {
        database.with_added_extension("ingest").join("ledger.sqlite")
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many changes it could not write.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Makes the ledger anew from what the database knows: whatever was in it is gone.
    ///
    /// # Errors
    /// [`IngestError::Database`] if the database can not be read. That the ledger can not be written is counted.
    pub fn rebuild(&self, db: &Database) -> Result<(), IngestError> {
        let mut all = Vec::new();
        for status in db.sources()? {
            let letters = db.dead_letters(&status.name, &status.collection)?;
            let history = History::from_entries(&db.source_entries(&status.name, &status.collection)?);
            all.push((status, letters, history));
        }
        self.write(PATIENCE, |transaction| {
            for table in ["sources", "runs", "failed_items", "changesets", "repositories"] {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
            for (status, letters, history) in &all {
                let of = Of { collection: &status.collection, source: &status.name };
                of.put_source(transaction, status)?;
                of.put_letters(transaction, letters)?;
                of.put_runs(transaction, &history.runs)?;
                of.put_changesets(transaction, &history.changesets)?;
                of.put_repositories(transaction, &history.repositories)?;
            }
            Ok(())
        });
        Ok(())
    }

    /// Writes in one transaction, waiting so long for whoever reads; says whether that was possible.
    fn write(
        &self,
        patience: Duration,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> bool {
        let mut connection = self.connection.lock();
        let written = match connection.as_mut() {
            None => return false,
            Some(connection) => connection.busy_timeout(patience).and_then(|()| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                write(&transaction)?;
                transaction.commit()
            }),
        };
        if let Err(error) = &written {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, path = %self.path.display(), "the ledger could not be written; it lags behind");
        }
        written.is_ok()
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    if let Some(directory) = path.parent() {
        // If it can not be made, opening says why.
        let _made = std::fs::create_dir_all(directory);
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What is lost in a power cut is written again.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.execute_batch(TABLES)?;
    // Tables of somebody else's that have these names would refuse every row.
    for (table, columns) in COLUMNS {
        let found = connection.prepare(&format!("SELECT * FROM {table}"))?.column_count();
        if found != columns {
            return Err(rusqlite::Error::InvalidColumnIndex(found));
        }
    }
    // A query that reads every page it needs to: damage shows now, and not in the middle of a run.
    let sound: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if sound != "ok" {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.pragma_update(None, "user_version", VERSION)?;
    Ok(connection)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, PermissionDenied, ReadOnly,
    };
    error.sqlite_error_code().is_some_and(|code| {
        matches!(code, DatabaseBusy | DatabaseLocked | CannotOpen | PermissionDenied | ReadOnly | DiskFull)
    })
}

/// Whose rows are written.
struct Of<'a> {
    collection: &'a str,
    source: &'a str,
}

impl Of<'_> {
    fn clear(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        for table in ["runs", "failed_items", "changesets", "repositories"] {
            let sql = format!("DELETE FROM {table} WHERE collection = ?1 AND source = ?2");
            transaction.execute(&sql, params![self.collection, self.source])?;
        }
        Ok(())
    }

    fn put_source(&self, transaction: &Transaction<'_>, status: &SourceStatus) -> rusqlite::Result<()> {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO sources VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)")?
            .execute(params![
                self.collection,
                self.source,
                status.fingerprint,
                status.position as i64,
                status.end as i64,
                status.counts.committed as i64,
                status.counts.dead_lettered as i64,
                status.counts.rejected as i64,
                status.is_paused,
                time(status.created_at),
                time(status.updated_at),
            ])
            .map(drop)
    }

    fn put_runs(&self, transaction: &Transaction<'_>, runs: &[Run]) -> rusqlite::Result<()> {
        let mut put = transaction
            .prepare_cached("INSERT OR REPLACE INTO runs VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)")?;
        runs.iter().try_for_each(|run| {
            put.execute(params![
                self.collection,
                self.source,
                run.id as i64,
                run.state.name(),
                time_ms(run.started_ms),
                time_ms(run.updated_ms),
                run.received as i64,
                run.committed as i64,
                run.dead_lettered as i64,
                run.rejected as i64,
                run.retries as i64,
                run.error,
            ])
            .map(drop)
        })
    }

    fn put_letters<'a>(
        &self,
        transaction: &Transaction<'_>,
        letters: impl IntoIterator<Item = &'a DeadLetter>,
    ) -> rusqlite::Result<()> {
        let mut put = transaction
            .prepare_cached("INSERT OR REPLACE INTO failed_items VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)")?;
        letters.into_iter().try_for_each(|letter| {
            put.execute(params![
                self.collection,
                self.source,
                letter.position as i64,
                letter.class.name(),
                letter.message,
                letter.payload,
                letter.key.as_ref().map(ToString::to_string),
                letter.attempts,
                time(letter.failed_at),
                letter.retry_at.map(time),
            ])
            .map(drop)
        })
    }

    fn remove_letters(&self, transaction: &Transaction<'_>, positions: &[u64]) -> rusqlite::Result<()> {
        let mut remove = transaction.prepare_cached(
            "DELETE FROM failed_items WHERE collection = ?1 AND source = ?2 AND position = ?3",
        )?;
        positions.iter().try_for_each(|position| {
            remove.execute(params![self.collection, self.source, *position as i64]).map(drop)
        })
    }

    fn put_changesets(
        &self,
        transaction: &Transaction<'_>,
        changesets: &[ChangesetRecord],
    ) -> rusqlite::Result<()> {
        let mut put =
            transaction.prepare_cached("INSERT OR REPLACE INTO changesets VALUES (?1,?2,?3,?4,?5,?6,?7)")?;
        changesets.iter().try_for_each(|changeset| {
            put.execute(params![
                self.collection,
                self.source,
                changeset.position as i64,
                changeset.run as i64,
                changeset.repo,
                changeset.json,
                time_ms(changeset.at_ms),
            ])
            .map(drop)
        })
    }

    fn put_repositories<'a>(
        &self,
        transaction: &Transaction<'_>,
        repositories: impl IntoIterator<Item = &'a Repository>,
    ) -> rusqlite::Result<()> {
        let mut put = transaction
            .prepare_cached("INSERT OR REPLACE INTO repositories VALUES (?1,?2,?3,?4,?5,?6,?7)")?;
        repositories.into_iter().try_for_each(|repository| {
            put.execute(params![
                self.collection,
                self.source,
                repository.name,
                repository.committed as i64,
                repository.dead_lettered as i64,
                repository.last_position as i64,
                time_ms(repository.updated_ms),
            ])
            .map(drop)
        })
    }
}

fn time_ms(ms: u64) -> String {
    time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
}

/// A time as SQLite's functions take it, in UTC.
fn time(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_millis(at).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}
