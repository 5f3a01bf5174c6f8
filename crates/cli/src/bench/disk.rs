//! What the disk itself can do: append and fdatasync, through the same layer and with the same preallocation as
//! the log.

use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll::Error;
use plimsoll::storage::{OsStorage, Storage as _};

use crate::error::Result;

/// The size of a segment of the log.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Appends records of `length` bytes and syncs each, until `budget` has passed. Returns how many there were,
/// and the time they took; creating and preallocating files is not in it, as the log does that ahead of need.
pub(super) fn append_and_sync(dir: &Path, length: usize, budget: Duration) -> Result<(u64, Duration)> {
    let record: Vec<u8> = (0..length).map(|byte| (byte * 131 >> 3) as u8).collect();
    let path = dir.join("disk.bin");
    let (mut records, mut time) = (0, Duration::ZERO);
    let mut measure = || -> Result<(), plimsoll::StorageError> {
        while time < budget {
            let mut file = OsStorage.create(&path)?;
            file.preallocate(SEGMENT_BYTES)?;
            file.sync()?;
            OsStorage.sync_dir(dir)?;
            let start = Instant::now();
            while file.position() + length as u64 <= SEGMENT_BYTES && time + start.elapsed() < budget {
                file.append(&record)?;
                file.sync()?;
                records += 1;
            }
            time += start.elapsed();
            OsStorage.remove(&path)?;
        }
        Ok(())
    };
    measure().map_err(Error::from)?;
    Ok((records, time))
}
