//! The public face, for finding regressions: `cargo bench --bench database`. What this machine's disk has to do with
//! it is shown by `plimsoll bench ingest`, not here.

#![expect(clippy::unwrap_used, reason = "a benchmark that can not be set up is a panic")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use plimsoll::{Collection, CollectionConfig, Database, Document, Durability, Effort, Metric, WriteBatch};

const DIMENSION: usize = 128;
const ROWS: usize = 20_000;

/// SplitMix64.
fn random(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

/// A point near one of 200 centres.
fn point(state: &mut u64) -> Vec<f32> {
    let mut centre = (random(state) * 200.0) as u64;
    (0..DIMENSION).map(|_| random(&mut centre) + random(state)).collect()
}

fn batch(first: usize, rows: usize, state: &mut u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for key in first..first + rows {
        batch.upsert(Document::new(key).vector(point(state)));
    }
    batch
}

fn filled(dir: &tempfile::TempDir) -> (Database, Collection) {
    let db = Database::open(dir.path().join("db")).unwrap();
    let points = db.create_collection("points", CollectionConfig::new(DIMENSION, Metric::Cosine)).unwrap();
    let mut state = 1;
    for first in (0..ROWS).step_by(1000) {
        points.write(&batch(first, 1000, &mut state)).unwrap();
    }
    db.flush().unwrap();
    db.compact().unwrap();
    (db, points)
}

fn search(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (_db, points) = filled(&dir);
    let mut state = 2;
    let efforts =
        [("exact", Effort::Exact), ("recall 0.95", Effort::Recall(0.95)), ("one list", Effort::Lists(1))];
    let mut group = c.benchmark_group("search of 20,000 rows");
    for (name, effort) in efforts {
        group.bench_function(name, |b| {
            let find = |query: Vec<f32>| points.search(&query).effort(effort).run();
            b.iter_batched(|| point(&mut state), find, BatchSize::SmallInput);
        });
    }
    group.bench_function("get", |b| b.iter(|| points.get(12_345)));
}

fn write(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (_db, points) = filled(&dir);
    let mut state = 3;
    let mut group = c.benchmark_group("write");
    group.sample_size(20);
    group.bench_function("100 rows, buffered", |b| {
        let store = |rows: WriteBatch| points.write_with(&rows, Durability::Buffered);
        b.iter_batched(|| batch(0, 100, &mut state), store, BatchSize::SmallInput);
    });
    group.bench_function("1 row, durable", |b| {
        let store = |rows: WriteBatch| points.write(&rows);
        b.iter_batched(|| batch(0, 1, &mut state), store, BatchSize::SmallInput);
    });
}

criterion_group!(benches, search, write);
criterion_main!(benches);
