//! Runs: each item of a stream is stored once, set aside with its payload, or rejected, whatever interrupts the run.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use plimsoll::{Clock, CollectionConfig, Database, Document, FailureClass, Key, Metric, Source, SystemClock};
use plimsoll_ingest::input::{Files, Input, InputError, Inputs, Parser, WalkOptions};
use plimsoll_ingest::{
    Breaker, Cache, Cached, Embedded, Embedder, Failure, Fed, Feed, Folder, HashEmbedder, History, Ingest,
    IngestError, Ledger, Lines, Patient, Pause, Policies, Policy, RunOptions, RunState, TextKind,
};
use plimsoll_sim::{CrashPolicy, Failure as Fault, OperationKind, SimStorage};

const DIR: &str = "/db";
const DIMENSION: usize = 16;
const BATCH: usize = 10;

fn create(db: &Database) -> Source {
    db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::Cosine)).unwrap();
    db.source("s", "c").unwrap().open().unwrap()
}

fn open(disk: &SimStorage) -> (Database, Source) {
    disk.put_dir(DIR).unwrap();
    let builder = Database::builder(DIR).background(false).seed(1).storage(Arc::new(disk.clone()));
    let db = builder.open().unwrap();
    let source = create(&db);
    (db, source)
}

fn parser() -> Parser {
    Parser::new(Files::none())
}

fn options() -> RunOptions {
    let mut options = RunOptions::default();
    options.batch_size = BATCH;
    options
}

/// Retries without waiting.
fn eager() -> Policies {
    let at_once = |retries| Policy { retries, base: Duration::ZERO, cap: Duration::ZERO, jitter_percent: 0 };
    FailureClass::ALL.iter().fold(Policies::default(), |policies, class| {
        let retries = if policies.of(*class).retries > 0 { 3 } else { 0 };
        policies.with(*class, at_once(retries))
    })
}

fn lines(stream: &str, source: &Source) -> Lines {
    let input = Input::Stream("stream".to_owned(), Box::new(Cursor::new(stream.to_owned().into_bytes())));
    Lines::resume(Inputs::new([input]), source).unwrap()
}

/// A stream of changes of 40 documents, with a control record, blank lines, and deletes among them.
fn stream(items: u64) -> String {
    let mut stream = String::new();
    for item in 0..items {
        let path = format!("file {}", item * 7 % 40);
        let line = match item % 29 {
            3 => r#"{"new_changeset": {"commit": "abc"}, "repo": "r"}"#.to_owned(),
            11 => String::new(),
            17 => format!(r#"{{"path": "{path}", "op": "delete"}}"#),
            _ => format!(
                r#"{{"path": "{path}", "op": "modify", "content": "words of item {item}", "repo": "r"}}"#
            ),
        };
        writeln!(stream, "{line}").unwrap();
    }
    stream
}

fn documents(source: &Source) -> BTreeMap<Key, Document> {
    let found = source.collection().scan().unwrap().map(Result::unwrap);
    found.map(|document| (document.key.clone(), document)).collect()
}

/// Numbers by chance, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Fails every so many calls, or by chance, and counts the texts that it has embedded.
struct Flaky {
    inner: HashEmbedder,
    calls: AtomicU64,
    fails_every: u64,
    /// Decides when it fails, and for how many more calls it does.
    outages: Option<Mutex<(Random, u64)>>,
    texts: AtomicU64,
    /// Without those by which it is found out whether it works.
    of_items: AtomicU64,
}

impl Flaky {
    fn new(fails_every: u64) -> Self {
        let inner = HashEmbedder::new(DIMENSION).unwrap();
        Self {
            inner,
            calls: AtomicU64::new(0),
            fails_every,
            outages: None,
            texts: AtomicU64::new(0),
            of_items: AtomicU64::new(0),
        }
    }

    fn at_random(seed: u64) -> Self {
        Self { outages: Some(Mutex::new((Random(seed), 0))), ..Self::new(u64::MAX) }
    }

    fn fails(&self) -> bool {
        let Some(outages) = &self.outages else {
            return self.calls.fetch_add(1, Ordering::Relaxed) % self.fails_every == self.fails_every - 1;
        };
        let (random, left) = &mut *outages.lock().unwrap();
        if *left == 0 && random.below(8) == 0 {
            *left = 1 + random.below(12);
        }
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        fails
    }
}

impl Embedder for Flaky {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dimension(&self) -> Result<usize, Failure> {
        Ok(DIMENSION)
    }

    fn max_batch(&self) -> usize {
        BATCH
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        if self.fails() {
            return Err(Failure::new(FailureClass::Network, "the connection was reset"));
        }
        self.texts.fetch_add(texts.len() as u64, Ordering::Relaxed);
        let of_items = texts.iter().filter(|text| text.contains("words of item")).count();
        self.of_items.fetch_add(of_items as u64, Ordering::Relaxed);
        self.inner.embed(texts, kind)
    }
}

fn patient<E: Embedder>(inner: E) -> Patient<E> {
    let breaker = Breaker::with(Arc::new(SystemClock), 1000, Duration::from_secs(30), Duration::ZERO);
    Patient::new(inner, eager(), Arc::new(breaker), Arc::new(Pause::default()), 1)
}

/// What happens to a run when it has read so many items.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    /// Somebody asks it to stop.
    Stop,
    /// The process is gone.
    Kill,
    /// The machine is gone.
    PowerCut,
}

