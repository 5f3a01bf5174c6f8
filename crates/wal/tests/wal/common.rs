//! What the tests of the log share: a simulated disk, known payloads, and one-line open and append.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn, StorageError};
use plimsoll_sim::SimStorage;
use plimsoll_wal::{
    Anchor, LsnRange, Record, RecordBuilder, Recovered, Result, SaltSource, Wal, WalError, WalOptions,
    recover,
};

pub(crate) const DATABASE: [u8; 16] = [7; 16];

pub(crate) fn dir() -> &'static Path {
    Path::new("/db/wal")
}

pub(crate) fn segment(number: u64) -> PathBuf {
    plimsoll_wal::format::segment_path(dir(), FileNumber(number))
}

/// A disk with the log's directory, durable.
pub(crate) fn new_disk() -> SimStorage {
    let disk = SimStorage::new();
    disk.create_dir(dir()).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new("/db")).unwrap();
    disk
}

pub(crate) fn shared(disk: &SimStorage) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

/// Salts that repeat from a seed.
pub(crate) fn salts(mut seed: u64) -> SaltSource {
    Box::new(move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    })
}

/// A payload that belongs to `tag` alone.
pub(crate) fn payload(tag: u64, len: usize) -> Vec<u8> {
    let byte =
        |index: usize| (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(index as u32 % 64) >> 8) as u8;
    (0..len).map(|index| byte(index) ^ (index / 7) as u8).collect()
}

pub(crate) fn record(payload: &[u8]) -> Record {
    let mut builder = RecordBuilder::with_capacity(payload.len());
    builder.raw(payload);
    builder.finish()
}

pub(crate) fn small() -> WalOptions {
    WalOptions { segment_bytes: 4096 }
}

pub(crate) type Records = Vec<(Lsn, Vec<u8>)>;

/// What a manifest knows that does not know the log's files.
pub(crate) fn anchor(after: u64, durable: u64) -> Anchor {
    Anchor { after: Lsn(after), durable: Lsn(durable), ..Anchor::START }
}

/// Recovers everything after `after`.
pub(crate) fn read_after(disk: &SimStorage, after: u64, proven: u64) -> Result<(Records, Recovered)> {
    let mut records = Vec::new();
    let recovered = recover(&shared(disk), dir(), DATABASE, &anchor(after, proven), |record| {
        records.push((record.lsn(), record.payload().to_vec()));
        Ok::<_, WalError>(())
    })?;
    Ok((records, recovered))
}

pub(crate) fn read(disk: &SimStorage) -> Result<Records> {
    Ok(read_after(disk, 0, 0)?.0)
}

pub(crate) fn open_with(disk: &SimStorage, options: WalOptions) -> Wal {
    read_after(disk, 0, 0).unwrap().1.into_wal(options, salts(disk.operations()))
}

pub(crate) fn open(disk: &SimStorage) -> Wal {
    open_with(disk, small())
}

pub(crate) fn append(wal: &mut Wal, payloads: &[Vec<u8>], sync: bool) -> Result<LsnRange> {
    let mut records: Vec<Record> = payloads.iter().map(|payload| record(payload)).collect();
    wal.append_group(&mut records.iter_mut().collect::<Vec<_>>(), sync)
}

/// Appends one record whose payload is known from its LSN.
pub(crate) fn append_known(wal: &mut Wal, len: usize, sync: bool) -> Lsn {
    let lsn = wal.appended().next();
    append(wal, &[payload(lsn.0, len)], sync).unwrap();
    lsn
}

/// That the records are those of [`append_known`] with these lengths, from LSN 1.
pub(crate) fn assert_known(records: &Records, lengths: &[usize]) {
    let expected: Records =
        lengths.iter().zip(1..).map(|(len, lsn)| (Lsn(lsn), payload(lsn, *len))).collect();
    assert_eq!(*records, expected);
}

#[track_caller]
pub(crate) fn corrupted<T>(result: Result<T>) -> (PathBuf, u64) {
    match result {
        Err(WalError::Storage(StorageError::Corrupted { file, offset, .. })) => (file, offset),
        Err(error) => panic!("not damage: {error}"),
        Ok(_) => panic!("the damage was not noticed"),
    }
}
