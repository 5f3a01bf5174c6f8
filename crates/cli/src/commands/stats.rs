//! `plimsoll stats`: the database in numbers.

mod watch;

use plimsoll::{CollectionStats, ReadOnlyDatabase, Stats};
use serde::Serialize;

use crate::args::Stats as Args;
use crate::error::Result;
use crate::output::{Output, bytes, duration};

#[derive(Serialize)]
struct Report<'a> {
    lsn: Watermarks,
    collections: Vec<Collection<'a>>,
    /// Where the library tells: a reader may not know how long the writer's log is.
    #[serde(skip_serializing_if = "Option::is_none")]
    wal: Option<Wal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<Recovery>,
    io: Io,
}

#[derive(Serialize)]
struct Watermarks {
    appended: u64,
    durable: u64,
    applied: u64,
    flushed: u64,
}

impl From<&plimsoll::Watermarks> for Watermarks {
    fn from(lsn: &plimsoll::Watermarks) -> Self {
        Self {
            appended: lsn.appended.0,
            durable: lsn.durable.0,
            applied: lsn.applied.0,
            flushed: lsn.flushed.0,
        }
    }
}

#[derive(Serialize)]
struct Collection<'a> {
    name: &'a str,
    dimension: usize,
    metric: &'static str,
    flushed_documents: u64,
    flushed_rows: u64,
    killed: u64,
    memtable_rows: u64,
    memtable_bytes: u64,
    posting_files: usize,
    vector_segments: usize,
    vector_sections: usize,
    generation: u32,
    lists: u32,
    shards: u32,
    calibration_queries: usize,
    disk_bytes: u64,
}

impl<'a> From<&'a CollectionStats> for Collection<'a> {
    fn from(stats: &'a CollectionStats) -> Self {
        Self {
            name: &stats.name,
            dimension: stats.dimension,
            metric: stats.metric.name(),
            flushed_documents: stats.flushed_documents,
            flushed_rows: stats.flushed_rows,
            killed: stats.killed,
            memtable_rows: stats.memtable_rows,
            memtable_bytes: stats.memtable_bytes,
            posting_files: stats.posting_files,
            vector_segments: stats.vector_segments,
            vector_sections: stats.vector_sections,
            generation: stats.generation.0,
            lists: stats.lists,
            shards: stats.shards,
            calibration_queries: stats.calibration_queries,
            disk_bytes: stats.disk_bytes,
        }
    }
}

#[derive(Serialize)]
struct Wal {
    segments: u64,
    disk_bytes: u64,
}

/// What opening for this report took.
#[derive(Serialize)]
struct Recovery {
    records: u64,
    wal_bytes: u64,
    replay_seconds: f64,
    total_seconds: f64,
}

/// What opening for this report read.
#[derive(Serialize)]
struct Io {
    reads: u64,
    bytes_read: u64,
    files_opened: u64,
    files_mapped: u64,
}

impl<'a> From<&'a Stats> for Report<'a> {
    fn from(stats: &'a Stats) -> Self {
        Self {
            lsn: Watermarks::from(&stats.lsn),
            collections: stats.collections.iter().map(Collection::from).collect(),
            wal: knows_log(stats)
                .then_some(Wal { segments: stats.wal.segments, disk_bytes: stats.wal.disk_bytes }),
            recovery: knows_log(stats).then_some(Recovery {
                records: stats.recovery.records,
                wal_bytes: stats.recovery.wal_bytes,
                replay_seconds: stats.recovery.replay.as_secs_f64(),
                total_seconds: stats.recovery.total.as_secs_f64(),
            }),
            io: Io {
                reads: stats.io.reads,
                bytes_read: stats.io.bytes_read,
                files_opened: stats.io.files_opened,
                files_mapped: stats.io.files_mapped,
            },
        }
    }
}

fn knows_log(stats: &Stats) -> bool {
    stats.wal.segments > 0
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<()> {
    if args.watch {
        return watch::run(args, output);
    }
    let stats = ReadOnlyDatabase::open(&args.dir.dir)?.stats();
    if output.json { output.value(&Report::from(&stats)) } else { print(&stats, output) }
}

fn print(stats: &Stats, output: &mut Output) -> Result<()> {
    let lsn = &stats.lsn;
    output.line(format_args!(
        "LSN         appended {}, durable {}, applied {}, flushed {}",
        lsn.appended, lsn.durable, lsn.applied, lsn.flushed
    ))?;
    if knows_log(stats) {
        print_log(stats, output)?;
    }
    output.line(format_args!(
        "input       {} in {} reads, {} files opened, {} mapped",
        bytes(stats.io.bytes_read),
        stats.io.reads,
        stats.io.files_opened,
        stats.io.files_mapped
    ))?;
    stats.collections.iter().try_for_each(|collection| print_collection(collection, output))
}

fn print_log(stats: &Stats, output: &mut Output) -> Result<()> {
    let (wal, recovery) = (&stats.wal, &stats.recovery);
    output.line(format_args!("log         {} segments, {}", wal.segments, bytes(wal.disk_bytes)))?;
    output.line(format_args!(
        "opening     {}: {} records replayed in {}",
        duration(recovery.total),
        recovery.records,
        duration(recovery.replay)
    ))
}

fn print_collection(stats: &CollectionStats, output: &mut Output) -> Result<()> {
    output
        .line(format_args!("collection  {}: {} dimensions, {}", stats.name, stats.dimension, stats.metric))?;
    output.line(format_args!(
        "  in files  {} documents, {} rows, {} killed, {}",
        stats.flushed_documents,
        stats.flushed_rows,
        stats.killed,
        bytes(stats.disk_bytes)
    ))?;
    output.line(format_args!("  in memory {} rows, {}", stats.memtable_rows, bytes(stats.memtable_bytes)))?;
    output.line(format_args!(
        "  index     generation {}: {} lists in {} shards; {} posting files, {} vector segments, {} sections",
        stats.generation,
        stats.lists,
        stats.shards,
        stats.posting_files,
        stats.vector_segments,
        stats.vector_sections
    ))?;
    match stats.calibration_queries {
        0 => Ok(()),
        queries => output.line(format_args!("            calibrated on {queries} queries")),
    }
}
