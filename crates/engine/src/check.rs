//! `verify` and `dump`: looking at everything, changing nothing, also where a database does not open.

mod cross;
mod dump;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_base::StorageError;
use plimsoll_base::storage::{DirEntry, OsStorage, Storage};
use plimsoll_shard::{
    FileMeta, FileName, IndexFile, KillFile, PostingFile, ReadMode, SealedKind, SealedView, VectorFile,
};

use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::flush::entry_problem;
use crate::jobs::Job;
use crate::manifest::{self, Manifest};
use crate::recover::{DATA_DIR, Directory, WAL_DIR};
use crate::repair::aside;
use crate::system::is_system;
use crate::tree::{Damaged, FileOpener};
use crate::unnamed;

pub(crate) use cross::check_collection;
pub use dump::{Dump, dump, dump_in};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing; nothing is lost, and opening the database puts it right.
    Note,
    /// Bytes are not what was written, or missing.
    Damage,
}

/// One thing that [`verify`] noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file it is about.
    pub file: PathBuf,
    /// Where in the file, in bytes from its start, if that is known.
    pub offset: Option<u64>,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Damage => "damage",
        };
        write!(f, "{severity}: {}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What [`verify`] looked at and found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What was noticed, in the order of the files.
    pub findings: Vec<Finding>,
    /// Files read.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Documents in them, killed ones not counted.
    pub documents: u64,
    /// Vector rows in them.
    pub rows: u64,
}

impl VerifyReport {
    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Damage)
    }

    fn note(&mut self, file: &Path, what: impl Into<String>) {
        let file = file.to_path_buf();
        self.findings.push(Finding { severity: Severity::Note, file, offset: None, what: what.into() });
    }

    fn damage(&mut self, file: &Path, offset: Option<u64>, what: impl Into<String>) {
        let file = file.to_path_buf();
        self.findings.push(Finding { severity: Severity::Damage, file, offset, what: what.into() });
    }

    /// Records damage; any other error stays an error.
    fn record<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Storage(StorageError::Corrupted { file, offset, what })) => {
                self.damage(&file, Some(offset), what);
                Ok(None)
            }
            Err(Error::Storage(StorageError::UpgradeRequired { file, what })) => {
                self.damage(&file, None, format!("needs a newer Plimsoll: {what}"));
                Ok(None)
            }
            Err(Error::Storage(error)) if error.is_unreadable() || is_missing(&error) => {
                let StorageError::Io { path, source, .. } = &error else { return Err(error.into()) };
                let what = match source.kind() {
                    ErrorKind::NotFound => "it is missing".to_owned(),
                    ErrorKind::UnexpectedEof => "it is too short".to_owned(),
                    _ => format!("it can not be read: {source}"),
                };
                self.damage(path, None, what);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_missing(error: &StorageError) -> bool {
    matches!(error.io_kind(), Some(ErrorKind::NotFound | ErrorKind::UnexpectedEof))
}

/// Reads and checks every file of a database, whether it can be opened or not, and changes nothing.
///
/// Checked are the manifest; every checksum and the structure of every file that it names; that ids, postings,
/// vectors, lists and kills of all files fit each other; the log; and that there are no other files.
///
/// # Errors
/// [`Error::DatabaseNotFound`], [`Error::NotADatabase`], and [`Error::Storage`] if a file can not be read for
/// another reason than damage. Damage is not an error here, but what the report is about.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("notes");
/// plimsoll_engine::Database::open(&path)?.close()?;
/// let report = plimsoll_engine::verify(&path)?;
/// assert!(report.findings.is_empty());
/// # Ok(())
/// # }
/// ```
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
    verify_in(path.as_ref(), &(Arc::new(OsStorage) as Arc<dyn Storage>))
}

/// As [`verify`], through a storage of the caller's.
///
/// # Errors
/// As [`verify`].
pub fn verify_in(path: &Path, storage: &Arc<dyn Storage>) -> Result<VerifyReport> {
    verify_with(path, storage, |_| ())
}

/// How far [`verify_with`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Bytes of sealed files that are checked.
    pub bytes: u64,
    /// Bytes of all sealed files.
    pub total: u64,
}

