//! Measurements, run by hand: `cargo test --release -p plimsoll-wal --test wal -- --ignored speed --nocapture`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::*;
use plimsoll_base::Lsn;
use plimsoll_base::storage::{OsStorage, Storage};
use plimsoll_wal::{
    GroupCommit, GroupLimits, Record, RecordBuilder, Recovered, Wal, WalError, WalOptions, recover,
};

fn os() -> (tempfile::TempDir, Arc<dyn Storage>) {
    (
        tempfile::tempdir_in(std::env::var("PLIMSOLL_BENCH_DIR").unwrap_or(".".into())).unwrap(),
        Arc::new(OsStorage),
    )
}

fn new_wal(dir: &std::path::Path, storage: &Arc<dyn Storage>) -> Wal {
    Recovered::fresh(storage, dir, DATABASE, Lsn(0), plimsoll_base::FileNumber(0))
        .unwrap()
        .into_wal(WalOptions::default(), salts(1))
}

fn commit_with(threads: usize, seconds: f64) -> f64 {
    let (directory, storage) = os();
    let wal = Mutex::new(new_wal(directory.path(), &storage));
    wal.lock().unwrap().rotate().unwrap();
    let group = GroupCommit::new(GroupLimits::default());
    let start = Instant::now();
    let items: u64 = std::thread::scope(|scope| {
        let run = || {
            let mut items = 0;
            while start.elapsed().as_secs_f64() < seconds {
                let lead = |mut records: Vec<Record>| {
                    let mut refs: Vec<_> = records.iter_mut().collect();
                    wal.lock().unwrap().append_group(&mut refs, true).unwrap().iter().collect()
                };
                group.submit(record(&[7; 200]), 232, lead).unwrap();
                items += 1;
            }
            items
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum()
    });
    let rate = items as f64 / start.elapsed().as_secs_f64();
    let stats = wal.into_inner().unwrap().stats();
    println!(
        "{threads:3} threads: {rate:9.0} items/s, {:5.1} items per group, {:6.0} syncs/s",
        stats.records as f64 / stats.groups as f64,
        stats.syncs as f64 / start.elapsed().as_secs_f64(),
    );
    rate
}

/// The combiner alone: in place of a sync the leader sleeps for 60 µs (and what the timer adds).
fn commit_asleep(threads: usize) -> f64 {
    let group = GroupCommit::new(GroupLimits::default());
    let (start, groups) = (Instant::now(), AtomicU64::new(0));
    let items: u64 = std::thread::scope(|scope| {
        let run = || {
            let mut items = 0;
            while start.elapsed().as_secs_f64() < 2.0 {
                let lead = |items: Vec<u64>| {
                    std::thread::sleep(Duration::from_micros(60));
                    groups.fetch_add(1, Relaxed);
                    items
                };
                group.submit(1, 1, lead).unwrap();
                items += 1;
            }
            items
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum()
    });
    let rate = items as f64 / start.elapsed().as_secs_f64();
    let per_group = items as f64 / groups.into_inner() as f64;
    println!("{threads:3} threads, leader sleeps: {rate:9.0} items/s, {per_group:5.1} items per group");
    rate
}

#[test]
#[ignore = "measures"]
fn speed_of_group_commit() {
    let one = commit_with(1, 2.0);
    for threads in [2, 8, 16, 64, 128] {
        println!("            {:.1} times", commit_with(threads, 2.0) / one);
    }
    let one = commit_asleep(1);
    for threads in [8, 16, 64, 128] {
        println!("            {:.1} times", commit_asleep(threads) / one);
    }
    let group = GroupCommit::new(GroupLimits::default());
    let start = Instant::now();
    for n in 0..1_000_000_u64 {
        assert_eq!(group.submit(n, 8, |items| items), Ok(n));
    }
    println!("single-threaded overhead {} ns", start.elapsed().as_nanos() / 1_000_000);
}

#[test]
#[ignore = "measures"]
fn speed_of_building_appending_and_replaying() {
    for (len, count) in [(200, 500_000), (6_000, 50_000), (1_500_000, 300)] {
        let (directory, storage) = os();
        let mut wal = new_wal(directory.path(), &storage);
        let bytes = payload(1, len);
        let total = (len * count) as f64 / 1e6;
        let start = Instant::now();
        let mut records: Vec<Record> = (0..count)
            .map(|_| {
                let mut builder = RecordBuilder::with_capacity(len);
                builder.raw(&bytes);
                builder.finish()
            })
            .collect();
        let built = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for group in records.chunks_mut(16) {
            wal.append_group(&mut group.iter_mut().collect::<Vec<_>>(), false).unwrap();
        }
        let appended = start.elapsed().as_secs_f64();
        wal.close().unwrap();
        drop(records);
        let start = Instant::now();
        let mut seen = 0;
        let recovered =
            recover(&storage, directory.path(), DATABASE, &plimsoll_wal::Anchor::START, |record| {
                seen += record.payload().len();
                Ok::<_, WalError>(())
            });
        let replayed = start.elapsed().as_secs_f64();
        assert_eq!((seen, recovered.unwrap().records()), (len * count, count as u64));
        println!(
            "{len:8} B: build {:6.0} MB/s ({:.2} µs each), append {:6.0} MB/s, replay {:6.0} MB/s",
            total / built,
            built / count as f64 * 1e6,
            total / appended,
            total / replayed
        );
    }
}

#[test]
#[ignore = "measures"]
fn speed_of_opening_an_almost_empty_log() {
    let (directory, storage) = os();
    let mut wal = new_wal(directory.path(), &storage);
    append_known(&mut wal, 100, true);
    drop(wal);
    for _ in 0..3 {
        let start = Instant::now();
        recover(
            &storage,
            directory.path(),
            DATABASE,
            &plimsoll_wal::Anchor::START,
            |_| Ok::<_, WalError>(()),
        )
        .unwrap();
        println!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
}
