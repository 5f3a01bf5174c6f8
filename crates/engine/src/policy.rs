//! When a collection's unflushed writes are moved to files: any one of the limits of its [`FlushPolicy`].
//!
//! Whoever writes looks at the limits of size, the thread `policy` at those of time, and both submit a flush job with the
//! [`FlushReason`] found here.

use std::sync::Arc;
use std::time::Duration;

use crate::core::{Core, lock};
use crate::error::{Error, Result};
use crate::jobs::{JobRequest, JobTarget};
use crate::memtable::Memtable;
use crate::model::limits::MAX_MEMTABLE_BYTES;
use crate::state::CollectionState;
use crate::stats::FlushReason;

/// When a collection's unflushed writes are flushed: as soon as any of the limits is reached.
///
/// Whatever the policy says, writes are also flushed when the database's memory budget or the largest log is reached,
/// when someone asks for it, and at closing.
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use plimsoll_engine::{CollectionConfig, Database, FlushPolicy, Metric};
/// use std::time::Duration;
///
/// let db = Database::open(dir.path().join("notes"))?;
/// let notes = db.create_collection("notes", CollectionConfig::new(3, Metric::Cosine))?;
/// let mut policy = FlushPolicy::manual();
/// policy.max_rows = Some(500);
/// policy.max_age = Some(Duration::from_secs(10));
/// notes.set_flush_policy(policy.clone())?;
/// assert_eq!(notes.flush_policy()?, policy);
/// # db.close()
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlushPolicy {
    /// This many rows and deletions are unflushed. Default 10,000.
    pub max_rows: Option<u64>,
    /// The unflushed writes take this many bytes of memory. Default: only the database's budget counts.
    pub max_bytes: Option<u64>,
    /// The oldest unflushed write is this old. Default 60 s.
    pub max_age: Option<Duration>,
    /// The newest unflushed write is this old: nobody has written for so long. Default 1,800 s; beside a shorter
    /// `max_age` it has nothing left to do.
    pub max_idle: Option<Duration>,
    /// In the place of `max_age`: an age that follows the rate of writes and the measured cost of flushes. Default none.
    pub adaptive: Option<AdaptiveInterval>,
}

/// An age for flushes that the database chooses, within bounds: so that flushing takes at most a twentieth of the time,
/// and a flush has a thousand rows or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveInterval {
    /// Never sooner than this.
    pub min: Duration,
    /// Never later than this.
    pub max: Duration,
}

/// No limit of time may be longer than ten years, or shorter than a millisecond.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SHORTEST: Duration = Duration::from_millis(1);
/// After so long it is looked at again whether what was due is flushed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// No limit of rows may be larger.
const MOST_ROWS: u64 = 1 << 40;

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            max_rows: Some(10_000),
            max_bytes: None,
            max_age: Some(Duration::from_secs(60)),
            max_idle: Some(Duration::from_secs(1800)),
            adaptive: None,
        }
    }
}

/// What of a collection is unflushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unflushed {
    /// Rows and deletions.
    pub rows: u64,
    pub bytes: u64,
    /// Since the oldest write.
    pub age: Duration,
    /// Since the newest write.
    pub idle: Duration,
}

impl FlushPolicy {
    /// No limits: writes are flushed when someone asks for it, or memory or log need it.
    pub const fn manual() -> Self {
        Self { max_rows: None, max_bytes: None, max_age: None, max_idle: None, adaptive: None }
    }