/// As [`verify_in`], and says after each sealed file how far it has come. Beside a writer it may begin again.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    path: &Path,
    storage: &Arc<dyn Storage>,
    mut progress: impl FnMut(VerifyProgress),
) -> Result<VerifyReport> {
    // Beside a writer, files may be replaced while they are looked at: then a newer manifest is there, and the
    // report starts again from that.
    for _ in 0..10 {
        let directory =
            Directory::read(&**storage, path)?.ok_or_else(|| Error::DatabaseNotFound(path.to_path_buf()))?;
        let mut told = |now| {
            progress(now);
            Ok(())
        };
        let report = verify_once(path, storage, &directory, &mut told)?;
        let again = Directory::read(&**storage, path)?.map(|again| again.manifests).unwrap_or_default();
        if !report.is_damaged() || again.last() == directory.manifests.last() {
            return Ok(report);
        }
    }
    Err(Error::Stalled("a writer replaces files faster than they can be checked".to_owned()))
}

impl Core {
    /// Reads and checks every file; a job is told how far it has come, and ends it if it is cancelled.
    pub(crate) fn verify(&self, job: Option<&Job>) -> Result<VerifyReport> {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let path = &self.options.path;
        // The view keeps the files that the manifest names; flushes and compactions go on. Other files are
        // theirs, and are not looked at.
        let (manifest, _view) = {
            let root = lock(&self.root);
            (root.manifest.clone(), self.published.view())
        };
        let mut report = VerifyReport { files: 1, ..VerifyReport::default() };
        check_named_files(path, &storage, &manifest, &mut report, &mut |progress| {
            let Some(job) = job else { return Ok(()) };
            job.set_progress(progress.bytes, progress.total);
            job.go_on()
        })?;
        // No segment is removed, and no record written, while the log is read.
        let _no_commits = lock(&self.log);
        let manifest = lock(&self.root).manifest.clone();
        check_log(path, &*storage, &manifest, &mut report)?;
        Ok(report)
    }
}

fn verify_once(
    path: &Path,
    storage: &Arc<dyn Storage>,
    directory: &Directory,
    progress: &mut dyn FnMut(VerifyProgress) -> Result<()>,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let Some(Some(manifest)) = report.record(directory.newest(&**storage, path))? else {
        if report.findings.is_empty() && !directory.is_begun() {
            return Err(directory.not_yet(path));
        }
        if report.findings.is_empty() {
            report.note(path, "its creation was interrupted; the next writer completes it");
            return Ok(report);
        }
        check_files_alone(path, &**storage, &mut report, progress)?;
        report
            .note(path, "without a manifest nobody can say whether files or the log are missing or too many");
        return Ok(report);
    };
    report.files += 1;
    for number in directory.manifests.iter().rev().skip(1) {
        report.note(&manifest::path(path, *number), "an older manifest that the next opening removes");
    }
    for number in &directory.old_manifests {
        let old = manifest::old_path(path, *number);
        if let Err(error) = Manifest::read_from(&**storage, &old, *number) {
            report.note(&old, format!("the manifest that was put by for a repair is of no use: {error}"));
        }
    }
    check_named_files(path, storage, &manifest, &mut report, progress)?;
    check_strays(path, &**storage, &manifest, &mut report)?;
    check_log(path, &**storage, &manifest, &mut report)?;
    Ok(report)
}

fn check_named_files(
    path: &Path,
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress) -> Result<()>,
) -> Result<()> {
    let total = manifest.files().map(|meta| meta.len).sum();
    let manifest_path = manifest::path(path, manifest.number);
    for entry in &manifest.collections {
        if let Some(problem) = entry_problem(entry) {
            report.damage(&manifest_path, None, format!("collection {:?}: {problem}", entry.name));
        }
        let before = report.findings.len();
        for meta in entry.files() {
            report.files += 1;
            report.bytes += meta.len;
            let checked =
                check_file(&**storage, &path.join(DATA_DIR), meta, manifest.database, ReadMode::Mapped);
            report.record(checked.map_err(Error::from))?;
            progress(VerifyProgress { bytes: report.bytes, total })?;
        }
        if report.findings.len() == before {
            let opener = FileOpener {
                storage: Arc::clone(storage),
                dir: path.join(DATA_DIR),
                database: manifest.database,
                mode: ReadMode::Mapped,
                damaged: Damaged::Fails,
            };
            if let Some(rows) = report.record(check_collection(&opener, entry))?
                && !is_system(entry.id)
            {
                report.documents += entry.live_documents();
                report.rows += rows;
            }
        }
    }
    Ok(())
}

