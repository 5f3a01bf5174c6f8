//! `lost/`: where a repair puts what is damaged and what no manifest names, each repair in a directory of its own.
//!
//! Nothing can go there before a manifest does without it, and the next opening removes what no manifest names. So that
//! a crash in between loses nothing, a repair begins by writing [`UNFINISHED`]: as long as that is there, whoever opens
//! or repairs the database moves what no manifest names to the same directory. Its lines are the names of other files
//! to be moved, in the database's directory, and what the repair knows so far. In the end it becomes [`REPORT`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{Storage, list_if_there};
use plimsoll_base::{FileNumber, StorageError};
use plimsoll_shard::FileName;
use plimsoll_wal::format::segment_number;

use super::Repair;
use crate::error::Result;
use crate::manifest::{self, Manifest};
use crate::recover::{Directory, WAL_DIR};
use crate::unnamed;

/// Where a repair puts what is damaged, in the database's directory.
pub(crate) const LOST_DIR: &str = "lost";
/// What a repair knows while it is under way.
const UNFINISHED: &str = "UNFINISHED";
/// What a repair found and did, for people.
const REPORT: &str = "REPORT";
/// More than any repair writes down; what is longer is not believed.
const UNFINISHED_LIMIT: u64 = 64 << 20;
/// What is copied at once to another file system.
const PIECE: usize = 1 << 20;

/// The directory of one repair.
pub(crate) struct Aside {
    pub path: PathBuf,
    /// Whether the repair was cut off.
    pub is_unfinished: bool,
}

