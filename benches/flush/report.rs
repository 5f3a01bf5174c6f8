//! One table of all systems, and what was promised of ours beside it.

use std::fmt::Display;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::load::{Fate, Latencies, Load, Measured};
use crate::system::Counters;

/// The systems, by their names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Seed 002, before: the single-lock synchronous buffer.
    SingleLock,
    /// Seed 002, after: its flush manager with optimistic clearing.
    FlushManager,
    /// Seed 000: the buffered engine.
    BufferedEngine,
    /// Plimsoll with buffered adds, flushing all the time.
    Buffered,
    /// Plimsoll with durable adds, flushing all the time.
    Durable,
    /// Plimsoll with buffered adds that does not flush until it is closed.
    Unflushed,
}

impl Kind {
    fn is_ours(self) -> bool {
        matches!(self, Self::Buffered | Self::Durable | Self::Unflushed)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SingleLock => "single lock",
            Self::FlushManager => "flush manager",
            Self::BufferedEngine => "buffered engine",
            Self::Buffered => "Plimsoll, buffered",
            Self::Durable => "Plimsoll, durable",
            Self::Unflushed => "Plimsoll, not flushing",
        }
    }
}

/// Latencies in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    fn of(latencies: &Latencies) -> Self {
        let seconds = |micros: u64| micros as f64 / 1e6;
        Self {
            count: latencies.len(),
            p50: seconds(latencies.value_at_quantile(0.5)),
            p99: seconds(latencies.value_at_quantile(0.99)),
            max: seconds(latencies.max()),
        }
    }
}

/// The results of one system.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub system: Kind,
    pub load: Load,
    pub accepted: u64,
    pub refused: u64,
    pub unserved: u64,
    pub timeouts: u64,
    pub adds: Percentiles,
    pub add_calls: Percentiles,
    pub first_add_seconds: f64,
    pub reads: Percentiles,
    pub failed_reads: u64,
    pub invisible: u64,
    pub counters: Counters,
    pub flushes_per_second: f64,
    pub rows_flushed_per_second: f64,
    pub syncs: u64,
    pub fate: Fate,
    pub shutdown_seconds: f64,
    pub first_error: Option<String>,
}

impl Outcome {
    pub(crate) fn new(
        system: Kind,
        load: Load,
        measured: &Measured,
        fate: Fate,
        syncs: u64,
        shutdown: Duration,
    ) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        Self {
            system,
            load,
            accepted: measured.accepted.len() as u64,
            refused: measured.refused.len() as u64,
            unserved: measured.unserved,
            timeouts: measured.timeouts,
            adds: Percentiles::of(&measured.adds),
            add_calls: Percentiles::of(&measured.add_calls),
            first_add_seconds: measured.first_add.as_secs_f64(),
            reads: Percentiles::of(&measured.reads),
            failed_reads: measured.failed_reads,
            invisible: measured.invisible,
            counters: measured.counters,
            flushes_per_second: measured.counters.flushes as f64 / seconds,
            rows_flushed_per_second: measured.counters.rows_flushed as f64 / seconds,
            syncs,
            fate,
            shutdown_seconds: shutdown.as_secs_f64(),
            first_error: measured.first_error.clone(),
        }
    }
}

/// The table of all systems: what happens to adds and reads, and then to rows.
pub(crate) fn tables(outcomes: &[Outcome]) -> String {
    let mut calls = table(&[
        "",
        "add p50",
        "p99",
        "max",
        "call p99",
        "first",
        "read p50",
        "p99",
        "max",
        "accepted",
        "refused",
        "not begun",
        "> 30 s",
    ]);
    let mut rows = table(&[
        "",
        "flushes/s",
        "rows/s",
        "failed",
        "syncs",
        "lost",
        "duplicated",
        "invisible",
        "of reads",
        "lock waits",
        "stalls",
        "shutdown",
    ]);
    let counted = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    for outcome in outcomes {
        let (adds, reads) = (outcome.adds, outcome.reads);
        let adds = [adds.p50, adds.p99, adds.max, outcome.add_calls.p99, outcome.first_add_seconds];
        let latencies = adds.into_iter().chain([reads.p50, reads.p99, reads.max]).map(time);
        let counts = [outcome.accepted, outcome.refused, outcome.unserved, outcome.timeouts];
        let name = outcome.system.name().to_owned();
        let counts = counts.iter().map(ToString::to_string);
        calls.add_row(std::iter::once(name.clone()).chain(latencies).chain(counts));
        rows.add_row([
            name,
            format!("{:.2}", outcome.flushes_per_second),
            format!("{:.1}", outcome.rows_flushed_per_second),
            outcome.counters.failed.to_string(),
            outcome.syncs.to_string(),
            outcome.fate.lost.to_string(),
            outcome.fate.duplicated.to_string(),
            outcome.invisible.to_string(),
            outcome.reads.count.to_string(),
            counted(outcome.counters.lock_waits),
            counted(outcome.counters.stalls),
            time(outcome.shutdown_seconds),
        ]);
    }
    let mut text = format!("{calls}\n\n{rows}\n");
    for outcome in outcomes {
        if let Some(error) = &outcome.first_error {
            text += &format!("\nThe first error of {}: {error}", outcome.system.name());
        }
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.iter().copied());
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 0.9995 => format!("{seconds:.2} s"),
        _ if seconds >= 0.0009995 => format!("{:.2} ms", seconds * 1e3),
        _ => format!("{:.0} us", seconds * 1e6),
    }
}

