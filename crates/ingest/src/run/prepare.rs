//! From items to documents: parsing, cutting, embedding with retries. Nothing here writes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use plimsoll::limits::MAX_KEY_BYTES;
use plimsoll::{Document, Key, Posting};

use super::feed::{Item, Work, seen_entries};
use crate::chunk::Chunking;
use crate::embed::{Embedded, Embedder, TextKind};
use crate::error::IngestError;
use crate::failure::{Failure, FailureClass};
use crate::input::{Change, Changeset, Entry, Parser, SkipReason};
use crate::retry::Policies;

/// What is to become of an item.
#[derive(Debug)]
pub(super) enum Outcome {
    Upsert(Document),
    Delete(Key),
    /// There is nothing in the text; what was under the key goes.
    Empty(Key),
    Control(Changeset),
    /// There is nothing to store.
    Nothing(SkipReason),
    Failed(Failure, u32),
    /// It stays in hand: it could not be embedded, and is not to blame.
    Left,
}

/// An item with what is to become of it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub position: u64,
    /// What is kept of it if it fails.
    pub payload: Bytes,
    pub key: Option<Key>,
    pub repo: Option<String>,
    pub entries: Vec<(String, Option<Vec<u8>>)>,
    /// Whether it outdates what was set aside with the same payload.
    pub is_named: bool,
    pub outcome: Outcome,
}

/// An item that was parsed.
pub(super) struct Parsed {
    position: u64,
    payload: Bytes,
    key: Option<Key>,
    repo: Option<String>,
    entries: Vec<(String, Option<Vec<u8>>)>,
    is_named: bool,
    change: Result<Change, Failure>,
    /// How often it was tried before.
    attempts: u32,
}

