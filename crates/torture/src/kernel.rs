//! The real program on the real kernel: power cuts on ext4 and XFS, full disks, limits of the process.
//!
//! What the simulator believes about file systems is put to the test here. Everything is mounted in a mount
//! namespace of this process, and the images lie in a file system in memory that is mounted there, too: however
//! the run ends, also by Ctrl-C or SIGKILL, the kernel takes mounts, loop devices and images away.

mod check;
mod churn;
mod disk;
mod limits;
mod power_cuts;
mod program;
mod rows;
mod small_disks;
mod tools;

use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::{Churn, PowerCuts, Seeded};
use tools::Tools;

/// Why a run did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This machine can not do it.
    Skipped(String),
    /// A promise is broken.
    Violation(String),
    /// The test itself went wrong.
    Broken(String),
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "PLIMSOLL_TORTURE_INSIDE";

pub(crate) fn power_cuts(args: &PowerCuts) -> ExitCode {
    let mkfs = format!("mkfs.{}", args.filesystem.name());
    let seed = seed_of(args.seed);
    run("power-cuts", seed, &[&mkfs, "xfs_io"], |tools| power_cuts::run(args, seed, tools))
}

pub(crate) fn small_disks(args: &Seeded) -> ExitCode {
    let seed = seed_of(args.seed);
    run("small-disks", seed, &["mkfs.ext4"], |tools| small_disks::run(seed, tools))
}

pub(crate) fn limits(args: &Seeded) -> ExitCode {
    let seed = seed_of(args.seed);
    run("limits", seed, &["prlimit"], |tools| limits::run(seed, tools))
}

pub(crate) fn churn(args: &Churn) -> ExitCode {
    match churn::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn seed_of(given: Option<u64>) -> u64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64);
    given.unwrap_or_else(clock)
}

/// Runs `test` in a mount namespace of its own, or says why not.
fn run(name: &str, seed: u64, programs: &[&str], test: impl FnOnce(&Tools) -> Result<String>) -> ExitCode {
    let outcome = Tools::find(programs).and_then(|tools| {
        if std::env::var_os(INSIDE).is_some() {
            println!("{name}: seed {seed}");
            return test(&tools).map(|report| {
                println!("{report}");
                ExitCode::SUCCESS
            });
        }
        let mut inside = Command::new("unshare");
        inside
            .args(["--mount", "--propagation", "private", "--"])
            .arg(&tools.own)
            .args(std::env::args_os().skip(1));
        let status = inside.env(INSIDE, "1").status().map_err(|error| Failure::Broken(error.to_string()))?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    });
    match outcome {
        Ok(code) => code,
        Err(Failure::Skipped(why)) => {
            println!("skipped: {name}: {why}");
            ExitCode::SUCCESS
        }
        Err(Failure::Violation(what)) => {
            eprintln!("{name}: VIOLATION (seed {seed}): {what}");
            ExitCode::FAILURE
        }
        Err(Failure::Broken(what)) => {
            eprintln!("{name}: the test itself failed (seed {seed}): {what}");
            ExitCode::from(2)
        }
    }
}
