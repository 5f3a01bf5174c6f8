//! An embedder that asks the cache first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Cache, Hash};
use crate::embed::{Embedded, Embedder, TextKind};
use crate::failure::{Failure, FailureClass};

/// Embeds only texts that the cache does not have, and each of them once.
///
/// Vectors are put into the cache after each batch of the embedder's size, so that a crash loses at most one.
pub struct Cached<E> {
    inner: E,
    cache: Arc<Cache>,
    /// How long vectors must be to be kept, and told from the cache.
    expected: Option<usize>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    repeated: AtomicU64,
    calls: AtomicU64,
    embedded: AtomicU64,
}

/// What an embedder with a cache has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallCounts {
    /// Texts that the cache had.
    pub hits: u64,
    /// Texts that it had not.
    pub misses: u64,
    /// Texts that were in the same call before, and are in neither of the two.
    pub repeated: u64,
    /// Calls of the embedder behind it.
    pub calls: u64,
    /// Texts that got a vector from it.
    pub embedded: u64,
}

fn add(counter: &AtomicU64, number: usize) {
    counter.fetch_add(number as u64, Ordering::Relaxed);
}

impl<E: Embedder> Cached<E> {
    /// An embedder with a cache.
    pub fn new(inner: E, cache: Arc<Cache>) -> Self {
        Self { inner, cache, expected: None, counts: Counts::default() }
    }

    /// Says how many numbers each vector is to have, as the collection does that it is for. One of another length is handed
    /// on and not kept, so that a service which is wrong for once costs no vector that was paid for. Unless it is said, a
    /// model whose vectors have got another length is embedded anew.
    #[must_use]
    pub fn expecting(mut self, dimension: Option<usize>) -> Self {
        self.expected = dimension;
        self
    }

    /// What it has done so far.
    pub fn counts(&self) -> CallCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallCounts {
            hits: of(&self.counts.hits),
            misses: of(&self.counts.misses),
            repeated: of(&self.counts.repeated),
            calls: of(&self.counts.calls),
            embedded: of(&self.counts.embedded),
        }
    }

    /// The embedder behind the cache.
    pub fn inner(&self) -> &E {
        &self.inner
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Embeds the texts at some places, and keeps their vectors.
    ///
    /// # Errors
    /// That of the first call. When a later one fails, the vectors of those before it are worth more.
    fn ask(
        &self,
        texts: &[Text<'_>],
        places: &[usize],
        kind: TextKind,
        results: &mut [Option<Embedded>],
    ) -> Result<(), Failure> {
        let mut broken: Option<Failure> = None;
        for (number, batch) in places.chunks(self.inner.max_batch().max(1)).enumerate() {
            let of: Vec<(usize, Text<'_>)> =
                batch.iter().filter_map(|at| Some((*at, *texts.get(*at)?))).collect();
            if broken.is_none() {
                add(&self.counts.calls, 1);
                let asked: Vec<&str> = of.iter().map(|(_, (text, _))| *text).collect();
                match self.inner.embed(&asked, kind) {
                    Ok(got) => {
                        self.keep(kind, of.iter().map(|(_, (_, hash))| *hash).zip(&got));
                        for ((at, _), got) in of.iter().zip(got) {
                            if let Some(result) = results.get_mut(*at) {
                                *result = Some(got);
                            }
                        }
                        continue;
                    }
                    Err(failure) if number == 0 => return Err(failure),
                    Err(failure) => broken = Some(failure.for_unasked()),
                }
            }
            for (at, _) in of {
                if let (Some(result), Some(failure)) = (results.get_mut(at), &broken) {
                    *result = Some(Err(failure.clone()));
                }
            }
        }
        Ok(())
    }

    fn keep<'a>(&self, kind: TextKind, got: impl Iterator<Item = (Hash, &'a Embedded)>) {
        let mut good: Vec<(Hash, &[f32])> =
            got.filter_map(|(hash, got)| Some((hash, got.as_deref().ok()?))).collect();
        add(&self.counts.embedded, good.len());
        // Zeros alone are what a broken service gives. A collection refuses them mostly, and must not get them again from
        // here once the service is mended.
        good.retain(|(_, vector)| vector.iter().any(|number| *number != 0.0));
        good.retain(|(_, vector)| self.expected.is_none_or(|expected| vector.len() == expected));
        self.cache.put(self.inner.model(), kind, &good);
    }
}

