//! The log without faults: what is appended is there, in order, and files come and go as they should.

use crate::common::*;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_wal::{RecordBuilder, Recovered, WalError, WalOptions, describe};

#[test]
fn what_is_appended_is_replayed_and_appending_goes_on() {
    let disk = new_disk();
    let mut wal = open(&disk);
    let lengths: Vec<usize> = (0..40).map(|n| n * 13 % 300).collect();
    for (n, len) in lengths.iter().enumerate() {
        let lsn = append_known(&mut wal, *len, n % 3 == 0);
        assert_eq!(lsn, Lsn(n as u64 + 1));
        assert_eq!(wal.durable() == wal.appended(), n % 3 == 0 || wal.durable() == lsn, "record {n}");
    }
    drop(wal);
    assert_known(&read(&disk).unwrap(), &lengths);
    let mut wal = open(&disk);
    assert_eq!(wal.appended(), Lsn(40));
    append_known(&mut wal, 5, true);
    drop(wal);
    let more: Vec<usize> = lengths.into_iter().chain([5]).collect();
    assert_known(&read(&disk).unwrap(), &more);
    assert_known(&read(&disk.after_crash(plimsoll_sim::CrashPolicy::LoseAll)).unwrap(), &more);
    assert_eq!(disk.violations(), [""; 0]);
}

#[test]
fn opening_and_closing_changes_nothing() {
    let disk = new_disk();
    let before = disk.operations();
    open(&disk).close().unwrap();
    assert_eq!(disk.operations(), before);
    let mut wal = open(&disk);
    append_known(&mut wal, 100, true);
    wal.close().unwrap();
    let (before, names) = (disk.operations(), disk.paths());
    for _ in 0..2 {
        let wal = open(&disk);
        assert_eq!((wal.appended(), wal.durable()), (Lsn(1), Lsn(1)), "closing left a mark");
        wal.close().unwrap();
    }
    assert_eq!((disk.operations(), disk.paths()), (before, names));
}

#[test]
fn a_group_shares_one_write_and_one_sync_and_large_records_are_written_as_they_are() {
    let disk = new_disk();
    let mut wal = open_with(&disk, WalOptions { segment_bytes: 1 << 20 });
    append_known(&mut wal, 1, true);
    let before = disk.operations();
    append(&mut wal, &(2..66).map(|n| payload(n, 50)).collect::<Vec<_>>(), true).unwrap();
    assert_eq!(disk.operations() - before, 2);
    let before = disk.operations();
    let sizes = [10, 100_000, 20, 30, 200_000];
    append(&mut wal, &sizes.map(|len| payload(1, len)), true).unwrap();
    assert_eq!(disk.operations() - before, 5);
    let read = read(&disk).unwrap();
    assert_eq!(read.len(), 70);
    assert_eq!(read[69].1, payload(1, 200_000));
    assert_eq!((wal.stats().groups, wal.stats().records), (3, 70));
}

#[test]
fn a_group_that_does_not_fit_starts_a_segment_and_a_larger_one_gets_a_segment_of_its_own() {
    let disk = new_disk();
    let mut wal = open(&disk);
    let lengths = [3000, 1500, 20_000, 100, 3900];
    for len in lengths {
        append_known(&mut wal, len, false);
    }
    let stats = wal.stats();
    assert_eq!((stats.segments, stats.segments_started), (5, 5));
    assert_eq!(wal.durable(), Lsn(4), "a rotation syncs the old segment");
    assert_eq!(disk.bytes(segment(3)).unwrap().len(), 128 + 32 + 20_000);
    assert_known(&read(&disk).unwrap(), &lengths);
    assert_known(&read(&disk.after_crash(plimsoll_sim::CrashPolicy::LoseAll)).unwrap(), &lengths[..4]);
    assert_eq!(disk.violations(), [""; 0]);
}

