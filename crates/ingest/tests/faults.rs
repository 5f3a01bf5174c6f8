//! Runs through faults of embedders, of items and of whoever stops them: nothing is blamed that is not at fault, nothing
//! is stored over something newer, and no item stops a stream.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test is a panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll::{CollectionConfig, Database, DeadLetter, FailureClass, Metric, Source, Step};
use plimsoll_ingest::input::{Files, Input, InputError, Inputs, Parser, WalkOptions};
use plimsoll_ingest::{
    Cache, Cached, Embedded, Embedder, Failure, Fed, Feed, Folder, HashEmbedder, Ingest, IngestError, Lines,
    Policies, Policy, RunOptions, RunState, TextKind,
};

const DIMENSION: usize = 8;

fn create(directory: &Path) -> (Database, Source) {
    let db = Database::open(directory.join("db")).unwrap();
    db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::Cosine)).unwrap();
    let source = db.source("s", "c").unwrap().open().unwrap();
    (db, source)
}

fn lines(stream: &str, source: &Source) -> Lines {
    let input = Input::Stream("stream".to_owned(), Box::new(Cursor::new(stream.to_owned().into_bytes())));
    Lines::resume(Inputs::new([input]), source).unwrap()
}

fn options(batch_size: usize, workers: usize) -> RunOptions {
    let mut options = RunOptions::default();
    (options.batch_size, options.workers, options.retry_due) = (batch_size, workers, false);
    options
}

/// Retries without waiting.
fn eager() -> Policies {
    let policy = Policy { retries: 2, base: Duration::ZERO, cap: Duration::ZERO, jitter_percent: 0 };
    [FailureClass::Network, FailureClass::FileSystem, FailureClass::RateLimit, FailureClass::Unknown]
        .into_iter()
        .fold(Policies::default(), |policies, class| policies.with(class, policy))
}

fn texts(source: &Source) -> BTreeMap<String, Option<String>> {
    let found = source.collection().scan().unwrap().map(Result::unwrap);
    found.map(|document| (document.key.to_string(), document.text)).collect()
}

/// An embedder that does what a function says before each call.
struct Scripted<F> {
    inner: HashEmbedder,
    before: F,
}

impl<F> Scripted<F> {
    fn new(before: F) -> Self {
        Self { inner: HashEmbedder::new(DIMENSION).unwrap(), before }
    }
}

impl<F: Fn(&[&str]) -> Option<Result<Vec<Embedded>, Failure>> + Send + Sync> Embedder for Scripted<F> {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dimension(&self) -> Result<usize, Failure> {
        Ok(DIMENSION)
    }

    fn max_batch(&self) -> usize {
        100
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        (self.before)(texts).unwrap_or_else(|| self.inner.embed(texts, kind))
    }
}

fn down() -> Failure {
    Failure::new(FailureClass::Network, "the connection was reset")
}

#[test]
fn an_embedder_that_breaks_off_in_the_middle_of_a_batch_blames_no_item() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let stream: String = (0..10).fold(String::new(), |mut stream, item| {
        writeln!(stream, r#"{{"path": "{item}", "content": "text {item}"}}"#).unwrap();
        stream
    });
    // The first four texts get vectors; from then on the endpoint is down.
    let calls = AtomicU64::new(0);
    let embedder = Scripted::new(|texts: &[&str]| {
        if calls.fetch_add(1, Ordering::Relaxed) > 0 {
            return Some(Err(down()));
        }
        let vector = |at| if at < 4 { Ok(vec![1.0; DIMENSION]) } else { Err(down()) };
        Some(Ok((0..texts.len()).map(vector).collect()))
    });
    let run = |embedder: &dyn Embedder, policies| {
        let ingest = Ingest::new(&source, Parser::new(Files::none()), options(10, 1));
        ingest.embedder(embedder).policies(policies).run(&mut lines(&stream, &source))
    };
    assert!(matches!(run(&embedder, eager()), Err(IngestError::Embedder(_))));
    calls.store(0, Ordering::Relaxed);
    let never = Policies::default().with_max_retries(0);
    assert!(matches!(run(&embedder, never), Err(IngestError::Embedder(_))));
    assert_eq!(source.status().unwrap().counts.dead_lettered, 0);
    // Where it has only broken off, the others are asked for again; a text that fails alone is to blame.
    let broke_off = AtomicBool::new(false);
    let embedder = Scripted::new(|texts: &[&str]| {
        if !broke_off.swap(true, Ordering::Relaxed) {
            let vector = |at| if at < 4 { Ok(vec![1.0; DIMENSION]) } else { Err(down()) };
            return Some(Ok((0..texts.len()).map(vector).collect()));
        }
        texts.contains(&"text 7").then(|| Ok(texts.iter().map(|_| Err(down())).collect()))
    });
    let ended = run(&embedder, eager()).unwrap();
    assert_eq!((ended.state, ended.committed, ended.dead_lettered), (RunState::Completed, 9, 1));
    assert_eq!(source.dead_letters().unwrap()[0].position, 7);
}

