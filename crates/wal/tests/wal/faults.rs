//! Calls that fail: a failed append is taken back, a failed sync poisons, and reopening decides (R5, R6).

use std::io::ErrorKind;

use crate::common::*;
use plimsoll_base::Lsn;
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage, Times};
use plimsoll_wal::{LsnRange, Wal, WalError};

/// The histories that replay may find: what was appended, and what came after it where an append failed.
#[derive(Default)]
struct Model {
    records: Vec<Vec<u8>>,
    failed: Vec<(usize, Vec<Vec<u8>>)>,
    durable: u64,
    tag: u64,
}

impl Model {
    fn append(&mut self, wal: &mut Wal, lengths: &[usize], sync: bool) {
        let payload_of = |len: &usize| {
            self.tag += 1;
            payload(self.tag, *len)
        };
        let group: Vec<_> = lengths.iter().map(payload_of).collect();
        let expected = LsnRange::after(wal.appended(), Lsn(wal.appended().0 + group.len() as u64));
        match append(wal, &group, sync) {
            Ok(given) => {
                assert_eq!(given, expected);
                self.records.extend(group);
                assert!(!sync || wal.durable() == given.last);
            }
            // A failed sync of a rotation comes before the append, that of the group after it.
            Err(WalError::Poisoned { lost, .. }) if lost.last == expected.last => self.records.extend(group),
            Err(_) => self.failed.push((self.records.len(), group)),
        }
        self.note(wal);
    }

    fn note(&mut self, wal: &Wal) {
        assert_eq!(wal.appended().0, self.records.len() as u64);
        assert!(wal.durable().0 >= self.durable);
        self.durable = wal.durable().0;
    }

    fn check(&self, disk: &SimStorage, context: &str) -> Vec<Vec<u8>> {
        let records = read(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        let found: Vec<_> = records.into_iter().map(|(_, bytes)| bytes).collect();
        assert!(found.len() as u64 >= self.durable, "{context}: {} of {} records", found.len(), self.durable);
        let possible = self.records.starts_with(&found)
            || self.failed.iter().any(|(before, group)| {
                *before as u64 >= self.durable
                    && [&self.records[..*before], group].concat().starts_with(&found)
            });
        assert!(possible, "{context}: a mixture of histories");
        found
    }
}

/// Groups of all sizes, a spare, a rotation, a mark; goes on after errors, as an engine does.
fn script(disk: &SimStorage) -> Model {
    let mut model = Model::default();
    let mut wal = open(disk);
    for round in 0..5 {
        model.append(&mut wal, &[100, 40], true);
        model.append(&mut wal, &[900, 1, 0], false);
        // Begun before the next group, and finished after it, which may have begun a new segment.
        let pending = wal.begin_sync();
        if round % 2 == 1 {
            model.append(&mut wal, &[30, 2500], round == 3);
        }
        if let Ok(Some(pending)) = pending {
            drop(wal.finish_sync(pending.run()));
            model.note(&wal);
        }
        drop(wal.spares().prepare());
        drop(wal.append_mark());
        model.note(&wal);
        model.append(&mut wal, &[1500, 700], round % 2 == 0);
        if round == 3 {
            model.append(&mut wal, &[50, 70_000, 8], false);
        }
        drop(wal.sync());
        model.note(&wal);
        if let Some(WalError::Poisoned { lost, .. }) = wal.poisoned().cloned() {
            assert_eq!(lost, LsnRange::after(wal.durable(), wal.appended()));
            let operations = disk.operations();
            assert!(matches!(append(&mut wal, &[vec![1]], false), Err(WalError::Poisoned { .. })));
            assert!(matches!(wal.sync(), Err(WalError::Poisoned { .. })));
            assert!(matches!(wal.rotate(), Err(WalError::Poisoned { .. })));
            assert!(matches!(wal.append_mark(), Err(WalError::Poisoned { .. })));
            assert!(matches!(wal.remove_below(Lsn(1)), Err(WalError::Poisoned { .. })));
            assert_eq!(disk.operations(), operations, "nothing is written after a failed sync");
            break;
        }
    }
    model
}

#[test]
fn every_call_fails_in_every_way_and_nothing_durable_is_lost_nor_any_history_mixed() {
    let clean = new_disk();
    let first = clean.operations();
    assert_eq!(script(&clean).failed.len(), 0);
    let io = Failure::errno(5);
    let failures =
        [io, io.after_bytes(60), io.after_bytes(170), io.although_done(), ErrorKind::StorageFull.into()];
    for operation in first..clean.operations() {
        for (kind, failure) in failures.into_iter().enumerate() {
            for times in [Times::Once, Times::ForEver, Times::AllForEver] {
                let context = format!("operation {operation}, failure {kind}, {times:?}");
                let disk = new_disk();
                disk.fail_operation(operation, failure, times);
                let model = script(&disk);
                disk.clear_faults();
                assert_eq!(disk.violations(), [""; 0], "{context}");
                let random = (0..3).map(|seed| CrashPolicy::Random(operation * 7 + seed));
                for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll].into_iter().chain(random) {
                    model.check(&disk.after_crash(policy), &format!("{context}, {policy:?}"));
                }
                // Reopened on the same machine, whose cache may show what the disk does not have.
                let killed = disk.after_kill();
                let found = model.check(&killed, &context);
                let mut wal = open(&killed);
                wal.sync().unwrap();
                append(&mut wal, &[vec![7]], true).unwrap();
                let after: Vec<_> = read(&killed.after_crash(CrashPolicy::LoseAll))
                    .unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(after.iter().map(|(_, bytes)| bytes).eq(found.iter().chain([&vec![7]])), "{context}");
            }
        }
    }
}