#[test]
fn a_spare_is_used_by_the_next_rotation_and_removed_at_close() {
    let disk = new_disk();
    let mut wal = open(&disk);
    let spares = wal.spares();
    assert!(spares.prepare().unwrap());
    assert!(!spares.prepare().unwrap());
    let before = disk.operations();
    append_known(&mut wal, 10, true);
    // Header, sync, rename, directory, then the record and its sync.
    assert_eq!(disk.operations() - before, 6);
    assert!(!spares.is_ready());
    std::thread::spawn(move || spares.prepare().unwrap()).join().unwrap();
    assert!(wal.stats().spare_ready);
    assert_eq!(disk.paths().len(), 2, "{:?}", disk.paths());
    wal.close().unwrap();
    assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());
    // A spare that a crash left behind goes at the next opening.
    open(&disk).spares().prepare().unwrap();
    assert_eq!(disk.paths().len(), 2);
    let wal = open(&disk);
    assert_eq!(disk.paths().len(), 1);
    wal.spares().prepare().unwrap();
}

#[test]
fn segments_below_an_lsn_are_removed_but_never_the_newest() {
    let disk = new_disk();
    let mut wal = open(&disk);
    for _ in 0..6 {
        append_known(&mut wal, 3900, true);
    }
    assert_eq!(wal.remove_below(Lsn(3)).unwrap(), 3);
    assert!(disk.bytes(segment(3)).is_none() && disk.bytes(segment(4)).is_some());
    assert_eq!(read_after(&disk, 3, 3).unwrap().0.len(), 3);
    // What is needed must be there.
    corrupted(read_after(&disk, 2, 3));
    assert_eq!(wal.remove_below(Lsn(6)).unwrap(), 2);
    drop(wal);
    let (records, recovered) = read_after(&disk, 6, 6).unwrap();
    assert!(records.is_empty());
    let mut wal = recovered.into_wal(small(), salts(1));
    assert_eq!(wal.remove_below(Lsn(6)).unwrap(), 0, "the newest one says where the log goes on");
    append_known(&mut wal, 10, true);
    assert_eq!(wal.remove_below(Lsn(6)).unwrap(), 1);
    assert_eq!(read_after(&disk, 6, 6).unwrap().0, [(Lsn(7), payload(7, 10))]);
}

#[test]
fn segments_below_after_are_not_read() {
    let disk = new_disk();
    let mut wal = open(&disk);
    for _ in 0..6 {
        append_known(&mut wal, 3900, true);
    }
    let (records, recovered) = read_after(&disk, 4, 4).unwrap();
    assert_eq!(records.len(), 2);
    assert!(recovered.bytes_read() < 3 * 4096, "{}", recovered.bytes_read());
    assert_eq!((recovered.records(), recovered.segments()), (2, 6));
    // Segments that a crash has brought back after their removal do no harm, not even damaged ones.
    disk.flip_bit(segment(2), 999).unwrap();
    disk.delete(segment(3)).unwrap();
    assert_eq!(read_after(&disk, 4, 4).unwrap().0.len(), 2);
}

#[test]
fn a_mark_is_written_only_when_it_says_something_new() {
    let disk = new_disk();
    let mut wal = open(&disk);
    assert!(!wal.append_mark().unwrap());
    append_known(&mut wal, 10, false);
    assert!(!wal.append_mark().unwrap(), "nothing is durable");
    wal.sync().unwrap();
    assert!(wal.append_mark().unwrap());
    assert!(!wal.append_mark().unwrap());
    append_known(&mut wal, 10, true);
    append_known(&mut wal, 10, true);
    assert!(wal.append_mark().unwrap());
    assert_eq!(wal.stats().marks, 2);
    assert_eq!(wal.appended(), Lsn(3), "a mark takes no LSN");
    assert_known(&read(&disk).unwrap(), &[10, 10, 10]);
    let mut seen = Vec::new();
    let info = describe(&disk, &segment(1), |record| {
        seen.push((record.header.lsn.0, record.header.durable_before.0, record.payload_valid, record.gap));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(1, 0, true, 0), (1, 1, true, 0), (2, 1, true, 0), (3, 2, true, 0), (3, 3, true, 0)]);
    assert_eq!((info.file_len, info.records_end), (4096, 128 + 3 * 48 + 2 * 32));
    assert_eq!(info.header.file.number, FileNumber(1));
}

