//! `plimsoll bench search`: recall and speed of one query at a time, in an existing database; and if that is asked for, of
//! several threads, of batches, from a cold cache, and beside what reading the same bytes takes.

mod batch;
mod byte_limit;
mod charts;
mod cold;
mod measured;
mod print;
mod threads;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use plimsoll::{Effort, Error, ReadOnlyCollection, ReadOnlyDatabase};
use serde::Serialize;
use serde_json::json;

use super::measure::percentile;
use super::recall::GroundTruth;
use crate::args::SearchBench;
use crate::error::{CliError, Result};
use crate::input::Queries;
use crate::output::Output;
use crate::progress::Progress;
use batch::Batches;
use byte_limit::{MEMORY_BYTES, Rates, Shape, stream};
use cold::Cold;
use measured::Summary;
use threads::Threads;

pub(super) use measured::{Asked, Measured, Subject};

/// The recalls that are asked for unless others are named.
pub(super) const RECALLS: [f64; 12] =
    [0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999];
const MOST_SETTINGS: usize = 16;

#[derive(Serialize)]
struct Report {
    queries: usize,
    k: usize,
    documents: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    preload: Option<Preload>,
    settings: Vec<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
}

/// What was brought into memory before the first query, and how long that took.
#[derive(Debug, Clone, Copy, Serialize)]
struct Preload {
    bytes: u64,
    seconds: f64,
}

/// How fast the exact scan reads, beside what one core can read at all. Bytes per second.
#[derive(Serialize)]
struct Bandwidth {
    stream: f64,
    exact: f64,
    share: f64,
}

pub(super) fn run(args: &SearchBench, output: &mut Output) -> Result<()> {
    let settings = settings(args)?;
    let queries = Queries::open(&args.queries)?.collect(args.limit)?;
    if queries.is_empty() {
        return Err(CliError::failed(
            "empty",
            format!("{}: there are no queries in it", args.queries.display()),
        ));
    }
    let truth = match &args.ground_truth {
        Some(path) => Some(GroundTruth::read(path, queries.len(), args.k)?),
        None => None,
    };
    let asked = Asked { queries: &queries, k: args.k, filter: args.filter.as_ref(), stages: args.stages };
    let failed = |error| CliError::file(&args.results, &error);
    let mut results = BufWriter::new(File::create(&args.results).map_err(failed)?);
    let steps = settings.len() * if args.cold { 2 } else { 1 };
    let progress = Progress::new(output.json, "searching", Some(steps as u64));
    let mut warm = measure_warm(args, &settings, asked, truth.as_ref(), &progress)?;
    if args.cold {
        for (measured, (_, effort)) in warm.settings.iter_mut().zip(&settings) {
            measured.more.cold = Some(Cold::measure(&args.target, asked, *effort)?);
            progress.advance(1);
        }
    }
    for measured in &warm.settings {
        serde_json::to_writer(&mut results, measured).map_err(|error| failed(error.into()))?;
        writeln!(results).map_err(failed)?;
    }
    results.flush().map_err(failed)?;
    drop(progress);
    let Warm { preload, settings, documents, bandwidth, rates } = warm;
    let settings = settings.iter().map(Measured::summary).collect();
    let (queries, k) = (queries.len(), args.k);
    let report = Report { queries, k, documents, preload, settings, bandwidth, rates };
    if let Some(dir) = &args.charts {
        charts::draw(&report, args.charts_title.as_deref(), dir)?;
    }
    print::print(&report, output)
}

/// What is measured while the database stays open.
struct Warm {
    preload: Option<Preload>,
    settings: Vec<Measured>,
    documents: u64,
    bandwidth: Option<Bandwidth>,
    rates: Option<Rates>,
}

fn measure_warm(
    args: &SearchBench,
    settings: &[(serde_json::Value, Effort)],
    asked: Asked,
    truth: Option<&GroundTruth>,
    progress: &Progress,
) -> Result<Warm> {
    let db = ReadOnlyDatabase::open(&args.target.dir)?;
    let collection = db.collection(&args.target.collection)?;
    let preload = (!args.no_preload).then(|| Preload::of(&collection)).transpose()?;
    let subject = Subject { collection: &collection, asked };
    let shape = shape(&db, &args.target.collection)?;
    let rates = || args.byte_limit.then(|| Rates::measure(shape));
    let rates_before = rates();
    let (mut all, mut bandwidth) = (Vec::with_capacity(settings.len()), None);
    for (param, effort) in settings {
        let stream_before = matches!(effort, Effort::Exact).then(|| stream(MEMORY_BYTES));
        let mut measured = subject.measure(param.clone(), *effort)?;
        if let Some(before) = stream_before {
            bandwidth = Some(Bandwidth::new(before.max(stream(MEMORY_BYTES)), &measured));
        }
        if let Some(truth) = truth {
            measured.recall = Some(truth.recall(&collection, asked.queries, &measured.ids, args.k)?);
        }
        let mean_ns = measured.mean_ns();
        if let Some(threads) = args.threads {
            measured.more.threads = Some(Threads::measure(&subject, *effort, threads, mean_ns)?);
        }
        if let Some(batch) = args.batch {
            measured.more.batches = Some(Batches::measure(&subject, *effort, batch, mean_ns)?);
        }
        all.push(measured);
        progress.advance(1);
    }
    let rates = rates_before.zip(rates()).map(|(before, after)| before.best(&after));
    if let Some(rates) = &rates {
        // What is searched without codes reads other things.
        for measured in all.iter_mut().filter(|measured| measured.touched.codes > 0.0) {
            let ns = percentile(&measured.ns, 0.5) as f64;
            measured.more.byte_limit = Some(rates.share(&measured.touched, ns));
        }
    }
    Ok(Warm { preload, settings: all, documents: collection.count()?, bandwidth, rates })
}

impl Preload {
    fn of(collection: &ReadOnlyCollection) -> Result<Self> {
        let start = Instant::now();
        let bytes = collection.preload(u64::MAX)?.bytes;
        Ok(Self { bytes, seconds: start.elapsed().as_secs_f64() })
    }
}

/// What the collection has on disk.
fn shape(db: &ReadOnlyDatabase, name: &str) -> Result<Shape> {
    let mut collections = db.stats().collections.into_iter();
    let found = collections.find(|collection| collection.name == name);
    let found = found.ok_or_else(|| Error::CollectionNotFound(name.to_owned()))?;
    Ok(Shape { dimension: found.dimension, rows: found.flushed_rows as usize, lists: found.lists as usize })
}

fn settings(args: &SearchBench) -> Result<Vec<(serde_json::Value, Effort)>> {
    let recalls = match args.recall.is_empty() && args.lists.is_empty() {
        true => &RECALLS[..],
        false => &args.recall,
    };
    let mut settings: Vec<_> =
        recalls.iter().map(|&recall| (json!({ "recall": recall }), Effort::Recall(recall as f32))).collect();
    settings.extend(args.lists.iter().map(|&lists| (json!({ "lists": lists }), Effort::Lists(lists))));
    if args.exact {
        settings.push((json!({ "exact": true }), Effort::Exact));
    }
    match settings.len() {
        0..=MOST_SETTINGS => Ok(settings),
        many => {
            Err(CliError::Usage(format!("{many} settings; at most {MOST_SETTINGS} are measured in one run")))
        }
    }
}

impl Bandwidth {
    fn new(stream: f64, measured: &Measured) -> Self {
        let exact = measured.touched.bytes / (percentile(&measured.ns, 0.5) as f64 / 1e9);
        Self { stream, exact, share: exact / stream }
    }
}
