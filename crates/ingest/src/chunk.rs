//! Passages from a text: which ranges of it get a vector each.
//!
//! **Owns** the ways to cut ([`Chunking`]) and the string that names one, which is part of a source's fingerprint: the
//! same text and the same string always give the same ranges. **Must not know** embedders: what counts as a token here
//! is said by [`Unit::Tokens`] and is the same for all of them. **On a crash** there is nothing to lose.

mod pieces;
mod sentences;
mod tokens;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use plimsoll::limits::MAX_POSTINGS;

/// What the size of a passage is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Estimated tokens of a language model, by a rule that needs no vocabulary: a run of letters and digits is one
    /// token per six characters begun, a character of Chinese, Japanese or Korean is one, and so is every other
    /// character that is not white space. English prose has about 1.3 of them per word, as common models do; leave
    /// a quarter of the model's limit free, because for a given text the model may count more.
    Tokens,
    /// Unicode characters (scalar values).
    Characters,
    /// Sentences, by the rules of Unicode (UAX 29). A line break inside a paragraph does not end one.
    Sentences,
    /// Paragraphs: what blank lines separate.
    Paragraphs,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Characters => "characters",
            Self::Sentences => "sentences",
            Self::Paragraphs => "paragraphs",
        }
    }

    /// The size and overlap that are meant when none are named.
    const fn defaults(self) -> (usize, usize) {
        match self {
            Self::Tokens => (256, 32),
            Self::Characters => (1200, 200),
            Self::Sentences => (5, 1),
            Self::Paragraphs => (1, 0),
        }
    }
}

/// How a text is cut into passages.
///
/// It is written `UNIT`, `UNIT:SIZE` or `UNIT:SIZE:OVERLAP`, with the units `tokens` (256:32 unless it is said),
/// `characters` (1200:200), `sentences` (5:1) and `paragraphs` (1:0); or `whole`, one passage.
///
/// A cut falls between paragraphs if it can, else between lines, sentences, words, and inside a word only when that is
/// longer than a passage may be. A passage begins `overlap` units before the cut, and none holds
/// another one whole. White space at both ends is left out.
///
/// ```
/// use plimsoll_ingest::Chunking;
/// let chunking: Chunking = "sentences:2:1".parse()?;
/// let text = "One is here. Two is there. Three is gone.";
/// let passages: Vec<&str> = chunking.chunk(text).unwrap().iter().map(|p| &text[p.range()]).collect();
/// assert_eq!(passages, ["One is here. Two is there.", "Two is there. Three is gone."]);
/// # Ok::<(), plimsoll_ingest::ChunkingError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunking(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Whole,
    Units { unit: Unit, size: usize, overlap: usize },
}

/// The range of a passage in its text, as a [`plimsoll::Posting`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Passage {
    /// Where it begins, in bytes of UTF-8; on a character boundary.
    pub start: u32,
    /// How long it is, in bytes; never 0.
    pub length: u32,
}

impl Passage {
    /// The range, to cut the text with.
    pub fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.length as usize
    }
}

/// Why a string names no way to cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkingError {
    /// The unit is not known.
    #[error("{0:?} is no unit of passages; there are tokens, characters, sentences, paragraphs and whole")]
    Unit(String),
    /// A size or overlap is not a number in range.
    #[error("{0:?} is not a number up to {max}", max = Chunking::MAX_SIZE)]
    Number(String),
    /// Passages of nothing.
    #[error("passages of size 0 hold nothing")]
    Empty,
    /// Passages that repeat each other for the most part.
    #[error("an overlap of {overlap} is more than half of the size {size}")]
    Overlap {
        /// The overlap asked for.
        overlap: usize,
        /// The size asked for.
        size: usize,
    },
    /// There is more behind the overlap.
    #[error("{0:?} has too many parts; UNIT:SIZE:OVERLAP is all")]
    Parts(String),
}

/// Why a text can not be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// It gives more passages than a document can have.
    #[error("the text gives more than {MAX_POSTINGS} passages, the most that a document can have")]
    TooManyPassages,
    /// It is longer than ranges can say.
    #[error("the text has {0} bytes; at most {max} can be stored", max = plimsoll::limits::MAX_TEXT_BYTES)]
    TooLong(usize),
}

impl Chunking {
    /// The largest size, in any unit.
    pub const MAX_SIZE: usize = 1 << 24;

    /// One passage per text.
    pub const WHOLE: Self = Self(Kind::Whole);

    /// Passages of at most `size` units, of which `overlap` are repeated in the next passage.
    ///
    /// # Errors
    /// When the size is 0 or more than [`Self::MAX_SIZE`], or the overlap more than half of it.
    pub fn new(unit: Unit, size: usize, overlap: usize) -> Result<Self, ChunkingError> {
        if size == 0 {
            return Err(ChunkingError::Empty);
        }
        if size > Self::MAX_SIZE {
            return Err(ChunkingError::Number(size.to_string()));
        }
        if overlap > size / 2 {
            return Err(ChunkingError::Overlap { overlap, size });
        }
        Ok(Self(Kind::Units { unit, size, overlap }))
    }

