//! Errors about an input as a whole. What is wrong with a single line is a [`Failure`](crate::Failure) of that line.

use std::io;

use crate::{Failure, FailureClass};

/// Why an input can not be read, or not from a place on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The operating system could not read it.
    #[error("{name}: {error}")]
    Io {
        /// The file's name, as the user gave it, or that of the stream.
        name: String,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// What lies before the place is not what was read the last time. Going on would lose lines or store them twice.
    #[error("{name} has changed: {what}")]
    Changed {
        /// The file's name, or that of the stream.
        name: String,
        /// What is different.
        what: String,
    },
    /// A place that can not be read.
    #[error("the stored place is not one: {0}")]
    Place(String),
    /// A folder, the walk of which must not go on.
    #[error("{name}: {what}")]
    Folder {
        /// The folder's name, as the user gave it.
        name: String,
        /// What is wrong.
        what: String,
    },
}

impl InputError {
    pub(super) fn io(name: impl Into<String>, error: io::Error) -> Self {
        Self::Io { name: name.into(), error }
    }

    pub(super) fn changed(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Changed { name: name.into(), what: what.into() }
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        let class = match error {
            InputError::Io { .. } | InputError::Folder { .. } => FailureClass::FileSystem,
            InputError::Changed { .. } | InputError::Place(_) => FailureClass::Validation,
        };
        Self::new(class, error.to_string())
    }
}
