//! Why an item, or a call about many of them, did not work, in the classes that decide how it is tried again.

use std::fmt;
use std::time::Duration;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FailureClass {
    /// A connection was refused, lost or cut short.
    Network,
    /// The database or the ledger could not be written.
    Storage,
    /// A file could not be read.
    FileSystem,
    /// What should be text is not.
    Encoding,
    /// A service asked for patience.
    RateLimit,
    /// There was not enough memory, or an item is larger than what is allowed.
    Memory,
    /// Nothing came in time.
    Timeout,
    /// The item itself is wrong: trying again does not help.
    Validation,
    /// None of these.
    Unknown,
}

impl FailureClass {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Network,
        Self::Storage,
        Self::FileSystem,
        Self::Encoding,
        Self::RateLimit,
        Self::Memory,
        Self::Timeout,
        Self::Validation,
        Self::Unknown,
    ];

    /// Its name, as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Storage => "storage",
            Self::FileSystem => "file system",
            Self::Encoding => "encoding",
            Self::RateLimit => "rate limit",
            Self::Memory => "memory",
            Self::Timeout => "timeout",
            Self::Validation => "validation",
            Self::Unknown => "unknown",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|class| class.name() == name)
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
