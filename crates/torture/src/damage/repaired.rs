//! What a repair has to keep.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use plimsoll::storage::Storage;
use plimsoll::{Database, ReadOnlyDatabase, RepairReport, repair_in};
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
                let _again = repair_in(Path::new(PATH), &storage)
                    .unwrap_or_else(|error| panic!("repairing again, cut off before {number}: {error}"));
                campaign.counters.repairs_cut_off.one();
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
            let log_lost = report.log.as_ref().is_some_and(|log| log.batches_lost > 0 || log.uncounted);
            let tail_only = self.before[0].collections[name] == *now;
            assert!(
                missing == 0 || said || names_lost || tail_only || log_lost || log_unknown,
                "{missing} documents of {name} are lost, and the report does not say so: {report:?}"
            );
            lost += missing;
        }
        drop(found);
        write_and_reopen(&db, disk);
        lost
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
