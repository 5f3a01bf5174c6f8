//! `plimsoll ingest`: a stream of lines or a folder, each item exactly once, from where the last run has got to.

mod dry;
mod stdin;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plimsoll::{Collection, CollectionConfig, Database, DeadLetter, Error, Source, SystemClock};
use plimsoll_ingest::input::{Change, Files, Input, Inputs, Parser, SkipReason, WalkOptions};
use plimsoll_ingest::{
    Breaker, Cache, Cached, Chunking, Embedder, EmbedderOptions, EmbedderSpec, Failure, Feed, Folder,
    Ingest as Ingestion, Ledger, Lines, Origin, PassedOver, Patient, Pause, Policies, Run, RunOptions,
    RunState, Settings, TextKind, Wait,
};
use plimsoll_lines::KeyJson;
use serde::Serialize;

use crate::args::{Ingest, Search};
use crate::error::{CliError, Result};
use crate::interrupt::StopFlag;
use crate::output::{Output, counted, duration};
use crate::progress::Progress;
use stdin::Stdin;

/// How long a followed file, or a quiet stream, is waited for between two looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// So much of a stream is looked at to find out the dimension of a collection that is not there yet.
const HEAD_BYTES: usize = 64 << 20;

/// What a run did, for JSON.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    source: &'a str,
    run: u64,
    state: &'static str,
    received: u64,
    committed: u64,
    stored: u64,
    removed: u64,
    unchanged: u64,
    dead_lettered: u64,
    failures: &'a BTreeMap<&'static str, u64>,
    rejected: u64,
    passed_over: BTreeMap<&'static str, u64>,
    /// All that had nothing to store, for another reason than that it is as it was.
    #[serde(skip)]
    empty_handed: u64,
    in_flight: u64,
    retries: u64,
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedded: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<u64>,
    seconds: f64,
    items_per_second: f64,
}

pub(super) fn run(args: &Ingest, output: &mut Output) -> Result<()> {
    let origin = Kind::of(args)?;
    refuse_what_is_no_stream(&origin, args)?;
    let stop = StopFlag::watch(output.json)?;
    if args.dry_run {
        return dry::run(args, &origin, &stop, output);
    }
    let mut session = Session::open(args, &origin, &stop)?;
    let started = Instant::now();
    let ended = session.run(args, &origin, &stop, output);
    let closed = session.close();
    let ended = ended?;
    closed?;
    let (report, run) = (report(&ended, started.elapsed()), &ended.run);
    if output.json {
        output.value(&report)?;
    } else {
        output.line(describe(&report))?;
        advise(args, run, output)?;
    }
    match run.state {
        // What to type to go on was said.
        RunState::Interrupted if !args.follow => Err(CliError::Reported),
        _ => Ok(()),
    }
}

/// A run that has come to an end.
struct Ended {
    source: String,
    run: Run,
    position: u64,
    passages: Option<Passages>,
    /// How many files of a folder were not even read, because they are as they were.
    unread: u64,
    /// What was set aside, by class.
    failures: BTreeMap<&'static str, u64>,
}

/// What an embedder has done.
struct Passages {
    embedded: u64,
    /// Known from before.
    cached: u64,
    /// Of those embedded, longer than the model takes, if it can tell.
    truncated: Option<u64>,
}

fn report(ended: &Ended, took: Duration) -> Report<'_> {
    let (run, seconds) = (&ended.run, took.as_secs_f64());
    let (unchanged, passed_over) = reasons(&run.passed_over);
    Report {
        source: &ended.source,
        run: run.id,
        state: run.state.name(),
        received: run.received,
        committed: run.committed,
        stored: run.stored(),
        removed: run.removed,
        unchanged: ended.unread + unchanged,
        dead_lettered: run.dead_lettered,
        failures: &ended.failures,
        rejected: run.rejected,
        passed_over,
        empty_handed: run.committed.saturating_sub(run.removed + run.stored())
            + run.rejected.saturating_sub(unchanged),
        in_flight: run.in_flight(),
        retries: run.retries,
        position: ended.position,
        embedded: ended.passages.as_ref().map(|passages| passages.embedded),
        cached: ended.passages.as_ref().map(|passages| passages.cached),
        truncated: ended.passages.as_ref().and_then(|passages| passages.truncated),
        seconds,
        items_per_second: run.committed as f64 / seconds.max(1e-9),
    }
}

