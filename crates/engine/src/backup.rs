//! A copy of the database that opens like any other.
//!
//! Everything is flushed, then the files that one manifest names are copied, checked against its checksums on the way,
//! and then a log that begins after them, and last of all the manifest: until it is there, the copy is not a database.
//! Writes and searches go on meanwhile; what is written after the copy began is not in it.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_base::checksum::Crc32;
use plimsoll_base::storage::{Storage, WriteFile, list_if_there};
use plimsoll_base::{FileNumber, Lsn, StorageError};
use plimsoll_shard::FileMeta;
use plimsoll_wal::Recovered;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::jobs::Job;
use crate::manifest::Manifest;
use crate::recover::{DATA_DIR, WAL_DIR, salts, sync_names_of, wal_options};

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
        let start = self.now();
        self.check_is_free(directory)?;
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let mut made = Made::default();
        let copied = self.copy_to(&storage, directory, job, &mut made);
        copied.map(|copied| BackupStats { total: self.now().saturating_sub(start), ..copied }).inspect_err(
            |_| {
                // Another attempt, or another backup, finds the directory as it was.
                if let Err(error) = made.remove(&*storage, directory) {
                    tracing::warn!(%error, "what a failed backup has copied could not be removed");
                }
            },
        )
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

    fn copy_to(
        &self,
        storage: &Arc<dyn Storage>,
        directory: &Path,
        job: &Job,
        made: &mut Made,
    ) -> Result<BackupStats> {
        // The view keeps the files that the manifest names.
        let (moment, mut manifest, _view) = self.flush_to_one_moment(job)?;
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
            let (source, target) = (self.data_dir().join(&name), data.join(&name));
            let file = storage.create(&target)?;
            made.files.push(target);
            copy(&**storage, &source, file, meta, job)?;
            copied.files += 1;
            copied.bytes += meta.len;
        }
        storage.sync_dir(&data)?;
        // Collections that were created since the moment, and have nothing, say that they are flushed up to later.
        let last = top(&manifest).max(moment);
        made.log_begun = true;
        manifest.newest_segment = self.begin_log_in(storage, &wal, manifest.database, last, job)?;
        manifest.durable = last;
        manifest.advance(last);
        job.go_on()?;
        // The names of what the manifest speaks of come before the manifest's.
        storage.sync_dir(directory)?;
        sync_names_of(&**storage, directory)?;
        manifest.publish(&**storage, directory)?;
        copied.lsn = moment;
        Ok(copied)
    }

    /// A log that begins after `last` with the end of the backup; returns its segment's number.
    fn begin_log_in(
        &self,
        storage: &Arc<dyn Storage>,
        dir: &Path,
        database: [u8; 16],
        last: Lsn,
        job: &Job,
    ) -> Result<FileNumber> {
        let fresh = Recovered::fresh(storage, dir, database, last, FileNumber(0))?;
        let mut wal = fresh.into_wal(wal_options(&self.options), salts(self.options.seed));
        wal.rotate()?;
        wal.shrink(last)?;
        wal.append_group(&mut [&mut self.record_for_copy(job)?], true)?;
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

/// What one attempt at a copy has made.
#[derive(Default)]
struct Made {
    files: Vec<PathBuf>,
    /// All files in the log's directory, and the manifest, are its own, too.
    log_begun: bool,
}

impl Made {
    /// Removes it, but for empty directories.
    fn remove(self, storage: &dyn Storage, directory: &Path) -> Result<()> {
        let mut files = self.files;
        if self.log_begun {
            // The manifest first: without it the rest is not a database.
            let of_log = [directory.to_path_buf(), directory.join(WAL_DIR)];
            let mut others = Vec::new();
            for dir in of_log {
                let inside = storage.list(&dir)?.into_iter().filter(|entry| !entry.is_dir);
                others.extend(inside.map(|entry| dir.join(entry.name)));
            }
            files.splice(0..0, others);
        }
        Ok(files.iter().try_for_each(|file| storage.remove(file))?)
    }
}

fn copy(
    storage: &dyn Storage,
    from: &Path,
    mut target: Box<dyn WriteFile>,
    meta: &FileMeta,
    job: &Job,
) -> Result<()> {
    let source = storage.open(from)?;
    if source.len() != meta.len {
        let what = format!("{} bytes; the manifest says {}", source.len(), meta.len);
        return Err(StorageError::corrupted(from, source.len().min(meta.len), what).into());
    }
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
