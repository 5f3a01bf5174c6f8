//! The tests of the tests: each seeded bug of [`plimsoll_base::mutant`] must make one of them fail.
//!
//! The test programs are built once with the feature `mutants`. Each bug is then chosen by an environment variable,
//! for one process at a time, and the layers of tests run until the first failure: the one that usually sees the bug
//! first, then all others, cheap ones before expensive ones. A layer counts only if it passes without any bug.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use plimsoll_base::mutant::Mutant;

/// Tests of one program that are run together: the program, and what their names begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Layer(&'static str, &'static str);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

/// All layers, cheap ones first.
const LAYERS: [Layer; 24] = [
    Layer("bit_equal", ""),
    Layer("plimsoll_shard", "container"),
    Layer("round_trip", ""),
    Layer("wal", "log::"),
    Layer("wal", "damage::"),
    Layer("wal", "readers::"),
    Layer("wal", "faults::"),
    Layer("wal", "pending::"),
    Layer("wal", "crash::"),
    Layer("properties", "smoke"),
    Layer("properties", "limits_refused"),
    Layer("properties", "opening_and_damage"),
    Layer("properties", "recovery_flushes"),
    Layer("properties", "repair_"),
    Layer("properties", "faults_poison"),
    Layer("properties", "background_log"),
    Layer("properties", "buffered_writes"),
    Layer("properties", "flush_jobs"),
    Layer("properties", "crash_workloads"),
    Layer("properties", "limits_directories"),
    Layer("properties", "faults_everywhere"),
    Layer("properties", "model_random"),
    Layer("properties", "concurrency"),
    Layer("properties", "index_recall"),
];

/// How long a layer may run. One that takes longer hangs, which is a failure, too.
const LIMIT: Duration = Duration::from_secs(300);

/// The layer that usually sees a bug first; only a matter of speed.
fn usual(mutant: Mutant) -> Layer {
    match mutant {
        Mutant::AddInOrder => Layer("bit_equal", ""),
        Mutant::MapAlways | Mutant::SkipBlockChecksum => Layer("plimsoll_shard", "container"),
        Mutant::ShiftRows => Layer("round_trip", ""),
        Mutant::ReplayPastHole
        | Mutant::TornTailIsDamage
        | Mutant::DamageIsTornTail
        | Mutant::OmitDurableBefore
        | Mutant::DurableBeforeTooHigh
        | Mutant::SkipRecordChecksum => Layer("wal", "damage::"),
        Mutant::ReaderShowsUnproven => Layer("wal", "readers::"),
        Mutant::AppendAfterFailedAppend
        | Mutant::IgnoreAppendError
        | Mutant::IgnoreSyncError
        | Mutant::BelieveRetriedSync => Layer("wal", "faults::"),
        Mutant::SyncCoversLater => Layer("wal", "pending::"),
        Mutant::SkipLogSync
        | Mutant::AcknowledgeBeforeSync
        | Mutant::RotateUnsynced
        | Mutant::SkipLogDirectorySync => Layer("wal", "crash::"),
        Mutant::SkipValidation => Layer("properties", "limits_refused"),
        Mutant::OpeningReadsRows
        | Mutant::SilentlyPartial
        | Mutant::IdleHoldsPointer
        | Mutant::ForgetDurable
        | Mutant::NameSegmentUnsynced
        | Mutant::NameSegmentLate => Layer("properties", "opening_and_damage"),
        Mutant::NoReserve | Mutant::PublishPoisoned | Mutant::NamePoisoned | Mutant::WritersSpendReserve => {
            Layer("properties", "faults_poison")
        }
        Mutant::RepairMovesFirst
        | Mutant::RepairNotesNothing
        | Mutant::RepairForgetsKills
        | Mutant::RepairReplaysOver
        | Mutant::RepairCountsNothing
        | Mutant::OpeningRemovesNewer => Layer("properties", "repair_"),
        Mutant::IgnoreBufferBound => Layer("properties", "background_log"),
        Mutant::JoinEarlierFlush | Mutant::ForgetLeftJobs | Mutant::RecordSaysCompleted => {
            Layer("properties", "flush_jobs")
        }
        Mutant::RemoveHeldFiles => Layer("properties", "smoke"),
        Mutant::KeepOldGenerations => Layer("properties", "index_recall"),
        Mutant::ForgetAmbiguity => Layer("properties", "faults_everywhere"),
        Mutant::SnapshotSeesLaterWrites | Mutant::CompactAwayUnflushedKills | Mutant::LoseMetadata => {
            Layer("properties", "model_random")
        }
        _ => Layer("properties", "crash_workloads"),
    }
}

/// A built test program, and where it is run.
struct Program {
    path: PathBuf,
    dir: PathBuf,
}

/// What a layer said about a bug.
enum Verdict {
    Passed,
    Failed { test: String, what: String },
}