fn describe(report: &Report<'_>) -> String {
    let mut text = format!(
        "{}: {} stored, {} removed, {} unchanged, {} set aside{}, {} with nothing to store{}",
        report.state,
        report.stored,
        report.removed,
        report.unchanged,
        report.dead_lettered,
        listed(report.failures),
        report.empty_handed,
        listed(&report.passed_over),
    );
    if report.in_flight > 0 {
        text += &format!(", {} left in hand", report.in_flight);
    }
    if let (Some(embedded), Some(cached)) = (report.embedded, report.cached) {
        text +=
            &format!("; {} embedded, {cached} known from before", counted(embedded, "passage", "passages"));
    }
    if let Some(truncated) = report.truncated.filter(|truncated| *truncated > 0) {
        text += &format!(", {truncated} longer than the model takes and found by a part of them only");
    }
    let took = Duration::from_secs_f64(report.seconds);
    text + &format!("; {} ({:.0} items/s)", duration(took), report.items_per_second)
}

/// How many files are as they were, and how many items had nothing to store for other reasons.
fn reasons(passed_over: &BTreeMap<SkipReason, u64>) -> (u64, BTreeMap<&'static str, u64>) {
    let mut others: BTreeMap<_, _> =
        passed_over.iter().map(|(reason, count)| (reason.name(), *count)).collect();
    (others.remove(SkipReason::Unchanged.name()).unwrap_or(0), others)
}

/// Reasons with how often they apply, behind what they are the reasons for.
fn listed(reasons: &BTreeMap<&'static str, u64>) -> String {
    let all: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(", ")) }
}

/// Says what to type next.
fn advise(args: &Ingest, run: &Run, output: &mut Output) -> Result<()> {
    let dir = args.target.dir.display();
    if run.state == RunState::Interrupted && !args.follow {
        output.line("the same command goes on where this one was")?;
    }
    if run.dead_lettered > 0 {
        output.line(format_args!("what was set aside: plimsoll source {dir} failed"))?;
    }
    Ok(())
}

/// What is read.
enum Kind {
    Lines(Vec<PathBuf>),
    Folder(PathBuf),
}

impl Kind {
    fn of(args: &Ingest) -> Result<Self> {
        let usage = |what: &str| Err(CliError::Usage(what.to_owned()));
        let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
        if args.inputs.iter().filter(|path| is_stdin(path)).count() > 1 {
            return usage("standard input (-) can be read only once");
        }
        let mut folders = Vec::new();
        for path in args.inputs.iter().filter(|path| !is_stdin(path)) {
            let metadata = std::fs::metadata(path).map_err(|error| CliError::file(path, &error))?;
            if metadata.is_dir() {
                folders.push(path);
            }
        }
        let walks = !args.include.is_empty() || !args.exclude.is_empty();
        let walks = walks || args.hidden || args.no_ignore || args.allow_empty;
        match folders[..] {
            [] if walks => {
                usage("--include, --exclude, --hidden, --no-ignore and --allow-empty are about a folder")
            }
            [] => Ok(Self::Lines(args.inputs.clone())),
            [_] if args.follow => usage("--follow is about a file of lines, not about a folder"),
            [_] if args.base.is_some() => usage("--base is about lines that name files, not about a folder"),
            [folder] if args.inputs.len() == 1 => Ok(Self::Folder(folder.clone())),
            _ => usage("a folder is ingested by itself: one run, one source for each"),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Lines(paths) => paths.iter().map(|path| path.display().to_string()).collect(),
            Self::Folder(path) => vec![path.display().to_string()],
        }
    }

    /// What the source is called unless that is said: the full path of what is read.
    fn default_source(&self) -> String {
        let full = |path: &Path| match path.as_os_str() == "-" {
            true => "standard input".to_owned(),
            false => path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string(),
        };
        let name = match self {
            Self::Lines(paths) => paths.iter().map(|path| full(path)).collect::<Vec<_>>().join(" "),
            Self::Folder(path) => full(path),
        };
        let is_fit = name.len() <= plimsoll::limits::MAX_NAME_BYTES && !name.chars().any(char::is_control);
        if is_fit {
            return name;
        }
        let mut id = String::from("input ");
        for byte in plimsoll::Key::from(name).id().0 {
            id += &format!("{byte:02x}");
        }
        id
    }

