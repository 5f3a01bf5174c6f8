//! What the disk itself can do: append and fdatasync, through the same layer and with the same preallocation as
//! the log.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plimsoll::storage::{OsStorage, Storage as _, WriteFile};
use plimsoll::{Error, StorageError};

use super::measure::rate;
use crate::error::Result;

/// The size of a segment of the log.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Appends and syncs records of one length, in slices of time, and remembers how fast that was.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    record: Vec<u8>,
    file: Option<Box<dyn WriteFile>>,
    records: u64,
    time: Duration,
}

impl Disk {
    /// Nothing is measured yet.
    pub(super) fn new(dir: &Path, length: usize) -> Self {
        let record = (0..length).map(|byte| ((byte * 131) >> 3) as u8).collect();
        Self { dir: dir.to_path_buf(), record, file: None, records: 0, time: Duration::ZERO }
    }

    /// Appends and syncs for `budget`. Creating and preallocating files is not measured: the log does it ahead
    /// of need.
    pub(super) fn run(&mut self, budget: Duration) -> Result<()> {
        self.run_for(budget).map_err(|error| Error::from(error).into())
    }

    fn run_for(&mut self, budget: Duration) -> Result<(), StorageError> {
        let length = self.record.len() as u64;
        let mut left = budget;
        while !left.is_zero() {
            let mut file = match self.file.take().filter(|file| file.position() + length <= SEGMENT_BYTES) {
                Some(file) => file,
                None => self.create()?,
            };
            let start = Instant::now();
            while file.position() + length <= SEGMENT_BYTES && start.elapsed() < left {
                file.append(&self.record)?;
                file.sync()?;
                self.records += 1;
            }
            let elapsed = start.elapsed();
            self.time += elapsed;
            left = left.saturating_sub(elapsed);
            self.file = Some(file);
        }
        Ok(())
    }

    fn create(&self) -> Result<Box<dyn WriteFile>, StorageError> {
        let path = self.dir.join(format!("disk-{}.bin", self.record.len()));
        if path.exists() {
            OsStorage.remove(&path)?;
        }
        let mut file = OsStorage.create(&path)?;
        file.preallocate(SEGMENT_BYTES)?;
        file.sync()?;
        OsStorage.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// Records per second, over all slices.
    pub(super) fn records_per_second(&self) -> f64 {
        rate(self.records as f64, self.time)
    }

    /// Bytes per second, over all slices.
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.records_per_second() * self.record.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(dir.path(), 4096);
        assert_eq!(disk.records_per_second(), 0.0);
        disk.run(Duration::from_millis(5)).unwrap();
        let (records, time) = (disk.records, disk.time);
        disk.run(Duration::from_millis(5)).unwrap();
        assert!(disk.records > records && disk.time > time && time >= Duration::from_millis(5));
        assert_eq!(disk.bytes_per_second(), disk.records_per_second() * 4096.0);
    }
}