/// Each sealed file by itself: there is no manifest that could say which there are.
fn check_files_alone(
    path: &Path,
    storage: &dyn Storage,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress) -> Result<()>,
) -> Result<()> {
    let dir = path.join(DATA_DIR);
    let Some(entries) = report.record(storage.list(&dir).map_err(Error::from))? else { return Ok(()) };
    let is_sealed = |entry: &&DirEntry| !entry.is_dir && FileName::parse(&entry.name).is_some();
    let total = entries.iter().filter(is_sealed).map(|entry| entry.len).sum();
    for entry in entries.iter().filter(is_sealed) {
        report.files += 1;
        report.bytes += entry.len;
        let described = plimsoll_shard::describe(storage, &dir.join(&entry.name));
        let damage = described.and_then(|description| description.damage.map_or(Ok(()), Err));
        report.record(damage.map_err(Error::from))?;
        progress(VerifyProgress { bytes: report.bytes, total })?;
    }
    Ok(())
}

/// Every checksum and the structure of one file.
pub(crate) fn check_file(
    storage: &dyn Storage,
    dir: &Path,
    meta: &FileMeta,
    database: [u8; 16],
    mode: ReadMode,
) -> std::result::Result<(), StorageError> {
    match meta.kind {
        SealedKind::Posting => PostingFile::open(storage, dir, meta, database, mode)?.verify(),
        SealedKind::Vector => VectorFile::open(storage, dir, meta, database, mode)?.verify(),
        SealedKind::Kill => KillFile::open(storage, dir, meta, database, mode)?.verify(),
        SealedKind::Index => IndexFile::open(storage, dir, meta, database, mode)?.verify(),
    }
}

/// Files that the manifest does not name: left over from work that a crash interrupted.
fn check_strays(
    path: &Path,
    storage: &dyn Storage,
    manifest: &Manifest,
    report: &mut VerifyReport,
) -> Result<()> {
    let named = unnamed::named(manifest);
    let dir = path.join(DATA_DIR);
    let entries = match storage.list(&dir) {
        Err(error) if error.is_not_found() => {
            report.damage(&dir, None, "the directory is missing");
            return Ok(());
        }
        entries => entries?,
    };
    let newer = unnamed::newer_than_the_log(storage, path, manifest)?;
    if let Some(newer) = &newer {
        report.damage(&newer.file, None, newer.to_string());
    }
    let put_aside = aside::directories(storage, path)?;
    for aside in &put_aside {
        report.note(
            &aside.path,
            match aside.is_unfinished {
                true => "a repair was cut off, and is finished when the database is next opened or repaired",
                false => "what a repair has put aside; the file REPORT in it says why, and what was lost",
            },
        );
    }
    let is_unfinished = put_aside.iter().any(|aside| aside.is_unfinished);
    for entry in entries.iter().filter(|entry| !named.contains(&entry.name)) {
        let file = dir.join(&entry.name);
        let what = match FileName::parse(&entry.name) {
            Some(_) if newer.as_ref().is_some_and(|newer| newer.file == file) => continue,
            Some(_) if is_unfinished => "no manifest names it; the repair that was cut off puts it aside",
            Some(_) => "no manifest names it; the next opening removes it",
            None => "not a file of a database",
        };
        report.note(&file, what);
    }
    Ok(())
}

fn check_log(
    path: &Path,
    storage: &dyn Storage,
    manifest: &Manifest,
    report: &mut VerifyReport,
) -> Result<()> {
    let dir = path.join(WAL_DIR);
    let findings = match plimsoll_wal::verify(storage, &dir, manifest.database, &manifest.anchor()) {
        Err(error) => {
            report.record::<()>(Err(error.into()))?;
            return Ok(());
        }
        Ok(findings) => findings,
    };
    for finding in findings {
        let severity = if finding.damage { Severity::Damage } else { Severity::Note };
        let offset = Some(finding.offset);
        report.findings.push(Finding { severity, file: finding.file, offset, what: finding.what });
    }
    Ok(())
}
