//! Syncs beside the writer: appends go on meanwhile, what is durable is what had been appended when one began, and one
//! that fails poisons, wherever the writer is by then (R5, R6).

use std::thread;

use crate::common::*;
use plimsoll_base::Lsn;
use plimsoll_sim::{CrashPolicy, Failure, OperationKind};
use plimsoll_wal::{LsnRange, WalError};

#[test]
fn appends_go_on_while_a_sync_is_held_up_and_wait_for_the_next_one() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 20, false);
    let held = disk.hold_syncs();
    let pending = wal.begin_sync().unwrap().unwrap();
    let syncing = thread::spawn(move || pending.run());
    held.wait_for_one();
    append_known(&mut wal, 30, false);
    append_known(&mut wal, 40, false);
    assert_eq!(
        (wal.appended(), wal.durable()),
        (Lsn(4), Lsn(1)),
        "nothing is durable before the sync is done"
    );
    assert_known(&read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), &[10]);
    drop(held);
    let finished = syncing.join().unwrap();
    assert_eq!(wal.durable(), Lsn(1), "nor before the writer knows");
    let syncs = wal.stats().syncs;
    assert_eq!(wal.finish_sync(finished).unwrap(), Lsn(2), "what came later waits for the next sync");
    assert_eq!(wal.stats().syncs, syncs + 1);
    assert_known(&read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), &[10, 20]);
    let next = wal.begin_sync().unwrap().unwrap();
    assert_eq!(wal.finish_sync(next.run()).unwrap(), Lsn(4));
    assert_known(&read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), &[10, 20, 30, 40]);
    assert!(wal.begin_sync().unwrap().is_none(), "there is nothing to sync");
    wal.close().unwrap();
    assert_eq!(disk.violations(), [""; 0]);
}

#[test]
fn a_sync_that_is_finished_late_takes_nothing_back() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, false);
    let first = wal.begin_sync().unwrap().unwrap();
    append_known(&mut wal, 20, false);
    let second = wal.begin_sync().unwrap().unwrap();
    assert_eq!(wal.finish_sync(second.run()).unwrap(), Lsn(2));
    assert_eq!(wal.finish_sync(first.run()).unwrap(), Lsn(2));
    // Nor does it say that there is something to sync where there is nothing.
    let syncs = wal.stats().syncs;
    wal.sync().unwrap();
    assert_eq!(wal.stats().syncs, syncs);
}

#[test]
fn what_a_group_says_was_durable_before_it_is_what_was() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 20, false);
    let finished = wal.begin_sync().unwrap().unwrap().run();
    append_known(&mut wal, 30, false);
    wal.finish_sync(finished).unwrap();
    append_known(&mut wal, 40, true);
    let mut before = Vec::new();
    plimsoll_wal::recover(&shared(&disk), dir(), DATABASE, &anchor(0, 0), |record| {
        before.push(record.durable_before());
        Ok::<_, WalError>(())
    })
    .unwrap();
    assert_eq!(before, [0, 1, 1, 2].map(Lsn));
}

#[test]
fn what_recovery_could_not_prove_is_made_durable_at_once() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 20, true);
    drop(wal);
    let mut wal = open(&disk);
    assert_eq!(wal.durable(), Lsn(1));
    assert!(wal.begin_sync().unwrap().is_none());
    assert_eq!(wal.durable(), Lsn(2));
}

#[test]
fn a_failed_sync_poisons_and_names_all_that_is_in_doubt() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 20, false);
    let pending = wal.begin_sync().unwrap().unwrap();
    append_known(&mut wal, 30, false);
    disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    let error = wal.finish_sync(pending.run()).unwrap_err();
    let expected = LsnRange { first: Lsn(2), last: Lsn(3) };
    assert!(matches!(&error, WalError::Poisoned { lost, .. } if *lost == expected), "{error}");
    assert_eq!(wal.durable(), Lsn(1));
    assert!(matches!(wal.begin_sync(), Err(WalError::Poisoned { .. })));
    assert!(matches!(append(&mut wal, &[vec![1]], false), Err(WalError::Poisoned { .. })));
    assert_eq!(disk.violations(), [""; 0]);
}

