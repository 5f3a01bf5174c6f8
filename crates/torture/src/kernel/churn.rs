//! A writer with small memtables and log segments, so that flushes, compactions and rotations happen all the time
//! while it writes. It speaks like `plimsoll import --ack`: `ACK n` once the first n of its rows are durable.

use std::io::Write as _;

use plimsoll::{CollectionConfig, Database, Metric, WriteBatch};

use super::rows::{Row, Stream};
use crate::args::Churn;

/// Writes as much as was asked for, or until something fails or it is killed.
pub(crate) fn run(args: &Churn) -> Result<(), Box<dyn std::error::Error>> {
    let stream = Stream::new(args.seed, args.stream, args.keys);
    let db = Database::builder(&args.dir).memtable_bytes(96 << 10).wal_segment_bytes(256 << 10).open()?;
    let config = CollectionConfig::new(stream.dimension(), Metric::Cosine);
    let collection = db.create_collection(&stream.name(), config)?;
    let mut stdout = std::io::stdout().lock();
    let mut from = args.from;
    for _ in 0..args.batches.unwrap_or(u64::MAX) {
        let mut batch = WriteBatch::new();
        for row in from..from + args.batch_size {
            match stream.row(row) {
                Row::Upsert(document) => drop(batch.upsert(document)),
                Row::Delete(key) => drop(batch.delete(key)),
            }
        }
        collection.write(&batch)?;
        from += args.batch_size;
        writeln!(stdout, "ACK {}", from - args.from)?;
        stdout.flush()?;
    }
    Ok(db.close()?)
}
