//! What a reader process sees: only what is known to be durable, in order, while the writer goes on (R10).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::*;
use plimsoll_base::storage::{OsStorage, Storage};
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_sim::SimStorage;
use plimsoll_wal::{ReadSummary, Recovered, Result, WalError, WalOptions, read_durable};

fn see(disk: &SimStorage, after: u64) -> Result<(Records, ReadSummary)> {
    let mut records = Vec::new();
    let summary = read_durable(disk, dir(), DATABASE, &anchor(after, after), |record| {
        records.push((record.lsn(), record.payload().to_vec()));
        Ok::<_, WalError>(())
    })?;
    Ok((records, summary))
}

#[test]
fn a_reader_sees_what_is_covered_and_no_more() {
    let disk = new_disk();
    assert_eq!(see(&disk, 0).unwrap().1.visible, Lsn(0));
    let mut wal = open(&disk);
    append_known(&mut wal, 10, true);
    assert!(see(&disk, 0).unwrap().0.is_empty(), "durable, but nothing says so yet");
    wal.append_mark().unwrap();
    assert_known(&see(&disk, 0).unwrap().0, &[10]);
    append_known(&mut wal, 20, false);
    append_known(&mut wal, 30, false);
    assert_eq!(see(&disk, 0).unwrap().1.visible, Lsn(1));
    append_known(&mut wal, 40, true);
    append_known(&mut wal, 50, false);
    let (records, summary) = see(&disk, 0).unwrap();
    assert_known(&records, &[10, 20, 30, 40]);
    assert_eq!((summary.visible, summary.records), (Lsn(4), 4));
    wal.rotate().unwrap();
    assert_known(&see(&disk, 0).unwrap().0, &[10, 20, 30, 40, 50]);
    assert_eq!(see(&disk, 3).unwrap().0.len(), 2);
    assert_eq!(see(&disk, 5).unwrap().0.len(), 0);
    let before = disk.operations();
    see(&disk, 0).unwrap();
    assert_eq!(disk.operations(), before, "a reader changes nothing");
}

#[test]
fn damage_of_what_is_covered_is_reported_and_an_incomplete_tail_is_not() {
    let disk = new_disk();
    let mut wal = open(&disk);
    for _ in 0..3 {
        append_known(&mut wal, 24, true);
    }
    for (bit_of_record, flip) in [(0, 40), (1, 40), (0, 5), (1, 5)] {
        let bit = (128 + 56 * bit_of_record + flip) * 8;
        disk.flip_bit(segment(1), bit).unwrap();
        assert_eq!(corrupted(see(&disk, 0)), (segment(1), 128 + 56 * bit_of_record));
        disk.flip_bit(segment(1), bit).unwrap();
    }
    disk.flip_bit(segment(1), (128 + 56 * 2 + 40) * 8).unwrap();
    assert_known(&see(&disk, 0).unwrap().0, &[24, 24]);
    disk.truncate(segment(1), 128 + 56 * 2 + 20).unwrap();
    disk.truncate(segment(1), 4096).unwrap();
    assert_known(&see(&disk, 0).unwrap().0, &[24]);
}

#[test]
fn a_vanished_segment_asks_for_a_newer_manifest() {
    let disk = new_disk();
    let mut wal = open(&disk);
    for _ in 0..3 {
        append_known(&mut wal, 3900, true);
    }
    wal.remove_below(Lsn(2)).unwrap();
    assert!(see(&disk, 0).unwrap_err().is_not_found());
    assert_eq!(see(&disk, 2).unwrap().1.visible, Lsn(2));
}

#[test]
fn readers_follow_a_live_writer() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let storage: std::sync::Arc<dyn Storage> = std::sync::Arc::new(OsStorage);
    let (floor, durable, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let mut wal = Recovered::fresh(&storage, dir, DATABASE, Lsn(0), FileNumber(0))
        .unwrap()
        .into_wal(WalOptions { segment_bytes: 16 << 10 }, salts(3));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in 0..600_u64 {
                append_known(&mut wal, (step * 37 % 900) as usize, step % 3 == 0);
                durable.store(wal.durable().0, Ordering::SeqCst);
                if step % 50 == 49 {
                    let flushed = wal.durable().0.saturating_sub(30);
                    floor.store(flushed, Ordering::SeqCst);
                    wal.remove_below(Lsn(flushed)).unwrap();
                }
            }
            wal.sync().unwrap();
            wal.append_mark().unwrap();
            done.store(true, Ordering::SeqCst);
        });
        for _ in 0..2 {
            scope.spawn(|| follow(dir, &floor, &durable, &done));
        }
    });
}

fn follow(dir: &Path, floor: &AtomicU64, durable: &AtomicU64, done: &AtomicBool) {
    let (mut seen, mut vanished) = (0, 0);
    loop {
        let finished = done.load(Ordering::SeqCst);
        let after = floor.load(Ordering::SeqCst);
        let mut next = after + 1;
        let result = read_durable(&OsStorage, dir, DATABASE, &anchor(after, after), |record| {
            assert_eq!(record.lsn().0, next);
            assert_eq!(record.payload(), payload(next, ((next - 1) * 37 % 900) as usize));
            next += 1;
            Ok::<_, WalError>(())
        });
        match result {
            Ok(summary) => {
                assert_eq!(summary.visible.0, next - 1);
                assert!(summary.visible.0 >= seen, "what was seen stays: {seen}, {summary:?}, after {after}");
                seen = summary.visible.0;
            }
            Err(error) if error.is_not_found() => vanished += 1,
            Err(error) => panic!("{error}"),
        }
        // The writer notes it after the sync, and the next record tells it before the note can be read.
        assert!(seen <= durable.load(Ordering::SeqCst) + 2, "{seen}");
        if finished {
            assert_eq!(seen, 600);
            break;
        }
    }
    assert!(vanished < 1000);
}
