//! Plimsoll beside three old ways of flushing, over the same slow disk: `cargo bench --bench flush -- --slow-disk 1s`.
//!
//! The old ways are re-creations of systems that were studied and run; each first shows that it loses, hides and repeats
//! rows as the original was measured to: `cargo bench --bench flush -- --check`, which `cargo test` does, too. How the
//! figures come about, and what they were: docs/flush.md.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark that can not be set up is a panic")]

mod buffered_engine;
mod checks;
mod disk;
mod flush_manager;
mod load;
mod ours;
mod report;
mod single_lock;
mod sink;
mod system;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use plimsoll::Durability;

use crate::buffered_engine::BufferedEngine;
use crate::disk::{Outage, SlowDisk};
use crate::flush_manager::FlushManager;
use crate::load::{Fate, Load};
use crate::ours::Plimsoll;
use crate::report::{Kind, Outcome};
use crate::single_lock::SingleLock;
use crate::sink::Sink;
use crate::system::System;

/// Plimsoll beside three old ways of flushing, over the same slow disk. The systems run one after the other.
#[derive(Parser)]
struct Args {
    /// How long a sync takes at least: 200ms, 1s, 10s, or none.
    #[arg(long, default_value = "1s", value_parser = duration)]
    slow_disk: Duration,
    /// How long each system is under load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    writers: usize,
    #[arg(long, default_value_t = 3)]
    readers: usize,
    /// Rows per second of each writer. A writer of durable rows has one in 2.5 syncs, if that is less: it waits for each.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    rate: f64,
    /// Reads per second of each reader.
    #[arg(long, default_value_t = 50.0, value_parser = rate)]
    read_rate: f64,
    /// The dimension of the vectors.
    #[arg(long, default_value_t = 128)]
    dim: usize,
    /// How often Plimsoll is flushed; when a flush takes longer, the next one begins so long after its end.
    #[arg(long, default_value = "1s", value_parser = duration)]
    flush_every: Duration,
    /// Storage is out of order for so long in the middle.
    #[arg(long, value_parser = duration)]
    outage: Option<Duration>,
    /// What an outage does.
    #[arg(long, default_value = "fail")]
    outage_mode: Outage,
    /// Which systems; all of them by default.
    #[arg(long, value_delimiter = ',', default_values_t = Kind::value_variants().to_vec())]
    systems: Vec<Kind>,
    /// A file for the results, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where files are made; by default a temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only checks that the old ways are as they were measured to be.
    #[arg(long)]
    check: bool,
    /// What cargo tells benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().unwrap().get_name())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match text {
        "none" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1e-3..=1e6).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.001 to 1000000".to_owned()),
    }
}

fn main() -> ExitCode {
    // `cargo test` does not say that this is a benchmark.
    if !std::env::args().any(|arg| arg == "--bench") {
        return libtest_mimic::run(&libtest_mimic::Arguments::from_args(), checks::all()).exit_code();
    }
    let args = Args::parse();
    if args.check {
        return libtest_mimic::run(&libtest_mimic::Arguments::default(), checks::all()).exit_code();
    }
    let outcomes: Vec<Outcome> = args.systems.iter().map(|kind| measure(&args, *kind)).collect();
    let claims = report::claims(&outcomes, args.slow_disk);
    println!("{}\n", report::tables(&outcomes));
    claims.iter().for_each(|claim| println!("{claim}"));
    if let Some(path) = &args.json {
        let slow_disk = args.slow_disk.as_secs_f64();
        let json = serde_json::json!({ "slow_disk": slow_disk, "outcomes": outcomes, "claims": claims });
        fs::write(path, format!("{json:#}\n")).unwrap();
    }
    ExitCode::SUCCESS
}

/// Runs one system under its load, ends it, and looks at what is stored.
fn measure(args: &Args, kind: Kind) -> Outcome {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let disk = SlowDisk::new(args.slow_disk);
    let load = load_of(args, kind);
    disk.set_slow(false);
    let system = create(args, kind, &disk, dir.path());
    disk.set_slow(true);
    eprintln!("{} for {} s", kind.name(), args.seconds);
    let measured = load::run(&load, &*system, &disk);
    let start = Instant::now();
    if let Err(error) = system.shutdown() {
        eprintln!("the shutdown of {} failed: {}", kind.name(), error.0);
    }
    let shutdown = start.elapsed();
    let stored = system.stored().unwrap_or_else(|error| panic!("{}: {}", kind.name(), error.0));
    let fate = Fate::of(&measured.accepted, &measured.refused, stored);
    Outcome::new(kind, load, &measured, fate, disk.syncs(), shutdown)
}

fn load_of(args: &Args, kind: Kind) -> Load {
    let slowest = 1.0 / (2.5 * args.slow_disk.as_secs_f64());
    Load {
        writers: args.writers,
        readers: args.readers,
        adds_per_second: if kind == Kind::Durable { args.rate.min(slowest) } else { args.rate },
        reads_per_second: args.read_rate,
        length: Duration::from_secs(args.seconds),
        dimension: args.dim,
        outage: args.outage.map(|length| (args.outage_mode, length)),
    }
}

fn create(args: &Args, kind: Kind, disk: &SlowDisk, dir: &Path) -> Box<dyn System> {
    let sink = || Sink::new(disk.clone(), dir).unwrap();
    let ours = |durability, flush_every| {
        Box::new(Plimsoll::create(disk, dir, args.dim, durability, flush_every).unwrap())
    };
    match kind {
        Kind::SingleLock => Box::new(SingleLock::new(sink())),
        Kind::FlushManager => Box::new(FlushManager::new(sink(), flush_manager::Options::default())),
        Kind::BufferedEngine => Box::new(BufferedEngine::new(sink(), buffered_engine::Options::default())),
        Kind::Buffered => ours(Durability::Buffered, Some(args.flush_every)),
        Kind::Durable => ours(Durability::Durable, Some(args.flush_every)),
        Kind::Unflushed => ours(Durability::Buffered, None),
    }
}