    /// The directory below which lines may name files.
    fn base(&self, args: &Ingest) -> PathBuf {
        match self {
            Self::Folder(path) => path.clone(),
            Self::Lines(_) => args.base.clone().unwrap_or_else(|| PathBuf::from(".")),
        }
    }

    /// Which files of the folder are meant: never those of the database itself.
    fn walk_options(&self, args: &Ingest) -> WalkOptions {
        let mut exclude = args.exclude.clone();
        if let Self::Folder(folder) = self
            && let (Ok(folder), Some(name)) = (folder.canonicalize(), args.target.dir.file_name())
        {
            let parent = args.target.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new(".")).canonicalize();
            if let Some(below) = parent.ok().as_ref().and_then(|parent| parent.strip_prefix(&folder).ok()) {
                let database = below.join(name).display().to_string();
                let escaped: String = database
                    .chars()
                    .flat_map(|c| ["", "\\"][usize::from("*?[]!\\#".contains(c))].chars().chain([c]))
                    .collect();
                exclude.extend([format!("/{escaped}/"), format!("/{escaped}.ingest/")]);
            }
        }
        WalkOptions {
            include: args.include.clone(),
            exclude,
            hidden: args.hidden,
            no_ignore: args.no_ignore,
            follow_links: false,
            allow_empty: args.allow_empty,
        }
    }

    /// The inputs of lines; `head` is what was read of standard input already.
    fn inputs(
        &self,
        args: &Ingest,
        stdin: &mut Option<BufReader<Stdin>>,
        head: Vec<u8>,
        stop: &StopFlag,
    ) -> Inputs {
        let Self::Lines(paths) = self else { return Inputs::new([]) };
        let mut head = Some(head);
        let inputs = paths.iter().map(|path| match stdin.take() {
            Some(stdin) if path.as_os_str() == "-" => {
                let head = Cursor::new(head.take().unwrap_or_default());
                Input::Stream("standard input".to_owned(), Box::new(head.chain(stdin)))
            }
            other => {
                *stdin = other;
                Input::from_argument(path)
            }
        });
        let inputs = Inputs::new(inputs.collect::<Vec<_>>());
        if args.follow { inputs.follow(stop.shared(), INTERVAL) } else { inputs }
    }
}

/// An open database, with what fills it.
struct Session {
    db: Database,
    source: Option<Source>,
    embedder: Option<CachedEmbedder>,
    policies: Policies,
    chunking: Chunking,
    inputs: Option<Inputs>,
    ledger: Ledger,
}

/// An embedder that tries again, behind a cache.
pub(super) type CachedEmbedder = Cached<Patient<Box<dyn Embedder>>>;

/// Says on standard error that an embedder is waited for, where that takes a while: otherwise nothing would be seen for minutes.
struct Telling(Arc<Pause>);

impl Wait for Telling {
    fn wait(&self, time: Duration) -> bool {
        if time >= Duration::from_secs(1) {
            eprintln!("the embedder does not answer as it should; asking again in {}", duration(time));
        }
        self.0.wait(time)
    }
}

/// The embedder of a specification, with a cache beside the database.
pub(super) fn embedder(
    spec: &EmbedderSpec,
    dir: &Path,
    dimension: Option<usize>,
    policies: &Policies,
    timeout: Option<Duration>,
    stop: &StopFlag,
) -> Result<CachedEmbedder> {
    let options = EmbedderOptions::default();
    let options = timeout.map_or(options.clone(), |timeout| options.with_timeout(timeout));
    let built = build(spec, &options)?;
    let breaker = Arc::new(Breaker::new(Arc::new(SystemClock)));
    let wait = Arc::new(Telling(stop.pause()));
    let patient = Patient::new(built, policies.clone(), breaker, wait, u64::from(std::process::id()));
    let cache = Cache::open(&dir.with_added_extension("ingest"), Cache::DEFAULT_BYTES);
    Ok(Cached::new(patient, Arc::new(cache)).expecting(dimension))
}

