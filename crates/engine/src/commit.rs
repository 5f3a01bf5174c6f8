//! The write path: from a batch to an acknowledged, searchable record.
//!
//! A caller's thread validates its batch and encodes the record. Then the commit leader, one thread for all
//! that wait, checks conditions, appends the group to the log and syncs once, applies the records to the
//! memtables, makes them visible in LSN order, and seals between groups (rules R1, R3, R4, R6). A record is
//! searchable only when it is in the log, and acknowledged only when it is durable, unless its writer asked
//! for less.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_base::arena;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_base::{CollectionId, Lsn, StorageError};
use plimsoll_wal::{GroupLimits, Record};

use crate::background::RETRY;
use crate::batch::WriteBatch;
use crate::buffer::Room;
use crate::core::{Core, Counters, Log, lock};
use crate::error::{Error, Result};
use crate::flush::SYSTEM_BYTES;
use crate::jobs::{JobRequest, JobTarget};
use crate::options::{CollectionConfig, Durability};
use crate::record::{self, Condition, Expectation, PreparedBatch};
use crate::state::{CollectionState, State};
use crate::stats::FlushReason;
use crate::system::is_system;

/// What a thread asks of the commit leader.
pub(crate) enum Request {
    /// A batch, and what is promised when it is acknowledged.
    Write(PreparedBatch, Promise),
    /// Say how far the log goes, with everything that was submitted before.
    Appended,
    /// Seal the memtables of one collection, or of all; and those of the system tables if that is said, too.
    Seal { only: Option<CollectionId>, with_system: bool },
    /// Tell reader processes what is durable (rule R10).
    Mark,
}

/// What a write is promised when it is acknowledged.
pub(crate) enum Promise {
    /// It is on disk.
    Durable,
    /// It is counted until it is, and has room in the buffer.
    Buffered(Room),
    /// It will be on disk as soon as what is buffered: what the engine writes for itself.
    Nothing,
}

/// The LSN of the write; for the other requests, the last LSN that they cover.
pub(crate) type Outcome = Result<Lsn>;

/// The longest that a single write is slowed down.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How large a commit group may become.
pub(crate) fn group_limits() -> GroupLimits {
    GroupLimits { items: 1024, weight: 16 << 20 }
}

impl Core {
    /// Writes one record for `batches`, and returns its LSN.
    pub(crate) fn write(
        &self,
        batches: &[(CollectionId, &CollectionConfig, &WriteBatch)],
        durability: Durability,
    ) -> Result<Lsn> {
        self.check_open()?;
        if batches.iter().all(|(.., batch)| batch.is_empty()) {
            return Ok(self.published.visible());
        }
        if self.unsettled.load(Ordering::Acquire) {
            self.settle()?;
        }
        self.jobs.check_circuit(self)?;
        if batches.iter().all(|(.., batch)| batch.is_delete_only()) {
            return self.reserve.spend_when_full(self, || self.write_record(batches, durability));
        }
        self.reserve.check(&self.storage)?;
        let full = lock(&self.last_segment).clone();
        match full {
            Some(full) => Err(full.into()),
            None => self.write_record(batches, durability),
        }
    }

    fn write_record(
        &self,
        batches: &[(CollectionId, &CollectionConfig, &WriteBatch)],
        durability: Durability,
    ) -> Result<Lsn> {
        let prepared = self.prepare(batches)?;
        let weight = prepared.record.encoded_len() as u64;
        self.wait_for_room(&prepared.collections, weight)?;
        let promise = match durability {
            Durability::Durable => Promise::Durable,
            Durability::Buffered => Promise::Buffered(self.room_in_buffer(weight)?),
        };
        let lsn = self.submit(Request::Write(prepared, promise), weight).inspect_err(|_| {
            // Someone may wait for the room that it had.
            self.signals.progressed();
        })?;
        self.after_write();
        Ok(lsn)
    }