    /// Says what is wrong with it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit that is zero or absurd, and for two that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::InvalidArgument(format!("flush policy: {what}")));
        let times = [
            ("max_age", self.max_age),
            ("max_idle", self.max_idle),
            ("adaptive.min", self.adaptive.map(|adaptive| adaptive.min)),
            ("adaptive.max", self.adaptive.map(|adaptive| adaptive.max)),
        ];
        for (name, time) in times {
            if time.is_some_and(|time| !(SHORTEST..=LONGEST).contains(&time)) {
                return refuse(format!("{name} must be between 1 ms and 10 years"));
            }
        }
        if self.max_rows.is_some_and(|rows| !(1..=MOST_ROWS).contains(&rows)) {
            return refuse(format!("max_rows must be between 1 and {MOST_ROWS}"));
        }
        if self.max_bytes.is_some_and(|bytes| !(1..=MAX_MEMTABLE_BYTES).contains(&bytes)) {
            return refuse("max_bytes must be between 1 and 32 GiB".to_owned());
        }
        match self.adaptive {
            Some(_) if self.max_age.is_some() => {
                refuse("max_age and adaptive both say how old a write may become: set one of them".to_owned())
            }
            Some(AdaptiveInterval { min, max }) if min > max => {
                refuse(format!("adaptive.min ({min:?}) is above adaptive.max ({max:?})"))
            }
            _ => Ok(()),
        }
    }

    /// How old a write may become before it is flushed, with what flushes have been measured to cost.
    pub(crate) fn interval(&self, measured: &Measured) -> Option<Duration> {
        match self.adaptive {
            Some(bounds) => Some(measured.interval(bounds)),
            None => self.max_age,
        }
    }

    /// Why a limit of size asks for a flush, if one does.
    pub(crate) fn due_by_size(&self, unflushed: &Unflushed) -> Option<FlushReason> {
        if self.max_rows.is_some_and(|limit| unflushed.rows >= limit) {
            return Some(FlushReason::Rows);
        }
        self.max_bytes.is_some_and(|limit| unflushed.bytes >= limit).then_some(FlushReason::Bytes)
    }

    /// Why a limit of time asks for a flush, or after how long one will if nobody writes.
    pub(crate) fn due_by_time(
        &self,
        unflushed: &Unflushed,
        interval: Option<Duration>,
    ) -> Result<FlushReason, Option<Duration>> {
        let left = |limit: Option<Duration>, passed| limit.map(|limit| limit.saturating_sub(passed));
        let age = left(interval, unflushed.age);
        let idle = left(self.max_idle, unflushed.idle);
        match (age, idle) {
            (Some(Duration::ZERO), _) => Ok(FlushReason::Age),
            (_, Some(Duration::ZERO)) => Ok(FlushReason::Idle),
            _ => Err(age.into_iter().chain(idle).min()),
        }
    }
}

/// What flushes of a collection have cost, and how fast it is written to; each a mean that forgets by halves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Measured {
    /// The time of one flush.
    pub cost: Duration,
    /// Rows and deletions per second, while there were any.
    pub rate: f64,
}

/// The share of the time that flushing may take.
const SHARE: f64 = 0.05;
/// A flush is to have this many rows at least, if it need not wait too long for them.
const WORTHWHILE: f64 = 1000.0;

impl Measured {
    /// Takes a flush of `rows` into account, which took `cost` and had gathered for `age`.
    pub(crate) fn add(&mut self, rows: u64, age: Duration, cost: Duration) {
        let rate = rows as f64 / age.as_secs_f64().max(1e-3);
        let is_first = self.cost.is_zero();
        self.cost = if is_first { cost } else { (self.cost + cost) / 2 };
        self.rate = if is_first { rate } else { f64::midpoint(self.rate, rate) };
    }

    fn interval(&self, bounds: AdaptiveInterval) -> Duration {
        if self.cost.is_zero() {
            return bounds.min;
        }
        let affordable = self.cost.as_secs_f64() / SHARE;
        let worthwhile = WORTHWHILE / self.rate.max(1e-9);
        let wanted = affordable.max(worthwhile).min(bounds.max.as_secs_f64());
        Duration::from_secs_f64(wanted).clamp(bounds.min, bounds.max)
    }
}

