//! Torn tails are cut exactly where they begin, and damage is reported: never a wrong record (R4, R5).

use crate::common::*;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_sim::SimStorage;
use plimsoll_wal::{Anchor, Result, WalError, WalOptions, describe, read_durable, recover, verify};

/// Records of these lengths, each synced on its own, so that each is proven by the next.
fn synced(lengths: &[usize]) -> SimStorage {
    let disk = new_disk();
    let mut wal = open(&disk);
    for len in lengths {
        append_known(&mut wal, *len, true);
    }
    disk
}

fn offsets(disk: &SimStorage, number: u64) -> Vec<u64> {
    let mut offsets = Vec::new();
    let info = describe(disk, &segment(number), |record| {
        offsets.push(record.offset);
        Ok(())
    });
    offsets.push(info.unwrap().records_end);
    offsets
}

#[test]
fn a_log_torn_at_any_byte_gives_exactly_the_records_before_the_tear() {
    let lengths = [0, 1, 7, 8, 9, 100, 33];
    let disk = synced(&lengths);
    let offsets = offsets(&disk, 1);
    let bytes = disk.bytes(segment(1)).unwrap();
    let end = *offsets.last().unwrap();
    for len in 0..=end {
        let cut = new_disk();
        cut.put(segment(1), &bytes[..len as usize]).unwrap();
        // No crash makes the file shorter.
        assert_eq!(corrupted(read(&cut)), (segment(1), len));
        assert!(verify(&cut, dir(), DATABASE, &Anchor::START).unwrap()[0].damage);
        // With the preallocated rest still there, as zeros, only lost bytes that were not zero count.
        cut.truncate(segment(1), 4096).unwrap();
        if bytes[len.min(128) as usize..128].iter().any(|byte| *byte != 0) {
            corrupted(read(&cut));
            continue;
        }
        let is_whole =
            |end: &&u64| bytes[len as usize..(**end).max(len) as usize].iter().all(|byte| *byte == 0);
        let survivors = offsets[1..].iter().take_while(is_whole).count();
        assert_known(&read(&cut).unwrap(), &lengths[..survivors]);
        // And the log goes on from there.
        let mut wal = open(&cut);
        append_known(&mut wal, 50, true);
        let expected: Vec<usize> = lengths[..survivors].iter().copied().chain([50]).collect();
        assert_known(&read(&cut).unwrap(), &expected);
        // What a manifest proves must be there.
        assert!(read_after(&cut, 0, survivors as u64 + 1).is_ok());
        corrupted(read_after(&cut, 0, survivors as u64 + 2));
    }
}

/// Every flipped bit leads to damage, or to a prefix that ends before the flipped record when nothing proves
/// that it had been durable; a flip in unused space leads to nothing.
fn flip_every_bit(disk: &SimStorage, lengths: &[usize], segments: u64) {
    let mut checked = 0;
    for number in 1..=segments {
        let path = segment(number);
        let offsets = offsets(disk, number);
        let bytes = disk.bytes(&path).unwrap();
        let first = lengths.len() - records_from(disk, number);
        for bit in 0..bytes.len() as u64 * 8 {
            // All bits of what is in use, some of what is not.
            let at = bit / 8;
            if at > offsets[offsets.len() - 1] + 40 && bit % 97 != 0 {
                continue;
            }
            disk.flip_bit(&path, bit).unwrap();
            let hit = offsets.iter().filter(|offset| **offset <= at).count();
            let result = read(disk);
            let in_last_record = hit == offsets.len() - 1;
            if at >= offsets[offsets.len() - 1] {
                assert_known(&result.unwrap(), lengths);
            } else if number == segments && in_last_record {
                assert_known(&result.unwrap(), &lengths[..lengths.len() - 1]);
            } else {
                let (file, offset) = corrupted(result);
                assert_eq!(file, path);
                let record = if hit == 0 { 0 } else { offsets[hit - 1] };
                assert!(hit == 0 && offset < 128 || offset == record, "bit {bit}: {offset}, not {record}");
                assert!(
                    verify(disk, dir(), DATABASE, &Anchor::START).unwrap().iter().any(|found| found.damage)
                );
            }
            disk.flip_bit(&path, bit).unwrap();
            checked += 1;
        }
        assert!(first < lengths.len());
    }
    assert_known(&read(disk).unwrap(), lengths);
    assert!(checked > 1000);
}