    /// Writes rows of system tables, which nothing holds up, and no user's statistics count.
    pub(crate) fn write_system(
        &self,
        batches: &[(CollectionId, &CollectionConfig, &WriteBatch)],
        durability: Durability,
    ) -> Result<Lsn> {
        let prepared = self.prepare(batches)?;
        let weight = prepared.record.encoded_len() as u64;
        let promise = match durability {
            Durability::Durable => Promise::Durable,
            Durability::Buffered => Promise::Nothing,
        };
        self.submit(Request::Write(prepared, promise), weight)
    }

    fn prepare(&self, batches: &[(CollectionId, &CollectionConfig, &WriteBatch)]) -> Result<PreparedBatch> {
        // A record that will certainly be applied, to one memtable of a user's, lies with the others there: what system
        // tables need of it they copy. Any other has memory of its own, so that it holds nothing else's.
        let state = self.published.state();
        let mut of_users = batches.iter().filter(|(id, ..)| !is_system(*id) || batches.len() == 1);
        let collection = match (of_users.next(), of_users.next()) {
            (Some((id, ..)), None) if !batches.iter().any(|(.., batch)| batch.is_conditional()) => {
                state.collections.get(id)
            }
            _ => None,
        };
        let prepared = record::prepare(batches, collection.map(|collection| collection.active.arena()));
        if self.options.background && arena::wants_reserve() {
            self.signals.memory_due();
        }
        prepared
    }

    /// Hands a request to the commit leader, or becomes it.
    pub(crate) fn submit(&self, request: Request, weight: u64) -> Outcome {
        let led = self.commits.submit(request, weight, |group| self.lead(group));
        led.unwrap_or_else(|panicked| Err(Error::Poisoned { cause: panicked.to_string(), lost: None }))
    }

    /// Holds a writer back while flushes can not keep up: the more memtables wait for their flush, the longer, and
    /// altogether when there are more than may wait.
    fn wait_for_room(&self, collections: &[CollectionId], weight: u64) -> Result<()> {
        let sealed = |state: &State| {
            let sealed = |id| state.collections.get(id).map_or(0, |collection| collection.sealed.len());
            collections.iter().map(sealed).max().unwrap_or(0)
        };
        let full = |state: &State| sealed(state) > self.options.max_sealed;
        if !self.options.background {
            return Ok(());
        }
        let waiting = sealed(&self.published.state());
        if waiting <= self.options.max_sealed {
            self.slow_down(waiting, weight);
            return Ok(());
        }
        let start = Instant::now();
        let deadline = start + self.options.stall_deadline;
        let freed = self.signals.wait_until(deadline, || !full(&self.published.state()));
        self.counters.stopped.add(start.elapsed());
        if freed {
            return self.check_open();
        }
        let cause = lock(&self.counters.background_error).clone();
        let cause = cause.map_or_else(String::new, |cause| format!("; the last flush failed: {cause}"));
        let waited = self.options.stall_deadline;
        Err(Error::Stalled(format!("flushing did not catch up within {waited:?}{cause}")))
    }

    /// Slows a writer down from the moment when half of the memtables that may wait do: in the end to the rate at which
    /// the last flush has written.
    fn slow_down(&self, waiting: usize, weight: u64) {
        let most = self.options.max_sealed;
        if waiting * 2 <= most {
            return;
        }
        let rate =
            lock(&self.counters.last_flush).as_ref().map_or(0.0, |last| last.megabytes_per_second() * 1e6);
        if rate <= 0.0 {
            return;
        }
        let pause = weight as f64 / rate * waiting as f64 / most as f64;
        let pause = Duration::from_secs_f64(pause.min(LONGEST_PAUSE.as_secs_f64()));
        std::thread::sleep(pause);
        self.counters.slowed.add(pause);
    }

    /// Does what the write that was just acknowledged made due, where no background does.
    fn after_write(&self) {
        if !self.options.background {
            self.work_off();
        }
    }