fn build(spec: &EmbedderSpec, options: &EmbedderOptions) -> Result<Box<dyn Embedder>> {
    #[cfg(feature = "onnx")]
    if let EmbedderSpec::Onnx { directory } = spec {
        let opened = plimsoll_onnx::OnnxEmbedder::open(Path::new(directory));
        return Ok(Box::new(opened.map_err(embedder_failed)?));
    }
    #[cfg(not(feature = "onnx"))]
    if let EmbedderSpec::Onnx { directory } = spec {
        let what = format!(
            "onnx:{directory} needs local models, which this program was built without; in a checkout, `cargo install --locked \
             --path crates/cli --features onnx` installs one with them"
        );
        return Err(CliError::failed("embedder", what));
    }
    spec.build(options).map_err(embedder_failed)
}

fn embedder_failed(failure: Failure) -> CliError {
    CliError::failed("embedder", failure.message)
}

/// The vector of a query, made as those of the collection were.
pub(super) fn query_vector(args: &Search, text: &str, output: &Output) -> Result<Vec<f32>> {
    let target = &args.target;
    let db = super::reader(&target.dir, args.reading, output)?;
    let settings = Settings::of_reader(&db, &target.collection)?.ok_or_else(|| {
        let what = format!(
            "nobody has said how texts become vectors in {:?}: `plimsoll ingest` with --embed does",
            target.collection
        );
        CliError::failed("no_embedder", what)
    })?;
    let (policies, stop) = (Policies::default(), StopFlag::default());
    let embedder =
        embedder(&settings.embedder, &target.dir, Some(settings.dimension), &policies, None, &stop)?;
    let mut vectors = embedder.embed(&[text], TextKind::Query).map_err(embedder_failed)?;
    vectors.pop().unwrap_or_else(|| Ok(Vec::new())).map_err(embedder_failed)
}

impl Session {
    fn open(args: &Ingest, kind: &Kind, stop: &StopFlag) -> Result<Self> {
        let name = &args.target.collection[..];
        if name.is_empty() {
            return Err(CliError::Usage("the collection needs a name".to_owned()));
        }
        let is_there = args.target.dir.try_exists().unwrap_or(true);
        let mut db = None;
        if is_there {
            db = Some(open_database(args)?);
        }
        let found = db.as_ref().map(|db| db.collection(name));
        let collection = match found {
            None | Some(Err(Error::CollectionNotFound(_))) => None,
            Some(found) => Some(found?),
        };
        let stored = collection.as_ref().map(Settings::of).transpose()?.flatten();
        let spec = args.embed.clone().or_else(|| stored.as_ref().map(|stored| stored.embedder.clone()));
        let spec = spec.filter(|spec| *spec != EmbedderSpec::Given);
        let of_source = match (&db, &collection) {
            (Some(db), Some(_)) if !args.restart => {
                Origin::from_entries(&db.source_entries(&source_name(args, kind), name)?)
            }
            _ => None,
        };
        let of_source = of_source.and_then(|origin| origin.chunking?.parse().ok());
        let chunking = args.chunk.or(of_source).or_else(|| stored.as_ref().map(|stored| stored.chunking));
        let chunking = chunking.unwrap_or_default();
        let policies = Policies::default().with_max_retries(args.max_retries);
        let (mut embedder, mut settings) = (None, None);
        if let Some(spec) = spec {
            let dimension = collection.as_ref().map(Collection::dimension);
            let built = self::embedder(&spec, &args.target.dir, dimension, &policies, args.timeout, stop)?;
            settings = Some(Settings::new(spec, &built, chunking)?);
            let dimension = settings.as_ref().map(|settings| settings.dimension);
            embedder = Some(built.expecting(dimension));
        } else if matches!(kind, Kind::Folder(_)) {
            let what =
                "files have no vectors: say with --embed how they get them, for instance --embed hash:256";
            return Err(CliError::Usage(what.to_owned()));
        }
        let (mut stdin, mut head) = (None, Vec::new());
        if let Kind::Lines(paths) = kind
            && paths.iter().any(|path| path.as_os_str() == "-")
        {
            stdin = Some(BufReader::with_capacity(1 << 16, Stdin::new(stop.shared())));
        }
        let dimension = match (&collection, &settings) {
            (Some(collection), _) => collection.dimension(),
            (None, Some(settings)) => settings.dimension,
            (None, None) => {
                first_dimension(kind, &mut stdin, &mut head)?.ok_or_else(|| no_collection(name))?
            }
        };
        let quiet = stdin.as_ref().map(|stdin| stdin.get_ref().quiet());
        let mut inputs = kind.inputs(args, &mut stdin, head, stop);
        // What can be wrong with the input is said before anything is created.
        let fingerprint = fingerprint(kind, &mut inputs, settings.as_ref())?;
        let db = match db {
            Some(db) => db,
            None => open_database(args)?,
        };
        let collection = match collection {
            Some(collection) => collection,
            None => {
                let config = CollectionConfig::new(dimension, args.metric.unwrap_or_default());
                db.create_collection(name, config)?
            }
        };
        if let Some(metric) = args.metric {
            db.create_collection(name, CollectionConfig::new(collection.dimension(), metric))?;
        }
        if let Some(settings) = &settings {
            settings.check(&collection)?;
        }
        if let (Kind::Folder(path), None) = (kind, &args.source) {
            refuse_other_folders(&db, &collection, path)?;
        }
        let mut session = Self {
            source: None,
            embedder,
            policies,
            chunking,
            inputs: None,
            ledger: Ledger::open(Ledger::path_for(&args.target.dir)),
            db,
        };
        session.begin(args, kind, &collection, fingerprint, inputs)?;
        // Not before: what a refused run was asked for is not what the next one does.
        if let Some(settings) = &settings {
            settings.keep(&collection)?;
        }
        if let Some(quiet) = quiet {
            quiet.allow();
        }
        Ok(session)
    }