/// One thing that is promised of Plimsoll, and whether it holds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claim {
    pub what: &'static str,
    pub measured: String,
    pub holds: bool,
}

impl Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holds = if self.holds { "holds" } else { "DOES NOT HOLD" };
        write!(f, "{holds:<14} {}: {}", self.what, self.measured)
    }
}

/// What is promised, as far as the systems that ran allow to say. How fast anything is counts only without an outage.
pub(crate) fn claims(outcomes: &[Outcome], sync_time: Duration) -> Vec<Claim> {
    let find = |kind| outcomes.iter().find(|outcome| outcome.system == kind);
    let mut claims = Vec::new();
    let mut claim = |what, measured, holds| claims.push(Claim { what, measured, holds });
    for ours in outcomes.iter().filter(|outcome| outcome.system.is_ours()) {
        let Fate { lost, duplicated, .. } = ours.fate;
        let counts = [lost, duplicated, ours.invisible, ours.timeouts];
        let measured = format!("{}: {counts:?}", ours.system.name());
        claim("0 lost, duplicated, invisible, over 30 s", measured, counts == [0; 4]);
    }
    for ours in [Kind::Buffered, Kind::Durable].into_iter().filter_map(find) {
        let waits = ours.counters.lock_waits.unwrap_or_default();
        let measured = format!("{}: {waits} waits", ours.system.name());
        claim("readers wait for no lock", measured, waits == 0);
    }
    if outcomes.iter().any(|outcome| outcome.load.outage.is_some()) {
        return claims;
    }
    let old = outcomes.iter().filter(|outcome| !outcome.system.is_ours());
    let best = old.min_by(|a, b| a.adds.p99.total_cmp(&b.adds.p99));
    if let (Some(ours), Some(best)) = (find(Kind::Buffered), best) {
        let ratio = best.adds.p99 / ours.adds.p99;
        let of = best.system.name();
        let measured =
            format!("{ratio:.1} times ({} beside {} of {of})", time(ours.adds.p99), time(best.adds.p99));
        claim("buffered add p99 at least 10 times better than the best old way's", measured, ratio >= 10.0);
    }
    if let Some(ours) = find(Kind::Durable).filter(|_| !sync_time.is_zero()) {
        let ratio = ours.adds.p99 / sync_time.as_secs_f64();
        let measured = format!("{ratio:.2} times ({} adds)", ours.adds.count);
        claim("durable add p99 at most 2.5 times the sync", measured, ratio <= 2.5);
    }
    if let (Some(flushing), Some(not)) = (find(Kind::Buffered), find(Kind::Unflushed)) {
        let ratio = flushing.reads.p99 / not.reads.p99;
        let measured =
            format!("{ratio:.2} times ({} beside {})", time(flushing.reads.p99), time(not.reads.p99));
        claim("read p99 at most 1.5 times that without flushing", measured, ratio <= 1.5);
    }
    if let (Some(ours), Some(old)) = (find(Kind::Buffered), find(Kind::SingleLock)) {
        let (ours, old) = (ours.rows_flushed_per_second, old.rows_flushed_per_second);
        let measured = format!("{:.1} times ({ours:.1} rows/s beside {old:.1})", ours / old);
        claim(
            "rows flushed per second at least 3 times the synchronous buffer's",
            measured,
            ours >= 3.0 * old,
        );
    }
    claims
}
