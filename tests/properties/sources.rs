//! Sources: each position of a stream is done exactly once, and what is known about it is as of the same step as the data,
//! whatever interrupts whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plimsoll::{
    CollectionConfig, Database, DatabaseBuilder, DeadLetter, Document, Durability, Error, FailureClass, Key,
    Metric, ReadOnlyDatabase, Source, SourceError, Step,
};
use plimsoll_sim::{CrashPolicy, SimStorage};
use plimsoll_torture::random::{Random, seeds};

const DIR: &str = "/db";
const SOURCE: &str = "stream";
const COLLECTION: &str = "c";
const ITEMS: u64 = 24;
const KEYS: u64 = 5;
/// The number of an operation that is never reached.
const NEVER: u64 = u64::MAX;

fn builder(disk: &SimStorage) -> DatabaseBuilder {
    Database::builder(DIR).background(false).seed(1).storage(Arc::new(disk.clone()))
}

fn open_source(db: &Database) -> Source {
    db.create_collection(COLLECTION, CollectionConfig::new(2, Metric::L2)).unwrap();
    db.source(SOURCE, COLLECTION).unwrap().fingerprint("f").open().unwrap()
}

fn opened(disk: &SimStorage) -> (Database, Source) {
    disk.put_dir(DIR).unwrap();
    let db = builder(disk).open().unwrap();
    let source = open_source(&db);
    (db, source)
}

fn document(position: u64) -> Document {
    Document::new(position % KEYS).text(format!("item {position}")).vector([position as f32, 1.0])
}

fn at(position: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + position)
}

/// The payload is no text for odd positions.
fn letter(position: u64, attempts: u32) -> DeadLetter {
    let payload =
        if position.is_multiple_of(2) { b"{\"bad\": 1}".to_vec() } else { vec![0xFF, position as u8, 0] };
    DeadLetter::new(position, FailureClass::Validation, format!("poison {position}"), payload)
        .key(position % KEYS)
        .attempts(attempts)
        .failed_at(at(position))
}

/// What a database should hold after some steps: the naive oracle.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    done: BTreeSet<u64>,
    committed: u64,
    rejected: u64,
    letters: BTreeMap<u64, DeadLetter>,
    documents: BTreeMap<u64, u64>,
    entries: BTreeMap<String, Vec<u8>>,
    state: Vec<u8>,
}

/// What is done at a position.
#[derive(Debug, Clone, Copy)]
enum Act {
    Upsert,
    Delete,
    Nothing,
    Reject,
    Fail(u32),
}

/// A step and what it makes of the model.
#[derive(Debug, Clone, Default)]
struct Planned {
    acts: Vec<(u64, Act)>,
    state: Option<Vec<u8>>,
    entries: Vec<(String, Option<Vec<u8>>)>,
}

impl Planned {
    fn step(&self) -> Step {
        let mut step = Step::new();
        for (position, act) in &self.acts {
            match act {
                Act::Upsert => step.upsert(*position, document(*position)),
                Act::Delete => step.delete(*position, *position % KEYS),
                Act::Nothing => step.committed(*position),
                Act::Reject => step.rejected(*position),
                Act::Fail(attempts) => step.dead_letter(letter(*position, *attempts)),
            };
        }
        if let Some(state) = &self.state {
            step.state(state.clone());
        }
        for (key, value) in &self.entries {
            match value {
                Some(value) => step.put_entry(key.clone(), value.clone()),
                None => step.remove_entry(key.clone()),
            };
        }
        step
    }
}

impl Model {
    fn after(&self, planned: &Planned) -> Self {
        let mut next = self.clone();
        for (position, act) in &planned.acts {
            next.done.insert(*position);
            next.letters.remove(position);
            let key = position % KEYS;
            match act {
                Act::Upsert => {
                    next.documents.insert(key, *position);
                }
                Act::Delete => {
                    next.documents.remove(&key);
                }
                Act::Nothing => {}
                Act::Reject => {
                    next.rejected += 1;
                    continue;
                }
                Act::Fail(attempts) => {
                    next.letters.insert(*position, letter(*position, *attempts));
                    continue;
                }
            }
            next.committed += 1;
        }
        if let Some(state) = &planned.state {
            next.state.clone_from(state);
        }
        for (key, value) in &planned.entries {
            match value {
                Some(value) => next.entries.insert(key.clone(), value.clone()),
                None => next.entries.remove(key),
            };
        }
        next
    }

