//! Disks that become full: writes are refused then, everything else goes on, and what is deleted gives space back.

use std::path::Path;

use super::check::{Leave, check};
use super::disk::{Disk, Memory, free_bytes};
use super::program::{Ended, Runner, words};
use super::rows::Stream;
use super::tools::Tools;
use super::{Failure, Result};
use crate::args::Filesystem;
use plimsoll_torture::random::Random;

/// How often each disk is filled.
const ROUNDS: u64 = 3;

/// Who fills the disk.
#[derive(Debug, Clone, Copy)]
enum Writer {
    /// `plimsoll import`, whose log segments have 64 MiB.
    Import,
    /// This program, with small log segments and memtables.
    Churn,
}

/// Fills disks in memory and on ext4.
pub(crate) fn run(seed: u64, tools: &Tools) -> Result<String> {
    let mut random = Random::new(seed);
    let mut report = Vec::new();
    for (writer, size_mb) in [(Writer::Churn, 48), (Writer::Import, 256)] {
        let memory = Memory::make(size_mb)?;
        report.push(fill(memory.point(), &format!("tmpfs of {size_mb} MiB"), writer, tools, &mut random)?);
        drop(memory);
        let size_mb = size_mb + 12; // For what the file system itself takes.
        let disk = Disk::make(Filesystem::Ext4, size_mb, false)?;
        report.push(fill(&disk.point, &format!("ext4 of {size_mb} MiB"), writer, tools, &mut random)?);
    }
    Ok(report.join("\n"))
}

fn must(what: &str, ended: Ended) -> Result<Ended> {
    if ended.succeeded() {
        return Ok(ended);
    }
    Err(Failure::Violation(format!("{what} on a full disk: {}: {}", ended.status, ended.stderr)))
}

/// Fills one disk several times over.
fn fill(point: &Path, name: &str, writer: Writer, tools: &Tools, random: &mut Random) -> Result<String> {
    let db = point.join("db");
    let runner = Runner::default();
    let call = |what: &str, args: &[&str]| -> Result<Ended> {
        must(what, runner.call(&tools.plimsoll, &words(&[what], &db, args))?)
    };
    let write = |stream: &mut Stream, size, batches| match writer {
        Writer::Import => runner.import(&tools.plimsoll, &db, stream, size, batches),
        Writer::Churn => runner.churn(&tools.own, &db, stream, size, batches),
    };
    let mut streams = [Stream::new(random.bits(), 1, 1 << 40)];
    let (mut rows, mut deleted, mut won) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let batch_size = 20 + random.below(100) as u64;
        let [stream] = &mut streams;
        let collection = stream.name();
        let ended = write(stream, batch_size, None)?;
        // The kernel's words, or those of a database whose reserve is spent.
        let is_said = |words: &str| ended.stderr.contains(words);
        if ended.succeeded() || !(is_said("No space left on device") || is_said("the disk is full")) {
            return Err(Failure::Violation(format!("{name}: a full disk was met by {ended:?}")));
        }
        rows += stream.acknowledged - stream.stored;
        check(&db, &mut streams, Leave::Unflushed, random)?;
        let full = free_bytes(point)?;

        let [stream] = &mut streams;
        let keys: Vec<u64> = stream.keys().filter(|_| random.below(4) > 0).collect();
        let Some(any) = keys.first().map(u64::to_string) else {
            return Err(Failure::Violation(format!("{name}: the disk is full and nothing is stored")));
        };
        call("search", &[&collection, "--like", &any, "-k", "3"])?;
        call("get", &[&collection, &any])?;
        for some in keys.chunks(2000) {
            let ids: Vec<String> = some.iter().map(u64::to_string).collect();
            let args: Vec<&str> =
                [&collection[..]].into_iter().chain(ids.iter().map(String::as_str)).collect();
            call("delete", &args)?;
            some.iter().for_each(|key| stream.forget(*key));
        }
        deleted += keys.len();
        call("flush", &[])?;
        call("compact", &[])?;
        let free = free_bytes(point)?;
        if free <= full {
            return Err(Failure::Violation(format!(
                "{name}: {free} bytes are free after deleting, {full} before"
            )));
        }
        won += free - full;
        check(&db, &mut streams, Leave::Closed, random)?;

        let [stream] = &mut streams;
        let again = write(stream, 10, Some(5))?;
        must("writing where there is space again,", again)?;
        check(&db, &mut streams, Leave::Closed, random)?;
    }
    Ok(format!(
        "{name}: full {ROUNDS} times by {writer:?}, {rows} rows acknowledged, {deleted} deleted, {} KiB won back, 0 violations",
        won / 1024
    ))
}
