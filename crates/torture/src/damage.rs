//! The layer `damage`: bits flipped, files cut, extended, zeroed, missing, exchanged and stale.
//!
//! A small database is damaged in one way at a time. Whoever reads it then gets the right answer or a typed error
//! that names a file, and damage in the files of one collection leaves the others as they were. `verify` notices
//! what readers notice. A repair gives back everything that could be read before it, nothing that was never
//! written, and a database that is sound.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{
    Database, Document, Durability, Effort, Error, Key, Metric, ReadOnlyCollection, ReadOnlyDatabase,
    RepairReport, StorageError, repair_in, verify_in,
};
use plimsoll_sim::SimStorage;

use crate::campaign::{Campaign, Layer};
use crate::model::{Model, ModelCollection, assert_same};
use crate::recorder::Recorder;
use crate::recovery::{PATH, builder};

/// One way to damage a database; files are meant by their names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A flipped bit.
    Flip(String, u64),
    /// A file that ends at this byte.
    Cut(String, u64),
    /// A file with so many zeros after its end.
    Extend(String, u64),
    /// A file whose bytes are zeros.
    Zero(String),
    /// Files that are not there.
    Missing(Vec<String>),
    /// Two files that are in each other's place.
    Swap(String, String),
    /// A file with the bytes of another.
    Copy(String, String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(file, bit) => write!(f, "flip:{file}:{bit}"),
            Self::Cut(file, len) => write!(f, "cut:{file}:{len}"),
            Self::Extend(file, by) => write!(f, "extend:{file}:{by}"),
            Self::Zero(file) => write!(f, "zero:{file}"),
            Self::Missing(files) => write!(f, "missing:{}", files.join(":")),
            Self::Swap(a, b) => write!(f, "swap:{a}:{b}"),
            Self::Copy(from, to) => write!(f, "copy:{from}:{to}"),
        }
    }
}

impl FromStr for Damage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| part.parse::<u64>().map_err(|_| format!("{part:?} is no number"));
        Ok(match parts.as_slice() {
            ["flip", file, bit] => Self::Flip((*file).to_owned(), number(bit)?),
            ["cut", file, len] => Self::Cut((*file).to_owned(), number(len)?),
            ["extend", file, by] => Self::Extend((*file).to_owned(), number(by)?),
            ["zero", file] => Self::Zero((*file).to_owned()),
            ["missing", files @ ..] => Self::Missing(files.iter().map(|file| (*file).to_owned()).collect()),
            ["swap", a, b] => Self::Swap((*a).to_owned(), (*b).to_owned()),
            ["copy", from, to] => Self::Copy((*from).to_owned(), (*to).to_owned()),
            _ => return Err(format!("{text:?} is no damage")),
        })
    }
}

impl Damage {
    fn files(&self) -> Vec<&str> {
        match self {
            Self::Flip(file, _) | Self::Cut(file, _) | Self::Extend(file, _) | Self::Zero(file) => vec![file],
            Self::Missing(files) => files.iter().map(String::as_str).collect(),
            Self::Swap(a, b) => vec![a, b],
            Self::Copy(_, to) => vec![to],
        }
    }

    fn apply(&self, disk: &SimStorage) {
        let path = |file: &str| Path::new(PATH).join(file);
        let bytes = |file: &str| disk.bytes(path(file)).unwrap_or_else(|| panic!("there is no file {file}"));
        match self {
            Self::Flip(file, bit) => disk.flip_bit(path(file), *bit).unwrap(),
            Self::Cut(file, len) => disk.truncate(path(file), *len).unwrap(),
            Self::Extend(file, by) => disk.truncate(path(file), bytes(file).len() as u64 + by).unwrap(),
            Self::Zero(file) => disk.put(path(file), vec![0; bytes(file).len()]).unwrap(),
            Self::Missing(files) => files.iter().for_each(|file| disk.delete(path(file)).unwrap()),
            Self::Swap(a, b) => {
                let (of_a, of_b) = (bytes(a), bytes(b));
                disk.put(path(a), of_b).unwrap();
                disk.put(path(b), of_a).unwrap();
            }
            Self::Copy(from, to) => disk.put(path(to), bytes(from)).unwrap(),
        }
    }
}