    /// Does the work of one commit group.
    fn lead(&self, requests: Vec<Request>) -> Vec<Outcome> {
        let mut log = lock(&self.log);
        let mut outcomes: Vec<Option<Outcome>> = requests.iter().map(|_| None).collect();
        let mut pending = Vec::new();
        let mut last_user = None;
        for (index, request) in requests.into_iter().enumerate() {
            match request {
                Request::Write(prepared, promise) => {
                    // What a condition speaks of is the state after every write before it.
                    if !prepared.conditions.is_empty() {
                        self.commit(&mut log, &mut pending, &mut outcomes);
                    }
                    if !prepared.collections.iter().all(|id| is_system(*id)) {
                        last_user = Some(index);
                    }
                    match self.check(&prepared) {
                        Ok(()) => pending.push((index, prepared.record, promise)),
                        Err(error) => outcomes[index] = Some(Err(error)),
                    }
                }
                other => {
                    self.commit(&mut log, &mut pending, &mut outcomes);
                    outcomes[index] = Some(self.control(&mut log, &other));
                }
            }
        }
        self.commit(&mut log, &mut pending, &mut outcomes);
        let written = last_user.map(|last| outcomes[..=last].iter().flatten().flatten().max());
        if let Some(Some(lsn)) = written {
            self.last_user.fetch_max(lsn.0, Ordering::Release);
        }
        self.seal_if_due(&mut log);
        self.name_new_segment(&log);
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(Error::Closed))).collect()
    }

    /// Appends, syncs, applies and publishes what is pending.
    fn commit(
        &self,
        log: &mut Log,
        pending: &mut Vec<(usize, Record, Promise)>,
        outcomes: &mut [Option<Outcome>],
    ) {
        if pending.is_empty() {
            return;
        }
        let group = std::mem::take(pending);
        let indexes: Vec<usize> = group.iter().map(|(index, ..)| *index).collect();
        match self.append_and_apply(log, group) {
            Ok(lsns) => {
                indexes.into_iter().zip(lsns).for_each(|(index, lsn)| outcomes[index] = Some(Ok(lsn)));
            }
            Err(error) => indexes.into_iter().for_each(|index| outcomes[index] = Some(Err(error.clone()))),
        }
    }

    fn append_and_apply(&self, log: &mut Log, group: Vec<(usize, Record, Promise)>) -> Result<Vec<Lsn>> {
        let (mut records, mut buffered) = (Vec::with_capacity(group.len()), Vec::new());
        let mut is_durable = false;
        for (_, record, promise) in group {
            records.push(record);
            match promise {
                Promise::Durable => is_durable = true,
                Promise::Buffered(room) => buffered.push(room),
                Promise::Nothing => {}
            }
        }
        let gathered = log.buffer.gathered() + buffered.len();
        let is_full = gathered >= self.options.buffer_records && !mutant::is(Mutant::IgnoreBufferBound);
        let is_due = is_full || self.budget.is_waited_for();
        // The log's thread syncs what is only buffered; the group itself where there is none.
        let sync = is_durable || (is_due && !self.options.background);
        let wal = log.wal.as_mut().ok_or(Error::Closed)?;
        let newest = wal.newest();
        let mut references: Vec<&mut Record> = records.iter_mut().collect();
        let appended = wal.append_group(&mut references, sync);
        if appended.is_err() || wal.newest() != newest {
            // A new segment has made durable what came before the group.
            self.settle_buffer(log);
        }
        log.buffer.accept(appended?.last, buffered);
        if sync {
            self.settle_buffer(log);
        } else {
            let delay = if is_due { Duration::ZERO } else { self.options.buffer_delay };
            self.signals.sync_due(Instant::now() + delay);
        }
        self.counters.batches.fetch_add(records.len() as u64, Ordering::Relaxed);
        let state = self.published.state();
        let now = self.now();
        let lsns = records
            .into_iter()
            .map(|record| apply(&state, Arc::new(record), &self.options.path, now))
            .collect::<Result<Vec<_>>>()?;
        if let Some(last) = lsns.last() {
            self.published.advance(*last);
        }
        self.signals.mark_due();
        self.look_when_due(&state, now);
        Ok(lsns)
    }

    /// Sees to it that someone looks when the limits of time of collections are reached to which nothing was unflushed
    /// before a moment ago.
    fn look_when_due(&self, state: &State, now: Duration) {
        let born = state.users().filter(|collection| collection.active.born() == now);
        let left = |collection: &Arc<CollectionState>| {
            self.time_left(collection, std::iter::once(&collection.active), now).err().flatten()
        };
        let limits = born.filter_map(left);
        if let Some(left) = limits.min() {
            self.signals.look_at(now + left);
        }
    }

    fn control(&self, log: &mut Log, request: &Request) -> Outcome {
        let wal = log.wal.as_mut().ok_or(Error::Closed)?;
        match request {
            Request::Appended => Ok(wal.appended()),
            Request::Mark => {
                let appended = wal.appended();
                let marked = wal.append_mark();
                self.settle_buffer(log);
                marked?;
                Ok(appended)
            }
            Request::Seal { only, with_system } => {
                // Whoever asked for it flushes it.
                let seal = Lsn(wal.appended().0 + u64::from(mutant::is(Mutant::SealTooHigh)));
                self.seal_at(seal, |collection| match collection.is_system() {
                    true => *with_system,
                    false => only.is_none_or(|only| only == collection.id),
                });
                Ok(seal)
            }
            Request::Write(..) => Err(Error::Closed),
        }
    }

    /// Takes notice of the log's newest segment, which the next manifest will name. Whether it is a new one.
    pub(crate) fn note_segment(&self, log: &Log) -> bool {
        let newest = log.wal.as_ref().map_or(0, |wal| wal.newest().0);
        self.newest_segment.fetch_max(newest, Ordering::AcqRel) < newest
    }

    /// Names a segment that the log has started in a manifest, before anything in it is acknowledged: if it is gone
    /// one day, it is missed. A failure does not hold the acknowledgement up, for the records are durable all the
    /// same; it is tried again with the next group, or by the log's thread.
    pub(crate) fn name_new_segment(&self, log: &Log) {
        let is_new = self.note_segment(log);
        if is_new && mutant::is(Mutant::NameSegmentLate) {
            return self.signals.segment_due(RETRY);
        }
        let is_sound = log.wal.as_ref().is_some_and(|wal| wal.poisoned().is_none());
        if (is_sound || mutant::is(Mutant::NamePoisoned))
            && (is_new || self.signals.take_segment())
            && let Err(error) = self.name_segment()
        {
            tracing::warn!(%error, "the log's new segment is not in a manifest yet");
            self.signals.segment_due(RETRY);
        }
    }

    /// Whether a record may be logged: its collections exist and are sound, and its conditions hold.
    fn check(&self, prepared: &PreparedBatch) -> Result<()> {
        let view = self.published.view();
        for id in &prepared.collections {
            match view.state.collections.get(id).map(|collection| &collection.damage) {
                Some(None) => {}
                Some(Some(damage)) => return Err(damage.clone().into()),
                None => {
                    return Err(Error::CollectionNotFound(format!("with id {id}, which was dropped")));
                }
            }
        }
        prepared.conditions.iter().try_for_each(|condition| check(&view.state, view.visible, condition))
    }

    /// Seals what makes a flush due: the largest memtable when they are beyond their budget together, all of
    /// them when so much was logged since the last time that the log could not shrink otherwise, and those that have
    /// reached a limit of their collection's policy.
    fn seal_if_due(&self, log: &mut Log) {
        let Some(wal) = &log.wal else { return };
        let (seal, logged) = (wal.appended(), wal.bytes_appended());
        let state = self.published.state();
        // Records of jobs alone are no reason: a flush would write the next ones.
        if logged - log.checkpoint > self.options.max_wal_bytes
            && state.sound().any(|c| c.active.bytes() > if c.is_system() { SYSTEM_BYTES } else { 0 })
        {
            log.checkpoint = logged;
            self.seal_all(seal);
            self.request_job(JobRequest::flush_for(JobTarget::Database, FlushReason::WalSize));
            return;
        }
        if state.memtable_bytes() > self.options.memtable_bytes
            && let Some(largest) = state.sound_users().max_by_key(|collection| collection.active.bytes())
        {
            self.seal_and_flush(seal, largest, FlushReason::MemtableSize);
        }
        if self.options.bulk_load {
            return;
        }
        for collection in state.sound_users() {
            let unflushed = collection.active.unflushed(Duration::ZERO);
            if let Some(reason) = collection.tree.entry.policy.due_by_size(&unflushed) {
                self.seal_and_flush(seal, collection, reason);
            }
        }
    }

    fn seal_and_flush(&self, seal: Lsn, chosen: &CollectionState, reason: FlushReason) {
        self.seal_at(seal, |collection| collection.id == chosen.id);
        let target = JobTarget::Collection(chosen.name.to_string());
        self.request_job(JobRequest::flush_for(target, reason));
    }

    /// Seals every memtable at `seal`, the last LSN appended, which has been applied: O(1) for each.
    pub(crate) fn seal_all(&self, seal: Lsn) {
        self.seal_at(seal, |_| true);
    }

    fn seal_at(&self, seal: Lsn, chosen: impl Fn(&CollectionState) -> bool) {
        self.published.update(|state| {
            let sealed: Vec<_> = state
                .collections
                .values()
                .filter(|collection| chosen(collection))
                .filter_map(|collection| collection.seal(seal))
                .collect();
            (!sealed.is_empty())
                .then(|| sealed.into_iter().fold(state.clone(), |state, next| state.with(next)))
        });
    }
}

