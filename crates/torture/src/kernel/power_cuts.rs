//! Power cuts of a real file system while the real program writes, flushes and compacts.
//!
//! One database lives through all of them, except that now and then a new one is begun, so that creating one is cut,
//! too. A quarter of the cuts hits the recovery from the one before.
//!
//! What counts as acknowledged is what was heard before the cut began. A real power cut leaves nobody to hear more;
//! here the program lives on for a moment, and XFS has been seen to let an fdatasync that was under way during the
//! shutdown succeed although its part of the journal was dropped. Such acknowledgements are counted apart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::check::{Leave, check};
use super::disk::{Cut, Disk};
use super::program::{Ended, Runner, words};
use super::rows::Stream;
use super::tools::Tools;
use super::{Failure, Result};
use crate::args::PowerCuts;
use plimsoll_torture::random::Random;

/// What was done and found.
#[derive(Debug, Default)]
struct Counters {
    cuts: u64,
    cuts_without_journal: u64,
    cuts_after_journal: u64,
    cuts_of_recoveries: u64,
    databases: u64,
    imports: u64,
    churns: u64,
    flushes: u64,
    compactions: u64,
    acknowledged: u64,
    lost_late: u64,
    beyond: u64,
    torn_tails: u64,
    recoveries: u64,
    violations: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} cuts ({} lose the journal's memory, {} come after its commit; {} hit a recovery), {} databases",
            self.cuts,
            self.cuts_without_journal,
            self.cuts_after_journal,
            self.cuts_of_recoveries,
            self.databases
        )?;
        writeln!(
            f,
            "under way: {} imports, {} writers with small memtables, {} flushes, {} compactions",
            self.imports, self.churns, self.flushes, self.compactions
        )?;
        writeln!(
            f,
            "{} rows acknowledged before a cut, {} more found, {} torn tails cut, {} logs replayed",
            self.acknowledged, self.beyond, self.torn_tails, self.recoveries
        )?;
        writeln!(f, "{} batches acknowledged during a cut are not there", self.lost_late)?;
        write!(f, "{} violations", self.violations)
    }
}

/// The database on the disk, and what it must hold.
struct Subject {
    dir: PathBuf,
    streams: Vec<Stream>,
}

impl Subject {
    fn new(disk: &Disk, number: u64, seed: u64) -> Self {
        let seed = seed.wrapping_add(number);
        let dir = disk.point.join(format!("db{number}"));
        Self { dir, streams: (0..3).map(|stream| Stream::new(seed, stream, 3000)).collect() }
    }

    fn acknowledged(&self) -> u64 {
        self.streams.iter().map(|stream| stream.acknowledged).sum()
    }
}

/// Cuts the power as often as was asked for.
pub(crate) fn run(args: &PowerCuts, seed: u64, tools: &Tools) -> Result<String> {
    let mut disk = Disk::make(args.filesystem, args.size_mb, args.keep)?;
    let mut random = Random::new(seed);
    let mut counters = Counters::default();
    let mut subject = Subject::new(&disk, 0, seed);
    counters.databases = 1;
    let start = Instant::now();
    while counters.cuts < args.cuts {
        let before = subject.acknowledged();
        cut_once(&mut disk, &mut subject, tools, &mut random, &mut counters)?;
        counters.acknowledged += subject.acknowledged() - before;
        if counters.cuts < args.cuts && random.below(4) == 0 {
            let cut = if random.below(5) == 0 { Cut::AfterJournal } else { Cut::Journal };
            let delay = Duration::from_micros(random.below(40_000) as u64);
            counters.cuts_of_recoveries += 1;
            cut_while(&mut disk, cut, delay, Duration::ZERO, &mut counters, |runner, _| {
                recover(runner, tools, &subject.dir)
            })?;
        }
        let is_new = match check(&subject.dir, &mut subject.streams, Leave::either(&mut random), &mut random)
        {
            Ok(checked) => {
                counters.beyond += checked.beyond;
                counters.lost_late += checked.lost_late;
                counters.torn_tails += u64::from(checked.torn);
                counters.recoveries += u64::from(checked.replayed);
                random.below(20) == 0
            }
            Err(Failure::Violation(what)) => {
                eprintln!("VIOLATION after cut {}: {what}", counters.cuts);
                counters.violations += 1;
                true
            }
            Err(failure) => return Err(failure),
        };
        if is_new {
            // What is left of a database with a violation stays on the disk, for whoever keeps the image.
            if counters.violations == 0 && subject.dir.exists() {
                std::fs::remove_dir_all(&subject.dir).map_err(|error| Failure::Broken(error.to_string()))?;
            }
            subject = Subject::new(&disk, counters.databases, seed);
            counters.databases += 1;
        }
    }
    if args.keep {
        println!("the image of the disk is {}", disk.image().display());
    }
    let seconds = start.elapsed().as_secs();
    let report = format!("{} on {}, {seconds} s\n{counters}", "power cuts", args.filesystem.name());
    if counters.violations > 0 { Err(Failure::Violation(report)) } else { Ok(report) }
}

