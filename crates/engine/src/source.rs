//! Sources: streams of items that are stored each exactly once, whatever interrupts them.
//!
//! A source has a position in a stream, which commits in one record of the log with the documents that came from there:
//! after a crash both are as of the same step. With them commit what became of items that could not be stored (dead
//! letters with their payload), an opaque state of the owner's, and entries of a table of its own. All of it are rows of
//! the system table (rule R14).
//!
//! **Owns** positions, dead letters, entries, and that each position is done once. **Must not know** what a stream is
//! made of, or how its items are made into documents. **On a crash** a step is there whole or not at all.
//!
//! The low watermark with what is done above it is that of stream processors, such as Millwheel (Akidau et al., VLDB
//! 2013); committing the position with the data is what Kafka's consumers do that store offsets in the sink.

mod cursor;
mod failure;
mod letter;
mod step;
mod table;

use std::collections::HashSet;
use std::ops::Range;
use std::time::SystemTime;

use plimsoll_base::sync::Mutex;
use plimsoll_base::{CollectionId, Lsn};

pub use cursor::SourceCounts;
pub use failure::FailureClass;
pub use step::{DeadLetter, Step};
pub(crate) use table::SourceId;

use crate::batch::WriteBatch;
use crate::collection::Collection;
use crate::core::{Core, lock};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::model::limits::MAX_NAME_BYTES;
use crate::options::Durability;
use crate::read_only::ReadOnlyDatabase;
use crate::state::View;
use crate::system::{kept, pair};
use cursor::Cursor;
use table::Table;

/// Why a source did not do what it was asked for. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Another handle has the source open. A source has one writer.
    #[error("the source {0:?} is open already: a source has one writer")]
    InUse(String),
    /// There is no such source.
    #[error("there is no source {0:?}")]
    NotFound(String),
    /// The source was made for another input than the one it is opened with: its position means nothing there.
    #[error(
        "the source {name:?} was begun with the fingerprint {stored:?} and is opened with {given:?}: its position is one \
         in another input; reset it to begin anew"
    )]
    FingerprintChanged {
        /// The source's name.
        name: String,
        /// The fingerprint that it was begun with.
        stored: String,
        /// The fingerprint that it was opened with.
        given: String,
    },
    /// A position was done before.
    #[error("position {position} is done already")]
    AlreadyDone {
        /// The position.
        position: u64,
    },
    /// A step does one position twice.
    #[error("the step does position {position} twice")]
    Twice {
        /// The position.
        position: u64,
    },
    /// The source is paused: it takes no steps until it is resumed.
    #[error("the source {0:?} is paused")]
    Paused(String),
    /// The source was removed while this handle was open.
    #[error("the source {0:?} was removed")]
    Removed(String),
    /// A state, an entry or a payload is larger than is allowed.
    #[error("{what} has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What it is.
        what: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// What is known about a source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// The collection that it fills.
    pub collection: String,
    /// What its input is known by.
    pub fingerprint: String,
    /// The first position that is not done.
    pub position: u64,
    /// One beyond the last position that is done. Equal to `position` unless something finished out of order.
    pub end: u64,
    /// What is not done between `position` and `end`, the first 100 ranges.
    pub gaps: Vec<Range<u64>>,
    /// What became of the positions that are done.
    pub counts: SourceCounts,
    /// The opaque state of its owner, as of its last step.
    pub state: Vec<u8>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// When it was begun.
    pub created_at: SystemTime,
    /// When it was changed last.
    pub updated_at: SystemTime,
}

/// How many gaps a status tells.
const GAPS: usize = 100;

impl SourceStatus {
    fn of(name: &str, collection: &str, cursor: &Cursor) -> Self {
        Self {
            name: name.to_owned(),
            collection: collection.to_owned(),
            fingerprint: cursor.fingerprint.clone(),
            position: cursor.watermark,
            end: cursor.end(),
            gaps: cursor.gaps(GAPS),
            counts: cursor.counts,
            state: cursor.state.clone(),
            is_paused: cursor.is_paused,
            created_at: cursor.created_at,
            updated_at: cursor.updated_at,
        }
    }
}

/// The sources that are open.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashSet<SourceId>>);

/// Opens a source; see [`Database::source`].
#[derive(Debug)]
#[must_use]
pub struct SourceBuilder {
    collection: Collection,
    name: String,
    fingerprint: Option<String>,
    reset: bool,
    create: bool,
}

