//! The kinds of failures, which decide how something is tried again.

use std::fmt;

/// What kind of failure kept an item of a source from being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FailureClass {
    /// A connection was refused, lost or cut short.
    Network,
    /// The database or a ledger could not be written.
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
