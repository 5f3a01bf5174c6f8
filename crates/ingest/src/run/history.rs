//! What a source remembers of its runs, as entries of its own table: runs, changesets, repositories.
//!
//! They commit with the batches that they are about, and are what the ledger is made of.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use plimsoll::{Source, Step};
use serde::{Deserialize, Serialize};

use super::commit::StepNews;
use crate::error::IngestError;
use crate::input::{Changeset, SkipReason};

const RUN: &str = "run/";
const CHANGESET: &str = "changeset/";
const REPOSITORY: &str = "repository/";
const ORIGIN: &str = "origin";

/// How a run ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunState {
    /// It is under way; or its process ended without a word.
    Running,
    /// It came to the end of its input.
    Completed,
    /// It was asked to stop.
    Interrupted,
    /// It came to an error.
    Failed,
}

impl RunState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// One run of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its number, from 1.
    pub id: u64,
    /// How it ended, or that it has not.
    pub state: RunState,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it was heard of last.
    pub updated_ms: u64,
    /// Items read.
    pub received: u64,
    /// Items done by an operation on a document: stored, removed, absent, or empty.
    pub committed: u64,
    /// Those of them that removed a document.
    #[serde(default)]
    pub removed: u64,
    /// Items of which nothing was stored, by the reason. Those that are [empty](SkipReason::Empty) or
    /// [absent](SkipReason::Absent) are among `committed`, and all others among `rejected`, as are items that a later batch
    /// has outdated, which are not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub passed_over: BTreeMap<SkipReason, u64>,
    /// Items set aside.
    pub dead_lettered: u64,
    /// Items with nothing to store.
    pub rejected: u64,
    /// Attempts that were repeated.
    pub retries: u64,
    /// How much of the input was read, in bytes of lines or in files of a folder.
    #[serde(default)]
    pub read: u64,
    /// How much of that was read by runs before this one.
    #[serde(default)]
    pub read_before: u64,
    /// How much there was, in the same unit, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The error that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Run {
    /// Items whose documents were added or replaced.
    pub fn stored(&self) -> u64 {
        let of = |reason| self.passed_over.get(&reason).copied().unwrap_or(0);
        self.committed.saturating_sub(self.removed + of(SkipReason::Empty) + of(SkipReason::Absent))
    }

    /// Items that were read and not done: when the run ended, or as of its last batch.
    pub const fn in_flight(&self) -> u64 {
        self.received.saturating_sub(self.committed + self.dead_lettered + self.rejected)
    }
}

/// A control record, with the position at which it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesetRecord {
    /// Its position.
    pub position: u64,
    /// The run in which it came.
    pub run: u64,
    /// Which repository it is about.
    pub repo: Option<String>,
    /// What it says, as JSON.
    pub json: String,
    /// When it was read, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What came from one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// Changes stored.
    pub committed: u64,
    /// Changes set aside.
    pub dead_lettered: u64,
    /// The position of the last change.
    pub last_position: u64,
    /// When that was, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// Where the items of a source come from, so that failed ones can be tried again later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Files, folders or streams, as they were named.
    pub inputs: Vec<String>,
    /// The directory below which lines may name files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Whether the items are the files below that directory, so that what is kept of a failed one is its path.
    #[serde(default)]
    pub is_folder: bool,
    /// How texts are cut, as a string of [`Chunking`](crate::Chunking).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunking: Option<String>,
}

impl Origin {
    /// What a source remembers.
    pub fn from_entries(entries: &[(String, Vec<u8>)]) -> Option<Self> {
        let (_, value) = entries.iter().find(|(key, _)| key == ORIGIN)?;
        serde_json::from_slice(value).ok()
    }

    /// Has a source remember it.
    ///
    /// # Errors
    /// [`IngestError::Database`].
    pub fn keep(&self, source: &Source) -> Result<(), IngestError> {
        let json = to_json(self);
        if source.entry(ORIGIN)?.as_ref() != Some(&json) {
            let mut step = Step::new();
            step.put_entry(ORIGIN, json);
            source.commit(&step)?;
        }
        Ok(())
    }
}

/// Everything that a source remembers of its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The runs, by number.
    pub runs: Vec<Run>,
    /// The changesets, by position.
    pub changesets: Vec<ChangesetRecord>,
    /// The repositories, by name.
    pub repositories: Vec<Repository>,
}

impl History {
    /// Reads it from the entries of a source. Entries that are none of these are passed over, and so is what a newer
    /// version has written otherwise.
    pub fn from_entries(entries: &[(String, Vec<u8>)]) -> Self {
        let mut history = Self::default();
        for (key, value) in entries {
            if key.starts_with(RUN) {
                history.runs.extend(serde_json::from_slice::<Run>(value).ok());
            } else if key.starts_with(CHANGESET) {
                history.changesets.extend(serde_json::from_slice::<ChangesetRecord>(value).ok());
            } else if key.starts_with(REPOSITORY) {
                history.repositories.extend(serde_json::from_slice::<Repository>(value).ok());
            }
        }
        history.runs.sort_by_key(|run| run.id);
        history.changesets.sort_by_key(|changeset| changeset.position);
        history
    }

