//! `plimsoll source`: how far sources are, what was set aside, and what can be done about it.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use comfy_table::{Table, presets};
use plimsoll::{Database, DeadLetter, Error, ReadOnlyDatabase, SourceError, SourceStatus, Step};
use plimsoll_ingest::input::{Files, Parser};
use plimsoll_ingest::{
    EmbedderSpec, History, Ingest, IngestError, Ledger, Origin, Patient, Policies, Run, RunOptions, RunState,
    Settings,
};
use plimsoll_lines::KeyJson;
use serde::Serialize;

use super::ingest::{embedder, set_aside};
use crate::args::{Reading, Source, SourceAction, Which};
use crate::error::{CliError, Result};
use crate::interrupt::StopFlag;
use crate::output::{Output, bytes, counted, duration};

pub(super) fn run(args: &Source, output: &mut Output) -> Result<()> {
    let dir = &args.dir.dir;
    match &args.action {
        SourceAction::Ls => ls(dir, output),
        SourceAction::Status { which, summary: true } => summarize(dir, which, output),
        SourceAction::Status { which, summary: false } => status(dir, which, output),
        SourceAction::Failed { which, forget: positions, .. } if !positions.is_empty() => {
            forget(dir, which, positions, output)
        }
        SourceAction::Failed { which, limit, .. } => failed(dir, which, *limit, output),
        SourceAction::Retry { which, position, embed, max_retries, timeout } => {
            retry(dir, which, position, embed.as_ref(), *max_retries, *timeout, output)
        }
        SourceAction::Pause(which) => set_paused(dir, which, true, output),
        SourceAction::Resume(which) => set_paused(dir, which, false, output),
        SourceAction::Reset(which) => reset(dir, which, output),
        SourceAction::Purge { which, older_than } => purge(dir, which, *older_than, output),
        SourceAction::Ledger => ledger(dir, output),
    }
}

impl Which {
    fn is_of(&self, status: &SourceStatus) -> bool {
        self.source.as_ref().is_none_or(|name| *name == status.name)
            && self.collection.as_ref().is_none_or(|name| *name == status.collection)
    }

    /// All sources that can be meant; at least one if one was named. `find` looks for a collection.
    fn all(
        &self,
        sources: Vec<SourceStatus>,
        find: impl FnOnce(&str) -> plimsoll::Result<()>,
    ) -> Result<Vec<SourceStatus>> {
        if let Some(collection) = &self.collection {
            find(collection)?;
        }
        let found: Vec<_> = sources.into_iter().filter(|status| self.is_of(status)).collect();
        match &self.source {
            Some(name) if found.is_empty() => Err(Error::from(SourceError::NotFound(name.clone())).into()),
            _ => Ok(found),
        }
    }

    /// The source that is meant.
    fn one(&self, db: &Database) -> Result<SourceStatus> {
        let mut found = self.all(db.sources()?, |name| db.collection(name).map(drop))?;
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(CliError::failed("source_not_found", "there is no source".to_owned())),
            _ => {
                let names: Vec<String> =
                    found.iter().map(|status| format!("{} of {}", status.name, status.collection)).collect();
                let what = format!("there are several sources; say which one: {}", names.join(", "));
                Err(CliError::Usage(what))
            }
        }
    }
}

/// How far a source is, for JSON. Times are in seconds since 1970.
#[derive(Serialize)]
struct Report {
    source: String,
    collection: String,
    position: u64,
    end: u64,
    gaps: Vec<[u64; 2]>,
    committed: u64,
    dead_lettered: u64,
    rejected: u64,
    paused: bool,
    created_at: f64,
    updated_at: f64,
    fingerprint: String,
    /// How texts of the collection become vectors, and the name of the model that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    inputs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<f64>,
    runs: usize,
    changesets: usize,
    repositories: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<Run>,
}