#[test]
fn an_embedder_of_another_dimension_ends_the_run_and_blames_no_item() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let embedder = Scripted::new(|texts: &[&str]| Some(Ok(vec![Ok(vec![1.0; 3]); texts.len()])));
    let stream = "{\"path\": \"a\", \"content\": \"text\"}\n";
    let ingest = Ingest::new(&source, Parser::new(Files::none()), options(10, 1)).embedder(&embedder);
    let error = ingest.run(&mut lines(stream, &source)).unwrap_err().to_string();
    assert!(error.contains("3 dimensions, and the collection has 8"), "{error}");
    assert_eq!(source.status().unwrap().counts.done(), 0);
}

#[test]
fn vectors_of_zeros_are_not_paid_for_and_kept_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let is_mended = AtomicBool::new(false);
    let embedder = Scripted::new(|texts: &[&str]| {
        let zeros = || Ok(vec![Ok(vec![0.0; DIMENSION]); texts.len()]);
        (!is_mended.load(Ordering::Relaxed)).then(zeros)
    });
    let cached = Cached::new(&embedder, Arc::new(Cache::open(dir.path(), Cache::DEFAULT_BYTES)));
    let ingest = Ingest::new(&source, Parser::new(Files::none()), options(10, 1)).embedder(&cached);
    let stream = "{\"path\": \"a\", \"content\": \"text\"}\n";
    assert_eq!(ingest.run(&mut lines(stream, &source)).unwrap().dead_lettered, 1);
    is_mended.store(true, Ordering::Relaxed);
    assert_eq!(ingest.retry(None).unwrap().committed, 1);
}

