//! What a campaign did, in numbers.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_sim::SimStorage;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $label:literal,)*) => {
        /// The counters of a campaign; any number of threads add to them.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Count,)*
            states: Mutex<HashSet<u64>>,
            faults: Mutex<BTreeMap<String, u64>>,
            seconds: Mutex<BTreeMap<&'static str, Duration>>,
        }

        impl Counters {
            /// Each counter with its label.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                let mut rows = vec![$(($label, self.$name.get()),)*];
                rows.push(("distinct crash states", self.distinct_states()));
                rows
            }
        }
    };
}

counters! {
    /// Workloads that were recorded or run.
    workloads: "workloads",
    /// Storage operations of these workloads.
    operations: "storage operations",
    /// Operations on documents and collections that the model went along with.
    model_operations: "model operations",
    /// Moments at which the power was cut.
    crash_points: "crash points",
    /// States of the disk after a power cut or a kill that were looked at, repeated ones included.
    crash_states: "crash states",
    /// Kills among them.
    kills: "kills",
    /// Crashes during the recovery from another.
    second_crashes: "second crashes",
    /// Moments at which every subset of what was pending was tried.
    exhausted: "moments exhausted",
    /// Moments with too many pending changes for that, which were sampled.
    sampled: "moments sampled",
    /// Recoveries that were checked against the model.
    recoveries: "recoveries checked",
    /// Acknowledgements for which a power cut was tried at once.
    acknowledgements: "acknowledgements checked",
    /// Removals of files that the guard looked at.
    removals: "removals guarded",
    /// Things done in the middle of a flush or a compaction.
    injections: "interleavings injected",
    /// Held snapshots that were read again.
    snapshots: "snapshots checked",
    /// Read-only openings and refreshes that were checked.
    readers: "readers checked",
    /// Searches compared with brute force.
    searches: "searches checked",
    /// Databases that were damaged.
    damaged: "databases damaged",
    /// Those that did not open, with an error that names a file.
    refused: "refused with a typed error",
    /// Those of which a part could not be read, with an error that names a file, and all the rest could.
    isolated: "readable but for a typed error",
    /// Those that answered everything, and right.
    unharmed: "right in spite of damage",
    /// Repairs.
    repairs: "repairs checked",
    /// Repairs that were cut off and done again.
    repairs_cut_off: "repairs cut off and done again",
    /// Documents that a repair could not save.
    documents_lost: "documents lost to damage",
    /// Sizes of a full disk.
    full_disks: "full disks",
    /// Violations.
    violations: "violations",
}

/// A number that goes up.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Adds several.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    /// Counts a state of the disk after a crash; returns its fingerprint.
    pub fn state(&self, disk: &SimStorage) -> u64 {
        let fingerprint = disk.fingerprint();
        self.crash_states.one();
        lock(&self.states).insert(fingerprint);
        fingerprint
    }

    /// How many states were different.
    pub fn distinct_states(&self) -> u64 {
        lock(&self.states).len() as u64
    }

    /// Counts the faults that have struck a disk.
    pub fn faults_of(&self, disk: &SimStorage) {
        let mut faults = lock(&self.faults);
        for ((kind, error), count) in disk.faults_struck() {
            *faults.entry(format!("{kind:?} {error}")).or_default() += count;
        }
    }

    /// Faults by call and error.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        lock(&self.faults).clone()
    }

    /// Adds to the time that a layer took.
    pub fn took(&self, layer: &'static str, time: Duration) {
        *lock(&self.seconds).entry(layer).or_default() += time;
    }

    /// Seconds by layer.
    pub fn seconds(&self) -> BTreeMap<&'static str, f64> {
        lock(&self.seconds).iter().map(|(layer, time)| (*layer, time.as_secs_f64())).collect()
    }
}
