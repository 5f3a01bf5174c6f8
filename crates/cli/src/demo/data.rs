//! The bundled data: passages of the Rust documentation, questions, and the true answers.

use plimsoll::Document;
use plimsoll_lines::{VectorJson, parse_line};

use crate::error::{CliError, Result};
use crate::input::{InputError, Matrix, Operation, Place, parse_ivecs, parse_npy};

const DOCUMENTS: &str = include_str!("../../data/rustdocs/documents.jsonl");
const VECTORS: &[u8] = include_bytes!("../../data/rustdocs/vectors.npy");
const QUESTIONS: &str = include_str!("../../data/rustdocs/queries.json");
const QUERIES: &[u8] = include_bytes!("../../data/rustdocs/queries.npy");
const GROUND_TRUTH: &[u8] = include_bytes!("../../data/rustdocs/ground_truth.ivecs");

/// The data, ready for use.
pub(super) struct Bundle {
    /// The passages, as lines that `import` reads.
    pub(super) lines: Vec<String>,
    /// The same, as documents.
    pub(super) documents: Vec<Document>,
    pub(super) questions: Vec<String>,
    pub(super) queries: Matrix,
    /// For each question the rows of the nearest passages, nearest first.
    pub(super) truth: Vec<Vec<u32>>,
}

impl Bundle {
    pub(super) fn load() -> Result<Self> {
        let vectors = parse_npy(VECTORS, "vectors.npy")?;
        let lines =
            DOCUMENTS.lines().zip(0..vectors.len()).map(|(line, row)| with_vector(line, vectors.row(row)));
        let lines: Vec<String> = lines.collect::<Result<_>>()?;
        let documents =
            lines.iter().zip(1..).map(|(line, number)| parse(line, number)).collect::<Result<_>>()?;
        let questions = serde_json::from_str(QUESTIONS).map_err(|error| wrong(&error))?;
        let queries = parse_npy(QUERIES, "queries.npy")?;
        let truth = parse_ivecs(&mut &GROUND_TRUTH[..], "ground_truth.ivecs")?;
        Ok(Self { lines, documents, questions, queries, truth })
    }

    /// The size of the rows as they are imported.
    pub(super) fn json_bytes(&self) -> u64 {
        self.lines.iter().map(|line| line.len() as u64 + 1).sum()
    }
}

/// Adds a vector to the object of a line.
fn with_vector(line: &str, vector: &[f32]) -> Result<String> {
    let fields = line.trim_end().strip_suffix('}').unwrap_or(line);
    let vector = serde_json::to_string(&VectorJson(vector)).map_err(|error| wrong(&error))?;
    Ok(format!("{fields}, \"vector\": {vector}}}"))
}

fn parse(line: &str, number: u64) -> Result<Document> {
    match parse_line(line) {
        Ok(Operation::Upsert(document)) => Ok(document),
        Ok(Operation::Delete(key)) => {
            Err(CliError::failed("malformed", format!("documents.jsonl deletes {key}")))
        }
        Err(problem) => Err(InputError::at("documents.jsonl", Place::Line(number), problem.into()).into()),
    }
}

fn wrong(error: &serde_json::Error) -> CliError {
    CliError::failed("malformed", format!("the bundled data: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_complete() {
        let bundle = Bundle::load().unwrap();
        assert_eq!((bundle.documents.len(), bundle.questions.len()), (3000, 40));
        assert_eq!((bundle.queries.len(), bundle.truth.len()), (40, 40));
        assert!(bundle.documents.iter().all(|document| document.postings[0].vector.len() == 384));
        assert!(
            bundle.documents.iter().all(|document| document.text.is_some() && !document.metadata.is_empty())
        );
    }
}
