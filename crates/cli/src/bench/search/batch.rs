//! Batches of queries, on one thread and on all cores, beside single calls in the same run.

use std::time::{Duration, Instant};

use plimsoll::Effort;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Serialize;

use super::super::measure::{median, rate};
use super::measured::Subject;
use crate::error::{CliError, Result};

/// So long single calls take in each round.
const TARGET: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;

/// Batches beside single calls, queries per second; medians of the rounds, and of the rounds' ratios.
#[derive(Debug, Clone, Serialize)]
pub(in crate::bench) struct Batches {
    pub batch: usize,
    pub single_qps: f64,
    pub one_thread_qps: f64,
    pub one_thread_ratio: f64,
    pub cores: usize,
    pub all_cores_qps: f64,
    pub all_cores_ratio: f64,
}

impl Batches {
    /// Measures a setting of which a query takes about `mean_ns` in a single call.
    pub(super) fn measure(subject: &Subject, effort: Effort, batch: usize, mean_ns: f64) -> Result<Self> {
        let failed = |error| CliError::failed("other", format!("starting threads: {error}"));
        let one_thread = ThreadPoolBuilder::new().num_threads(1).build().map_err(failed)?;
        let all_cores = ThreadPoolBuilder::new().build().map_err(failed)?;
        let pass = mean_ns * subject.asked.queries.len() as f64;
        let passes = (TARGET.as_nanos() as f64 / pass).ceil().max(1.0) as usize;
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            rounds.push([
                single(subject, effort, passes)?,
                batches(subject, effort, batch, passes, &one_thread)?,
                batches(subject, effort, batch, passes, &all_cores)?,
            ]);
        }
        let qps = |which: usize| median(&rounds.iter().map(|round| round[which]).collect::<Vec<_>>());
        let ratio =
            |which: usize| median(&rounds.iter().map(|round| round[which] / round[0]).collect::<Vec<_>>());
        Ok(Self {
            batch,
            single_qps: qps(0),
            one_thread_qps: qps(1),
            one_thread_ratio: ratio(1),
            cores: all_cores.current_num_threads(),
            all_cores_qps: qps(2),
            all_cores_ratio: ratio(2),
        })
    }
}

/// Queries per second, one at a time.
fn single(subject: &Subject, effort: Effort, passes: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..passes {
        for query in subject.asked.queries {
            subject.search(query, effort)?;
        }
    }
    Ok(rate((subject.asked.queries.len() * passes) as f64, start.elapsed()))
}

/// Queries per second, so many at once.
fn batches(subject: &Subject, effort: Effort, batch: usize, passes: usize, pool: &ThreadPool) -> Result<f64> {
    let search = subject.describe(&[], effort);
    let start = Instant::now();
    pool.install(|| -> Result<()> {
        for _ in 0..passes {
            for queries in subject.asked.queries.chunks(batch) {
                for results in search.run_each(queries) {
                    results?;
                }
            }
        }
        Ok(())
    })?;
    Ok(rate((subject.asked.queries.len() * passes) as f64, start.elapsed()))
}