/// A database to be damaged.
pub struct Victim {
    disk: SimStorage,
    /// What it holds.
    model: Model,
    /// What it holds without the last write, which nothing proves to have been there; and without the one before,
    /// which nothing but the last one proves, so that readers beside a writer do not show it if that is damaged.
    before: [Model; 2],
    /// Every version of every document that was ever written.
    written: BTreeMap<(String, Key), Vec<Document>>,
    /// Its files, with their lengths.
    files: Vec<(String, u64)>,
    /// The file that is the newest manifest.
    manifest: String,
}

fn document(key: u64, version: u64, dimension: usize) -> Document {
    let vector: Vec<f32> =
        (0..dimension as u64).map(|n| (key * 3 + n) as f32 + version as f32 / 8.0 + 0.5).collect();
    Document::new(key)
        .text(format!("document {key}, version {version}"))
        .metadata("version", version)
        .vector(vector)
}

impl Victim {
    /// Two collections with sealed files, replaced and deleted documents, and a log with several segments.
    pub fn new() -> Self {
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
        // A disk without the guard of the recorder's: that holds for sound databases.
        let disk = SimStorage::new();
        for path in run.disk.paths() {
            disk.put(&path, run.disk.bytes(&path).unwrap()).unwrap();
        }
        Self::of(disk, model, [one_before, two_before], written)
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

    /// Damages a copy of it and checks everything.
    pub fn check(&self, campaign: &Campaign, damage: &Damage, depth: Depth) {
        let disk = self.disk.after_kill();
        damage.apply(&disk);
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
            self.check_repair(campaign, &disk.after_kill(), &seen);
        }
    }

    /// Whether every byte of what is damaged is covered by a checksum.
    fn must_notice(&self, damage: &Damage) -> bool {
        damage.files().iter().any(|file| file.starts_with("data/") || **file == self.manifest)
    }