/// How many items are read again at most: of what was on its way to the disk while the next batch was read, a killed
/// process loses nothing, and a power cut all.
fn read_again(how: Interruption) -> usize {
    if matches!(how, Interruption::PowerCut) { 2 * BATCH } else { BATCH }
}

/// A feed that is interrupted.
struct Interrupted<'a> {
    lines: Lines,
    left: u64,
    how: Interruption,
    disk: &'a SimStorage,
    stop: &'a AtomicBool,
    read: u64,
}

impl Feed for Interrupted<'_> {
    fn next(&mut self) -> Result<Fed, InputError> {
        if self.left == 0 {
            match self.how {
                Interruption::Stop => self.stop.store(true, Ordering::Release),
                Interruption::Kill | Interruption::PowerCut => self.disk.crash(),
            }
        } else {
            self.left -= 1;
        }
        let fed = self.lines.next()?;
        self.read += u64::from(matches!(fed, Fed::Item(_)));
        Ok(fed)
    }
}

/// What a run comes to in which nothing fails.
fn uninterrupted(stream: &str) -> BTreeMap<Key, Document> {
    let disk = SimStorage::new();
    let (_db, source) = open(&disk);
    let embedder = Flaky::new(u64::MAX);
    let ingest = Ingest::new(&source, parser(), options()).embedder(&embedder);
    ingest.run(&mut lines(stream, &source)).unwrap();
    assert_eq!(source.position(), stream.lines().count() as u64);
    let documents = documents(&source);
    assert!(documents.len() > 30, "{}", documents.len());
    documents
}

#[test]
fn a_run_that_is_interrupted_anywhere_stores_everything_once() {
    const ITEMS: u64 = 300;
    let stream = stream(ITEMS);
    let expected = uninterrupted(&stream);
    for at in 0..=ITEMS {
        for how in [Interruption::Stop, Interruption::Kill, Interruption::PowerCut] {
            let mut disk = SimStorage::new();
            let (mut db, mut source) = open(&disk);
            let embedder = Flaky::new(5);
            let stop = Arc::new(AtomicBool::new(false));
            let read = {
                let patient = patient(&embedder);
                let ingest = Ingest::new(&source, parser(), options())
                    .embedder(&patient)
                    .policies(eager())
                    .stop(Arc::clone(&stop));
                let lines = lines(&stream, &source);
                let mut feed = Interrupted { lines, left: at, how, disk: &disk, stop: &stop, read: 0 };
                let ended = ingest.run(&mut feed);
                match how {
                    Interruption::Stop => {
                        let run = ended.unwrap();
                        assert_eq!((run.state, run.in_flight()), (RunState::Interrupted, 0), "{run:?}");
                    }
                    Interruption::Kill | Interruption::PowerCut => assert!(ended.is_err() || at >= ITEMS),
                }
                feed.read
            };
            let texts = embedder.texts.load(Ordering::Relaxed);
            if !matches!(how, Interruption::Stop) {
                drop(source);
                drop(db);
                disk = match how {
                    Interruption::PowerCut => disk.after_crash(CrashPolicy::Random(at)),
                    _ => disk.after_kill(),
                };
                (db, source) = open(&disk);
            }
            // What is read again, and embedded again, is a batch at most.
            let position = source.position();
            assert!(
                position + read_again(how) as u64 >= read.saturating_sub(1),
                "{how:?} at {at}: {position} of {read}"
            );
            let known = documents(&source).len() as u64;
            assert!(known <= position);
            let patient = patient(&embedder);
            let run = Ingest::new(&source, parser(), options())
                .embedder(&patient)
                .policies(eager())
                .run(&mut lines(&stream, &source))
                .unwrap();
            assert_eq!(run.received, ITEMS - position, "{how:?} at {at}");
            let again = embedder.texts.load(Ordering::Relaxed);
            let all = stream.lines().filter(|line| line.contains("content")).count() as u64;
            assert!(again <= all + BATCH as u64, "{how:?} at {at}: {texts}, then {again} of {all}");
            let status = source.status().unwrap();
            assert_eq!((status.position, status.counts.done()), (ITEMS, ITEMS));
            assert_eq!(status.counts.dead_lettered, 0);
            assert_eq!(documents(&source), expected, "{how:?} at {at}");
            drop(source);
            db.close().unwrap();
        }
    }
}