impl Core {
    /// Why a limit of time asks for a flush of some memtables of a collection, or after how long one will.
    pub(crate) fn time_left<'a>(
        &self,
        collection: &CollectionState,
        memtables: impl Iterator<Item = &'a Arc<Memtable>>,
        now: Duration,
    ) -> Result<FlushReason, Option<Duration>> {
        let memtables = memtables.filter(|memtable| !memtable.is_empty());
        let unflushed = memtables.map(|memtable| memtable.unflushed(now)).reduce(|a, b| Unflushed {
            rows: a.rows + b.rows,
            bytes: a.bytes + b.bytes,
            age: a.age.max(b.age),
            idle: a.idle.min(b.idle),
        });
        let Some(unflushed) = unflushed else { return Err(None) };
        let policy = &collection.tree.entry.policy;
        let measured = lock(&self.measured).get(&collection.id).copied().unwrap_or_default();
        policy.due_by_time(&unflushed, policy.interval(&measured))
    }

    /// Submits the flushes that limits of time ask for, and sees to the next look. While a flush is on its way, nothing
    /// more is asked for: there is another look when it has ended.
    pub(crate) fn request_due_flushes(&self) {
        let now = self.now();
        let state = self.published.state();
        let mut next = None;
        for collection in state.sound_users() {
            let left = match self.time_left(collection, collection.memtables(), now) {
                Ok(reason) => {
                    let target = JobTarget::Collection(collection.name.to_string());
                    if !self.jobs.is_flushing(&target) {
                        self.request_job(JobRequest::flush_for(target, reason));
                    }
                    // If that fails, it is due again.
                    Some(LOOK_AGAIN)
                }
                Err(left) => left,
            };
            next = next.into_iter().chain(left).min();
        }
        if let Some(left) = next {
            self.signals.look_at(now + left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn unflushed(rows: u64, bytes: u64, age: u64, idle: u64) -> Unflushed {
        Unflushed { rows, bytes, age: SECOND * age as u32, idle: SECOND * idle as u32 }
    }

    #[test]
    fn each_limit_has_its_reason_and_none_has_none() {
        let only = |change: fn(&mut FlushPolicy)| {
            let mut policy = FlushPolicy::manual();
            change(&mut policy);
            policy
        };
        let rows = only(|policy| policy.max_rows = Some(5));
        assert_eq!(rows.due_by_size(&unflushed(4, 1 << 30, 0, 0)), None);
        assert_eq!(rows.due_by_size(&unflushed(5, 0, 0, 0)), Some(FlushReason::Rows));
        let bytes = only(|policy| policy.max_bytes = Some(100));
        assert_eq!(bytes.due_by_size(&unflushed(1 << 30, 99, 0, 0)), None);
        assert_eq!(bytes.due_by_size(&unflushed(0, 100, 0, 0)), Some(FlushReason::Bytes));
        let age = only(|policy| policy.max_age = Some(10 * SECOND));
        assert_eq!(age.due_by_time(&unflushed(1, 1, 9, 9), age.max_age), Err(Some(SECOND)));
        assert_eq!(age.due_by_time(&unflushed(1, 1, 10, 0), age.max_age), Ok(FlushReason::Age));
        let idle = only(|policy| policy.max_idle = Some(10 * SECOND));
        assert_eq!(idle.due_by_time(&unflushed(1, 1, 900, 4), None), Err(Some(6 * SECOND)));
        assert_eq!(idle.due_by_time(&unflushed(1, 1, 900, 10), None), Ok(FlushReason::Idle));
        let manual = FlushPolicy::manual();
        let much = unflushed(1 << 40, 1 << 40, 1 << 20, 1 << 20);
        assert_eq!((manual.due_by_size(&much), manual.due_by_time(&much, None)), (None, Err(None)));
    }

    #[test]
    fn absurd_and_contradictory_limits_are_refused_by_name() {
        let refused = |change: fn(&mut FlushPolicy)| {
            let mut policy = FlushPolicy::default();
            change(&mut policy);
            policy.validate().unwrap_err().to_string()
        };
        FlushPolicy::default().validate().unwrap();
        FlushPolicy::manual().validate().unwrap();
        for (name, change) in [
            ("max_rows", (|policy| policy.max_rows = Some(0)) as fn(&mut FlushPolicy)),
            ("max_rows", |policy| policy.max_rows = Some(u64::MAX)),
            ("max_bytes", |policy| policy.max_bytes = Some(0)),
            ("max_bytes", |policy| policy.max_bytes = Some(u64::MAX)),
            ("max_age", |policy| policy.max_age = Some(Duration::ZERO)),
            ("max_age", |policy| policy.max_age = Some(Duration::MAX)),
            ("max_idle", |policy| policy.max_idle = Some(Duration::ZERO)),
            ("adaptive.min", |policy| {
                policy.max_age = None;
                policy.adaptive = Some(AdaptiveInterval { min: Duration::ZERO, max: SECOND });
            }),
            ("above", |policy| {
                policy.max_age = None;
                policy.adaptive = Some(AdaptiveInterval { min: 2 * SECOND, max: SECOND });
            }),
            ("both", |policy| policy.adaptive = Some(AdaptiveInterval { min: SECOND, max: 2 * SECOND })),
        ] {
            let message = refused(change);
            assert!(message.contains(name), "{name}: {message}");
        }
    }

    #[test]
    fn the_adaptive_interval_follows_cost_and_rate_within_its_bounds() {
        let bounds = AdaptiveInterval { min: SECOND, max: 100 * SECOND };
        let after = |rows, age: u32, cost_ms| {
            let mut measured = Measured::default();
            measured.add(rows, SECOND * age, Duration::from_millis(cost_ms));
            measured.interval(bounds)
        };
        assert_eq!(Measured::default().interval(bounds), SECOND);
        // Flushing may take a twentieth of the time.
        assert_eq!(after(1_000_000, 1, 500), 10 * SECOND);
        assert_eq!(after(1_000_000, 1, 50), SECOND);
        assert_eq!(after(1_000_000, 1, 60_000), 100 * SECOND);
        // A flush is to have a thousand rows.
        assert_eq!(after(20, 1, 50), 50 * SECOND);
        assert_eq!(after(1, 1, 50), 100 * SECOND);
        // What was measured last counts for half.
        let mut measured = Measured::default();
        measured.add(10_000, SECOND, Duration::from_millis(500));
        measured.add(10_000, SECOND, Duration::from_millis(1500));
        assert_eq!(measured.interval(bounds), 20 * SECOND);
    }
}
