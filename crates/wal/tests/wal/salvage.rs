//! What a damaged log still gives: every record that is whole, and none that never was.

use crate::common::*;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_sim::SimStorage;
use plimsoll_wal::{Anchor, LsnRange, Salvaged, WalError, salvage};

fn salvaged(disk: &SimStorage, anchor: &Anchor) -> (Records, Salvaged) {
    let mut records = Vec::new();
    let salvaged = salvage(disk, dir(), DATABASE, anchor, |record| {
        records.push((record.lsn(), record.payload().to_vec()));
        Ok::<_, WalError>(())
    })
    .unwrap();
    (records, salvaged)
}

/// Three segments with eight records, each of a known payload.
fn three_segments() -> SimStorage {
    let disk = new_disk();
    let mut wal = open(&disk);
    for len in [1000, 900, 1800, 40, 3000, 16, 900, 24] {
        append_known(&mut wal, len, true);
    }
    assert!(disk.bytes(segment(3)).is_some());
    disk
}

#[test]
fn a_sound_log_is_salvaged_whole() {
    let disk = three_segments();
    let (records, found) = salvaged(&disk, &Anchor::START);
    assert_eq!(records, read(&disk).unwrap());
    assert_eq!((found.records, found.last, found.findings.len(), found.lost.len()), (8, Lsn(8), 0, 0));
    assert!(!found.end_damaged);
    let (records, found) = salvaged(&disk, &anchor(5, 8));
    assert_eq!((records.len(), found.records, found.last), (3, 3, Lsn(8)));
}

#[test]
fn a_flipped_bit_costs_one_record_at_most() {
    let disk = three_segments();
    let whole = read(&disk).unwrap();
    for number in 1..=3 {
        for bit in (0..4096 * 8).step_by(5) {
            disk.flip_bit(segment(number), bit).unwrap();
            let (records, found) = salvaged(&disk, &anchor(0, 8));
            let lost = whole.iter().filter(|record| !records.contains(record)).count();
            assert_eq!(
                records.len() + lost,
                whole.len(),
                "bit {bit} of segment {number}: something is invented"
            );
            assert!(lost <= 1, "bit {bit} of segment {number}: {lost} records are lost");
            assert_eq!(found.lost.iter().map(LsnRange::len).sum::<u64>(), lost as u64);
            assert!(lost == 0 || !found.findings.is_empty());
            assert_eq!(found.last, Lsn(8));
            disk.flip_bit(segment(number), bit).unwrap();
        }
    }
}

#[test]
fn a_missing_or_cut_segment_costs_its_records() {
    let disk = three_segments();
    let known = Anchor { newest: FileNumber(3), ..anchor(0, 8) };
    let per_segment: Vec<usize> = (1..=3).map(|number| offsets_of(&disk, number)).collect();
    for number in 1..=3u64 {
        let bytes = disk.bytes(segment(number)).unwrap();
        for len in [0, 1, 100, 128, 200, 2000] {
            disk.truncate(segment(number), len).unwrap();
            let (records, found) = salvaged(&disk, &known);
            assert!(records.len() >= 8 - per_segment[number as usize - 1], "segment {number} cut at {len}");
            assert_eq!(found.lost.iter().map(LsnRange::len).sum::<u64>(), 8 - records.len() as u64);
            assert_eq!(found.end_damaged, number == 3, "segment {number} cut at {len}");
            disk.put(segment(number), &bytes).unwrap();
        }
        disk.delete(segment(number)).unwrap();
        let (records, found) = salvaged(&disk, &known);
        assert_eq!(records.len(), 8 - per_segment[number as usize - 1], "segment {number} is missing");
        assert!(!found.findings.is_empty());
        assert_eq!(found.end_damaged, number == 3, "segment {number} is missing");
        disk.put(segment(number), &bytes).unwrap();
    }
}

fn offsets_of(disk: &SimStorage, number: u64) -> usize {
    let mut records = 0;
    plimsoll_wal::describe(disk, &segment(number), |_| {
        records += 1;
        Ok(())
    })
    .unwrap();
    records
}

/// What a failed append has left is not mixed up with what got its LSNs after it.
#[test]
fn the_records_of_a_failed_append_do_not_count() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 40, true);
    let failure = plimsoll_sim::Failure::errno(5).although_done();
    disk.fail_next(plimsoll_sim::OperationKind::Append, failure, 1);
    append(&mut wal, &[payload(99, 64)], true).unwrap_err();
    append_known(&mut wal, 80, true);
    assert_known(&salvaged(&disk, &Anchor::START).0, &[40, 80]);
    // Not even when the header that says so is damaged.
    disk.flip_bit(segment(2), 90 * 8).unwrap();
    assert_known(&salvaged(&disk, &Anchor::START).0, &[40, 80]);
}
