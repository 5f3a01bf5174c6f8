//! `plimsoll flush`: moves what is only in the log into sealed files, and says what each phase took.

use plimsoll::{Database, FlushStats};
use serde::Serialize;

use crate::args::Dir;
use crate::error::Result;
use crate::output::Output;

/// What a flush did, for JSON. Times are in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct FlushReport {
    wal_drain: f64,
    shard_apply: f64,
    file_sync: f64,
    manifest_publish: f64,
    wal_advance: f64,
    validation: f64,
    total: f64,
    slowest_phase: &'static str,
    shards_touched: usize,
    files_synced: usize,
    operations_applied: u64,
    rows: u64,
    killed: u64,
    bytes_written: u64,
    first_lsn: u64,
    last_lsn: u64,
    reason: String,
    operations_per_second: f64,
    megabytes_per_second: f64,
}

impl From<&FlushStats> for FlushReport {
    fn from(stats: &FlushStats) -> Self {
        Self {
            wal_drain: stats.wal_drain.as_secs_f64(),
            shard_apply: stats.shard_apply.as_secs_f64(),
            file_sync: stats.file_sync.as_secs_f64(),
            manifest_publish: stats.manifest_publish.as_secs_f64(),
            wal_advance: stats.wal_advance.as_secs_f64(),
            validation: stats.validation.as_secs_f64(),
            total: stats.total.as_secs_f64(),
            slowest_phase: stats.slowest_phase().0,
            shards_touched: stats.shards_touched,
            files_synced: stats.files_synced,
            operations_applied: stats.operations_applied,
            rows: stats.rows,
            killed: stats.killed,
            bytes_written: stats.bytes_written,
            first_lsn: stats.first_lsn.0,
            last_lsn: stats.last_lsn.0,
            reason: stats.reason.to_string(),
            operations_per_second: stats.operations_per_second(),
            megabytes_per_second: stats.megabytes_per_second(),
        }
    }
}

/// Flushes, and says what that took, also when the background was quicker, or opening had to flush already.
pub(crate) fn flush(db: &Database) -> Result<FlushStats> {
    let stats = db.flush()?;
    let by_others = db.stats().last_flush.filter(|_| stats.is_empty());
    Ok(by_others.unwrap_or(stats))
}

pub(super) fn run(args: &Dir, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.dir)?;
    let stats = flush(&db)?;
    db.close()?;
    output.either(&FlushReport::from(&stats), &stats)
}