/// Opens the database, which recovers it, and flushes what was replayed.
fn recover(runner: &Runner, tools: &Tools, db: &Path) -> Result<Option<Ended>> {
    if !db.exists() {
        return Ok(None);
    }
    runner.call(&tools.plimsoll, &words(&["flush"], db, &[])).map(Some)
}

/// Lets programs work on the database until the power goes.
fn cut_once(
    disk: &mut Disk,
    subject: &mut Subject,
    tools: &Tools,
    random: &mut Random,
    counters: &mut Counters,
) -> Result<()> {
    let cut = if random.below(5) == 0 { Cut::AfterJournal } else { Cut::Journal };
    let delay = Duration::from_micros(1000 + random.below(500_000) as u64);
    // Some see what the file system answers after the cut before they are killed.
    let grace = Duration::from_millis((random.below(2) * random.below(60)) as u64);
    let mut tally = Counters::default();
    let worked = cut_while(disk, cut, delay, grace, counters, |runner, is_cut| {
        while !is_cut() {
            let ended = work(subject, runner, tools, random, &mut tally)?;
            if !ended.succeeded() {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    });
    counters.imports += tally.imports;
    counters.churns += tally.churns;
    counters.flushes += tally.flushes;
    counters.compactions += tally.compactions;
    worked
}

/// Does one thing to the database.
fn work(
    subject: &mut Subject,
    runner: &Runner,
    tools: &Tools,
    random: &mut Random,
    tally: &mut Counters,
) -> Result<Ended> {
    let batch_size = 1 + random.below(60) as u64;
    let is_there = subject.acknowledged() > 0;
    let choice = random.below(12);
    let which = random.below(subject.streams.len());
    let Subject { dir, streams } = subject;
    let Some(stream) = streams.get_mut(which) else { return Err(Failure::Broken("no stream".to_owned())) };
    match choice {
        0 | 1 if is_there => {
            tally.flushes += 1;
            runner.call(&tools.plimsoll, &words(&["flush"], dir, &[]))
        }
        2 | 3 if is_there => {
            tally.compactions += 1;
            runner.call(&tools.plimsoll, &words(&["compact"], dir, &[]))
        }
        0..=5 => {
            tally.imports += 1;
            let batches = 1 + random.below(20) as u64;
            runner.import(&tools.plimsoll, dir, stream, batch_size, Some(batches))
        }
        6..=8 => {
            tally.imports += 1;
            runner.import(&tools.plimsoll, dir, stream, batch_size, None)
        }
        _ => {
            tally.churns += 1;
            runner.churn(&tools.own, dir, stream, batch_size, None)
        }
    }
}

/// Runs `work` until the power is cut after `delay`, kills what runs then, and mounts the disk again. A program that
/// failed before the cut is a violation.
fn cut_while(
    disk: &mut Disk,
    cut: Cut,
    delay: Duration,
    grace: Duration,
    counters: &mut Counters,
    work: impl FnOnce(&Runner, &dyn Fn() -> bool) -> Result<Option<Ended>>,
) -> Result<()> {
    let runner = Runner::default();
    let cutter = || {
        std::thread::sleep(delay);
        runner.is_cut.store(true, Ordering::SeqCst);
        disk.cut(cut)?;
        std::thread::sleep(grace);
        runner.kill()
    };
    let failed_early = std::thread::scope(|scope| {
        let cutter = scope.spawn(cutter);
        let ended = work(&runner, &|| runner.is_cut.load(Ordering::SeqCst));
        let early = !runner.is_cut.load(Ordering::SeqCst);
        cutter.join().map_err(|_| Failure::Broken("the cutting thread panicked".to_owned()))??;
        Ok(ended?.filter(|ended| early && !ended.succeeded()))
    })?;
    counters.cuts += 1;
    match cut {
        Cut::Journal => counters.cuts_without_journal += 1,
        Cut::AfterJournal => counters.cuts_after_journal += 1,
    }
    disk.unmount()?;
    disk.mount()?;
    match failed_early {
        Some(ended) => Err(Failure::Violation(format!("a program failed before the cut: {ended:?}"))),
        None => Ok(()),
    }
}