fn records_from(disk: &SimStorage, number: u64) -> usize {
    let mut records = 0;
    describe(disk, &segment(number), |_| {
        records += 1;
        Ok(())
    })
    .unwrap();
    records
}

#[test]
fn every_flipped_bit_of_one_segment_is_damage_or_a_cut_of_the_last_record() {
    let lengths = [3, 16, 0, 45];
    flip_every_bit(&synced(&lengths), &lengths, 1);
}

#[test]
fn every_flipped_bit_of_an_older_segment_is_damage() {
    let disk = new_disk();
    let mut wal = open_with(&disk, WalOptions { segment_bytes: 300 });
    let lengths = [10, 60, 90, 5, 61];
    for len in lengths {
        append_known(&mut wal, len, false);
    }
    assert_eq!(wal.stats().segments, 3);
    wal.rotate().unwrap();
    append_known(&mut wal, 1, true);
    append_known(&mut wal, 1, true);
    flip_every_bit(&disk, &[10, 60, 90, 5, 61, 1, 1], 4);
}

#[test]
fn a_hole_before_valid_records_that_were_not_synced_is_a_torn_tail() {
    let disk = new_disk();
    let mut wal = open(&disk);
    append_known(&mut wal, 40, true);
    for _ in 0..4 {
        append_known(&mut wal, 40, false);
    }
    let offsets = offsets(&disk, 1);
    for hole in 1..5 {
        let torn = new_disk();
        let mut bytes = disk.bytes(segment(1)).unwrap();
        bytes[offsets[hole] as usize..offsets[hole + 1] as usize].fill(0);
        torn.put(segment(1), bytes).unwrap();
        let (records, recovered) = read_after(&torn, 0, 0).unwrap();
        assert_known(&records, &[40, 40, 40, 40][..hole]);
        assert_eq!(recovered.next_lsn(), Lsn(hole as u64 + 1));
        // The valid records behind the cut are never seen again, whatever is written now.
        let mut wal = recovered.into_wal(small(), salts(77));
        append_known(&mut wal, 1, true);
        wal.close().unwrap();
        assert_known(&read(&torn).unwrap(), &[&[40; 4][..hole], &[1]].concat());
    }
}

#[test]
fn one_synced_record_behind_the_hole_makes_it_damage_even_if_its_own_payload_is_torn() {
    let disk = new_disk();
    let mut wal = open(&disk);
    for _ in 0..3 {
        append_known(&mut wal, 40, false);
    }
    wal.sync().unwrap();
    append_known(&mut wal, 40, false);
    let offsets = offsets(&disk, 1);
    for hole in 0..3 {
        let mut bytes = disk.bytes(segment(1)).unwrap();
        bytes[offsets[hole] as usize..offsets[3] as usize].fill(0);
        for torn_payload in [false, true] {
            bytes[offsets[3] as usize + 40] ^= u8::from(torn_payload);
            let damaged = new_disk();
            damaged.put(segment(1), &bytes).unwrap();
            assert_eq!(corrupted(read(&damaged)), (segment(1), offsets[hole]));
        }
    }
}

#[test]
fn the_search_for_proof_crosses_its_windows() {
    let disk = new_disk();
    let mut wal = open_with(&disk, WalOptions { segment_bytes: 8 << 20 });
    append_known(&mut wal, 10, true);
    // Headers at many places around the borders of the search windows.
    for len in [1 << 20, (1 << 20) - 32, (1 << 20) - 8, (1 << 20) + 8, (1 << 20) + 24, 16] {
        append_known(&mut wal, len, true);
    }
    let offsets = offsets(&disk, 1);
    let bytes = disk.bytes(segment(1)).unwrap();
    for last in 2..offsets.len() - 1 {
        let mut damaged = bytes.clone();
        damaged[offsets[1] as usize..offsets[last] as usize].fill(0);
        damaged[offsets[last] as usize + 32..].fill(0);
        let disk = new_disk();
        disk.put(segment(1), &damaged).unwrap();
        assert_eq!(corrupted(read(&disk)), (segment(1), offsets[1]));
    }
}

fn three_segments() -> SimStorage {
    synced(&[3900, 3900, 3900])
}

