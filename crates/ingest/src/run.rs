//! A run: reads a stream from where its source is, makes documents of it, and commits them batch by batch.
//!
//! ```text
//! feed ─► parse ─ batch ─► cut ─► embed (retries, breaker) ─► commit: rows, position, dead letters, history, one record
//!  ▲                        └────── workers, so many batches in hand ─────┘                │
//!  └───────────────────────────── room for another batch ◄────────────────────────────────┘
//! ```
//!
//! **Promises** that operations on one document take effect in the order of the stream, that each item is stored once,
//! set aside with its payload, or rejected, and that what was read and is not committed is never more than a batch for
//! each worker. **On a crash** the next run reads these again, and stores nothing twice.

mod commit;
mod feed;
mod history;
mod order;
mod prepare;
mod syncer;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use plimsoll::{Durability, Source, Step};

pub use feed::{Fed, Feed, Folder, Item, Lines, Work};
pub use history::{ChangesetRecord, History, Origin, Repository, Run, RunState};

use crate::chunk::Chunking;
use crate::embed::Embedder;
use crate::error::IngestError;
use crate::failure::{Failure, FailureClass};
use crate::input::{Line, Parser};
use crate::ledger::{Follower, Ledger};
use crate::retry::Policies;
use commit::Committer;
pub use commit::PassedOver;
pub(crate) use commit::StepNews;
use order::Order;
use prepare::{Parsed, Workshop, keys};
use syncer::Syncer;

/// A batch is closed when it has so many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// How a run goes about it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunOptions {
    /// How many items are one atomic write. Default 100, at least 1.
    pub batch_size: usize,
    /// How many batches are in hand at a time. Default 1, at least 1.
    pub workers: usize,
    /// How many items are read a second at most. Default: as many as there are.
    pub rate: Option<f64>,
    /// How texts are cut. Default: `tokens:256:32`.
    pub chunking: Chunking,
    /// Whether dead letters are tried again, before anything is read, whose time has come. Default: yes.
    pub retry_due: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { batch_size: 100, workers: 1, rate: None, chunking: Chunking::default(), retry_due: true }
    }
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The run so far.
    pub run: Run,
    /// What the last step has set aside.
    pub set_aside: Vec<plimsoll::DeadLetter>,
    /// What the last step has passed over.
    pub passed_over: Vec<PassedOver>,
}

/// Fills a collection from a source. See [`Ingest::run`].
pub struct Ingest<'a> {
    source: &'a Source,
    embedder: Option<&'a dyn Embedder>,
    parser: Parser,
    options: RunOptions,
    policies: Policies,
    ledger: Option<&'a Ledger>,
    stop: Arc<AtomicBool>,
    retries: Box<dyn Fn() -> u64 + Sync + 'a>,
    watch: Box<dyn Fn(&Progress) + Sync + 'a>,
}

impl fmt::Debug for Ingest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingest({:?}, {:?})", self.source.name(), self.options)
    }
}

impl<'a> Ingest<'a> {
    /// Ingestion into the collection of a source. `parser` reads the lines, and the files that they name.
    pub fn new(source: &'a Source, parser: Parser, options: RunOptions) -> Self {
        Self {
            source,
            embedder: None,
            parser,
            options,
            policies: Policies::default(),
            ledger: None,
            stop: Arc::new(AtomicBool::new(false)),
            retries: Box::new(|| 0),
            watch: Box::new(|_| ()),
        }
    }

    /// Has texts embedded. Without an embedder every document must bring its vectors.
    #[must_use]
    pub fn embedder(mut self, embedder: &'a dyn Embedder) -> Self {
        self.embedder = Some(embedder);
        self
    }