    /// What a database holds, read through every call that tells something of it; panics if they do not agree.
    fn read(db: &Database, source: &Source) -> Self {
        let status = source.status().unwrap();
        assert_eq!(db.sources().unwrap(), std::slice::from_ref(&status));
        let letters = source.dead_letters().unwrap();
        for letter in &letters {
            assert_eq!(source.dead_letter(letter.position).unwrap().as_ref(), Some(letter));
        }
        assert_eq!(status.counts.dead_lettered, letters.len() as u64);
        let done: BTreeSet<u64> = (0..status.end).filter(|position| source.is_done(*position)).collect();
        assert!(done.contains(&status.position.saturating_sub(1)) || status.position == 0);
        assert!(!done.contains(&status.position));
        let gaps: u64 = status.gaps.iter().map(|gap| gap.end - gap.start).sum();
        assert_eq!(done.len() as u64 + gaps, status.end, "{:?}", status.gaps);
        // Conservation: whatever was received is in one of these, or in hand.
        assert_eq!(status.counts.done(), done.len() as u64);
        let entries = source.entries().unwrap();
        for (key, value) in &entries {
            assert_eq!(source.entry(key).unwrap().as_ref(), Some(value));
        }
        let documents = source.collection().scan().unwrap().map(|found| {
            let found = found.unwrap();
            let position = found.postings[0].vector[0] as u64;
            assert_eq!(found, document(position));
            (position % KEYS, position)
        });
        Self {
            done,
            committed: status.counts.committed,
            rejected: status.counts.rejected,
            letters: letters.into_iter().map(|letter| (letter.position, letter)).collect(),
            documents: documents.collect(),
            entries: entries.into_iter().collect(),
            state: source.state(),
        }
    }

    fn received(&self) -> u64 {
        self.committed + self.rejected + self.letters.len() as u64
    }
}

/// A step of some positions that are not done, or are dead letters, within a window above the watermark: as workers do
/// that finish out of order.
fn plan(random: &mut Random, model: &Model) -> Planned {
    let first = (0..).find(|position| !model.done.contains(position)).unwrap();
    let free = (first..(first + 8).min(ITEMS)).filter(|position| !model.done.contains(position));
    let candidates: Vec<u64> = free.chain(model.letters.keys().copied()).collect();
    let mut planned = Planned::default();
    for position in candidates {
        if !random.percent(45) {
            continue;
        }
        let attempts = model.letters.get(&position).map_or(0, |letter| letter.attempts);
        let act = match random.below(10) {
            0 => Act::Delete,
            1 => Act::Nothing,
            2 => Act::Reject,
            3 | 4 if attempts < 3 => Act::Fail(attempts + 1),
            _ => Act::Upsert,
        };
        planned.acts.push((position, act));
    }
    if random.percent(50) {
        planned.state = Some((0..random.below(9)).map(|_| random.bits() as u8).collect());
    }
    for _ in 0..random.below(3) {
        let key = format!("file {}", random.below(4));
        let value = random.percent(70).then(|| vec![random.bits() as u8, 0xFF]);
        planned.entries.push((key, value));
    }
    planned
}

/// One run: steps, flushes, compactions, reopening and crashes until everything is done.
fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut disk = SimStorage::new();
    let (mut db, mut source) = opened(&disk);
    let mut model = Model::default();
    let mut crashes = 0;
    while (model.done.len() as u64) < ITEMS || !model.letters.is_empty() {
        if crashes < 3 && random.percent(10) {
            disk.crash_at(disk.operations() + 1 + random.below(12) as u64);
            crashes += 1;
        }
        let planned = plan(&mut random, &model);
        let next = model.after(&planned);
        let durability = if random.percent(80) { Durability::Durable } else { Durability::Buffered };
        let committed = source.commit_with(&planned.step(), durability).and_then(|_| match durability {
            Durability::Durable => Ok(()),
            _ => db.sync().map(drop),
        });
        let committed = committed.and_then(|()| match random.below(12) {
            0 => db.flush().map(drop),
            1 => db.compact().map(drop),
            2 => db
                .drop_collection("other")
                .map_or_else(|error| if disk.crashed() { Err(error) } else { Ok(()) }, |()| Ok(())),
            3 => db.create_collection("other", CollectionConfig::new(1, Metric::L2)).map(drop),
            _ => Ok(()),
        });
        if !disk.crashed() {
            committed.unwrap();
            model.clone_from(&next);
            if !random.percent(5) {
                continue;
            }
            if let Err(error) = db.close() {
                assert!(disk.crashed(), "{error}");
            }
        }
        drop(source);
        drop(db);
        if disk.crashed() {
            let policy = match random.below(3) {
                0 => CrashPolicy::LoseAll,
                1 => CrashPolicy::KeepAll,
                _ => CrashPolicy::Random(random.bits()),
            };
            disk = disk.after_crash(policy);
        } else {
            disk.crash_at(NEVER);
        }
        (db, source) = opened(&disk);
        let found = Model::read(&db, &source);
        assert!(found == model || found == next, "found {found:?}, not {model:?} nor {next:?}");
        model = found;
    }
    disk.crash_at(NEVER);
    let found = Model::read(&db, &source);
    assert_eq!(found, model);
    assert_eq!((found.received(), source.position()), (ITEMS, ITEMS));
    drop(source);
    db.close().unwrap();
}

