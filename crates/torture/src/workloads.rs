//! The recorded workloads: one for each kind of work whose crashes are gone through, and random ones.

use std::ops::Range;

use plimsoll::{Document, Durability, Error, JobRequest, Metadata, Metric, Value};
use plimsoll_sim::{CrashPolicy, Failure, OperationKind};

use crate::random::Random;
use crate::recorder::{Recorder, Recording};
use crate::recovery::{COPY, empty_disk};

use Durability::{Buffered, Durable};

/// A workload that can be recorded.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Its name in cases.
    pub name: &'static str,
    /// Whether it has so many rows that not each of its operations can be a crash point in a short time.
    pub is_large: bool,
    run: fn() -> Recorder,
}

macro_rules! workloads {
    ($($name:ident $(($large:ident))?,)*) => {
        /// Every workload.
        pub const ALL: &[Workload] = &[$(Workload {
            name: stringify!($name),
            is_large: workloads!(@ $($large)?),
            run: $name,
        }),*];
    };
    (@ large) => { true };
    (@) => { false };
}

workloads! {
    creation,
    creation_interrupted,
    log_rotation,
    buffered_writes,
    buffered_over_rotation,
    large_batch_over_rotation,
    flushes,
    automatic_flushes,
    failed_flushes,
    compactions,
    compaction_around_a_flush,
    jobs,
    snapshots_over_compaction,
    everything_deleted,
    several_collections,
    many_collections,
    drop_and_create,
    conditional_writes,
    metadata_updates,
    many_postings,
    closing,
    reopening_without_closing,
    reader_beside_a_writer,
    poisoned_and_reopened,
    full_disk_and_freed,
    failed_appends,
    a_new_index (large),
    retraining (large),
    calibration (large),
}

/// Records the workload of that name, or the random one `random-SEED`.
pub fn record(name: &str) -> Option<Recording> {
    if let Some(seed) = name.strip_prefix("random-").and_then(|seed| seed.parse().ok()) {
        return Some(random(seed).finish());
    }
    ALL.iter().find(|workload| workload.name == name).map(|workload| (workload.run)().finish())
}

fn document(key: u64, version: u64) -> Document {
    let text = format!("document {key}, version {version}; {}", "padding ".repeat((key % 7) as usize * 4));
    Document::new(key)
        .text(text)
        .metadata("version", version)
        .vector([key as f32 + 0.5, version as f32 + 0.25])
}

fn documents(keys: Range<u64>, version: u64) -> Vec<Document> {
    keys.map(|key| document(key, version)).collect()
}

fn opened() -> Recorder {
    let mut run = Recorder::new();
    run.open();
    run.create("a", 2, Metric::L2);
    run
}

fn creation() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..2, 1), &[], Durable);
    run.write("a", &documents(2..3, 1), &[0], Durable);
    run
}

/// A creation that was cut off while its first manifest was written, and is completed.
fn creation_interrupted() -> Recorder {
    let mut cut = Recorder::on(empty_disk());
    cut.open();
    let log = cut.disk.log();
    let rename = log.iter().find(|operation| operation.kind == OperationKind::Rename).unwrap();
    let mut run = Recorder::on(cut.disk.after_crash_at(rename.number, CrashPolicy::KeepAll));
    run.open();
    run.create("a", 2, Metric::L2);
    run.write("a", &documents(0..2, 1), &[], Durable);
    run.flush();
    run
}

fn log_rotation() -> Recorder {
    let mut run = opened();
    for n in 0..14 {
        run.write("a", &documents(n * 3..n * 3 + 4, n), &[n], Durable);
    }
    run
}

fn buffered_writes() -> Recorder {
    let mut run = opened();
    for n in 0..6 {
        run.write("a", &documents(n..n + 5, n), &[], Buffered);
        run.write("a", &documents(n + 3..n + 8, n), &[n], Buffered);
        if n % 2 == 1 {
            run.sync();
        }
    }
    run
}

fn buffered_over_rotation() -> Recorder {
    let mut run = opened();
    for n in 0..20 {
        run.write("a", &documents(n * 2..n * 2 + 3, n), &[n], Buffered);
    }
    run.sync();
    run.write("a", &documents(0..9, 50), &[], Buffered);
    run.write("a", &documents(0..9, 51), &[], Buffered);
    run.close();
    run
}

/// Batches larger than a segment of the log.
fn large_batch_over_rotation() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..2, 1), &[], Durable);
    run.write("a", &documents(0..60, 2), &[], Durable);
    run.write("a", &documents(30..90, 3), &[1, 2], Buffered);
    run.write("a", &documents(0..1, 4), &[], Durable);
    run.flush();
    run.write("a", &documents(40..99, 5), &[], Durable);
    run
}

