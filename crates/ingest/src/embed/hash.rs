//! Vectors from the words of a text, by feature hashing: no model, no network, no state.
//!
//! Each word, and each run of three characters of a word, is a feature. Its hash chooses a coordinate and a sign
//! (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009), so that texts that share words, or
//! parts of words, point in similar directions. It is lexical: `car` and `automobile` have nothing in common.

use std::collections::BTreeMap;

use super::check::MAX_DIMENSION;
use super::{Embedded, Embedder, TextKind};
use crate::failure::{Failure, FailureClass};

/// The weight of a run of three characters beside that of the word, 1. There are about as many of them as a word has
/// letters, so together they count about as much as the word.
const TRIGRAM_WEIGHT: f64 = 0.5;
/// The weight of a word of at most [`SHORT_WORD`] letters, most of which are grammar.
const SHORT_WORD_WEIGHT: f64 = 0.25;
const SHORT_WORD: usize = 3;

/// Embeds texts by the words in them.
///
/// The vectors have unit length. They are the same on every machine and in every run; a change of the method changes
/// [`Embedder::model`]. Passages and queries are treated alike.
///
/// ```
/// use plimsoll_ingest::{Embedder, HashEmbedder, TextKind};
/// let embedder = HashEmbedder::new(256).unwrap();
/// let texts = ["The hull of the ship", "a ship's hull", "bread and butter"];
/// let vectors: Vec<Vec<f32>> = embedder
///     .embed(&texts, TextKind::Passage)
///     .unwrap()
///     .into_iter()
///     .collect::<Result<_, _>>()
///     .unwrap();
/// let cosine = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum::<f32>();
/// assert!(cosine(0, 1) > cosine(0, 2) + 0.3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashEmbedder {
    dimension: usize,
    model: String,
}

impl HashEmbedder {
    /// The dimension that is used when none is named.
    pub const DEFAULT_DIMENSION: usize = 256;
    /// The smallest dimension in which texts can still be told apart.
    pub const MIN_DIMENSION: usize = 8;

    /// An embedder into `dimension` numbers, from [`Self::MIN_DIMENSION`] to [`plimsoll::limits::MAX_DIMENSION`].
    ///
    /// # Errors
    /// [`FailureClass::Validation`] for another dimension.
    pub fn new(dimension: usize) -> Result<Self, Failure> {
        if !(Self::MIN_DIMENSION..=MAX_DIMENSION).contains(&dimension) {
            return Err(Failure::new(
                FailureClass::Validation,
                format!(
                    "hash:{dimension} is not a dimension from {} to {MAX_DIMENSION}",
                    Self::MIN_DIMENSION
                ),
            ));
        }
        Ok(Self { dimension, model: format!("hash-1:{dimension}") })
    }

    /// The vector of one text.
    fn vector(&self, text: &str) -> Embedded {
        let mut sums = vec![0f64; self.dimension];
        for (hash, weight) in features(text) {
            let coordinate = (hash >> 1) % self.dimension as u64;
            // The sign is a bit that the coordinate does not use.
            let sign = if hash & 1 == 0 { 1.0 } else { -1.0 };
            if let Some(sum) = usize::try_from(coordinate).ok().and_then(|at| sums.get_mut(at)) {
                *sum += sign * weight;
            }
        }
        let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length < 1e-9 {
            return Err(Failure::new(FailureClass::Validation, "a text without words has no direction"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "numbers of at most 1 lose digits, which is meant"
        )]
        Ok(sums.into_iter().map(|x| (x / length) as f32).collect())
    }
}

impl Default for HashEmbedder {
    fn default() -> Self {
        Self { dimension: Self::DEFAULT_DIMENSION, model: format!("hash-1:{}", Self::DEFAULT_DIMENSION) }
    }
}

impl Embedder for HashEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimension(&self) -> Result<usize, Failure> {
        Ok(self.dimension)
    }

    fn max_batch(&self) -> usize {
        1024
    }

