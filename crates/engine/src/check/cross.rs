//! Whether the files of a collection fit each other: ids, postings, vectors, lists and kills.

use std::collections::HashSet;
use std::path::Path;

use plimsoll_base::StorageError;
use plimsoll_shard::SealedView;

use crate::error::Result;
use crate::flush::{validate_ids, validate_membership};
use crate::manifest::CollectionEntry;
use crate::tree::{FileOpener, Tree};

/// Checks one collection, each file of which is sound by itself; returns how many rows it has.
pub(crate) fn check_collection(opener: &FileOpener, entry: &CollectionEntry) -> Result<u64> {
    let tree = Tree::open(entry, opener, None)?;
    check_documents(&tree)?;
    check_rows(&tree)?;
    Ok(tree.entry.postings.iter().map(|posting| posting.rows).sum())
}

fn damaged<T>(file: &Path, what: String) -> Result<T> {
    Err(StorageError::corrupted(file, 0, what).into())
}

/// Every id leads to its document, no two live documents have the same, and kills are counted right.
fn check_documents(tree: &Tree) -> Result<()> {
    let mut ids = HashSet::new();
    for (entry, file) in tree.entry.postings.iter().zip(tree.posting_files()?) {
        validate_ids(tree, file)?;
        let mut killed = 0;
        for index in 0..file.documents() {
            let document = file.entry(index)?;
            if tree.kills.contains(document.ordinal())? {
                killed += 1;
            } else if !ids.insert(document.id()) {
                return damaged(file.sealed().path(), format!("document {} is live twice", document.id()));
            }
        }
        let counts = (file.documents() as u64, u64::from(file.rows()), killed);
        if counts != (entry.documents, entry.rows, entry.killed) {
            let meant = (entry.documents, entry.rows, entry.killed);
            return damaged(
                file.sealed().path(),
                format!("{counts:?} documents, rows and kills; the manifest says {meant:?}"),
            );
        }
    }
    let last = tree.kills.all()?.max();
    if last.is_some_and(|last| last >= tree.entry.next_ordinal.0) {
        let file = tree.kills.files.first().map(|file| file.get()).transpose()?;
        let path = file.map_or(Path::new(""), |file| file.sealed().path());
        return damaged(path, format!("ordinal {last:?} is killed and was never given out"));
    }
    Ok(())
}

/// Every posting of every live document has exactly one row in the live sections.
fn check_rows(tree: &Tree) -> Result<()> {
    let files = tree.posting_files()?;
    let mut seen: Vec<Vec<bool>> = files.iter().map(|file| vec![false; file.rows() as usize]).collect();
    for segment in &tree.vectors {
        let file = segment.file.get()?;
        let path = file.sealed().path();
        validate_membership(tree, segment.generation, file)?;
        for (shard, rows) in &segment.live {
            if u64::from(file.shard_rows(*shard)) != *rows {
                return damaged(
                    path,
                    format!("shard {shard} does not have the {rows} rows that the manifest says"),
                );
            }
            for list in file.lists(*shard)? {
                let (ordinals, postings) = file.rows(*shard, list)?;
                for (ordinal, posting) in ordinals.iter().zip(postings) {
                    let Some(place) = tree.place_of(*ordinal)? else {
                        if tree.kills.contains(*ordinal)? {
                            continue;
                        }
                        return damaged(path, format!("a row names document {ordinal}, which no file has"));
                    };
                    let document = tree.posting(place)?.entry(place.document)?;
                    let row = (document.first_row() + u32::from(*posting)) as usize;
                    let within = u32::from(*posting) < document.postings();
                    if !within || std::mem::replace(&mut seen[place.file][row], true) {
                        return damaged(
                            path,
                            format!("posting {posting} of document {ordinal} is unknown or there twice"),
                        );
                    }
                }
            }
        }
    }
    for (file, seen) in files.into_iter().zip(seen) {
        for index in 0..file.documents() {
            let document = file.entry(index)?;
            let rows = document.first_row() as usize..(document.first_row() + document.postings()) as usize;
            if !tree.kills.contains(document.ordinal())? && seen[rows].contains(&false) {
                let what = format!("a vector of document {} is in no list", document.id());
                return damaged(file.sealed().path(), what);
            }
        }
    }
    Ok(())
}