/// The directories of all repairs. Whatever else there is under these names is not ours.
pub(crate) fn directories(storage: &dyn Storage, path: &Path) -> Result<Vec<Aside>> {
    let lost = path.join(LOST_DIR);
    let entries = match storage.list(&lost) {
        Err(error) if error.is_not_found() || error.io_kind() == Some(std::io::ErrorKind::NotADirectory) => {
            Vec::new()
        }
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries.into_iter().filter(|entry| entry.is_dir) {
        let path = lost.join(entry.name);
        let is_unfinished =
            list_if_there(storage, &path)?.iter().any(|file| file.name == UNFINISHED && !file.is_dir);
        found.push(Aside { path, is_unfinished });
    }
    Ok(found)
}

/// Does what repairs that were cut off have left to do, by a manifest that is the newest and sound. Returns their
/// directories.
pub(crate) fn finish(storage: &dyn Storage, path: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let unfinished = directories(storage, path)?.into_iter().filter(|aside| aside.is_unfinished);
    let unfinished: Vec<PathBuf> = unfinished.map(|aside| aside.path).collect();
    for target in &unfinished {
        let mut touched = HashSet::from([target.clone()]);
        for from in noted(storage, path, &target.join(UNFINISHED), manifest) {
            move_file(storage, &from, target, &mut touched)?;
        }
        for from in unnamed_files(storage, path, manifest)? {
            move_file(storage, &from, target, &mut touched)?;
        }
        for dir in &touched {
            storage.sync_dir(dir)?;
        }
        // A report that is there already was cut off before the note was removed.
        match storage.remove(&target.join(REPORT)) {
            Err(error) if error.is_not_found() => {}
            removed => removed?,
        }
        storage.rename_noreplace(&target.join(UNFINISHED), &target.join(REPORT))?;
        storage.sync_dir(target)?;
    }
    Ok(unfinished)
}

/// The files that a note names and `manifest` does without. A note that can not be read names none.
fn noted(storage: &dyn Storage, path: &Path, note: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let Ok(file) = storage.open(note) else { return Vec::new() };
    let mut text = vec![0; file.len().min(UNFINISHED_LIMIT) as usize];
    if file.read_exact_at(0, &mut text).is_err() {
        return Vec::new();
    }
    let is_over = |name: &&str| {
        let old = manifest::number_of(name).or_else(|| manifest::old_number_of(name));
        let segment = name.strip_prefix(WAL_DIR).and_then(|name| segment_number(name.strip_prefix('/')?));
        old.is_some_and(|old| old < manifest.number) || segment.is_some()
    };
    String::from_utf8_lossy(&text).lines().filter(is_over).map(|name| path.join(name)).collect()
}

/// The sealed files of the database that a manifest does not name.
fn unnamed_files(storage: &dyn Storage, path: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let is_ours = |(_, name): &(PathBuf, FileName)| {
        name.temporary() != *name && manifest::is_within_reach(name.number, manifest.next_file)
    };
    let files = unnamed::files(storage, path, manifest)?;
    Ok(files.into_iter().filter(is_ours).map(|(file, _)| file).collect())
}

/// Moves a file to a directory, and notes the directories to be synced. Returns whether there was such a file.
fn move_file(
    storage: &dyn Storage,
    from: &Path,
    target: &Path,
    touched: &mut HashSet<PathBuf>,
) -> Result<bool, StorageError> {
    let to = target.join(from.file_name().unwrap_or_default());
    match storage.rename_noreplace(from, &to) {
        Ok(()) => {}
        // Damage includes that it is missing.
        Err(error) if error.is_not_found() => return Ok(false),
        // A crash has cut a rename in half, or came when it was copied.
        Err(error) if error.io_kind() == Some(std::io::ErrorKind::AlreadyExists) => {
            if !is_copy(storage, from, &to)? {
                let name = from.file_name().unwrap_or_default().to_string_lossy();
                let other = (2..).map(|n| target.join(format!("{name}-{n}")));
                let taken = list_if_there(storage, target)?;
                let is_free =
                    |path: &PathBuf| taken.iter().all(|entry| Some(entry.name.as_ref()) != path.file_name());
                let other = other.take(taken.len() + 1).find(is_free).unwrap_or_else(|| to.clone());
                storage.rename_noreplace(from, &other)?;
            } else {
                storage.remove(from)?;
            }
        }
        // The directory of the data or of the log is a mount point, or a link to another file system.
        Err(error) if error.io_kind() == Some(std::io::ErrorKind::CrossesDevices) => {
            copy(storage, from, &to)?;
            storage.sync_dir(target)?;
            storage.remove(from)?;
        }
        Err(error) => return Err(error),
    }
    touched.extend([Some(target), from.parent()].into_iter().flatten().map(Path::to_path_buf));
    Ok(true)
}

/// Reads a file in pieces.
fn pieces(
    storage: &dyn Storage,
    path: &Path,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let file = storage.open(path)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < file.len() {
        let bytes = &mut piece[..(file.len() - at).min(PIECE as u64) as usize];
        file.read_exact_at(at, bytes)?;
        visit(at, bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

fn copy(storage: &dyn Storage, from: &Path, to: &Path) -> Result<(), StorageError> {
    let mut target = storage.create(to)?;
    pieces(storage, from, |_, bytes| target.append(bytes))?;
    target.sync()
}

/// Whether two files have the same bytes.
fn is_copy(storage: &dyn Storage, from: &Path, to: &Path) -> Result<bool, StorageError> {
    let other = storage.open(to)?;
    if other.len() != storage.open(from)?.len() {
        return Ok(false);
    }
    let mut is_same = true;
    pieces(storage, from, |at, bytes| {
        let mut others = vec![0; bytes.len()];
        other.read_exact_at(at, &mut others)?;
        is_same &= others == bytes;
        Ok(())
    })?;
    Ok(is_same)
}

impl Repair<'_> {
    /// The directory of this repair, whose manifest has the number `repair`; made when it is first asked for.
    fn target(&mut self, repair: FileNumber) -> Result<PathBuf> {
        if let Some(target) = &self.report.moved_to {
            return Ok(target.clone());
        }
        let name = |n: u32| match n {
            0 => format!("{:012}", repair.0),
            _ => format!("{:012}-{n}", repair.0),
        };
        let lost = self.path.join(LOST_DIR);
        let in_the_way = |error: StorageError| match error.io_kind() {
            Some(std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists) => {
                let what = "a repair needs a directory of this name: move away what is there";
                StorageError::corrupted(&lost, 0, what)
            }
            _ => error,
        };
        let taken = list_if_there(&self.storage, &lost).map_err(in_the_way)?;
        let is_free = |name: &String| taken.iter().all(|entry| entry.name != *name);
        let target = lost.join((0..).map(name).find(is_free).unwrap_or_default());
        self.storage.create_dir(&target).map_err(in_the_way)?;
        self.storage.sync_dir(&lost)?;
        self.storage.sync_dir(self.path)?;
        self.report.moved_to = Some(target.clone());
        Ok(target)
    }

    /// Writes down what is known, and which files are to be moved, before a manifest does without them; again when
    /// more is known.
    pub(super) fn note(&mut self, repair: FileNumber) -> Result<()> {
        if mutant::is(Mutant::RepairNotesNothing) {
            return Ok(());
        }
        let target = self.target(repair)?;
        let is_new = self.note.is_none();
        if is_new {
            self.note = Some(self.storage.create(&target.join(UNFINISHED))?);
        }
        let names = self.aside.iter().filter_map(|file| file.strip_prefix(self.path).ok()?.to_str());
        let text: String = names.map(|name| format!("{name}\n")).collect();
        let text = format!("{text}{}", self.report);
        if let Some(note) = &mut self.note {
            note.append(text.as_bytes())?;
            note.sync()?;
        }
        if is_new {
            self.storage.sync_dir(&target)?;
        }
        Ok(())
    }

    /// Moves what is damaged to this repair's directory.
    pub(super) fn move_aside(&mut self, repair: FileNumber) -> Result<()> {
        let mut aside = std::mem::take(&mut self.aside);
        aside.sort();
        aside.dedup();
        let mut touched = HashSet::new();
        for from in aside {
            if self.storage.open(&from).is_err_and(|error| error.is_not_found()) {
                continue;
            }
            let target = self.target(repair)?;
            if move_file(&self.storage, &from, &target, &mut touched)? {
                self.report.files_moved += 1;
                let name = from.strip_prefix(self.path).unwrap_or(&from);
                self.moved.push_str(&format!("moved here: {}\n", name.display()));
            }
        }
        for dir in &touched {
            self.storage.sync_dir(dir)?;
        }
        Ok(())
    }

    /// Moves sealed files that no manifest names, which the next opening would remove: where something is damaged,
    /// they may be all that is left of what it was.
    pub(super) fn move_unnamed_aside(&mut self) -> Result<()> {
        let Some(directory) = Directory::read(&self.storage, self.path)? else { return Ok(()) };
        let Some(manifest) = directory.newest(&self.storage, self.path)? else { return Ok(()) };
        self.aside = unnamed_files(&self.storage, self.path, &manifest)?;
        self.move_aside(manifest.number)?;
        self.close_note(manifest.number)?;
        // Those of earlier repairs.
        finish(&self.storage, self.path, &manifest)?;
        Ok(())
    }

    /// The end: the report takes the place of the note.
    fn close_note(&mut self, repair: FileNumber) -> Result<()> {
        let target = self.target(repair)?;
        let mut report = self.storage.create(&target.join(REPORT))?;
        report.append(format!("{}{}", self.report, self.moved).as_bytes())?;
        report.sync()?;
        drop(report);
        self.storage.sync_dir(&target)?;
        if self.note.take().is_some() {
            self.storage.remove(&target.join(UNFINISHED))?;
            self.storage.sync_dir(&target)?;
        }
        Ok(())
    }
}
