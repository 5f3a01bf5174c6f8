//! What can go wrong in the program, how it is said, and the exit code it ends with.

use std::io;
use std::process::ExitCode;

use plimsoll::{Error, SourceError, StorageError};
use plimsoll_ingest::IngestError;
use serde::Serialize;

use crate::input::InputError;

/// The result of a command.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The library's answer.
    #[error(transparent)]
    Database(#[from] Error),
    /// A repair that failed: what there was before it is still there.
    #[error("the repair failed, and what was there before it is still there: {0}")]
    Repair(Error),
    /// A file that was to be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// An import stopped on the way.
    #[error("{cause}; {}", stored_text(*.stored))]
    Import {
        /// How many rows of the input are durable.
        stored: u64,
        /// Why it stopped.
        cause: Box<CliError>,
    },
    /// Someone has sent SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Anything else, of a kind.
    #[error("{message}")]
    Failed {
        /// A word for scripts.
        kind: &'static str,
        /// A sentence for people.
        message: String,
    },
    /// Whoever read standard output has had enough.
    #[error("standard output was closed")]
    StdoutClosed,
    /// The command has said on standard output what is wrong.
    #[error("failed")]
    Reported,
}

fn stored_text(stored: u64) -> String {
    match stored {
        0 => "nothing of the input is stored".to_owned(),
        1 => "1 row before it is stored".to_owned(),
        stored => format!("{stored} rows before it are stored"),
    }
}

/// What to do about a damaged database.
const DAMAGED: &str =
    "plimsoll: `plimsoll verify DIR` lists what is damaged, `plimsoll repair DIR` keeps what can be read";

impl CliError {
    pub(crate) fn failed(kind: &'static str, message: impl Into<String>) -> Self {
        Self::Failed { kind, message: message.into() }
    }

    /// What another process of this program has said on its standard error, as JSON.
    pub(crate) fn of_process(said: &str) -> Self {
        let message = |line: &str| {
            let report: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(report.get("error")?.as_str()?.to_owned())
        };
        let message = said.lines().rev().find_map(message);
        Self::failed("other", message.unwrap_or_else(|| said.trim().to_owned()))
    }

    /// Output that could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::failed("io", format!("writing to standard output: {error}")),
        }
    }

    /// A file of the user's that could not be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::failed("io", format!("{}: {error}", path.display()))
    }

    /// Says it on standard error, and returns the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        match self {
            Self::StdoutClosed => return ExitCode::SUCCESS,
            Self::Reported => return ExitCode::from(1),
            _ if json => eprintln!("{}", self.to_json()),
            _ => {
                eprintln!("plimsoll: {self}");
                if self.kind() == "corrupted" && !matches!(self, Self::Repair(_)) {
                    eprintln!("{DAMAGED}");
                }
            }
        }
        ExitCode::from(if matches!(self, Self::Usage(_)) { 2 } else { 1 })
    }

    fn to_json(&self) -> String {
        let input = self.input();
        let report = Report {
            error: self.to_string(),
            kind: self.kind(),
            file: input.map(|input| input.file.clone()),
            line: input.and_then(|input| input.place.line()),
            row: input.and_then(|input| input.place.row()),
            rows_stored: match self {
                Self::Import { stored, .. } => Some(*stored),
                _ => None,
            },
        };
        serde_json::to_string(&report).unwrap_or_else(|error| error.to_string())
    }

    fn input(&self) -> Option<&InputError> {
        match self {
            Self::Input(input) => Some(input),
            Self::Import { cause, .. } => cause.input(),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Database(error) | Self::Repair(error) => kind_of(error),
            Self::Input(error) => error.kind,
            Self::Import { cause, .. } => cause.kind(),
            Self::Interrupted => "interrupted",
            Self::Failed { kind, .. } => kind,
            Self::StdoutClosed => "io",
            Self::Reported => "failed",
        }
    }
}

impl From<IngestError> for CliError {
    fn from(error: IngestError) -> Self {
        let kind = match &error {
            IngestError::Database(error) => return Self::Database(error.clone()),
            IngestError::Input(input) => match input {
                plimsoll_ingest::input::InputError::Changed { .. } => "input_changed",
                _ => "io",
            },
            IngestError::Embedder(_) => "embedder",
            IngestError::NoEmbedder { .. } => "no_embedder",
            IngestError::Settings(_) => "settings",
            _ => "other",
        };
        let next = match error {
            IngestError::Embedder(_) => "; once that is mended, the same command goes on where this one was",
            _ => "",
        };
        Self::failed(kind, format!("{error}{next}"))
    }
}

#[derive(Serialize)]
struct Report {
    error: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_stored: Option<u64>,
}

/// A word for a library error, stable for scripts.
pub(crate) fn kind_of(error: &Error) -> &'static str {
    match error {
        Error::DimensionMismatch { .. } => "dimension_mismatch",
        Error::InvalidDocument { .. } => "invalid_document",
        Error::InvalidArgument(_) => "invalid_argument",
        Error::InvalidQuery { .. } => "invalid_query",
        Error::BatchTooLarge { .. } => "batch_too_large",
        Error::CollectionNotFound(_) => "collection_not_found",
        Error::NotIndexed { .. } => "not_indexed",
        Error::SchemaMismatch { .. } => "schema_mismatch",
        Error::AlreadyExists(_) => "already_exists",
        Error::DocumentNotFound(_) => "document_not_found",
        Error::IdCollision { .. } => "id_collision",
        Error::DatabaseNotFound(_) => "database_not_found",
        Error::NotADatabase { .. } => "not_a_database",
        Error::Poisoned { .. } => "poisoned",
        Error::Stalled(_) => "stalled",
        Error::Timeout => "timeout",
        Error::Cancelled => "cancelled",
        Error::CircuitOpen { .. } => "circuit_open",
        Error::QueueFull { .. } => "queue_full",
        Error::JobTimeout { .. } => "job_timeout",
        Error::JobNotFound(_) => "job_not_found",
        Error::JobFinished { .. } => "job_finished",
        Error::Filter(_) => "filter",
        Error::Source(error) => match error {
            SourceError::InUse(_) => "source_in_use",
            SourceError::NotFound(_) => "source_not_found",
            SourceError::FingerprintChanged { .. } => "fingerprint_changed",
            SourceError::Paused(_) => "source_paused",
            _ => "source",
        },
        Error::Closed => "closed",
        Error::Background { cause, .. } => kind_of(cause),
        Error::Storage(StorageError::Io { .. }) => "io",
        Error::Storage(StorageError::Corrupted { .. }) => "corrupted",
        Error::Storage(StorageError::UpgradeRequired { .. }) => "upgrade_required",
        Error::Storage(StorageError::Locked { .. }) => "locked",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Place;

    #[test]
    fn an_import_error_says_where_and_what_is_stored() {
        let cause = InputError::new("rows.jsonl", Place::Line(7), "malformed", "there is no id");
        let error = CliError::Import { stored: 5, cause: Box::new(cause.into()) };
        assert_eq!(error.to_string(), "rows.jsonl: line 7: there is no id; 5 rows before it are stored");
        let json: serde_json::Value = serde_json::from_str(&error.to_json()).unwrap();
        assert_eq!(json["kind"], "malformed");
        assert_eq!((&json["file"], &json["line"]), (&"rows.jsonl".into(), &7.into()));
        assert_eq!(json["rows_stored"], 5);
        assert!(json.get("row").is_none());
    }
}
