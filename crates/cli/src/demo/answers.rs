//! Questions, their answers, and how these compare with the truth.

use std::collections::HashSet;
use std::fmt;
use std::time::Instant;

use plimsoll::{Collection, Effort, Hit, Key};
use plimsoll_lines::KeyJson;
use serde::Serialize;

use super::data::Bundle;
use crate::commands::snippet;
use crate::error::Result;

/// How many passages are asked for.
const K: usize = 10;
/// How many questions are shown, and how many passages of each.
const SHOWN: (usize, usize) = (3, 2);
const SNIPPET_CHARACTERS: usize = 80;
/// How far an answer may be from the true tenth and still be as good: the rounding of `f32`.
const TOLERANCE: f64 = 1e-6;

/// How all questions were answered.
#[derive(Debug, Serialize)]
pub(super) struct Answers {
    questions: usize,
    k: usize,
    /// Questions whose approximate answer is the exact one, passage for passage.
    equal_to_exact: usize,
    /// The share of the bundled true answers that each search found.
    recall_exact: f64,
    recall_approximate: f64,
    mean_us_exact: f64,
    mean_us_approximate: f64,
    examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
struct Example {
    question: String,
    hits: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Found {
    #[serde(serialize_with = "key")]
    id: Key,
    distance: f32,
    snippet: String,
}

fn key<S: serde::Serializer>(id: &Key, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    KeyJson(id).serialize(serializer)
}

impl Answers {
    /// Whether exact search found the truth, and approximate search enough of it.
    pub(super) fn are_right(&self) -> bool {
        self.recall_exact == 1.0 && self.recall_approximate >= 0.95
    }

    /// Some questions and what was found, as lines of text.
    pub(super) fn examples(&self) -> impl Iterator<Item = String> {
        self.examples.iter().flat_map(|example| {
            let hits = example
                .hits
                .iter()
                .map(|hit| format!("  {:.3}  {}\n            {}", hit.distance, hit.id, hit.snippet));
            std::iter::once(format!("“{}”", example.question)).chain(hits)
        })
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} questions: {} of the default answers equal exact search; recall@{} {:.3} (exact {:.3}); \
             {:.0} µs a question (exact {:.0} µs)",
            self.questions,
            self.equal_to_exact,
            self.k,
            self.recall_approximate,
            self.recall_exact,
            self.mean_us_approximate,
            self.mean_us_exact
        )
    }
}

/// Answers all bundled questions, both ways.
pub(super) fn all(bundle: &Bundle, collection: &Collection) -> Result<Answers> {
    let questions = bundle.questions.len();
    let (approximate, mean_us_approximate) = search(bundle, collection, Effort::default())?;
    let (exact, mean_us_exact) = search(bundle, collection, Effort::Exact)?;
    let same =
        |(a, b): &(&Vec<Hit>, &Vec<Hit>)| a.iter().map(|hit| &hit.key).eq(b.iter().map(|hit| &hit.key));
    Ok(Answers {
        questions,
        k: K,
        equal_to_exact: approximate.iter().zip(&exact).filter(same).count(),
        recall_exact: recall(bundle, &exact),
        recall_approximate: recall(bundle, &approximate),
        mean_us_exact,
        mean_us_approximate,
        examples: bundle.questions.iter().zip(&approximate).take(SHOWN.0).map(example).collect(),
    })
}

/// The answers to every question, and the mean time of one in microseconds.
fn search(bundle: &Bundle, collection: &Collection, effort: Effort) -> Result<(Vec<Vec<Hit>>, f64)> {
    let start = Instant::now();
    let mut answers = Vec::new();
    for row in 0..bundle.queries.len() {
        let search = collection.search(bundle.queries.row(row)).k(K).effort(effort).with_text(true);
        answers.push(search.run()?.hits);
    }
    Ok((answers, start.elapsed().as_secs_f64() * 1e6 / bundle.queries.len() as f64))
}

/// The share of answers that are as near as the bundled true tenth.
fn recall(bundle: &Bundle, answers: &[Vec<Hit>]) -> f64 {
    let rows: std::collections::HashMap<&Key, usize> =
        bundle.documents.iter().zip(0..).map(|(document, row)| (&document.key, row)).collect();
    let mut found = 0;
    for (query, (truth, hits)) in bundle.truth.iter().zip(answers).enumerate() {
        let product = |row: usize| -> f64 {
            let vector = bundle.documents[row].postings.iter().flat_map(|posting| &posting.vector);
            bundle.queries.row(query).iter().zip(vector).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let threshold = product(truth[K - 1] as usize) - TOLERANCE;
        let distinct: HashSet<&Key> = hits.iter().map(|hit| &hit.key).collect();
        let known = distinct.into_iter().filter_map(|key| rows.get(key));
        found += known.filter(|row| product(**row) >= threshold).count();
    }
    found as f64 / (answers.len() * K) as f64
}

fn example((question, hits): (&String, &Vec<Hit>)) -> Example {
    let found = |hit: &Hit| Found {
        id: hit.key.clone(),
        distance: hit.distance,
        snippet: snippet(hit.text.as_deref().unwrap_or_default(), SNIPPET_CHARACTERS),
    };
    Example { question: question.clone(), hits: hits.iter().take(SHOWN.1).map(found).collect() }
}
