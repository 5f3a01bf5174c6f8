//! `plimsoll bench flush`: what each phase of a flush takes, and that its syncs don't grow with the shards.

use std::path::Path;

use plimsoll::{CollectionConfig, Database, FlushPolicy, FlushStats, Metric};
use serde::Serialize;

use super::measure::table;
use super::workload::{Workload, temporary_directory};
use crate::args::FlushBench;
use crate::commands::FlushReport;
use crate::error::Result;
use crate::output::{Output, bytes};
use crate::progress::Progress;

/// The rows of a batch while the database is filled.
const BATCH_ROWS: u64 = 1000;
const NO_FLUSH: usize = 4 << 30;

/// One measured flush.
#[derive(Serialize)]
struct Measured {
    shard_rows: usize,
    shards: u32,
    lists: u32,
    rows: usize,
    dir_syncs: u64,
    #[serde(flatten)]
    flush: FlushReport,
    #[serde(skip)]
    stats: FlushStats,
}

#[derive(Serialize)]
struct Report<'a> {
    dimension: usize,
    base_rows: usize,
    flushes: &'a [Measured],
}

pub(super) fn run(args: &FlushBench, output: &mut Output) -> Result<()> {
    let most = args.rows.iter().copied().max().unwrap_or(0);
    let workload = Workload::read_or_random(args.vectors.as_deref(), args.base + most, args.dim)?;
    let progress =
        Progress::new(output.json, "flushing", Some((args.shard_rows.len() * args.rows.len()) as u64));
    let mut measured = Vec::new();
    for &shard_rows in &args.shard_rows {
        let dir = temporary_directory(args.dir.as_deref())?;
        let flushes = flushes(args, &workload, shard_rows, &dir.path().join("db"))?;
        progress.advance(flushes.len() as u64);
        measured.extend(flushes);
    }
    drop(progress);
    print(&Report { dimension: workload.dimension(), base_rows: args.base, flushes: &measured }, output)
}

/// Fills a database, trains its index, and then measures one flush for each number of rows.
fn flushes(args: &FlushBench, workload: &Workload, shard_rows: usize, dir: &Path) -> Result<Vec<Measured>> {
    let builder =
        Database::builder(dir).background(false).memtable_bytes(NO_FLUSH).max_wal_bytes(NO_FLUSH as u64);
    let db = builder.shard_rows(u32::try_from(shard_rows).unwrap_or(u32::MAX)).open()?;
    let collection =
        db.create_collection("c", CollectionConfig::new(workload.dimension(), Metric::Cosine))?;
    collection.set_flush_policy(FlushPolicy::manual())?;
    let mut next = 0;
    let mut store = |rows: usize| -> Result<()> {
        let end = next + rows as u64;
        while next < end {
            let batch_end = end.min(next + BATCH_ROWS);
            collection.write(&workload.batch(next..batch_end))?;
            next = batch_end;
        }
        Ok(())
    };
    store(args.base)?;
    db.flush()?;
    db.compact()?;
    let mut measured = Vec::new();
    for &rows in &args.rows {
        store(rows)?;
        let before = db.stats().io;
        let stats = db.flush()?;
        let after = db.stats();
        let (shards, lists) = after.collections.first().map_or((0, 0), |stats| (stats.shards, stats.lists));
        measured.push(Measured {
            shard_rows,
            shards,
            lists,
            rows,
            dir_syncs: after.io.since(&before).dir_syncs,
            flush: FlushReport::from(&stats),
            stats,
        });
    }
    db.close()?;
    Ok(measured)
}

fn print(report: &Report<'_>, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(report);
    }
    output.line(format_args!(
        "{} dimensions, {} rows before; times in ms; syncs are of files + directories",
        report.dimension, report.base_rows
    ))?;
    let mut table = table([
        "rows", "shards", "lists", "touched", "syncs", "written", "drain", "apply", "sync", "manifest",
        "advance", "validate", "total", "rows/s",
    ]);
    for measured in report.flushes {
        let stats = &measured.stats;
        let mut cells = vec![
            measured.rows.to_string(),
            measured.shards.to_string(),
            measured.lists.to_string(),
            stats.shards_touched.to_string(),
            format!("{}+{}", stats.files_synced, measured.dir_syncs),
            bytes(stats.bytes_written),
        ];
        let ms = |time: std::time::Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        cells.extend(stats.phases().into_iter().map(|(_, time)| ms(time)));
        cells.extend([ms(stats.total), format!("{:.0}", stats.operations_per_second())]);
        table.add_row(cells);
    }
    output.line(table)
}
