//! The layer `exhaustive`: at every moment of small workloads, every subset of what a power cut may undo.
//!
//! Each pending name is lost or kept (in a journal: a prefix of them is kept), each pending write lost, kept,
//! or zeros of its length, and the last one of a file torn after each of its sectors. Where more than
//! [`PENDING`] changes are pending, or they have more than [`STATES`] outcomes together, random ones are tried.

use plimsoll_sim::{DirectoryModel, Moment, PendingChange};

use crate::campaign::{Campaign, Layer};
use crate::crashes::{Crashed, MODELS, find, record};
use crate::random::Random;
use crate::workloads;

/// Up to so many pending changes are exhausted.
pub const PENDING: usize = 12;
/// Up to so many combinations of outcomes are exhausted.
pub const STATES: usize = 1 << 17;

/// One workload of each kind: first creation, rotation of the log, buffered writes, flush, compaction, drop,
/// close.
const SMALL: [&str; 9] = [
    "creation",
    "creation_interrupted",
    "log_rotation",
    "buffered_writes",
    "flushes",
    "compactions",
    "several_collections",
    "closing",
    "poisoned_and_reopened",
];

pub(crate) fn matrix(campaign: &Campaign) {
    for name in SMALL {
        workload(campaign, name, Samples { seed: 0, count: 60, states: STATES });
    }
}

pub(crate) fn random(campaign: &Campaign, seed: u64) {
    let small: Vec<_> = workloads::ALL.iter().filter(|workload| !workload.is_large).collect();
    let chosen = small[seed as usize % small.len()].name.to_owned();
    for name in [chosen, format!("random-{seed}")] {
        workload(campaign, &name, Samples { seed, count: 60, states: STATES / 16 });
    }
}

pub(crate) fn replay(campaign: &Campaign, case: &str) -> Result<String, String> {
    let (recording, n) = find(case)?;
    let name = case.split('@').next().unwrap_or_default();
    let (crashed, moment) = (Crashed::new(campaign, name, &recording), &recording.moments()[n]);
    campaign.case(
        Layer::Exhaustive,
        || case.to_owned(),
        || {
            exhaust(campaign, &crashed, moment, Samples { seed: 0, count: 200, states: STATES });
        },
    );
    let pending = moment.pending(DirectoryModel::Strict);
    let pending: Vec<_> = pending.iter().map(|pending| format!("{pending:?}\n")).collect();
    Ok(format!("{}pending:\n{}", recording.describe(moment), pending.concat()))
}

/// What is tried where not everything can be.
#[derive(Debug, Clone, Copy)]
struct Samples {
    seed: u64,
    count: u64,
    /// Where there are more outcomes than that, not everything is tried.
    states: usize,
}

fn workload(campaign: &Campaign, name: &str, samples: Samples) {
    record(campaign, Layer::Exhaustive, name, |recording| {
        let crashed = Crashed::new(campaign, name, recording);
        campaign.each(
            Layer::Exhaustive,
            recording.moments().iter(),
            |moment| crashed.case(moment),
            |moment| exhaust(campaign, &crashed, moment, samples),
        );
    });
}

fn exhaust(campaign: &Campaign, crashed: &Crashed<'_>, moment: &Moment, samples: Samples) {
    let counters = &campaign.counters;
    counters.crash_points.one();
    for model in MODELS {
        let pending = moment.pending(model);
        let look = |outcomes: &[usize]| {
            let disk = moment.power_cut_with(model, outcomes);
            if crashed.is_new(campaign, moment, &disk) {
                let what = format!("outcomes {outcomes:?} before operation {}, {model:?}", moment.number());
                crashed.check(campaign, moment, &disk, &what);
            }
        };
        if is_exhaustible(&pending, samples.states) {
            counters.exhausted.one();
            let mut outcomes = vec![0; pending.len()];
            look(&outcomes);
            while advance(&mut outcomes, &pending) {
                look(&outcomes);
            }
        } else {
            counters.sampled.one();
            let mut random = Random::new(samples.seed ^ moment.number() << 20);
            for _ in 0..samples.count {
                let outcomes: Vec<_> = pending.iter().map(|pending| random.below(pending.outcomes)).collect();
                look(&outcomes);
            }
        }
    }
}

fn is_exhaustible(pending: &[PendingChange], most: usize) -> bool {
    let changes: usize = pending.iter().map(|pending| pending.changes).sum();
    let states = pending.iter().try_fold(1usize, |states, pending| states.checked_mul(pending.outcomes));
    changes <= PENDING && states.is_some_and(|states| states <= most)
}

/// Goes on to the next combination; says whether there was one.
fn advance(outcomes: &mut [usize], pending: &[PendingChange]) -> bool {
    for (outcome, pending) in outcomes.iter_mut().zip(pending) {
        *outcome += 1;
        if *outcome < pending.outcomes {
            return true;
        }
        *outcome = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_sim::PendingKind;

    #[test]
    fn every_combination_comes_once() {
        let of =
            |outcomes| PendingChange { path: "/a".into(), kind: PendingKind::Write, changes: 1, outcomes };
        let pending = [of(2), of(3), of(4)];
        let mut outcomes = vec![0; 3];
        let mut seen = std::collections::BTreeSet::from([outcomes.clone()]);
        while advance(&mut outcomes, &pending) {
            assert!(seen.insert(outcomes.clone()));
        }
        assert_eq!(seen.len(), 24);
        assert!(is_exhaustible(&pending, STATES) && !is_exhaustible(&vec![of(2); 13], STATES));
        assert!(!is_exhaustible(&vec![of(9); 12], STATES));
    }
}
