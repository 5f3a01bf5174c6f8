//! The statistics under the names that monitoring knows them by: one registry, which everything that exports them reads.
//!
//! Times are in seconds, sizes in bytes. With the feature `metrics` they go to the recorder that a program has installed
//! for the crate of that name: [`Database::export_metrics`](crate::Database::export_metrics).

use crate::jobs::Circuit;
use crate::stats::{Histogram, Stats};

/// One statistic.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Statistic {
    /// Its name, by the conventions of Prometheus.
    pub name: &'static str,
    /// What tells it apart from others of its name.
    pub label: Option<(&'static str, String)>,
    /// What it says.
    pub help: &'static str,
    /// What it is now.
    pub value: StatisticValue,
}

/// What a statistic is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StatisticValue {
    /// Counts up from opening.
    Counter(u64),
    /// Goes up and down.
    Gauge(f64),
    /// Times of something.
    Histogram(Box<Histogram>),
}

impl Stats {
    /// All of them, in the same order each time.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let db = plimsoll_engine::Database::open(dir.path().join("notes"))?;
    /// for metric in db.stats().metrics() {
    ///     println!("{} {:?} {:?}", metric.name, metric.label, metric.value);
    /// }
    /// # db.close()
    /// # }
    /// ```
    pub fn metrics(&self) -> Vec<Statistic> {
        let mut all = Vec::new();
        let mut put = |name, label, help, value| all.push(Statistic { name, label, help, value });
        let lsn = [
            ("appended", self.lsn.appended),
            ("durable", self.lsn.durable),
            ("applied", self.lsn.applied),
            ("flushed", self.lsn.flushed),
        ];
        for (level, lsn) in lsn {
            let label = Some(("level", level.to_owned()));
            put("plimsoll_lsn", label, "How far the log has come", StatisticValue::Gauge(lsn.0 as f64));
        }
        let (flushes, jobs, stalls, buffer) = (&self.flushes, &self.jobs, &self.stalls, &self.buffer);
        let circuit = match jobs.circuit {
            Circuit::Closed => 0.0,
            Circuit::HalfOpen { .. } => 0.5,
            Circuit::Open { .. } => 1.0,
        };
        let counters = [
            ("plimsoll_flushes_total", "Flushes, successful or not", flushes.total),
            ("plimsoll_flushes_successful_total", "Flushes that succeeded", flushes.successful),
            ("plimsoll_flushes_failed_total", "Flushes that failed", flushes.failed),
            ("plimsoll_flushes_timed_out_total", "Waits for a flush that timed out", flushes.timed_out),
            ("plimsoll_flushed_rows_total", "Vector rows flushed", flushes.rows),
            ("plimsoll_flushed_bytes_total", "Bytes of files that flushes wrote", flushes.bytes),
            ("plimsoll_compactions_total", "Compactions that did something", self.compactions),
            ("plimsoll_compactions_failed_total", "Compactions that failed", self.failed_compactions),
            ("plimsoll_jobs_submitted_total", "Jobs submitted", jobs.submitted),
            ("plimsoll_jobs_joined_total", "Requests answered by a job that was there", jobs.joined),
            ("plimsoll_jobs_retried_total", "Attempts that were followed by another one", jobs.retried),
            ("plimsoll_jobs_refused_total", "Requests that found no place in the queue", jobs.refused),
            ("plimsoll_job_queue_waits_total", "Requests that waited for a place", jobs.waits),
            ("plimsoll_job_records_missing_total", "Changes of jobs without a record", jobs.unrecorded),
            ("plimsoll_job_events_missed_total", "Events that listeners missed", jobs.events_missed),
            (
                "plimsoll_circuit_opened_total",
                "How often writes were refused for a while",
                jobs.circuit_opened,
            ),
            ("plimsoll_writes_slowed_total", "Writes slowed down by flushes", stalls.slowed),
            ("plimsoll_writes_stopped_total", "Writes stopped by flushes", stalls.stopped),
            ("plimsoll_buffered_total", "Buffered writes accepted", buffer.buffered),
            ("plimsoll_buffered_flushed_total", "Buffered writes made durable", buffer.flushed),
            ("plimsoll_buffered_batches_total", "Syncs that made buffered writes durable", buffer.batches),
            (
                "plimsoll_buffered_errors_total",
                "Buffered writes that a failed sync may have lost",
                buffer.errors,
            ),
            ("plimsoll_log_bytes_total", "Bytes appended to the log", self.wal.bytes_appended),
            ("plimsoll_log_batches_total", "Batches written to the log", self.wal.batches),
            ("plimsoll_log_syncs_total", "Syncs of the log", self.wal.syncs),
        ];
        for (name, help, value) in counters {
            put(name, None, help, StatisticValue::Counter(value));
        }
        let gauges = [
            ("plimsoll_job_queue_size", "Jobs that wait", jobs.queued as f64),
            ("plimsoll_jobs_running", "Jobs that are under way", jobs.running as f64),
            ("plimsoll_workers", "Threads that do jobs", jobs.workers as f64),
            ("plimsoll_circuit_open", "1 while writes are refused, 0.5 while a flush is tried", circuit),
            ("plimsoll_job_queue_wait_seconds", "Time waited for places, in all", jobs.waited.as_secs_f64()),
            ("plimsoll_writes_slowed_seconds", "Time writes were slowed", stalls.slowed_time.as_secs_f64()),
            (
                "plimsoll_writes_stopped_seconds",
                "Time writes were stopped",
                stalls.stopped_time.as_secs_f64(),
            ),
            ("plimsoll_buffer_size", "Buffered writes that are not durable", buffer.buffer_size as f64),
            ("plimsoll_log_disk_bytes", "Bytes of the log's files", self.wal.disk_bytes as f64),
            ("plimsoll_log_segments", "Segments of the log", self.wal.segments as f64),
        ];
        for (name, help, value) in gauges {
            put(name, None, help, StatisticValue::Gauge(value));
        }
        let times =
            flushes.phases.iter().map(|(name, times)| (*name, *times)).chain([("total", flushes.times)]);
        for (phase, times) in times {
            let label = Some(("phase", phase.to_owned()));
            let value = StatisticValue::Histogram(Box::new(times));
            put("plimsoll_flush_seconds", label, "How long phases of flushes took", value);
        }
        for collection in &self.collections {
            let values = [
                ("plimsoll_collection_flushed_rows", "Rows in files", collection.flushed_rows),
                ("plimsoll_collection_unflushed_rows", "Rows in memory", collection.memtable_rows),
                ("plimsoll_collection_unflushed_bytes", "Bytes in memory", collection.memtable_bytes),
                (
                    "plimsoll_collection_sealed_memtables",
                    "Memtables that wait",
                    collection.sealed_memtables as u64,
                ),
                ("plimsoll_collection_disk_bytes", "Bytes of files", collection.disk_bytes),
            ];
            for (name, help, value) in values {
                let label = Some(("collection", collection.name.clone()));
                put(name, label, help, StatisticValue::Gauge(value as f64));
            }
        }
        all
    }

