use proptest::prelude::*;

use super::*;

fn segment_header() -> impl Strategy<Value = SegmentHeader> {
    let parts = (any::<[u8; 16]>(), 2..u64::MAX, any::<u64>(), any::<u64>(), 128..u64::MAX, 0..u64::MAX - 1);
    parts.prop_map(|(database, number, salt, previous, end, last)| {
        let previous = Previous { number: FileNumber(1 + previous % (number - 1)), end, last_lsn: Lsn(last) };
        SegmentHeader::new(database, FileNumber(number), salt, previous)
    })
}

fn record_header() -> impl Strategy<Value = RecordHeader> {
    let parts = (0..=MAX_PAYLOAD as u32, any::<u32>(), 1..u64::MAX, any::<u64>(), any::<bool>());
    parts.prop_map(|(payload_len, payload_crc, lsn, durable, mark)| {
        let (payload_len, kind) =
            if mark { (0, RecordKind::Mark) } else { (payload_len, RecordKind::Commit) };
        let durable_before = Lsn(durable % lsn);
        RecordHeader { payload_len, payload_crc, lsn: Lsn(lsn), durable_before, kind }
    })
}

proptest! {
    #[test]
    fn a_segment_header_is_decoded_as_it_was_encoded(header in segment_header(), bit in 0_usize..1024) {
        let mut bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&bytes, Path::new("f")).unwrap(), header);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(SegmentHeader::decode(&bytes, Path::new("f")).is_err());
    }

    #[test]
    fn a_record_header_is_decoded_as_it_was_encoded_and_only_with_its_salt(
        header in record_header(), salt: u64, other: u64, bit in 0_usize..256,
    ) {
        let mut bytes = header.encode(salt);
        prop_assert_eq!(RecordHeader::decode(&bytes, salt), Some(header));
        if other != salt {
            prop_assert_eq!(RecordHeader::decode(&bytes, other), None);
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(RecordHeader::decode(&bytes, salt), None);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in any::<[u8; RECORD_HEADER_LEN]>(), long: Vec<u8>) {
        prop_assert_eq!(RecordHeader::decode(&bytes, 1), None);
        prop_assert!(SegmentHeader::decode(&long, Path::new("f")).is_err());
    }
}

#[test]
fn the_first_segment_of_a_log_has_no_predecessor() {
    let header = SegmentHeader::new([1; 16], FileNumber(1), 5, Previous::none(Lsn::ZERO));
    assert_eq!(SegmentHeader::decode(&header.encode(), Path::new("f")).unwrap(), header);
    assert_eq!(header.first_lsn(), Lsn(1));
    // A segment can not follow itself: the chain always ends.
    let own = Previous { number: FileNumber(1), end: 128, last_lsn: Lsn::ZERO };
    let header = SegmentHeader::new([1; 16], FileNumber(1), 5, own);
    assert!(SegmentHeader::decode(&header.encode(), Path::new("f")).is_err());
}

#[test]
fn names_are_parsed_only_as_they_are_written() {
    let dir = Path::new("wal");
    for number in [1, 42, 999_999_999_999, 1_000_000_000_000, u64::MAX] {
        let path = segment_path(dir, FileNumber(number));
        assert_eq!(segment_number(path.file_name().unwrap().to_str().unwrap()), Some(FileNumber(number)));
        let path = spare_path(dir, number);
        assert_eq!(spare_number(path.file_name().unwrap().to_str().unwrap()), Some(number));
    }
    for name in
        ["1.wal", "000000000000.wal", "+00000000001.wal", "000000000001.WAL", "0000000000001.wal", ".wal"]
    {
        assert_eq!(segment_number(name), None, "{name}");
    }
    assert_eq!(segment_path(dir, FileNumber(7)), Path::new("wal/000000000007.wal"));
}
