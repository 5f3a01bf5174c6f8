//! The layer `runs`: random runs of everything at once, each of which its seed repeats.
//!
//! A [`Plan`] is drawn from the seed; the run follows it on a simulated disk, and compares the database with the
//! model all the time: after crashes, in readers and snapshots, and after whatever failed. A plan that ends in a
//! violation is made small before it is reported.

mod history;
pub mod plan;
mod shrink;
mod world;

use std::sync::Arc;

use plan::Plan;
use plimsoll_sim::SimStorage;

use crate::campaign::{Campaign, Layer, Violation};
use crate::catch::catch;
use crate::counters::Counters;
use crate::recovery::empty_disk;

/// Runs in a CI run.
const MATRIX: u64 = 800;
/// Runs before other layers have their turn.
const TURN: u64 = 40;

pub(crate) fn matrix(campaign: &Campaign) {
    seeds(campaign, 0..MATRIX);
}

pub(crate) fn random(campaign: &Campaign, seed: u64) {
    let first = MATRIX + seed * TURN;
    seeds(campaign, first..first + TURN);
}

fn seeds(campaign: &Campaign, seeds: std::ops::Range<u64>) {
    let name = |seed: &u64| seed.to_string();
    campaign.each(Layer::Runs, seeds, name, |seed| {
        let plan = Plan::new(*seed);
        if let Err(what) = catch(|| world::run(&plan, empty_disk(), &campaign.counters)) {
            let smallest = smallest(&plan);
            let disk = empty_disk();
            let says =
                catch(|| world::run(&smallest, disk.clone(), &Arc::default())).err().unwrap_or_default();
            let operations: String = disk.log().iter().map(|operation| format!("   {operation}\n")).collect();
            let what = format!(
                "{what}\nthe smallest run like it: {smallest}\n{says}\nits first disk:\n{operations}"
            );
            campaign.violated(Violation { layer: Layer::Runs, case: seed.to_string(), what });
        }
    });
}

/// A small run that fails, too; it need not fail in the same way.
fn smallest(plan: &Plan) -> Plan {
    let unseen = Arc::new(Counters::default());
    shrink::shrink(plan, |plan| catch(|| world::run(plan, empty_disk(), &unseen)).is_err())
}

pub(crate) fn replay(campaign: &Campaign, case: &str) -> Result<String, String> {
    let seed: u64 = case.parse().map_err(|_| format!("{case:?} is no seed"))?;
    seeds(campaign, seed..seed + 1);
    Ok(Plan::new(seed).to_string())
}

/// Runs a plan on an empty disk; returns a hash of all its storage operations and of the disks it left.
///
/// # Errors
/// What is violated.
pub fn run(plan: &Plan, disk: SimStorage, counters: &Arc<Counters>) -> Result<u64, String> {
    catch(|| world::run(plan, disk, counters))
}
