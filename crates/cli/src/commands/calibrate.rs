//! `plimsoll calibrate`: stop rules for a user's own queries.

use std::path::Path;
use std::time::Instant;

use plimsoll::{CalibratedRecall, Calibration, Collection, Delivered, Error};
use serde::Serialize;

use super::search::at;
use crate::args::Calibrate;
use crate::error::{CliError, Result};
use crate::input::{Place, Queries};
use crate::output::{Output, duration};

#[derive(Serialize)]
struct Report {
    queries: usize,
    seconds: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recalls: Vec<RecallReport>,
}

#[derive(Serialize)]
struct RecallReport {
    recall: f32,
    before: DeliveredReport,
    after: DeliveredReport,
}

#[derive(Serialize)]
struct DeliveredReport {
    recall: f64,
    scanned: f64,
}

impl From<&Delivered> for DeliveredReport {
    fn from(found: &Delivered) -> Self {
        Self { recall: found.recall, scanned: found.scanned }
    }
}

impl From<&Calibration> for Report {
    fn from(done: &Calibration) -> Self {
        let recall = |of: &CalibratedRecall| RecallReport {
            recall: of.recall,
            before: (&of.before).into(),
            after: (&of.after).into(),
        };
        let recalls = done.recalls.iter().map(recall).collect();
        Self { queries: done.queries, seconds: done.total.as_secs_f64(), recalls }
    }
}

pub(super) fn run(args: &Calibrate, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.target.dir)?;
    let collection = super::named(db.collection(&args.target.collection), || super::names(&db))?;
    let done = match &args.on.queries {
        Some(path) => Some(calibrate(&collection, path, args.limit)?),
        None => None,
    };
    let start = Instant::now();
    if done.is_none() {
        collection.reset_calibration()?;
    }
    let took = start.elapsed();
    db.close()?;
    match done {
        Some(done) => output.either(&Report::from(&done), &done),
        None => {
            let report = Report { queries: 0, seconds: took.as_secs_f64(), recalls: Vec::new() };
            output.either(&report, format_args!("calibrated on its own rows in {}", duration(took)))
        }
    }
}

fn calibrate(collection: &Collection, path: &Path, limit: Option<usize>) -> Result<Calibration> {
    let mut file = Queries::open(path)?;
    let (mut places, mut queries): (Vec<Place>, Vec<Vec<f32>>) = Default::default();
    let expected = collection.dimension();
    while limit.is_none_or(|limit| queries.len() < limit) {
        let Some((place, query)) = file.next_query()? else { break };
        if query.len() != expected {
            return Err(at(path, place, &Error::DimensionMismatch { expected, got: query.len() }));
        }
        places.push(place);
        queries.push(query);
    }
    if queries.is_empty() {
        let what = format!("{}: there are no queries", crate::input::name_of(path));
        return Err(CliError::failed("no_queries", what));
    }
    collection.calibrate(&queries).map_err(|error| match error {
        Error::InvalidQuery { query, .. } => at(path, places[query], &error),
        error => error.into(),
    })
}
