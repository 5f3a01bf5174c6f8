//! `plimsoll compact`: merges files and gives the space of deleted rows back.

use plimsoll::CompactionStats;
use serde::Serialize;

use crate::args::Dir;
use crate::error::Result;
use crate::output::Output;

#[derive(Serialize)]
struct Report<'a> {
    postings_merged: usize,
    sections_merged: usize,
    rows: u64,
    documents_dropped: u64,
    bytes_written: u64,
    trained: Vec<Trained<'a>>,
    seconds: f64,
}

#[derive(Serialize)]
struct Trained<'a> {
    collection: &'a str,
    generation: u32,
}

impl<'a> From<&'a CompactionStats> for Report<'a> {
    fn from(stats: &'a CompactionStats) -> Self {
        let trained = |(collection, generation): &'a (String, plimsoll::Generation)| Trained {
            collection,
            generation: generation.0,
        };
        Self {
            postings_merged: stats.postings_merged,
            sections_merged: stats.sections_merged,
            rows: stats.rows,
            documents_dropped: stats.documents_dropped,
            bytes_written: stats.bytes_written,
            trained: stats.trained.iter().map(trained).collect(),
            seconds: stats.total.as_secs_f64(),
        }
    }
}

pub(super) fn run(args: &Dir, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.dir)?;
    let stats = db.compact()?;
    db.close()?;
    output.either(&Report::from(&stats), &stats)
}
