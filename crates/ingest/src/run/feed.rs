//! Where a run gets its items from: lines, folders, or whatever a program has.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use plimsoll::limits::MAX_KEY_BYTES;
use plimsoll::{Key, Source, Step};

use crate::error::IngestError;
use crate::failure::Failure;
use crate::input::{Change, InputError, Inputs, Line, Next, Place, Seen, SeenUpdate, Walk, WalkOptions};

/// What a feed gives.
#[derive(Debug)]
pub enum Fed {
    /// The next item.
    Item(Box<Item>),
    /// Nothing yet. What was given before is committed meanwhile.
    Idle,
    /// Nothing any more.
    End,
}

/// One item of a stream.
#[derive(Debug)]
pub struct Item {
    /// Its position: each is given once, in ascending order.
    pub position: u64,
    /// What it asks for.
    pub work: Work,
    /// Which document it is about, where that is known although the change failed.
    pub key: Option<Key>,
    /// What the source's own table is to hold once the item is done, whatever becomes of it.
    pub entries: Vec<(String, Option<Vec<u8>>)>,
    /// Whether the payload names what the item is about, as a path does, so that what was set aside with the same payload is
    /// outdated by this item, whatever becomes of it.
    pub is_named: bool,
}

/// What an item asks for.
#[derive(Debug)]
pub enum Work {
    /// A line, to be parsed.
    Line(Line),
    /// A change, or why there is none, and what is kept of the item if it fails.
    Change(Result<Change, Failure>, Vec<u8>),
}

impl Item {
    /// A change at a position. `payload` is what is kept of it if it fails.
    pub fn change(position: u64, change: Change, payload: impl Into<Vec<u8>>) -> Self {
        let work = Work::Change(Ok(change), payload.into());
        Self { position, work, key: None, entries: Vec::new(), is_named: false }
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        match &self.work {
            Work::Line(line) => line.bytes.len(),
            Work::Change(Ok(Change::Text { text, .. }), payload) => text.len() + payload.len(),
            Work::Change(Ok(Change::Upsert(document)), payload) => {
                let vectors: usize = document.postings.iter().map(|posting| posting.vector.len() * 4).sum();
                document.text.as_ref().map_or(0, String::len) + vectors + payload.len()
            }
            Work::Change(_, payload) => payload.len(),
        }
    }

    /// The line that it is, if it is one.
    pub(super) fn line(&self) -> Option<&Line> {
        match &self.work {
            Work::Line(line) => Some(line),
            Work::Change(..) => None,
        }
    }
}

/// Gives the items of a stream, from the first one on that is not done.
pub trait Feed {
    /// The next item.
    ///
    /// # Errors
    /// If the stream can not be read. The run ends with that.
    fn next(&mut self) -> Result<Fed, InputError>;

    /// How much of the input was read, and how much there is, in the same unit; as far as that is known.
    fn progress(&self) -> (u64, Option<u64>) {
        (0, None)
    }
}

/// The lines of files and streams.
#[derive(Debug)]
pub struct Lines {
    inputs: Inputs,
    total: Option<u64>,
}

impl Lines {
    /// Goes on where the source is.
    ///
    /// # Errors
    /// [`IngestError::Input`] if the inputs are not those that the source has read.
    pub fn resume(inputs: Inputs, source: &Source) -> Result<Self, IngestError> {
        let state = source.state();
        if Place::from_state(&state)?.position > source.position() {
            // Something before that place is not done. What is done is passed over.
            return Self::resume_at(inputs, &[]);
        }
        Self::resume_at(inputs, &state)
    }

    /// Goes on where a source of this state is.
    ///
    /// # Errors
    /// As [`Lines::resume`].
    pub fn resume_at(mut inputs: Inputs, state: &[u8]) -> Result<Self, IngestError> {
        let place = Place::from_state(state)?;
        inputs.resume(&place)?;
        let total = inputs.total_bytes();
        Ok(Self { inputs, total })
    }
}

