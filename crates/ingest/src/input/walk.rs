//! A folder: what was added to it, modified and deleted since it was looked at the last time.
//!
//! Which files there are comes from the crate `ignore`, so what Git ignores is left out, and so are hidden files. What
//! was seen the last time is handed in ([`SeenFiles`]), and each [`WalkItem`] says how that changes once the item is
//! done; so a walk that was broken off is simply begun again.
//!
//! | a file | gives |
//! |---|---|
//! | not seen yet | an add |
//! | of the size and modification time it had | nothing, and it is not read; but if it was modified less than two seconds before it was looked at, it may have been modified once more in the same tick of the clock, and is read |
//! | of other ones, with the same contents | [`SkipReason::Unchanged`], and what was seen is brought up to date: nothing to embed |
//! | with other contents | a modify |
//! | no longer there, ignored or excluded now, or a directory, link or pipe now | a delete |
//! | that holds a zero byte | [`SkipReason::Binary`]; a delete if it was text |
//! | that is not UTF-8, or text of more than 16 MiB | a failure, once as long as it stays as it is; no delete |
//! | that can not be read, or below a directory that can not | a failure each time; no delete |
//! | whose name is not UTF-8, or longer than a key | a failure each time |
//!
//! A document's key is the path below the folder, with `/` between its parts. **Must not know** what becomes of a
//! change. **Promises** that a folder which is gone, or gets lost while it is read, is an error and no delete of
//! everything.

mod list;
mod seen;