/// Applies a logged record to the memtables of its collections; what is flushed already,
/// and what belonged to a collection that was dropped, is skipped (rule R7). `log` is named by errors; `now` is the time
/// by the database's clock.
pub(crate) fn apply(state: &State, record: Arc<Record>, log: &Path, now: Duration) -> Result<Lsn> {
    let groups = record::decode(record.payload(), log)?;
    let many = groups.len() > 1;
    for group in groups {
        if mutant::is(Mutant::ReplayKnowsDropped) && !state.collections.contains_key(&group.collection) {
            return Err(Error::CollectionNotFound(group.collection.to_string()));
        }
        if let Some(collection) = state.collections.get(&group.collection)
            && record.lsn() > collection.tree.entry.flushed
        {
            let expected = collection.config.dimension;
            if group.dimension != expected {
                let what = format!(
                    "LSN {} has vectors of {} dimensions, its collection of {expected}",
                    record.lsn(),
                    group.dimension
                );
                return Err(StorageError::corrupted(log, 0, what).into());
            }
            if many && is_system(group.collection) {
                // System tables are flushed seldom, and would keep the users' rows in memory until then.
                let (record, group) = group.alone(&record);
                collection.active.apply(&Arc::new(record), group, now);
            } else {
                collection.active.apply(&record, group, now);
            }
        }
    }
    Ok(record.lsn())
}

fn check(state: &State, visible: Lsn, condition: &Condition) -> Result<()> {
    let Some(collection) = state.collections.get(&condition.collection) else { return Ok(()) };
    let found = collection.find_key(&condition.key, visible)?;
    match (condition.expectation, found) {
        (Expectation::Absent, None) => Ok(()),
        (Expectation::Absent, Some(_)) => Err(Error::AlreadyExists(condition.key.clone())),
        (Expectation::Version(_), None) => Err(Error::DocumentNotFound(condition.key.clone())),
        (Expectation::Version(expected), Some(found)) if found.version()? == expected => Ok(()),
        (Expectation::Version(_), Some(_)) => Err(Error::Changed(condition.key.clone())),
    }
}

impl Counters {
    pub(crate) fn remember_error(&self, error: Option<&Error>) {
        *lock(&self.background_error) = error.map(ToString::to_string);
    }
}