    /// Removes what is older than `age` of the runs that have ended, and of changesets; returns how many records.
    ///
    /// # Errors
    /// [`IngestError::Database`].
    pub fn purge(source: &Source, age: Duration) -> Result<usize, IngestError> {
        let before = now_ms().saturating_sub(age.as_millis() as u64);
        let history = Self::from_entries(&source.entries()?);
        let newest = history.runs.last().map(|run| run.id);
        // The newest run stays, so that numbers are not given twice.
        let runs = history.runs.iter().filter(|run| run.updated_ms < before && Some(run.id) != newest);
        let changesets = history.changesets.iter().filter(|changeset| changeset.at_ms < before);
        let keys: Vec<String> = runs
            .map(|run| run_key(run.id))
            .chain(changesets.map(|set| changeset_key(set.position)))
            .collect();
        if !keys.is_empty() {
            let mut step = Step::new();
            for key in &keys {
                step.remove_entry(key.clone());
            }
            source.commit(&step)?;
        }
        Ok(keys.len())
    }
}

fn run_key(id: u64) -> String {
    format!("{RUN}{id:020}")
}

fn changeset_key(position: u64) -> String {
    format!("{CHANGESET}{position:020}")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What a run writes into the table of its source as it goes on.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    pub run: Run,
    /// A run before this one of which nobody has recorded the end: its process was killed.
    killed: Option<Run>,
    repositories: BTreeMap<String, Repository>,
}

impl Recorder {
    /// A run behind those that the source remembers.
    pub(super) fn new(source: &Source) -> Result<Self, IngestError> {
        let history = History::from_entries(&source.entries()?);
        let last = history.runs.last();
        let killed = last.filter(|last| last.state == RunState::Running);
        let killed = killed.map(|killed| Run { state: RunState::Interrupted, ..killed.clone() });
        let now = now_ms();
        // A run that reads nothing, because it only tries again, is as far as the one before it.
        let (read, total) = last.map_or((0, None), |last| (last.read, last.total));
        let run = Run {
            id: last.map_or(1, |last| last.id + 1),
            state: RunState::Running,
            started_ms: now,
            updated_ms: now,
            received: 0,
            committed: 0,
            removed: 0,
            passed_over: BTreeMap::new(),
            dead_lettered: 0,
            rejected: 0,
            retries: 0,
            read,
            read_before: read,
            total,
            error: None,
        };
        let repositories = history.repositories.into_iter().map(|repo| (repo.name.clone(), repo)).collect();
        Ok(Self { run, killed, repositories })
    }

    /// Counts what a step does.
    pub(super) fn count(&mut self, committed: &StepNews) {
        self.run.committed += committed.committed;
        self.run.removed += committed.removed;
        for passed_over in &committed.passed_over {
            *self.run.passed_over.entry(passed_over.reason).or_default() += 1;
        }
        self.run.dead_lettered += committed.set_aside.len() as u64;
        self.run.rejected += committed.rejected;
    }

    /// Puts a changeset into a step.
    pub(super) fn changeset(&self, step: &mut Step, position: u64, changeset: &Changeset) -> ChangesetRecord {
        let record = ChangesetRecord {
            position,
            run: self.run.id,
            repo: changeset.repo.clone(),
            json: changeset.json.clone(),
            at_ms: now_ms(),
        };
        step.put_entry(changeset_key(position), to_json(&record));
        record
    }

    /// Puts what a batch has changed of repositories into a step: for each change, its repository, position, and whether
    /// it is stored.
    pub(super) fn repositories(
        &mut self,
        step: &mut Step,
        changes: impl Iterator<Item = (String, u64, bool)>,
    ) -> Vec<Repository> {
        let mut changed = BTreeMap::new();
        for (name, position, is_stored) in changes {
            let repo = self
                .repositories
                .entry(name.clone())
                .or_insert_with(|| Repository { name: name.clone(), ..Repository::default() });
            *(if is_stored { &mut repo.committed } else { &mut repo.dead_lettered }) += 1;
            repo.last_position = repo.last_position.max(position);
            repo.updated_ms = now_ms();
            changed.insert(name, repo.clone());
        }
        for (name, repo) in &changed {
            step.put_entry(format!("{REPOSITORY}{name}"), to_json(repo));
        }
        changed.into_values().collect()
    }

    /// Puts the run, as it is now, into a step.
    pub(super) fn run(&mut self, step: &mut Step) {
        self.run.updated_ms = now_ms();
        if let Some(killed) = &self.killed {
            step.put_entry(run_key(killed.id), to_json(killed));
        }
        step.put_entry(run_key(self.run.id), to_json(&self.run));
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Numbers and texts: there is nothing that JSON could not hold.
    serde_json::to_vec(value).unwrap_or_default()
}