#[test]
fn the_lsns_of_a_failed_append_are_used_again_without_confusion() {
    for written in [0, 31, 32, 40, 72, 100, 144, u64::MAX] {
        let disk = new_disk();
        let mut wal = open(&disk);
        append(&mut wal, &[b"first".to_vec()], true).unwrap();
        disk.fail_next(OperationKind::Append, Failure::from(ErrorKind::StorageFull).after_bytes(written), 1);
        let lost = [b"lost one".to_vec(), b"lost two".to_vec(), b"lost three".to_vec()];
        let error = append(&mut wal, &lost, true).unwrap_err();
        assert!(
            error.is_retryable() && matches!(&error, WalError::Storage(error) if error.is_storage_full())
        );
        assert_eq!((wal.appended(), wal.durable()), (Lsn(1), Lsn(1)));
        assert_eq!(append(&mut wal, &[b"second".to_vec()], false).unwrap().last, Lsn(2));
        assert_eq!(wal.stats().segments, 2, "the next append goes to a new segment");
        append(&mut wal, &[b"third".to_vec()], true).unwrap();
        let expected: Vec<(Lsn, Vec<u8>)> = [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()]
            .into_iter()
            .zip(1..)
            .map(|(b, n)| (Lsn(n), b))
            .collect();
        assert_eq!(read(&disk).unwrap(), expected, "{written}");
        assert_eq!(read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), expected, "{written}");
        assert_eq!(disk.violations(), [""; 0]);
    }
}

#[test]
fn a_failed_sync_poisons_at_once_and_names_what_is_in_doubt() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 10, false);
    disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    let error = append(&mut wal, &[payload(3, 10)], true).unwrap_err();
    assert!(!error.is_retryable());
    assert!(
        matches!(error, WalError::Poisoned { lost: LsnRange { first: Lsn(2), last: Lsn(3) }, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("LSN 2 to 3"), "{error}");
    drop(wal);
    // The cache shows the records, the disk has lost them: the new writer does not believe the old file.
    let mut wal = open(&disk);
    assert_eq!((wal.appended(), wal.durable()), (Lsn(3), Lsn(1)));
    wal.sync().unwrap();
    assert_known(&read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), &[10, 10, 10]);
}

#[test]
fn a_full_disk_leaves_the_reserve() {
    let disk = new_disk();
    let mut wal = open(&disk);
    let spares = wal.spares();
    append_known(&mut wal, 10, true);
    spares.prepare().unwrap();
    disk.set_capacity(8300);
    append_known(&mut wal, 3000, true);
    append_known(&mut wal, 1000, true);
    assert!(spares.prepare().unwrap_err().is_retryable());
    let error = append(&mut wal, &[payload(4, 3950)], true).unwrap_err();
    assert!(matches!(&error, WalError::Storage(error) if error.is_storage_full()), "{error}");
    assert_eq!(wal.appended(), Lsn(3));
    // The active segment still takes what is small: the deletes that give room again.
    append_known(&mut wal, 40, true);
    assert_eq!(wal.remove_below(Lsn(2)).unwrap(), 1);
    append_known(&mut wal, 3950, true);
    assert_eq!(disk.paths().iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).count(), 0);
}

/// What recovery read was in the cache only, and is gone when it is to be copied.
#[test]
fn a_tail_that_vanishes_after_recovery_poisons() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 10, true);
    drop(wal);
    let mut wal = open(&disk);
    assert_eq!(wal.durable(), Lsn(1));
    disk.flip_bit(segment(1), (128 + 48 + 35) * 8).unwrap();
    let error = wal.sync().unwrap_err();
    assert!(
        matches!(error, WalError::Poisoned { lost: LsnRange { first: Lsn(2), last: Lsn(2) }, .. }),
        "{error}"
    );
    assert_eq!(wal.appended(), Lsn(2));
}
