//! Reads one moment while writes go on: a snapshot in the same process, a read-only database as another process
//! would open it, and what the levels of effort look at.
//!
//! ```text
//! cargo run --example snapshot_search
//! ```

use std::time::{Duration, Instant};

use plimsoll::{
    CollectionConfig, Database, Document, Effort, Metric, ReadOnlyCollection, ReadOnlyDatabase, WriteBatch,
};

/// More than 4,096 rows, so that there are lists to choose from; fewer are always searched exactly.
const ROWS: usize = 12_000;
const DIMENSION: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("points.db");
    let db = Database::open(&path)?;
    let points = db.create_collection("points", CollectionConfig::new(DIMENSION, Metric::L2))?;
    let mut random = Random(1);
    for first in (0..ROWS).step_by(1000) {
        let mut batch = WriteBatch::new();
        for key in first..first + 1000 {
            batch.upsert(Document::new(key).vector(random.point()));
        }
        points.write(&batch)?;
    }
    // The background does both as a collection grows; here it is to be done before we look.
    db.flush()?;
    db.compact()?;

    let query = random.point();
    let exact = points.search(&query).effort(Effort::Exact).run()?;
    println!("effort           lists visited  records read  of the nearest 10");
    for effort in [Effort::Lists(1), Effort::Recall(0.8), Effort::Recall(0.99), Effort::Exact] {
        let found = points.search(&query).k(10).effort(effort).run()?;
        // By their keys: the distances of an approximate search may differ in the fifth digit.
        let right =
            exact.hits.iter().filter(|hit| found.hits.iter().any(|other| other.key == hit.key)).count();
        let visited = format!("{} of {}", found.explain.lists_probed, found.explain.lists_total);
        let records = found.explain.rows_reranked;
        println!("{:16} {visited:>13} {records:>13} {right:>18}", format!("{effort:?}"));
    }

    // A snapshot stays as it is, whatever is written after it was taken.
    let snapshot = db.snapshot();
    let reader = ReadOnlyDatabase::open(&path)?;
    let nearest = exact.hits[0].key.clone();
    points.delete(&nearest)?;
    println!("\nafter deleting {nearest}:");
    println!("  the collection has {} documents", points.count()?);
    println!("  the snapshot       {}, nearest {}", ROWS, first(&snapshot.collection("points")?, &query)?);
    println!("  the reader         {}, nearest {}", ROWS, first(&reader.collection("points")?, &query)?);

    // A reader shows only what is proven to be on disk. The writer states that when it pauses for a moment.
    let mut reader = reader;
    let deadline = Instant::now() + Duration::from_secs(10);
    while reader.lsn() < db.snapshot().lsn() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        reader.refresh()?;
    }
    println!("  the reader after refreshing: {} documents", reader.collection("points")?.count()?);

    assert_eq!(snapshot.collection("points")?.count()?, ROWS as u64);
    assert_eq!(reader.collection("points")?.count()?, ROWS as u64 - 1);
    db.close()?;
    Ok(())
}

fn first(points: &ReadOnlyCollection, query: &[f32]) -> plimsoll::Result<String> {
    let found = points.search(query).k(1).effort(Effort::Exact).run()?;
    Ok(found.hits[0].key.to_string())
}

/// SplitMix64, so that each run shows the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A point near one of 50 centres, as real vectors have neighbourhoods, too.
    fn point(&mut self) -> Vec<f32> {
        let mut centre = Self(self.next() % 50);
        let unit = |from: &mut Self| (from.next() >> 40) as f32 / (1u64 << 24) as f32;
        (0..DIMENSION).map(|_| unit(&mut centre) + unit(self)).collect()
    }
}
