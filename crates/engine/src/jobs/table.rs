//! Durable records of jobs: rows of the system table (rule R14).
//!
//! A job is a document of the [system table](crate::system) with its id as key; one more document, the *ledger*, says
//! which ids there are and which jobs have not ended, so that opening reads one document and no more. Both are written
//! in one record of the log.
//!
//! A flush is known to be done by the data: when nothing that was accepted before its record is unflushed, its goal is
//! reached, whoever reached it. So the record of a flush that a crash cut off after its manifest reads as completed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use plimsoll_base::Lsn;
use plimsoll_base::sync::atomic::Ordering;
use plimsoll_wal::Record;

use super::Job;
use super::model::{JobId, JobKind, JobOutcome, JobPriority, JobRecord, JobState, JobTarget};
use crate::batch::WriteBatch;
use crate::core::{Core, lock};
use crate::error::Result;
use crate::model::{Document, Key, Metadata, Value};
use crate::options::Durability;
use crate::record;
use crate::state::{CollectionState, View};
use crate::stats::{FlushReason, FlushStats};
use crate::system::{self, from_millis, malformed, millis, row, text_of, unsigned};

/// The key of the ledger.
const LEDGER: &str = "ledger";
/// How long a record is kept after its job ended.
pub(super) const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many records are removed at a time at most.
const PRUNED: u64 = 100;

/// Which jobs there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The id of the next job, as of the last record.
    next: u64,
    /// Records of jobs before this one were removed.
    first: u64,
    /// The jobs that have records and have not ended.
    open: BTreeSet<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { next: 1, first: 1, open: BTreeSet::new() }
    }
}

impl Ledger {
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn open(&self) -> impl Iterator<Item = JobId> {
        self.open.iter().copied().map(JobId)
    }

    pub(super) fn close(&mut self, id: JobId) {
        self.open.remove(&id.0);
    }

    fn document(&self) -> Document {
        let open: Vec<Value> = self.open.iter().map(|id| Value::from(*id)).collect();
        row(Key::from(LEDGER))
            .metadata("next", self.next)
            .metadata("first", self.first)
            .metadata("open", open)
    }

    fn decode(document: &Document) -> Option<Self> {
        let Some(Value::List(open)) = document.metadata.get("open") else { return None };
        let open = open.iter().map(unsigned).collect::<Option<_>>()?;
        let number = |name| document.metadata.get(name).and_then(unsigned);
        Some(Self { next: number("next")?, first: number("first")?, open })
    }
}

/// The records that a view shows.
pub(crate) struct Records<'a> {
    view: &'a View,
    table: &'a CollectionState,
}

impl<'a> Records<'a> {
    /// `None` if there are none yet.
    pub(crate) fn of(view: &'a View) -> Option<Self> {
        let table = view.state.collections.get(&system::TABLE)?;
        Some(Self { view, table })
    }

    pub(crate) fn ledger(&self) -> Result<Ledger> {
        let Some((document, _)) = self.get(&Key::from(LEDGER))? else { return Ok(Ledger::default()) };
        Ledger::decode(&document).ok_or_else(|| malformed("the ledger"))
    }

    fn get(&self, key: &Key) -> Result<Option<(Document, Lsn)>> {
        let Some(found) = self.table.find_key(key, self.view.visible)? else { return Ok(None) };
        Ok(Some((found.document()?, found.version()?.lsn)))
    }

    /// The record of a job.
    pub(crate) fn record(&self, id: JobId) -> Result<Option<JobRecord>> {
        let Some((document, lsn)) = self.get(&Key::from(id.0))? else { return Ok(None) };
        let mut record =
            decode(id, &document).ok_or_else(|| malformed(&format!("the record of job {id}")))?;
        if record.kind == JobKind::Flush && !record.state.is_final() && self.is_flushed(&record.target, lsn) {
            record.state = JobState::Completed;
            record.outcome = Some(JobOutcome::Unknown);
            let how =
                if record.reason == Some(FlushReason::Close) { "done at closing" } else { "found done" };
            record.summary = Some(format!("{how}: everything accepted before it is in files"));
        }
        Ok(Some(record))
    }

    /// Whether all writes to `target` up to `lsn` are in files.
    fn is_flushed(&self, target: &JobTarget, lsn: Lsn) -> bool {
        let mut of_target = self.view.state.users().filter(|collection| match target {
            JobTarget::Collection(name) => *collection.name == **name,
            _ => true,
        });
        of_target.all(|collection| collection.first_unflushed().is_none_or(|first| first > lsn))
    }

    /// The records, newest first, `limit` at most.
    pub(crate) fn newest(&self, limit: usize) -> Result<Vec<JobRecord>> {
        let Ledger { next, first, .. } = self.ledger()?;
        let mut all = Vec::new();
        for id in (first..next).rev() {
            if all.len() == limit {
                break;
            }
            all.extend(self.record(JobId(id))?);
        }
        Ok(all)
    }
}

