//! What the sealed files say about themselves, for when no manifest does.

use std::collections::BTreeMap;
use std::path::Path;

use plimsoll_base::storage::{Storage, list_if_there};
use plimsoll_base::{CollectionId, DocumentOrdinal, FileNumber, Lsn, StorageError};
use plimsoll_shard::{
    FileMeta, FileName, IndexFile, KillFile, PostingFile, ReadMode, SealedFile, SealedKind, SealedView,
};

use super::is_damage;
use crate::error::Result;
use crate::manifest::{CollectionEntry, KillEntry, Manifest, PostingEntry};
use crate::options::CollectionConfig;
use crate::system::is_system;

/// What an older manifest knows of a collection, and the files do not say.
#[derive(Debug, Clone, Default)]
pub(super) struct Missing {
    /// Documents of files that are gone, and that were not deleted: at most that many are lost.
    pub documents: u64,
    /// Kills of files that are damaged or gone, and that no other file seems to have.
    pub deletions: u64,
    /// The posting files that it names, with how many of their documents had been deleted or replaced.
    pub known: Vec<PostingEntry>,
}

/// The sealed files of a directory.
pub(super) struct Inventory {
    /// The names of all of them.
    pub names: Vec<String>,
    /// The database: the one that is known, or that the most of them say they belong to.
    pub database: Option<[u8; 16]>,
    /// The files that can not be opened, and why.
    pub unreadable: Vec<StorageError>,
    /// The newest version of any document.
    pub last_lsn: Lsn,
    collections: BTreeMap<CollectionId, CollectionEntry>,
    /// Up to where the files hold everything that was written to a collection, if they are sound: the last write of
    /// the newest flush.
    covered: BTreeMap<CollectionId, Lsn>,
    next_file: u64,
}

impl Inventory {
    /// Reads the headers of the files of database `known` in `dir`, or of the one that most of them are of; what can not be opened is only counted.
    pub(super) fn take(storage: &dyn Storage, dir: &Path, known: Option<[u8; 16]>) -> Result<Self> {
        let mut inventory = Self {
            names: Vec::new(),
            database: None,
            unreadable: Vec::new(),
            last_lsn: Lsn::ZERO,
            collections: BTreeMap::new(),
            covered: BTreeMap::new(),
            next_file: 1,
        };
        let mut databases: BTreeMap<[u8; 16], usize> = BTreeMap::new();
        let mut opened = Vec::new();
        for entry in list_if_there(storage, dir)? {
            let Some(name) = FileName::parse(&entry.name).filter(|_| !entry.is_dir) else { continue };
            match SealedFile::open_unnamed(storage, &dir.join(&entry.name), ReadMode::Owned) {
                Ok(file) => {
                    *databases.entry(file.header().database).or_default() += 1;
                    inventory.next_file = inventory.next_file.max(name.number.0.saturating_add(1));
                    opened.push(file);
                }
                Err(error) if is_damage(&error) => inventory.unreadable.push(error),
                Err(error) => return Err(error.into()),
            }
            inventory.names.push(entry.name);
        }
        let most = databases.into_iter().max_by_key(|(_, files)| *files).map(|(id, _)| id);
        inventory.database = known.or(most);
        // A collection is known by its documents.
        opened.sort_by_key(|file| file.file_meta().kind != SealedKind::Posting);
        let database = inventory.database;
        for file in opened.into_iter().filter(|file| Some(file.header().database) == database) {
            match inventory.enter(file) {
                Err(error) if !is_damage(&error) => return Err(error.into()),
                entered => inventory.unreadable.extend(entered.err()),
            }
        }
        Ok(inventory)
    }

    fn enter(&mut self, file: SealedFile) -> Result<(), StorageError> {
        let meta = *file.file_meta();
        match meta.kind {
            SealedKind::Posting => self.enter_posting(meta, &PostingFile::from_sealed(file)?),
            SealedKind::Kill => {
                let file = KillFile::from_sealed(file)?;
                let header = *file.header();
                if let Some(entry) = self.collections.get_mut(&header.collection) {
                    entry.kills.push(KillEntry { file: meta, ordinals: header.count });
                }
            }
            // Only for the numbers that are not to be given again: lists are made anew.
            SealedKind::Index => {
                let file = IndexFile::from_sealed(file)?;
                let header = *file.header();
                if let Some(entry) = self.collections.get_mut(&header.collection) {
                    entry.next_list = entry.next_list.max(header.next_list);
                    entry.next_shard = entry.next_shard.max(header.next_shard);
                }
            }
            SealedKind::Vector => {}
        }
        Ok(())
    }

