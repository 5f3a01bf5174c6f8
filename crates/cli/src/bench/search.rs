//! `plimsoll bench search`: recall and speed of one query at a time, in an existing database.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use plimsoll::{Effort, Explain, Key, ReadOnlyCollection, ReadOnlyDatabase, Stages};
use serde::Serialize;
use serde_json::json;

use super::measure::{cpu_time, percentile, rate, table};
use super::recall::GroundTruth;
use crate::args::SearchBench;
use crate::error::{CliError, Result};
use crate::input::Queries;
use crate::json::KeyJson;
use crate::output::Output;
use crate::progress::Progress;

const RECALLS: [f64; 12] = [0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999];
const MOST_SETTINGS: usize = 16;
const WARM_UP: usize = 50;
/// Larger than any cache of one core, so that reading it is reading memory.
const STREAM_BYTES: usize = 256 << 20;

/// One setting, measured: the line of the results file.
#[derive(Serialize)]
struct Measured {
    param: serde_json::Value,
    #[serde(serialize_with = "keys")]
    ids: Vec<Vec<Key>>,
    ns: Vec<u64>,
    cpu_over_wall: f64,
    /// Means over the queries.
    touched: Touched,
    #[serde(skip_serializing_if = "Option::is_none")]
    recall: Option<f64>,
}

fn keys<S: serde::Serializer>(ids: &[Vec<Key>], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|row| row.iter().map(KeyJson).collect::<Vec<_>>()))
}

/// What a query touched, on average.
#[derive(Debug, Clone, Default, Serialize)]
struct Touched {
    lists: f64,
    codes: f64,
    /// Rows whose vectors were scanned.
    rows: f64,
    reranked: f64,
    measured: f64,
    bytes: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stages_us: Option<StagesUs>,
}

/// How long each stage took, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct StagesUs {
    memtables: f64,
    prepare: f64,
    route: f64,
    scan: f64,
    rerank: f64,
    measure: f64,
    collect: f64,
}

impl StagesUs {
    fn all(&mut self) -> [&mut f64; 7] {
        let Self { memtables, prepare, route, scan, rerank, measure, collect } = self;
        [memtables, prepare, route, scan, rerank, measure, collect]
    }

    fn add(&mut self, stages: &Stages) {
        let Stages { memtables, prepare, route, scan, rerank, measure, collect, .. } = *stages;
        let added = [memtables, prepare, route, scan, rerank, measure, collect];
        for (sum, stage) in self.all().into_iter().zip(added) {
            *sum += stage.as_secs_f64() * 1e6;
        }
    }
}

impl Touched {
    fn add(&mut self, explain: &Explain) {
        self.lists += explain.lists_probed as f64;
        self.codes += explain.codes_scanned as f64;
        self.rows += (explain.rows_scanned + explain.memtable_rows) as f64;
        self.reranked += explain.rows_reranked as f64;
        self.measured += explain.rows_measured as f64;
        self.bytes += explain.bytes_touched as f64;
        if let Some(stages) = &explain.stages {
            self.stages_us.get_or_insert_default().add(stages);
        }
    }

    fn mean(mut self, queries: usize) -> Self {
        let all = [
            &mut self.lists,
            &mut self.codes,
            &mut self.rows,
            &mut self.reranked,
            &mut self.measured,
            &mut self.bytes,
        ];
        let stages = self.stages_us.iter_mut().flat_map(StagesUs::all);
        all.into_iter().chain(stages).for_each(|sum| *sum /= queries as f64);
        self
    }
}

/// One setting in a few figures, for the table and for `--json`.
#[derive(Serialize)]
struct Summary {
    param: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    recall: Option<f64>,
    p50_us: f64,
    p99_us: f64,
    qps: f64,
    touched: Touched,
    cpu_over_wall: f64,
}