/// Takes note of the position behind the last line that was read, and is interrupted when that is `at`.
struct Noting<'a> {
    lines: Lines,
    position: u64,
    at: Option<(u64, Interruption)>,
    disk: &'a SimStorage,
    stop: &'a AtomicBool,
}

impl Feed for Noting<'_> {
    fn next(&mut self) -> Result<Fed, InputError> {
        if let Some((at, how)) = self.at
            && self.position >= at
        {
            match how {
                Interruption::Stop => self.stop.store(true, Ordering::Release),
                Interruption::Kill | Interruption::PowerCut => self.disk.crash(),
            }
        }
        let fed = self.lines.next()?;
        if let Fed::Item(item) = &fed {
            self.position = item.position + 1;
        }
        Ok(fed)
    }
}

/// Something about the disk that fails, soon.
fn break_the_disk(disk: &SimStorage, random: &mut Random) {
    use OperationKind::{Append, Create, Preallocate, Rename, Sync, SyncDir};
    // Most of what a run does is to append and to sync; the others come with a new file of the log.
    let kinds = [Append, Append, Append, Sync, Sync, Sync, Create, Preallocate, Rename, SyncDir];
    let kind = kinds[random.below(kinds.len() as u64) as usize];
    let failure = Fault::errno([5, 28][random.below(2) as usize]);
    let failure = match random.below(3) {
        0 => failure,
        1 => failure.although_done(),
        _ => failure.after_bytes(random.below(2000)),
    };
    disk.fail_after(kind, random.below(15), failure, 1 + random.below(12));
}