use std::fs::{File, Metadata as FileMetadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::vec;

use plimsoll::{Key, Metadata};

use super::change::check_key;
use super::content::{self, Links, MAX_CONTENT_BYTES};
use super::fingerprint::Fingerprint;
use super::{Change, InputError, Op, SkipReason};
use crate::{Failure, FailureClass};

pub use list::WalkOptions;
use list::{Found, Job};
pub use seen::{Seen, SeenFiles, SeenState, SeenUpdate};

/// So much of a file that is too large is looked at, to tell whether it is text at all.
const SNIFF_BYTES: u64 = 8 << 10;

/// Something about one file of the folder.
#[derive(Debug, Clone, PartialEq)]
pub struct WalkItem {
    /// The path below the folder; the key, if the file has one. Of a name that is not UTF-8 the other bytes are escaped.
    pub path: String,
    /// The bytes of that path, as they are: the payload, should the item fail.
    pub payload: Vec<u8>,
    /// What has happened to the file.
    pub op: Op,
    /// What is to be done. Metadata of a text are `path`, `size` (in bytes) and `modified` (in whole seconds since 1970).
    pub change: Result<Change, Failure>,
    /// What is to be remembered, in the same batch in which the change, or its failure, is committed.
    pub seen: SeenUpdate,
}

/// The items of a folder, ordered by path.
///
/// The listing is made at once, and files that are as they were are dropped from it: it takes memory for the paths of
/// the others. Contents are read one file at a time.
#[derive(Debug)]
pub struct Walk {
    root: Root,
    jobs: vec::IntoIter<Job>,
    files: u64,
    unchanged: u64,
    links: Links,
}

impl Walk {
    /// Lists the folder, and compares it with what was seen.
    ///
    /// # Errors
    /// If it can not be read, is no directory, or has no files at all where some were seen
    /// ([`WalkOptions::allow_empty`]); if a pattern of the options is none.
    pub fn new(root: &Path, options: &WalkOptions, seen: &impl SeenFiles) -> Result<Self, InputError> {
        let root = Root::open(root)?;
        let Found { jobs, files, unchanged } = list::list(&root, options, seen)?;
        // A disk that was detached in the middle shows as files that are gone.
        root.check()?;
        let links = if options.follow_links { Links::Follow } else { Links::Refuse };
        Ok(Self { root, jobs: jobs.into_iter(), files, unchanged, links })
    }

    /// How many files there are, those that are as they were among them.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// How many files are as they were, by size and time.
    pub fn unchanged(&self) -> u64 {
        self.unchanged
    }

    /// How many files are still to be looked at; some may turn out to give nothing.
    pub fn left(&self) -> usize {
        self.jobs.len()
    }

    /// The next item; `None` after the last one.
    ///
    /// # Errors
    /// If the folder itself is gone. There is nothing more to read then.
    pub fn next_item(&mut self) -> Result<Option<WalkItem>, InputError> {
        while let Some(job) = self.jobs.next() {
            let item = match job {
                Job::Failed { path, payload, failure } => Some(WalkItem {
                    path,
                    payload,
                    op: Op::None,
                    change: Err(failure),
                    seen: SeenUpdate::Keep,
                }),
                Job::Gone { path } => Some(deleted(path)),
                Job::Look { path, seen } => self.look(path, seen)?,
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }

    fn look(&self, path: String, seen: Option<Seen>) -> Result<Option<WalkItem>, InputError> {
        let opened = content::open(&self.root.real.join(&path), self.links);
        let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (file, metadata) = match opened {
            Ok((_, metadata)) if !metadata.is_file() => return Ok(seen.map(|_| deleted(path))),
            Ok(opened) => opened,
            Err(error) if is_gone(&error) => {
                self.root.check()?;
                return Ok(seen.map(|_| deleted(path)));
            }
            Err(error) => {
                let failure = content::unreadable(&path, &error);
                return Ok(Some(item(path, Op::None, Err(failure), SeenUpdate::Keep)));
            }
        };
        Ok(Some(contents(path, &file, &metadata, seen)))
    }
}

impl Iterator for Walk {
    type Item = Result<WalkItem, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_item();
        if next.is_err() {
            self.jobs = Vec::new().into_iter();
        }
        next.transpose()
    }
}

/// The folder, and what tells it from another one that has its name.
#[derive(Debug)]
struct Root {
    given: PathBuf,
    real: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Root {
    fn open(given: &Path) -> Result<Self, InputError> {
        let failed = |error| InputError::io(given.display().to_string(), error);
        let real = given.canonicalize().map_err(failed)?;
        let metadata = real.metadata().map_err(failed)?;
        if !metadata.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        Ok(Self { given: given.to_owned(), real, identity: super::follow::identity(&metadata) })
    }

    fn check(&self) -> Result<(), InputError> {
        match self.real.metadata() {
            Ok(now) if now.is_dir() && super::follow::identity(&now) == self.identity => Ok(()),
            Ok(_) => Err(self.wrong("it has become another one while it was read")),
            Err(error) => Err(self.wrong(format!("it has gone while it was read: {error}"))),
        }
    }

    fn wrong(&self, what: impl Into<String>) -> InputError {
        InputError::Folder { name: self.given.display().to_string(), what: what.into() }
    }
}

fn item(path: String, op: Op, change: Result<Change, Failure>, seen: SeenUpdate) -> WalkItem {
    WalkItem { payload: path.clone().into_bytes(), path, op, change, seen }
}

fn deleted(path: String) -> WalkItem {
    let change = Change::Delete(Key::String(path.clone()));
    item(path, Op::Delete, Ok(change), SeenUpdate::Remove)
}

/// Whether there is no such file: its name is gone, or that of a directory above it.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What a file that could be opened gives.
fn contents(path: String, file: &File, metadata: &FileMetadata, seen: Option<Seen>) -> WalkItem {
    // Before it is read: what is written from now on has a later time, or is found by the two seconds.
    let looked_ns = seen::nanoseconds(SystemTime::now());
    let (size, modified_ns) = (metadata.len(), seen::modified_ns(metadata));
    let op = if seen.is_some() { Op::Modify } else { Op::Add };
    let now = |hash, state| SeenUpdate::Put(Seen { size, modified_ns, looked_ns, hash, state });
    let bytes = match read(&path, file, size) {
        Ok(bytes) => bytes,
        Err(failure) => return item(path, op, Err(failure), SeenUpdate::Keep),
    };
    let hash = Fingerprint::of(&bytes);
    let is_known = seen.filter(|seen| seen.hash == hash && seen.size == size);
    if let Some(seen) = is_known {
        let change = Ok(Change::Skip(SkipReason::Unchanged));
        return item(path, Op::None, change, now(hash, seen.state));
    }
    if content::zero_byte(&bytes).is_some() {
        let had_text = seen.is_some_and(|seen| seen.state != SeenState::Binary);
        let (op, change) = match had_text {
            true => (Op::Delete, Change::Delete(Key::String(path.clone()))),
            false => (op, Change::Skip(SkipReason::Binary)),
        };
        return item(path, op, Ok(change), now(hash, SeenState::Binary));
    }
    match content::check_length(&path, size).and_then(|()| content::text(&path, bytes)) {
        Ok(text) => {
            let change = text_of(&path, text, metadata);
            item(path, op, Ok(change), now(hash, SeenState::Text))
        }
        Err(failure) => item(path, op, Err(failure), now(hash, SeenState::Refused)),
    }
}

/// The document of a file that has this text.
pub(super) fn text_of(path: &str, text: String, file: &FileMetadata) -> Change {
    let mut metadata = Metadata::new();
    metadata.insert("path".to_owned(), path.into());
    metadata.insert("size".to_owned(), (text.len() as u64).into());
    metadata.insert("modified".to_owned(), seen::modified_ns(file).div_euclid(1_000_000_000).into());
    Change::Text { key: Key::String(path.to_owned()), text, metadata }
}

/// What is remembered of a file that has this text, and was opened after `looked`.
pub(super) fn seen_of(text: &str, file: &FileMetadata, looked: SystemTime) -> Seen {
    Seen {
        size: file.len(),
        modified_ns: seen::modified_ns(file),
        looked_ns: seen::nanoseconds(looked),
        hash: Fingerprint::of(text.as_bytes()),
        state: SeenState::Text,
    }
}

/// The bytes of a file; of one that is too large its beginning.
fn read(path: &str, file: &File, size: u64) -> Result<Vec<u8>, Failure> {
    if size <= MAX_CONTENT_BYTES as u64 {
        return content::read_bounded(path, file, size);
    }
    content::read_beginning(path, file, SNIFF_BYTES)
}

/// A path below the folder as a key: whether it can be one.
fn key_of(path: &str) -> Result<(), Failure> {
    check_key(&Key::String(path.to_owned()))
}

fn unnamed(path: &str) -> Failure {
    Failure::new(FailureClass::Encoding, format!("the name of {path} is not UTF-8, and keys are"))
}