impl Parsed {
    fn of(position: u64, payload: Bytes, entry: Entry) -> Self {
        // Of a line that is wrong it may be known which document it is about, all the same.
        let named = || {
            let path = entry.path.as_ref()?;
            let key = entry.repo.as_ref().map_or_else(|| path.clone(), |repo| format!("{repo}:{path}"));
            is_key(&key).then_some(Key::String(key))
        };
        let key = key_of(&entry.change).or_else(named);
        Self {
            position,
            payload,
            key,
            repo: entry.repo,
            entries: Vec::new(),
            is_named: false,
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
    pub stop: &'a AtomicBool,
}

/// The text of one passage, and whose it is.
struct Text {
    item: usize,
    start: u32,
    length: u32,
}

impl Workshop<'_> {
    pub(super) fn parse(&self, item: Item) -> Parsed {
        let Item { position, work, key: named, entries, is_named } = item;
        match work {
            Work::Change(change, payload) => {
                let (key, payload) = (key_of(&change).or(named), payload.into());
                Parsed { position, payload, key, repo: None, entries, is_named, change, attempts: 0 }
            }
            Work::Line(line) => {
                let entry = self.parser.parse(&line);
                Parsed { entries, is_named, ..Parsed::of(position, line.bytes, entry) }
            }
        }
    }

    /// The payload of an item that failed before.
    pub(super) fn parse_again(&self, position: u64, payload: Vec<u8>, attempts: u32) -> Parsed {
        let entry = self.parser.parse_payload(&payload);
        let path = entry.path.as_deref();
        let entries = path.map(|path| seen_entries(path, entry.seen)).unwrap_or_default();
        Parsed { attempts, entries, ..Parsed::of(position, payload.into(), entry) }
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
        let mut postings: Vec<Result<Vec<Posting>, Failure>> = batch.iter().map(|_| Ok(Vec::new())).collect();
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
        postings: Result<Vec<Posting>, Failure>,
        is_left: bool,
    ) -> Prepared {
        let Parsed { position, payload, key, repo, entries, is_named, change, attempts } = parsed;
        let outcome = match (change, cut, postings) {
            (Err(failure), ..) | (Ok(_), Some(failure), _) => Outcome::Failed(failure, attempts + 1),
            _ if is_left => Outcome::Left,
            // It would have been tried again.
            (Ok(Change::Text { .. }), None, Err(failure)) if self.is_stopped() && may_pass(failure.class) => {
                Outcome::Left
            }
            (Ok(Change::Text { .. }), None, Err(failure)) => {
                let tries = 1 + self.policies.of(failure.class).retries;
                Outcome::Failed(failure, attempts.saturating_add(tries))
            }
            (Ok(Change::Text { key, .. }), None, Ok(postings)) if postings.is_empty() => Outcome::Empty(key),
            (Ok(Change::Text { key, text, metadata }), None, Ok(postings)) => {
                Outcome::Upsert(Document { key, text: Some(text), metadata, postings })
            }
            (Ok(Change::Upsert(document)), ..) => Outcome::Upsert(document),
            (Ok(Change::Delete(key)), ..) => Outcome::Delete(key),
            (Ok(Change::Control(changeset)), ..) => Outcome::Control(changeset),
            (Ok(Change::Skip(reason)), ..) => Outcome::Nothing(reason),
        };
        let outcome = match outcome {
            Outcome::Upsert(document) => match self.wrong_dimension(&document) {
                Some(failure) => Outcome::Failed(failure, attempts + 1),
                None => Outcome::Upsert(document),
            },
            other => other,
        };
        Prepared { position, payload, key, repo, entries, is_named, outcome }
    }

    fn wrong_dimension(&self, document: &Document) -> Option<Failure> {
        let expected = self.dimension;
        let wrong = document.postings.iter().find(|posting| posting.vector.len() != expected)?;
        let error = plimsoll::Error::DimensionMismatch { expected, got: wrong.vector.len() };
        Some(Failure::new(FailureClass::Validation, error.to_string()))
    }

    /// Embeds texts. When not a single one gets a vector, and the embedder works otherwise, some of them are to blame: which
    /// ones is found by halves. When it breaks off among them, those that have none yet are asked for once more, alone.
    fn embed(&self, embedder: &dyn Embedder, texts: &[&str]) -> Result<Vec<Embedded>, Failure> {
        let failure = match embedder.embed(texts, TextKind::Passage) {
            Ok(results) => return self.complete(embedder, texts, results),
            Err(failure) => failure,
        };
        let is_configured_wrong = !may_pass(failure.class);
        if is_configured_wrong || self.is_stopped() || !works(embedder) {
            return Err(failure);
        }
        if texts.len() == 1 {
            return Ok(vec![Err(failure)]);
        }
        let (first, second) = texts.split_at(texts.len() / 2);
        let mut results = self.embed(embedder, first)?;
        results.extend(self.embed(embedder, second)?);
        Ok(results)
    }

    /// Has the texts embedded that an embedder left out when it broke off: they are not to blame as long as it does not work.
    fn complete(
        &self,
        embedder: &dyn Embedder,
        texts: &[&str],
        mut results: Vec<Embedded>,
    ) -> Result<Vec<Embedded>, Failure> {
        let invalid = |what: String| Err(Failure::new(FailureClass::Validation, what));
        if results.len() != texts.len() {
            return invalid(format!("the embedder gave {} results for {} texts", results.len(), texts.len()));
        }
        if let Some(other) = results.iter().flatten().find(|vector| vector.len() != self.dimension) {
            let (model, got, expected) = (embedder.model(), other.len(), self.dimension);
            return invalid(format!("{model} gives {got} dimensions, and the collection has {expected}"));
        }
        let is_open = |result: &Embedded| matches!(result, Err(failure) if may_pass(failure.class));
        let open: Vec<usize> = (0..results.len()).filter(|at| is_open(&results[*at])).collect();
        let Some(Err(failure)) = open.first().map(|at| &results[*at]) else { return Ok(results) };
        if self.is_stopped() || !works(embedder) {
            return Err(failure.clone());
        }
        if texts.len() == 1 {
            return Ok(results);
        }
        let again: Vec<&str> = open.iter().map(|at| texts[*at]).collect();
        // Fewer each time, or by halves, until each is alone with its fault.
        let (first, second) = match open.len() == texts.len() {
            true => again.split_at(again.len() / 2),
            false => (&again[..], &[][..]),
        };
        for part in [(0, first), (first.len(), second)] {
            let (from, part) = part;
            if part.is_empty() {
                continue;
            }
            for (at, result) in open[from..].iter().zip(self.embed(embedder, part)?) {
                results[*at] = result;
            }
        }
        Ok(results)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Whether a failure may be that of the service, whether it is tried again or not.
fn may_pass(class: FailureClass) -> bool {
    !matches!(class, FailureClass::Validation | FailureClass::Encoding | FailureClass::Memory)
}

/// Whether an embedder can embed anything now: a text that nobody has asked for before.
fn works(embedder: &dyn Embedder) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let probe = format!("probe {}", now.as_nanos());
    embedder.embed(&[&probe], TextKind::Query).is_ok_and(|results| results.iter().all(Result::is_ok))
}

/// The documents that items are about.
pub(super) fn keys(batch: &[Parsed]) -> HashSet<Key> {
    batch.iter().filter_map(|parsed| parsed.key.clone()).collect()
}

fn is_key(name: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&name.len())
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