#[test]
fn interrupted_anywhere_a_failing_disk_and_embedder_lose_and_repeat_nothing() {
    const ITEMS: u64 = 300;
    let stream = stream(ITEMS);
    let expected = uninterrupted(&stream);
    let first: Option<u64> = std::env::var("PLIMSOLL_SEED").ok().and_then(|seed| seed.parse().ok());
    // Each first run is stopped, or killed, at another item.
    let seeds = first.map_or(0..2 * (ITEMS + 1), |seed| seed..seed + 1);
    let (mut of_disk, mut of_embedder) = (0, 0);
    for seed in seeds.clone() {
        let mut random = Random(seed);
        let mut disk = SimStorage::new();
        let (mut db, mut source) = open(&disk);
        let embedder = Flaky::at_random(seed);
        for attempt in 0.. {
            for _ in 0..if attempt < 10 { 1 + random.below(4) } else { 0 } {
                break_the_disk(&disk, &mut random);
            }
            let how = [Interruption::Stop, Interruption::Kill][seed as usize % 2];
            let at = (attempt == 0).then_some((seed / 2, how));
            let stop = Arc::new(AtomicBool::new(false));
            let (ended, read) = {
                let patient = patient(&embedder);
                let ingest = Ingest::new(&source, parser(), options())
                    .embedder(&patient)
                    .policies(eager())
                    .stop(Arc::clone(&stop));
                let (lines, position) = (lines(&stream, &source), source.position());
                let mut feed = Noting { lines, position, at, disk: &disk, stop: &stop };
                (ingest.run(&mut feed), feed.position)
            };
            let error = match ended {
                Ok(run) if run.state == RunState::Interrupted => continue,
                Ok(_) => break,
                Err(error) => error,
            };
            match error {
                IngestError::Database(_) => of_disk += 1,
                IngestError::Embedder(_) => of_embedder += 1,
                error => panic!("seed {seed}, attempt {attempt}: {error}"),
            }
            drop(source);
            drop(db);
            let how = match at {
                Some((_, how @ Interruption::Kill)) => how,
                _ => [Interruption::PowerCut, Interruption::Kill][random.below(2) as usize],
            };
            disk = match how {
                Interruption::PowerCut => disk.after_crash(CrashPolicy::Random(seed)),
                _ => disk.after_kill(),
            };
            (db, source) = open(&disk);
            // What needs no embedder is done also where the texts around it are not.
            let left = (source.position()..read).filter(|position| !source.is_done(*position)).count();
            assert!(
                left <= read_again(how),
                "seed {seed}, attempt {attempt}: {left} of {read} are to be read again"
            );
            // What was embedded of these and is not stored is a batch at most, each time.
            let needed = stream.lines().take(read as usize).filter(|line| line.contains("content")).count();
            let embedded = embedder.of_items.load(Ordering::Relaxed);
            let again = embedded.saturating_sub(needed as u64);
            assert!(again <= (attempt + 1) * BATCH as u64, "seed {seed}, attempt {attempt}: {again} again");
        }
        disk.clear_faults();
        // By chance the embedder may have failed for one text as often as it was asked, and for no other one.
        let embedder = Flaky::new(u64::MAX);
        Ingest::new(&source, parser(), options()).embedder(&embedder).retry(None).unwrap();
        let status = source.status().unwrap();
        assert_eq!(
            (status.position, status.counts.done(), status.gaps.len()),
            (ITEMS, ITEMS, 0),
            "seed {seed}"
        );
        assert_eq!(status.counts.dead_lettered, 0, "seed {seed}");
        // Each run counts what it has stored, in the write that stores it: together that is everything, once.
        let runs = History::from_entries(&source.entries().unwrap()).runs;
        let committed: u64 = runs.iter().map(|run| run.committed).sum();
        assert_eq!(committed, status.counts.committed, "seed {seed}");
        assert_eq!(documents(&source), expected, "seed {seed}");
        drop(source);
        drop(db);
    }
    println!("{of_disk} runs ended by the disk, {of_embedder} by the embedder");
    assert!(first.is_some() || (of_disk > 100 && of_embedder > 100), "{of_disk} and {of_embedder}");
}

