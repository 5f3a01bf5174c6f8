//! Names of sealed files: `000000000012.posting`, and `000000000012.posting.tmp` while it is written.
//!
//! **Owns** the mapping between (kind, number) and a name, in both directions; parsing is strict, so that
//! exactly the names this program makes are taken for its own. **Must not know** which files are live. Names
//! decide nothing on a crash: a temporary name is never referred to and may always be removed.
//!
//! A name is the number in decimal, padded with zeros to 12 digits, a dot, and the kind's extension.

use std::fmt;

use plimsoll_base::FileNumber;
use plimsoll_base::header::FileKind;

/// Appended to a file's final name while it is being written.
pub const TEMPORARY_SUFFIX: &str = ".tmp";
const DIGITS: usize = 12;

/// The kinds of sealed data files: the part of [`FileKind`] that this crate owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum SealedKind {
    /// Documents: table, keys, text, metadata, ranges and raw vectors ([`crate::posting`]).
    Posting = FileKind::Posting as u16,
    /// Vector rows, grouped by shard and list ([`crate::vector`]).
    Vector = FileKind::Vector as u16,
    /// Ordinals of documents that were replaced or deleted ([`crate::kill`]).
    Kill = FileKind::Kill as u16,
    /// An index generation ([`crate::index_file`]).
    Index = FileKind::Index as u16,
}

impl SealedKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Posting, Self::Vector, Self::Kill, Self::Index];

    /// The kind's number on disk.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The kind with this number on disk, if there is one.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind as file headers carry it.
    pub const fn file_kind(self) -> FileKind {
        match self {
            Self::Posting => FileKind::Posting,
            Self::Vector => FileKind::Vector,
            Self::Kill => FileKind::Kill,
            Self::Index => FileKind::Index,
        }
    }

    /// The extension of the kind's files, without a dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Posting => "posting",
            Self::Vector => "vectors",
            Self::Kill => "kills",
            Self::Index => "index",
        }
    }

    /// The newest format version of the kind, which is the one that is written.
    pub const fn version(self) -> u16 {
        match self {
            Self::Posting => crate::posting::VERSION,
            Self::Vector => crate::vector::VERSION,
            Self::Kill => crate::kill::VERSION,
            Self::Index => crate::index_file::VERSION,
        }
    }
}

impl From<SealedKind> for FileKind {
    fn from(kind: SealedKind) -> Self {
        kind.file_kind()
    }
}

impl fmt::Display for SealedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.file_kind().name())
    }
}

/// A sealed file's name, taken apart.
///
/// ```
/// use plimsoll_base::FileNumber;
/// use plimsoll_shard::{FileName, SealedKind};
///
/// let name = FileName::new(SealedKind::Posting, FileNumber(12));
/// assert_eq!(name.to_string(), "000000000012.posting");
/// assert_eq!(name.temporary().to_string(), "000000000012.posting.tmp");
/// assert_eq!(FileName::parse("000000000012.posting"), Some(name));
/// assert_eq!(FileName::parse("12.posting"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// What the file holds.
    pub kind: SealedKind,
    /// Its number, unique among all files of the database.
    pub number: FileNumber,
    /// Whether it is the name of a file still being written.
    pub is_temporary: bool,
}

impl FileName {
    /// The final name of file `number`.
    pub const fn new(kind: SealedKind, number: FileNumber) -> Self {
        Self { kind, number, is_temporary: false }
    }

    /// The name under which the file is written.
    #[must_use]
    pub const fn temporary(self) -> Self {
        Self { is_temporary: true, ..self }
    }

    /// Takes a name apart; `None` unless it is exactly what [`fmt::Display`] gives for the result.
    pub fn parse(name: &str) -> Option<Self> {
        let (name, is_temporary) = match name.strip_suffix(TEMPORARY_SUFFIX) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (digits, extension) = name.split_once('.')?;
        let kind = SealedKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        let canonical = digits.len() == DIGITS || (digits.len() > DIGITS && !digits.starts_with('0'));
        if !canonical || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { kind, number: FileNumber(digits.parse().ok()?), is_temporary })
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.is_temporary { TEMPORARY_SUFFIX } else { "" };
        write!(f, "{:0DIGITS$}.{}{suffix}", self.number.0, self.kind.extension())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_for_every_kind_and_magnitude() {
        for kind in SealedKind::ALL {
            assert_eq!(SealedKind::from_code(kind.code()), Some(kind));
            for number in [0, 1, 12, 999_999_999_999, 1_000_000_000_000, u64::MAX] {
                let name = FileName::new(kind, FileNumber(number));
                assert_eq!(FileName::parse(&name.to_string()), Some(name));
                assert_eq!(FileName::parse(&name.temporary().to_string()), Some(name.temporary()));
            }
        }
    }

    #[test]
    fn what_this_program_never_writes_is_not_taken_for_its_own() {
        for name in [
            "",
            ".posting",
            "1.posting",
            "00000000001.posting",
            "0000000000001.posting",
            "+00000000012.posting",
            "00000000001a.posting",
            "000000000012",
            "000000000012.",
            "000000000012.wal",
            "000000000012.Posting",
            "000000000012.posting.",
            "000000000012.posting.tmp.tmp",
            "000000000012.posting.bak",
            "000000000012.tmp",
            "000000000012..posting",
            "000000000012.posting ",
            "99999999999999999999.posting",
            "../000000000012.posting",
            "٠٠٠٠٠٠٠٠٠٠١٢.posting",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
