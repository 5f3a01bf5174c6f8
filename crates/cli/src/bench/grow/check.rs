//! Whether grown rows are like real ones: a tenth of a real set is grown to the size of the set, and both are searched for
//! the same queries, which belong to neither. What matters is how many codes a search scans for a recall.

use std::path::Path;

use plimsoll::{Effort, Metric, ReadOnlyDatabase};
use serde::Serialize;
use serde_json::json;

use super::super::curve;
use super::super::measure::table;
use super::super::random::Random;
use super::super::search::{Asked, RECALLS, Subject};
use super::super::workload::{Workload, temporary_directory};
use super::Family;
use crate::args::GrowBench;
use crate::error::{CliError, Result};
use crate::input::{Matrix, Queries};
use crate::output::Output;
use crate::progress::Progress;

/// The set is this many times as large as what it is grown from.
const GROWTH: usize = 10;
/// How many rows are held out as queries, if there are no others.
const HELD_OUT: usize = 1000;
const K: usize = 10;
/// The recall at which the two are compared, and how far they may be apart.
const COMPARED: f64 = 0.95;
const TOLERANCE: f64 = 0.2;
/// The recalls that are shown.
const SHOWN: [f64; 3] = [0.90, COMPARED, 0.99];

/// What one of the two sets takes.
#[derive(Serialize)]
struct Curve {
    /// The recall that was asked for, the one that was delivered, and the codes that were scanned.
    points: Vec<(f64, f64, f64)>,
    /// Codes scanned at the recalls that are shown.
    codes: [Option<f64>; SHOWN.len()],
}

#[derive(Serialize)]
struct Report {
    grown_from: usize,
    rows: usize,
    queries: usize,
    recalls: [f64; SHOWN.len()],
    real: Curve,
    grown: Curve,
    /// Codes of the grown set over those of the real one, at recall 0.95.
    ratio: f64,
}

pub(super) fn run(base: Matrix, args: &GrowBench, output: &mut Output) -> Result<()> {
    let progress = Progress::new(output.json, "checking", Some(3));
    let mut order = Random::new(args.seed).permutation(base.len());
    let queries: Vec<Vec<f32>> = match &args.queries {
        Some(path) => Queries::open(path)?.collect(None)?,
        None => order.drain(..HELD_OUT.min(base.len() / GROWTH)).map(|row| base.row(row).to_vec()).collect(),
    };
    let parents = order.len() / GROWTH;
    if queries.is_empty() || parents == 0 {
        return Err(CliError::failed("empty", "too few rows, or no queries, for a check"));
    }
    let real = chosen(&base, &order);
    let family = Family::new(chosen(&base, &order[..parents]), args.seed, args.dir.as_deref())?;
    drop(base);
    let grown = family.grown(real.len());
    progress.advance(1);
    let rows = real.len();
    let dir = args.dir.as_deref();
    let real = Curve::measure(real, &queries, dir)?;
    progress.advance(1);
    let grown = Curve::measure(grown, &queries, dir)?;
    drop(progress);
    let ratio = match (curve::at(&real.of_codes(), COMPARED), curve::at(&grown.of_codes(), COMPARED)) {
        (Some(real), Some(grown)) if real > 0.0 => grown / real,
        _ => {
            let what = format!(
                "a recall of {COMPARED} was not measured with codes: the set is too small or too simple"
            );
            return Err(CliError::failed("failed", what));
        }
    };
    let report =
        Report { grown_from: parents, rows, queries: queries.len(), recalls: SHOWN, real, grown, ratio };
    print(&report, output)?;
    if (ratio - 1.0).abs() <= TOLERANCE { Ok(()) } else { Err(CliError::Reported) }
}

/// Some rows of a matrix.
fn chosen(matrix: &Matrix, rows: &[usize]) -> Matrix {
    let values = rows.iter().flat_map(|&row| matrix.row(row)).copied().collect();
    Matrix { dimension: matrix.dimension, values }
}

impl Family {
    /// So many rows, the real ones first, in memory.
    fn grown(&self, rows: usize) -> Matrix {
        let dimension = self.real.dimension();
        let mut values = vec![0.0; rows * dimension];
        for (number, out) in values.chunks_exact_mut(dimension).enumerate() {
            match number.checked_sub(self.real.len()) {
                None => out.copy_from_slice(self.real.vector(number as u64)),
                Some(number) => self.child(number, out),
            }
        }
        Matrix { dimension, values }
    }
}

impl Curve {
    fn measure(rows: Matrix, queries: &[Vec<f32>], dir: Option<&Path>) -> Result<Self> {
        let scratch = temporary_directory(dir)?;
        let path = scratch.path().join("db");
        Workload::of(rows).store(&path, Metric::L2)?;
        let collection = ReadOnlyDatabase::open(&path)?.collection("c")?;
        let asked = Asked { queries, k: K, filter: None, stages: false };
        let subject = Subject { collection: &collection, asked };
        let truth = subject.measure(json!({ "exact": true }), Effort::Exact)?;
        let mut points = Vec::with_capacity(RECALLS.len());
        for recall in RECALLS {
            let found = subject.measure(json!({ "recall": recall }), Effort::Recall(recall as f32))?;
            points.push((recall, found.agreement(&truth), found.touched.codes));
        }
        let mut curve = Self { points, codes: [None; SHOWN.len()] };
        curve.codes = SHOWN.map(|recall| curve::at(&curve.of_codes(), recall));
        Ok(curve)
    }

    /// Codes against the recall that was delivered.
    fn of_codes(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|&(_, delivered, codes)| (delivered, codes)).collect()
    }
}

fn print(report: &Report, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(report);
    }
    let Report { grown_from, rows, queries, real, grown, ratio, .. } = report;
    output.line(format_args!(
        "{rows} rows: real ones, and {grown_from} of them grown; {queries} queries, k = {K}"
    ))?;
    let mut delivered = table(["recall asked for", "real: delivered", "codes", "grown: delivered", "codes"]);
    for ((asked, recall, codes), (_, grown_recall, grown_codes)) in real.points.iter().zip(&grown.points) {
        let recalls = [*recall, *grown_recall].map(|recall| format!("{recall:.4}"));
        let codes = [*codes, *grown_codes].map(|codes| format!("{codes:.0}"));
        let [recall, grown_recall] = recalls;
        let [codes, grown_codes] = codes;
        delivered.add_row([asked.to_string(), recall, codes, grown_recall, grown_codes]);
    }
    output.line(delivered)?;
    let mut codes = table(["codes for a recall", "real", "grown", "ratio"]);
    for ((recall, real), grown) in SHOWN.iter().zip(real.codes).zip(grown.codes) {
        let show = |codes: Option<f64>| codes.map_or("-".to_owned(), |codes| format!("{codes:.0}"));
        let ratio = real.zip(grown).map_or("-".to_owned(), |(real, grown)| format!("{:.2}", grown / real));
        codes.add_row([recall.to_string(), show(real), show(grown), ratio]);
    }
    output.line(codes)?;
    let percent = TOLERANCE * 100.0;
    let verdict = if (ratio - 1.0).abs() <= TOLERANCE { "within" } else { "NOT within" };
    output.line(format_args!(
        "at recall {COMPARED} the grown rows take {ratio:.2} times the codes of the real ones: {verdict} {percent:.0} %"
    ))
}