#[test]
fn poison_is_set_aside_with_its_payload_and_recovered_when_its_cause_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("files");
    std::fs::create_dir(&base).unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let source = create(&db);
    let mut stream = String::new();
    for item in 0..100 {
        let line = match item % 10 {
            7 => format!(r#"{{"path": "late {item}", "content_ref": "missing-{item}.txt"}}"#),
            _ => format!(r#"{{"path": "file {item}", "content": "text {item}"}}"#),
        };
        writeln!(stream, "{line}").unwrap();
    }
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let files = || Parser::new(Files::below(&base).unwrap());
    let ledger = Ledger::open(dir.path().join("ledger.sqlite"));
    let ingest =
        || Ingest::new(&source, files(), options()).embedder(&embedder).ledger(&ledger).policies(eager());
    let run = ingest().run(&mut lines(&stream, &source)).unwrap();
    assert_eq!((run.state, run.committed, run.dead_lettered), (RunState::Completed, 90, 10));
    let letters = source.dead_letters().unwrap();
    assert_eq!(letters.len(), 10);
    for (letter, item) in letters.iter().zip((7..100).step_by(10)) {
        assert_eq!((letter.position, letter.class), (item, FailureClass::FileSystem));
        assert_eq!(letter.payload, stream.lines().nth(item as usize).unwrap().as_bytes());
        assert!(letter.message.contains(&format!("missing-{item}.txt")), "{}", letter.message);
        assert_eq!(letter.key, Some(Key::from(format!("late {item}"))));
    }
    // The cause is still there.
    let run = ingest().retry(Some(&[7])).unwrap();
    assert_eq!((run.received, run.committed, run.dead_lettered), (1, 0, 1));
    assert!(source.dead_letter(7).unwrap().unwrap().attempts > letters[0].attempts);
    for item in (7..100).step_by(10) {
        std::fs::write(base.join(format!("missing-{item}.txt")), format!("text {item}")).unwrap();
    }
    let run = ingest().retry(None).unwrap();
    assert_eq!((run.received, run.committed, run.dead_lettered), (10, 10, 0));
    assert!(source.dead_letters().unwrap().is_empty());
    assert_eq!(source.status().unwrap().counts.committed, 100);
    assert_eq!(source.collection().count().unwrap(), 100);
    assert_eq!(ledger.failures(), 0);
}

#[test]
fn operations_on_a_document_take_effect_in_order_with_many_workers() {
    for workers in [1, 4] {
        let disk = SimStorage::new();
        let (_db, source) = open(&disk);
        let embedder = Flaky::new(7);
        let mut options = options();
        (options.batch_size, options.workers) = (3, workers);
        let stream = stream(400);
        let patient = patient(&embedder);
        let run = Ingest::new(&source, parser(), options)
            .embedder(&patient)
            .policies(eager())
            .run(&mut lines(&stream, &source))
            .unwrap();
        assert_eq!((run.received, run.dead_lettered, source.position()), (400, 0, 400));
        let mut last = BTreeMap::new();
        for (item, line) in stream.lines().enumerate() {
            let key = |path: String| if line.contains(r#""repo""#) { format!("r:{path}") } else { path };
            let path = key(format!("file {}", item * 7 % 40));
            if line.contains("delete") {
                last.remove(&path);
            } else if line.contains("content") {
                last.insert(path, format!("words of item {item}"));
            }
        }
        let found: BTreeMap<String, String> = documents(&source)
            .into_values()
            .map(|document| (document.key.to_string(), document.text.unwrap()))
            .collect();
        assert_eq!(found, last);
    }
}

#[test]
fn what_comes_later_supersedes_what_was_set_aside() {
    let disk = SimStorage::new();
    let (_db, source) = open(&disk);
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let stream = [
        // In the same batch: the first one is outdated at once.
        r#"{"path": "a", "content_base64": "%%%"}"#,
        r#"{"path": "a", "content": "newer"}"#,
        // In a later batch.
        r#"{"path": "b", "content_base64": "%%%"}"#,
        r#"{"path": "c", "content_base64": "%%%"}"#,
        r#"{"path": "b", "op": "delete"}"#,
        r#"{"path": "d", "content": "d"}"#,
    ];
    let mut options = options();
    options.batch_size = 3;
    let ingest = Ingest::new(&source, parser(), options).embedder(&embedder);
    let run = ingest.run(&mut lines(&(stream.join("\n") + "\n"), &source)).unwrap();
    assert_eq!((run.received, run.in_flight()), (6, 0));
    let letters: Vec<u64> = source.dead_letters().unwrap().iter().map(|letter| letter.position).collect();
    assert_eq!(letters, [3]);
    let counts = source.status().unwrap().counts;
    assert_eq!((counts.committed, counts.dead_lettered, counts.rejected), (3, 1, 2));
    assert_eq!(documents(&source).keys().map(ToString::to_string).collect::<Vec<_>>(), ["a", "d"]);
}

/// Refuses everything, or only what has a word in it; counts.
struct Broken {
    inner: HashEmbedder,
    poison: Option<&'static str>,
}

impl Embedder for Broken {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dimension(&self) -> Result<usize, Failure> {
        Ok(DIMENSION)
    }

    fn max_batch(&self) -> usize {
        BATCH
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        let is_poisoned = |text: &&str| self.poison.is_none_or(|poison| text.contains(poison));
        if texts.iter().any(is_poisoned) {
            return Err(Failure::new(FailureClass::Network, "HTTP 500"));
        }
        self.inner.embed(texts, kind)
    }
}

#[test]
fn an_embedder_that_is_down_ends_the_run_and_blames_no_item() {
    let disk = SimStorage::new();
    let (_db, source) = open(&disk);
    let mut stream = stream(25);
    writeln!(stream, r#"{{"id": "given", "vector": {:?}}}"#, vec![1.0; DIMENSION]).unwrap();
    let down = Broken { inner: HashEmbedder::new(DIMENSION).unwrap(), poison: None };
    let patient = patient(&down);
    let ended =
        Ingest::new(&source, parser(), options()).embedder(&patient).run(&mut lines(&stream, &source));
    assert!(matches!(ended, Err(IngestError::Embedder(_))), "{ended:?}");
    let status = source.status().unwrap();
    assert_eq!(status.counts.dead_lettered, 0);
    // What needs no embedder is stored; the rest is not done.
    assert!(status.counts.rejected > 0 && status.position < 25);
    let history = History::from_entries(&source.entries().unwrap());
    assert_eq!(history.runs.last().unwrap().state, RunState::Failed);
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let run = Ingest::new(&source, parser(), options())
        .embedder(&embedder)
        .run(&mut lines(&stream, &source))
        .unwrap();
    assert_eq!((run.state, source.position(), run.id), (RunState::Completed, 26, 2));
    assert!(source.collection().get("given").unwrap().is_some());
}

#[test]
fn what_is_left_in_hand_holds_back_what_comes_later_about_its_document() {
    for workers in [1, 3] {
        let disk = SimStorage::new();
        let (_db, source) = open(&disk);
        let vector = vec![1.0; DIMENSION];
        let stream = [
            r#"{"id": "a", "text": "needs the embedder"}"#.to_owned(),
            format!(r#"{{"id": "a", "text": "newer", "vector": {vector:?}}}"#),
            format!(r#"{{"id": "b", "text": "other", "vector": {vector:?}}}"#),
            r#"{"id": "a", "op": "delete"}"#.to_owned(),
            format!(r#"{{"id": "c", "text": "other", "vector": {vector:?}}}"#),
        ];
        let stream = stream.join("\n") + "\n";
        let mut options = options();
        (options.batch_size, options.workers) = (2, workers);
        let down = Broken { inner: HashEmbedder::new(DIMENSION).unwrap(), poison: None };
        let patient = patient(&down);
        let ingest = Ingest::new(&source, parser(), options.clone()).embedder(&patient);
        assert!(ingest.run(&mut lines(&stream, &source)).is_err());
        assert!(source.collection().get("a").unwrap().is_none(), "the newer one would be overwritten");
        let embedder = HashEmbedder::new(DIMENSION).unwrap();
        let ingest = Ingest::new(&source, parser(), options).embedder(&embedder);
        ingest.run(&mut lines(&stream, &source)).unwrap();
        assert_eq!(source.position(), 5);
        assert_eq!(documents(&source).keys().map(ToString::to_string).collect::<Vec<_>>(), ["b", "c"]);
    }
}

#[test]
fn a_text_that_breaks_the_embedder_is_set_aside_and_the_rest_goes_on() {
    let disk = SimStorage::new();
    let (_db, source) = open(&disk);
    let broken = Broken { inner: HashEmbedder::new(DIMENSION).unwrap(), poison: Some("item 13") };
    let patient = patient(&broken);
    let run = Ingest::new(&source, parser(), options())
        .embedder(&patient)
        .policies(eager())
        .run(&mut lines(&stream(28), &source))
        .unwrap();
    assert_eq!((run.state, run.dead_lettered, run.in_flight()), (RunState::Completed, 1, 0));
    let letters = source.dead_letters().unwrap();
    assert_eq!((letters[0].position, letters[0].class), (13, FailureClass::Network));
    assert!(letters[0].retry_at.is_some());
}

#[test]
fn a_folder_is_embedded_once_and_follows_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("docs");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    let write = |path: &str, text: &str| std::fs::write(root.join(path), text).unwrap();
    for file in 0..12 {
        write(&format!("sub/{file}.md"), &format!("words of file {file}"));
    }
    let db = Database::open(dir.path().join("db")).unwrap();
    let source = create(&db);
    let counted = Flaky::new(u64::MAX);
    let cache = Arc::new(Cache::open(&dir.path().join("cache"), Cache::DEFAULT_BYTES));
    let cached = Cached::new(&counted, cache);
    let run = || {
        let mut feed = Folder::compare(&root, &WalkOptions::default(), &source).unwrap();
        let parser = Parser::new(Files::below(&root).unwrap());
        let run = Ingest::new(&source, parser, options()).embedder(&cached).run(&mut feed).unwrap();
        (run.received, run.committed, run.dead_lettered)
    };
    let texts = || counted.texts.load(Ordering::Relaxed);
    assert_eq!((run(), texts()), ((12, 12, 0), 12));
    // Files that were written just now are looked at again, and found as they were.
    let (received, committed, _) = run();
    assert_eq!((committed, texts()), (0, 12), "{received}");
    std::fs::rename(root.join("sub/3.md"), root.join("moved.md")).unwrap();
    std::fs::remove_file(root.join("sub/4.md")).unwrap();
    write("sub/5.md", "other words");
    let (_, committed, _) = run();
    // A delete and an add for the one that was renamed, whose text is known; a delete; a modify.
    assert_eq!((committed, texts()), (4, 13));
    let keys: Vec<String> = documents(&source).keys().map(ToString::to_string).collect();
    assert_eq!(keys.len(), 11);
    assert!(keys.contains(&"moved.md".to_owned()) && !keys.iter().any(|key| key.contains("/3.md")));
    assert_eq!(source.collection().get("sub/5.md").unwrap().unwrap().text.unwrap(), "other words");
    let query = counted.inner.embed(&["words of file 4"], TextKind::Query).unwrap().remove(0).unwrap();
    let hits = source.collection().search(&query).k(11).run().unwrap();
    assert!(hits.hits.iter().all(|hit| hit.key != Key::from("sub/4.md")), "what is gone is not found");
}

fn dump(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut rows = Vec::new();
    for table in ["sources", "runs", "failed_items", "changesets", "repositories"] {
        let mut query = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3")).unwrap();
        let columns = query.column_count();
        let mut found = query.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values: Vec<String> =
                (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap())).collect();
            rows.push(format!("{table}: {}", values.join(", ")));
        }
    }
    rows
}

#[test]
fn the_ledger_is_what_the_database_says_and_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let source = create(&db);
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let path = dir.path().join("ledger.sqlite");
    let ledger = Ledger::open(&path);
    let mut stream = stream(120);
    stream += "{\"path\": 3}\n\n";
    Ingest::new(&source, parser(), options())
        .embedder(&embedder)
        .ledger(&ledger)
        .run(&mut lines(&stream, &source))
        .unwrap();
    let kept = dump(&path);
    for table in ["sources", "runs", "failed_items", "changesets", "repositories"] {
        assert!(kept.iter().any(|row| row.starts_with(table)), "{table} is empty");
    }
    let again = dir.path().join("again.sqlite");
    Ledger::open(&again).rebuild(&db).unwrap();
    assert_eq!(dump(&again), kept);
    // Somebody holds the ledger: the run goes on, and a later one catches up.
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    stream += "{\"path\": \"new\", \"content\": \"text\"}\n";
    let locked = Ledger::open(dir.path().join("none").join("\0"));
    Ingest::new(&source, parser(), options())
        .embedder(&embedder)
        .ledger(&ledger)
        .run(&mut lines(&stream, &source))
        .unwrap();
    assert!(ledger.failures() > 0);
    assert_eq!((locked.failures(), source.position()), (1, 123));
    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    Ingest::new(&source, parser(), options()).ledger(&ledger).run(&mut lines(&stream, &source)).unwrap();
    Ledger::open(&again).rebuild(&db).unwrap();
    assert_eq!(dump(&again), dump(&path));
    // A damaged one is put aside.
    drop(ledger);
    std::fs::write(&path, b"this is no ledger, and never was one, but it is long enough to be looked at")
        .unwrap();
    let ledger = Ledger::open(&path);
    assert_eq!(ledger.failures(), 0);
    ledger.rebuild(&db).unwrap();
    assert_eq!(dump(&again), dump(&path));
    assert!(path.with_added_extension("damaged").exists());
    // So is one with tables that are not its own.
    drop(ledger);
    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE runs (a)").unwrap();
    let ledger = Ledger::open(&path);
    ledger.rebuild(&db).unwrap();
    assert_eq!((ledger.failures(), dump(&again)), (0, dump(&path)));
}

#[test]
fn old_runs_are_forgotten_and_the_newest_is_not() {
    let disk = SimStorage::new();
    let (_db, source) = open(&disk);
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    for items in [40, 80, 120] {
        let stream = stream(items);
        Ingest::new(&source, parser(), options())
            .embedder(&embedder)
            .run(&mut lines(&stream, &source))
            .unwrap();
    }
    let history = || History::from_entries(&source.entries().unwrap());
    assert_eq!((history().runs.len(), history().changesets.len()), (3, 5));
    assert_eq!(History::purge(&source, Duration::from_secs(3600)).unwrap(), 0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(History::purge(&source, Duration::ZERO).unwrap(), 7);
    assert_eq!(history().runs.iter().map(|run| run.id).collect::<Vec<_>>(), [3]);
    assert_eq!(source.position(), 120);
    assert!(SystemClock.unix_time() > Duration::ZERO);
}

/// An embedder that keeps each call until so many are made at a time.
struct Meeting {
    wanted: usize,
    inside: Mutex<(usize, usize)>,
    changed: Condvar,
    inner: HashEmbedder,
}

impl Embedder for Meeting {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dimension(&self) -> Result<usize, Failure> {
        self.inner.dimension()
    }

    fn max_batch(&self) -> usize {
        self.inner.max_batch()
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        let mut inside = self.inside.lock().unwrap();
        inside.0 += 1;
        inside.1 = inside.1.max(inside.0);
        self.changed.notify_all();
        let patience = Duration::from_secs(20);
        let waited = self.changed.wait_timeout_while(inside, patience, |inside| inside.1 < self.wanted);
        waited.unwrap().0.0 -= 1;
        self.inner.embed(texts, kind)
    }
}

#[test]
fn so_many_workers_embed_so_many_batches_at_a_time() {
    for workers in 1..=4 {
        let disk = SimStorage::new();
        let (_db, source) = open(&disk);
        let inner = HashEmbedder::new(DIMENSION).unwrap();
        let (inside, changed) = (Mutex::new((0, 0)), Condvar::new());
        let embedder = Meeting { wanted: workers, inside, changed, inner };
        let mut options = options();
        options.workers = workers;
        let stream: String =
            (0..100).map(|n| format!("{{\"path\": \"{n}\", \"content\": \"text {n}\"}}\n")).collect();
        Ingest::new(&source, parser(), options)
            .embedder(&embedder)
            .run(&mut lines(&stream, &source))
            .unwrap();
        assert_eq!(embedder.inside.lock().unwrap().1, workers);
    }
}

#[test]
fn a_write_that_fails_beside_others_leaves_nothing_out() {
    const ITEMS: u64 = 200;
    let stream: String =
        (0..ITEMS).map(|n| format!("{{\"path\": \"{n}\", \"content\": \"text {n}\"}}\n")).collect();
    let mut failed = 0;
    for seed in 0..100 {
        let disk = SimStorage::new();
        let (_db, source) = open(&disk);
        let embedder = Flaky::new(u64::MAX);
        let mut options = options();
        (options.workers, options.batch_size) = (8, 1);
        let run = || {
            let policies = Policies::default().with_max_retries(0);
            let ingest =
                Ingest::new(&source, parser(), options.clone()).embedder(&embedder).policies(policies);
            ingest.run(&mut lines(&stream, &source))
        };
        disk.fail_after(OperationKind::Append, 10 + seed, Fault::errno(28), 1);
        failed += u64::from(run().is_err());
        disk.clear_faults();
        run().unwrap();
        let status = source.status().unwrap();
        assert_eq!((status.position, &status.gaps[..]), (ITEMS, &[][..]), "seed {seed}");
        assert_eq!(documents(&source).len() as u64, ITEMS, "seed {seed}");
    }
    assert!(failed > 50, "{failed}");
}