/// The kernel tells a failure once: a sync that comes after it succeeds, and must not be believed.
#[test]
fn nobody_is_acknowledged_between_the_failure_of_a_sync_and_its_end() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, false);
    let pending = wal.begin_sync().unwrap().unwrap();
    disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    let finished = pending.run();
    let refused = wal.sync().unwrap_err();
    assert!(matches!(refused, WalError::Poisoned { .. }), "{refused}");
    assert_eq!(wal.durable(), Lsn(0));
    assert!(matches!(wal.finish_sync(finished), Err(WalError::Poisoned { .. })));
    assert!(wal.close().is_err());
    assert_eq!(disk.violations(), [""; 0], "it is not even tried");
}

/// A sync of the writer waits for the one that is under way, and learns how it ended.
#[test]
fn a_sync_of_the_writer_waits_for_the_one_beside_it() {
    for fails in [false, true] {
        let disk = new_disk();
        let mut wal = open(&disk);
        append_known(&mut wal, 10, false);
        let held = disk.hold_syncs();
        let pending = wal.begin_sync().unwrap().unwrap();
        let beside = thread::spawn(move || pending.run());
        held.wait_for_one();
        append_known(&mut wal, 20, false);
        if fails {
            disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
        }
        let writing = thread::spawn(move || {
            let synced = wal.sync();
            (wal, synced)
        });
        drop(held);
        let finished = beside.join().unwrap();
        let (mut wal, synced) = writing.join().unwrap();
        assert_eq!(matches!(synced, Err(WalError::Poisoned { .. })), fails, "{synced:?}");
        assert_eq!(wal.finish_sync(finished).is_err(), fails);
        assert_eq!(wal.durable(), Lsn(if fails { 0 } else { 2 }));
        assert_eq!(disk.violations(), [""; 0]);
    }
}

#[test]
fn a_segment_may_be_followed_by_another_while_its_sync_is_under_way() {
    for fails in [false, true] {
        let disk = new_disk();
        let mut wal = open(&disk);
        append_known(&mut wal, 10, false);
        let pending = wal.begin_sync().unwrap().unwrap();
        wal.rotate().unwrap();
        assert_eq!(wal.durable(), Lsn(1), "the rotation has synced it");
        append_known(&mut wal, 20, false);
        if fails {
            disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
            assert!(matches!(wal.finish_sync(pending.run()), Err(WalError::Poisoned { .. })));
            assert!(wal.poisoned().is_some());
            continue;
        }
        // It says nothing about the segment that is written now.
        assert_eq!(wal.finish_sync(pending.run()).unwrap(), Lsn(1));
        assert_known(&read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), &[10]);
        assert_eq!(wal.sync().unwrap(), Lsn(2));
        assert_known(&read(&disk.after_crash(CrashPolicy::LoseAll)).unwrap(), &[10, 20]);
    }
}

/// A sync fails, and before its end is known the segment is to be followed by another: it is not.
#[test]
fn a_segment_whose_sync_has_failed_is_not_followed() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 10, false);
    let pending = wal.begin_sync().unwrap().unwrap();
    disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    let finished = pending.run();
    assert!(matches!(wal.rotate(), Err(WalError::Poisoned { .. })));
    assert!(matches!(wal.finish_sync(finished), Err(WalError::Poisoned { .. })));
    assert_eq!(wal.stats().segments, 1);
}

#[test]
fn the_log_may_shrink_and_close_while_a_sync_is_under_way() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 3000, false);
    let first = wal.begin_sync().unwrap().unwrap();
    wal.sync().unwrap();
    wal.shrink(Lsn(1)).unwrap();
    assert_eq!(wal.stats().segments, 1, "its segment is removed");
    assert_eq!(wal.finish_sync(first.run()).unwrap(), Lsn(1));
    append_known(&mut wal, 20, false);
    let second = wal.begin_sync().unwrap().unwrap();
    wal.close().unwrap();
    assert!(format!("{:?}", second.run()).contains("Ok"));
    let (records, _) = read_after(&disk.after_crash(CrashPolicy::LoseAll), 1, 1).unwrap();
    assert_eq!(records, [(Lsn(2), payload(2, 20))]);
    assert_eq!(disk.violations(), [""; 0]);
}