impl Report {
    fn of(db: &ReadOnlyDatabase, status: SourceStatus) -> Result<Self> {
        let entries = db.source_entries(&status.name, &status.collection)?;
        let history = History::from_entries(&entries);
        let inputs = Origin::from_entries(&entries).unwrap_or_default().inputs;
        let last_run = history.runs.last().cloned();
        let settings = Settings::of_reader(db, &status.collection)?;
        let mut report = Self {
            source: status.name,
            collection: status.collection,
            position: status.position,
            end: status.end,
            gaps: status.gaps.iter().map(|gap| [gap.start, gap.end]).collect(),
            committed: status.counts.committed,
            dead_lettered: status.counts.dead_lettered,
            rejected: status.counts.rejected,
            paused: status.is_paused,
            created_at: seconds(status.created_at),
            updated_at: seconds(status.updated_at),
            fingerprint: status.fingerprint,
            embedder: settings.as_ref().map(|settings| settings.embedder.to_string()),
            model: settings.map(|settings| settings.model),
            inputs,
            progress_percent: None,
            items_per_second: None,
            lag_bytes: None,
            eta_seconds: None,
            runs: history.runs.len(),
            changesets: history.changesets.len(),
            repositories: history.repositories.into_iter().map(|repository| repository.name).collect(),
            last_run,
        };
        report.look_at_the_inputs();
        Ok(report)
    }

    /// Compares what was read with what there is now.
    fn look_at_the_inputs(&mut self) {
        let Some(run) = &self.last_run else { return };
        let took = run.updated_ms.saturating_sub(run.started_ms) as f64 / 1e3;
        let rate = |amount: u64| (took > 0.0).then(|| amount as f64 / took);
        self.items_per_second = rate(run.committed);
        let length =
            |path: &String| std::fs::metadata(path).ok().filter(Metadata::is_file).map(|file| file.len());
        let now: Option<u64> = self.inputs.iter().map(length).sum();
        let is_of_files = now.is_some() && !self.inputs.is_empty();
        if let Some(total) = if is_of_files { now } else { run.total } {
            let percent = run.read.min(total) as f64 * 100.0 / total.max(1) as f64;
            self.progress_percent = Some(if total == 0 { 100.0 } else { percent });
            if is_of_files {
                let left = total.saturating_sub(run.read);
                self.lag_bytes = Some(left);
                let speed = rate(run.read.saturating_sub(run.read_before)).filter(|speed| *speed > 0.0);
                self.eta_seconds = speed.map(|speed| left as f64 / speed);
            }
        }
    }