fn flushes() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..6, 1), &[], Durable);
    run.flush();
    run.write("a", &documents(3..9, 2), &[0, 5], Durable);
    run.write("a", &documents(20..22, 2), &[], Buffered);
    run.flush();
    run.write("a", &documents(4..5, 3), &[1, 8], Durable);
    run
}

fn automatic_flushes() -> Recorder {
    let mut run = Recorder::new();
    run.memtable_bytes = 3000;
    run.open();
    run.create("a", 2, Metric::Cosine);
    for n in 0..12 {
        run.write("a", &documents(n * 2..n * 2 + 4, n), &[n], Durable);
    }
    run
}

/// Flushes that fail at each kind of call, and succeed later.
fn failed_flushes() -> Recorder {
    use OperationKind::{Append, Create, Rename, Sync, SyncDir};
    let mut run = opened();
    for (n, kind) in (0..).zip([Create, Append, Rename, SyncDir, Sync]) {
        run.write("a", &documents(n..n + 3, n), &[n + 1], Durable);
        let failure = Failure::errno(5);
        run.flush_refused(kind, if n % 2 == 0 { failure.although_done() } else { failure }, 1);
        run.write("a", &documents(n + 20..n + 22, n), &[], Durable);
        if n % 2 == 1 {
            run.flush();
        }
    }
    run
}

fn compactions() -> Recorder {
    let mut run = opened();
    for n in 0..3 {
        run.write("a", &documents(n * 2..n * 2 + 4, n), &[n], Durable);
        run.flush();
    }
    run.compact();
    run.write("a", &documents(0..2, 9), &[4], Durable);
    run.flush();
    run.compact();
    run
}

fn compaction_around_a_flush() -> Recorder {
    let mut run = opened();
    for n in 0..3 {
        run.write("a", &documents(n * 2..n * 2 + 4, n), &[n], Durable);
        run.flush();
    }
    run.compact_around_flush(0, "a", &documents(1..5, 7), &[6]);
    run.write("a", &documents(2..4, 8), &[], Durable);
    run.flush();
    run.compact_around_flush(1, "a", &documents(3..4, 9), &[2, 5]);
    run.compact();
    run
}

/// Every kind of job, with a record that is on disk before it begins.
fn jobs() -> Recorder {
    let mut run = opened();
    run.create("b", 2, Metric::Dot);
    run.write("a", &documents(0..4, 1), &[], Durable);
    run.write("b", &documents(0..2, 1), &[], Buffered);
    run.job(JobRequest::flush_collection("a"));
    run.write("a", &documents(2..6, 2), &[0], Durable);
    run.job(JobRequest::backup(COPY));
    run.write("b", &documents(1..3, 3), &[], Durable);
    run.job(JobRequest::verify());
    run.job(JobRequest::flush());
    run.job(JobRequest::compaction());
    run.write("a", &documents(5..7, 4), &[2], Durable);
    run.job(JobRequest::flush_collection("b"));
    run.close();
    run
}

fn snapshots_over_compaction() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..5, 1), &[], Durable);
    run.flush();
    run.hold_snapshot();
    run.write("a", &documents(2..8, 2), &[0], Durable);
    run.hold_snapshot();
    run.flush();
    run.compact();
    run.write("a", &documents(8..9, 3), &[1, 2], Durable);
    run.check_snapshots();
    run.flush();
    run.compact();
    run
}

fn everything_deleted() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..9, 1), &[], Durable);
    run.flush();
    run.write("a", &[], &(0..9).collect::<Vec<_>>(), Durable);
    run.flush();
    run.compact();
    run.write("a", &documents(3..4, 2), &[], Durable);
    run.write("a", &[], &[3], Durable);
    run.flush();
    run.compact();
    run.write("a", &documents(0..2, 3), &[], Durable);
    run.close();
    run
}

fn several_collections() -> Recorder {
    let mut run = opened();
    run.create("b", 2, Metric::Dot);
    run.write("a", &documents(0..3, 1), &[], Durable);
    run.write_to_each(["a", "b"], [document(1, 2), document(7, 2)]);
    run.flush();
    run.write_to_each(["a", "b"], [document(2, 3), document(7, 3)]);
    run.drop_collection("a");
    run.write("b", &documents(8..9, 4), &[], Durable);
    run.create("a", 2, Metric::L2);
    run.write_to_each(["a", "b"], [document(1, 5), document(9, 5)]);
    run.flush();
    run.drop_collection("b");
    run
}

