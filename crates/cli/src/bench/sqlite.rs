//! SQLite as people use it to keep vectors safe: a WAL, `synchronous=FULL`, vectors as BLOBs.

use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, params};

use super::ingest::BATCH_ROWS;
use super::measure::rate;
use super::workload::Workload;
use crate::error::{CliError, Result};

/// When the log is moved into the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checkpoints {
    /// As SQLite does by itself, every 1,000 pages.
    Automatic,
    /// Never: what its log alone can take.
    Never,
    /// As SQLite does by itself, and once more at the end, in the measured time.
    AutomaticAndFinal,
}

/// Stores rows in batches, one transaction each, in a new database. Returns rows per second.
pub(super) fn store(dir: &Path, workload: &Workload, rows: u64, checkpoints: Checkpoints) -> Result<f64> {
    store_in(&dir.join("sqlite.db"), workload, rows, checkpoints)
        .map_err(|error| CliError::failed("sqlite", format!("SQLite: {error}")))
}

fn store_in(path: &Path, workload: &Workload, rows: u64, checkpoints: Checkpoints) -> rusqlite::Result<f64> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    if checkpoints == Checkpoints::Never {
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    connection.execute("create table vectors(id integer primary key, vector blob)", [])?;
    let mut blob = Vec::with_capacity(workload.dimension() * 4);
    let start = Instant::now();
    let mut row = 0;
    while row < rows {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("insert into vectors values(?, ?)")?;
            for row in row..rows.min(row + BATCH_ROWS) {
                blob.clear();
                workload.vector(row).iter().for_each(|number| blob.extend_from_slice(&number.to_le_bytes()));
                insert.execute(params![row as i64, blob])?;
            }
        }
        transaction.commit()?;
        row += BATCH_ROWS;
    }
    if checkpoints == Checkpoints::AutomaticAndFinal {
        connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
    }
    let elapsed = start.elapsed();
    connection.close().map_err(|(_, error)| error)?;
    Ok(rate(rows as f64, elapsed))
}
