//! The layer `crashes`: workloads that are cut off before any of their operations.
//!
//! What was acknowledged is there, what was under way is there as a whole or not at all, nothing was invented,
//! and the database goes on; also when the recovery is cut off.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use plimsoll_sim::{CrashPolicy, DirectoryModel, Moment, SimStorage};

use crate::campaign::{Campaign, Layer};
use crate::random::Random;
use crate::recorder::Recording;
use crate::recovery::{check_recovery, check_second_crash};
use crate::workloads;

/// Both models of what a crash does to names.
pub const MODELS: [DirectoryModel; 2] = [DirectoryModel::Strict, DirectoryModel::Journalled];

/// How much is done to one workload.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Every how many-th operation is a crash point.
    pub stride: usize,
    /// Random outcomes of each power cut, beside the two extremes.
    pub outcomes: u64,
    /// Every how many-th crash point also has crashes in the recovery, and at how many moments of it.
    pub again: (usize, usize),
    /// Where the random outcomes start.
    pub seed: u64,
}

/// A recorded workload with what was looked at already.
pub struct Crashed<'a> {
    name: &'a str,
    recording: &'a Recording,
    /// States that were checked, with what was allowed.
    seen: Mutex<HashSet<(u64, (usize, usize))>>,
}

impl<'a> Crashed<'a> {
    /// Nothing was looked at yet. Counts the workload.
    pub fn new(campaign: &Campaign, name: &'a str, recording: &'a Recording) -> Self {
        let counters = &campaign.counters;
        counters.workloads.one();
        counters.operations.add(recording.disk().operations());
        counters.model_operations.add(recording.steps() as u64);
        Self { name, recording, seen: Mutex::default() }
    }

    /// The name of the case of a crash at this moment.
    pub fn case(&self, moment: &Moment) -> String {
        format!("{}@{}", self.name, moment.number())
    }

    /// Counts a state that a crash has left, and says whether it is to be checked: it is new, or something else
    /// is allowed now.
    pub fn is_new(&self, campaign: &Campaign, moment: &Moment, disk: &SimStorage) -> bool {
        let state = (campaign.counters.state(disk), self.recording.allowance(moment));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(state)
    }

    /// Checks the recovery of a state that a crash at this moment has left.
    pub fn check(&self, campaign: &Campaign, moment: &Moment, disk: &SimStorage, what: &str) {
        check_recovery(disk, &self.recording.allowed(moment), what);
        campaign.counters.recoveries.one();
    }

    fn crash(&self, campaign: &Campaign, moment: &Moment, effort: Effort) {
        campaign.counters.crash_points.one();
        let n = moment.number();
        let is_again = (n as usize).is_multiple_of(effort.again.0);
        let random = (0..effort.outcomes).map(|k| {
            let mut random = Random::new(effort.seed ^ (n << 20) ^ k);
            CrashPolicy::Random(random.bits())
        });
        let policies: Vec<_> =
            [CrashPolicy::LoseAll, CrashPolicy::KeepAll].into_iter().chain(random).collect();
        for model in MODELS {
            for (k, policy) in policies.iter().enumerate() {
                let disk = moment.power_cut(model, *policy);
                let what = || format!("{policy:?} before operation {n}, {model:?}");
                if self.is_new(campaign, moment, &disk) {
                    self.check(campaign, moment, &disk, &what());
                }
                if is_again && k < 3 {
                    let disk = moment.power_cut(model, *policy);
                    self.again(campaign, moment, &disk, model, effort, &what());
                }
            }
            campaign.counters.kills.one();
            let what = format!("kill before operation {n}, {model:?}");
            self.check(campaign, moment, &moment.kill(model), &what);
            if is_again {
                self.again(campaign, moment, &moment.kill(model), model, effort, &what);
            }
        }
    }

    fn again(
        &self,
        campaign: &Campaign,
        moment: &Moment,
        disk: &SimStorage,
        model: DirectoryModel,
        effort: Effort,
        what: &str,
    ) {
        let allowed = self.recording.allowed(moment);
        check_second_crash(&campaign.counters, disk, model, &allowed, effort.again.1, what);
    }
}

/// Crashes a workload at its operations.
pub fn crash(campaign: &Campaign, name: &str, recording: &Recording, effort: Effort) {
    let crashed = Crashed::new(campaign, name, recording);
    campaign.each(
        Layer::Crashes,
        recording.moments().iter().rev().step_by(effort.stride),
        |moment| crashed.case(moment),
        |moment| crashed.crash(campaign, moment, effort),
    );
}

/// All workloads.
pub(crate) fn matrix(campaign: &Campaign) {
    for workload in workloads::ALL {
        record(campaign, Layer::Crashes, workload.name, |recording| {
            let (stride, again) = if workload.is_large { (7, (63, 6)) } else { (1, (11, 12)) };
            crash(campaign, workload.name, recording, Effort { stride, outcomes: 4, again, seed: 0 });
        });
    }
}

/// One of the workloads with other outcomes, and a random one.
pub(crate) fn random(campaign: &Campaign, seed: u64) {
    let small: Vec<_> = workloads::ALL.iter().filter(|workload| !workload.is_large).collect();
    let chosen = small[seed as usize % small.len()].name.to_owned();
    for name in [chosen, format!("random-{seed}")] {
        record(campaign, Layer::Crashes, &name, |recording| {
            crash(campaign, &name, recording, Effort { stride: 1, outcomes: 6, again: (17, 6), seed });
        });
    }
}

/// Records a workload and does something with it; that it can't be recorded is a violation.
pub(crate) fn record(campaign: &Campaign, layer: Layer, name: &str, then: impl FnOnce(&Recording)) {
    let mut recorded = None;
    campaign.case(layer, || format!("{name}@0"), || recorded = workloads::record(name));
    if let Some(recording) = recorded {
        then(&recording);
    }
}

/// The workload and the moment of a case named `WORKLOAD@MOMENT`.
pub(crate) fn find(case: &str) -> Result<(Recording, usize), String> {
    let wrong = || format!("{case:?} is no case: WORKLOAD@MOMENT");
    let (name, n) = case.split_once('@').ok_or_else(wrong)?;
    let n: usize = n.parse().map_err(|_| wrong())?;
    let recording = workloads::record(name).ok_or_else(|| format!("there is no workload {name:?}"))?;
    if n >= recording.moments().len() {
        return Err(format!("{name} has {} moments", recording.moments().len()));
    }
    Ok((recording, n))
}

/// A crash at one moment, with many outcomes.
pub(crate) fn replay(campaign: &Campaign, case: &str) -> Result<String, String> {
    let (recording, n) = find(case)?;
    let name = case.split('@').next().unwrap_or_default();
    let (crashed, moment) = (Crashed::new(campaign, name, &recording), &recording.moments()[n]);
    let seeds = 0..if campaign.counters.violations.get() == 0 { 64 } else { 1 };
    for seed in seeds {
        let effort = Effort { stride: 1, outcomes: 6, again: (1, usize::MAX), seed };
        let again = if seed == 0 { effort.again } else { (usize::MAX, 1) };
        campaign.case(
            Layer::Crashes,
            || case.to_owned(),
            || {
                crashed.crash(campaign, moment, Effort { again, ..effort });
            },
        );
    }
    Ok(recording.describe(moment))
}