    /// Opens the source and finds its place in the input.
    fn begin(
        &mut self,
        args: &Ingest,
        kind: &Kind,
        collection: &Collection,
        fingerprint: Option<String>,
        inputs: Inputs,
    ) -> Result<()> {
        let name = source_name(args, kind);
        let mut builder = self.db.source(&name, collection.name())?.reset(args.restart);
        if let Some(fingerprint) = fingerprint {
            builder = builder.fingerprint(fingerprint);
        }
        let source = builder.open().map_err(explain)?;
        if source.status()?.is_paused {
            return Err(Error::from(plimsoll::SourceError::Paused(name)).into());
        }
        let base = kind.base(args);
        let base = base.canonicalize().unwrap_or(base).display().to_string();
        let is_folder = matches!(kind, Kind::Folder(_));
        let chunking = Some(self.chunking.to_string());
        Origin { inputs: kind.names(), base: Some(base), is_folder, chunking }.keep(&source)?;
        self.inputs = Some(inputs);
        self.source = Some(source);
        Ok(())
    }

    fn run(&mut self, args: &Ingest, kind: &Kind, stop: &StopFlag, output: &Output) -> Result<Ended> {
        let (Some(source), Some(inputs)) = (&self.source, self.inputs.take()) else {
            return Err(Error::Closed.into());
        };
        let mut unread = 0;
        let mut feed: Box<dyn Feed> = match kind {
            Kind::Lines(_) => Box::new(Lines::resume(inputs, source)?),
            Kind::Folder(path) => {
                let folder = Folder::compare(path, &kind.walk_options(args), source)?;
                unread = folder.unchanged();
                Box::new(folder)
            }
        };
        let files = Files::below(&kind.base(args)).map_err(plimsoll_ingest::IngestError::from)?;
        let parser = match kind {
            Kind::Folder(_) => Parser::of_paths(files),
            Kind::Lines(_) => Parser::new(files),
        };
        let mut options = RunOptions::default();
        options.batch_size = args.batch_size as usize;
        options.workers = args.workers as usize;
        options.rate = args.rate;
        options.chunking = self.chunking;
        let bar = Progress::of_run(output.json, matches!(kind, Kind::Lines(_)), feed.progress());
        let json = output.json;
        let failures = Mutex::new(BTreeMap::<_, u64>::new());
        let mut ingestion = Ingestion::new(source, parser, options)
            .ledger(&self.ledger)
            .policies(self.policies.clone())
            .stop(stop.shared())
            .watch(|progress| {
                bar.move_to(progress.run.read, progress.run.total);
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                for letter in &progress.set_aside {
                    *failures.entry(letter.class.name()).or_default() += 1;
                }
                if args.verbose {
                    let say = |letter| if json { set_aside_json(letter) } else { set_aside(letter) };
                    progress.set_aside.iter().for_each(|letter| bar.say(&say(letter)));
                    progress.passed_over.iter().for_each(|item| bar.say(&passed_over(item, json)));
                }
            });
        if let Some(embedder) = &self.embedder {
            ingestion = ingestion.embedder(embedder).count_retries(|| Patient::retries(embedder.inner()));
        }
        let run = ingestion.run(&mut *feed)?;
        drop(ingestion);
        let passages = self.embedder.as_ref().map(|embedder| {
            let counts = embedder.counts();
            let cached = counts.hits + counts.repeated;
            Passages { embedded: counts.embedded, cached, truncated: embedder.truncated() }
        });
        if self.ledger.failures() > 0 {
            let path = self.ledger.path().display();
            eprintln!(
                "the ledger {path} could not be written; plimsoll source {} ledger makes it anew",
                args.target.dir.display()
            );
        }
        if let Some(embedder) =
            self.embedder.as_ref().filter(|embedder| embedder.cache().counts().bypassed > 0)
        {
            let path = embedder.cache().file();
            eprintln!(
                "{} could not be used throughout: some texts may be embedded once more",
                path.display()
            );
        }
        let (source, position) = (source.name().to_owned(), source.position());
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Ended { source, run, position, passages, unread, failures })
    }

    fn close(mut self) -> Result<()> {
        drop(self.source.take());
        Ok(self.db.close()?)
    }
}