    /// That the error says which file is damaged, and that it is one of those that are, or leads to it.
    fn assert_typed(&self, error: &Error, damage: &Damage) {
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

    fn allowed(&self, name: &str) -> [&ModelCollection; 3] {
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

    /// A repair makes it sound, keeps what could be read, and invents nothing; also when it is cut off.
    fn check_repair(&self, campaign: &Campaign, disk: &SimStorage, seen: &Seen) {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let report = match repair_in(Path::new(PATH), &storage) {
            Ok(report) => report,
            // Nothing is left that says what it was.
            Err(Error::Storage(StorageError::Corrupted { .. })) if matches!(seen, Seen::Refused) => {
                let files = disk.paths();
                let has = |part: &str| files.iter().any(|file| file.display().to_string().contains(part));
                assert!(!has("MANIFEST-") || !has("/data/"), "there is something to go by");
                return;
            }
            Err(error) => panic!("the repair failed: {error}"),
        };
        campaign.counters.repairs.one();
        let lost = self.check_repaired(disk, seen, &report);
        campaign.counters.documents_lost.add(lost);
        let again = repair_in(Path::new(PATH), &storage).unwrap();
        assert!(!again.was_damaged(), "a second repair finds more: {:?}", again.findings);
        assert_eq!(disk.violations(), [] as [String; 0]);
    }

    /// Returns how many documents are lost.
    fn check_repaired(&self, disk: &SimStorage, seen: &Seen, report: &RepairReport) -> u64 {
        let db =
            builder(disk).mapped(false).open().unwrap_or_else(|error| panic!("after the repair: {error}"));
        let verified = db.verify().unwrap();
        assert!(!verified.is_damaged(), "after the repair: {:?}", verified.findings);
        let found = Model::of(&db);
        let names_lost = report.manifest.is_some();
        let mut lost = 0;
        for (name, collection) in &self.model.collections {
            let Some(now) = found.collections.get(name) else {
                assert!(names_lost, "collection {name} is lost, and the report does not say so");
                lost += collection.documents.len() as u64;
                continue;
            };
            let snapshot = db.snapshot().collection(name).unwrap();
            now.check(&snapshot);
            now.check_search(&snapshot, &vec![1.0; collection.config.dimension], 5);
            for (key, document) in &now.documents {
                let versions = self.written.get(&(name.clone(), key.clone()));
                let versions = versions.unwrap_or_else(|| panic!("{key:?} of {name} was invented"));
                assert!(versions.contains(document), "{key:?} of {name} has a version that no one wrote");
            }
            // Nothing that could be read before is worse now.
            if let Seen::Opened { readable, .. } = seen {
                for (key, document) in readable.get(name).into_iter().flatten() {
                    let after = now.documents.get(key);
                    let after =
                        after.unwrap_or_else(|| panic!("{key:?} of {name} could be read before the repair"));
                    assert_same(after, document);
                }
            }
            let missing = collection
                .documents
                .iter()
                .filter(|(key, document)| now.documents.get(*key) != Some(document));
            let missing = missing.count() as u64;
            let of_it = report.collections.iter().find(|repaired| repaired.name == *name);
            let said = of_it.is_some_and(|repaired| repaired.documents_lost + repaired.deletions_lost > 0);
            let log = report.log.as_ref();
            let tail_only = self.before[0].collections[name] == *now;
            assert!(
                missing == 0 || said || names_lost || tail_only || log.is_some(),
                "{missing} documents of {name} are lost, and the report does not say so: {report:?}"
            );
            lost += missing;
        }
        drop(found);
        write_and_reopen(&db, disk);
        lost
    }
}

impl Default for Victim {
    fn default() -> Self {
        Self::new()
    }
}

/// A repaired database goes on.
fn write_and_reopen(db: &Database, disk: &SimStorage) {
    let names: Vec<String> = db.collections().iter().map(|collection| collection.name().to_owned()).collect();
    for name in &names {
        let collection = db.collection(name).unwrap();
        collection.upsert(document(5000, 1, collection.dimension())).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    let before = Model::of(db);
    db.close().unwrap();
    let again = builder(disk).open().unwrap();
    assert_eq!(Model::of(&again), before, "after the repair, reopening changes something");
}

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Readers and `verify`.
    Read,
    /// A writer, too.
    Write,
    /// And a repair.
    Repair,
}

/// What a reader saw of a damaged database.
enum Seen {
    /// It did not open, with a typed error.
    Refused,
    Opened {
        /// Calls that were answered by a typed error.
        errors: usize,
        /// The documents that could be read.
        readable: BTreeMap<String, BTreeMap<Key, Document>>,
    },
}

impl Seen {
    fn of(opened: plimsoll::Result<ReadOnlyDatabase>, victim: &Victim, damage: &Damage) -> Self {
        let db = match opened {
            Ok(db) => db,
            Err(error) => {
                victim.assert_typed(&error, damage);
                return Self::Refused;
            }
        };
        let mut readable = BTreeMap::new();
        let (mut errors, mut harmed) = (0, 0);
        for name in victim.model.collections.keys() {
            let collection = db.collection(name).unwrap_or_else(|error| panic!("collection {name}: {error}"));
            let mut reader = Reader { victim, damage, name, errors: 0, documents: BTreeMap::new() };
            reader.read(&collection);
            harmed += usize::from(reader.errors > 0);
            errors += reader.errors;
            readable.insert(name.clone(), reader.documents);
        }
        let in_data = damage.files().iter().all(|file| file.starts_with("data/"));
        if in_data && damage.files().len() == 1 {
            assert!(harmed <= 1, "damage in one file harms {harmed} collections");
        }
        Self::Opened { errors, readable }
    }
}

/// Reads one collection in every way.
struct Reader<'a> {
    victim: &'a Victim,
    damage: &'a Damage,
    name: &'a str,
    errors: usize,
    documents: BTreeMap<Key, Document>,
}

impl Reader<'_> {
    /// The result, if it is not a typed error about the damage.
    fn take<T>(&mut self, result: plimsoll::Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                self.victim.assert_typed(&error, self.damage);
                self.errors += 1;
            })
            .ok()
    }

    fn read(&mut self, collection: &ReadOnlyCollection) {
        let allowed = self.victim.allowed(self.name);
        let scanned: plimsoll::Result<Vec<Document>> = collection.scan().collect();
        if let Some(documents) = self.take(scanned) {
            let found: BTreeMap<Key, Document> =
                documents.into_iter().map(|document| (document.key.clone(), document)).collect();
            assert!(allowed.iter().any(|model| model.documents == found), "the scan shows something else");
        }
        let counted = collection.count();
        if let Some(count) = self.take(counted) {
            assert!(allowed.iter().any(|model| model.documents.len() as u64 == count), "{count} documents");
        }
        let keys: Vec<Key> = self
            .victim
            .written
            .keys()
            .filter(|(name, _)| name == self.name)
            .map(|(_, key)| key.clone())
            .collect();
        let mut got = BTreeMap::new();
        for key in keys {
            let result = collection.get(key.clone());
            let Some(found) = self.take(result) else { continue };
            got.insert(key, found);
        }
        let shows = |model: &&&ModelCollection| {
            got.iter().all(|(key, found)| model.documents.get(key) == found.as_ref())
        };
        let shown = *allowed.iter().find(shows).expect("what can be read is one of the allowed states");
        self.documents.extend(got.iter().filter_map(|(key, found)| Some((key.clone(), found.clone()?))));
        let query = vec![2.5; collection.dimension()];
        for (effort, partial) in [(Effort::Exact, false), (Effort::default(), false), (Effort::Exact, true)] {
            let search = collection.search(&query).k(7).effort(effort).allow_partial(partial);
            let found = search.with_text(true).with_vector(true).run();
            let Some(found) = self.take(found) else { continue };
            let is_partial = !found.explain.missing.is_empty();
            assert!(!is_partial || partial, "an answer is partial, and nobody allowed that");
            if is_partial {
                self.errors += 1;
            }
            shown.check_found(&query, 7, &found, is_partial);
        }
    }
}