    /// Hands all of them to the recorder of the crate `metrics`, but for the times, which flushes hand over themselves.
    #[cfg(feature = "metrics")]
    pub(crate) fn export(&self) {
        for Statistic { name, label, help, value } in self.metrics() {
            let labels: Vec<_> =
                label.into_iter().map(|(key, value)| metrics::Label::new(key, value)).collect();
            match value {
                StatisticValue::Counter(value) => {
                    metrics::describe_counter!(name, help);
                    metrics::counter!(name, labels).absolute(value);
                }
                StatisticValue::Gauge(value) => {
                    metrics::describe_gauge!(name, help);
                    metrics::gauge!(name, labels).set(value);
                }
                StatisticValue::Histogram(_) => {
                    metrics::describe_histogram!(name, metrics::Unit::Seconds, help);
                }
            }
        }
    }
}

/// Hands the times of one flush to the recorder of the crate `metrics`.
#[cfg(feature = "metrics")]
pub(crate) fn record(stats: &crate::stats::FlushStats) {
    for (phase, took) in stats.phases().into_iter().chain([("total", stats.total)]) {
        metrics::histogram!("plimsoll_flush_seconds", "phase" => phase).record(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use plimsoll_base::Lsn;

    use super::*;
    use crate::stats::{BufferStats, FlushTotals, JobStats, LogStats, StallStats, Watermarks};

    /// Each field has a value of its own, which is found under one name.
    #[test]
    fn each_statistic_is_told_under_its_name() {
        let mut stats = Stats::of_reader(Vec::new(), Lsn(0), Lsn(0), crate::IoStats::default());
        stats.lsn = Watermarks { appended: Lsn(4), durable: Lsn(3), applied: Lsn(2), flushed: Lsn(1) };
        stats.flushes = FlushTotals {
            total: 11,
            successful: 12,
            failed: 13,
            timed_out: 14,
            rows: 15,
            bytes: 16,
            ..FlushTotals::default()
        };
        (stats.compactions, stats.failed_compactions) = (17, 18);
        let (waited, circuit) = (Duration::from_secs(21), Circuit::HalfOpen { cause: String::new() });
        stats.jobs = JobStats {
            queued: 22,
            running: 23,
            workers: 24,
            submitted: 25,
            joined: 26,
            retried: 27,
            refused: 28,
            waits: 29,
            waited,
            unrecorded: 30,
            events_missed: 31,
            circuit,
            circuit_opened: 32,
        };
        let (slowed_time, stopped_time) = (Duration::from_secs(41), Duration::from_secs(42));
        stats.stalls = StallStats { slowed: 43, slowed_time, stopped: 44, stopped_time };
        stats.buffer = BufferStats { buffered: 51, flushed: 52, batches: 53, errors: 54, buffer_size: 55 };
        stats.wal =
            LogStats { segments: 61, disk_bytes: 62, bytes_appended: 63, batches: 64, syncs: 65, groups: 66 };
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_millis(3));
        stats.flushes.phases = vec![("file_sync", histogram)];
        let dir = tempfile::tempdir().unwrap();
        let db = crate::Database::open(dir.path().join("db")).unwrap();
        db.create_collection("notes", crate::CollectionConfig::new(2, crate::Metric::L2)).unwrap();
        let mut notes = db.stats().collections.remove(0);
        db.close().unwrap();
        (notes.flushed_rows, notes.memtable_rows, notes.memtable_bytes) = (71, 72, 73);
        (notes.sealed_memtables, notes.disk_bytes) = (74, 75);
        stats.collections = vec![notes];
        let all = stats.metrics();
        let mut told = BTreeMap::new();
        for Statistic { name, label, help, value } in &all {
            assert!(name.starts_with("plimsoll_") && !help.is_empty());
            let label = label.as_ref().map_or("", |(_, value)| value);
            let value = match value {
                StatisticValue::Counter(value) => {
                    assert!(name.ends_with("_total"), "{name}");
                    *value as f64
                }
                StatisticValue::Gauge(value) => *value,
                StatisticValue::Histogram(times) => times.total.as_secs_f64(),
            };
            assert_eq!(told.insert((*name, label), value), None, "{name} {label} is there twice");
        }
        let expected = [
            (("plimsoll_lsn", "appended"), 4.0),
            (("plimsoll_lsn", "durable"), 3.0),
            (("plimsoll_lsn", "applied"), 2.0),
            (("plimsoll_lsn", "flushed"), 1.0),
            (("plimsoll_flushes_total", ""), 11.0),
            (("plimsoll_flushes_successful_total", ""), 12.0),
            (("plimsoll_flushes_failed_total", ""), 13.0),
            (("plimsoll_flushes_timed_out_total", ""), 14.0),
            (("plimsoll_flushed_rows_total", ""), 15.0),
            (("plimsoll_flushed_bytes_total", ""), 16.0),
            (("plimsoll_compactions_total", ""), 17.0),
            (("plimsoll_compactions_failed_total", ""), 18.0),
            (("plimsoll_job_queue_wait_seconds", ""), 21.0),
            (("plimsoll_job_queue_size", ""), 22.0),
            (("plimsoll_jobs_running", ""), 23.0),
            (("plimsoll_workers", ""), 24.0),
            (("plimsoll_jobs_submitted_total", ""), 25.0),
            (("plimsoll_jobs_joined_total", ""), 26.0),
            (("plimsoll_jobs_retried_total", ""), 27.0),
            (("plimsoll_jobs_refused_total", ""), 28.0),
            (("plimsoll_job_queue_waits_total", ""), 29.0),
            (("plimsoll_job_records_missing_total", ""), 30.0),
            (("plimsoll_job_events_missed_total", ""), 31.0),
            (("plimsoll_circuit_opened_total", ""), 32.0),
            (("plimsoll_circuit_open", ""), 0.5),
            (("plimsoll_writes_slowed_seconds", ""), 41.0),
            (("plimsoll_writes_stopped_seconds", ""), 42.0),
            (("plimsoll_writes_slowed_total", ""), 43.0),
            (("plimsoll_writes_stopped_total", ""), 44.0),
            (("plimsoll_buffered_total", ""), 51.0),
            (("plimsoll_buffered_flushed_total", ""), 52.0),
            (("plimsoll_buffered_batches_total", ""), 53.0),
            (("plimsoll_buffered_errors_total", ""), 54.0),
            (("plimsoll_buffer_size", ""), 55.0),
            (("plimsoll_log_segments", ""), 61.0),
            (("plimsoll_log_disk_bytes", ""), 62.0),
            (("plimsoll_log_bytes_total", ""), 63.0),
            (("plimsoll_log_batches_total", ""), 64.0),
            (("plimsoll_log_syncs_total", ""), 65.0),
            (("plimsoll_flush_seconds", "file_sync"), 0.003),
            (("plimsoll_flush_seconds", "total"), 0.0),
            (("plimsoll_collection_flushed_rows", "notes"), 71.0),
            (("plimsoll_collection_unflushed_rows", "notes"), 72.0),
            (("plimsoll_collection_unflushed_bytes", "notes"), 73.0),
            (("plimsoll_collection_sealed_memtables", "notes"), 74.0),
            (("plimsoll_collection_disk_bytes", "notes"), 75.0),
        ];
        assert_eq!(told, BTreeMap::from(expected));
    }
}