/// The same as [`set_aside`], for JSON.
fn set_aside_json(letter: &DeadLetter) -> String {
    let (position, class, message) = (letter.position, letter.class.name(), &letter.message);
    serde_json::json!({"set_aside": position, "class": class, "message": message}).to_string()
}

/// One line about an item that was set aside.
pub(super) fn set_aside(letter: &DeadLetter) -> String {
    let key = letter.key.as_ref().map_or_else(String::new, |key| format!(" ({key})"));
    format!("set aside: position {}{key}: {}: {}", letter.position, letter.class, letter.message)
}

/// One line about an item of which nothing was stored.
fn passed_over(item: &PassedOver, json: bool) -> String {
    let (position, reason) = (item.position, item.reason.name());
    if json {
        let id = item.key.as_ref().map(KeyJson);
        return serde_json::json!({"passed_over": position, "id": id, "reason": reason}).to_string();
    }
    let key = item.key.as_ref().map_or_else(String::new, |key| format!(" ({key})"));
    format!("passed over: position {position}{key}: {reason}")
}

/// What the source is called.
fn source_name(args: &Ingest, kind: &Kind) -> String {
    args.source.clone().unwrap_or_else(|| kind.default_source())
}

/// Says what to do about a source that was begun with another input.
fn explain(error: Error) -> CliError {
    let Error::Source(plimsoll::SourceError::FingerprintChanged { name, stored, given }) = &error else {
        return error.into();
    };
    let how =
        |fingerprint: &str| fingerprint.split_once("; ").map_or_else(String::new, |(_, how)| how.to_owned());
    let (was, is) = (how(stored), how(given));
    let what = if was == is {
        format!(
            "the input is not the one that the source {name:?} has read: it begins otherwise (a stream has to bring the same lines \
             again, from the first on; a file that was replaced is another input); --source NAME reads it as another source, \
             --restart begins this one anew"
        )
    } else {
        format!(
            "the source {name:?} was begun with {was}, and now it would be {is}: say --embed and --chunk as before, or --restart \
             to read everything again"
        )
    };
    CliError::failed("fingerprint_changed", what)
}

/// Documents of folders have the path below the folder as key: those of two folders would be taken for one another.
fn refuse_other_folders(db: &Database, collection: &Collection, path: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    for status in db.sources()?.iter().filter(|status| status.collection == collection.name()) {
        let origin = Origin::from_entries(&db.source_entries(&status.name, &status.collection)?);
        let Some(other) = origin.filter(|origin| origin.is_folder).and_then(|origin| origin.base) else {
            continue;
        };
        if real(Path::new(&other)) != real(path) {
            let what = format!(
                "the collection {:?} is filled from the folder {other} already, and files of the same path in both would overwrite \
                 each other: use another collection, or the folder above both with --include (--source NAME does it all the same)",
                collection.name()
            );
            return Err(CliError::failed("other_folder", what));
        }
    }
    Ok(())
}