#[test]
fn an_unproven_tail_moves_to_a_new_segment_before_anything_depends_on_it() {
    let disk = new_disk();
    let mut wal = open_with(&disk, WalOptions { segment_bytes: 1 << 20 });
    append_known(&mut wal, 100, true);
    let lengths = [100, 200, 70_000, 5];
    for len in &lengths[1..] {
        append_known(&mut wal, *len, false);
    }
    drop(wal);
    // A kill: everything is in the page cache, nothing but the first record on disk, none of it proven.
    let killed = disk.after_kill();
    let (_, recovered) = read_after(&killed, 0, 0).unwrap();
    assert_eq!((recovered.next_lsn(), recovered.durable()), (Lsn(5), Lsn(1)));
    let mut wal = recovered.into_wal(small(), salts(5));
    assert_eq!(wal.sync().unwrap(), Lsn(4));
    let after = killed.after_crash(plimsoll_sim::CrashPolicy::LoseAll);
    assert_known(&read(&after).unwrap(), &lengths);
    // The copy is as good as the original, also as something to append to.
    append_known(&mut wal, 9, true);
    wal.close().unwrap();
    assert_known(&read(&killed).unwrap(), &[100, 200, 70_000, 5, 9]);
}

#[test]
fn a_repaired_log_begins_where_it_is_told_to() {
    let disk = new_disk();
    let mut wal = Recovered::fresh(&shared(&disk), dir(), DATABASE, Lsn(100), FileNumber(0))
        .unwrap()
        .into_wal(small(), salts(1));
    wal.rotate().unwrap();
    let (records, recovered) = read_after(&disk, 100, 100).unwrap();
    assert_eq!((records.len(), recovered.next_lsn()), (0, Lsn(101)));
    append(&mut wal, &[payload(101, 7)], true).unwrap();
    assert_eq!(read_after(&disk, 100, 100).unwrap().0, [(Lsn(101), payload(101, 7))]);
    corrupted(read_after(&disk, 99, 99));
    corrupted(Recovered::fresh(&shared(&disk), dir(), DATABASE, Lsn(0), FileNumber(0)));
}

#[test]
fn an_error_of_the_visitor_stops_the_replay() {
    let disk = new_disk();
    let mut wal = open(&disk);
    for _ in 0..5 {
        append_known(&mut wal, 10, true);
    }
    let mut seen = 0;
    let result = plimsoll_wal::recover(&shared(&disk), dir(), DATABASE, &plimsoll_wal::Anchor::START, |_| {
        seen += 1;
        if seen == 3 { Err(WalError::RecordTooLarge { len: 1, limit: 0 }) } else { Ok(()) }
    });
    assert!(matches!(result, Err(WalError::RecordTooLarge { .. })));
    assert_eq!(seen, 3);
}

#[test]
fn a_builder_makes_the_same_record_in_one_piece_or_in_many() {
    let bytes = payload(3, 1000);
    let whole = record(&bytes);
    for step in [1, 7, 31, 32, 64, 100, 999] {
        let mut builder = RecordBuilder::with_capacity(0);
        for piece in bytes.chunks(step) {
            builder.raw(piece);
        }
        assert_eq!(builder.payload(), bytes);
        let record = builder.finish();
        assert_eq!(record.payload(), whole.payload());
        assert_eq!(record.payload().as_ptr().addr() % 32, 0);
        assert!(record.memory() < 1600, "{}", record.memory());
    }
    let mut builder = RecordBuilder::with_capacity(10);
    builder.u32(9).u8(1).align(32).f32s(&[1.5, -2.0]).prefixed(b"xyz");
    let record = builder.finish();
    assert_eq!(record.payload()[..5], [9, 0, 0, 0, 1]);
    assert_eq!(bytemuck::cast_slice::<u8, f32>(&record.payload()[32..40]), [1.5, -2.0]);
    assert_eq!(record.payload()[40..], [3, 0, 0, 0, b'x', b'y', b'z']);
    assert_eq!(record.encoded_len(), 80);
}
