//! Why an item, or a call about many of them, did not work, in the classes that decide how it is tried again.

use std::time::Duration;

pub use plimsoll::FailureClass;

/// A failure, with what is known about trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its kind.
    pub class: FailureClass,
    /// A sentence for people. It names the thing, and never holds an API key.
    pub message: String,
    /// How long to wait at least, where a service said so.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of a class.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), retry_after: None }
    }

    /// The failure for items that were not asked for because of it: whatever it was, they are not to blame.
    pub(crate) fn for_unasked(&self) -> Self {
        match self.class {
            FailureClass::Validation => Self { class: FailureClass::Unknown, ..self.clone() },
            _ => self.clone(),
        }
    }
}