    /// The passages of a text, in order of where they begin. A text of nothing but white space has none.
    ///
    /// # Errors
    /// When the text is longer, or gives more passages, than a document can have.
    pub fn chunk(&self, text: &str) -> Result<Vec<Passage>, ChunkError> {
        if text.len() > plimsoll::limits::MAX_TEXT_BYTES {
            return Err(ChunkError::TooLong(text.len()));
        }
        match self.0 {
            Kind::Whole => collect(text, std::iter::once(0..text.len())),
            Kind::Units { unit: Unit::Tokens, size, overlap } => {
                let starts = tokens::starts(text);
                let pieces = pieces::pieces(text, size - overlap, 4, tokens::Counter);
                collect(text, pieces::overlapping(text, pieces, |cut| tokens::back(&starts, cut, overlap)))
            }
            Kind::Units { unit: Unit::Characters, size, overlap } => {
                let pieces = pieces::pieces(text, size - overlap, 1, text_splitter::Characters);
                collect(
                    text,
                    pieces::overlapping(text, pieces, |cut| pieces::characters_back(text, cut, overlap)),
                )
            }
            Kind::Units { unit: Unit::Sentences, size, overlap } => {
                collect(text, pieces::windows(&sentences::sentences(text), size, overlap))
            }
            Kind::Units { unit: Unit::Paragraphs, size, overlap } => {
                collect(text, pieces::windows(&sentences::paragraphs(text), size, overlap))
            }
        }
    }

    /// How long a text is in the unit of this chunking; 0 for [`Self::WHOLE`], which has none.
    pub fn measure(&self, text: &str) -> usize {
        match self.0 {
            Kind::Whole => 0,
            Kind::Units { unit: Unit::Tokens, .. } => tokens::count(text),
            Kind::Units { unit: Unit::Characters, .. } => text.chars().count(),
            Kind::Units { unit: Unit::Sentences, .. } => sentences::sentences(text).len(),
            Kind::Units { unit: Unit::Paragraphs, .. } => sentences::paragraphs(text).len(),
        }
    }
}

impl Default for Chunking {
    /// `tokens:256:32`, which the small models that run anywhere can read.
    fn default() -> Self {
        let (size, overlap) = Unit::Tokens.defaults();
        Self(Kind::Units { unit: Unit::Tokens, size, overlap })
    }
}

/// The ranges without white space at their ends, and without empty ones.
fn collect(text: &str, ranges: impl Iterator<Item = Range<usize>>) -> Result<Vec<Passage>, ChunkError> {
    let mut passages = Vec::new();
    for range in ranges {
        let Some(range) = trimmed(text, range) else { continue };
        if passages.len() == MAX_POSTINGS {
            return Err(ChunkError::TooManyPassages);
        }
        let too_long = |_| ChunkError::TooLong(text.len());
        passages.push(Passage {
            start: u32::try_from(range.start).map_err(too_long)?,
            length: u32::try_from(range.len()).map_err(too_long)?,
        });
    }
    Ok(passages)
}

/// The range without white space at its ends, if anything is left.
fn trimmed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let passage = text.get(range.clone())?;
    let start = range.start + (passage.len() - passage.trim_start().len());
    let length = passage.trim().len();
    (length > 0).then(|| start..start + length)
}

impl fmt::Display for Chunking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Whole => f.write_str("whole"),
            Kind::Units { unit, size, overlap } => write!(f, "{}:{size}:{overlap}", unit.name()),
        }
    }
}

impl FromStr for Chunking {
    type Err = ChunkingError;

    fn from_str(text: &str) -> Result<Self, ChunkingError> {
        if text == "whole" {
            return Ok(Self::WHOLE);
        }
        let short = |text: &str| text.chars().take(40).collect::<String>();
        let mut parts = text.split(':');
        let unit = match parts.next().unwrap_or_default() {
            "tokens" => Unit::Tokens,
            "characters" => Unit::Characters,
            "sentences" => Unit::Sentences,
            "paragraphs" => Unit::Paragraphs,
            other => return Err(ChunkingError::Unit(short(other))),
        };
        let (mut size, mut overlap) = unit.defaults();
        let number = |part: &str| match part.parse() {
            Ok(number) if number <= Self::MAX_SIZE && part.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
            _ => Err(ChunkingError::Number(short(part))),
        };
        if let Some(part) = parts.next() {
            size = number(part)?;
            // Whoever names a size alone gets the overlap in proportion.
            overlap = overlap.saturating_mul(size) / unit.defaults().0;
        }
        if let Some(part) = parts.next() {
            overlap = number(part)?;
        }
        if parts.next().is_some() {
            return Err(ChunkingError::Parts(short(text)));
        }
        Self::new(unit, size, overlap)
    }
}

#[cfg(test)]
mod tests;