    fn embed(&self, texts: &[&str], _: TextKind) -> Result<Vec<Embedded>, Failure> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

/// The hashes of a text's features with their weights, in an order that depends on nothing else: sums of floats do.
fn features(text: &str) -> impl Iterator<Item = (u64, f64)> {
    let mut counts: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    let mut add = |hash: u64, weight: f64| {
        let (count, _) = counts.entry(hash).or_insert((0.0, weight));
        *count += 1.0;
    };
    let lower = text.to_lowercase();
    let mut found = false;
    let mut characters = Vec::new();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        found = true;
        characters.clear();
        characters.push('\u{2}');
        characters.extend(word.chars());
        characters.push('\u{3}');
        let weight = if characters.len() - 2 <= SHORT_WORD { SHORT_WORD_WEIGHT } else { 1.0 };
        add(hash(b'w', word.chars()), weight);
        for window in characters.windows(3) {
            add(hash(b't', window.iter().copied()), weight * TRIGRAM_WEIGHT);
        }
    }
    if !found {
        // Nothing but signs: each of them is a feature, so that such a text still has a direction.
        lower.chars().filter(|c| !c.is_whitespace()).for_each(|c| add(hash(b's', [c].into_iter()), 1.0));
    }
    // A word that comes four times counts twice: square roots, unlike logarithms, are the same on every machine.
    counts.into_iter().map(|(hash, (count, weight))| (hash, weight * count.sqrt()))
}

/// FNV-1a with a final mix, because the low bits of FNV alone are weak.
fn hash(kind: u8, characters: impl Iterator<Item = char>) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut state = (0xcbf2_9ce4_8422_2325 ^ u64::from(kind)).wrapping_mul(PRIME);
    let mut bytes = [0u8; 4];
    for character in characters {
        for byte in character.encode_utf8(&mut bytes).bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^= state >> 33;
    state = state.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let embedder = HashEmbedder::default();
        let (a, b) = (embedder.vector(a).unwrap(), embedder.vector(b).unwrap());
        a.iter().zip(&b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn texts_that_share_words_are_near() {
        let passage = "A Plimsoll line is painted on a ship's hull and shows how deep it lies in the water.";
        assert!(cosine("how deep is the ship", passage) > cosine("how to bake bread", passage) + 0.2);
        assert!(cosine("SHIPS", "ship") > 0.3, "case and endings matter little");
        assert!(cosine("船の喫水線", "喫水線") > 0.2, "words that no space separates share their runs");
    }

    #[test]
    fn a_text_without_words_is_refused_and_one_of_signs_is_not() {
        let embedder = HashEmbedder::default();
        assert_eq!(embedder.vector(" \n\t").unwrap_err().class, FailureClass::Validation);
        assert!(embedder.vector("+-+").is_ok());
        assert!(embedder.vector("").is_err());
    }

    #[test]
    fn dimensions_out_of_range_are_refused() {
        assert!(HashEmbedder::new(7).is_err());
        assert!(HashEmbedder::new(MAX_DIMENSION + 1).is_err());
        assert_eq!(HashEmbedder::new(8).unwrap().dimension().unwrap(), 8);
        assert_eq!(HashEmbedder::default(), HashEmbedder::new(256).unwrap());
    }

    #[test]
    fn the_method_stays_what_its_name_says() {
        // Stored vectors depend on these bits. Who changes them gives the model another name.
        let vector = HashEmbedder::new(8).unwrap().vector("Plimsoll line, 1876").unwrap();
        let bits: Vec<u32> = vector.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, GOLDEN, "{vector:?}");
    }

    const GOLDEN: [u32; 8] = [1053885932, 1045497324, 3206333553, 0, 3206333553, 0, 0, 3192980972];

    proptest! {
        #[test]
        fn every_text_with_something_in_it_gets_a_vector_of_unit_length(text in "\\PC{0,200}", size in 8usize..300) {
            let embedder = HashEmbedder::new(size).unwrap();
            match embedder.vector(&text) {
                Ok(vector) => {
                    prop_assert_eq!(vector.len(), size);
                    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                    prop_assert!((length - 1.0).abs() < 1e-5);
                    prop_assert_eq!(embedder.vector(&text).unwrap(), vector);
                }
                // Features of opposite sign on one coordinate can cancel out, in very short texts.
                Err(_) => prop_assert!(text.trim().chars().count() < 4, "{:?}", text),
            }
        }
    }
}
