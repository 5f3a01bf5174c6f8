//! What a repair has to keep.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{Database, Document, Key, ReadOnlyDatabase, RepairReport, repair_in};
use plimsoll_sim::{CrashPolicy, SimStorage};

use super::Damage;
use super::seen::Seen;
use super::victim::{Victim, document};
use crate::campaign::Campaign;
use crate::model::{Model, assert_same};
use crate::recovery::{PATH, builder};

impl Victim {
    /// A repair makes it sound, keeps what could be read, and invents nothing.
    pub(super) fn check_repair(&self, campaign: &Campaign, disk: &SimStorage, damage: &Damage, seen: &Seen) {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let report =
            repair_in(Path::new(PATH), &storage).unwrap_or_else(|error| panic!("the repair failed: {error}"));
        campaign.counters.repairs.one();
        self.assert_kept(disk, damage, "after the repair");
        let lost = self.check_repaired(disk, damage, seen, &report);
        campaign.counters.documents_lost.add(lost);
        let again = repair_in(Path::new(PATH), &storage).unwrap();
        assert!(!again.was_damaged(), "a second repair finds more: {:?}", again.findings);
        assert_eq!(disk.violations(), [] as [String; 0]);
    }

    /// A repair that is cut off before any of its operations, by a power cut or a kill, and then done again, saves
    /// what it would have saved at once.
    pub(super) fn check_interrupted(&self, campaign: &Campaign, damage: &Damage, random: u64) {
        let disk = self.damaged(damage);
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let seen = Seen::of(ReadOnlyDatabase::open_in(Path::new(PATH), storage, false), self, damage);
        let first = disk.operations();
        let report = repair_in(Path::new(PATH), &(Arc::new(disk.clone()) as Arc<dyn Storage>))
            .unwrap_or_else(|error| panic!("the repair failed: {error}"));
        let saved = Model::of(&builder(&disk.after_kill()).open().unwrap());
        let mut states = HashSet::new();
        for number in first..disk.operations() {
            let policies = [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(random ^ number)];
            let cuts = policies.map(|policy| disk.after_crash_at(number, policy));
            let cuts = cuts.into_iter().chain([disk.after_kill_at(number)]);
            for cut in cuts.filter(|cut| states.insert(campaign.counters.state(cut))) {
                let storage: Arc<dyn Storage> = Arc::new(cut.clone());
                let again = repair_in(Path::new(PATH), &storage)
                    .unwrap_or_else(|error| panic!("repairing again, cut off before {number}: {error}"));
                campaign.counters.repairs_cut_off.one();
                self.assert_kept(&cut, damage, &format!("cut off before {number}"));
                assert_told(&cut, &again, &report, number);
                let now = Model::of(&builder(&cut.after_kill()).mapped(false).open().unwrap());
                for (name, collection) in &saved.collections {
                    let kept = &now.collections[name].documents;
                    let worse =
                        collection.documents.iter().find(|(key, saved)| kept.get(*key) != Some(*saved));
                    assert!(
                        worse.is_none(),
                        "cut off before {number}: {worse:?} of {name} is lost, it was saved"
                    );
                }
                // What is lost is what the report of the whole repair says.
                self.check_repaired(&cut, damage, &seen, &report);
                let storage: Arc<dyn Storage> = Arc::new(cut.after_kill());
                let third = repair_in(Path::new(PATH), &storage).unwrap();
                assert!(!third.was_damaged(), "cut off before {number}: {:?}", third.findings);
            }
        }
    }

    /// No data file is removed, damaged or not: its bytes are somewhere.
    fn assert_kept(&self, disk: &SimStorage, damage: &Damage, when: &str) {
        let now: HashSet<Vec<u8>> = disk.paths().into_iter().filter_map(|path| disk.bytes(path)).collect();
        let before = self.damaged(damage);
        for path in before.paths().into_iter().filter(|path| path.starts_with(Path::new(PATH).join("data"))) {
            let is_kept = now.contains(&before.bytes(&path).unwrap());
            assert!(
                is_kept,
                "{when}: the bytes of {} are nowhere; there are {:?}",
                path.display(),
                disk.paths()
            );
        }
    }

