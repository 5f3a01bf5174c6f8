//! A campaign: layers that run their cases until they are through, the time is over or something is violated.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::iter::{ParallelBridge as _, ParallelIterator as _};

use crate::catch::catch;
use crate::counters::Counters;
use crate::{crashes, damage, exhaustive, faults, full_disk, runs};

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Recorded workloads, cut off at every operation.
    Crashes,
    /// Every subset of what a power cut may undo, at every moment of small workloads.
    Exhaustive,
    /// Random runs of everything at once.
    Runs,
    /// Every call fails in every way.
    Faults,
    /// A disk that is full after any number of bytes.
    FullDisk,
    /// Bytes that change, and files that are cut, missing or exchanged.
    Damage,
}

impl Layer {
    /// Every layer, in the order in which a campaign runs them.
    pub const ALL: [Self; 6] =
        [Self::Crashes, Self::Exhaustive, Self::Runs, Self::Faults, Self::FullDisk, Self::Damage];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crashes => "crashes",
            Self::Exhaustive => "exhaustive",
            Self::Runs => "runs",
            Self::Faults => "faults",
            Self::FullDisk => "full-disk",
            Self::Damage => "damage",
        }
    }

    /// Runs its cases at the size of a CI run.
    pub fn matrix(self, campaign: &Campaign) {
        campaign.timed(self, || match self {
            Self::Crashes => crashes::matrix(campaign),
            Self::Exhaustive => exhaustive::matrix(campaign),
            Self::Runs => runs::matrix(campaign),
            Self::Faults => faults::matrix(campaign),
            Self::FullDisk => full_disk::matrix(campaign),
            Self::Damage => damage::matrix(campaign),
        });
    }

    /// Runs random cases that depend on `seed`; returns after some, for others to have their turn.
    pub fn random(self, campaign: &Campaign, seed: u64) {
        campaign.timed(self, || match self {
            Self::Crashes => crashes::random(campaign, seed),
            Self::Exhaustive => exhaustive::random(campaign, seed),
            Self::Runs => runs::random(campaign, seed),
            Self::Faults => faults::random(campaign, seed),
            Self::FullDisk => full_disk::random(campaign, seed),
            Self::Damage => damage::random(campaign, seed),
        });
    }

    /// Runs one case again; says what it knows about it.
    ///
    /// # Errors
    /// There is no case of that name.
    pub fn replay(self, campaign: &Campaign, case: &str) -> Result<String, String> {
        match self {
            Self::Crashes => crashes::replay(campaign, case),
            Self::Exhaustive => exhaustive::replay(campaign, case),
            Self::Runs => runs::replay(campaign, case),
            Self::Faults => faults::replay(campaign, case),
            Self::FullDisk => full_disk::replay(campaign, case),
            Self::Damage => damage::replay(campaign, case),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|layer| layer.name() == name);
        found.ok_or_else(|| format!("there is no layer {name:?}; there are {}", known()))
    }
}

/// Something that must never happen, and how to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The layer that found it.
    pub layer: Layer,
    /// The case: [`Layer::replay`] runs it again.
    pub case: String,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, case, what } = self;
        write!(f, "VIOLATION in {layer}: {what}\n  again with: plimsoll-torture replay {layer}:{case}")
    }
}

/// How many violations are said when they are found.
const SAID: u64 = 20;

/// What the layers share: the counters, the violations, and when to stop.
#[derive(Debug, Default)]
pub struct Campaign {
    /// What was done so far.
    pub counters: Arc<Counters>,
    violations: Mutex<Vec<Violation>>,
    deadline: Option<Instant>,
    first_only: bool,
    aloud: bool,
}

impl Campaign {
    /// A campaign that runs until its layers are through.
    pub fn new() -> Self {
        Self::default()
    }

    /// A campaign that also ends when `time` is over.
    #[must_use]
    pub fn for_time(self, time: Duration) -> Self {
        Self { deadline: Some(Instant::now() + time), ..self }
    }

    /// A campaign that also ends with the first violation.
    #[must_use]
    pub fn until_first_violation(self) -> Self {
        Self { first_only: true, ..self }
    }

    /// A campaign that prints each violation to standard error when it is found.
    #[must_use]
    pub fn aloud(self) -> Self {
        Self { aloud: true, ..self }
    }

    /// Whether nothing more is to be done.
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || (self.first_only && self.counters.violations.get() > 0)
    }

    /// Runs one case, unless the campaign is over; a panic in it is a violation.
    pub fn case(&self, layer: Layer, case: impl FnOnce() -> String, check: impl FnOnce()) {
        if self.is_over() {
            return;
        }
        if let Err(what) = catch(check) {
            self.violated(Violation { layer, case: case(), what });
        }
    }

    /// Runs independent cases on all processors.
    pub fn each<T: Send>(
        &self,
        layer: Layer,
        items: impl Iterator<Item = T> + Send,
        case: impl Fn(&T) -> String + Sync,
        check: impl Fn(&T) + Sync,
    ) {
        items.take_while(|_| !self.is_over()).par_bridge().for_each(|item| {
            self.case(layer, || case(&item), || check(&item));
        });
    }

    /// Remembers a violation.
    pub fn violated(&self, violation: Violation) {
        self.counters.violations.one();
        // What is wrong everywhere need not be said everywhere.
        if self.aloud && self.counters.violations.get() <= SAID {
            eprintln!("{violation}");
        }
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(violation);
    }

    /// The violations so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn timed(&self, layer: Layer, run: impl FnOnce()) {
        let start = Instant::now();
        run();
        self.counters.took(layer.name(), start.elapsed());
    }
}

/// Runs the layers, and then random cases, until one of them is violated or `time` is over.
pub fn first_violation(layers: &[Layer], time: Duration) -> Option<Violation> {
    let campaign = Campaign::new().for_time(time).until_first_violation();
    for layer in layers {
        layer.matrix(&campaign);
    }
    for seed in 0.. {
        if campaign.is_over() {
            break;
        }
        for layer in layers {
            layer.random(&campaign, seed);
        }
    }
    campaign.violations().into_iter().next()
}