    fn enter_posting(&mut self, meta: FileMeta, file: &PostingFile) {
        let header = file.header();
        let Some((first, last)) = header.ordinals else { return };
        let info = header.info;
        let config = CollectionConfig::new(info.dimension as usize, info.metric);
        let entry = self.collections.entry(info.collection).or_insert_with(|| {
            if is_system(info.collection) {
                return CollectionEntry::system();
            }
            let name = format!("collection-{}", info.collection);
            CollectionEntry::new(info.collection, &name, config, Lsn::ZERO)
        });
        entry.next_ordinal = entry.next_ordinal.max(DocumentOrdinal(last.0.saturating_add(1)));
        self.last_lsn = self.last_lsn.max(info.last_lsn);
        let covered = self.covered.entry(info.collection).or_default();
        *covered = (*covered).max(info.last_lsn);
        entry.postings.push(PostingEntry {
            file: meta,
            first_ordinal: first,
            last_ordinal: last,
            documents: header.documents,
            rows: header.rows,
            killed: 0,
        });
    }

    /// Up to where the files hold everything that was written to a collection; `None` if one of them is damaged.
    pub(super) fn covered(&self, collection: CollectionId) -> Option<Lsn> {
        self.covered.get(&collection).filter(|_| self.unreadable.is_empty()).copied()
    }

    /// What a collection of an older manifest had that the files have not.
    pub(super) fn missing(&self, base: &CollectionEntry) -> Missing {
        let found = self.collections.get(&base.id);
        let postings = found.map_or(&[][..], |found| &found.postings);
        let kills = found.map_or(&[][..], |found| &found.kills);
        // One that is gone was merged into a newer one, if there is one with as many.
        let is_forgotten = |lost: &&KillEntry| {
            let name = lost.file.name().to_string();
            let is_damaged = self.names.contains(&name);
            let is_newer =
                |has: &&KillEntry| base.kills.iter().all(|known| known.file.number < has.file.number);
            let is_merged = || kills.iter().filter(is_newer).any(|has| has.ordinals >= lost.ordinals);
            kills.iter().all(|has| has.file != lost.file) && (is_damaged || !is_merged())
        };
        // A file whose ordinals another one has was merged into that.
        let is_gone = |lost: &&PostingEntry| {
            postings
                .iter()
                .all(|has| lost.last_ordinal < has.first_ordinal || has.last_ordinal < lost.first_ordinal)
        };
        Missing {
            documents: base
                .postings
                .iter()
                .filter(is_gone)
                .map(|lost| lost.documents.saturating_sub(lost.killed))
                .sum(),
            deletions: base.kills.iter().filter(is_forgotten).map(|lost| lost.ordinals).sum(),
            known: base.postings.clone(),
        }
    }

    /// What `base`, an older manifest or an empty one, and the files say together.
    pub(super) fn manifest(&self, base: &Manifest) -> Manifest {
        let mut manifest = base.clone();
        manifest.next_file = manifest.next_file.max(FileNumber(self.next_file));
        for entry in &mut manifest.collections {
            entry.vectors.clear();
            entry.postings.clear();
            entry.kills.clear();
            entry.indexes.clear();
        }
        let system = CollectionEntry::system();
        if manifest.collection(system.id).is_none() {
            manifest.collections.push(system);
        }
        for (id, found) in &self.collections {
            match manifest.collection_mut(*id) {
                Some(entry) => {
                    entry.postings.clone_from(&found.postings);
                    entry.kills.clone_from(&found.kills);
                    entry.next_ordinal = entry.next_ordinal.max(found.next_ordinal);
                    entry.next_list = entry.next_list.max(found.next_list);
                    entry.next_shard = entry.next_shard.max(found.next_shard);
                }
                None => manifest.collections.push(found.clone()),
            }
            manifest.next_collection = manifest.next_collection.max(CollectionId(id.0.saturating_add(1)));
        }
        manifest
    }
}