    /// Returns how many documents are lost.
    fn check_repaired(&self, disk: &SimStorage, damage: &Damage, seen: &Seen, report: &RepairReport) -> u64 {
        let db =
            builder(disk).mapped(false).open().unwrap_or_else(|error| panic!("after the repair: {error}"));
        let verified = db.verify().unwrap();
        assert!(!verified.is_damaged(), "after the repair: {:?}", verified.findings);
        let found = Model::of(&db);
        // Where no manifest is left, nothing tells what there was.
        let is_manifest = |file: &&&str| file.starts_with("MANIFEST-") || file.starts_with("PREVIOUS-");
        let manifests = damage.files().iter().filter(is_manifest).count();
        let names_lost = report.manifest.is_some() && manifests > 1;
        // Together with the log nobody knows what it was.
        let is_log = damage.files().iter().any(|file| file.starts_with("wal/"));
        let log_unknown = report.manifest.is_some() && manifests > 0 && is_log;
        let mut lost = 0;
        for (name, collection) in &self.model.collections {
            let mut open = name;
            if !found.collections.contains_key(name) {
                assert!(names_lost, "collection {name} is lost, and the report does not say so");
                // It has another name now: what the files say tells which it is.
                let is_it = |now: &&String| {
                    now.starts_with("collection-")
                        && found.collections[*now].config.dimension == collection.config.dimension
                };
                match found.collections.keys().find(is_it) {
                    Some(now) => open = now,
                    // All of it was in the files that are gone.
                    None => {
                        assert!(damage.files().len() > 1, "collection {name} is lost for nothing");
                        lost += collection.documents.len() as u64;
                        continue;
                    }
                }
            }
            let now = &found.collections[open];
            let snapshot = db.snapshot().collection(open).unwrap();
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
            let of_it = report.collections.iter().find(|repaired| repaired.name == *open);
            let (said_lost, said_back) =
                of_it.map_or((0, 0), |repaired| (repaired.documents_lost, repaired.deletions_lost));
            let log_lost = report.log.as_ref().is_some_and(|log| log.batches_lost > 0 || log.uncounted);
            let tail_only = self.before[0].collections[name] == *now;
            let unknown = names_lost || tail_only || log_lost || log_unknown;
            assert!(
                missing <= said_lost + said_back || unknown,
                "{missing} documents of {name} are lost, and the report does not say so: {report:?}"
            );
            // What had been deleted or replaced stays so, or may be back, and that is said.
            let is_back =
                |(key, document): &(&Key, &Document)| collection.documents.get(*key) != Some(document);
            let back = now.documents.iter().filter(is_back).count() as u64;
            assert!(
                back <= said_back || unknown,
                "{back} documents of {name} are back, and the report does not say so: {report:?}"
            );
            lost += missing;
        }
        drop(found);
        write_and_reopen(&db, disk);
        lost
    }
}

/// What is lost stands in the report of the repair that was done again, or in one that a repair has left behind.
fn assert_told(disk: &SimStorage, again: &RepairReport, whole: &RepairReport, number: u64) {
    let reports = disk.paths().into_iter().filter(|path| path.ends_with("REPORT"));
    let reports: String =
        reports.map(|path| String::from_utf8(disk.bytes(path).unwrap()).unwrap() + "\n").collect();
    for lost in whole.collections.iter().filter(|lost| lost.documents_lost > 0) {
        let same = |of: &&plimsoll::CollectionRepair| of.documents_lost == lost.documents_lost;
        let line = format!("{}: {}", lost.name, lost.documents_kept);
        let is_told = again.collections.iter().find(same).is_some() || reports.contains(&line);
        assert!(is_told, "cut off before {number}: nobody is told that {line} were kept: {reports}");
    }
}

/// A repaired database goes on.
fn write_and_reopen(db: &Database, disk: &SimStorage) {
    let names: Vec<String> = db.collections().iter().map(|collection| collection.name().to_owned()).collect();
    for name in &names {
        let collection = db.collection(name).unwrap();
        collection.upsert(document(5000, 1, collection.dimension())).unwrap();
    }
    let written = Model::of(db);
    db.flush().unwrap();
    db.compact().unwrap();
    let before = Model::of(db);
    assert_eq!(before, written, "after the repair, a flush changes something");
    for name in &names {
        let collection = db.collection(name).unwrap();
        let stored = collection.get(5000u64).unwrap().expect("what is written after the repair is there");
        assert_same(&stored, &document(5000, 1, collection.dimension()));
    }
    db.close().unwrap();
    let again = builder(disk).open().unwrap();
    assert_eq!(Model::of(&again), before, "after the repair, reopening changes something");
}