impl SourceBuilder {
    /// What the input is known by: whatever changes when positions in it would mean something else, such as a hash of
    /// its beginning, and how it is made into documents. A source that was begun with another one is not opened; one that
    /// was begun without any takes this one. Default: the one that the source has; none for a new source.
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.fingerprint = Some(fingerprint.into());
        self
    }

    /// Whether the source begins anew, without position, state, entries and dead letters (default: no). The documents
    /// that came from it stay.
    pub fn reset(mut self, reset: bool) -> Self {
        self.reset = reset;
        self
    }

    /// Whether a source that is not there is begun (default), or is a [`SourceError::NotFound`].
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Opens the source, at the position of its last step that is in the log.
    ///
    /// # Errors
    /// [`Error::Source`]: it is open already, was begun with another fingerprint, or is not there;
    /// [`Error::InvalidArgument`] for a name that is empty, longer than 255 bytes or has control characters;
    /// [`Error::CollectionNotFound`]; [`Error::Storage`].
    pub fn open(self) -> Result<Source> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let what = format!(
                "{name:?} is no name for a source: 1 to {MAX_NAME_BYTES} bytes, no control characters"
            );
            return Err(Error::InvalidArgument(what));
        }
        let fingerprint = self.fingerprint.as_ref().map_or(0, String::len);
        fits("a fingerprint", fingerprint, Step::MAX_STATE)?;
        self.collection.snapshot()?;
        let core = self.collection.database.core();
        let id = SourceId { collection: self.collection.id, name: self.name.clone() };
        if !lock(&core.sources.0).insert(id.clone()) {
            return Err(SourceError::InUse(self.name).into());
        }
        let claim = Claim { database: self.collection.database.clone(), id };
        let opened = self.read(&claim)?;
        let source = Source { collection: self.collection, claim, open: Mutex::new(opened) };
        Ok(source)
    }

    /// The cursor and the dead letters, made anew if that is asked for.
    fn read(&self, claim: &Claim) -> Result<Option<Open>> {
        let core = claim.core();
        let view = core.published.view();
        let table = Table::of(&view);
        let stored = table.cursor(&claim.id)?;
        if let (Some(stored), Some(given)) = (&stored, &self.fingerprint)
            && stored.fingerprint != *given
            && !stored.fingerprint.is_empty()
            && !self.reset
        {
            let (name, stored, given) = (self.name.clone(), stored.fingerprint.clone(), given.clone());
            return Err(SourceError::FingerprintChanged { name, stored, given }.into());
        }
        if let Some(cursor) = stored.as_ref().filter(|_| !self.reset) {
            let letters = match cursor.counts.dead_lettered {
                0 => HashSet::new(),
                _ => table.letter_positions(&claim.id)?.into_iter().collect(),
            };
            let mut cursor = cursor.clone();
            if let Some(given) = self.fingerprint.as_ref().filter(|given| **given != cursor.fingerprint) {
                // It was begun while nobody knew the input.
                cursor.fingerprint.clone_from(given);
                cursor.updated_at = kept(core.unix_now());
                let mut rows = WriteBatch::new();
                rows.upsert(cursor.document(claim.id.cursor()));
                let table = core.system_table()?;
                core.write(&[(table.id, &table.config, &rows)], Durability::Durable)?;
            }
            return Ok(Some(Open { cursor, letters }));
        }
        if stored.is_none() && !self.create {
            return Err(SourceError::NotFound(self.name.clone()).into());
        }
        let inherited = stored.map(|stored| stored.fingerprint);
        let fingerprint = self.fingerprint.clone().or(inherited).unwrap_or_default();
        let cursor = Cursor::new(fingerprint, kept(core.unix_now()));
        let mut rows = WriteBatch::new();
        for key in table.all_of(&claim.id)? {
            rows.delete(key);
        }
        rows.upsert(cursor.document(claim.id.cursor()));
        let table = core.system_table()?;
        core.write(&[(table.id, &table.config, &rows)], Durability::Durable)?;
        Ok(Some(Open { cursor, letters: HashSet::new() }))
    }
}

/// That a source is open; until this is dropped it can not be opened again.
#[derive(Debug)]
struct Claim {
    database: Database,
    id: SourceId,
}

impl Claim {
    fn core(&self) -> &Core {
        self.database.core()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.core().sources.0).remove(&self.id);
    }
}