    fn describe(&self, output: &mut Output) -> Result<()> {
        output.line(format_args!("{} → {}", self.source, self.collection))?;
        let state =
            if self.paused { "paused" } else { self.last_run.as_ref().map_or("new", |run| run.state.name()) };
        let mut line = |name: &str, value: String| output.line(format_args!("  {name:<11}{value}"));
        line("state", state.to_owned())?;
        line("position", self.position.to_string())?;
        line(
            "items",
            format!(
                "{} stored or removed, {} set aside, {} with nothing to store",
                self.committed, self.dead_lettered, self.rejected
            ),
        )?;
        if let (Some(embedder), Some(model)) = (&self.embedder, &self.model) {
            line("embedder", format!("{embedder} (model {model})"))?;
        }
        if let Some(percent) = self.progress_percent {
            line("progress", format!("{percent:.1} % of the input"))?;
        }
        if let Some(rate) = self.items_per_second {
            line("rate", format!("{rate:.0} items/s in the last run"))?;
        }
        if let Some(lag) = self.lag_bytes {
            let eta = self.eta_seconds.filter(|_| lag > 0);
            let eta = eta.map_or_else(String::new, |eta| {
                format!(
                    ", about {} at that rate",
                    duration(Duration::try_from_secs_f64(eta).unwrap_or(Duration::MAX))
                )
            });
            line("lag", format!("{}{eta}", bytes(lag)))?;
        }
        if !self.gaps.is_empty() {
            let gaps: Vec<String> =
                self.gaps.iter().map(|[start, end]| format!("{start} to {}", end - 1)).collect();
            line("gaps", gaps.join(", "))?;
        }
        if let Some(run) = &self.last_run {
            let error = run.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            line(
                "last run",
                format!(
                    "{} ({}), {} read: {} stored, {} removed; {} repeated{error}",
                    run.id,
                    run.state.name(),
                    counted(run.received, "item", "items"),
                    run.stored(),
                    run.removed,
                    counted(run.retries, "attempt", "attempts")
                ),
            )?;
        }
        if self.changesets > 0 {
            line("changesets", self.changesets.to_string())?;
        }
        if !self.repositories.is_empty() {
            line("from", self.repositories.join(", "))?;
        }
        Ok(())
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn reader(dir: &Path, output: &Output) -> Result<ReadOnlyDatabase> {
    super::reader(dir, Reading { salvage: false }, output)
}

fn ls(dir: &Path, output: &mut Output) -> Result<()> {
    let db = reader(dir, output)?;
    let reports =
        db.sources()?.into_iter().map(|status| Report::of(&db, status)).collect::<Result<Vec<_>>>()?;
    if output.json {
        return reports.iter().try_for_each(|report| output.value(report));
    }
    if reports.is_empty() {
        return output.line("no sources");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "source",
        "collection",
        "state",
        "position",
        "stored or removed",
        "set aside",
        "nothing to store",
    ]);
    for report in &reports {
        let state = if report.paused {
            "paused"
        } else {
            report.last_run.as_ref().map_or("new", |run| run.state.name())
        };
        table.add_row([
            report.source.clone(),
            report.collection.clone(),
            state.to_owned(),
            report.position.to_string(),
            report.committed.to_string(),
            report.dead_lettered.to_string(),
            report.rejected.to_string(),
        ]);
    }
    output.line(table)
}

fn status(dir: &Path, which: &Which, output: &mut Output) -> Result<()> {
    let db = reader(dir, output)?;
    for status in which.all(db.sources()?, |name| db.collection(name).map(drop))? {
        let report = Report::of(&db, status)?;
        if output.json {
            output.value(&report)?;
        } else {
            report.describe(output)?;
        }
    }
    Ok(())
}

/// All sources together, for JSON.
#[derive(Serialize, Default)]
struct Summary {
    sources: usize,
    paused: usize,
    running: usize,
    failed: usize,
    committed: u64,
    dead_lettered: u64,
    rejected: u64,
}

fn summarize(dir: &Path, which: &Which, output: &mut Output) -> Result<()> {
    let db = reader(dir, output)?;
    let mut summary = Summary::default();
    for status in which.all(db.sources()?, |name| db.collection(name).map(drop))? {
        let report = Report::of(&db, status)?;
        let is_last = |state: RunState| report.last_run.as_ref().is_some_and(|run| run.state == state);
        summary.sources += 1;
        summary.paused += usize::from(report.paused);
        summary.running += usize::from(is_last(RunState::Running));
        summary.failed += usize::from(is_last(RunState::Failed));
        summary.committed += report.committed;
        summary.dead_lettered += report.dead_lettered;
        summary.rejected += report.rejected;
    }
    let text = format!(
        "{}: {} paused, {} not ended, {} failed; {} stored or removed, {} set aside, {} with nothing to store",
        counted(summary.sources as u64, "source", "sources"),
        summary.paused,
        summary.running,
        summary.failed,
        counted(summary.committed, "item", "items"),
        summary.dead_lettered,
        summary.rejected
    );
    output.either(&summary, text)
}

/// An item that was set aside, for JSON. A payload that is no text is given in hexadecimal digits.
#[derive(Serialize)]
struct Failed<'a> {
    source: &'a str,
    collection: &'a str,
    position: u64,
    class: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<KeyJson<'a>>,
    attempts: u32,
    failed_at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

impl<'a> Failed<'a> {
    fn of(status: &'a SourceStatus, letter: &'a DeadLetter) -> Self {
        let text = std::str::from_utf8(&letter.payload).ok();
        let hex = || letter.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            source: &status.name,
            collection: &status.collection,
            position: letter.position,
            class: letter.class.name(),
            message: &letter.message,
            id: letter.key.as_ref().map(KeyJson),
            attempts: letter.attempts,
            failed_at: seconds(letter.failed_at),
            retry_at: letter.retry_at.map(seconds),
            payload: text,
            payload_hex: text.is_none().then(hex),
        }
    }
}