fn many_collections() -> Recorder {
    let mut run = opened();
    for (name, metric) in [("b", Metric::Dot), ("c", Metric::Cosine), ("d", Metric::L2)] {
        run.create(name, 2, metric);
    }
    for n in 0..3 {
        run.write_to_each(["a", "b", "c", "d"], [0, 1, 2, 3].map(|key| document(key + n, n)));
        run.write("c", &documents(0..2, n + 10), &[], Buffered);
        run.write("d", &documents(1..2, n + 10), &[n], Buffered);
        run.flush();
    }
    run.compact();
    run.drop_collection("c");
    run.write_to_each(["d", "b"], [document(1, 20), document(2, 20)]);
    run.close();
    run
}

/// A name that goes and comes back, with another dimension.
fn drop_and_create() -> Recorder {
    let mut run = opened();
    for n in 0..3 {
        run.write("a", &documents(0..3, n), &[], Durable);
        run.flush();
        run.write("a", &documents(2..4, n + 5), &[], Durable);
        run.drop_collection("a");
        run.create("a", 2, if n % 2 == 0 { Metric::Dot } else { Metric::Cosine });
        run.write("a", &documents(5..6, n + 5), &[], Durable);
    }
    run.drop_collection("a");
    run.create("a", 3, Metric::L2);
    run.write("a", &[Document::new(1).vector([1.0, 2.0, 3.0])], &[], Durable);
    run
}

fn conditional_writes() -> Recorder {
    let mut run = opened();
    for n in 0..5 {
        run.insert("a", document(n, 1));
        run.insert("a", document(n / 2, 2));
        run.write("a", &[], &[n / 2], Buffered);
        run.insert("a", document(n / 2, 3));
        if n == 2 {
            run.flush();
        }
    }
    run
}

fn metadata_updates() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..4, 1), &[], Durable);
    let metadata = |n: u64| Metadata::from([("n".to_owned(), Value::from(n))]);
    for n in 0..4 {
        run.update_metadata("a", n, metadata(n));
        if n % 2 == 0 {
            run.flush();
        }
        run.update_metadata("a", n / 2, metadata(n + 10));
    }
    run.compact();
    run
}

fn many_postings() -> Recorder {
    let mut run = opened();
    let long = |key: u64, count: u32| {
        let text = "several passages of one document ".repeat(count as usize);
        let document = Document::new(key).text(text);
        (0..count)
            .fold(document, |document, n| document.posting(n * 33, 33, vec![n as f32 + 1.0, key as f32]))
    };
    run.write("a", &[long(1, 5), long(2, 30)], &[], Durable);
    run.flush();
    run.write("a", &[long(1, 40), long(3, 2)], &[2], Durable);
    run.flush();
    run.compact();
    run.write("a", &[long(3, 7)], &[], Durable);
    run
}

fn closing() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..3, 1), &[], Buffered);
    run.close();
    run.open();
    run.write("a", &documents(1..4, 2), &[0], Durable);
    run.close();
    run.open();
    run.close();
    run.open();
    run.write("a", &documents(1..2, 3), &[], Durable);
    run
}

fn reopening_without_closing() -> Recorder {
    let mut run = opened();
    for n in 0..3 {
        run.write("a", &documents(n..n + 3, n), &[], Durable);
        run.write("a", &documents(n + 1..n + 2, n + 5), &[], Buffered);
        run.reopen();
        run.write("a", &documents(n..n + 1, n + 9), &[n + 1], Buffered);
    }
    run.flush();
    run.write("a", &documents(0..2, 20), &[], Durable);
    run.reopen();
    run
}

fn reader_beside_a_writer() -> Recorder {
    let mut run = opened();
    for n in 0..3 {
        run.write("a", &documents(n..n + 3, n), &[], Durable);
        run.read_beside();
        run.write("a", &documents(n + 5..n + 6, n), &[n], Buffered);
        run.read_beside();
        run.flush();
        run.read_beside();
    }
    run.compact();
    run.read_beside();
    run.write("a", &documents(0..1, 9), &[], Durable);
    run.read_beside();
    run
}

fn poisoned_and_reopened() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..3, 1), &[], Durable);
    for (n, failure) in [(1, Failure::errno(5)), (2, Failure::errno(5).although_done())] {
        run.write("a", &documents(n..n + 4, n), &[], Buffered);
        run.disk.fail_next(OperationKind::Sync, failure, 1);
        let error = run.write_refused("a", &documents(10 * n..10 * n + 2, n));
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        run.write_refused("a", &documents(0..1, 99));
        run.reopen();
        run.write("a", &documents(5..6, n + 5), &[0], Durable);
    }
    run.flush();
    run
}

