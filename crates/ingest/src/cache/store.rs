//! The tables of the cache.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

use super::Hash;
use crate::embed::TextKind;

/// The version of these tables, in the file's `user_version`.
const VERSION: i64 = 1;
/// How long another process may hold the file before it is gone around.
const BUSY: Duration = Duration::from_secs(2);
/// What a row takes beside its vector, about.
const ROW_BYTES: u64 = 128;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY AUTOINCREMENT, begun TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dimension INTEGER);
    -- hash: BLAKE3 of the text. vector: float32, little-endian. sum: of hash and vector. run: the last that used it.
    CREATE TABLE IF NOT EXISTS vectors (
        id INTEGER PRIMARY KEY,
        model INTEGER NOT NULL, kind TEXT NOT NULL, hash BLOB NOT NULL,
        vector BLOB NOT NULL, sum BLOB NOT NULL, bytes INTEGER NOT NULL, run INTEGER NOT NULL,
        UNIQUE (model, kind, hash)
    );
    CREATE INDEX IF NOT EXISTS vectors_by_use ON vectors (run, id, bytes);
";

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The file is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// Another process holds it, the disk is full, or it may not be written.
    #[error("{0}")]
    Unusable(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let damaged = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => true,
            // A table or column that should be there is not, or holds something else.
            Some(ErrorCode::Unknown | ErrorCode::TypeMismatch) => true,
            Some(_) => false,
            None => matches!(
                error,
                rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::SqlInputError { .. }
                    | rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
            ),
        };
        if damaged { Self::Damaged(error.to_string()) } else { Self::Unusable(error.to_string()) }
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    run: i64,
    /// How much the vectors take, those of other processes not counted.
    bytes: u64,
}

impl Store {
    /// Opens the file, and makes it if it is missing.
    pub(super) fn open(file: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(file)?;
        connection.busy_timeout(BUSY)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(StoreError::Unusable(format!(
                "it was written by a newer Plimsoll, in version {version}"
            )));
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.execute("INSERT INTO runs DEFAULT VALUES", [])?;
        let run = transaction.last_insert_rowid();
        let bytes: i64 =
            transaction.query_row("SELECT coalesce(sum(bytes), 0) FROM vectors", [], |row| row.get(0))?;
        transaction.commit()?;
        Ok(Self { connection, run, bytes: u64::try_from(bytes).unwrap_or(0) })
    }

