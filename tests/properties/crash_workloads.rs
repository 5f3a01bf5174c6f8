//! A power cut or a kill before some operations of each recorded workload. The whole of it, before every
//! operation and with many more outcomes, is `plimsoll-torture matrix crashes`.

use plimsoll_torture::crashes::{Effort, crash};
use plimsoll_torture::{Campaign, workloads};

#[test]
fn some_crashes_of_each_workload() {
    let campaign = Campaign::new();
    for workload in workloads::ALL.iter().filter(|workload| !workload.is_large) {
        let recording = workloads::record(workload.name).unwrap();
        let effort = Effort { stride: 11, outcomes: 1, again: (5, 3), seed: 0 };
        crash(&campaign, workload.name, &recording, effort);
    }
    assert_eq!(campaign.violations(), []);
    let counters = &campaign.counters;
    assert!(counters.workloads.get() >= 20 && counters.second_crashes.get() > 100);
    assert!(counters.distinct_states() > 500, "{}", counters.distinct_states());
}
