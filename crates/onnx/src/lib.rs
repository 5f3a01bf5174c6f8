//! Vectors from texts by a local sentence-embedding model: no network, no Python, no shared library.
//!
//! A model is a directory as Hugging Face's exporters write it: `model.onnx` and `tokenizer.json`, and beside them, if
//! they are there, the files in which Sentence Transformers keeps how texts are treated (`settings`). The path of a
//! text: it is prefixed and cut into tokens (`tokens`), runs through the network in a batch with texts of similar
//! length (`network`), and the states of its tokens become one vector of unit length (`pool`).
//!
//! **Owns** the directory's files and what is believed of them. **Must not know** documents, collections, retries or
//! the cache. **On a crash** nothing is lost but the call that was under way: nothing is written.
//!
//! A network is a program. It can neither write nor open a file, but one that was made to do harm can take any amount
//! of memory and time: use models from people you trust.

#![forbid(unsafe_code)]

mod files;
mod guard;
mod network;
mod pool;
mod settings;
mod tokens;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_ingest::{Embedded, Embedder, Failure, FailureClass, TextKind};

use network::Network;
use settings::Settings;
use tokens::{Tokenizer, Tokens};

/// How many texts are cut into tokens before the first of them are embedded.
const MAX_BATCH: usize = 64;
/// How many tokens a run of the network has at most, padding included, unless a single text has more. Products of
/// matrices gain nothing beyond that, and what lies between two layers stays within some tens of megabytes.
const RUN_TOKENS: usize = 2048;
/// Embedded when a model is opened: it shows the dimension, and that the files fit together.
const PROBE: &str = "test";

/// Embeds texts by an ONNX model in a directory.
///
/// A text that has more tokens than the model takes is cut, as the tokenizer says, and counted
/// ([`Embedder::truncated`]). An empty text has the vector of the special tokens alone; if the tokenizer adds none, it is
/// refused. Nothing can tell whether a tokenizer belongs to a network if its tokens fit into the network's table.
///
/// Vectors have unit length. The same text gets the same vector in each call that has the same texts; in another
/// batch, its numbers may differ by rounding, less than 1e-6. A call computes in the thread that makes it.
///
/// It holds the weights, and while it opens about three times the size of the file. A call needs room for the states
/// of 2,048 tokens, or of one text, which is cut at 2,048 tokens if the model does not cut it before.
///
/// ```no_run
/// use std::path::Path;
/// use plimsoll_ingest::{Embedder, TextKind};
/// use plimsoll_onnx::OnnxEmbedder;
///
/// let embedder = OnnxEmbedder::open(Path::new("models/all-MiniLM-L6-v2"))?;
/// let vectors = embedder.embed(&["How deep does the ship lie?"], TextKind::Query)?;
/// assert_eq!(vectors[0].as_ref().map(Vec::len), Ok(embedder.dimension()?));
/// # Ok::<(), plimsoll_ingest::Failure>(())
/// ```
#[derive(Debug)]
pub struct OnnxEmbedder {
    network: Network,
    tokenizer: Tokenizer,
    settings: Settings,
    model: String,
    dimension: usize,
    truncated: AtomicU64,
}

