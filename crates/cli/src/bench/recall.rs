//! Recall as ann-benchmarks counts it: an answer counts when its true distance is no worse than the true k-th.

use std::collections::HashSet;
use std::path::Path;

use plimsoll::{Document, Key, Metric, ReadOnlyCollection};

use crate::error::{CliError, Result};
use crate::input::read_ivecs;

/// How far a distance may exceed the true one and still be a tie: the rounding of `f32` data.
const TOLERANCE: f64 = 1e-6;

/// The true nearest rows of each query, as row numbers that are integer ids.
pub(super) struct GroundTruth {
    rows: Vec<Vec<u32>>,
}

impl GroundTruth {
    /// Reads an ivecs file with at least `k` rows for each of `queries` queries.
    pub(super) fn read(path: &Path, queries: usize, k: usize) -> Result<Self> {
        let rows = read_ivecs(path)?;
        let wrong = |what: String| CliError::failed("malformed", format!("{}: {what}", path.display()));
        if rows.len() < queries {
            return Err(wrong(format!("ground truth for {} queries; there are {queries}", rows.len())));
        }
        match rows.iter().position(|row| row.len() < k) {
            Some(row) => Err(wrong(format!("row {row}: fewer than {k} neighbours"))),
            None => Ok(Self { rows }),
        }
    }

    /// The share of the true `k` nearest that `answers` hold, over all queries.
    pub(super) fn recall(
        &self,
        collection: &ReadOnlyCollection,
        queries: &[Vec<f32>],
        answers: &[Vec<Key>],
        k: usize,
    ) -> Result<f64> {
        let mut found = 0;
        for ((truth, query), answer) in self.rows.iter().zip(queries).zip(answers) {
            found += found_of(collection, &truth[..k], query, answer)?;
        }
        Ok(found as f64 / (queries.len() * k) as f64)
    }
}

/// How many of the distinct answers are as near as the last of the true ones.
fn found_of(collection: &ReadOnlyCollection, truth: &[u32], query: &[f32], answer: &[Key]) -> Result<usize> {
    let nearest: HashSet<Key> = truth.iter().map(|&row| Key::from(row)).collect();
    let distinct: HashSet<&Key> = answer.iter().take(truth.len()).collect();
    let (certain, others): (Vec<&Key>, Vec<&Key>) =
        distinct.into_iter().partition(|key| nearest.contains(key));
    let mut found = certain.len();
    if let (Some(&last), false) = (truth.last(), others.is_empty()) {
        let distance = |key: &Key| match collection.get(key)? {
            Some(document) => Ok(distance_to(&document, query, collection.metric())),
            None => Err(CliError::failed("document_not_found", format!("there is no document {key}"))),
        };
        let threshold = distance(&Key::from(last))?;
        for key in others {
            found += usize::from(distance(key)? <= threshold + TOLERANCE * threshold.abs().max(1.0));
        }
    }
    Ok(found)
}

/// The distance of the nearest posting, in double precision.
fn distance_to(document: &Document, query: &[f32], metric: Metric) -> f64 {
    let distances = document.postings.iter().map(|posting| distance(query, &posting.vector, metric));
    distances.fold(f64::INFINITY, f64::min)
}

fn distance(a: &[f32], b: &[f32], metric: Metric) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| term(f64::from(a), f64::from(b))).sum()
    };
    let dot = sum(|a, b| a * b);
    match metric {
        Metric::Dot => -dot,
        Metric::L2 => sum(|a, b| (a - b) * (a - b)).sqrt(),
        Metric::Cosine => 1.0 - dot / (sum(|a, _| a * a).sqrt() * sum(|_, b| b * b).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_metrics() {
        let (a, b) = ([3.0, 0.0], [0.0, 4.0]);
        assert_eq!(distance(&a, &b, Metric::L2), 5.0);
        assert_eq!(distance(&a, &b, Metric::Cosine), 1.0);
        assert_eq!(distance(&a, &a, Metric::Dot), -9.0);
        let two = Document::new(1).vector(b).vector(a);
        assert_eq!(distance_to(&two, &a, Metric::L2), 0.0);
    }
}
