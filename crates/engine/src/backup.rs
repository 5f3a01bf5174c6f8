//! A copy of the database that opens like any other.
//!
//! Everything is flushed, then the files that one manifest names are copied, checked against its checksums on the way,
//! and then a log that begins after them, and last of all the manifest: until it is there, the copy is not a database.
//! Writes and searches go on meanwhile; what is written after the copy began is not in it.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_base::checksum::Crc32;
use plimsoll_base::storage::{Storage, list_if_there};
use plimsoll_base::{FileNumber, Lsn, StorageError};
use plimsoll_shard::FileMeta;
use plimsoll_wal::Recovered;

use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::jobs::Job;
use crate::manifest::Manifest;
use crate::recover::{DATA_DIR, WAL_DIR, salts, sync_names_of, wal_options};
use crate::stats::FlushReason;

/// What a backup has copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupStats {
    /// Sealed files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Every write up to here is in the copy.
    pub lsn: Lsn,
    /// How long it took, with the flush before it.
    pub total: Duration,
}

impl fmt::Display for BackupStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, bytes, lsn, total } = self;
        let megabytes = *bytes as f64 / 1e6;
        write!(f, "copied {files} files, {megabytes:.1} MB, up to LSN {lsn}, in {:.3} s", total.as_secs_f64())
    }
}

/// How much is copied at once.
const CHUNK: usize = 1 << 20;

impl Core {
    /// Copies the database to `directory`, which must be empty or not be there.
    pub(crate) fn backup(&self, directory: &Path, job: &Job) -> Result<BackupStats> {
        let start = Instant::now();
        self.check_is_free(directory)?;
        let result = self.copy_to(directory, job);
        if result.is_err() {
            self.clear_backup(directory);
        }
        result.map(|copied| BackupStats { total: start.elapsed(), ..copied })
    }

    /// The absolute path of the directory that a backup goes to.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it lies in the database.
    pub(crate) fn place_for_backup(&self, directory: &Path) -> Result<PathBuf> {
        match (absolute(directory), absolute(&self.options.path)) {
            (Some(place), Some(own)) if !place.starts_with(&own) => Ok(place),
            (Some(_), _) => refused(directory, "is in the database"),
            (None, _) => refused(directory, "is no place"),
        }
    }

    /// Whether a backup may go to a directory.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if something is in it.
    pub(crate) fn check_is_free(&self, directory: &Path) -> Result<()> {
        for entry in list_if_there(&self.storage, directory)? {
            // Empty ones are left of a backup that failed.
            let is_ours = entry.is_dir && [DATA_DIR, WAL_DIR].contains(&&*entry.name);
            if !is_ours || !self.storage.list(&directory.join(&entry.name))?.is_empty() {
                return refused(directory, "is not empty");
            }
        }
        Ok(())
    }

    /// Removes what a backup that failed has written, as far as that goes.
    fn clear_backup(&self, directory: &Path) {
        let found = list_if_there(&self.storage, directory).unwrap_or_default();
        if found.iter().any(|entry| !entry.is_dir) {
            // The manifest may be there, and then it may all be.
            return;
        }
        for dir in [DATA_DIR, WAL_DIR].map(|name| directory.join(name)) {
            for entry in list_if_there(&self.storage, &dir).unwrap_or_default() {
                if let Err(error) = self.storage.remove(&dir.join(&entry.name)) {
                    tracing::warn!(%error, "what is left of a backup can not be removed");
                }
            }
        }
    }

    fn copy_to(&self, directory: &Path, job: &Job) -> Result<BackupStats> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        self.flush_target(None, FlushReason::Checkpoint, None)?;
        // The view keeps the files that the manifest names.
        let (mut manifest, _view) = {
            let root = lock(&self.root);
            (root.manifest.clone(), self.published.view())
        };
        if let Some(damage) = self.unflushable(None) {
            return Err(damage.into());
        }
        let files: Vec<FileMeta> = manifest.files().copied().collect();
        let total = files.iter().map(|file| file.len).sum();
        let (data, wal) = (directory.join(DATA_DIR), directory.join(WAL_DIR));
        for dir in [directory, &data, &wal] {
            storage.create_dir(dir)?;
        }
        let mut copied = BackupStats::default();
        for meta in &files {
            job.set_progress(copied.bytes, total);
            let name = meta.name().to_string();
            copy(&*storage, &self.data_dir().join(&name), &data.join(&name), meta, job)?;
            copied.files += 1;
            copied.bytes += meta.len;
        }
        storage.sync_dir(&data)?;
        copied.lsn = top(&manifest);
        manifest.newest_segment = self.begin_log_in(&storage, &wal, manifest.database, copied.lsn)?;
        manifest.durable = copied.lsn;
        manifest.advance(copied.lsn);
        job.go_on()?;
        // The names of what the manifest speaks of come before the manifest's.
        storage.sync_dir(directory)?;
        sync_names_of(&*storage, directory)?;
        manifest.publish(&*storage, directory)?;
        Ok(copied)
    }

    /// A log that begins after `last`; returns its segment's number.
    fn begin_log_in(
        &self,
        storage: &Arc<dyn Storage>,
        dir: &Path,
        database: [u8; 16],
        last: Lsn,
    ) -> Result<FileNumber> {
        let fresh = Recovered::fresh(storage, dir, database, last, FileNumber(0))?;
        let mut wal = fresh.into_wal(wal_options(&self.options), salts(self.options.seed));
        wal.rotate()?;
        wal.shrink(last)?;
        let newest = wal.newest();
        wal.close()?;
        Ok(newest)
    }
}

fn refused<T>(directory: &Path, what: &str) -> Result<T> {
    let directory = directory.display();
    Err(Error::InvalidArgument(format!("{directory} {what}: a backup needs a directory of its own")))
}

/// A path from the root, without `.` and `..`; `None` for an empty one.
fn absolute(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in std::path::absolute(path).ok()?.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            component => plain.push(component),
        }
    }
    Some(plain)
}

/// No write above it is in the files of `manifest`.
fn top(manifest: &Manifest) -> Lsn {
    let flushed = manifest.collections.iter().map(|entry| entry.flushed).max().unwrap_or_default();
    flushed.max(manifest.wal_pointer)
}

fn copy(storage: &dyn Storage, from: &Path, to: &Path, meta: &FileMeta, job: &Job) -> Result<()> {
    let source = storage.open(from)?;
    if source.len() != meta.len {
        let what = format!("{} bytes; the manifest says {}", source.len(), meta.len);
        return Err(StorageError::corrupted(from, source.len().min(meta.len), what).into());
    }
    let mut target = storage.create(to)?;
    let mut checksum = Crc32::new();
    let mut buffer = vec![0; CHUNK.min(meta.len as usize)];
    let mut offset = 0;
    while offset < meta.len {
        job.go_on()?;
        let chunk = &mut buffer[..CHUNK.min((meta.len - offset) as usize)];
        source.read_exact_at(offset, chunk)?;
        checksum.update(chunk);
        target.append(chunk)?;
        offset += chunk.len() as u64;
    }
    if checksum.value() != meta.crc {
        return Err(StorageError::corrupted(from, 0, "the checksum of the file does not match").into());
    }
    Ok(target.sync()?)
}
