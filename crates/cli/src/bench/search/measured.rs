//! One setting of a search, measured one query at a time: what it found, how long each query took, what it touched.

use std::time::Instant;

use plimsoll::{Effort, Explain, Filter, Key, ReadOnlyCollection, Search, SearchResults, Stages};
use plimsoll_lines::KeyJson;
use serde::{Serialize, Serializer};

use super::super::measure::{cpu_time, percentile};
use super::batch::Batches;
use super::byte_limit::Share;
use super::cold::Cold;
use super::threads::Threads;
use crate::error::Result;

/// How many queries warm a setting up.
const WARM_UP: usize = 50;

/// What is asked with each setting.
#[derive(Clone, Copy)]
pub(in crate::bench) struct Asked<'a> {
    pub queries: &'a [Vec<f32>],
    pub k: usize,
    pub filter: Option<&'a Filter>,
    pub stages: bool,
}

/// Whom it is asked.
#[derive(Clone, Copy)]
pub(in crate::bench) struct Subject<'a> {
    pub collection: &'a ReadOnlyCollection,
    pub asked: Asked<'a>,
}

impl Subject<'_> {
    /// A search with a setting.
    pub(super) fn describe<'q>(&self, query: &'q [f32], effort: Effort) -> Search<'q> {
        let search =
            self.collection.search(query).k(self.asked.k).effort(effort).with_stages(self.asked.stages);
        match self.asked.filter {
            Some(filter) => search.filter(filter.clone()),
            None => search,
        }
    }

    pub(super) fn search(&self, query: &[f32], effort: Effort) -> Result<SearchResults> {
        Ok(self.describe(query, effort).run()?)
    }

    /// Runs the last queries, so that what the setting needs is in memory.
    fn warm_up(&self, effort: Effort) -> Result<()> {
        let queries = self.asked.queries;
        for query in &queries[queries.len().saturating_sub(WARM_UP)..] {
            self.search(query, effort)?;
        }
        Ok(())
    }

    /// Warms up, then runs each query once.
    pub(in crate::bench) fn measure(&self, param: serde_json::Value, effort: Effort) -> Result<Measured> {
        self.warm_up(effort)?;
        let queries = self.asked.queries.len();
        let (mut ids, mut ns) = (Vec::with_capacity(queries), Vec::with_capacity(queries));
        let mut touched = Touched::default();
        let (wall, cpu) = (Instant::now(), cpu_time());
        for query in self.asked.queries {
            let start = Instant::now();
            let results = self.search(query, effort)?;
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
            touched: touched.mean(queries),
            recall: None,
            more: More::default(),
        })
    }
}

/// One setting, measured: the line of the results file.
#[derive(Serialize)]
pub(in crate::bench) struct Measured {
    pub param: serde_json::Value,
    #[serde(serialize_with = "keys")]
    pub ids: Vec<Vec<Key>>,
    pub ns: Vec<u64>,
    pub cpu_over_wall: f64,
    /// Means over the queries.
    pub touched: Touched,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    #[serde(flatten)]
    pub more: More,
}

/// What is measured only if it is asked for.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::bench) struct More {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte_limit: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<Threads>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<Batches>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold: Option<Cold>,
}

fn keys<S: Serializer>(ids: &[Vec<Key>], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|row| row.iter().map(KeyJson).collect::<Vec<_>>()))
}

impl Measured {
    pub(super) fn mean_ns(&self) -> f64 {
        self.ns.iter().sum::<u64>() as f64 / self.ns.len() as f64
    }

    /// The share of another's answers that this has, over all queries.
    pub(in crate::bench) fn agreement(&self, truth: &Self) -> f64 {
        let of_one = |(found, truth): (&Vec<Key>, &Vec<Key>)| {
            (truth.iter().filter(|key| found.contains(key)).count(), truth.len())
        };
        let both = self.ids.iter().zip(&truth.ids).map(of_one);
        let (found, all) = both.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        found as f64 / all.max(1) as f64
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            param: self.param.clone(),
            recall: self.recall,
            p50_us: percentile(&self.ns, 0.5) as f64 / 1e3,
            p99_us: percentile(&self.ns, 0.99) as f64 / 1e3,
            qps: 1e9 / self.mean_ns(),
            touched: self.touched.clone(),
            cpu_over_wall: self.cpu_over_wall,
            more: self.more.clone(),
        }
    }
}

/// One setting in a few figures, for the tables, the charts and `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub param: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    pub p50_us: f64,
    pub p99_us: f64,
    pub qps: f64,
    pub touched: Touched,
    pub cpu_over_wall: f64,
    #[serde(flatten)]
    pub more: More,
}

impl Summary {
    /// What the setting is called.
    pub(super) fn name(&self) -> String {
        match self.param.as_object().and_then(|fields| fields.iter().next()) {
            Some((name, serde_json::Value::Bool(_))) => name.clone(),
            Some((name, value)) => format!("{name} {value}"),
            None => self.param.to_string(),
        }
    }
}

/// What a query touched, on average.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::bench) struct Touched {
    pub lists: f64,
    pub codes: f64,
    /// Rows whose vectors were scanned.
    pub rows: f64,
    pub reranked: f64,
    pub refined: f64,
    pub measured: f64,
    pub bytes: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages_us: Option<StagesUs>,
}

/// How long each stage took, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(in crate::bench) struct StagesUs {
    memtables: f64,
    prepare: f64,
    route: f64,
    scan: f64,
    rerank: f64,
    measure: f64,
    collect: f64,
}

impl StagesUs {
    pub(super) fn all(&mut self) -> [&mut f64; 7] {
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
        self.refined += explain.rows_refined as f64;
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
            &mut self.refined,
            &mut self.measured,
            &mut self.bytes,
        ];
        let stages = self.stages_us.iter_mut().flat_map(StagesUs::all);
        all.into_iter().chain(stages).for_each(|sum| *sum /= queries as f64);
        self
    }
}
