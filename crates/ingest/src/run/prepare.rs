//! From items to documents: parsing, cutting, embedding with retries. Nothing here writes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll::limits::MAX_KEY_BYTES;
use plimsoll::{Document, Key, Posting};

use super::feed::{Item, Work};
use crate::chunk::Chunking;
use crate::embed::{Embedder, TextKind};
use crate::error::IngestError;
use crate::failure::{Failure, FailureClass};
use crate::input::{Change, Changeset, Entry, Parser};
use crate::retry::{Breaker, Policies};

/// What is to become of an item.
#[derive(Debug)]
pub(super) enum Outcome {
    Upsert(Document),
    Delete(Key),
    Control(Changeset),
    /// There is nothing to store.
    Nothing,
    Failed(Failure, u32),
    /// It stays in hand: it could not be embedded, and is not to blame.
    Left,
}

/// An item with what is to become of it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub position: u64,
    /// What is kept of it if it fails.
    pub payload: Vec<u8>,
    pub key: Option<Key>,
    pub repo: Option<String>,
    pub entries: Vec<(String, Option<Vec<u8>>)>,
    pub outcome: Outcome,
}

/// An item that was parsed.
pub(super) struct Parsed {
    position: u64,
    payload: Vec<u8>,
    key: Option<Key>,
    repo: Option<String>,
    entries: Vec<(String, Option<Vec<u8>>)>,
    change: Result<Change, Failure>,
    /// How often it was tried before.
    attempts: u32,
}

impl Parsed {
    fn of(position: u64, payload: Vec<u8>, entry: Entry) -> Self {
        // Of a line that is wrong it may be known which document it is about, all the same.
        let named = || {
            let path = entry.path.as_ref()?;
            let key = entry.repo.as_ref().map_or_else(|| path.clone(), |repo| format!("{repo}:{path}"));
            (1..=MAX_KEY_BYTES).contains(&key.len()).then_some(Key::String(key))
        };
        let key = key_of(&entry.change).or_else(named);
        Self {
            position,
            payload,
            key,
            repo: entry.repo,
            entries: Vec::new(),
            change: entry.change,
            attempts: 0,
        }
    }
}

/// What turns items into documents.
pub(super) struct Workshop<'a> {
    pub parser: &'a Parser,
    pub chunking: Chunking,
    pub embedder: Option<&'a dyn Embedder>,
    /// The dimension of the collection.
    pub dimension: usize,
    pub policies: &'a Policies,
    pub max_retries: u32,
    pub breaker: &'a Breaker,
    pub stop: &'a AtomicBool,
    pub retries: &'a AtomicU64,
}

/// The text of one passage, and whose it is.
struct Text {
    item: usize,
    start: u32,
    length: u32,
}

/// Vectors of passages, or why one has none after so many attempts.
type Vectors = Vec<Tried>;

/// The vector of a passage, or why it has none after so many attempts.
type Tried = Result<Vec<f32>, (Failure, u32)>;

