//! Sealed files that no manifest names: what a crash has left behind, or all that is left of a newer manifest.
//!
//! A flush publishes files only after the log is durable up to their last write (rule R3), so that a crashed flush
//! leaves files behind whose writes the log still has, and its files can go. A file with writes that neither the
//! manifest nor the log knows was named by a newer manifest: then both are older than it, and nothing may be removed.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use plimsoll_base::Lsn;
use plimsoll_base::storage::{Storage, list_if_there};
use plimsoll_shard::{FileName, PostingFile, ReadMode, SealedFile, SealedKind, SealedView};
use plimsoll_wal::Anchor;

use crate::error::Result;
use crate::manifest::Manifest;
use crate::recover::{DATA_DIR, WAL_DIR};

/// A posting file that is newer than the manifest and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Newer {
    pub file: PathBuf,
    /// The last write in it.
    pub last: Lsn,
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last;
        write!(
            f,
            "it has writes up to LSN {last} that neither the manifest nor the log knows: they are older than it"
        )
    }
}

/// The names of the sealed files that a manifest names.
pub(crate) fn named(manifest: &Manifest) -> HashSet<String> {
    manifest.files().map(|meta| meta.name().to_string()).collect()
}

/// The sealed files, written to the end or not, that a manifest does not name; those of other databases, too.
pub(crate) fn files(
    storage: &dyn Storage,
    path: &Path,
    manifest: &Manifest,
) -> Result<Vec<(PathBuf, FileName)>> {
    let dir = path.join(DATA_DIR);
    let named = named(manifest);
    let entries = list_if_there(storage, &dir)?.into_iter();
    let unnamed = entries.filter(|entry| !entry.is_dir && !named.contains(&entry.name));
    Ok(unnamed.filter_map(|entry| Some((dir.join(&entry.name), FileName::parse(&entry.name)?))).collect())
}

/// Those of `files`, which a manifest does not name, that are posting files of its database and have writes above
/// `known`.
pub(crate) fn postings_above(
    storage: &dyn Storage,
    files: &[(PathBuf, FileName)],
    manifest: &Manifest,
    known: Lsn,
) -> Vec<Newer> {
    let mut found = Vec::new();
    for (file, _) in files.iter().filter(|(_, name)| name.kind == SealedKind::Posting) {
        // What can not be read was not whole when a crash came.
        let Ok(sealed) = SealedFile::open_unnamed(storage, file, ReadMode::Owned) else { continue };
        if sealed.header().database != manifest.database {
            continue;
        }
        let Ok(posting) = PostingFile::from_sealed(sealed) else { continue };
        let last = posting.header().info.last_lsn;
        if last > known {
            found.push(Newer { file: file.clone(), last });
        }
    }
    found
}

/// The newest posting file with writes that neither the manifest nor the log has, if there is one.
pub(crate) fn newer_than_the_log(
    storage: &dyn Storage,
    path: &Path,
    manifest: &Manifest,
) -> Result<Option<Newer>> {
    let files = files(storage, path, manifest)?;
    let mut newer = postings_above(storage, &files, manifest, manifest.anchor().durable);
    if newer.is_empty() {
        return Ok(None);
    }
    // What the log has, damaged or not.
    let anchor = Anchor { after: Lsn::ZERO, ..manifest.anchor() };
    let (mut first, mut last) = (None, Lsn::ZERO);
    plimsoll_wal::salvage(
        storage,
        &path.join(WAL_DIR),
        manifest.database,
        &anchor,
        |record| -> Result<()> {
            first = first.or(Some(record.lsn()));
            last = last.max(record.lsn());
            Ok(())
        },
    )?;
    let is_logged = |newer: &Newer| first.is_some_and(|first| first <= newer.last && newer.last <= last);
    newer.retain(|newer| !is_logged(newer));
    Ok(newer.into_iter().max_by_key(|newer| newer.last))
}