    /// Has a ledger show what is going on.
    #[must_use]
    pub fn ledger(mut self, ledger: &'a Ledger) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Says how failures of each class are tried again: how often a write is, and when dead letters are. An embedder that
    /// tries again by itself ([`Patient`](crate::Patient)) should have the same.
    #[must_use]
    pub fn policies(mut self, policies: Policies) -> Self {
        self.policies = policies;
        self
    }

    /// Asks this how many attempts were repeated, for the record of the run.
    #[must_use]
    pub fn count_retries(mut self, retries: impl Fn() -> u64 + Sync + 'a) -> Self {
        self.retries = Box::new(retries);
        self
    }

    fn retries(&self) -> u64 {
        (self.retries)()
    }

    /// Ends the run after the batches in hand as soon as this is set.
    #[must_use]
    pub fn stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Calls this after each step.
    #[must_use]
    pub fn watch(mut self, watch: impl Fn(&Progress) + Sync + 'a) -> Self {
        self.watch = Box::new(watch);
        self
    }

    /// Reads the feed to its end, and commits what comes. Returns the run as it was recorded.
    ///
    /// # Errors
    /// As they are in [`IngestError`]. What was committed before stays; the run is recorded with the error.
    pub fn run(&self, feed: &mut dyn Feed) -> Result<Run, IngestError> {
        let shared = Shared::new(self)?;
        shared.is_at(feed.progress(), true);
        let ended = self.retry_due(&shared).and_then(|()| {
            self.read(feed, &shared)?;
            if !self.is_stopped() {
                shared.is_at(feed.progress(), false);
            }
            Ok(())
        });
        self.end(shared, ended)
    }

    /// Tries dead letters again: those at `positions`, or all. Returns the run as it was recorded.
    ///
    /// # Errors
    /// As [`Ingest::run`].
    pub fn retry(&self, positions: Option<&[u64]>) -> Result<Run, IngestError> {
        let shared = Shared::new(self)?;
        let wanted = |position: u64| positions.is_none_or(|positions| positions.contains(&position));
        let ended = self.retry_those(&shared, |letter| wanted(letter.position));
        self.end(shared, ended)
    }

    fn retry_due(&self, shared: &Shared<'_>) -> Result<(), IngestError> {
        if !self.options.retry_due {
            return Ok(());
        }
        let now = SystemTime::now();
        self.retry_those(shared, |letter| letter.retry_at.is_some_and(|at| at <= now))
    }

    fn retry_those(
        &self,
        shared: &Shared<'_>,
        wanted: impl Fn(&plimsoll::DeadLetter) -> bool,
    ) -> Result<(), IngestError> {
        let letters: Vec<_> = self.source.dead_letters()?.into_iter().filter(wanted).collect();
        for batch in letters.chunks(self.options.batch_size.max(1)) {
            if self.is_stopped() {
                return Ok(());
            }
            let mut committer = shared.committer.lock();
            let open = batch.iter().filter(|letter| committer.is_open(letter.position));
            let parsed: Vec<Parsed> = open
                .map(|letter| {
                    shared.workshop.parse_again(letter.position, letter.payload.clone(), letter.attempts)
                })
                .collect();
            committer.recorder.run.received += parsed.len() as u64;
            let (prepared, error) = shared.workshop.prepare(parsed);
            committer.commit(prepared, None, Durability::Durable, &mut |news, recorder| {
                shared.tell(news, &recorder.run);
            })?;
            if let Some(error) = error {
                return Err(error);
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn read(&self, feed: &mut dyn Feed, shared: &Shared<'_>) -> Result<(), IngestError> {
        if self.options.workers <= 1 {
            return self.read_alone(feed, shared);
        }
        let workers = self.options.workers;
        let (send, receive) = std::sync::mpsc::sync_channel::<Batch>(workers);
        let receive = Mutex::new(receive);
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let batch = receive.lock().recv();
                        let Ok(batch) = batch else { return };
                        shared.work(batch);
                    }
                });
            }
            let read = self.feed_batches(feed, shared, |batch| {
                let Some(batch) = batch else { return };
                // The workers live as long as this end of the channel.
                let _sent = send.send(batch);
                shared.order.wait_for_room(workers);
            });
            drop(send);
            read
        })?;
        shared.failed.lock().take().map_or(Ok(()), Err)
    }

    fn read_alone(&self, feed: &mut dyn Feed, shared: &Shared<'_>) -> Result<(), IngestError> {
        thread::scope(|scope| {
            let syncer = Syncer::start(scope, self.source);
            let read = self.feed_batches(feed, shared, |batch| {
                if let Err(error) = syncer.wait() {
                    shared.failed.lock().get_or_insert(error.into());
                }
                if let Some(batch) = batch {
                    shared.work(batch);
                    syncer.begin();
                }
            });
            let synced = syncer.wait();
            read?;
            synced.map_err(IngestError::from)
        })?;
        shared.failed.lock().take().map_or(Ok(()), Err)
    }

    /// Reads batches until the feed ends, the run is to stop, or a worker has failed. `None` is handed on where there is
    /// nothing to read at the moment.
    fn feed_batches(
        &self,
        feed: &mut dyn Feed,
        shared: &Shared<'_>,
        mut hand_on: impl FnMut(Option<Batch>),
    ) -> Result<(), IngestError> {
        let started = Instant::now();
        // From here on nothing is done.
        let end = self.source.status()?.end;
        let mut given = 0u64;
        let mut batch = Batch::default();
        let mut hand_on = |batch: &mut Batch, feed: &dyn Feed| {
            if batch.items.is_empty() {
                return hand_on(None);
            }
            let next = Batch {
                number: batch.number + 1,
                items: Vec::with_capacity(batch.items.len()),
                ..Batch::default()
            };
            let mut full = std::mem::replace(batch, next);
            full.progress = feed.progress();
            // Who works alone does one batch after the other.
            let keys = if self.options.workers > 1 { keys(&full.items) } else { HashSet::new() };
            shared.order.enter(full.number, keys);
            hand_on(Some(full));
        };
        let ended = loop {
            if self.is_stopped() || shared.failed.lock().is_some() {
                break Ok(());
            }
            let fed = match feed.next() {
                Ok(fed) => fed,
                Err(error) => break Err(error.into()),
            };
            match fed {
                Fed::End => break Ok(()),
                Fed::Idle => {
                    hand_on(&mut batch, feed);
                    shared.follower.iter().for_each(Follower::write_if_due);
                    continue;
                }
                // What came after the word to stop may be half of an item.
                Fed::Item(_) if self.is_stopped() => break Ok(()),
                Fed::Item(item) => {
                    if item.position < end && self.source.is_done(item.position) {
                        continue;
                    }
                    batch.bytes += item.bytes();
                    batch.last = item.line().cloned();
                    batch.items.push(shared.workshop.parse(*item));
                    given += 1;
                    self.hold_back(started, given);
                }
            }
            if batch.items.len() >= self.options.batch_size || batch.bytes >= BATCH_BYTES {
                hand_on(&mut batch, feed);
            }
        };
        hand_on(&mut batch, feed);
        ended
    }

    /// Keeps to the rate.
    fn hold_back(&self, started: Instant, given: u64) {
        let Some(rate) = self.options.rate.filter(|rate| *rate > 0.0) else { return };
        let due = Duration::try_from_secs_f64(given as f64 / rate).unwrap_or(Duration::MAX);
        // Whoever waits for this asks whether the run is to stop.
        let _passed = wait_unless(&self.stop, started, due);
    }

    /// Records how the run ended.
    fn end(&self, shared: Shared<'_>, ended: Result<(), IngestError>) -> Result<Run, IngestError> {
        let mut committer = shared.committer.lock();
        let run = &mut committer.recorder.run;
        run.retries = self.retries();
        // The word to stop cuts the waits between attempts short: what the embedder said last did not end the run.
        let ended = match ended {
            Err(IngestError::Embedder(_)) if self.is_stopped() => Ok(()),
            ended => ended,
        };
        run.state = match &ended {
            Ok(()) if self.is_stopped() => RunState::Interrupted,
            Ok(()) => RunState::Completed,
            Err(_) => RunState::Failed,
        };
        run.error = ended.as_ref().err().map(ToString::to_string);
        let mut step = Step::new();
        committer.recorder.run(&mut step);
        let recorded = self.source.commit(&step);
        let run = committer.recorder.run.clone();
        // The ledger says what the database does.
        if let Some(follower) = shared.follower.as_ref().filter(|_| recorded.is_ok()) {
            follower.end(&run);
        }
        ended?;
        recorded?;
        Ok(run)
    }
}

