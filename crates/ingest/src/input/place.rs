//! Where reading goes on: what a source stores with each batch.

use serde::{Deserialize, Serialize};

use super::InputError;
use super::fingerprint::Fingerprint;

/// The beginning of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// In bytes from the beginning of the file.
    pub offset: u64,
    /// The number of the line from 0 in its file.
    pub line: u64,
    /// The number of the line from 0 over all inputs.
    pub position: u64,
}

/// A place between two lines of some inputs: everything before it was read.
///
/// It is the opaque state of a source: [`Place::to_state`] goes into the record of each batch, and
/// [`Inputs::resume`](super::Inputs::resume) continues from it. It holds a hash of the line before it and of what else
/// lies before it, so that other contents are noticed. A place takes about 300 bytes, however many files there are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// How many lines were read over all inputs: the position of the next line.
    pub position: u64,
    /// In which of the inputs, from 0.
    pub file: usize,
    /// How many lines of that file were read.
    pub line: u64,
    /// How many bytes of that file were read.
    pub offset: u64,
    /// The line before the place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Last>,
    /// How long that file is in all. Known of all files but the last one, which may grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<u64>,
    /// What the files before it were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Fingerprint>,
}

/// What is known of the last line that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Last {
    pub start: u64,
    pub length: u64,
    pub hash: Fingerprint,
    pub ended: bool,
}

impl Place {
    /// Its bytes, to be stored.
    pub fn to_state(&self) -> Vec<u8> {
        // The fields are numbers, booleans and hexadecimal digits: there is nothing that JSON could not hold.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The place that was stored. Nothing, an empty state, is the beginning.
    ///
    /// # Errors
    /// If the bytes are not those of a place.
    pub fn from_state(state: &[u8]) -> Result<Self, InputError> {
        if state.is_empty() {
            return Ok(Self::default());
        }
        let place: Self =
            serde_json::from_slice(state).map_err(|error| InputError::Place(error.to_string()))?;
        let is_possible = place.last.is_some_and(|last| {
            let bytes = place.offset.checked_sub(last.start);
            place.line > 0 && bytes.is_some_and(|bytes| bytes > 0 && bytes >= last.length)
        });
        let is_beginning = place.last.is_none() && place.line == 0 && place.offset == 0;
        if !is_possible && !is_beginning || place.position < place.line {
            return Err(InputError::Place("its numbers contradict each other".to_owned()));
        }
        Ok(place)
    }

    /// The beginning of the same file, with the position going on: for a file that was replaced by a new one while
    /// nobody followed it, if it is to be read from its start.
    #[must_use]
    pub fn at_start_of_file(&self) -> Self {
        Self { line: 0, offset: 0, last: None, end: None, ..self.clone() }
    }

    pub(super) fn start(&self) -> Start {
        Start { offset: self.offset, line: self.line, position: self.position }
    }
}