/// A stream that fills a collection, at its position. It has one handle at a time, which threads may share.
///
/// Positions number the items of the stream, from 0: lines, messages, files. Each is done exactly once, in any order:
/// [`Source::commit`] makes it durable together with the documents that came of it. Whoever begins again after a crash
/// goes on at [`Source::position`], and passes over what [`Source::is_done`].
///
/// ```
/// # fn main() -> plimsoll_engine::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("mail");
/// use plimsoll_engine::{CollectionConfig, Database, Document, Metric, Step};
///
/// let inbox = ["first", "second", "third"];
/// let db = Database::open(&path)?;
/// db.create_collection("mail", CollectionConfig::new(2, Metric::Cosine))?;
/// let source = db.source("inbox", "mail")?.fingerprint("maildir, model v1").open()?;
/// for (position, text) in (0..).zip(inbox).skip(source.position() as usize) {
///     let mut step = Step::new();
///     step.upsert(position, Document::new(text).text(text).vector([1.0, position as f32]));
///     source.commit(&step)?;
/// }
/// assert_eq!(source.position(), 3);
/// assert_eq!(source.status()?.counts.committed, 3);
/// # drop(source);
/// # db.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Source {
    collection: Collection,
    claim: Claim,
    /// `None` once the source was removed.
    open: Mutex<Option<Open>>,
}

#[derive(Debug, Clone)]
struct Open {
    cursor: Cursor,
    /// The positions of dead letters.
    letters: HashSet<u64>,
}