/// Waits until so much time has passed since `begin`; false if the run is to stop before.
fn wait_unless(stop: &AtomicBool, begin: Instant, time: Duration) -> bool {
    while !stop.load(Ordering::Acquire) {
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
    false
}

/// Items that are committed together.
#[derive(Default)]
struct Batch {
    number: u64,
    items: Vec<Parsed>,
    /// The last line, if it is lines that are read.
    last: Option<Line>,
    bytes: usize,
    progress: (u64, Option<u64>),
}

/// Says in the end that a batch is done, or given up.
struct Leave<'a, 'r> {
    shared: &'a Shared<'r>,
    number: u64,
}

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let failure = Failure::new(FailureClass::Unknown, "a worker has panicked");
            self.shared.failed.lock().get_or_insert(IngestError::Embedder(failure));
        }
        self.shared.order.leave(self.number);
    }
}

/// What the reader and the workers of a run share.
struct Shared<'r> {
    ingest: &'r Ingest<'r>,
    workshop: Workshop<'r>,
    committer: Mutex<Committer<'r>>,
    order: Order,
    follower: Option<Follower<'r>>,
    failed: Mutex<Option<IngestError>>,
}

impl<'r> Shared<'r> {
    fn new(ingest: &'r Ingest<'r>) -> Result<Self, IngestError> {
        let workshop = Workshop {
            parser: &ingest.parser,
            chunking: ingest.options.chunking,
            embedder: ingest.embedder,
            dimension: ingest.source.collection().dimension(),
            policies: &ingest.policies,
            stop: &ingest.stop,
        };
        Ok(Self {
            ingest,
            workshop,
            committer: Mutex::new(Committer::new(ingest.source, &ingest.policies, &ingest.stop)?),
            order: Order::default(),
            follower: ingest.ledger.map(|ledger| Follower::new(ledger, ingest.source)),
            failed: Mutex::new(None),
        })
    }

