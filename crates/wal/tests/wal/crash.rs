//! The power is cut, or the process killed, at every operation of a workload: what was durable is there, in
//! what states ever the disk may be; also when it happens again during what follows (promises 1 to 3).

use crate::common::*;
use plimsoll_base::Lsn;
use plimsoll_sim::{CrashPolicy, DirectoryModel, OperationKind, SimStorage};
use plimsoll_wal::{PendingSync, Wal};

/// What was true when the operation with this number was next.
#[derive(Debug, Clone, Copy)]
struct Moment {
    operation: u64,
    durable: u64,
    /// What the manifest would say was flushed.
    flushed: u64,
    appended: u64,
}

struct Run {
    disk: SimStorage,
    moments: Vec<Moment>,
}

impl Run {
    fn note(&mut self, wal: &Wal, flushed: u64) {
        let (operation, durable, appended) = (self.disk.operations(), wal.durable().0, wal.appended().0);
        self.moments.push(Moment { operation, durable, flushed, appended });
    }

    /// What held before operation `number` took effect, and the most that may have been appended by then.
    fn at(&self, number: u64) -> (Moment, u64) {
        let next =
            self.moments.iter().position(|moment| moment.operation > number).unwrap_or(self.moments.len());
        let appended = self.moments.get(next).map_or(u64::MAX, |moment| moment.appended);
        (self.moments[next - 1], appended)
    }
}

fn length(lsn: u64) -> usize {
    [0, 30, 700, 3, 1200, 64, 5000, 90][lsn as usize % 8]
}

/// Appends groups of all sizes with and without syncs, also beside them, marks, prepares spares, rotates and removes.
fn workload(seed: u64, steps: u64) -> Run {
    let disk = new_disk();
    let mut wal = open(&disk);
    let mut run = Run { disk, moments: Vec::new() };
    let mut flushed = 0;
    run.note(&wal, flushed);
    let mut dice = salts(seed);
    let mut pending = None;
    for _ in 0..steps {
        match dice() % 16 {
            0 => drop(wal.append_mark().unwrap()),
            1 => drop(wal.spares().prepare().unwrap()),
            2 => wal.rotate().unwrap(),
            3 => drop(wal.sync().unwrap()),
            4 => {
                flushed = wal.durable().0;
                run.note(&wal, flushed);
                wal.remove_below(Lsn(flushed)).unwrap();
            }
            5 => {
                let (_, recovered) = read_after(&run.disk, flushed, flushed).unwrap();
                drop(wal);
                pending = None;
                wal = recovered.into_wal(small(), salts(dice()));
            }
            6 => pending = wal.begin_sync().unwrap(),
            7 => {
                if let Some(finished) = pending.take().map(PendingSync::run) {
                    wal.finish_sync(finished).unwrap();
                }
            }
            dice => {
                let first = wal.appended().0 + 1;
                let group: Vec<_> =
                    (first..first + dice % 4 + 1).map(|lsn| payload(lsn, length(lsn))).collect();
                append(&mut wal, &group, dice % 2 == 0).unwrap();
            }
        }
        run.note(&wal, flushed);
    }
    assert_eq!(run.disk.violations(), [""; 0]);
    run
}

/// Replays and compares; returns the last LSN.
fn check(disk: &SimStorage, moment: Moment, appended: u64, context: &str) -> u64 {
    let (records, recovered) = read_after(disk, moment.flushed, moment.flushed)
        .unwrap_or_else(|error| panic!("{context}: {error} ({moment:?})"));
    let mut expected = moment.flushed + 1;
    for (lsn, bytes) in records {
        assert_eq!(lsn.0, expected, "{context}");
        assert!(bytes == payload(expected, length(expected)), "{context}: wrong payload of LSN {expected}");
        expected += 1;
    }
    assert!(expected > moment.durable, "{context}: LSN {expected} was durable ({moment:?})");
    assert!(expected - 1 <= appended, "{context}: LSN {expected} was invented");
    assert_eq!(recovered.next_lsn().0, expected);
    expected - 1
}