/// Notices a file that is no stream of lines before its lines are taken for paths.
fn refuse_what_is_no_stream(kind: &Kind, args: &Ingest) -> Result<()> {
    let Kind::Lines(paths) = kind else { return Ok(()) };
    let base = kind.base(args);
    for path in paths.iter().filter(|path| path.is_file()) {
        let file = std::fs::File::open(path).map_err(|error| CliError::file(path, &error))?;
        let mut lines = BufReader::new(file.take(64 << 10)).lines().map_while(std::io::Result::ok);
        let Some(first) = lines.find(|line| !line.trim().is_empty()) else { continue };
        // A byte order mark belongs to no line.
        let first = first.trim_start_matches('\u{feff}');
        let is_named = base.join(first).exists() || Path::new(first).exists();
        if !first.trim_start().starts_with('{') && !is_named {
            let what = format!(
                "{}: its first line is no JSON object, and not the path of a file either, so it is no stream of lines; to store \
                 the file itself, name its folder, with --include {:?}",
                path.display(),
                path.file_name().unwrap_or_default()
            );
            return Err(CliError::failed("no_stream", what));
        }
    }
    Ok(())
}

fn open_database(args: &Ingest) -> Result<Database> {
    // Someone who follows a stream writes little at a time, for long.
    Ok(Database::builder(&args.target.dir).bulk_load(!args.follow).open()?)
}

fn no_collection(name: &str) -> CliError {
    let what = format!(
        "there is no collection {name:?}, and no line with a vector to create it by: say with --embed how texts get \
         vectors, for instance --embed hash:256"
    );
    CliError::failed("collection_not_found", what)
}

/// What the source knows its input by; `None` while there is nothing in it.
fn fingerprint(kind: &Kind, inputs: &mut Inputs, settings: Option<&Settings>) -> Result<Option<String>> {
    let how = settings.map_or_else(|| "given vectors".to_owned(), Settings::fingerprint);
    Ok(match kind {
        Kind::Folder(path) => {
            let real = path.canonicalize().map_err(|error| CliError::file(path, &error))?;
            Some(format!("folder {}; {how}", real.display()))
        }
        Kind::Lines(_) => {
            let found = inputs.fingerprint().map_err(plimsoll_ingest::IngestError::from)?;
            found.map(|found| format!("{found}; {how}"))
        }
    })
}

/// The dimension of the first vector in the input; what is read of standard input is kept in `head`.
fn first_dimension(
    kind: &Kind,
    stdin: &mut Option<BufReader<Stdin>>,
    head: &mut Vec<u8>,
) -> Result<Option<usize>> {
    let Kind::Lines(paths) = kind else { return Ok(None) };
    let parser = Parser::new(Files::none());
    for path in paths {
        let failed = |error: &std::io::Error| CliError::file(path, error);
        let mut kept = Vec::new();
        let found = if path.as_os_str() == "-" {
            let Some(stdin) = stdin.as_mut() else { continue };
            let found = dimension_in(stdin, &parser, &mut kept);
            head.append(&mut kept);
            found
        } else {
            let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
            if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                // A pipe can be read only once.
                return Ok(None);
            }
            dimension_in(&mut BufReader::new(file), &parser, &mut kept)
        };
        if let Some(dimension) = found.map_err(|error| failed(&error))? {
            return Ok(Some(dimension));
        }
    }
    Ok(None)
}

fn dimension_in(
    reader: &mut impl std::io::BufRead,
    parser: &Parser,
    kept: &mut Vec<u8>,
) -> std::io::Result<Option<usize>> {
    while kept.len() < HEAD_BYTES {
        let start = kept.len();
        let limit = (HEAD_BYTES - start) as u64;
        if reader.by_ref().take(limit).read_until(b'\n', kept)? == 0 {
            return Ok(None);
        }
        if let Ok(Change::Upsert(document)) = parser.parse_payload(kept[start..].trim_ascii_end()).change
            && let Some(posting) = document.postings.first()
        {
            return Ok(Some(posting.vector.len()));
        }
    }
    Ok(None)
}

/// Whether somebody wants the program to end, for threads.
pub(super) type Stop = Arc<AtomicBool>;