#[test]
fn received_is_committed_and_set_aside_and_rejected_whatever_crashes_when() {
    for seed in seeds("sources", 5_000) {
        run(seed);
    }
}

#[test]
fn a_crash_at_every_operation_leaves_position_and_data_of_one_step() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    let mut random = Random::new(7);
    let mut states = vec![(disk.operations(), Model::default())];
    for round in 0..12 {
        let last = &states.last().unwrap().1;
        let planned = plan(&mut random, last);
        let next = last.after(&planned);
        source.commit(&planned.step()).unwrap();
        if round % 4 == 3 {
            db.flush().unwrap();
        }
        states.push((disk.operations(), next));
    }
    drop(source);
    db.close().unwrap();
    let first = states[0].0;
    for number in first..=disk.operations() {
        // What was acknowledged before this operation is there; the next step may be.
        let acknowledged = states.iter().rposition(|(done, _)| *done < number).unwrap_or(0);
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(number)] {
            let crashed = disk.after_crash_at(number, policy);
            let (db, source) = opened(&crashed);
            let found = Model::read(&db, &source);
            let mut allowed = states[acknowledged..].iter().take(2).map(|(_, model)| model);
            assert!(allowed.any(|model| found == *model), "operation {number}, {policy:?}: {found:?}");
        }
    }
}

#[test]
fn a_position_is_done_once_and_a_refused_step_stores_nothing() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    let mut first = Step::new();
    first.upsert(0, document(0)).dead_letter(letter(2, 1)).rejected(5);
    source.commit(&first).unwrap();
    let before = Model::read(&db, &source);
    let refused = |step: &Step| match source.commit(step).unwrap_err() {
        Error::Source(error) => error,
        other => panic!("{other}"),
    };
    for position in [0, 5] {
        let mut again = Step::new();
        again.upsert(1, document(1)).upsert(position, document(position)).state(*b"new");
        assert_eq!(refused(&again), SourceError::AlreadyDone { position });
    }
    let mut twice = Step::new();
    twice.upsert(1, document(1)).rejected(1);
    assert_eq!(refused(&twice), SourceError::Twice { position: 1 });
    let mut large = Step::new();
    large.upsert(1, document(1)).state(vec![0; Step::MAX_STATE + 1]);
    assert!(matches!(refused(&large), SourceError::TooLarge { .. }));
    let mut large = Step::new();
    large.put_entry("e", vec![0; Step::MAX_ENTRY]);
    assert!(matches!(refused(&large), SourceError::TooLarge { .. }));
    let payload = vec![0xFF; DeadLetter::MAX_PAYLOAD + 1];
    let mut large = Step::new();
    large.dead_letter(DeadLetter::new(1, FailureClass::Memory, "too large", payload));
    assert!(matches!(refused(&large), SourceError::TooLarge { .. }));
    // What the collection refuses, the source has not done.
    let mut wrong = Step::new();
    wrong.upsert(1, Document::new(9).vector([1.0])).state(*b"new");
    assert!(matches!(source.commit(&wrong).unwrap_err(), Error::DimensionMismatch { .. }));
    assert_eq!(Model::read(&db, &source), before);
    // The largest that is allowed is kept, byte for byte.
    let mut largest = Step::new();
    let payload = vec![0xFF; DeadLetter::MAX_PAYLOAD];
    largest.dead_letter(DeadLetter::new(1, FailureClass::Memory, "large", payload.clone()));
    largest.state(vec![0xFE; Step::MAX_STATE]);
    source.commit(&largest).unwrap();
    assert_eq!(source.dead_letter(1).unwrap().unwrap().payload, payload);
    assert_eq!(source.state(), vec![0xFE; Step::MAX_STATE]);
}

