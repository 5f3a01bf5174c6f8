//! Reading rows from files and standard input: JSON lines, fvecs and npy, one row at a time.
//!
//! **Promises** bounded memory (one row, at most [`jsonl::MAX_LINE_BYTES`]), and that a wrong row is an
//! [`InputError`] naming file and line or row. Nothing is skipped silently. **Must not know** databases.

mod fvecs;
mod ivecs;
mod jsonl;
mod matrix;
mod npy;
mod npy_header;
mod queries;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use plimsoll_lines::Malformed;

use crate::args::Format;

pub(crate) use ivecs::{parse_ivecs, read_ivecs};
pub(crate) use matrix::{Matrix, parse_npy, read_matrix};
pub use plimsoll_lines::Operation;
pub use queries::Queries;

/// One row of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it stands.
    pub place: Place,
    /// What it asks for.
    pub operation: Operation,
}

/// Where in a file something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In its header, or all over it.
    File,
    /// On a line, from 1.
    Line(u64),
    /// In a row, from 0 as in the ids of rows.
    Row(u64),
}

impl Place {
    pub(crate) fn line(self) -> Option<u64> {
        if let Self::Line(line) = self { Some(line) } else { None }
    }

    pub(crate) fn row(self) -> Option<u64> {
        if let Self::Row(row) = self { Some(row) } else { None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(f, "line {line}: "),
            Self::Row(row) => write!(f, "row {row}: "),
        }
    }
}

/// What is wrong with a row or a header, before it is known where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// A word for scripts.
    pub kind: &'static str,
    /// A sentence for people.
    pub what: String,
}

impl Problem {
    pub(crate) fn new(kind: &'static str, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// The input does not follow its format.
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::new("malformed", what)
    }

    /// The input ends in the middle of something.
    pub(crate) fn truncated(what: impl Into<String>) -> Self {
        Self::new("truncated", what)
    }

    /// The operating system could not read it.
    pub(crate) fn io(error: &io::Error) -> Self {
        Self::new("io", error.to_string())
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        Self::malformed(malformed.what)
    }
}

/// A problem, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}{what}")]
pub struct InputError {
    /// The file's name, as the user gave it.
    pub file: String,
    /// Where in the file.
    pub place: Place,
    /// A word for scripts.
    pub kind: &'static str,
    /// A sentence for people.
    pub what: String,
}

impl InputError {
    pub(crate) fn new(
        file: impl Into<String>,
        place: Place,
        kind: &'static str,
        what: impl Into<String>,
    ) -> Self {
        Self { file: file.into(), place, kind, what: what.into() }
    }

    pub(crate) fn at(file: &str, place: Place, problem: Problem) -> Self {
        Self::new(file, place, problem.kind, problem.what)
    }
}

/// Rows of one file, in order.
pub trait Rows {
    /// The next row; `None` after the last one. After an error there is nothing more to read.
    ///
    /// # Errors
    /// If the row is not one of this format, or can not be read.
    fn next_row(&mut self) -> Result<Option<Row>, InputError>;

    /// How many rows there are in all, where the file says so.
    fn expected(&self) -> Option<u64> {
        None
    }
}

/// What a file is called in messages.
pub(crate) fn name_of(path: &Path) -> String {
    if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Whether `path` stands for standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The format of a file: what `format` says, or else what its extension does.
pub(crate) fn format_of(path: &Path, format: Option<Format>) -> Result<Format, InputError> {
    if let Some(format) = format {
        return Ok(format);
    }
    if is_stdin(path) {
        return Ok(Format::Jsonl);
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
        Some("fvecs") => Ok(Format::Fvecs),
        Some("npy") => Ok(Format::Npy),
        _ => {
            let what = "its extension is none of .jsonl, .ndjson, .json, .fvecs, .npy: say --format";
            Err(InputError::new(name_of(path), Place::File, "unknown_format", what))
        }
    }
}

/// Opens a file, or standard input, for reading.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead>, InputError> {
    if is_stdin(path) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let failed = |error: &io::Error| InputError::at(&name_of(path), Place::File, Problem::io(error));
    let file = File::open(path).map_err(|error| failed(&error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(failed(&io::ErrorKind::IsADirectory.into()));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// Opens the rows of a file for import.
pub(crate) fn open_rows(path: &Path, format: Option<Format>) -> Result<Box<dyn Rows>, InputError> {
    let (name, format) = (name_of(path), format_of(path, format)?);
    rows(open(path)?, name, format)
}

/// The rows of a stream, which is called `name` in messages.
///
/// # Errors
/// If its header is not one of this format.
pub fn rows(reader: Box<dyn BufRead>, name: String, format: Format) -> Result<Box<dyn Rows>, InputError> {
    Ok(match format {
        Format::Jsonl => Box::new(jsonl::JsonLines::new(reader, name)),
        Format::Fvecs | Format::Npy => {
            Box::new(matrix::MatrixRows::new(matrix::vectors(reader, name, format)?))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_option_then_the_extension() {
        let format = |path: &str, format| format_of(Path::new(path), format);
        assert_eq!(format("a.NPY", None), Ok(Format::Npy));
        assert_eq!(format("a.ndjson", None), Ok(Format::Jsonl));
        assert_eq!(format("a.npy", Some(Format::Fvecs)), Ok(Format::Fvecs));
        assert_eq!(format("-", None), Ok(Format::Jsonl));
        assert_eq!(format("a.csv", None).unwrap_err().kind, "unknown_format");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = open_rows(Path::new("no/such.jsonl"), None).err().unwrap();
        assert!(error.to_string().starts_with("no/such.jsonl: "), "{error}");
        assert!(open_rows(Path::new("."), Some(Format::Npy)).is_err());
    }
}
