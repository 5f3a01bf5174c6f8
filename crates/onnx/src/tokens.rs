//! From a text to the numbers of its tokens, as `tokenizer.json` says.

use std::fmt;
use std::path::{Path, PathBuf};

use plimsoll_ingest::Failure;
use tokenizers::PostProcessor;
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy};

use crate::files::{invalid, read};
use crate::guard::caught;

/// The largest `tokenizer.json` that is read; those of models for all languages have 17 MB.
const MAX_BYTES: u64 = 256 << 20;
/// How many tokens a text has at most when nobody says how many the model takes: that of BERT.
const DEFAULT_LENGTH: usize = 512;
/// The most tokens of a text, whatever the model says: attention needs memory by their square.
const MAX_LENGTH: usize = 2048;
/// The fewest: special tokens and something between them.
const MIN_LENGTH: usize = 8;

/// The tokens of a text, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// What kind of sequence each of them belongs to.
    pub types: Vec<u32>,
    /// Whether the text had more of them than the model takes.
    pub is_cut: bool,
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// What cuts texts into tokens.
pub(crate) struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    max_length: usize,
    largest_id: u32,
    hash: blake3::Hash,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`; `max_length` goes before what that says.
    ///
    /// # Errors
    /// It can not be read, is not understood, or gives texts too few tokens.
    pub(crate) fn open(path: &Path, max_length: Option<usize>) -> Result<Self, Failure> {
        let bytes = read(path, MAX_BYTES)?;
        let mut inner = caught(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(|what| invalid(path, &format!("is no tokenizer: {what}")))?;
        let own = inner.get_truncation().cloned();
        let said = max_length.or(own.as_ref().map(|own| own.max_length)).unwrap_or(DEFAULT_LENGTH);
        if said < MIN_LENGTH {
            return Err(invalid(
                path,
                &format!("is used with {said} tokens for a text; {MIN_LENGTH} are the fewest"),
            ));
        }
        let max_length = said.min(MAX_LENGTH);
        // tokenizers subtracts the two without asking which is larger.
        let special = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if special >= max_length {
            let what = format!("adds {special} special tokens to a text, which may have {max_length}");
            return Err(invalid(path, &what));
        }
        let direction = own.unwrap_or_default().direction;
        // A text stands alone, so there is no other one to cut instead, and what is cut off is not used.
        let strategy = TruncationStrategy::LongestFirst;
        let truncation = TruncationParams { max_length, stride: 0, strategy, direction };
        // Texts are padded to the longest of their batch, not to what this file says.
        inner
            .with_padding(None)
            .with_truncation(Some(truncation))
            .map_err(|error| invalid(path, &format!("can not cut texts at {max_length} tokens: {error}")))?;
        let largest_id = inner.get_vocab(true).into_values().max().unwrap_or_default();
        Ok(Self { path: path.to_owned(), inner, max_length, largest_id, hash: blake3::hash(&bytes) })
    }

    /// The tokens of a text, the special ones included, at most [`Self::max_length`].
    ///
    /// # Errors
    /// The tokenizer refuses the text, or there is no token in it.
    pub(crate) fn tokens(&self, text: &str) -> Result<Tokens, Failure> {
        let encoding = caught(|| self.inner.encode_fast(text, true))
            .map_err(|what| invalid(&self.path, &format!("refuses the text: {what}")))?;
        let tokens = Tokens {
            ids: encoding.get_ids().to_vec(),
            types: encoding.get_type_ids().to_vec(),
            is_cut: !encoding.get_overflowing().is_empty(),
        };
        if tokens.len() == 0 {
            return Err(invalid(&self.path, "finds no token in the text"));
        }
        Ok(tokens)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many tokens a text has at most.
    pub(crate) fn max_length(&self) -> usize {
        self.max_length
    }

    /// The largest number of a token.
    pub(crate) fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// The hash of the file.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hash
    }
}