fn failed(dir: &Path, which: &Which, limit: usize, output: &mut Output) -> Result<()> {
    let db = reader(dir, output)?;
    let mut total = 0;
    for status in which.all(db.sources()?, |name| db.collection(name).map(drop))? {
        let letters = db.dead_letters(&status.name, &status.collection)?;
        total += letters.len();
        for letter in letters.iter().take(limit) {
            if output.json {
                output.value(&Failed::of(&status, letter))?;
                continue;
            }
            output.line(set_aside(letter))?;
            let payload = String::from_utf8_lossy(&letter.payload);
            let shown: String =
                payload.chars().take(120).map(|c| if c.is_control() { '·' } else { c }).collect();
            let more = if payload.chars().nth(120).is_some() { "…" } else { "" };
            let tried = counted(u64::from(letter.attempts), "time", "times");
            output.line(format_args!("  tried {tried}: {shown}{more}"))?;
        }
        if letters.len() > limit && !output.json {
            output.line(format_args!("and {} more of {}", letters.len() - limit, status.name))?;
        }
    }
    if total == 0 && !output.json {
        output.line("nothing was set aside")?;
    }
    Ok(())
}

fn writer(dir: &Path) -> Result<Database> {
    super::writer(dir)
}

fn opened(db: &Database, which: &Which) -> Result<plimsoll::Source> {
    let status = which.one(db)?;
    Ok(db.source(&status.name, &status.collection)?.create(false).open()?)
}

fn check_set_aside<'a>(
    source: &plimsoll::Source,
    positions: impl IntoIterator<Item = &'a u64>,
) -> Result<()> {
    for position in positions {
        if source.dead_letter(*position)?.is_none() {
            let what = format!("nothing was set aside at position {position} of {}", source.name());
            return Err(CliError::failed("not_set_aside", what));
        }
    }
    Ok(())
}

/// What was given up, for JSON.
#[derive(Serialize)]
struct Forgotten<'a> {
    source: &'a str,
    forgotten: u64,
    left: u64,
}

/// Gives up items that were set aside: their positions are those of items with nothing to store from now on.
fn forget(dir: &Path, which: &Which, positions: &[u64], output: &mut Output) -> Result<()> {
    let db = writer(dir)?;
    let source = opened(&db, which)?;
    let positions: BTreeSet<u64> = positions.iter().copied().collect();
    check_set_aside(&source, &positions)?;
    let mut step = Step::new();
    for position in &positions {
        step.rejected(*position);
    }
    source.commit(&step)?;
    let (name, left) = (source.name().to_owned(), source.status()?.counts.dead_lettered);
    drop(source);
    let ledger = Ledger::open(Ledger::path_for(dir));
    ledger.rebuild(&db)?;
    db.close()?;
    let report = Forgotten { source: &name, forgotten: positions.len() as u64, left };
    let items = counted(report.forgotten, "item", "items");
    output.either(&report, format_args!("{name}: {items} given up; {left} set aside still"))
}

/// What a retry did, for JSON.
#[derive(Serialize)]
struct Retried {
    source: String,
    tried: u64,
    committed: u64,
    stored: u64,
    removed: u64,
    dead_lettered: u64,
    left: u64,
}