impl Core {
    /// Writes the record of a job, as it is at its turn, and which jobs have not ended.
    pub(super) fn write_job_record(
        &self,
        record: impl FnOnce() -> JobRecord,
        durability: Durability,
    ) -> Result<Lsn> {
        // The ledger is written in the order of its changes. One that can not be written has not happened: a job whose end
        // has no record is not known to have ended, and the next opening sees to it.
        let mut ledger = lock(&self.jobs.ledger);
        // What is written last is newest, whoever writes it.
        let record = record();
        let mut next = Ledger { next: self.jobs.next_id.load(Ordering::Relaxed), ..ledger.clone() };
        if record.state.is_final() {
            next.open.remove(&record.id.0);
        } else {
            next.open.insert(record.id.0);
        }
        let mut batch = WriteBatch::new();
        self.prune(&mut next, &mut batch)?;
        batch.upsert(encode(&record)).upsert(next.document());
        let table = self.system_table()?;
        let lsn = self.write_system(&[(table.id, &table.config, &batch)], durability)?;
        *ledger = next;
        Ok(lsn)
    }

    /// What the log of a backup begins with: that the backup has ended, which its files do not say.
    pub(crate) fn record_for_copy(&self, job: &Job) -> Result<Record> {
        let mut ended = job.record();
        ended.state = JobState::Completed;
        ended.finished_at = Some(self.unix_now());
        ended.summary = Some("this is the copy".to_owned());
        let mut ledger = lock(&self.jobs.ledger).clone();
        ledger.next = self.jobs.next_id.load(Ordering::Relaxed);
        ledger.close(job.id);
        let mut batch = WriteBatch::new();
        batch.upsert(encode(&ended)).upsert(ledger.document());
        let table = self.system_table()?;
        Ok(record::prepare(&[(table.id, &table.config, &batch)], None)?.record)
    }

    /// Removes records of jobs that ended long ago.
    fn prune(&self, ledger: &mut Ledger, batch: &mut WriteBatch) -> Result<()> {
        let view = self.published.view();
        let Some(records) = Records::of(&view) else { return Ok(()) };
        let now = self.unix_now();
        let last = ledger.first.saturating_add(PRUNED).min(ledger.next);
        while ledger.first < last && !ledger.open.contains(&ledger.first) {
            let record = records.record(JobId(ledger.first))?;
            // One that was found done may say neither when it ended nor when it began.
            let ended =
                |record: &JobRecord| record.finished_at.or(record.started_at).unwrap_or(record.queued_at);
            let ended = record.as_ref().map(ended);
            let is_old = |ended| now.duration_since(ended).is_ok_and(|age| age > KEPT);
            match record {
                Some(_) if ended.is_some_and(is_old) => {
                    batch.delete(ledger.first);
                }
                Some(_) => break,
                // A job without a record of its own.
                None if self.jobs.is_under_way(JobId(ledger.first)) => break,
                None => {}
            }
            ledger.first += 1;
        }
        Ok(())
    }

    pub(crate) fn unix_now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.options.clock.unix_time()
    }
}

fn encode(record: &JobRecord) -> Document {
    let mut document = row(Key::from(record.id.0));
    let mut put = |name: &str, value: Value| document.metadata.insert(name.to_owned(), value);
    put("kind", record.kind.name().into());
    let (target, name) = match &record.target {
        JobTarget::Database => ("database", None),
        JobTarget::Collection(name) => ("collection", Some(name.clone())),
        JobTarget::Directory(path) => ("directory", Some(path.display().to_string())),
    };
    put("target", target.into());
    put("state", record.state.name().into());
    put("priority", record.priority.name().into());
    put("attempts", record.attempts.into());
    put("queued_at", millis(record.queued_at).into());
    let optional = [
        ("name", name.map(Value::from)),
        ("reason", record.reason.map(|reason| reason.name().into())),
        ("started_at", record.started_at.map(|at| millis(at).into())),
        ("finished_at", record.finished_at.map(|at| millis(at).into())),
        ("summary", record.summary.clone().map(Value::from)),
        ("error", record.error.clone().map(Value::from)),
        (
            "flush",
            match &record.outcome {
                Some(JobOutcome::Flush(stats)) => Some(put_stats(stats).into()),
                _ => None,
            },
        ),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            put(name, value);
        }
    }
    document
}

fn decode(id: JobId, document: &Document) -> Option<JobRecord> {
    let text = |name: &str| text_of(&document.metadata, name);
    let time = |name: &str| from_millis(document.metadata.get(name).and_then(unsigned)?);
    let target = match (text("target")?.as_str(), text("name")) {
        ("database", _) => JobTarget::Database,
        ("collection", Some(name)) => JobTarget::Collection(name),
        ("directory", Some(path)) => JobTarget::Directory(path.into()),
        _ => return None,
    };
    let kind = JobKind::from_name(&text("kind")?)?;
    let state = JobState::from_name(&text("state")?)?;
    let summary = text("summary");
    let flush = match document.metadata.get("flush") {
        Some(Value::Map(stats)) => Some(get_stats(stats)?),
        _ => None,
    };
    let lsns =
        flush.as_ref().filter(|stats| !stats.is_empty()).map(|stats| (stats.first_lsn, stats.last_lsn));
    Some(JobRecord {
        id,
        kind,
        target,
        state,
        priority: JobPriority::from_name(&text("priority")?)?,
        reason: match text("reason") {
            Some(name) => Some(FlushReason::from_name(&name)?),
            None => None,
        },
        attempts: u32::try_from(document.metadata.get("attempts").and_then(unsigned)?).ok()?,
        queued_at: time("queued_at")?,
        started_at: time("started_at"),
        finished_at: time("finished_at"),
        lsns,
        outcome: flush.map(|stats| JobOutcome::Flush(Box::new(stats))),
        summary,
        error: text("error"),
    })
}

