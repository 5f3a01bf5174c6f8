//! The campaign itself: runs repeat, every counter counts, and what is violated is found, named and made small.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_sim::OperationKind;
use plimsoll_torture::counters::Counters;
use plimsoll_torture::crashes::{Effort, crash};
use plimsoll_torture::damage::Victim;
use plimsoll_torture::recovery::empty_disk;
use plimsoll_torture::runs::plan::Plan;
use plimsoll_torture::{Campaign, Layer, faults, full_disk, runs, workloads};

#[test]
fn a_seed_gives_the_identical_operations_twice() {
    let counters = Arc::new(Counters::default());
    let digest = |seed| runs::run(&Plan::new(seed), empty_disk(), &counters).unwrap();
    let once: Vec<u64> = (0..12).map(digest).collect();
    let twice: Vec<u64> = (0..12).map(digest).collect();
    assert_eq!(once, twice);
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), once.len());
}

#[test]
fn every_counter_counts() {
    let campaign = Campaign::new();
    let recording = workloads::record("everything_deleted").unwrap();
    crash(
        &campaign,
        "everything_deleted",
        &recording,
        Effort { stride: 19, outcomes: 1, again: (2, 1), seed: 1 },
    );
    // Where everything can be tried, and where it can't.
    for case in ["creation@9", "many_collections@80"] {
        Layer::Exhaustive.replay(&campaign, case).unwrap();
    }
    for seed in 0..20 {
        runs::run(&Plan::new(seed), empty_disk(), &campaign.counters).unwrap();
    }
    faults::every(&campaign, 500);
    full_disk::fill_with(&campaign, 5000);
    Layer::FullDisk.replay(&campaign, "create-3000").unwrap();
    let victim = Victim::new();
    let files: Vec<&str> = victim.files().iter().map(|(file, _)| file.as_str()).collect();
    for prefix in ["MANIFEST", "PREVIOUS"] {
        let file = files.iter().find(|file| file.starts_with(prefix)).unwrap();
        Layer::Damage.replay(&campaign, &format!("zero:{file}")).unwrap();
    }
    // Some hold what users have stored, some the system table, without which everything can be read.
    for file in files.iter().filter(|file| file.starts_with("data")) {
        Layer::Damage.replay(&campaign, &format!("zero:{file}")).unwrap();
    }
    assert_eq!(campaign.violations(), []);
    campaign.case(Layer::Runs, || "none".to_owned(), || panic!("as a violation"));
    for (label, count) in campaign.counters.rows() {
        assert!(count > 0, "{label} counts nothing");
    }
    assert_eq!(campaign.counters.violations.get(), 1);
    assert!(campaign.counters.distinct_states() < campaign.counters.crash_states.get());
    assert!(campaign.counters.faults().values().all(|count| *count > 0));
}

/// Whether runs on a disk that does not do its syncs of a kind end in violations.
fn finds_lies_about(kind: OperationKind) -> bool {
    let counters = Arc::new(Counters::default());
    (0..10).any(|seed| {
        let disk = empty_disk();
        disk.lie_about(kind);
        runs::run(&Plan::new(seed), disk, &counters).is_err()
    })
}

#[test]
fn runs_find_disks_that_lie() {
    assert!(finds_lies_about(OperationKind::Sync));
    assert!(finds_lies_about(OperationKind::SyncDir));
}

#[test]
fn violations_are_values_that_say_how_to_see_them_again() {
    let campaign = Campaign::new().until_first_violation();
    campaign.each(Layer::Faults, 0..1000, |n| format!("case-{n}"), |n| assert!(*n < 3, "{n} is too much"));
    let violations = campaign.violations();
    assert!(!violations.is_empty() && violations.len() < 100 && campaign.is_over());
    let shown = violations[0].to_string();
    assert!(shown.contains("is too much") && shown.contains("replay faults:case-"), "{shown}");
    let over = Campaign::new().for_time(Duration::ZERO);
    over.case(Layer::Runs, String::new, || panic!("this is not run"));
    assert_eq!(over.violations(), []);
}

#[test]
fn what_is_no_case_is_refused() {
    let campaign = Campaign::new();
    for (layer, case) in [
        (Layer::Crashes, "creation"),
        (Layer::Crashes, "nothing@1"),
        (Layer::Crashes, "creation@100000"),
        (Layer::Exhaustive, "creation@x"),
        (Layer::Runs, "seven"),
        (Layer::Faults, "flush"),
        (Layer::FullDisk, "fill"),
    ] {
        assert!(layer.replay(&campaign, case).is_err(), "{layer}:{case}");
    }
    assert!("nothing".parse::<Layer>().is_err());
    assert!(Layer::ALL.iter().all(|layer| layer.name().parse() == Ok(*layer)));
}