impl OnnxEmbedder {
    /// Reads the model in a directory, and embeds a word with it.
    ///
    /// # Errors
    /// [`FailureClass::FileSystem`] when a file is missing or can not be read; [`FailureClass::Validation`] when one is
    /// not what it should be, or asks for something that is not supported. The message names the file.
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let network = Network::open(&directory.join("model.onnx"))?;
        let settings = Settings::read(directory, network.pools())?;
        let tokenizer = Tokenizer::open(&directory.join("tokenizer.json"), settings.max_length)?;
        if let Some(known) = network.known_tokens()
            && tokenizer.largest_id() >= known
        {
            let what =
                format!("has tokens up to {}, and model.onnx only {known} of them", tokenizer.largest_id());
            return Err(files::invalid(tokenizer.path(), &what));
        }
        let model = model_name(directory, &network, &tokenizer, &settings);
        let truncated = AtomicU64::new(0);
        let mut embedder = Self { network, tokenizer, settings, model, dimension: 0, truncated };
        let tokens = embedder.tokenizer.tokens(PROBE)?;
        let vectors = embedder.network.run(&[&tokens], embedder.settings.pooling)?;
        embedder.dimension = vectors.first().map_or(0, Vec::len);
        Ok(embedder)
    }

    /// The tokens of a text as it is embedded.
    fn tokens(&self, text: &str, kind: TextKind) -> Result<Tokens, Failure> {
        let prefix = match kind {
            TextKind::Passage => &self.settings.passage,
            TextKind::Query => &self.settings.query,
        };
        if prefix.is_empty() {
            return self.tokenizer.tokens(text);
        }
        self.tokenizer.tokens(&format!("{prefix}{text}"))
    }

    /// The vectors of a batch. A batch that does not work is run text by text, so that the one at fault is known.
    fn run(&self, batch: &[&Tokens]) -> Vec<Embedded> {
        let vectors = self.network.run(batch, self.settings.pooling);
        let vectors =
            vectors.and_then(|vectors| vectors.into_iter().map(|vector| self.check(vector)).collect());
        match vectors {
            Ok(vectors) => Vec::into_iter(vectors).map(Ok).collect(),
            Err(failure) if batch.len() == 1 => vec![Err(failure)],
            Err(_) => batch.iter().flat_map(|tokens| self.run(&[tokens])).collect(),
        }
    }

    fn check(&self, vector: Vec<f32>) -> Embedded {
        if vector.len() == self.dimension {
            return Ok(vector);
        }
        let what = format!("gave a vector of {} numbers where {} are expected", vector.len(), self.dimension);
        Err(files::invalid(self.network.path(), &what))
    }

    /// At most [`MAX_BATCH`] texts, in batches of similar length.
    fn embed_some(&self, texts: &[&str], kind: TextKind) -> Vec<Embedded> {
        let mut results = Vec::with_capacity(texts.len());
        let mut waiting = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            match self.tokens(text, kind) {
                Ok(tokens) => {
                    waiting.push((place, tokens));
                    results.push(Err(Failure::new(FailureClass::Unknown, "was not embedded")));
                }
                Err(failure) => results.push(Err(failure)),
            }
        }
        waiting.sort_by_key(|(_, tokens)| tokens.len());
        let mut rest = &waiting[..];
        while !rest.is_empty() {
            let lengths = rest.iter().map(|(_, tokens)| tokens.len());
            let (batch, others) = rest.split_at(batch_size(lengths, self.network.masks()).min(rest.len()));
            let tokens: Vec<&Tokens> = batch.iter().map(|(_, tokens)| tokens).collect();
            for ((place, tokens), result) in batch.iter().zip(self.run(&tokens)) {
                if tokens.is_cut && result.is_ok() {
                    self.truncated.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(of) = results.get_mut(*place) {
                    *of = result;
                }
            }
            rest = others;
        }
        results
    }
}

/// How many of the next texts, which are sorted by length, go into one run; at least 1. A network without a mask would
/// see padding, so only texts of equal length go together there.
fn batch_size(lengths: impl Iterator<Item = usize>, masks: bool) -> usize {
    let mut first = None;
    let fits = lengths.enumerate().take_while(|(before, length)| {
        let first = *first.get_or_insert(*length);
        (masks || *length == first) && (before + 1) * length <= RUN_TOKENS
    });
    fits.count().max(1)
}

/// The directory's name, and hashes of what decides its vectors: another model in the same directory is another one.
fn model_name(directory: &Path, network: &Network, tokenizer: &Tokenizer, settings: &Settings) -> String {
    let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = real.file_name().map_or_else(|| "onnx".into(), |name| name.to_string_lossy());
    let mut beside = blake3::Hasher::new();
    beside.update(tokenizer.hash().as_bytes());
    beside.update(settings.fingerprint(tokenizer.max_length()).as_bytes());
    let short = |hash: blake3::Hash| hash.to_hex()[..16].to_owned();
    format!("{name}#{}+{}", short(network.hash()), short(beside.finalize()))
}

impl Embedder for OnnxEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimension(&self) -> Result<usize, Failure> {
        Ok(self.dimension)
    }

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    fn truncated(&self) -> Option<u64> {
        Some(self.truncated.load(Ordering::Relaxed))
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        Ok(texts.chunks(MAX_BATCH).flat_map(|texts| self.embed_some(texts, kind)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_as_many_texts_as_their_tokens_allow() {
        let size = |lengths: &[usize], masks| batch_size(lengths.iter().copied(), masks);
        assert_eq!(size(&[10, 10, 20], true), 3);
        assert_eq!(size(&[10, 10, 20], false), 2, "padding would be seen");
        assert_eq!(size(&[512; 64], true), 4);
        assert_eq!(size(&[1024, 1024, 1024], true), 2);
        assert_eq!(size(&[2000, 2048], true), 1);
        assert_eq!(size(&[RUN_TOKENS + 1; 2], true), 1, "a text is embedded, whatever its length");
    }
}
