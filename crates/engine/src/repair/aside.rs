//! `lost/`: where a repair puts what is damaged, each repair in a directory of its own.
//!
//! A file can go there only after a manifest does without it. So that a crash in between does not leave it to the
//! next opening, which removes what no manifest names, the names are written down before: in [`UNFINISHED`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{DirEntry, Storage};
use plimsoll_base::{FileNumber, StorageError};
use plimsoll_shard::FileName;

use super::Repair;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::recover::{DATA_DIR, Directory};

/// Where a repair puts what is damaged, in the database's directory.
pub(crate) const LOST_DIR: &str = "lost";
/// The names of the data files that are still to be moved to the directory in which this file is, a line each.
const UNFINISHED: &str = "UNFINISHED";
/// More than any repair writes down; what is longer is not believed.
const UNFINISHED_LIMIT: u64 = 64 << 20;

/// Does what a repair that was cut off has left to do: its data files that `manifest` does without are moved.
/// Returns the directories where that was to be done.
pub(crate) fn finish(storage: &dyn Storage, path: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let lost = path.join(LOST_DIR);
    let data = path.join(DATA_DIR);
    let named: HashSet<String> = manifest.files().map(|meta| meta.name().to_string()).collect();
    let mut finished = Vec::new();
    for repair in list(storage, &lost)?.into_iter().filter(|entry| entry.is_dir) {
        let target = lost.join(repair.name);
        let note = target.join(UNFINISHED);
        let file = match storage.open(&note) {
            Err(error) if error.is_not_found() => continue,
            file => file?,
        };
        let mut names = vec![0; file.len().min(UNFINISHED_LIMIT) as usize];
        file.read_exact_at(0, &mut names)?;
        let names = String::from_utf8_lossy(&names);
        // A name that is not one of ours was cut off by a crash before it meant anything.
        let is_aside = |name: &&str| FileName::parse(name).is_some() && !named.contains(*name);
        for name in names.lines().filter(is_aside) {
            move_file(storage, &data.join(name), &target.join(name))?;
        }
        storage.sync_dir(&data)?;
        storage.sync_dir(&target)?;
        storage.remove(&note)?;
        storage.sync_dir(&target)?;
        finished.push(target);
    }
    Ok(finished)
}

/// What is in a directory, which need not be there.
pub(super) fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<DirEntry>, StorageError> {
    match storage.list(dir) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        entries => entries,
    }
}

/// Whether there was such a file. One that is at both places was moved by a rename that a crash has cut in half.
fn move_file(storage: &dyn Storage, from: &Path, to: &Path) -> Result<bool, StorageError> {
    match storage.rename_noreplace(from, to) {
        Ok(()) => Ok(true),
        // Damage includes that it is missing.
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) if error.io_kind() == Some(std::io::ErrorKind::AlreadyExists) => {
            storage.remove(from)?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
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
        let taken = list(&self.storage, &lost)?;
        let is_free = |name: &String| taken.iter().all(|entry| entry.name != *name);
        let target = lost.join((0..).map(name).find(is_free).unwrap_or_default());
        self.storage.create_dir(&target)?;
        self.storage.sync_dir(&lost)?;
        self.storage.sync_dir(self.path)?;
        self.report.moved_to = Some(target.clone());
        Ok(target)
    }

    /// Writes down which data files are to be moved, before a manifest does without them.
    pub(super) fn note_aside(&mut self, repair: FileNumber) -> Result<()> {
        let data = self.path.join(DATA_DIR);
        let of_data = self.aside.iter().filter(|path| path.parent() == Some(&data));
        let names: Vec<&str> = of_data.filter_map(|path| path.file_name()?.to_str()).collect();
        if names.is_empty() || mutant::is(Mutant::RepairNotesNothing) {
            return Ok(());
        }
        let names = names.join("\n") + "\n";
        let target = self.target(repair)?;
        let mut note = self.storage.create(&target.join(UNFINISHED))?;
        note.append(names.as_bytes())?;
        note.sync()?;
        drop(note);
        Ok(self.storage.sync_dir(&target)?)
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
            let to = target.join(from.file_name().unwrap_or_default());
            if move_file(&self.storage, &from, &to)? {
                self.report.files_moved += 1;
                touched.extend([Some(target), from.parent().map(Path::to_path_buf)].into_iter().flatten());
            }
        }
        for dir in &touched {
            self.storage.sync_dir(dir)?;
        }
        let Some(target) = &self.report.moved_to else { return Ok(()) };
        match self.storage.remove(&target.join(UNFINISHED)) {
            Err(error) if error.is_not_found() => Ok(()),
            removed => Ok(removed.and_then(|()| self.storage.sync_dir(target))?),
        }
    }

    /// Moves sealed files that no manifest names, which the next opening would remove: where something is damaged,
    /// they may be all that is left of what it was.
    pub(super) fn move_unnamed_aside(&mut self) -> Result<()> {
        let Some(directory) = Directory::read(&self.storage, self.path)? else { return Ok(()) };
        let Some(manifest) = directory.newest(&self.storage, self.path)? else { return Ok(()) };
        let named: HashSet<String> = manifest.files().map(|meta| meta.name().to_string()).collect();
        let dir = self.path.join(DATA_DIR);
        let is_unnamed = |file: &DirEntry| {
            let is_sealed = FileName::parse(&file.name).is_some_and(|name| name.temporary() != name);
            is_sealed && !file.is_dir && !named.contains(&file.name)
        };
        let files = list(&self.storage, &dir)?;
        self.aside = files.into_iter().filter(is_unnamed).map(|file| dir.join(file.name)).collect();
        self.move_aside(manifest.number)
    }
}