#[test]
fn missing_swapped_foreign_and_stale_segments_are_damage() {
    let read_names = |disk: &SimStorage| corrupted(read(disk)).0;
    for missing in 1..=2 {
        let disk = three_segments();
        disk.delete(segment(missing)).unwrap();
        assert_eq!(read_names(&disk), segment(missing));
        assert!(verify(&disk, dir(), DATABASE, &Anchor::START).unwrap()[0].damage);
    }
    // The newest one can be missed only by what the manifest knows.
    let disk = three_segments();
    disk.delete(segment(3)).unwrap();
    assert_known(&read(&disk).unwrap(), &[3900, 3900]);
    corrupted(read_after(&disk, 0, 3));
    (1..=2).for_each(|number| disk.delete(segment(number)).unwrap());
    assert_eq!(corrupted(read_after(&disk, 3, 3)).0, dir());
    assert!(read(&disk).unwrap().is_empty());

    let disk = three_segments();
    let bytes = |number| disk.bytes(segment(number)).unwrap();
    let (second, third) = (bytes(2), bytes(3));
    disk.put(segment(2), &third).unwrap();
    assert_eq!(read_names(&disk), segment(2));
    disk.put(segment(2), &second).unwrap();
    let foreign = recover(&shared(&disk), dir(), [8; 16], &Anchor::START, |_| Ok(()));
    assert_eq!(corrupted(foreign.map(|_: plimsoll_wal::Recovered| ())), (segment(3), 24));

    // A segment of another life of the same log: its salt is another.
    let other = new_disk();
    let mut wal = plimsoll_wal::Recovered::fresh(&shared(&other), dir(), DATABASE, Lsn(0), FileNumber(0))
        .unwrap()
        .into_wal(small(), salts(4711));
    for _ in 0..3 {
        append_known(&mut wal, 3900, true);
    }
    let mut mixed = other.bytes(segment(2)).unwrap();
    mixed[..128].copy_from_slice(&second[..128]);
    disk.put(segment(2), mixed).unwrap();
    assert_eq!(corrupted(read(&disk)), (segment(2), 128));
}

#[test]
fn every_length_of_an_older_segment_is_right_or_damage() {
    let disk = synced(&[3900, 3900]);
    let used = 128 + 32 + 3904;
    for len in (0..4096).step_by(61).chain([127, 128, 129, used - 1]) {
        disk.truncate(segment(1), len).unwrap();
        if len >= used {
            assert_eq!(read(&disk).unwrap().len(), 2);
        } else {
            assert_eq!(corrupted(read(&disk)).0, segment(1));
        }
        disk.put(segment(1), synced(&[3900, 3900]).bytes(segment(1)).unwrap()).unwrap();
    }
}

/// A valid record where another LSN belongs: the file was put together by someone.
#[test]
fn a_duplicate_or_a_leap_of_lsns_is_damage() -> Result<()> {
    let disk = synced(&[24, 24, 24, 24]);
    let offsets = offsets(&disk, 1);
    let bytes = disk.bytes(segment(1)).unwrap();
    for (from, to) in [(0, 1), (1, 3), (3, 1), (2, 0)] {
        let mut swapped = bytes.clone();
        let record = &bytes[offsets[from] as usize..offsets[from] as usize + 56];
        swapped[offsets[to] as usize..offsets[to] as usize + 56].copy_from_slice(record);
        let other = new_disk();
        other.put(segment(1), swapped)?;
        assert_eq!(corrupted(read(&other)), (segment(1), offsets[to]));
    }
    Ok(())
}

#[test]
fn the_newest_segment_that_a_manifest_knows_is_missed() {
    let disk = synced(&[3900, 3900]);
    let known = Anchor { newest: FileNumber(2), ..Anchor::START };
    let recovered = || recover(&shared(&disk), dir(), DATABASE, &known, |_| Ok::<_, WalError>(()));
    let seen = || read_durable(&disk, dir(), DATABASE, &known, |_| Ok::<_, WalError>(()));
    assert_eq!(recovered().unwrap().records(), 2);
    assert_eq!(seen().unwrap().records, 1);
    disk.delete(segment(2)).unwrap();
    assert_eq!(corrupted(recovered()).0, segment(2));
    assert!(seen().unwrap_err().is_not_found());
    assert_eq!(verify(&disk, dir(), DATABASE, &known).unwrap()[0].file, segment(2));
    // Without that knowledge, the first segment is the log.
    assert_eq!(read(&disk).unwrap().len(), 1);
}
