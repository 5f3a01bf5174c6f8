//! What a run does: drawn from its seed before it begins, so that parts of it can be left out.

use std::fmt;

use plimsoll::Durability;
use plimsoll_sim::{CrashPolicy, DirectoryModel, Failure, OperationKind};

use crate::faults::ERRNOS;
use crate::random::Random;

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u64,
    /// What a crash does to names.
    pub model: DirectoryModel,
    /// The size of memtables.
    pub memtable_bytes: usize,
    /// The size of segments of the log.
    pub segment_bytes: u64,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One thing that is done. A `slot` is one of few collections; a `seed` says which document it is about and
/// what is in it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Step {
    Create {
        slot: usize,
        seed: u64,
    },
    Drop {
        slot: usize,
    },
    Insert {
        slot: usize,
        seed: u64,
    },
    Delete {
        slot: usize,
        seed: u64,
    },
    UpdateMetadata {
        slot: usize,
        seed: u64,
    },
    Write {
        parts: Vec<(usize, Vec<Change>)>,
        durability: Durability,
    },
    /// So many rows that an index is trained.
    WriteMany {
        slot: usize,
        seed: u64,
    },
    Sync,
    /// Flushes; before the numbered file is created, other steps are done.
    Flush(Option<(usize, Vec<Self>)>),
    /// Compacts, likewise.
    Compact(Option<(usize, Vec<Self>)>),
    Close,
    /// Drops the database without closing it, and opens it again.
    Abandon,
    HoldSnapshot,
    CheckSnapshots,
    /// Opens or refreshes a read-only database beside the writer.
    Read,
    Search {
        slot: usize,
        seed: u64,
    },
    Check,
    /// Lets calls of a kind fail, once or until it is healed.
    Fail {
        kind: OperationKind,
        skip: u64,
        failure: Failure,
        for_ever: bool,
    },
    /// Flushes and compacts while a call that reads fails.
    FailReading {
        kind: OperationKind,
        skip: u64,
        failure: Failure,
    },
    /// Leaves so many bytes of the disk free, until it is healed.
    Fill {
        free: u64,
    },
    Heal,
    /// Cuts the power, or kills the process, after so many storage operations; perhaps again while recovering.
    Crash {
        after: u64,
        kind: CrashKind,
        again: Option<u64>,
    },
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CrashKind {
    Kill,
    PowerCut(CrashPolicy),
}

/// One change in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Change {
    Upsert(u64),
    Delete(u64),
}

/// How many collections there may be.
pub const SLOTS: usize = 3;

impl Plan {
    /// The run of a seed.
    pub fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let model = *random.pick(&[DirectoryModel::Strict, DirectoryModel::Journalled]);
        let memtable_bytes = *random.pick(&[800, 4000, 1 << 20, 64 << 20]);
        let segment_bytes = *random.pick(&[4096, 8192, 65_536]);
        let trouble = random.percent(80);
        let is_large = memtable_bytes > 1 << 20 && random.percent(12);
        let count = if is_large { 40 } else { 60 + random.below(80) };
        let mut steps = vec![Step::Create { slot: 0, seed: random.bits() }];
        if is_large {
            steps.push(Step::WriteMany { slot: 0, seed: random.bits() });
            steps.push(Step::Flush(None));
            steps.push(Step::Compact(None));
        }
        steps.extend((0..count).map(|_| step(random, trouble, memtable_bytes)));
        Self { seed, model, memtable_bytes, segment_bytes, steps }
    }
}

fn step(random: &mut Random, trouble: bool, memtable_bytes: usize) -> Step {
    let slot = random.below(SLOTS);
    let seed = random.bits();
    match random.below(100) {
        0..4 => Step::Create { slot, seed },
        4 => Step::Drop { slot },
        5..9 => Step::Insert { slot, seed },
        9..13 => Step::Delete { slot, seed },
        13..16 => Step::UpdateMetadata { slot, seed },
        16..46 => write(random),
        46..50 => Step::Sync,
        50..57 => {
            // A write in the middle of a flush must not itself make one due: there is only this thread.
            let inject = memtable_bytes >= 1 << 20 && random.percent(50);
            Step::Flush(
                inject.then(|| (random.below(4), (0..1 + random.below(3)).map(|_| write(random)).collect())),
            )
        }
        57..62 => Step::Compact(random.percent(60).then(|| (random.below(4), injected(random)))),
        62..64 => Step::Close,
        64..66 => Step::Abandon,
        66..69 => Step::HoldSnapshot,
        69..72 => Step::CheckSnapshots,
        72..77 => Step::Read,
        77..81 => Step::Search { slot, seed },
        81..84 => Step::Check,
        84..90 if trouble => trouble_of(random),
        90..93 if trouble => Step::Heal,
        93..100 if trouble => crash(random),
        _ => write(random),
    }
}

fn write(random: &mut Random) -> Step {
    let durability = if random.percent(60) { Durability::Durable } else { Durability::Buffered };
    let parts = if durability == Durability::Durable && random.percent(25) { 2 } else { 1 };
    let first = random.below(SLOTS);
    let parts = (0..parts).map(|n| ((first + n) % SLOTS, changes(random))).collect();
    Step::Write { parts, durability }
}

fn changes(random: &mut Random) -> Vec<Change> {
    let count = if random.percent(5) { 60 } else { 1 + random.below(6) };
    (0..count)
        .map(
            |_| {
                if random.percent(75) { Change::Upsert(random.bits()) } else { Change::Delete(random.bits()) }
            },
        )
        .collect()
}

/// What happens in the middle of a compaction.
fn injected(random: &mut Random) -> Vec<Step> {
    let one = |random: &mut Random| match random.below(10) {
        0 => Step::Drop { slot: random.below(SLOTS) },
        1 => Step::Create { slot: random.below(SLOTS), seed: random.bits() },
        2..5 => Step::Flush(None),
        5 => Step::Delete { slot: random.below(SLOTS), seed: random.bits() },
        _ => write(random),
    };
    (0..1 + random.below(4)).map(|_| one(random)).collect()
}

fn trouble_of(random: &mut Random) -> Step {
    if random.percent(12) {
        return Step::Fill { free: random.below(60_000) as u64 };
    }
    let mut failure = Failure::errno(*random.pick(&ERRNOS));
    if random.percent(20) {
        use OperationKind::{List, Open, Read};
        let kind = *random.pick(&[Open, Read, List]);
        return Step::FailReading { kind, skip: random.below(20) as u64, failure };
    }
    match random.below(5) {
        0 => failure = failure.after_bytes(random.below(3000) as u64),
        1 => failure = failure.although_done(),
        _ => {}
    }
    let kind = *random.pick(&OperationKind::MUTATING);
    Step::Fail { kind, skip: random.below(6) as u64, failure, for_ever: random.percent(30) }
}

fn crash(random: &mut Random) -> Step {
    let policy = match random.below(5) {
        0 => CrashPolicy::LoseAll,
        1 => CrashPolicy::KeepAll,
        _ => CrashPolicy::Random(random.bits()),
    };
    let kind = if random.percent(25) { CrashKind::Kill } else { CrashKind::PowerCut(policy) };
    let after = if random.percent(20) { 0 } else { random.below(40) as u64 };
    let again = random.percent(40).then(|| random.below(40) as u64);
    Step::Crash { after, kind, again }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, model, memtable_bytes, segment_bytes, steps } = self;
        writeln!(
            f,
            "run {seed}: {model:?} directories, memtables of {memtable_bytes} bytes, segments of {segment_bytes}"
        )?;
        steps.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "{n:>4} {step:?}"))
    }
}
