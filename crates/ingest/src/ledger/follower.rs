//! What a run tells the ledger: gathered, and written about once a second, so that a run waits for SQLite no more often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plimsoll::{DeadLetter, Source};

use super::{Ledger, Of};
use crate::run::{ChangesetRecord, History, Repository, Run, StepNews};

/// So much time passes between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// A run waits no longer for somebody who holds a lock; what could not be written is with the next write.
const PATIENCE: Duration = Duration::from_millis(20);
/// With so many bytes of dead letters and changesets gathered, or so many of these, they are written at once.
const BYTES: usize = 8 << 20;
const ROWS: usize = 10_000;

/// Writes what becomes of one source.
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    ledger: &'a Ledger,
    source: &'a Source,
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    run: Option<Run>,
    /// Dead letters by position; `None` where there is none any more.
    letters: BTreeMap<u64, Option<DeadLetter>>,
    changesets: Vec<ChangesetRecord>,
    repositories: BTreeMap<String, Repository>,
    bytes: usize,
    /// When it was last written, or could not be.
    written_at: Option<Instant>,
    /// What the ledger has of the source is as the database had it.
    is_current: bool,
}

impl Gathered {
    fn add(&mut self, run: &Run, news: StepNews) {
        self.run = Some(run.clone());
        self.letters.extend(news.resolved.into_iter().map(|position| (position, None)));
        let letters = news.set_aside.iter().map(|letter| letter.payload.len() + letter.message.len());
        let changesets = news.changesets.iter().map(|changeset| changeset.json.len());
        self.bytes += letters.chain(changesets).sum::<usize>();
        self.letters.extend(news.set_aside.into_iter().map(|letter| (letter.position, Some(letter))));
        self.changesets.extend(news.changesets);
        let repositories = news.repositories.into_iter();
        self.repositories.extend(repositories.map(|repository| (repository.name.clone(), repository)));
    }

    fn is_due(&self) -> bool {
        let rows = self.letters.len() + self.changesets.len() + self.repositories.len();
        self.run.is_some()
            && (self.bytes > BYTES
                || rows > ROWS
                || self.written_at.is_none_or(|written_at| written_at.elapsed() >= INTERVAL))
    }
}

impl<'a> Follower<'a> {
    pub(crate) fn new(ledger: &'a Ledger, source: &'a Source) -> Self {
        Self { ledger, source, gathered: Mutex::default() }
    }

    /// Takes note of a step.
    pub(crate) fn note(&self, run: &Run, news: StepNews) {
        self.gathered.lock().add(run, news);
        self.write_if_due();
    }

    /// Writes what was noted a while ago, if there is anything.
    pub(crate) fn write_if_due(&self) {
        let mut gathered = self.gathered.lock();
        if gathered.is_due() {
            self.write(PATIENCE, &mut gathered);
        }
    }

    /// Writes how the run ended, and everything that was noted before.
    pub(crate) fn end(&self, run: &Run) {
        let mut gathered = self.gathered.lock();
        gathered.add(run, StepNews::default());
        self.write(super::PATIENCE, &mut gathered);
    }

    fn write(&self, patience: Duration, gathered: &mut Gathered) {
        let Gathered { run, letters, changesets, repositories, is_current, .. } = std::mem::take(gathered);
        let source = self.source;
        let of = Of { collection: source.collection().name(), source: source.name() };
        // Once something was not written, or another process may have written, all there is of the source is.
        let all = || {
            let status = source.status().ok()?;
            let whole = if is_current {
                None
            } else {
                Some((source.dead_letters().ok()?, History::from_entries(&source.entries().ok()?)))
            };
            Some((status, whole))
        };
        let written = all().is_some_and(|(status, whole)| {
            self.ledger.write(patience, |transaction| {
                of.put_source(transaction, &status)?;
                if let Some((letters, history)) = &whole {
                    of.clear(transaction)?;
                    of.put_letters(transaction, letters)?;
                    of.put_changesets(transaction, &history.changesets)?;
                    of.put_repositories(transaction, &history.repositories)?;
                    of.put_runs(transaction, &history.runs)?;
                    return of.put_runs(transaction, run.as_slice());
                }
                let (there, gone): (Vec<_>, Vec<_>) =
                    letters.iter().partition(|(_, letter)| letter.is_some());
                let gone: Vec<u64> = gone.into_iter().map(|(position, _)| *position).collect();
                of.remove_letters(transaction, &gone)?;
                of.put_letters(transaction, there.into_iter().filter_map(|(_, letter)| letter.as_ref()))?;
                of.put_changesets(transaction, &changesets)?;
                of.put_repositories(transaction, repositories.values())?;
                of.put_runs(transaction, run.as_slice())
            })
        });
        gathered.is_current = written;
        gathered.written_at = Some(Instant::now());
    }
}
