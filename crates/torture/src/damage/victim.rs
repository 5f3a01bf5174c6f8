//! The database that is damaged, and what is true of it then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{Document, Durability, Error, Key, Metric, ReadOnlyDatabase, StorageError, verify_in};
use plimsoll_sim::SimStorage;

use super::seen::Seen;
use super::{Damage, Depth};
use crate::campaign::Campaign;
use crate::model::{Model, ModelCollection, assert_same};
use crate::recorder::Recorder;
use crate::recovery::{PATH, builder};

/// A database to be damaged.
pub struct Victim {
    pub(super) disk: SimStorage,
    /// What it holds.
    pub(super) model: Model,
    /// What it holds without the last write, which nothing proves to have been there; and without the one before,
    /// which nothing but the last one proves, so that readers beside a writer do not show it if that is damaged.
    pub(super) before: [Model; 2],
    /// Every version of every document that was ever written.
    pub(super) written: BTreeMap<(String, Key), Vec<Document>>,
    /// Its files, with their lengths.
    files: Vec<(String, u64)>,
    /// The file that is the newest manifest.
    manifest: String,
}

pub(super) fn document(key: u64, version: u64, dimension: usize) -> Document {
    let vector: Vec<f32> =
        (0..dimension as u64).map(|n| (key * 3 + n) as f32 + version as f32 / 8.0 + 0.5).collect();
    // Some are so long that their file has several blocks, and damage to one leaves the others.
    let more = if [3, 8, 12, 17].contains(&key) { "and so on; ".repeat(250) } else { String::new() };
    Document::new(key)
        .text(format!("document {key}, version {version}{more}"))
        .metadata("version", version)
        .vector(vector)
}

impl Victim {
    /// Two collections with sealed files, replaced and deleted documents, and a log with several segments.
    pub fn new() -> Self {
        Self::after(false)
    }

    /// The same, closed: all of it is in sealed files, and the log is empty.
    pub fn closed() -> Self {
        Self::after(true)
    }

    fn after(closed: bool) -> Self {
        let mut run = Recorder::new();
        let mut written: BTreeMap<(String, Key), Vec<Document>> = BTreeMap::new();
        run.open();
        run.create("a", 3, Metric::L2);
        run.create("b", 2, Metric::Cosine);
        let mut write =
            |run: &mut Recorder, name: &str, keys: std::ops::Range<u64>, version, deleted: &[u64]| {
                let dimension = run.model.collections[name].config.dimension;
                let documents: Vec<Document> = keys.map(|key| document(key, version, dimension)).collect();
                for document in &documents {
                    let versions = written.entry((name.to_owned(), document.key.clone())).or_default();
                    versions.push(document.clone());
                }
                run.write(name, &documents, deleted, Durability::Durable);
            };
        write(&mut run, "a", 0..20, 1, &[]);
        write(&mut run, "b", 0..9, 1, &[]);
        run.flush();
        write(&mut run, "a", 15..26, 2, &[0, 7]);
        write(&mut run, "b", 20..24, 2, &[3]);
        run.flush();
        // The log: more than a segment of it.
        for n in 0..9 {
            write(&mut run, "a", 30 + n * 3..36 + n * 3, 3 + n, &[1 + n]);
        }
        write(&mut run, "b", 4..6, 9, &[]);
        let two_before = run.model.clone();
        write(&mut run, "b", 6..7, 98, &[]);
        let one_before = run.model.clone();
        write(&mut run, "a", 2..4, 99, &[]);
        run.db().sync().unwrap();
        let model = run.model.clone();
        let mut before = [one_before, two_before];
        if closed {
            // Then sealed files prove everything.
            run.close();
            before = [model.clone(), model.clone()];
        }
        // A disk without the guard of the recorder's: that holds for sound databases.
        let disk = SimStorage::new();
        for path in run.disk.paths() {
            disk.put(&path, run.disk.bytes(&path).unwrap()).unwrap();
        }
        Self::of(disk, model, before, written)
    }

    fn of(
        disk: SimStorage,
        model: Model,
        before: [Model; 2],
        written: BTreeMap<(String, Key), Vec<Document>>,
    ) -> Self {
        let name = |path: &PathBuf| path.strip_prefix(PATH).ok().and_then(Path::to_str).map(str::to_owned);
        let is_held = |name: &String| name != "LOCK" && name != "RESERVE" && !name.ends_with(".tmp");
        let names = disk.paths();
        let names = names.iter().filter_map(name).filter(is_held);
        let files: Vec<(String, u64)> = names
            .map(|name| (name.clone(), disk.bytes(Path::new(PATH).join(&name)).unwrap().len() as u64))
            .collect();
        let is_manifest = |(name, _): &&(String, u64)| name.starts_with("MANIFEST-") && !name.contains('.');
        let manifest = files.iter().filter(is_manifest).map(|(name, _)| name.clone()).max().unwrap();
        Self { disk, model, before, written, files, manifest }
    }