#[test]
fn a_dead_letter_is_stored_once_when_its_cause_is_mended() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    let mut step = Step::new();
    for position in 0..10 {
        match position % 3 {
            0 => step.dead_letter(letter(position, 1)),
            _ => step.upsert(position, document(position)),
        };
    }
    source.commit(&step).unwrap();
    db.flush().unwrap();
    drop(source);
    let source = open_source(&db);
    assert_eq!(source.status().unwrap().counts.dead_lettered, 4);
    for found in source.dead_letters().unwrap() {
        let mut retried = Step::new();
        match found.position {
            9 => retried.dead_letter(letter(9, 2)),
            6 => retried.rejected(6),
            position => retried.upsert(position, document(position)),
        };
        source.commit(&retried).unwrap();
    }
    let mut again = Step::new();
    again.upsert(3, document(3));
    assert!(source.commit(&again).is_err(), "it is no dead letter any more");
    // One that does not say when it failed did so when it was committed.
    let mut timeless = Step::new();
    timeless.dead_letter(DeadLetter::new(9, FailureClass::Unknown, "no time", *b"x"));
    source.commit(&timeless).unwrap();
    assert!(source.dead_letter(9).unwrap().unwrap().failed_at > at(9));
    let mut timed = Step::new();
    timed.dead_letter(letter(9, 2));
    source.commit(&timed).unwrap();
    let counts = source.status().unwrap().counts;
    assert_eq!((counts.committed, counts.dead_lettered, counts.rejected), (8, 1, 1));
    assert_eq!(source.dead_letters().unwrap(), [letter(9, 2)]);
    // A reader process sees what is proven to be on disk.
    db.flush().unwrap();
    let reader = ReadOnlyDatabase::open_in(DIR.as_ref(), Arc::new(disk.clone()), false).unwrap();
    assert_eq!(reader.sources().unwrap(), db.sources().unwrap());
    assert_eq!(reader.dead_letters(SOURCE, COLLECTION).unwrap(), [letter(9, 2)]);
    let missing = reader.dead_letters("none", COLLECTION).unwrap_err();
    assert!(matches!(missing, Error::Source(SourceError::NotFound(_))), "{missing}");
}

#[test]
fn a_source_has_one_writer_and_only_its_own_input() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    let open = |name: &str| db.source(name, COLLECTION).unwrap();
    let refused = open(SOURCE).open().unwrap_err();
    assert!(matches!(refused, Error::Source(SourceError::InUse(_))), "{refused}");
    let mut step = Step::new();
    step.upsert(0, document(0)).dead_letter(letter(1, 1)).put_entry("e", *b"v").state(*b"s");
    source.commit(&step).unwrap();
    drop(source);
    // Without a fingerprint it is opened as it is.
    assert_eq!(open(SOURCE).open().unwrap().position(), 2);
    let refused = open(SOURCE).fingerprint("g").open().unwrap_err();
    assert!(matches!(refused, Error::Source(SourceError::FingerprintChanged { .. })), "{refused}");
    let missing = open("other").create(false).open().unwrap_err();
    assert!(matches!(missing, Error::Source(SourceError::NotFound(_))), "{missing}");
    for name in ["", "a\nb", &"x".repeat(256)] {
        assert!(matches!(open(name).open().unwrap_err(), Error::InvalidArgument(_)), "{name:?}");
    }
    // A name that begins like another one's is another source.
    let similar = open("stream 2").open().unwrap();
    let mut step = Step::new();
    step.dead_letter(letter(0, 1)).put_entry("e", *b"w");
    similar.commit(&step).unwrap();
    // A source that was begun without a fingerprint takes the first one that is given, and keeps it.
    drop(similar);
    drop(open("stream 2").fingerprint("h").open().unwrap());
    let refused = open("stream 2").fingerprint("g").open().unwrap_err();
    assert!(matches!(refused, Error::Source(SourceError::FingerprintChanged { .. })), "{refused}");
    let similar = open("stream 2").open().unwrap();
    assert_eq!((similar.position(), &similar.status().unwrap().fingerprint[..]), (1, "h"));
    let reset = open(SOURCE).fingerprint("g").reset(true).open().unwrap();
    let status = reset.status().unwrap();
    assert_eq!((status.position, status.counts.done(), &status.fingerprint[..]), (0, 0, "g"));
    assert!(reset.dead_letters().unwrap().is_empty() && reset.entries().unwrap().is_empty());
    assert!(reset.state().is_empty());
    assert_eq!(reset.collection().count().unwrap(), 1, "documents stay");
    reset.remove().unwrap();
    assert_eq!(db.sources().unwrap().len(), 1);
    assert_eq!(similar.dead_letters().unwrap(), [letter(0, 1)]);
    assert_eq!(similar.entries().unwrap(), [("e".to_owned(), b"w".to_vec())]);
}