fn retry(
    dir: &Path,
    which: &Which,
    positions: &[u64],
    spec: Option<&EmbedderSpec>,
    max_retries: u32,
    timeout: Option<Duration>,
    output: &mut Output,
) -> Result<()> {
    let stop = StopFlag::watch(output.json)?;
    let db = writer(dir)?;
    let source = opened(&db, which)?;
    check_set_aside(&source, positions)?;
    let settings = Settings::of(source.collection())?;
    let origin = Origin::from_entries(&source.entries()?).unwrap_or_default();
    let files = match &origin.base {
        Some(base) => Files::below(Path::new(base)).map_err(IngestError::from)?,
        None => Files::none(),
    };
    let mut options = RunOptions::default();
    if let Some(settings) = &settings {
        options.chunking = settings.chunking;
    }
    if let Some(chunking) = origin.chunking.as_ref().and_then(|chunking| chunking.parse().ok()) {
        options.chunking = chunking;
    }
    let parser = if origin.is_folder { Parser::of_paths(files) } else { Parser::new(files) };
    let policies = Policies::default().with_max_retries(max_retries);
    let ledger = Ledger::open(Ledger::path_for(dir));
    let spec = spec.or_else(|| settings.as_ref().map(|settings| &settings.embedder));
    let embedder = match spec.filter(|spec| **spec != EmbedderSpec::Given) {
        Some(spec) => {
            let dimension = Some(source.collection().dimension());
            Some(embedder(spec, dir, dimension, &policies, timeout, &stop)?)
        }
        None => None,
    };
    if let (Some(embedder), Some(spec)) = (&embedder, spec) {
        Settings::new(spec.clone(), embedder, options.chunking)?.keep(source.collection())?;
    }
    let mut ingest =
        Ingest::new(&source, parser, options).ledger(&ledger).policies(policies).stop(stop.shared());
    if let Some(embedder) = &embedder {
        ingest = ingest.embedder(embedder).count_retries(|| Patient::retries(embedder.inner()));
    }
    let run = ingest.retry((!positions.is_empty()).then_some(positions))?;
    drop(ingest);
    let left = source.status()?.counts.dead_lettered;
    let report = Retried {
        source: source.name().to_owned(),
        tried: run.received,
        committed: run.committed,
        stored: run.stored(),
        removed: run.removed,
        dead_lettered: run.dead_lettered,
        left,
    };
    drop(source);
    db.close()?;
    let text = format!(
        "{} tried again: {} stored, {} removed, {} set aside again; {} left",
        counted(report.tried, "item", "items"),
        report.stored,
        report.removed,
        report.dead_lettered,
        report.left
    );
    output.either(&report, text)
}

/// What was done to a source, for JSON.
#[derive(Serialize)]
struct Done<'a> {
    source: &'a str,
    done: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<usize>,
}

fn set_paused(dir: &Path, which: &Which, is_paused: bool, output: &mut Output) -> Result<()> {
    let db = writer(dir)?;
    let source = opened(&db, which)?;
    let done =
        if is_paused { source.pause().map(|()| "paused") } else { source.resume().map(|()| "resumed") }?;
    let name = source.name().to_owned();
    drop(source);
    db.close()?;
    output.either(&Done { source: &name, done, records: None }, format_args!("{name}: {done}"))
}

fn reset(dir: &Path, which: &Which, output: &mut Output) -> Result<()> {
    let db = writer(dir)?;
    let source = opened(&db, which)?;
    let name = source.name().to_owned();
    source.remove()?;
    Ledger::open(Ledger::path_for(dir)).rebuild(&db)?;
    db.close()?;
    output.either(&Done { source: &name, done: "reset", records: None }, format_args!("{name}: forgotten"))
}

fn purge(dir: &Path, which: &Which, older_than: Duration, output: &mut Output) -> Result<()> {
    let db = writer(dir)?;
    let mut all = Vec::new();
    for status in which.all(db.sources()?, |name| db.collection(name).map(drop))? {
        let source = db.source(&status.name, &status.collection)?.create(false).open()?;
        all.push((status.name, History::purge(&source, older_than)?));
    }
    Ledger::open(Ledger::path_for(dir)).rebuild(&db)?;
    db.close()?;
    for (name, records) in &all {
        let text = format!("{name}: {} removed", counted(*records as u64, "record", "records"));
        output.either(&Done { source: name, done: "purged", records: Some(*records) }, text)?;
    }
    Ok(())
}

fn ledger(dir: &Path, output: &mut Output) -> Result<()> {
    let db = writer(dir)?;
    let ledger = Ledger::open(Ledger::path_for(dir));
    ledger.rebuild(&db)?;
    db.close()?;
    let path = ledger.path().display().to_string();
    if ledger.failures() > 0 {
        return Err(CliError::failed(
            "ledger",
            format!("{path} could not be written; PLIMSOLL_LOG=warn says why"),
        ));
    }
    let sources = Arc::from(path);
    output.either(
        &Done { source: &sources, done: "rebuilt", records: None },
        format_args!("{sources}: made anew"),
    )
}