impl Workshop<'_> {
    pub(super) fn parse(&self, item: Item) -> Parsed {
        let Item { position, work, entries } = item;
        match work {
            Work::Change(change, payload) => {
                let key = key_of(&change);
                Parsed { position, payload, key, repo: None, entries, change, attempts: 0 }
            }
            Work::Line(line) => {
                let entry = self.parser.parse(&line);
                Parsed { entries, ..Parsed::of(position, line.bytes, entry) }
            }
        }
    }

    /// The payload of an item that failed before.
    pub(super) fn parse_again(&self, position: u64, payload: Vec<u8>, attempts: u32) -> Parsed {
        let entry = self.parser.parse_payload(&payload);
        Parsed { attempts, ..Parsed::of(position, payload, entry) }
    }

    /// Makes documents of items. The error is that of the embedder, if it kept texts from being embedded: these are left.
    pub(super) fn prepare(&self, batch: Vec<Parsed>) -> (Vec<Prepared>, Option<IngestError>) {
        let mut texts = Vec::new();
        let mut cut: Vec<Option<Failure>> = Vec::with_capacity(batch.len());
        for (item, parsed) in batch.iter().enumerate() {
            cut.push(match &parsed.change {
                Ok(Change::Text { text, .. }) => match self.chunking.chunk(text) {
                    Ok(passages) => {
                        texts.extend(passages.into_iter().map(|passage| Text {
                            item,
                            start: passage.start,
                            length: passage.length,
                        }));
                        None
                    }
                    Err(error) => Some(Failure::new(FailureClass::Memory, error.to_string())),
                },
                _ => None,
            });
        }
        let slices: Vec<&str> = texts.iter().filter_map(|text| slice(&batch[text.item], text)).collect();
        let embedded = match (self.embedder, texts.first()) {
            (_, None) => Ok(Vec::new()),
            (None, Some(first)) => Err(IngestError::NoEmbedder { position: batch[first.item].position }),
            (Some(embedder), _) => self.embed(embedder, &slices).map_err(IngestError::Embedder),
        };
        drop(slices);
        let (vectors, error) = match embedded {
            Ok(vectors) => (Some(vectors), None),
            Err(error) => (None, Some(error)),
        };
        let mut postings: Vec<Result<Vec<Posting>, (Failure, u32)>> =
            batch.iter().map(|_| Ok(Vec::new())).collect();
        for (text, vector) in texts.iter().zip(vectors.into_iter().flatten()) {
            let of_item = &mut postings[text.item];
            match (of_item.as_mut(), vector) {
                (Ok(of_item), Ok(vector)) => {
                    of_item.push(Posting { start: text.start, length: text.length, vector });
                }
                (Ok(_), Err(failure)) => *of_item = Err(failure),
                (Err(_), _) => {}
            }
        }
        let with_texts: HashSet<usize> = texts.iter().map(|text| text.item).collect();
        let is_left = |item: usize| error.is_some() && with_texts.contains(&item);
        let prepared = batch.into_iter().zip(cut).zip(postings).enumerate();
        let prepared = prepared.map(|(item, ((parsed, cut), postings))| {
            let left = is_left(item);
            self.finish(parsed, cut, postings, left)
        });
        (prepared.collect(), error)
    }

    fn finish(
        &self,
        parsed: Parsed,
        cut: Option<Failure>,
        postings: Result<Vec<Posting>, (Failure, u32)>,
        is_left: bool,
    ) -> Prepared {
        let Parsed { position, payload, key, repo, entries, change, attempts } = parsed;
        let outcome = match (change, cut, postings) {
            (Err(failure), ..) | (Ok(_), Some(failure), _) => Outcome::Failed(failure, attempts + 1),
            _ if is_left => Outcome::Left,
            (Ok(Change::Text { .. }), None, Err((failure, tries))) => {
                Outcome::Failed(failure, attempts + tries)
            }
            (Ok(Change::Text { key, .. }), None, Ok(postings)) if postings.is_empty() => Outcome::Delete(key),
            (Ok(Change::Text { key, text, metadata }), None, Ok(postings)) => {
                Outcome::Upsert(Document { key, text: Some(text), metadata, postings })
            }
            (Ok(Change::Upsert(document)), ..) => Outcome::Upsert(document),
            (Ok(Change::Delete(key)), ..) => Outcome::Delete(key),
            (Ok(Change::Control(changeset)), ..) => Outcome::Control(changeset),
            (Ok(Change::Skip(_)), ..) => Outcome::Nothing,
        };
        let outcome = match outcome {
            Outcome::Upsert(document) => match self.wrong_dimension(&document) {
                Some(failure) => Outcome::Failed(failure, attempts + 1),
                None => Outcome::Upsert(document),
            },
            other => other,
        };
        Prepared { position, payload, key, repo, entries, outcome }
    }

    fn wrong_dimension(&self, document: &Document) -> Option<Failure> {
        let expected = self.dimension;
        let wrong = document.postings.iter().find(|posting| posting.vector.len() != expected)?;
        let error = plimsoll::Error::DimensionMismatch { expected, got: wrong.vector.len() };
        Some(Failure::new(FailureClass::Validation, error.to_string()))
    }

    /// Embeds texts, with retries: those that fail by themselves are given up one by one; when the embedder itself fails, all
    /// of them are.
    fn embed(&self, embedder: &dyn Embedder, texts: &[&str]) -> Result<Vectors, Failure> {
        let mut vectors: Vec<Option<Tried>> = texts.iter().map(|_| None).collect();
        let mut pending: Vec<usize> = (0..texts.len()).collect();
        let (mut rounds, mut failures) = (0, 0);
        while !pending.is_empty() {
            self.wait_for_breaker()?;
            let these: Vec<&str> = pending.iter().map(|text| texts[*text]).collect();
            let worst = match embedder.embed(&these, TextKind::Passage) {
                Ok(results) => {
                    self.breaker.succeeded();
                    rounds += 1;
                    failures = 0;
                    self.sort_out(results, rounds, &mut pending, &mut vectors)?
                }
                Err(failure) => {
                    self.breaker.failed();
                    failures += 1;
                    if failures > self.max_retries || !self.policies.is_retried(failure.class) {
                        return Err(failure);
                    }
                    Some((failure, failures))
                }
            };
            if let Some((failure, attempt)) = worst {
                self.retries.fetch_add(1, Ordering::Relaxed);
                self.pause(self.policies.delay(failure.class, attempt, failure.retry_after), &failure)?;
            }
        }
        Ok(vectors.into_iter().flatten().collect())
    }

    /// Takes what has succeeded or will not, and leaves in `pending` what is to be tried again; returns a failure of that.
    fn sort_out(
        &self,
        results: Vec<Result<Vec<f32>, Failure>>,
        attempt: u32,
        pending: &mut Vec<usize>,
        vectors: &mut [Option<Tried>],
    ) -> Result<Option<(Failure, u32)>, Failure> {
        if results.len() != pending.len() {
            let what = format!("the embedder gave {} results for {} texts", results.len(), pending.len());
            return Err(Failure::new(FailureClass::Validation, what));
        }
        let mut again = Vec::new();
        let mut worst: Option<(Failure, u32)> = None;
        for (text, result) in pending.drain(..).zip(results) {
            match result {
                Ok(vector) => vectors[text] = Some(Ok(vector)),
                Err(failure) if attempt <= self.max_retries && self.policies.is_retried(failure.class) => {
                    again.push(text);
                    if worst.as_ref().is_none_or(|(worst, _)| failure.retry_after > worst.retry_after) {
                        worst = Some((failure, attempt));
                    }
                }
                Err(failure) => vectors[text] = Some(Err((failure, attempt))),
            }
        }
        *pending = again;
        Ok(worst)
    }

    fn wait_for_breaker(&self) -> Result<(), Failure> {
        while let Err(wait) = self.breaker.check() {
            let what = "the embedder keeps failing";
            self.pause(wait, &Failure::new(FailureClass::Network, what))?;
        }
        Ok(())
    }

    /// Sleeps, unless the run is to stop: then what it would have tried again stays in hand.
    fn pause(&self, time: Duration, because: &Failure) -> Result<(), Failure> {
        tracing::info!(?time, cause = %because, "waiting before the next attempt");
        let until = Instant::now() + time;
        loop {
            if self.stop.load(Ordering::Acquire) {
                return Err(because.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// The documents that items are about.
pub(super) fn keys(batch: &[Parsed]) -> HashSet<Key> {
    batch.iter().filter_map(|parsed| parsed.key.clone()).collect()
}

fn key_of(change: &Result<Change, Failure>) -> Option<Key> {
    match change {
        Ok(Change::Text { key, .. } | Change::Delete(key)) => Some(key.clone()),
        Ok(Change::Upsert(document)) => Some(document.key.clone()),
        _ => None,
    }
}

fn slice<'a>(parsed: &'a Parsed, text: &Text) -> Option<&'a str> {
    let Ok(Change::Text { text: whole, .. }) = &parsed.change else { return None };
    let start = text.start as usize;
    whole.get(start..start + text.length as usize)
}
