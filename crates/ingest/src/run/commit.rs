//! From documents to a step of the source: operations in the order of the stream, dead letters, what they supersede, and
//! the place behind everything that is done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use blake3::Hash;
use plimsoll::{DeadLetter, Document, Durability, Error, Key, Source, Step};

use super::history::{ChangesetRecord, Recorder, Repository};
use super::prepare::{Outcome, Prepared};
use super::wait_unless;
use crate::error::IngestError;
use crate::failure::{Failure, FailureClass};
use crate::input::SkipReason;
use crate::retry::Policies;

/// What is kept of a payload that is larger than a dead letter's may be.
const HEAD: usize = 64 << 10;
/// So much is kept of what is said about a failure. It may quote the item.
const MESSAGE: usize = 4 << 10;
/// How long a write waits at most before it is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A step is divided if it would be larger.
const STEP_BYTES: usize = 64 << 20;

/// An item of which nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// Its position.
    pub position: u64,
    /// The document that it is about, where that is known.
    pub key: Option<Key>,
    /// Why.
    pub reason: SkipReason,
}

/// What one step has changed, for the ledger and for whoever watches.
#[derive(Debug, Default)]
pub(crate) struct StepNews {
    /// Items that were done by an operation on a document.
    pub committed: u64,
    /// Those of them that removed one, because they said so.
    pub removed: u64,
    pub passed_over: Vec<PassedOver>,
    pub set_aside: Vec<DeadLetter>,
    pub rejected: u64,
    /// The positions of dead letters that are none any more.
    pub resolved: Vec<u64>,
    pub changesets: Vec<ChangesetRecord>,
    pub repositories: Vec<Repository>,
}

/// Commits batches, one at a time.
pub(super) struct Committer<'a> {
    source: &'a Source,
    policies: &'a Policies,
    stop: &'a AtomicBool,
    pub recorder: Recorder,
    /// The dead letters about each document: what comes later in the stream supersedes them.
    letters: HashMap<Key, BTreeSet<u64>>,
    open_letters: BTreeMap<u64, Letter>,
    /// The same by payload, for items that a payload names.
    payloads: HashMap<Hash, BTreeSet<u64>>,
    /// The documents that items are about which stay in hand. What comes later about one of them must stay in hand, too:
    /// the next run would do the earlier one after it.
    left: HashSet<Key>,
    places: Places,
}

/// What is known of a dead letter.
struct Letter {
    key: Option<Key>,
    payload: Hash,
}

/// How far everything is done, by the numbers of batches.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Every batch before this one is done.
    next: u64,
    done: BTreeMap<u64, Option<Vec<u8>>>,
}

impl Places {
    /// A batch is done as a whole: the place behind all that is done before, if that has moved.
    fn done(&mut self, number: u64, state: Option<Vec<u8>>) -> Option<Vec<u8>> {
        self.done.insert(number, state);
        let mut place = None;
        while let Some(state) = self.done.remove(&self.next) {
            self.next += 1;
            place = state.or(place);
        }
        place
    }
}

impl<'a> Committer<'a> {
    pub(super) fn new(
        source: &'a Source,
        policies: &'a Policies,
        stop: &'a AtomicBool,
    ) -> Result<Self, IngestError> {
        let recorder = Recorder::new(source)?;
        let mut this = Self {
            source,
            policies,
            stop,
            recorder,
            letters: HashMap::new(),
            open_letters: BTreeMap::new(),
            payloads: HashMap::new(),
            left: HashSet::new(),
            places: Places::default(),
        };
        for letter in source.dead_letters()? {
            this.remember(&letter);
        }
        Ok(this)
    }

    fn remember(&mut self, letter: &DeadLetter) {
        if let Some(key) = &letter.key {
            self.letters.entry(key.clone()).or_default().insert(letter.position);
        }
        let payload = blake3::hash(&letter.payload);
        self.payloads.entry(payload).or_default().insert(letter.position);
        self.open_letters.insert(letter.position, Letter { key: letter.key.clone(), payload });
    }

    fn forget(&mut self, position: u64) {
        let Some(Letter { key, payload }) = self.open_letters.remove(&position) else { return };
        if let Some(key) = key {
            remove(&mut self.letters, &key, position);
        }
        remove(&mut self.payloads, &payload, position);
    }

    /// Whether a dead letter is still one.
    pub(super) fn is_open(&self, position: u64) -> bool {
        self.open_letters.contains_key(&position)
    }