/// A text and its hash.
type Text<'a> = (&'a str, Hash);

/// How many numbers the first vector among some results has.
fn length<'a>(mut results: impl Iterator<Item = &'a Option<Embedded>>) -> Option<usize> {
    results.find_map(|result| Some(result.as_ref()?.as_ref().ok()?.len()))
}

impl<E: Embedder> Embedder for Cached<E> {
    fn model(&self) -> &str {
        self.inner.model()
    }

    /// What the cache says, else what the embedder does: a run that has all its vectors asks nobody.
    fn dimension(&self) -> Result<usize, Failure> {
        let known = self.cache.dimension(self.model());
        let known = known.filter(|known| self.expected.is_none_or(|expected| *known == expected));
        known.map_or_else(|| self.inner.dimension(), Ok)
    }

    fn max_batch(&self) -> usize {
        self.inner.max_batch()
    }

    fn truncated(&self) -> Option<u64> {
        self.inner.truncated()
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        // The texts that differ, and which of them each text is.
        let mut different: Vec<Text<'_>> = Vec::new();
        let mut places: HashMap<Hash, usize> = HashMap::new();
        let which: Vec<usize> = texts
            .iter()
            .map(|text| {
                let hash = *blake3::hash(text.as_bytes()).as_bytes();
                *places.entry(hash).or_insert_with(|| {
                    different.push((text, hash));
                    different.len() - 1
                })
            })
            .collect();
        if let (Some(expected), Some(known)) = (self.expected, self.cache.dimension(self.model()))
            && known != expected
        {
            tracing::warn!(target: "plimsoll::embed", model = self.model(), known, expected, "the cached vectors are of no use");
            self.cache.forget(self.model());
        }
        let hashes: Vec<Hash> = different.iter().map(|(_, hash)| *hash).collect();
        let mut results: Vec<Option<Embedded>> =
            self.cache.get(self.model(), kind, &hashes).into_iter().map(|vector| vector.map(Ok)).collect();
        let unknown: Vec<usize> =
            (0..results.len()).filter(|at| results.get(*at).is_some_and(Option::is_none)).collect();
        let known: Vec<usize> =
            (0..results.len()).filter(|at| results.get(*at).is_some_and(Option::is_some)).collect();
        add(&self.counts.hits, known.len());
        add(&self.counts.misses, unknown.len());
        add(&self.counts.repeated, texts.len() - different.len());

        // What the cache has told until now is another model's if the embedder gives another length.
        let may_change = !unknown.is_empty() && self.expected.is_none();
        let before = if may_change { self.cache.dimension(self.model()) } else { None };
        self.ask(&different, &unknown, kind, &mut results)?;
        let after = length(unknown.iter().filter_map(|at| results.get(*at)));
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            tracing::warn!(target: "plimsoll::embed", model = self.model(), before, after, "the model has changed; its cached vectors are not used");
            self.cache.forget(self.model());
            let good: Vec<(Hash, &[f32])> = unknown
                .iter()
                .filter_map(|at| Some((different.get(*at)?.1, results.get(*at)?.as_ref()?.as_deref().ok()?)))
                .collect();
            self.cache.put(self.model(), kind, &good);
            self.ask(&different, &known, kind, &mut results)?;
        }

        let none = || Err(Failure::new(FailureClass::Unknown, format!("{} gave no vector", self.model())));
        Ok(which.iter().map(|at| results.get(*at).cloned().flatten().unwrap_or_else(none)).collect())
    }
}