impl Feed for Lines {
    fn next(&mut self) -> Result<Fed, InputError> {
        let next = match self.inputs.next_line() {
            // A stream that gives this has nothing at the moment; what it gave of a line is kept.
            Err(InputError::Io { error, .. }) if error.kind() == ErrorKind::WouldBlock => Next::Idle,
            next => next?,
        };
        Ok(match next {
            Next::Line(line) => {
                let position = line.position;
                let work = Work::Line(line);
                Fed::Item(Box::new(Item { position, work, key: None, entries: Vec::new(), is_named: false }))
            }
            Next::Idle => Fed::Idle,
            Next::End => Fed::End,
        })
    }

    fn progress(&self) -> (u64, Option<u64>) {
        (self.inputs.bytes(), self.total)
    }
}

/// How the keys of entries begin that say what was seen of a file.
const SEEN: &str = "file/";

/// The files of a folder that are not as they were.
#[derive(Debug)]
pub struct Folder {
    walk: Walk,
    next: u64,
    total: u64,
}

impl Folder {
    /// Compares the folder with what the source has seen of it.
    ///
    /// # Errors
    /// [`IngestError::Input`] if the folder can not be read; [`IngestError::Database`].
    pub fn compare(root: &Path, options: &WalkOptions, source: &Source) -> Result<Self, IngestError> {
        // What an earlier walk numbered and did not do is in this one again, under a number of its own.
        let mut step = Step::new();
        for position in source.position()..source.status()?.end {
            if !source.is_done(position) {
                step.rejected(position);
            }
        }
        source.commit(&step)?;
        Self::compare_with(root, options, &source.entries()?, source.status()?.end)
    }

    /// Compares the folder with what the entries of a source say was seen of it. Positions begin at `next`.
    ///
    /// # Errors
    /// As [`Folder::compare`].
    pub fn compare_with(
        root: &Path,
        options: &WalkOptions,
        entries: &[(String, Vec<u8>)],
        next: u64,
    ) -> Result<Self, IngestError> {
        let mut seen = BTreeMap::<String, Seen>::new();
        for (key, value) in entries {
            if let Some(path) = key.strip_prefix(SEEN) {
                let what = |error| InputError::Place(format!("what was seen of {path:?}: {error}"));
                seen.insert(path.to_owned(), serde_json::from_slice(value).map_err(what)?);
            }
        }
        let walk = Walk::new(root, options, &seen)?;
        let total = walk.left() as u64;
        Ok(Self { walk, next, total })
    }

    /// How many files there are, those that are as they were among them.
    pub fn files(&self) -> u64 {
        self.walk.files()
    }

    /// How many files are as they were, by size and time of modification: they are no items.
    pub fn unchanged(&self) -> u64 {
        self.walk.unchanged()
    }
}

/// What the table of a source is to hold of a file.
pub(super) fn seen_entries(path: &str, seen: SeenUpdate) -> Vec<(String, Option<Vec<u8>>)> {
    let entry = || format!("{SEEN}{path}");
    match seen {
        SeenUpdate::Keep => Vec::new(),
        // Numbers, names and hexadecimal digits: there is nothing that JSON could not hold.
        SeenUpdate::Put(seen) => vec![(entry(), Some(serde_json::to_vec(&seen).unwrap_or_default()))],
        SeenUpdate::Remove => vec![(entry(), None)],
    }
}

impl Feed for Folder {
    fn next(&mut self) -> Result<Fed, InputError> {
        let Some(found) = self.walk.next_item()? else { return Ok(Fed::End) };
        let entries = seen_entries(&found.path, found.seen);
        let position = self.next;
        self.next += 1;
        let work = Work::Change(found.change, found.payload);
        let key = (1..=MAX_KEY_BYTES).contains(&found.path.len()).then(|| Key::from(found.path));
        Ok(Fed::Item(Box::new(Item { position, work, key, entries, is_named: true })))
    }

    fn progress(&self) -> (u64, Option<u64>) {
        (self.total.saturating_sub(self.walk.left() as u64), Some(self.total))
    }
}