fn full_disk_and_freed() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..9, 1), &[], Durable);
    run.flush();
    let used: u64 = run.disk.paths().iter().map(|path| run.disk.bytes(path).unwrap().len() as u64).sum();
    run.disk.set_capacity(used);
    for n in 2..40 {
        let full = run.disk.free_bytes() == 0;
        if full {
            break;
        }
        run.write("a", &documents(n..n + 1, n), &[], Durable);
    }
    run.disk.set_capacity(used);
    let error = run.write_refused("a", &documents(100..170, 3));
    assert!(error.is_retryable(), "{error}");
    run.write("a", &[], &(0..7).collect::<Vec<_>>(), Durable);
    run.flush();
    run.compact();
    run.disk.set_capacity(1 << 30);
    run.write("a", &documents(100..104, 3), &[], Durable);
    run.flush();
    run
}

/// Appends that fail after some or all of their bytes.
fn failed_appends() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..3, 1), &[], Durable);
    for (n, bytes) in (1..).zip([0, 7, 40, 600, u64::MAX]) {
        run.write("a", &documents(n..n + 2, n), &[], Buffered);
        run.disk.fail_next(OperationKind::Append, Failure::errno(5).after_bytes(bytes), 1);
        run.write_refused("a", &documents(n * 10..n * 10 + 4, n));
        run.write("a", &documents(n..n + 1, n + 7), &[], if n % 2 == 0 { Durable } else { Buffered });
    }
    run.sync();
    run
}

fn many(count: u64, version: u64) -> Vec<Document> {
    let place = |n: u64| [(n % 97) as f32, (n % 89 + version) as f32];
    (0..count).map(|n| Document::new(n).vector(place(n))).collect()
}

fn a_new_index() -> Recorder {
    let mut run = opened();
    run.write("a", &many(4200, 0), &[], Durable);
    run.flush();
    run.compact();
    run.write("a", &documents(0..3, 1), &[7], Durable);
    run.flush();
    run.compact();
    run
}

/// An index that is trained again when its collection has grown, and goes when it has shrunk.
fn retraining() -> Recorder {
    let mut run = opened();
    run.write("a", &many(4200, 0), &[], Durable);
    run.flush();
    run.compact();
    let more: Vec<Document> =
        (10_000..11_500u64).map(|n| Document::new(n).vector([(n % 83) as f32, (n % 79) as f32])).collect();
    run.write("a", &more, &[1, 2], Durable);
    run.flush();
    run.compact();
    run.write("a", &[], &(0..3000).collect::<Vec<_>>(), Durable);
    run.flush();
    run.compact();
    run
}

/// An index that is calibrated on queries, is trained again on them, and goes back to its rows.
fn calibration() -> Recorder {
    let mut run = opened();
    run.write("a", &many(4200, 0), &[], Durable);
    run.flush();
    run.compact();
    let queries: Vec<[f32; 2]> = (0..60u8).map(|n| [f32::from(n) + 0.5, f32::from(n) * 1.5]).collect();
    run.calibrate("a", &queries);
    run.write("a", &documents(0..3, 1), &[7], Durable);
    run.calibrate("a", &queries[..20]);
    run.flush();
    run.calibrate("a", &[]);
    run.calibrate("a", &queries);
    let more: Vec<Document> =
        (10_000..11_500u64).map(|n| Document::new(n).vector([(n % 83) as f32, (n % 79) as f32])).collect();
    run.write("a", &more, &[1, 2], Durable);
    run.flush();
    run.compact();
    run.calibrate("a", &[]);
    run
}

/// Forty random steps without faults.
fn random(seed: u64) -> Recorder {
    let mut random = Random::new(seed);
    let mut run = Recorder::new();
    run.memtable_bytes = *random.pick(&[600, 3000, 1 << 20]);
    run.open();
    run.create("a", 2, *random.pick(&[Metric::L2, Metric::Cosine, Metric::Dot]));
    run.create("b", 2, Metric::L2);
    for version in 0..40 {
        let name = *random.pick(&["a", "b"]);
        let first = random.below(20) as u64;
        let count = random.below(6) as u64;
        match random.below(20) {
            0..7 => run.write(name, &documents(first..first + count, version), &[first + 9], Durable),
            7..10 => run.write(name, &documents(first..first + count, version), &[first + 3], Buffered),
            10 => run.write_to_each(["a", "b"], [document(first, version), document(first + 1, version)]),
            11 => run.insert(name, document(first, version)),
            12 => run.sync(),
            13 | 14 => run.flush(),
            15 => run.compact(),
            16 => {
                run.close();
                run.open();
            }
            17 => run.reopen(),
            18 => run.read_beside(),
            _ => {
                run.drop_collection(name);
                run.create(name, 2, *random.pick(&[Metric::L2, Metric::Dot]));
            }
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_and_each_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|workload| workload.name).collect();
        assert!(names.len() == ALL.len() && ALL.len() >= 20);
        assert!(record("random-7").is_some() && record("random-").is_none() && record("nothing").is_none());
    }
}