impl Source {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.claim.id.name
    }

    /// The collection that it fills.
    pub fn collection(&self) -> &Collection {
        &self.collection
    }

    /// The first position that is not done.
    pub fn position(&self) -> u64 {
        self.read(|open| open.cursor.watermark)
    }

    /// Whether a position is done.
    pub fn is_done(&self, position: u64) -> bool {
        self.read(|open| open.cursor.is_done(position))
    }

    /// What its owner has it remember, as of the last step; empty at the beginning.
    pub fn state(&self) -> Vec<u8> {
        self.read(|open| open.cursor.state.clone())
    }

    fn read<T: Default>(&self, read: impl FnOnce(&Open) -> T) -> T {
        lock(&self.open).as_ref().map(read).unwrap_or_default()
    }

    /// What is known about it.
    ///
    /// # Errors
    /// [`Error::Source`] if it was removed.
    pub fn status(&self) -> Result<SourceStatus> {
        let open = lock(&self.open);
        let open = open.as_ref().ok_or_else(|| self.removed())?;
        Ok(SourceStatus::of(self.name(), self.collection.name(), &open.cursor))
    }

    /// Makes a step durable, whole: documents, positions, dead letters, entries and state.
    ///
    /// # Errors
    /// [`Error::Source`]: a position is done already or twice in the step, the source is paused or removed, something is
    /// too large. As [`Collection::write`]. In every case nothing of the step was stored, unless the log is
    /// [`Error::Poisoned`]: then it shows when the database is opened again.
    pub fn commit(&self, step: &Step) -> Result<Lsn> {
        self.commit_with(step, Durability::Durable)
    }

    /// Makes every step durable that was committed before this call, as [`Database::sync`] does.
    ///
    /// # Errors
    /// As [`Database::sync`].
    pub fn sync(&self) -> Result<Lsn> {
        self.claim.database.sync()
    }

    /// As [`Source::commit`], with the choice of when it returns. A [`Durability::Buffered`] step that a power cut loses is
    /// lost with its position.
    ///
    /// # Errors
    /// As [`Source::commit`].
    pub fn commit_with(&self, step: &Step, durability: Durability) -> Result<Lsn> {
        let mut open = lock(&self.open);
        let open = open.as_mut().ok_or_else(|| self.removed())?;
        if open.cursor.is_paused {
            return Err(SourceError::Paused(self.name().to_owned()).into());
        }
        let core = self.claim.core();
        if step.is_empty() && step.twice.is_none() {
            core.check_open()?;
            return Ok(core.published.visible());
        }
        let mut next = open.cursor.clone();
        next.take(step, |position| open.letters.contains(&position))?;
        next.updated_at = kept(core.unix_now());
        if let Some(state) = &step.state {
            fits("a state", state.len(), Step::MAX_STATE)?;
            next.state.clone_from(state);
        }
        let rows = self.rows(step, &next, &open.letters)?;
        let system = core.system_table()?;
        let mut batches = vec![(system.id, &system.config, &rows)];
        if !step.batch.is_empty() {
            batches.insert(0, (self.collection.id, &self.collection.config, &step.batch));
        }
        let lsn = core.write(&batches, durability)?;
        open.cursor = next;
        if !open.letters.is_empty() {
            open.letters.retain(|position| !step.done.contains_key(position));
        }
        open.letters.extend(step.letters.iter().map(|letter| letter.position));
        Ok(lsn)
    }

    /// What a step changes in the system table.
    fn rows(&self, step: &Step, next: &Cursor, letters: &HashSet<u64>) -> Result<WriteBatch> {
        let id = &self.claim.id;
        let now = self.claim.core().unix_now();
        let mut rows = WriteBatch::with_capacity(1 + step.letters.len() + step.entries.len());
        for position in step.done.keys().filter(|position| letters.contains(position)) {
            rows.delete(id.letter(*position));
        }
        for letter in &step.letters {
            let what = format!("the payload of position {}", letter.position);
            fits(&what, letter.payload.len(), DeadLetter::MAX_PAYLOAD)?;
            fits(
                &format!("the message of position {}", letter.position),
                letter.message.len(),
                Step::MAX_STATE,
            )?;
            let document = match letter.failed_at {
                SystemTime::UNIX_EPOCH => letter.clone().failed_at(now).document(id.letter(letter.position)),
                _ => letter.document(id.letter(letter.position)),
            };
            rows.upsert(document);
        }
        for (key, value) in &step.entries {
            match value {
                Some(value) => {
                    fits(&format!("the entry {key:?}"), key.len() + value.len(), Step::MAX_ENTRY)?;
                    rows.upsert(pair(id.entry(key), key, value));
                }
                None => {
                    rows.delete(id.entry(key));
                }
            }
        }
        rows.upsert(next.document(id.cursor()));
        Ok(rows)
    }

    /// Its dead letters, by position.
    ///
    /// # Errors
    /// [`Error::Storage`] if records are damaged.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let mut positions: Vec<u64> = self.read(|open| open.letters.iter().copied().collect());
        positions.sort_unstable();
        let view = self.claim.core().published.view();
        let table = Table::of(&view);
        let letters = positions.into_iter().map(|position| table.letter(&self.claim.id, position));
        letters.filter_map(Result::transpose).collect()
    }

    /// The dead letter at a position, if there is one.
    ///
    /// # Errors
    /// [`Error::Storage`] if it is damaged.
    pub fn dead_letter(&self, position: u64) -> Result<Option<DeadLetter>> {
        Table::of(&self.claim.core().published.view()).letter(&self.claim.id, position)
    }

    /// An entry of its own table.
    ///
    /// # Errors
    /// [`Error::Storage`] if it is damaged.
    pub fn entry(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Table::of(&self.claim.core().published.view()).entry(&self.claim.id, key)
    }

    /// All entries of its own table, by key. Reads the whole system table.
    ///
    /// # Errors
    /// [`Error::Storage`] if one is damaged.
    pub fn entries(&self) -> Result<Vec<(String, Vec<u8>)>> {
        Table::of(&self.claim.core().published.view()).entries(&self.claim.id)
    }

    /// Pauses it, also after every opening: it takes no steps until it is resumed.
    ///
    /// # Errors
    /// As [`Source::commit`].
    pub fn pause(&self) -> Result<()> {
        self.set_paused(true)
    }

    /// Lets it take steps again.
    ///
    /// # Errors
    /// As [`Source::commit`].
    pub fn resume(&self) -> Result<()> {
        self.set_paused(false)
    }

    fn set_paused(&self, is_paused: bool) -> Result<()> {
        let mut open = lock(&self.open);
        let open = open.as_mut().ok_or_else(|| self.removed())?;
        if open.cursor.is_paused == is_paused {
            return Ok(());
        }
        let core = self.claim.core();
        let next = Cursor { is_paused, updated_at: kept(core.unix_now()), ..open.cursor.clone() };
        let mut rows = WriteBatch::new();
        rows.upsert(next.document(self.claim.id.cursor()));
        let table = core.system_table()?;
        core.write(&[(table.id, &table.config, &rows)], Durability::Durable)?;
        open.cursor = next;
        Ok(())
    }

    /// Removes it with its position, dead letters, entries and state. The documents that came from it stay.
    ///
    /// # Errors
    /// As [`Collection::write`].
    pub fn remove(self) -> Result<()> {
        let mut open = lock(&self.open);
        self.claim.core().forget(|table| table.all_of(&self.claim.id))?;
        *open = None;
        Ok(())
    }

    fn removed(&self) -> Error {
        SourceError::Removed(self.name().to_owned()).into()
    }
}

