//! What a line asks for.

use std::time::SystemTime;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use plimsoll::limits::{MAX_KEY_BYTES, MAX_POSTINGS};
use plimsoll::{Document, Key, Metadata};
use plimsoll_lines::{PostingField, from_json};
use serde::{Deserialize, Serialize};

use super::content::{self, Unread};
use super::fields::Fields;
use super::{Files, Line, SeenUpdate, walk};
use crate::{Failure, FailureClass};

/// With padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Store this document, which has its vectors.
    Upsert(Document),
    /// Cut this text into passages, have them embedded, and store the document. It replaces the one of that key. A text
    /// in which there is no passage (an empty file, say) can not be stored: what was under the key goes.
    Text {
        /// The document's key.
        key: Key,
        /// Its text: UTF-8, at most 16 MiB.
        text: String,
        /// Its metadata. Of a change: `path`, `repo` and `mime` (strings, where they are given) and `size` (an integer:
        /// as given, or else the length of the text in bytes).
        metadata: Metadata,
    },
    /// Remove the document with this key.
    Delete(Key),
    /// Remember this with the run; it is no data.
    Control(Changeset),
    /// Do nothing.
    Skip(SkipReason),
}

/// What a control record says about the changes around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changeset {
    /// Which repository it is about.
    pub repo: Option<String>,
    /// The object under `new_changeset`, as the JSON text that it was.
    pub json: String,
}

/// Why there is nothing to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// The line is blank.
    Blank,
    /// The line says `"skip_index": true`.
    SkipIndex,
    /// The path is that of a directory, as in the output of `find`.
    Directory,
    /// The file is binary, and so holds no text.
    Binary,
    /// The file holds what it held when it was read the last time.
    Unchanged,
    /// There is no passage in the text, and so nothing that could be found. What was stored under its key goes.
    Empty,
    /// The item failed, and a later one of the same batch stored or removed the document that it was about.
    Outdated,
    /// A document was to be removed that was not there.
    Absent,
    /// It is a control record, which is kept with the run.
    Control,
}

impl SkipReason {
    /// Its name, as it is counted and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::SkipIndex => "skip_index",
            Self::Directory => "directory",
            Self::Binary => "binary",
            Self::Unchanged => "unchanged",
            Self::Empty => "empty",
            Self::Absent => "absent",
            Self::Outdated => "outdated",
            Self::Control => "control",
        }
    }
}

/// What kind of line something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// A row of import.
    Row,
    /// A line of a change stream.
    Change,
    /// The path of a file.
    Path,
    /// A control record.
    Control,
    /// Nothing but white space.
    Blank,
    /// Not to be told, because it is malformed.
    Unknown,
}

/// What a line says that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// Store something, new or not: rows of import, and paths.
    Upsert,
    /// Store something new. Done like `Modify`.
    Add,
    /// Store something that may be there already.
    Modify,
    /// Remove something.
    Delete,
    /// None of these.
    None,
}

impl Op {
    /// Its name, as lines have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Add => "add",
            Self::Modify => "modify",
            Self::Delete => "delete",
            Self::None => "none",
        }
    }
}

/// A line that was parsed: what it asks for, and what is known about it even if that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Which kind of line it is.
    pub format: Format,
    /// What it says that it does.
    pub op: Op,
    /// The path that it names.
    pub path: Option<String>,
    /// The repository that it names.
    pub repo: Option<String>,
    /// The number that its producer gave it, by which gaps in a stream are found.
    pub line: Option<u64>,
    /// What is to be done, or why that can not be known. The line itself is the payload of the failure.
    pub change: Result<Change, Failure>,
    /// What is to be remembered of the file, if it is one of a folder that is tried again.
    pub seen: SeenUpdate,
}

impl Entry {
    fn new(format: Format, op: Op, change: Result<Change, Failure>) -> Self {
        Self { format, op, path: None, repo: None, line: None, change, seen: SeenUpdate::Keep }
    }
}

/// Makes changes of lines. Can be shared by threads; it reads the files that lines name.
#[derive(Debug, Clone)]
pub struct Parser {
    files: Files,
    /// Whether payloads are paths, whatever they look like.
    of_paths: bool,
}

impl Parser {
    /// A parser that reads these files.
    pub fn new(files: Files) -> Self {
        Self { files, of_paths: false }
    }

    /// A parser for the items of a folder: what is kept of one that failed is its path below `files`, also if it looks like
    /// a line of another kind.
    pub fn of_paths(files: Files) -> Self {
        Self { files, of_paths: true }
    }

    /// What a line asks for.
    pub fn parse(&self, line: &Line) -> Entry {
        match line.text() {
            Ok(text) => self.parse_text(text),
            Err(failure) => Entry::new(Format::Unknown, Op::None, Err(failure)),
        }
    }