#[test]
fn no_field_is_so_long_that_its_line_stops_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let long = "é".repeat(300_000);
    let bad = [
        format!(r#"{{"path": "a", "op": "{long}", "content": "x"}}"#),
        format!(r#"{{"path": "a", "line": "{long}", "content": "x"}}"#),
        format!(r#"{{"path": "a", "repo": "{long}", "content": "x"}}"#),
        format!(r#"{{"path": "a", "content_ref": "{long}"}}"#),
        format!(r#"{{"id": "a", "text": "x", "{long}": 1}}"#),
        format!(r#"{{"id": {{"uuid": "{long}"}}, "text": "x"}}"#),
        format!(r#"{{"new_changeset": {{"message": "{long}"}}}}"#),
        format!(r#"{{"new_changeset": {{}}, "repo": "{long}"}}"#),
        long.clone(),
    ];
    // The longest control record that is taken, of bytes that are escaped where it is kept.
    let longest = format!(r#"{{"new_changeset": {{"m": [{}0]}}, "repo": "r"}}"#, r#""","#.repeat(40_000));
    let stream = format!("{}\n{longest}\n", bad.join("\n"));
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let ingest = Ingest::new(&source, Parser::new(Files::below(dir.path()).unwrap()), options(4, 1))
        .embedder(&embedder);
    let run = ingest.run(&mut lines(&stream, &source)).unwrap();
    assert_eq!((run.dead_lettered, run.rejected, run.in_flight()), (bad.len() as u64, 1, 0));
    for (letter, line) in source.dead_letters().unwrap().iter().zip(&bad) {
        assert_eq!(letter.payload, line.as_bytes());
        assert!(letter.message.len() < 5000, "{}", letter.message.len());
    }
}

#[test]
fn a_run_that_is_stopped_while_its_embedder_is_down_is_interrupted_and_has_not_failed() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let embedder = Scripted::new(|_: &[&str]| {
        stop.store(true, Ordering::Release);
        Some(Err(down()))
    });
    let stream = "{\"path\": \"a\", \"content\": \"1\"}\n{\"path\": \"b\", \"op\": \"delete\"}\n";
    let ingest = Ingest::new(&source, Parser::new(Files::none()), options(10, 1));
    let run = ingest.embedder(&embedder).stop(Arc::clone(&stop)).run(&mut lines(stream, &source)).unwrap();
    assert_eq!((run.state, run.received, run.in_flight()), (RunState::Interrupted, 2, 1));
}

#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn a_worker_that_panics_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let embedder = Scripted::new(|_: &[&str]| panic!("the embedder has a bug"));
    let stream = "{\"path\": \"a\", \"content\": \"1\"}\n".repeat(20);
    let ingest = Ingest::new(&source, Parser::new(Files::none()), options(1, 4)).embedder(&embedder);
    drop(ingest.run(&mut lines(&stream, &source)));
}

#[test]
fn files_that_were_set_aside_are_so_once_and_are_tried_again_whatever_they_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let root = dir.path().join("docs");
    std::fs::create_dir(&root).unwrap();
    let names = ["{a}.md", "  ", " lead", "two\nlines"];
    for name in names {
        std::fs::write(root.join(name), format!("poison {name}")).unwrap();
    }
    std::fs::write(root.join("bytes"), b"\xff").unwrap();
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt as _;
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff name")), "text").unwrap();
    }
    let run = |embedder: &dyn Embedder, is_retry: bool| {
        let parser = Parser::of_paths(Files::below(&root).unwrap());
        let ingest = Ingest::new(&source, parser, options(2, 1)).embedder(embedder);
        let mut folder = Folder::compare(&root, &WalkOptions::default(), &source).unwrap();
        if is_retry { ingest.retry(None).unwrap() } else { ingest.run(&mut folder).unwrap() }
    };
    let refusing = Scripted::new(|texts: &[&str]| {
        let poison = || Err(Failure::new(FailureClass::Validation, "it is poison"));
        Some(Ok(texts.iter().map(|_| poison()).collect()))
    });
    let set_aside = names.len() as u64 + 1 + u64::from(cfg!(target_os = "linux"));
    for _ in 0..3 {
        run(&refusing, false);
        assert_eq!(source.status().unwrap().counts.dead_lettered, set_aside);
        is_conserved(&source);
    }
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    assert_eq!(run(&embedder, true).committed, names.len() as u64);
    // A document is the same, whether it was stored at first or only when it was tried again.
    let documents = |source: &Source| {
        let found = source.collection().scan().unwrap().map(Result::unwrap);
        found.map(|document| (document.key.clone(), document)).collect::<BTreeMap<_, _>>()
    };
    let retried = documents(&source);
    {
        let other = tempfile::tempdir().unwrap();
        let (_db, source) = create(other.path());
        let parser = Parser::of_paths(Files::below(&root).unwrap());
        let mut folder = Folder::compare(&root, &WalkOptions::default(), &source).unwrap();
        Ingest::new(&source, parser, options(2, 1)).embedder(&embedder).run(&mut folder).unwrap();
        assert_eq!(retried, documents(&source));
    }
    assert_eq!(
        texts(&source).keys().map(String::as_str).collect::<Vec<_>>(),
        ["  ", " lead", "two\nlines", "{a}.md"]
    );
    // One that was mended, or is gone, is not set aside any more.
    std::fs::write(root.join("bytes"), "text").unwrap();
    run(&embedder, false);
    let left = source.dead_letters().unwrap();
    assert!(left.iter().all(|letter| letter.payload != b"bytes"), "{left:?}");
    assert!(texts(&source).contains_key("bytes"));
}

#[test]
fn a_file_that_could_be_read_only_when_it_was_tried_again_is_known_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let root = dir.path().join("docs");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("other"), "text").unwrap();
    std::fs::write(root.join("file"), "text").unwrap();
    // As a walk leaves it that was not allowed to read the file.
    let mut step = Step::new();
    step.dead_letter(DeadLetter::new(0, FailureClass::FileSystem, "permission denied", *b"file"));
    source.commit(&step).unwrap();
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let ingest = || {
        let parser = Parser::of_paths(Files::below(&root).unwrap());
        Ingest::new(&source, parser, options(2, 1)).embedder(&embedder)
    };
    assert_eq!(ingest().retry(None).unwrap().committed, 1);
    std::fs::remove_file(root.join("file")).unwrap();
    let run = ingest().run(&mut Folder::compare(&root, &WalkOptions::default(), &source).unwrap()).unwrap();
    assert_eq!((run.stored(), run.removed), (1, 1));
    assert_eq!(texts(&source).into_keys().collect::<Vec<_>>(), ["other"]);
}

#[test]
fn what_an_interrupted_walk_did_not_do_leaves_no_gap_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let root = dir.path().join("docs");
    std::fs::create_dir(&root).unwrap();
    for file in 0..6 {
        std::fs::write(root.join(format!("{file}")), if file % 2 == 0 { "text" } else { "" }).unwrap();
    }
    let run = |embedder: &dyn Embedder| {
        let parser = Parser::of_paths(Files::below(&root).unwrap());
        let ingest = Ingest::new(&source, parser, options(6, 1)).embedder(embedder).policies(eager());
        ingest.run(&mut Folder::compare(&root, &WalkOptions::default(), &source).unwrap())
    };
    let broken = Scripted::new(|_: &[&str]| Some(Err(down())));
    assert!(run(&broken).is_err());
    assert!(!source.status().unwrap().gaps.is_empty(), "empty files need no embedder");
    let ended = run(&HashEmbedder::new(DIMENSION).unwrap()).unwrap();
    let status = source.status().unwrap();
    assert_eq!((ended.state, status.gaps.len(), status.position), (RunState::Completed, 0, status.end));
    is_conserved(&source);
}

/// Numbers by chance, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A stream of operations on few documents, and what it comes to if they are done one after the other and nothing fails.
fn random_stream(random: &mut Random) -> (String, BTreeMap<String, Option<String>>, Vec<String>) {
    let (mut stream, mut expected, mut missing) = (String::new(), BTreeMap::new(), Vec::new());
    for item in 0..random.below(60) + 1 {
        let key = format!("k{}", random.below(4));
        match random.below(9) {
            0 | 1 => {
                writeln!(stream, r#"{{"path": "{key}", "op": "delete"}}"#).unwrap();
                expected.remove(&key);
            }
            2 => {
                // Needs no embedder, and so can be stored while the others can not.
                writeln!(stream, r#"{{"id": "{key}", "text": "row {item}", "vector": [1,2,3,4,5,6,7,8]}}"#)
                    .unwrap();
                expected.insert(key, Some(format!("row {item}")));
            }
            3 => {
                writeln!(stream, r#"{{"path": "{key}", "content_ref": "late {item}"}}"#).unwrap();
                missing.push(format!("late {item}"));
                expected.insert(key, Some(format!("late {item}")));
            }
            4 => {
                writeln!(stream, r#"{{"path": "{key}", "content": "poison {item}"}}"#).unwrap();
                expected.insert(key, Some(format!("poison {item}")));
            }
            5 => writeln!(stream, r#"{{"new_changeset": {{"n": {item}}}}}"#).unwrap(),
            _ => {
                writeln!(stream, r#"{{"path": "{key}", "content": "text {item}"}}"#).unwrap();
                expected.insert(key, Some(format!("text {item}")));
            }
        }
    }
    (stream, expected, missing)
}

/// Sets the word to stop after so many items.
struct Stopping<'a>(Lines, u64, &'a AtomicBool);

impl Feed for Stopping<'_> {
    fn next(&mut self) -> Result<Fed, InputError> {
        match self.1.checked_sub(1) {
            Some(left) => self.1 = left,
            None => self.2.store(true, Ordering::Release),
        }
        self.0.next()
    }
}

fn is_conserved(source: &Source) {
    let status = source.status().unwrap();
    let gaps: u64 = status.gaps.iter().map(|gap| gap.end - gap.start).sum();
    assert_eq!(status.counts.done() + gaps, status.end);
    assert_eq!(status.counts.dead_lettered, source.dead_letters().unwrap().len() as u64);
}

/// Outages, stops, poison and many workers: after the last run and a retry, all is as if each operation had been done after
/// the one before it.
fn random_runs(seed: u64) {
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let (_db, source) = create(dir.path());
    let (stream, expected, missing) = random_stream(&mut random);
    let parser = || Parser::new(Files::below(dir.path()).unwrap());
    for attempt in 0.. {
        let (batch, workers) = (1 + random.below(5) as usize, 1 + random.below(8) as usize);
        let calm = attempt > 4;
        let outage_after = if calm { u64::MAX } else { random.below(12) };
        let stop = Arc::new(AtomicBool::new(false));
        let calls = AtomicU64::new(0);
        let embedder = Scripted::new(|texts: &[&str]| {
            if calls.fetch_add(1, Ordering::Relaxed) > outage_after {
                return Some(Err(down()));
            }
            let poison = |text: &&str| text.contains("poison");
            texts.iter().any(poison).then(|| {
                let inner = HashEmbedder::new(DIMENSION).unwrap();
                let vectors = inner.embed(texts, TextKind::Passage)?;
                let invalid = || Err(Failure::new(FailureClass::Validation, "it is poison"));
                let results = texts.iter().zip(vectors);
                Ok(results.map(|(text, vector)| if poison(text) { invalid() } else { vector }).collect())
            })
        });
        let ingest = Ingest::new(&source, parser(), options(batch, workers))
            .embedder(&embedder)
            .policies(eager())
            .stop(Arc::clone(&stop));
        let after = if calm { u64::MAX } else { random.below(50) };
        let ended = ingest.run(&mut Stopping(lines(&stream, &source), after, &stop));
        is_conserved(&source);
        match ended {
            Ok(run) if run.state == RunState::Completed => break,
            Ok(_) | Err(IngestError::Embedder(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
        // Some retries come in between, while the causes are still there.
        if random.below(3) == 0 {
            let again =
                Ingest::new(&source, parser(), options(batch, 1)).embedder(&embedder).policies(eager());
            drop(again.retry(None));
            is_conserved(&source);
        }
    }
    for file in &missing {
        std::fs::write(dir.path().join(file), file).unwrap();
    }
    let embedder = HashEmbedder::new(DIMENSION).unwrap();
    let ingest = Ingest::new(&source, parser(), options(3, 1)).embedder(&embedder).policies(eager());
    ingest.retry(None).unwrap();
    is_conserved(&source);
    let status = source.status().unwrap();
    assert_eq!((status.counts.dead_lettered, status.gaps.len()), (0, 0), "seed {seed}");
    assert_eq!(status.position, stream.lines().count() as u64, "seed {seed}");
    assert_eq!(texts(&source), expected, "seed {seed}:\n{stream}");
}

#[test]
fn through_outages_stops_and_poison_the_end_is_that_of_one_operation_after_the_other() {
    let first = std::env::var("PLIMSOLL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..60, |seed| seed..seed + 1);
    seeds.for_each(random_runs);
}