/// Runs all bugs, or those named; or only lists them.
pub(crate) fn run(list: bool, names: &[String]) -> ExitCode {
    if list {
        for mutant in Mutant::ALL {
            println!("{:<4}{:<28}{}", mutant.rule(), format!("{mutant:?}"), mutant.what());
        }
        return ExitCode::SUCCESS;
    }
    match run_all(names) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(survivors) => {
            eprintln!("{survivors} of the seeded bugs survived");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

/// Returns how many bugs survived.
fn run_all(names: &[String]) -> Result<usize, String> {
    let known = |name: &String| Mutant::ALL.iter().any(|mutant| format!("{mutant:?}") == *name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(format!("there is no mutant {unknown:?}; --list shows all"));
    }
    let programs = build()?;
    let mut sound = BTreeSet::new();
    let mut survivors = 0;
    println!("{:<28}{:<5}{:<34}{:>6}  test: what it said", "mutant", "rule", "caught by", "s");
    for mutant in
        Mutant::ALL.iter().filter(|mutant| names.is_empty() || names.contains(&format!("{mutant:?}")))
    {
        let start = Instant::now();
        let usual = usual(*mutant);
        let others = LAYERS.iter().copied().filter(|layer| *layer != usual);
        let mut caught = None;
        for layer in [usual].into_iter().chain(others) {
            if !sound.contains(&layer) {
                if let Verdict::Failed { test, what } = try_layer(&programs, layer, None)? {
                    return Err(format!("{layer} fails without any bug: {test}: {what}"));
                }
                sound.insert(layer);
            }
            if let Verdict::Failed { test, what } = try_layer(&programs, layer, Some(*mutant))? {
                caught = Some((layer, test, what));
                break;
            }
        }
        let (by, said) = match caught {
            Some((layer, test, what)) => (layer.to_string(), format!("{test}: {what}")),
            None => {
                survivors += 1;
                ("SURVIVES".to_owned(), mutant.what().to_owned())
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        println!("{:<28}{:<5}{by:<34}{seconds:>6.1}  {said}", format!("{mutant:?}"), mutant.rule());
    }
    Ok(survivors)
}

/// Builds the test programs with the feature `mutants`.
fn build() -> Result<BTreeMap<String, Program>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args([
        "test",
        "--no-run",
        "--message-format=json",
        "--features=plimsoll-base/mutants",
    ]);
    for package in ["plimsoll-base", "plimsoll-kernels", "plimsoll-shard", "plimsoll-wal", "plimsoll"] {
        cargo.args(["-p", package]);
    }
    cargo.arg("--lib").args([
        "--test",
        "bit_equal",
        "--test",
        "round_trip",
        "--test",
        "wal",
        "--test",
        "properties",
    ]);
    let output = cargo.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("the test programs can not be built".to_owned());
    }
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let text = |pointer: &str| message.pointer(pointer).and_then(serde_json::Value::as_str);
        let parts = (text("/executable"), text("/target/name"), text("/manifest_path"));
        if let (Some(path), Some(name), Some(manifest)) = parts {
            let dir = Path::new(manifest).parent().unwrap_or(Path::new(".")).to_path_buf();
            programs.insert(name.to_owned(), Program { path: path.into(), dir });
        }
    }
    Ok(programs)
}

/// Runs the tests of a layer, with a bug or without; but none that measures how fast this machine is.
fn try_layer(
    programs: &BTreeMap<String, Program>,
    layer: Layer,
    mutant: Option<Mutant>,
) -> Result<Verdict, String> {
    let Layer(name, filter) = layer;
    let program = programs.get(name).ok_or_else(|| format!("cargo has built no test program {name}"))?;
    let mut command = Command::new("timeout");
    command.arg(LIMIT.as_secs().to_string()).arg(&program.path).args([
        filter,
        "--skip",
        "speed",
        "--skip",
        "writers_share_syncs",
    ]);
    command.current_dir(&program.dir).env_remove("PLIMSOLL_MUTANT").stdin(Stdio::null());
    command.envs(mutant.map(|mutant| ("PLIMSOLL_MUTANT", format!("{mutant:?}"))));
    let output = command.output().map_err(|error| format!("timeout: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        let ran =
            said.lines().any(|line| line.starts_with("test result: ok.") && !line.contains(" 0 passed"));
        return if ran { Ok(Verdict::Passed) } else { Err(format!("{layer} has no tests")) };
    }
    let failed = said.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let panics = |text: &str| {
        text.lines().skip_while(|line| !line.contains(" panicked at ")).nth(1).map(str::to_owned)
    };
    let what = panics(&said).or_else(|| panics(&String::from_utf8_lossy(&output.stderr)));
    let what = what.unwrap_or_else(|| match output.status.code() {
        Some(124) => format!("it does not end within {LIMIT:?}"),
        _ => output.status.to_string(),
    });
    let what: String = what.chars().take(160).collect();
    Ok(Verdict::Failed { test: failed.unwrap_or("the program").to_owned(), what })
}