fn fits(what: &str, bytes: usize, limit: usize) -> Result<(), SourceError> {
    if bytes <= limit { Ok(()) } else { Err(SourceError::TooLarge { what: what.to_owned(), bytes, limit }) }
}

impl Core {
    /// Removes rows of the system table, in one record.
    fn forget(&self, which: impl FnOnce(&Table<'_>) -> Result<Vec<crate::model::Key>>) -> Result<Lsn> {
        let view = self.published.view();
        let rows = Table::of(&view);
        let mut batch = WriteBatch::new();
        for key in which(&rows)? {
            batch.delete(key);
        }
        if batch.is_empty() {
            return Ok(rows.visible());
        }
        let table = self.system_table()?;
        self.write(&[(table.id, &table.config, &batch)], Durability::Durable)
    }

    /// Removes what is kept of the sources of a collection that was dropped.
    pub(crate) fn forget_sources(&self, collection: CollectionId) -> Result<()> {
        self.forget(|table| table.all_of_collection(collection)).map(drop)
    }
}

fn statuses(view: &View) -> Result<Vec<SourceStatus>> {
    let sources = Table::of(view).sources()?;
    Ok(sources
        .iter()
        .map(|(id, collection, cursor)| SourceStatus::of(&id.name, collection, cursor))
        .collect())
}

fn letters_of(view: &View, collection: &str, source: &str) -> Result<Vec<DeadLetter>> {
    let found = view.state.by_name(collection);
    let found = found.ok_or_else(|| Error::CollectionNotFound(collection.to_owned()))?;
    let id = SourceId { collection: found.id, name: source.to_owned() };
    let table = Table::of(view);
    if table.cursor(&id)?.is_none() {
        return Err(SourceError::NotFound(source.to_owned()).into());
    }
    let letters = table.letter_positions(&id)?.into_iter().map(|position| table.letter(&id, position));
    letters.filter_map(Result::transpose).collect()
}

fn entries_of(view: &View, collection: &str, source: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let found = view.state.by_name(collection);
    let found = found.ok_or_else(|| Error::CollectionNotFound(collection.to_owned()))?;
    Table::of(view).entries(&SourceId { collection: found.id, name: source.to_owned() })
}

impl Database {
    /// A source of a collection: a stream whose position commits with the data. A collection may have several.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`].
    pub fn source(&self, name: &str, collection: &str) -> Result<SourceBuilder> {
        let collection = self.collection(collection)?;
        Ok(SourceBuilder { collection, name: name.to_owned(), fingerprint: None, reset: false, create: true })
    }

    /// All sources of all collections, by the names of both.
    ///
    /// # Errors
    /// [`Error::Storage`] if records are damaged.
    pub fn sources(&self) -> Result<Vec<SourceStatus>> {
        statuses(&self.core().published.view())
    }

    /// The dead letters of a source, by position; whether the source is open does not matter.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Source`] if there is no such source; [`Error::Storage`] if records are
    /// damaged.
    pub fn dead_letters(&self, source: &str, collection: &str) -> Result<Vec<DeadLetter>> {
        letters_of(&self.core().published.view(), collection, source)
    }

    /// The entries of a source's own table, by key; whether the source is open does not matter.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Storage`] if records are damaged.
    pub fn source_entries(&self, source: &str, collection: &str) -> Result<Vec<(String, Vec<u8>)>> {
        entries_of(&self.core().published.view(), collection, source)
    }
}

impl ReadOnlyDatabase {
    /// All sources of all collections, by the names of both.
    ///
    /// # Errors
    /// [`Error::Storage`] if records are damaged.
    pub fn sources(&self) -> Result<Vec<SourceStatus>> {
        statuses(self.view())
    }

    /// The dead letters of a source, by position.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Source`] if there is no such source; [`Error::Storage`] if records are
    /// damaged.
    pub fn dead_letters(&self, source: &str, collection: &str) -> Result<Vec<DeadLetter>> {
        letters_of(self.view(), collection, source)
    }

    /// The entries of a source's own table, by key.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Storage`] if records are damaged.
    pub fn source_entries(&self, source: &str, collection: &str) -> Result<Vec<(String, Vec<u8>)>> {
        entries_of(self.view(), collection, source)
    }
}