/// The damage of a campaign: every `stride`-th bit from `first` on, and everything else.
fn all(victim: &Victim, first: u64, stride: u64) -> Vec<(Damage, Depth)> {
    let mut all = Vec::new();
    let files = victim.files();
    for (number, (file, len)) in files.iter().enumerate() {
        let flips = (first % stride..len * 8).step_by(stride as usize);
        all.extend(flips.enumerate().map(|(n, bit)| {
            let depth = match n % 64 {
                0 => Depth::Repair,
                n if n % 16 == 0 => Depth::Write,
                _ => Depth::Read,
            };
            (Damage::Flip(file.clone(), bit), depth)
        }));
        let lengths = (0..*len).step_by(stride.max(1) as usize).chain([len - 1]);
        all.extend(lengths.enumerate().map(|(n, len)| {
            let depth = if n % 32 == 0 { Depth::Repair } else { Depth::Read };
            (Damage::Cut(file.clone(), len), depth)
        }));
        all.extend([1, 8, 64, 4096].map(|by| (Damage::Extend(file.clone(), by), Depth::Repair)));
        all.push((Damage::Zero(file.clone()), Depth::Repair));
        all.push((Damage::Missing(vec![file.clone()]), Depth::Repair));
        for (other, _) in &files[number + 1..] {
            all.push((Damage::Missing(vec![file.clone(), other.clone()]), Depth::Repair));
            let together = Path::new(file).parent() == Path::new(other).parent();
            if together {
                all.push((Damage::Swap(file.clone(), other.clone()), Depth::Repair));
                all.push((Damage::Copy(file.clone(), other.clone()), Depth::Repair));
                all.push((Damage::Copy(other.clone(), file.clone()), Depth::Repair));
            }
        }
    }
    all
}

fn run(campaign: &Campaign, first: u64, stride: u64) {
    let mut victim = None;
    campaign.case(Layer::Damage, || "none".to_owned(), || victim = Some(Victim::new()));
    let Some(victim) = victim else { return };
    campaign.each(
        Layer::Damage,
        all(&victim, first, stride).into_iter(),
        |(damage, _)| damage.to_string(),
        |(damage, depth)| victim.check(campaign, damage, *depth),
    );
}

/// A part of the bits.
pub(crate) fn matrix(campaign: &Campaign) {
    run(campaign, 0, 13);
}

/// Other bits with every seed: after 13 of them, all.
pub(crate) fn random(campaign: &Campaign, seed: u64) {
    run(campaign, seed, 13);
}

/// One damage again, with everything.
pub(crate) fn replay(campaign: &Campaign, case: &str) -> Result<String, String> {
    let damage: Damage = case.parse()?;
    let victim = Victim::new();
    let check = || victim.check(campaign, &damage, Depth::Repair);
    campaign.case(Layer::Damage, || case.to_owned(), check);
    let files = victim.files().iter().map(|(file, len)| format!("  {file}: {len} bytes\n"));
    Ok(format!("the files before the damage:\n{}", files.collect::<String>()))
}