    /// Its files, with their lengths in bytes.
    pub fn files(&self) -> &[(String, u64)] {
        &self.files
    }

    /// A copy of it that is damaged.
    pub(super) fn damaged(&self, damage: &Damage) -> SimStorage {
        let disk = self.disk.after_kill();
        damage.apply(&disk);
        // Once more, so that the damage is the state in which its log of operations begins.
        disk.after_kill()
    }

    /// Damages a copy of it and checks everything.
    pub fn check(&self, campaign: &Campaign, damage: &Damage, depth: Depth) {
        let disk = self.damaged(damage);
        campaign.counters.damaged.one();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let before = disk.operations();
        let seen =
            Seen::of(ReadOnlyDatabase::open_in(Path::new(PATH), Arc::clone(&storage), false), self, damage);
        match &seen {
            Seen::Refused => campaign.counters.refused.one(),
            Seen::Opened { errors: 0, .. } => campaign.counters.unharmed.one(),
            Seen::Opened { .. } => campaign.counters.isolated.one(),
        }
        let verified = verify_in(Path::new(PATH), &storage).map(|report| report.is_damaged());
        assert_eq!(disk.operations(), before, "reading and verifying change nothing");
        match verified {
            Ok(damaged) => {
                let noticed = matches!(&seen, Seen::Refused | Seen::Opened { errors: 1.., .. });
                assert!(damaged || !noticed, "verify does not notice what readers do");
                assert!(damaged || !self.must_notice(damage), "verify does not notice it");
            }
            Err(error) => self.assert_typed(&error, damage),
        }
        if depth >= Depth::Write {
            self.check_writer(&disk.after_kill(), damage);
        }
        if depth >= Depth::Repair {
            self.check_repair(campaign, &disk.after_kill(), damage, &seen);
        }
        if let Depth::CutOff { random } = depth {
            self.check_interrupted(campaign, damage, random);
        }
    }

    /// Whether every byte of what is damaged is covered by a checksum.
    fn must_notice(&self, damage: &Damage) -> bool {
        damage.files().iter().any(|file| file.starts_with("data/") || **file == self.manifest)
    }

    /// That the error says which file is damaged, and that it is one of those that are, or leads to it.
    pub(super) fn assert_typed(&self, error: &Error, damage: &Damage) {
        let file = match error {
            Error::Storage(
                StorageError::Corrupted { file, .. } | StorageError::UpgradeRequired { file, .. },
            ) => file,
            other => panic!("not a typed error about damage: {other:?}"),
        };
        let files = damage.files();
        let is_it = |damaged: &&str| {
            let damaged = Path::new(PATH).join(damaged);
            *file == damaged || damaged.parent() == Some(file) || file.parent() == damaged.parent()
        };
        // What is missing may be noticed by what is left.
        let is_missing = matches!(damage, Damage::Missing(_));
        assert!(is_missing || files.iter().any(is_it), "{} is named, {files:?} is damaged", file.display());
        if let Damage::Flip(damaged, _) = damage {
            assert_eq!(*file, Path::new(PATH).join(damaged), "another file is named");
        }
    }

    pub(super) fn allowed(&self, name: &str) -> [&ModelCollection; 3] {
        [&self.model, &self.before[0], &self.before[1]].map(|model| &*model.collections[name])
    }

    /// A writer gets the right answers or typed errors, too, and what it may write it can read.
    fn check_writer(&self, disk: &SimStorage, damage: &Damage) {
        let db = match builder(disk).mapped(false).open() {
            Ok(db) => db,
            Err(error) => return self.assert_typed(&error, damage),
        };
        for (name, collection) in &self.model.collections {
            let open = db.collection(name).unwrap();
            let new = document(1000, 1, collection.config.dimension);
            match open.upsert(new.clone()) {
                Ok(_) => assert_same(&open.get(1000u64).unwrap().unwrap(), &new),
                Err(error) => self.assert_typed(&error, damage),
            }
        }
        if let Err(error) = db.flush() {
            self.assert_typed(&error, damage);
        }
        if let Err(error) = db.close() {
            self.assert_typed(&error, damage);
        }
        drop(db);
        let again = ReadOnlyDatabase::open_in(Path::new(PATH), Arc::new(disk.clone()), false);
        if let Ok(db) = again {
            for (name, collection) in &self.model.collections {
                let got = db.collection(name).unwrap().get(1000u64);
                if let Ok(Some(got)) = got {
                    assert_same(&got, &document(1000, 1, collection.config.dimension));
                }
            }
        }
    }
}

impl Default for Victim {
    fn default() -> Self {
        Self::new()
    }
}