    /// Commits a batch. What could not be stored for its own fault is set aside, and what was left in hand stays so.
    /// `number` and `state` are those of the batch, if it is one of the stream.
    pub(super) fn commit(
        &mut self,
        mut batch: Vec<Prepared>,
        place: Option<(u64, Option<Vec<u8>>)>,
        durability: Durability,
        done: &mut impl FnMut(StepNews, &Recorder),
    ) -> Result<(), IngestError> {
        self.leave(&mut batch);
        let is_whole = !batch.iter().any(|item| matches!(item.outcome, Outcome::Left));
        batch.retain(|item| !matches!(item.outcome, Outcome::Left));
        let before = self.places.clone();
        let state = place.filter(|_| is_whole).and_then(|(number, state)| self.places.done(number, state));
        let mut parts = divide(batch).into_iter().peekable();
        while let Some(part) = parts.next() {
            let state = if parts.peek().is_none() { state.clone() } else { None };
            if let Err(error) = self.commit_part(part, state, durability, done) {
                // It is not done, and what others commit after it must not say that it is.
                self.places = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Leaves in hand what comes after something that was left about the same document.
    fn leave(&mut self, batch: &mut [Prepared]) {
        for item in batch {
            let Some(key) = &item.key else { continue };
            if matches!(item.outcome, Outcome::Left) {
                self.left.insert(key.clone());
            } else if self.left.contains(key) {
                item.outcome = Outcome::Left;
            }
        }
    }

    fn commit_part(
        &mut self,
        mut part: Vec<Prepared>,
        state: Option<Vec<u8>>,
        durability: Durability,
        done: &mut impl FnMut(StepNews, &Recorder),
    ) -> Result<(), IngestError> {
        let mut attempt = 0;
        loop {
            let before = self.recorder.clone();
            let (step, news, operations) = self.step(&mut part, state.clone());
            let Err(error) = self.source.commit_with(&step, durability) else {
                news.resolved.iter().for_each(|position| self.forget(*position));
                news.set_aside.iter().for_each(|letter| self.remember(letter));
                done(news, &self.recorder);
                return Ok(());
            };
            self.recorder = before;
            give_back(&mut part, step);
            let failed = |class| Failure::new(class, error.to_string());
            match &error {
                Error::InvalidDocument { operation, .. } => {
                    let Some(item) = operations.get(*operation) else { return Err(error.into()) };
                    part[*item].outcome = Outcome::Failed(failed(FailureClass::Validation), 1);
                }
                Error::IdCollision { given, .. } => {
                    let mut about = part.iter_mut().filter(|item| item.key.as_ref() == Some(given));
                    let Some(item) = about.next() else { return Err(error.into()) };
                    item.outcome = Outcome::Failed(failed(FailureClass::Validation), 1);
                }
                Error::BatchTooLarge { .. } if part.len() == 1 => {
                    part[0].outcome = Outcome::Failed(failed(FailureClass::Memory), 1);
                }
                Error::BatchTooLarge { .. } => {
                    let rest = part.split_off(part.len() / 2);
                    self.commit_part(part, None, durability, done)?;
                    return self.commit_part(rest, state, durability, done);
                }
                error if error.is_retryable() => {
                    attempt += 1;
                    let failure = failed(FailureClass::Storage);
                    let Some(delay) = self.policies.delay(&failure, attempt, part.len() as u64) else {
                        return Err(error.clone().into());
                    };
                    // A run that is to stop does so with the error.
                    if !wait_unless(self.stop, Instant::now(), delay.min(LONGEST_PAUSE)) {
                        return Err(error.clone().into());
                    }
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// The step of a part of a batch, what it changes, and which item each of its operations is from. The step has the
    /// documents of the part, until it gives them back.
    fn step(&mut self, part: &mut [Prepared], state: Option<Vec<u8>>) -> (Step, StepNews, Vec<usize>) {
        let (mut step, mut news, mut operations) = (Step::new(), StepNews::default(), Vec::new());
        let stored_last = stored_last(part);
        let mut there = There::before(part);
        let is_outdated = |item: &Prepared| {
            let last = item.key.as_ref().and_then(|key| stored_last.get(key));
            last.is_some_and(|last| *last > item.position)
        };
        for (index, item) in part.iter_mut().enumerate() {
            let position = item.position;
            if let Outcome::Upsert(document) = &mut item.outcome {
                let key = document.key.clone();
                there.store(&key);
                step.upsert(position, std::mem::replace(document, Document::new(key)));
            }
            match &item.outcome {
                Outcome::Upsert(_) => {
                    operations.push(index);
                    news.committed += 1;
                }
                Outcome::Delete(key) => {
                    step.delete(position, key.clone());
                    operations.push(index);
                    news.committed += 1;
                    if there.remove(key, self.source) {
                        news.removed += 1;
                    } else {
                        news.passed_over.push(item.passed_over(SkipReason::Absent));
                    }
                }
                Outcome::Empty(key) => {
                    step.delete(position, key.clone());
                    operations.push(index);
                    news.committed += 1;
                    news.passed_over.push(item.passed_over(SkipReason::Empty));
                }
                Outcome::Control(changeset) => {
                    news.changesets.push(self.recorder.changeset(&mut step, position, changeset));
                    step.rejected(position);
                    news.rejected += 1;
                    news.passed_over.push(item.passed_over(SkipReason::Control));
                }
                Outcome::Nothing(reason) => {
                    step.rejected(position);
                    news.rejected += 1;
                    news.passed_over.push(item.passed_over(*reason));
                }
                // What the document is now came later: to store this one day would bring back what is outdated.
                Outcome::Failed(..) if is_outdated(item) => {
                    step.rejected(position);
                    news.rejected += 1;
                    news.passed_over.push(item.passed_over(SkipReason::Outdated));
                }
                Outcome::Failed(failure, attempts) => {
                    let letter = self.letter(item, failure, *attempts);
                    step.dead_letter(letter.clone());
                    news.set_aside.push(letter);
                }
                Outcome::Left => {}
            }
            for (key, value) in &item.entries {
                match value {
                    Some(value) => step.put_entry(key.clone(), value.clone()),
                    None => step.remove_entry(key.clone()),
                };
            }
            if self.open_letters.contains_key(&position) {
                news.resolved.push(position);
            }
        }
        self.supersede(part, &mut step, &mut news);
        let changes = part.iter().filter_map(|item| {
            let is_stored = match item.outcome {
                Outcome::Upsert(_) | Outcome::Delete(_) | Outcome::Empty(_) => true,
                Outcome::Failed(..) => false,
                Outcome::Control(_) | Outcome::Nothing(_) | Outcome::Left => return None,
            };
            Some((item.repo.clone()?, item.position, is_stored))
        });
        news.repositories = self.recorder.repositories(&mut step, changes);
        self.recorder.count(&news);
        self.recorder.run(&mut step);
        if let Some(state) = state {
            step.state(state);
        }
        (step, news, operations)
    }

    /// Dead letters about a document that a later item has stored or removed are of no use any more: to store them would
    /// bring back what is outdated.
    fn supersede(&self, part: &[Prepared], step: &mut Step, news: &mut StepNews) {
        if self.open_letters.is_empty() {
            return;
        }
        let positions: HashSet<u64> = part.iter().map(|item| item.position).collect();
        let mut superseded = BTreeSet::new();
        for item in part {
            // A file that is as it was has still not been stored.
            let is_news = !matches!(item.outcome, Outcome::Nothing(_) | Outcome::Left);
            let same =
                (item.is_named && is_news).then(|| self.payloads.get(&blake3::hash(&item.payload))).flatten();
            superseded.extend(same.into_iter().flat_map(|letters| letters.range(..item.position)));
            let key = match &item.outcome {
                Outcome::Upsert(document) => &document.key,
                Outcome::Delete(key) | Outcome::Empty(key) => key,
                _ => continue,
            };
            let letters = self.letters.get(key);
            superseded.extend(letters.into_iter().flat_map(|letters| letters.range(..item.position)));
        }
        for position in superseded {
            if !positions.contains(&position) {
                step.rejected(position);
                news.resolved.push(position);
            }
        }
    }

    fn letter(&self, item: &Prepared, failure: &Failure, attempts: u32) -> DeadLetter {
        let length = item.payload.len();
        let message = shortened(&failure.message);
        let (payload, message) = if length > DeadLetter::MAX_PAYLOAD {
            let what = format!("{message} (of its {length} bytes the first {HEAD} are kept)");
            (item.payload[..HEAD].to_vec(), what)
        } else {
            (item.payload.to_vec(), message)
        };
        let now = SystemTime::now();
        let mut letter =
            DeadLetter::new(item.position, failure.class, message, payload).attempts(attempts).failed_at(now);
        // What failed for a reason that may pass is tried again by the next run, after the longest wait of its class.
        let policy = self.policies.of(failure.class);
        if policy.retries > 0 {
            letter = letter.retry_at(now + policy.cap.max(failure.retry_after.unwrap_or_default()));
        }
        letter.key.clone_from(&item.key);
        letter
    }
}

impl Prepared {
    fn passed_over(&self, reason: SkipReason) -> PassedOver {
        PassedOver { position: self.position, key: self.key.clone(), reason }
    }
}

fn remove<K: std::hash::Hash + Eq>(letters: &mut HashMap<K, BTreeSet<u64>>, of: &K, position: u64) {
    if let Some(positions) = letters.get_mut(of) {
        positions.remove(&position);
        if positions.is_empty() {
            letters.remove(of);
        }
    }
}

fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE {
        return message.to_owned();
    }
    format!("{}…", &message[..message.floor_char_boundary(MESSAGE)])
}

/// The position at which each document was stored or removed last, if that matters because something has failed.
fn stored_last(part: &[Prepared]) -> HashMap<Key, u64> {
    if !part.iter().any(|item| matches!(item.outcome, Outcome::Failed(..))) {
        return HashMap::new();
    }
    let stored = part.iter().filter_map(|item| match &item.outcome {
        Outcome::Upsert(Document { key, .. }) | Outcome::Delete(key) | Outcome::Empty(key) => {
            Some((key.clone(), item.position))
        }
        _ => None,
    });
    stored.collect()
}

/// Which documents there are while the operations of a part are gone through, as far as they are removed.
struct There {
    removes: bool,
    changed: HashMap<Key, bool>,
}

impl There {
    fn before(part: &[Prepared]) -> Self {
        let removes = part.iter().any(|item| matches!(item.outcome, Outcome::Delete(_)));
        Self { removes, changed: HashMap::new() }
    }

    fn store(&mut self, key: &Key) {
        if self.removes {
            self.changed.insert(key.clone(), true);
        }
    }

    /// Whether there was one to remove. One that can not be read is there.
    fn remove(&mut self, key: &Key, source: &Source) -> bool {
        let stored = || !matches!(source.collection().get(key.clone()), Ok(None));
        self.changed.insert(key.clone(), false).unwrap_or_else(stored)
    }
}

/// Takes the documents of a part back from the step that was made of it.
fn give_back(part: &mut [Prepared], step: Step) {
    let wanting = part.iter_mut().filter_map(|item| match &mut item.outcome {
        Outcome::Upsert(document) => Some(document),
        _ => None,
    });
    wanting.zip(step.into_documents()).for_each(|(wanting, document)| *wanting = document);
}

/// Divides a batch so that each part makes a step of a bounded size.
fn divide(batch: Vec<Prepared>) -> Vec<Vec<Prepared>> {
    if batch.is_empty() {
        return Vec::new();
    }
    if batch.iter().map(bytes_of).sum::<usize>() <= STEP_BYTES {
        return vec![batch];
    }
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for item in batch {
        let more = bytes_of(&item);
        if bytes + more > STEP_BYTES && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(item);
    }
    parts.push(part);
    parts
}

/// About how many bytes an item makes of a step.
fn bytes_of(item: &Prepared) -> usize {
    let document = match &item.outcome {
        Outcome::Upsert(document) => {
            let vectors: usize = document.postings.iter().map(|posting| 16 + posting.vector.len() * 4).sum();
            document.text.as_ref().map_or(0, String::len) + vectors
        }
        _ => 0,
    };
    item.payload.len().min(HEAD) + document
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plimsoll::{CollectionConfig, Database, Metric};
    use plimsoll_sim::{Failure as Fault, OperationKind, SimStorage};

    use super::*;

    fn item(position: u64) -> Prepared {
        let document = Document::new(format!("{position}")).vector([1.0, 0.0]);
        Prepared {
            position,
            payload: bytes::Bytes::new(),
            key: Some(document.key.clone()),
            repo: None,
            entries: Vec::new(),
            is_named: false,
            outcome: Outcome::Upsert(document),
        }
    }

    #[test]
    fn no_place_is_behind_a_batch_that_could_not_be_written() {
        let disk = SimStorage::new();
        let db = Database::builder("/db").storage(Arc::new(disk.clone())).background(false).open().unwrap();
        db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
        let source = db.source("s", "c").unwrap().open().unwrap();
        let (policies, stop) = (Policies::default().with_max_retries(0), Arc::new(AtomicBool::new(false)));
        let mut committer = Committer::new(&source, &policies, &stop).unwrap();
        let mut commit = |number: u64| {
            let place = Some((number, Some(vec![number as u8])));
            committer.commit(vec![item(number)], place, Durability::Durable, &mut |_, _| ())
        };
        commit(0).unwrap();
        assert_eq!(source.state(), [0]);
        disk.fail_next(OperationKind::Append, Fault::errno(28), 1);
        assert!(commit(1).is_err());
        // Another worker may have had this one in hand already.
        commit(2).unwrap();
        assert_eq!((source.state(), source.position()), (vec![0], 1), "the next run begins with batch 1");
        commit(1).unwrap();
        assert_eq!((source.state(), source.position()), (vec![2], 3));
    }
}
