//! What a run would do, without doing it: everything is read, parsed and cut, and nothing is embedded or stored.

use std::collections::BTreeMap;

use crate::chunk::Chunking;
use crate::error::IngestError;
use crate::failure::{Failure, FailureClass};
use crate::input::{Change, Parser, SkipReason};
use crate::run::{Fed, Feed, Work};

/// A change whose vectors have the dimension of the collection.
fn fitting(change: Change, dimension: Option<usize>) -> Result<Change, Failure> {
    let (Change::Upsert(document), Some(dimension)) = (&change, dimension) else { return Ok(change) };
    let wrong =
        document.postings.iter().map(|posting| posting.vector.len()).find(|length| *length != dimension);
    let Some(length) = wrong else { return Ok(change) };
    let what = format!("the vector has {length} dimensions, the collection has {dimension}");
    Err(Failure::new(FailureClass::Validation, what))
}

/// How many failures are described.
const EXAMPLES: usize = 10;

/// What a run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Items that would be read.
    pub items: u64,
    /// Documents that would be stored with the vectors that they bring.
    pub documents: u64,
    /// Texts that would be embedded and stored.
    pub texts: u64,
    /// Passages of these texts.
    pub passages: u64,
    /// Bytes of these texts.
    pub text_bytes: u64,
    /// Deletions.
    pub deletes: u64,
    /// Items with nothing to store: control records, blank lines, files as they were, texts in which there is nothing.
    pub rejected: u64,
    /// These by the reason.
    pub passed_over: BTreeMap<SkipReason, u64>,
    /// Items that would be set aside, by class.
    pub failures: BTreeMap<FailureClass, u64>,
    /// The first of these, with their positions.
    pub examples: Vec<(u64, Failure)>,
}

impl Survey {
    /// Reads a feed to its end. Vectors that are given must have `dimension` numbers, if that is known. Each item is looked
    /// at for itself: what a later one would make outdated is counted all the same.
    ///
    /// # Errors
    /// [`IngestError::Input`] if it can not be read.
    pub fn of(
        feed: &mut dyn Feed,
        parser: &Parser,
        chunking: Chunking,
        dimension: Option<usize>,
    ) -> Result<Self, IngestError> {
        let mut survey = Self::default();
        loop {
            match feed.next()? {
                Fed::End => return Ok(survey),
                Fed::Idle => {}
                Fed::Item(item) => {
                    let change = match item.work {
                        Work::Line(line) => parser.parse(&line).change,
                        Work::Change(change, _) => change,
                    };
                    survey.add(item.position, change.and_then(|change| fitting(change, dimension)), chunking);
                }
            }
        }
    }

    fn add(&mut self, position: u64, change: Result<Change, Failure>, chunking: Chunking) {
        self.items += 1;
        match change {
            Ok(Change::Upsert(_)) => self.documents += 1,
            Ok(Change::Delete(_)) => self.deletes += 1,
            Ok(Change::Control(_)) => self.pass_over(SkipReason::Control),
            Ok(Change::Skip(reason)) => self.pass_over(reason),
            Ok(Change::Text { text, .. }) => match chunking.chunk(&text) {
                Ok(passages) if passages.is_empty() => self.pass_over(SkipReason::Empty),
                Ok(passages) => {
                    self.texts += 1;
                    self.passages += passages.len() as u64;
                    self.text_bytes += text.len() as u64;
                }
                Err(error) => self.fail(position, Failure::new(FailureClass::Memory, error.to_string())),
            },
            Err(failure) => self.fail(position, failure),
        }
    }

    fn pass_over(&mut self, reason: SkipReason) {
        self.rejected += 1;
        *self.passed_over.entry(reason).or_default() += 1;
    }

    fn fail(&mut self, position: u64, failure: Failure) {
        *self.failures.entry(failure.class).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((position, failure));
        }
    }
}