    /// The same for the payload of a line that failed.
    pub fn parse_payload(&self, payload: &[u8]) -> Entry {
        match content::utf8(if self.of_paths { "the path" } else { "the line" }, payload) {
            Ok(path) if self.of_paths => self.parse_path(path),
            Ok(text) => self.parse_text(text),
            Err(failure) => Entry::new(Format::Unknown, Op::None, Err(failure)),
        }
    }

    /// The same for the text of a line, without its end.
    pub fn parse_text(&self, line: &str) -> Entry {
        match line.trim_ascii_start().as_bytes().first() {
            None => Entry::new(Format::Blank, Op::None, Ok(Change::Skip(SkipReason::Blank))),
            Some(b'{') => self.parse_object(line),
            Some(_) => self.parse_path(line),
        }
    }

    fn parse_path(&self, path: &str) -> Entry {
        let (looked, mut seen) = (SystemTime::now(), SeenUpdate::Keep);
        let change = path_key(None, path).and_then(|key| match self.files.read(path) {
            Ok((text, file)) if self.of_paths => {
                seen = SeenUpdate::Put(walk::seen_of(&text, &file, looked));
                Ok(walk::text_of(path, text, &file))
            }
            Ok((text, _)) => Ok(text_change(key, text, path, None, None, None)),
            Err(Unread::Directory(_)) => Ok(Change::Skip(SkipReason::Directory)),
            Err(Unread::Other(failure)) => Err(failure),
        });
        Entry { path: Some(path.to_owned()), seen, ..Entry::new(Format::Path, Op::Upsert, change) }
    }

    fn parse_object(&self, json: &str) -> Entry {
        let mut fields = match from_json::<Fields>(json) {
            Ok(fields) => fields,
            Err(malformed) => return Entry::new(Format::Unknown, Op::None, Err(invalid(malformed.what))),
        };
        let op = fields.op.take().flatten();
        if let Some(json) = fields.new_changeset.take() {
            return control(fields, json);
        }
        let path = fields.path.as_ref().and_then(Option::as_ref);
        match (&fields.id, path) {
            (Some(_), None) => row(fields, op.as_deref()),
            (None, Some(_)) => self.change(fields, op.as_deref()),
            (Some(_), Some(_)) => unknown("there are both id and path: a row has an id, a change a path"),
            (None, None) => unknown("there is neither id nor path"),
        }
    }

    fn change(&self, mut fields: Fields, op: Option<&str>) -> Entry {
        let (path, repo) = (fields.path.take().flatten(), fields.repo.take().flatten());
        let (path, repo) = (path.unwrap_or_default(), repo.filter(|repo| !repo.is_empty()));
        let line = fields.line.take().flatten();
        let (op, change) = match op {
            None | Some("modify") => (Op::Modify, Ok(())),
            Some("add") => (Op::Add, Ok(())),
            Some("delete") => (Op::Delete, Ok(())),
            Some(op) => (Op::None, Err(invalid(format!("the op {op:?} is none of add, modify and delete")))),
        };
        let change = change.and_then(|()| self.changed(fields, op, &path, repo.as_deref()));
        // Without its repository it would be another document that has this path.
        let is_known = repo.as_ref().is_none_or(|repo| repo.len() <= MAX_KEY_BYTES);
        let (path, repo) = if is_known { (Some(path), repo) } else { (None, None) };
        Entry { path, repo, line, ..Entry::new(Format::Change, op, change) }
    }

    fn changed(&self, fields: Fields, op: Op, path: &str, repo: Option<&str>) -> Result<Change, Failure> {
        if let Some(name) = fields.foreign_to_changes() {
            return Err(invalid(format!(
                "the field {name:?} is one of rows with an id; a change has content"
            )));
        }
        let key = path_key(repo, path)?;
        if op == Op::Delete {
            return Ok(Change::Delete(key));
        }
        if fields.skip_index.flatten() == Some(true) {
            return Ok(Change::Skip(SkipReason::SkipIndex));
        }
        let contents =
            (fields.content.flatten(), fields.content_base64.flatten(), fields.content_ref.flatten());
        let text = match contents {
            (Some(content), None, None) => given(content)?,
            (None, Some(base64), None) => decoded(&base64)?,
            (None, None, Some(path)) => self.files.read_text(&path)?,
            (None, None, None) => self.files.read_text(path)?,
            _ => {
                return Err(invalid("there are more than one of content, content_base64 and content_ref"));
            }
        };
        Ok(text_change(key, text, path, repo, fields.mime.flatten(), fields.size.flatten()))
    }
}

fn invalid(what: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Validation, what)
}

fn unknown(what: &str) -> Entry {
    Entry::new(Format::Unknown, Op::None, Err(invalid(what)))
}