#[derive(Serialize)]
struct Report {
    queries: usize,
    k: usize,
    documents: u64,
    settings: Vec<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<Bandwidth>,
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
    let db = ReadOnlyDatabase::open(&args.target.dir)?;
    let collection = db.collection(&args.target.collection)?;
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
    let failed = |error| CliError::file(&args.results, &error);
    let mut results = BufWriter::new(File::create(&args.results).map_err(failed)?);
    let progress = Progress::new(output.json, "searching", Some(settings.len() as u64));
    let (mut summaries, mut bandwidth) = (Vec::new(), None);
    for (param, effort) in settings {
        let stream_before = matches!(effort, Effort::Exact).then(stream_bandwidth);
        let mut measured = measure(&collection, &queries, args, param, effort)?;
        if let Some(before) = stream_before {
            bandwidth = Some(Bandwidth::new(before.max(stream_bandwidth()), &measured));
        }
        if let Some(truth) = &truth {
            measured.recall = Some(truth.recall(&collection, &queries, &measured.ids, args.k)?);
        }
        serde_json::to_writer(&mut results, &measured).map_err(|error| failed(error.into()))?;
        writeln!(results).map_err(failed)?;
        summaries.push(measured.summary());
        progress.advance(1);
    }
    results.flush().map_err(failed)?;
    drop(progress);
    let documents = collection.count()?;
    print(&Report { queries: queries.len(), k: args.k, documents, settings: summaries, bandwidth }, output)
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

/// Warms up with the last queries, then runs each query once.
fn measure(
    collection: &ReadOnlyCollection,
    queries: &[Vec<f32>],
    args: &SearchBench,
    param: serde_json::Value,
    effort: Effort,
) -> Result<Measured> {
    let search = |query: &[f32]| {
        let search = collection.search(query).k(args.k).effort(effort).with_stages(args.stages);
        match &args.filter {
            Some(filter) => search.filter(filter.clone()).run(),
            None => search.run(),
        }
    };
    for query in &queries[queries.len().saturating_sub(WARM_UP)..] {
        search(query)?;
    }
    let mut ids = Vec::with_capacity(queries.len());
    let mut ns = Vec::with_capacity(queries.len());
    let mut touched = Touched::default();
    let (wall, cpu) = (Instant::now(), cpu_time());
    for query in queries {
        let start = Instant::now();
        let results = search(query)?;
        ns.push(start.elapsed().as_nanos() as u64);
        touched.add(&results.explain);
        ids.push(results.hits.into_iter().map(|hit| hit.key).collect());
    }
    let wall = wall.elapsed().as_secs_f64();
    let cpu = cpu_time().zip(cpu).map(|(after, before)| (after - before).as_secs_f64());
    Ok(Measured {
        param,
        ids,
        ns,
        cpu_over_wall: cpu.map_or(1.0, |cpu| cpu / wall),
        touched: touched.mean(queries.len()),
        recall: None,
    })
}

impl Measured {
    fn mean_ns(&self) -> f64 {
        self.ns.iter().sum::<u64>() as f64 / self.ns.len() as f64
    }

    fn summary(&self) -> Summary {
        Summary {
            param: self.param.clone(),
            recall: self.recall,
            p50_us: percentile(&self.ns, 0.5) as f64 / 1e3,
            p99_us: percentile(&self.ns, 0.99) as f64 / 1e3,
            qps: 1e9 / self.mean_ns(),
            touched: self.touched.clone(),
            cpu_over_wall: self.cpu_over_wall,
        }
    }
}

impl Bandwidth {
    fn new(stream: f64, measured: &Measured) -> Self {
        let exact = measured.touched.bytes / (percentile(&measured.ns, 0.5) as f64 / 1e9);
        Self { stream, exact, share: exact / stream }
    }
}

/// The bytes per second that one core reads from memory: the best of five passes over a large buffer.
fn stream_bandwidth() -> f64 {
    let buffer: Vec<u8> = (0..STREAM_BYTES).map(|byte| byte as u8).collect();
    let pass = || {
        let start = Instant::now();
        std::hint::black_box(plimsoll_kernels::stream_sum(std::hint::black_box(&buffer)));
        rate(STREAM_BYTES as f64, start.elapsed())
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

fn print(report: &Report, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(report);
    }
    let (queries, k, documents) = (report.queries, report.k, report.documents);
    output
        .line(format_args!("{queries} queries, k = {k}, {documents} documents, one thread, one at a time"))?;
    let mut table = table([
        "setting",
        "recall",
        "p50 µs",
        "p99 µs",
        "QPS",
        "lists",
        "codes",
        "re-ranked",
        "measured",
        "CPU/wall",
    ]);
    for setting in &report.settings {
        table.add_row([
            name_of(&setting.param),
            setting.recall.map_or("-".to_owned(), |recall| format!("{recall:.4}")),
            format!("{:.1}", setting.p50_us),
            format!("{:.1}", setting.p99_us),
            format!("{:.0}", setting.qps),
            format!("{:.1}", setting.touched.lists),
            format!("{:.0}", setting.touched.codes),
            format!("{:.1}", setting.touched.reranked),
            format!("{:.1}", setting.touched.measured),
            format!("{:.2}", setting.cpu_over_wall),
        ]);
    }
    output.line(table)?;
    print_stages(report, output)?;
    let Some(Bandwidth { stream, exact, share }) = &report.bandwidth else { return Ok(()) };
    output.line(format_args!(
        "exact search reads {:.1} GB/s; one core reads memory at {:.1} GB/s in this run: {:.0} %",
        exact / 1e9,
        stream / 1e9,
        share * 100.0
    ))
}

fn print_stages(report: &Report, output: &mut Output) -> Result<()> {
    if report.settings.iter().all(|setting| setting.touched.stages_us.is_none()) {
        return Ok(());
    }
    let mut table = table(["µs", "memtables", "prepare", "route", "scan", "re-rank", "measure", "collect"]);
    for setting in &report.settings {
        let mut stages = setting.touched.stages_us.unwrap_or_default();
        let figures = stages.all().map(|stage| format!("{stage:.1}"));
        table.add_row(std::iter::once(name_of(&setting.param)).chain(figures));
    }
    output.line(table)
}

fn name_of(param: &serde_json::Value) -> String {
    match param.as_object().and_then(|fields| fields.iter().next()) {
        Some((name, serde_json::Value::Bool(_))) => name.clone(),
        Some((name, value)) => format!("{name} {value}"),
        None => param.to_string(),
    }
}