fn put_stats(stats: &FlushStats) -> Metadata {
    let mut map: Metadata = BTreeMap::new();
    let times = stats.phases().into_iter().chain([("total", stats.total)]);
    map.extend(times.map(|(name, took)| (name.to_owned(), (took.as_nanos() as u64).into())));
    for (name, value) in [
        ("shards_touched", stats.shards_touched as u64),
        ("files_synced", stats.files_synced as u64),
        ("operations_applied", stats.operations_applied),
        ("rows", stats.rows),
        ("killed", stats.killed),
        ("collections", stats.collections as u64),
        ("bytes_written", stats.bytes_written),
        ("first_lsn", stats.first_lsn.0),
        ("last_lsn", stats.last_lsn.0),
    ] {
        map.insert(name.to_owned(), value.into());
    }
    map.insert("reason".to_owned(), stats.reason.name().into());
    map
}

fn get_stats(map: &Metadata) -> Option<FlushStats> {
    let number = |name: &str| map.get(name).and_then(unsigned);
    let time = |name: &str| number(name).map(Duration::from_nanos);
    let Some(Value::String(reason)) = map.get("reason") else { return None };
    Some(FlushStats {
        wal_drain: time("wal_drain")?,
        shard_apply: time("shard_apply")?,
        file_sync: time("file_sync")?,
        manifest_publish: time("manifest_publish")?,
        wal_advance: time("wal_advance")?,
        validation: time("validation")?,
        total: time("total")?,
        shards_touched: usize::try_from(number("shards_touched")?).ok()?,
        files_synced: usize::try_from(number("files_synced")?).ok()?,
        operations_applied: number("operations_applied")?,
        rows: number("rows")?,
        killed: number("killed")?,
        collections: usize::try_from(number("collections")?).ok()?,
        bytes_written: number("bytes_written")?,
        first_lsn: Lsn(number("first_lsn")?),
        last_lsn: Lsn(number("last_lsn")?),
        reason: FlushReason::from_name(reason)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> JobRecord {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let stats = FlushStats {
            file_sync: Duration::from_nanos(1_234_567),
            total: Duration::from_millis(3),
            operations_applied: 7,
            rows: 6,
            killed: 1,
            collections: 2,
            first_lsn: Lsn(3),
            last_lsn: Lsn(9),
            reason: FlushReason::Age,
            ..FlushStats::default()
        };
        JobRecord {
            id: JobId(12),
            kind: JobKind::Flush,
            target: JobTarget::Collection("notes".to_owned()),
            state: JobState::Completed,
            priority: JobPriority::Low,
            reason: Some(FlushReason::Age),
            attempts: 2,
            queued_at: at(1_000),
            started_at: Some(at(1_001)),
            finished_at: Some(at(1_002)),
            lsns: Some((Lsn(3), Lsn(9))),
            outcome: Some(JobOutcome::Flush(Box::new(stats))),
            summary: None,
            error: Some("the first attempt's".to_owned()),
        }
    }

    #[test]
    fn a_record_survives_as_a_document() {
        let wanted = record();
        let document = encode(&wanted);
        assert_eq!(format!("{:?}", decode(wanted.id, &document).unwrap()), format!("{wanted:?}"));
        let queued = JobRecord {
            kind: JobKind::Backup,
            target: JobTarget::Directory("/backups/monday".into()),
            state: JobState::Queued,
            reason: None,
            started_at: None,
            finished_at: None,
            lsns: None,
            outcome: None,
            error: None,
            ..wanted
        };
        assert_eq!(format!("{:?}", decode(queued.id, &encode(&queued)).unwrap()), format!("{queued:?}"));
    }

    #[test]
    fn a_record_that_lacks_a_field_or_has_another_type_is_none() {
        let whole = encode(&record());
        for name in ["kind", "target", "state", "priority", "attempts", "queued_at", "name"] {
            let mut damaged = whole.clone();
            damaged.metadata.remove(name);
            assert!(decode(JobId(12), &damaged).is_none(), "{name} is missing");
            damaged.metadata.insert(name.to_owned(), Value::Null);
            assert!(decode(JobId(12), &damaged).is_none(), "{name} is null");
        }
    }

    #[test]
    fn the_ledger_survives_as_a_document() {
        let ledger = Ledger { next: 9, first: 3, open: BTreeSet::from([4, 8]) };
        assert_eq!(Ledger::decode(&ledger.document()), Some(ledger));
        assert_eq!(Ledger::decode(&row(Key::from(LEDGER))), None);
    }
}
