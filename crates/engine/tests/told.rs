//! What the engine tells while it works: events of `tracing`, and, with the feature, the recorder of `metrics`.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use plimsoll_engine::{CollectionConfig, Database, Document, Metric, WriteBatch};
use plimsoll_sim::{Failure, OperationKind, SimStorage};
use tracing_subscriber::filter::LevelFilter;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged while `work` runs in this thread.
fn told(work: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(LevelFilter::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn with_rows(rows: u64) -> (SimStorage, Database) {
    let disk = SimStorage::new();
    let db = Database::builder("/db").storage(Arc::new(disk.clone())).background(false).open().unwrap();
    let collection = db.create_collection("notes", CollectionConfig::new(2, Metric::L2)).unwrap();
    let mut batch = WriteBatch::new();
    (0..rows).for_each(|key| {
        batch.upsert(Document::new(key).vector([key as f32, 1.0]));
    });
    collection.write(&batch).unwrap();
    (disk, db)
}

#[test]
fn a_flush_tells_its_beginning_its_phases_its_progress_and_its_end() {
    let (_, db) = with_rows(2500);
    let lines = told(|| assert_eq!(db.flush().unwrap().rows, 2500));
    let at = |words: &[&str]| {
        let found = lines.iter().position(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("nobody says {words:?}: {lines:#?}"))
    };
    let order = [
        at(&["INFO", "job started", "job=1", "kind=flush", "attempt=1"]),
        at(&["DEBUG", "phase=\"wal_drain\""]),
        at(&["DEBUG", "phase=\"shard_apply\""]),
        at(&["DEBUG", "collection=notes", "done=0", "total=2500"]),
        at(&["DEBUG", "collection=notes", "done=1000", "total=2500"]),
        at(&["DEBUG", "collection=notes", "done=2000", "total=2500"]),
        at(&["DEBUG", "phase=\"file_sync\""]),
        at(&["DEBUG", "phase=\"manifest_publish\""]),
        at(&["DEBUG", "phase=\"wal_advance\""]),
        at(&["DEBUG", "phase=\"validation\""]),
        at(&[
            "INFO",
            "flush completed",
            "reason=manual",
            "rows_flushed=2500",
            "namespaces=1",
            "shards=1",
            "files=3",
            "bytes=",
            "duration_ms=",
        ]),
        at(&["INFO", "job ended", "job=1", "state=completed"]),
    ];
    assert!(order.is_sorted(), "{order:?}: {lines:#?}");
}

#[test]
fn an_empty_flush_and_a_failed_one_are_warned_of_with_what_they_are_about() {
    let (disk, db) = with_rows(10);
    disk.fail_next(OperationKind::Rename, Failure::errno(5), 1);
    let lines = told(|| assert!(db.flush().is_err()));
    let warned = |words: &[&str]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(warned(&["WARN", "a flush failed", "reason=manual", "rename", "/db/data/"]), "{lines:#?}");
    assert!(warned(&["WARN", "job ended", "state=failed"]), "{lines:#?}");
    db.flush().unwrap();
    let lines = told(|| assert!(db.flush().unwrap().is_empty()));
    assert!(
        lines.iter().any(|line| line.contains("WARN") && line.contains("nothing to flush")),
        "{lines:#?}"
    );
}

#[cfg(feature = "metrics")]
#[test]
fn the_recorder_of_the_program_gets_every_statistic() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (_, db) = with_rows(10);
    metrics::with_local_recorder(&recorder, || {
        db.flush().unwrap();
        db.export_metrics();
    });
    let got = snapshotter.snapshot().into_vec();
    let find = |name: &str, label: &str| {
        let of = |(key, ..): &&(metrics_util::CompositeKey, _, _, DebugValue)| {
            let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
            key.key().name() == name && (label.is_empty() || labels == [label])
        };
        got.iter().find(of).map(|(.., value)| value)
    };
    assert!(matches!(find("plimsoll_flushes_successful_total", ""), Some(DebugValue::Counter(1))));
    assert!(matches!(find("plimsoll_flushed_rows_total", ""), Some(DebugValue::Counter(10))));
    assert!(
        matches!(find("plimsoll_collection_flushed_rows", "notes"), Some(DebugValue::Gauge(rows)) if rows.0 == 10.0)
    );
    let Some(DebugValue::Histogram(times)) = find("plimsoll_flush_seconds", "file_sync") else {
        panic!("no times")
    };
    assert_eq!(times.len(), 1);
    for statistic in db.stats().metrics() {
        let label = statistic.label.as_ref().map_or("", |(_, value)| value);
        assert!(find(statistic.name, label).is_some(), "{} {label} is missing", statistic.name);
    }
}