    /// The vectors that are there, with a note that they were used.
    pub(super) fn get(
        &mut self,
        model: &str,
        kind: TextKind,
        hashes: &[Hash],
    ) -> Result<Vec<Option<Vec<f32>>>, StoreError> {
        let mut found = vec![None; hashes.len()];
        let Some((model, Some(dimension))) = model_id(&self.connection, model)? else { return Ok(found) };
        let mut unmarked = Vec::new();
        {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, vector, sum, run FROM vectors WHERE model = ?1 AND kind = ?2 AND hash = ?3",
            )?;
            for (hash, found) in hashes.iter().zip(&mut found) {
                let row = statement.query_row(params![model, kind.name(), hash], |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, Vec<u8>>(1)?,
                        row.get::<_, Vec<u8>>(2)?,
                        row.get::<_, i64>(3)?,
                    ))
                });
                let Some((id, bytes, sum, run)) = row.optional()? else { continue };
                if sum != checksum(hash, &bytes) || bytes.len() != dimension * 4 {
                    return Err(StoreError::Damaged(format!("vector {id} is not what was stored")));
                }
                *found = Some(decode(&bytes));
                if run != self.run {
                    unmarked.push(id);
                }
            }
        }
        if !unmarked.is_empty() {
            self.mark(&unmarked)?;
        }
        Ok(found)
    }

    fn mark(&mut self, ids: &[i64]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = match transaction.map_err(StoreError::from) {
            Ok(transaction) => transaction,
            // The vectors are there and right. That they were used is not worth losing them.
            Err(StoreError::Unusable(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        {
            let mut statement = transaction.prepare_cached("UPDATE vectors SET run = ?1 WHERE id = ?2")?;
            for id in ids {
                statement.execute(params![self.run, id])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Keeps vectors. How many others were removed to make room.
    pub(super) fn put(
        &mut self,
        model: &str,
        kind: TextKind,
        vectors: &[(Hash, &[f32])],
        max_bytes: u64,
    ) -> Result<u64, StoreError> {
        let Some(dimension) = vectors.first().map(|(_, vector)| vector.len()) else { return Ok(0) };
        let (run, mut bytes) = (self.run, self.bytes);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(
            "INSERT INTO models (name, dimension) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET dimension = ?2",
            params![model, i64::try_from(dimension).unwrap_or(i64::MAX)],
        )?;
        let Some((model, _)) = model_id(&transaction, model)? else { return Ok(0) };
        {
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO vectors (model, kind, hash, vector, sum, bytes, run)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for (hash, vector) in vectors.iter().filter(|(_, vector)| vector.len() == dimension) {
                let encoded = encode(vector);
                let size = encoded.len() as u64 + ROW_BYTES;
                let sum = checksum(hash, &encoded);
                let stored = i64::try_from(size).unwrap_or(i64::MAX);
                let rows = insert.execute(params![model, kind.name(), hash, encoded, sum, stored, run])?;
                bytes += size * rows as u64;
            }
        }
        let evicted =
            if bytes > max_bytes { evict(&transaction, &mut bytes, max_bytes - max_bytes / 10)? } else { 0 };
        transaction.commit()?;
        self.bytes = bytes;
        Ok(evicted)
    }

    /// How many numbers a model's vectors have.
    pub(super) fn dimension(&mut self, model: &str) -> Result<Option<usize>, StoreError> {
        Ok(model_id(&self.connection, model)?.and_then(|(_, dimension)| dimension))
    }

    /// Removes a model's vectors.
    pub(super) fn forget(&mut self, model: &str) -> Result<(), StoreError> {
        let Some((id, _)) = model_id(&self.connection, model)? else { return Ok(()) };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM vectors WHERE model = ?1", [id])?;
        transaction.execute("DELETE FROM models WHERE id = ?1", [id])?;
        let bytes: i64 =
            transaction.query_row("SELECT coalesce(sum(bytes), 0) FROM vectors", [], |row| row.get(0))?;
        transaction.commit()?;
        self.bytes = u64::try_from(bytes).unwrap_or(0);
        Ok(())
    }
}

/// A model's number and dimension.
fn model_id(connection: &Connection, name: &str) -> Result<Option<(i64, Option<usize>)>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT id, dimension FROM models WHERE name = ?1")?;
    let row =
        statement.query_row([name], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?))).optional()?;
    Ok(row.map(|(id, dimension)| (id, dimension.and_then(|dimension| usize::try_from(dimension).ok()))))
}

/// Removes what was not used for the longest time until no more than `goal` bytes are left.
fn evict(transaction: &Transaction<'_>, bytes: &mut u64, goal: u64) -> Result<u64, StoreError> {
    let mut evicted = 0;
    let mut oldest = transaction.prepare("SELECT id, bytes FROM vectors ORDER BY run, id")?;
    let mut ids = Vec::new();
    let mut rows = oldest.query([])?;
    while *bytes > goal
        && let Some(row) = rows.next()?
    {
        ids.push(row.get::<_, i64>(0)?);
        *bytes = bytes.saturating_sub(row.get::<_, i64>(1)?.unsigned_abs());
    }
    let mut delete = transaction.prepare_cached("DELETE FROM vectors WHERE id = ?1")?;
    for id in ids {
        evicted += delete.execute([id])? as u64;
    }
    Ok(evicted)
}

fn checksum(hash: &Hash, vector: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(hash).update(vector);
    hasher.finalize().as_bytes().iter().take(8).copied().collect()
}

fn encode(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
