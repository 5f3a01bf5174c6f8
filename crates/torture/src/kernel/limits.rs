//! The real program under limits of its process: whatever it does about them, nothing that it acknowledged is lost,
//! and without the limit everything goes on.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::check::{Leave, check};
use super::disk::scratch;
use super::program::{Ended, Runner, words};
use super::rows::Stream;
use super::tools::Tools;
use super::{Failure, Result};
use plimsoll_torture::random::Random;

/// One kind of limit, and what happened under it.
struct Limit {
    name: &'static str,
    runners: Vec<Runner>,
    refused: u64,
    killed: u64,
    went_well: u64,
}

impl Limit {
    fn new(name: &'static str, runners: Vec<Runner>) -> Self {
        Self { name, runners, refused: 0, killed: 0, went_well: 0 }
    }

    /// A limit that `prlimit` sets to each of these values.
    fn process(name: &'static str, option: &str, values: impl IntoIterator<Item = u64>) -> Self {
        let runner = |value: u64| {
            Runner::limited(["prlimit".to_owned(), format!("--{option}={value}"), "--".to_owned()])
        };
        Self::new(name, values.into_iter().map(runner).collect())
    }

    /// Works, fails with an error, or is killed: but does not panic.
    fn count(&mut self, ended: &Ended) -> Result<()> {
        if ended.stderr.contains("panicked") {
            return Err(Failure::Violation(format!("{}: {ended:?}", self.name)));
        }
        match ended.status.code() {
            Some(0) => self.went_well += 1,
            Some(_) => self.refused += 1,
            None => self.killed += 1,
        }
        Ok(())
    }
}

/// Runs under each limit.
pub(crate) fn run(seed: u64, tools: &Tools) -> Result<String> {
    let mut random = Random::new(seed);
    let mut report = Vec::new();
    let sizes = [0, 100, 4096, 100_000, 1 << 20, 8 << 20, 64 << 20, 65 << 20];
    let mut limits = vec![
        Limit::process("file size", "fsize", sizes),
        Limit::process("open files", "nofile", 4..40),
        Limit::process("address space", "as", (0..12).map(|step| (8 << 20) << (step / 2) | (step % 2) << 22)),
    ];
    let memory = MemoryGroup::make();
    match &memory {
        Ok(group) => limits.push(Limit::new("memory", group.runners(&[2, 4, 6, 8, 12, 16, 32, 64, 128]))),
        Err(why) => report.push(format!("skipped: memory: {why}")),
    }
    for mut limit in limits {
        let dir = scratch()?;
        let db = dir.path().join("db");
        let mut streams = [Stream::new(random.bits(), 1, 3000)];
        for runner in std::mem::take(&mut limit.runners) {
            under(&runner, &mut limit, &db, &mut streams, tools, &mut random)?;
        }
        report.push(format!(
            "{}: {} runs went well, {} were refused, {} killed; {} rows acknowledged, 0 lost",
            limit.name, limit.went_well, limit.refused, limit.killed, streams[0].acknowledged
        ));
    }
    Ok(report.join("\n"))
}

/// Writes, reads, flushes and compacts under a limit; then without it.
fn under(
    runner: &Runner,
    limit: &mut Limit,
    db: &Path,
    streams: &mut [Stream; 1],
    tools: &Tools,
    random: &mut Random,
) -> Result<()> {
    let [stream] = &mut *streams;
    limit.count(&runner.import(&tools.plimsoll, db, stream, 1 + random.below(500) as u64, Some(20))?)?;
    check(db, streams, Leave::either(random), random)?;
    for command in ["flush", "compact", "verify", "stats"] {
        limit.count(&runner.call(&tools.plimsoll, &words(&[command], db, &[]))?)?;
        check(db, streams, Leave::either(random), random)?;
    }
    let [stream] = &mut *streams;
    let free = Runner::default().import(&tools.plimsoll, db, stream, 20, Some(3))?;
    if !free.succeeded() {
        return Err(Failure::Violation(format!("{}: without the limit: {free:?}", limit.name)));
    }
    check(db, streams, Leave::either(random), random)?;
    Ok(())
}

/// A control group for memory, of version 2 or 1, which goes with this value.
struct MemoryGroup {
    dir: PathBuf,
    /// The file that takes the limit.
    limit: &'static str,
}

impl MemoryGroup {
    fn make() -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let kinds = [(root.to_path_buf(), "memory.max"), (root.join("memory"), "memory.limit_in_bytes")];
        for (parent, limit) in kinds {
            let dir = parent.join(format!("plimsoll-torture-{}", std::process::id()));
            if parent.join("cgroup.procs").exists() && fs::create_dir(&dir).is_ok() {
                let group = Self { dir, limit };
                if group.dir.join(limit).exists() {
                    return Ok(group);
                }
            }
        }
        Err("control groups for memory can not be made here".to_owned())
    }

    /// Runners that limit their program to so many MiB.
    fn runners(&self, sizes_mb: &[u64]) -> Vec<Runner> {
        let join = "echo $2 > $0/$1 && echo $$ > $0/cgroup.procs && shift 2 && exec \"$@\"";
        let runner = |size: &u64| {
            let dir: OsString = self.dir.clone().into();
            let bytes = (size << 20).to_string();
            Runner::limited(["sh".into(), "-c".into(), join.into(), dir, self.limit.into(), bytes.into()])
        };
        sizes_mb.iter().map(runner).collect()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("cleaning up: {}: {error}", self.dir.display());
        }
    }
}
