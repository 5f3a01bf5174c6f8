//! The same queries on several threads at once, each thread one query at a time, beside one thread in the same run.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use plimsoll::Effort;
use serde::Serialize;

use super::super::measure::{cpu_time, median, percentile};
use super::measured::Subject;
use crate::error::Result;

/// So long each measurement takes, in turns of one and of all threads.
const TARGET: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;

/// Several threads beside one; medians of the rounds.
#[derive(Debug, Clone, Serialize)]
pub(in crate::bench) struct Threads {
    pub threads: usize,
    /// Of all threads together.
    pub qps: f64,
    pub one_thread_qps: f64,
    /// The median of the rounds' ratios.
    pub ratio: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Processor time of the process over wall time, with all threads: below their number, cores were missing.
    pub cpu_over_wall: f64,
}

/// One measurement.
struct Round {
    qps: f64,
    ns: Vec<u64>,
    cpu_over_wall: f64,
}

impl Threads {
    /// Measures a setting of which a query takes about `mean_ns` on one thread.
    pub(super) fn measure(subject: &Subject, effort: Effort, threads: usize, mean_ns: f64) -> Result<Self> {
        let pass = mean_ns * subject.asked.queries.len() as f64;
        let passes = (TARGET.as_nanos() as f64 / pass).ceil().max(1.0) as usize;
        let (mut one, mut all) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            one.push(Round::measure(subject, effort, 1, passes)?);
            all.push(Round::measure(subject, effort, threads, passes)?);
        }
        let of = |rounds: &[Round], figure: fn(&Round) -> f64| {
            median(&rounds.iter().map(figure).collect::<Vec<_>>())
        };
        let ratios: Vec<f64> = one.iter().zip(&all).map(|(one, all)| all.qps / one.qps).collect();
        let ns: Vec<u64> = all.iter().flat_map(|round| &round.ns).copied().collect();
        Ok(Self {
            threads,
            qps: of(&all, |round| round.qps),
            one_thread_qps: of(&one, |round| round.qps),
            ratio: median(&ratios),
            p50_us: percentile(&ns, 0.5) as f64 / 1e3,
            p99_us: percentile(&ns, 0.99) as f64 / 1e3,
            cpu_over_wall: of(&all, |round| round.cpu_over_wall),
        })
    }
}

impl Round {
    /// Each thread runs all queries `passes` times, each from another one on.
    fn measure(subject: &Subject, effort: Effort, threads: usize, passes: usize) -> Result<Self> {
        let queries = subject.asked.queries.len();
        let ready = Barrier::new(threads + 1);
        let run = |first: usize| -> Result<Vec<u64>> {
            let mut ns = Vec::with_capacity(queries * passes);
            ready.wait();
            for number in first..first + queries * passes {
                let start = Instant::now();
                subject.search(&subject.asked.queries[number % queries], effort)?;
                ns.push(start.elapsed().as_nanos() as u64);
            }
            Ok(ns)
        };
        std::thread::scope(|scope| {
            let run = &run;
            let running: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || run(thread * queries / threads))).collect();
            ready.wait();
            let (wall, cpu) = (Instant::now(), cpu_time());
            let mut ns = Vec::with_capacity(queries * passes * threads);
            for thread in running {
                match thread.join() {
                    Ok(times) => ns.extend(times?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            let wall = wall.elapsed().as_secs_f64();
            let cpu = cpu_time().zip(cpu).map(|(after, before)| (after - before).as_secs_f64());
            let qps = ns.len() as f64 / wall;
            Ok(Self { qps, ns, cpu_over_wall: cpu.map_or(threads as f64, |cpu| cpu / wall) })
        })
    }
}