/// Goes on after a crash, and crashes again at each operation of that.
fn go_on(disk: &SimStorage, moment: Moment, recovered: u64, seed: u64, context: &str) {
    let started = disk.operations();
    let (_, state) = read_after(disk, moment.flushed, moment.flushed).unwrap();
    let mut wal = state.into_wal(small(), salts(seed));
    assert_eq!(wal.sync().unwrap().0, recovered);
    let synced = disk.operations();
    let lsn = recovered + 1;
    append(&mut wal, &[payload(lsn, length(lsn))], true).unwrap();
    let end = disk.operations();
    for operation in started..=end {
        // A power cut during recovery keeps what was proven; after the sync, all that was recovered.
        let durable = match operation {
            _ if operation == end => lsn,
            _ if operation >= synced => recovered,
            _ => moment.durable,
        };
        let policy = [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(seed + operation)];
        for policy in policy {
            let context = format!("{context}, then {operation} {policy:?}");
            check(&disk.after_crash_at(operation, policy), Moment { durable, ..moment }, lsn, &context);
        }
    }
    assert_eq!(disk.violations(), [""; 0], "{context}");
}

fn crash_everywhere(seed: u64, steps: u64, states: u64, model: DirectoryModel) -> u64 {
    let run = workload(seed, steps);
    run.disk.set_model(model);
    let mut checked = 0;
    for operation in run.moments[0].operation..=run.disk.operations() {
        let (moment, appended) = run.at(operation);
        let random = (0..states).map(|n| CrashPolicy::Random(seed * 1000 + operation * 31 + n));
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll].into_iter().chain(random) {
            let context = format!("seed {seed}, operation {operation}, {policy:?}");
            let disk = run.disk.after_crash_at(operation, policy);
            let recovered = check(&disk, moment, appended, &context);
            if (operation * 7 + seed).is_multiple_of(23) {
                go_on(&disk, moment, recovered, operation, &context);
            }
            checked += 1;
        }
        let context = format!("seed {seed}, operation {operation}, kill");
        let disk = run.disk.after_kill_at(operation);
        let recovered = check(&disk, moment, appended, &context);
        if (operation + seed).is_multiple_of(3) {
            go_on(&disk, moment, recovered, operation, &context);
        }
    }
    checked
}

#[test]
fn a_power_cut_or_a_kill_at_every_operation_loses_nothing_durable() {
    let mut checked = 0;
    for seed in 1..=4 {
        checked += crash_everywhere(seed, 50, 5, DirectoryModel::Strict);
        checked += crash_everywhere(seed + 100, 30, 4, DirectoryModel::Journalled);
    }
    assert!(checked > 3_000, "{checked}");
}

#[test]
#[ignore = "long: a quarter of a million crash states"]
fn a_power_cut_or_a_kill_at_every_operation_at_length() {
    let states: u64 = (1000..1100).map(|seed| crash_everywhere(seed, 120, 12, DirectoryModel::Strict)).sum();
    println!("{states} crash states");
}

/// A kill between a rename and the sync of its directory, then a power cut at the same place of the next
/// segment: the successor's name must not survive the name that it builds on.
#[test]
fn an_inherited_name_is_made_durable_before_a_successor_builds_on_it() {
    let renamed = |disk: &SimStorage| {
        let log = disk.log();
        let last = log.iter().rfind(|operation| operation.kind == OperationKind::Rename).unwrap();
        last.number + 1
    };
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    wal.rotate().unwrap();
    let killed = disk.after_kill_at(renamed(&disk));
    let mut wal = open(&killed);
    append_known(&mut wal, 20, true);
    for seed in 0..64 {
        let crashed = killed.after_crash_at(renamed(&killed), CrashPolicy::Random(seed));
        assert_known(&read(&crashed).unwrap(), &[10]);
    }
}
