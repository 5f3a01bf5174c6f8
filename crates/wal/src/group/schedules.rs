//! Group commit in many schedules of its threads, chosen by shuttle: `tests/scripts/shuttle.sh`.

use std::path::Path;
use std::sync::Arc;

use plimsoll_base::Lsn;
use plimsoll_base::storage::Storage;
use plimsoll_base::sync::Mutex;
use plimsoll_base::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind, SimStorage};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

use super::*;
use crate::{RecordBuilder, WalError, WalOptions, recover};

/// Runs a test in as many schedules as `PLIMSOLL_SCHEDULES` says: half of them random, half of them with few changes
/// of the thread that runs, at the worst places. A schedule in which no thread can go on fails.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = std::env::var("PLIMSOLL_SCHEDULES").map_or(1000, |text| text.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(schedules / 2), config.clone()).run(test.clone());
    Runner::new(PctScheduler::new(3, schedules / 2), config).run(test);
}

#[test]
fn no_wake_up_is_lost_and_leaders_take_turns() {
    explore(|| {
        let group = Arc::new(GroupCommit::new(GroupLimits { items: 3, weight: 100 }));
        let (leading, led) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let (group, leading, led) = (Arc::clone(&group), Arc::clone(&leading), Arc::clone(&led));
                thread::spawn(move || {
                    for item in [thread * 2, thread * 2 + 1] {
                        let result = group.submit(item, 1, |items| {
                            assert!(!leading.swap(true, SeqCst), "two leaders");
                            assert!((1..=3).contains(&items.len()));
                            led.fetch_add(items.len() as u64, SeqCst);
                            leading.store(false, SeqCst);
                            items.into_iter().map(|item| item + 100).collect()
                        });
                        assert_eq!(result, Ok(item + 100));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(led.load(SeqCst), 8);
    });
}

/// Several writers on one log, one of whose syncs fails: whoever was told that a record is durable finds it after a
/// power cut, and after the failure nobody is told so.
#[test]
fn what_is_acknowledged_is_durable_and_after_a_failed_sync_nothing_is() {
    explore(|| {
        let disk = SimStorage::new();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        disk.put_dir("/wal").unwrap();
        let nothing = |_| Ok::<_, WalError>(());
        let recovered = recover(&storage, Path::new("/wal"), [1; 16], Lsn(0), Lsn(0), nothing).unwrap();
        let wal = recovered.into_wal(WalOptions { segment_bytes: 4096 }, Box::new(|| 5));
        let wal = Arc::new(Mutex::new(wal));
        let group = Arc::new(GroupCommit::new(GroupLimits::default()));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..3_u8)
            .map(|thread| {
                let (wal, group, acknowledged) =
                    (Arc::clone(&wal), Arc::clone(&group), Arc::clone(&acknowledged));
                let disk = disk.clone();
                thread::spawn(move || {
                    for round in 0..2 {
                        let payload = vec![thread, round];
                        let lead = |payloads: Vec<Vec<u8>>| {
                            let records = payloads.iter().map(|payload| {
                                let mut record = RecordBuilder::with_capacity(payload.len());
                                record.raw(payload);
                                record.finish()
                            });
                            let mut records: Vec<_> = records.collect();
                            let mut references: Vec<_> = records.iter_mut().collect();
                            let result = lock(&wal).append_group(&mut references, true);
                            payloads.iter().map(|_| result.as_ref().map(drop).map_err(Clone::clone)).collect()
                        };
                        let result = group.submit(payload.clone(), 1, lead).unwrap();
                        match result {
                            Ok(()) => lock(&acknowledged).push(payload),
                            Err(_) => assert!(lock(&wal).poisoned().is_some(), "refused without a reason"),
                        }
                        if thread == 0 && round == 0 {
                            disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let after = disk.after_crash(CrashPolicy::LoseAll);
        let storage: Arc<dyn Storage> = Arc::new(after);
        let mut found = Vec::new();
        recover(&storage, Path::new("/wal"), [1; 16], Lsn(0), Lsn(0), |record| {
            found.push(record.payload()[..2].to_vec());
            Ok::<_, WalError>(())
        })
        .unwrap();
        for payload in lock(&acknowledged).iter() {
            assert!(found.contains(payload), "{payload:?} was acknowledged, and is lost: {found:?}");
        }
    });
}
