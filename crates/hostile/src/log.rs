//! Any bytes as a segment of the log.

use std::path::Path;
use std::sync::Arc;

use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn};
use plimsoll_sim::SimStorage;
use plimsoll_wal::format::{Previous, SegmentHeader, segment_path};
use plimsoll_wal::{
    Anchor, Record, RecordBuilder, WalError, WalOptions, describe, read_durable, recover, verify,
};

use crate::checksums;

const DATABASE: [u8; 16] = [7; 16];
const SALT: u64 = 0x1234;

/// Recovery, a reader, `verify` and `dump` answer or refuse. What recovery accepts, it accepts again after it went
/// on.
pub(crate) fn wal_reader(input: &[u8]) {
    let Some((mode, bytes)) = input.split_first() else { return };
    let (dir, disk) = (Path::new("/wal"), SimStorage::new());
    let path = segment_path(dir, FileNumber(1));
    let bytes = segment(*mode, bytes);
    disk.put(&path, &bytes).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());

    let mut seen = Vec::new();
    let keep = |record: Record| {
        assert!(record.payload().len() <= bytes.len());
        seen.push(record.payload().to_vec());
        Ok::<_, WalError>(())
    };
    let recovered = recover(&storage, dir, DATABASE, &Anchor::START, keep);
    // A reader sees what is proven, which recovery knows, too.
    let mut read = Vec::new();
    let keep = |record: Record| {
        read.push(record.payload().to_vec());
        Ok::<_, WalError>(())
    };
    if read_durable(&disk, dir, DATABASE, &Anchor::START, keep).is_ok() && recovered.is_ok() {
        assert!(seen.starts_with(&read), "a reader saw what recovery does not");
    }
    let described = describe(&disk, &path, |_| Ok(()));
    assert!(recovered.is_err() || seen.is_empty() || described.is_ok());
    let damaged = verify(&disk, dir, DATABASE, &Anchor::START).unwrap().iter().any(|finding| finding.damage);
    assert_eq!(damaged, recovered.is_err());

    let Ok(recovered) = recovered else { return };
    let mut wal = recovered.into_wal(WalOptions { segment_bytes: 4096 }, Box::new(|| 99));
    let mut more = RecordBuilder::with_capacity(4);
    more.raw(b"more");
    wal.append_group(&mut [&mut more.finish()], true).unwrap();
    let mut again = Vec::new();
    recover(&storage, dir, DATABASE, &Anchor::START, |record| {
        again.push(record.payload().to_vec());
        Ok::<_, WalError>(())
    })
    .unwrap();
    seen.push(b"more".to_vec());
    assert_eq!(again, seen);
}

/// Mode 0: the bytes as they are. 1: behind a good segment header. 2: also with the checksums of the records
/// put right, one after another as their lengths say.
fn segment(mode: u8, bytes: &[u8]) -> Vec<u8> {
    if mode.is_multiple_of(3) {
        return bytes.to_vec();
    }
    let header = SegmentHeader::new(DATABASE, FileNumber(1), SALT, Previous::none(Lsn::ZERO));
    let mut segment = [&header.encode()[..], bytes].concat();
    if mode % 3 == 2 {
        checksums::of_segment(&mut segment);
    }
    segment
}