    /// Takes note of how far the feed is: where it begins, or where it ends.
    fn is_at(&self, (read, total): (u64, Option<u64>), is_beginning: bool) {
        let run = &mut self.committer.lock().recorder.run;
        (run.read, run.total) = (read, total);
        if is_beginning {
            run.read_before = read;
        }
    }

    /// Makes documents of a batch and commits it.
    fn work(&self, batch: Batch) {
        let number = batch.number;
        // Also when an embedder panics: whoever waits for this batch would wait for ever.
        let _leave = Leave { shared: self, number };
        // After an error nothing more is begun.
        if self.failed.lock().is_some() {
            self.committer.lock().recorder.run.received += batch.items.len() as u64;
        } else {
            self.prepare_and_commit(batch);
        }
    }

    fn prepare_and_commit(&self, batch: Batch) {
        let Batch { number, items, last, progress, .. } = batch;
        let state = last.map(|line| line.place().to_state());
        let received = items.len() as u64;
        let (prepared, error) = self.workshop.prepare(items);
        self.order.wait_for_turn(number);
        let mut committer = self.committer.lock();
        // What an earlier batch could not store is done by the next run. What comes after it about the same document must
        // not be done before that, and this batch may have waited for just that one.
        if self.failed.lock().is_some() {
            committer.recorder.run.received += received;
            return;
        }
        let run = &mut committer.recorder.run;
        run.received += received;
        run.retries = self.ingest.retries();
        // What could not be embedded is read again.
        let read = run.read;
        if error.is_none() {
            (run.read, run.total) = (read.max(progress.0), progress.1);
        }
        // Where one batch is in hand at a time, it is synced while the next one is read.
        let durability =
            if self.ingest.options.workers <= 1 { Durability::Buffered } else { Durability::Durable };
        let committed =
            committer.commit(prepared, Some((number, state)), durability, &mut |news, recorder| {
                self.tell(news, &recorder.run);
            });
        if committed.is_err() {
            committer.recorder.run.read = read;
        }
        // While nobody else can commit: no batch after this one is to be stored in the place of it.
        if let Err(error) = committed.and(error.map_or(Ok(()), Err)) {
            self.failed.lock().get_or_insert(error);
        }
    }

    /// Tells the ledger and whoever watches.
    fn tell(&self, news: StepNews, run: &Run) {
        let (set_aside, passed_over) = (news.set_aside.clone(), news.passed_over.clone());
        if let Some(follower) = &self.follower {
            follower.note(run, news);
        }
        (self.ingest.watch)(&Progress { run: run.clone(), set_aside, passed_over });
    }
}