#[test]
fn a_paused_source_takes_no_steps_until_it_is_resumed() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    source.pause().unwrap();
    drop(source);
    db.close().unwrap();
    let db = builder(&disk).open().unwrap();
    let source = open_source(&db);
    assert!(source.status().unwrap().is_paused);
    let mut step = Step::new();
    step.upsert(0, document(0));
    let refused = source.commit(&step).unwrap_err();
    assert!(matches!(refused, Error::Source(SourceError::Paused(_))), "{refused}");
    assert_eq!(source.collection().count().unwrap(), 0);
    source.resume().unwrap();
    source.commit(&step).unwrap();
    assert_eq!(source.collection().count().unwrap(), 1);
}

#[test]
fn sources_go_with_their_collection() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    let mut step = Step::new();
    step.upsert(0, document(0)).dead_letter(letter(1, 1));
    source.commit(&step).unwrap();
    db.drop_collection(COLLECTION).unwrap();
    assert!(db.sources().unwrap().is_empty());
    let mut late = Step::new();
    late.upsert(2, document(2));
    assert!(matches!(source.commit(&late).unwrap_err(), Error::CollectionNotFound(_)));
    drop(source);
    let source = open_source(&db);
    assert_eq!(Model::read(&db, &source), Model::default());
    assert!(db.source(SOURCE, "none").is_err());
}

#[test]
fn properties_are_kept_with_their_collection() {
    let disk = SimStorage::new();
    let (db, source) = opened(&disk);
    let collection = source.collection().clone();
    drop(source);
    collection.set_property("model", Some(b"m\xff")).unwrap();
    collection.set_property("other", Some(b"")).unwrap();
    let large = vec![0; plimsoll::MAX_PROPERTY_BYTES];
    assert!(matches!(collection.set_property("x", Some(&large)).unwrap_err(), Error::InvalidArgument(_)));
    db.flush().unwrap();
    let disk = disk.after_crash(CrashPolicy::LoseAll);
    let db = builder(&disk).open().unwrap();
    let collection = db.collection(COLLECTION).unwrap();
    assert_eq!(collection.property("model").unwrap().as_deref(), Some(&b"m\xff"[..]));
    assert_eq!(collection.property("other").unwrap().as_deref(), Some(&b""[..]));
    collection.set_property("other", None).unwrap();
    assert_eq!(collection.property("other").unwrap(), None);
    db.flush().unwrap();
    let reader = ReadOnlyDatabase::open_in(DIR.as_ref(), Arc::new(disk.clone()), false).unwrap();
    assert_eq!(reader.property(COLLECTION, "model").unwrap().as_deref(), Some(&b"m\xff"[..]));
    assert!(reader.property("none", "model").is_err());
    db.drop_collection(COLLECTION).unwrap();
    assert!(matches!(collection.property("model").unwrap_err(), Error::CollectionNotFound(_)));
    assert_eq!(open_source(&db).collection().property("model").unwrap(), None);
}

#[test]
fn workers_that_share_a_source_do_each_position_once() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let source = open_source(&db);
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let first = next.fetch_add(10, std::sync::atomic::Ordering::Relaxed);
                    if first >= 400 {
                        return;
                    }
                    let mut step = Step::new();
                    for position in first..first + 10 {
                        step.upsert(
                            position,
                            Document::new(Key::from(position)).vector([position as f32, 0.0]),
                        );
                    }
                    source.commit(&step).unwrap();
                }
            });
        }
    });
    assert_eq!((source.position(), source.status().unwrap().counts.committed), (400, 400));
    assert_eq!(source.collection().count().unwrap(), 400);
}