fn control(fields: Fields, json: String) -> Entry {
    let (repo, path, line) = (fields.repo.flatten(), fields.path.flatten(), fields.line.flatten());
    if let Some(length) = repo.as_ref().map(String::len).filter(|length| *length > MAX_KEY_BYTES) {
        let what = format!("the repo has {length} bytes; at most {MAX_KEY_BYTES} are allowed");
        return Entry { path, line, ..Entry::new(Format::Control, Op::None, Err(invalid(what))) };
    }
    let change = Change::Control(Changeset { repo: repo.clone(), json });
    Entry { path, repo, line, ..Entry::new(Format::Control, Op::None, Ok(change)) }
}

fn row(fields: Fields, op: Option<&str>) -> Entry {
    let (op, change) = match op {
        None | Some("upsert") => (Op::Upsert, upsert(fields)),
        Some("delete") => (Op::Delete, delete(fields)),
        Some(op) => (Op::None, Err(invalid(format!("the op {op:?} is neither upsert nor delete")))),
    };
    Entry::new(Format::Row, op, change)
}

fn checked(fields: &mut Fields) -> Result<Key, Failure> {
    if let Some(name) = fields.foreign_to_rows() {
        let known = "id, vector, postings, text, metadata and op";
        return Err(invalid(format!("unknown field {name:?}; a row has {known}")));
    }
    let key = fields.id.take().ok_or_else(|| invalid("there is no id"))?;
    check_key(&key)?;
    Ok(key)
}

fn delete(mut fields: Fields) -> Result<Change, Failure> {
    let key = checked(&mut fields)?;
    match fields.foreign_to_changes() {
        None => Ok(Change::Delete(key)),
        Some(_) => Err(invalid("a delete has an id and nothing else")),
    }
}

fn upsert(mut fields: Fields) -> Result<Change, Failure> {
    let key = checked(&mut fields)?;
    let (text, metadata) = (fields.text.flatten(), fields.metadata.unwrap_or_default());
    if let Some(text) = &text {
        content::check_length("the text", text.len() as u64)?;
    }
    let mut document = Document { key, text, metadata, postings: Vec::new() };
    match (fields.vector, fields.postings) {
        (Some(_), Some(_)) => return Err(invalid("there are both vector and postings")),
        (Some(vector), None) => document = document.vector(vector.0),
        (None, Some(postings)) if postings.is_empty() || postings.len() > MAX_POSTINGS => {
            let what = format!("there are {} postings; 1 to {MAX_POSTINGS} are allowed", postings.len());
            return Err(invalid(what));
        }
        (None, Some(postings)) => {
            document.postings = postings.into_iter().map(PostingField::into_posting).collect();
        }
        (None, None) => {
            let Document { key, text, metadata, .. } = document;
            let text = text.ok_or_else(|| invalid("there is neither text nor vector nor postings"))?;
            return Ok(Change::Text { key, text, metadata });
        }
    }
    Ok(Change::Upsert(document))
}

/// The key of a file: its path, behind the repository and a colon if there is one.
fn path_key(repo: Option<&str>, path: &str) -> Result<Key, Failure> {
    if path.is_empty() {
        return Err(invalid("the path is empty"));
    }
    let key = Key::String(repo.map_or_else(|| path.to_owned(), |repo| format!("{repo}:{path}")));
    check_key(&key)?;
    Ok(key)
}

pub(super) fn check_key(key: &Key) -> Result<(), Failure> {
    match key {
        Key::String(text) if text.is_empty() => Err(invalid("the id is empty")),
        Key::String(text) if text.len() > MAX_KEY_BYTES => {
            let length = text.len();
            Err(invalid(format!("the key has {length} bytes; at most {MAX_KEY_BYTES} are allowed")))
        }
        _ => Ok(()),
    }
}

fn given(content: String) -> Result<String, Failure> {
    content::check_length("the content", content.len() as u64)?;
    content::text("the content", content.into_bytes())
}

fn decoded(base64: &str) -> Result<String, Failure> {
    // Four digits are three bytes: what is too long need not be decoded.
    content::check_length("the content", (base64.len() / 4 * 3).saturating_sub(2) as u64)?;
    let bytes = BASE64.decode(base64);
    let bytes = bytes.map_err(|error| {
        Failure::new(FailureClass::Encoding, format!("the content_base64 is not base64: {error}"))
    })?;
    content::check_length("the content", bytes.len() as u64)?;
    content::text("the content", bytes)
}

fn text_change(
    key: Key,
    text: String,
    path: &str,
    repo: Option<&str>,
    mime: Option<String>,
    size: Option<u64>,
) -> Change {
    let mut metadata = Metadata::new();
    metadata.insert("path".to_owned(), path.into());
    metadata.insert("size".to_owned(), size.unwrap_or(text.len() as u64).into());
    if let Some(repo) = repo {
        metadata.insert("repo".to_owned(), repo.into());
    }
    if let Some(mime) = mime {
        metadata.insert("mime".to_owned(), mime.into());
    }
    Change::Text { key, text, metadata }
}
