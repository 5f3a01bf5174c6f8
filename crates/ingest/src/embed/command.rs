//! A program that makes vectors: one line of JSON in, one out.
//!
//! ```text
//! → {"texts": ["…", "…"], "kind": "passage"}
//! ← {"vectors": [[0.1, …], null]}            null: this text can not be embedded
//! ← {"error": "…"}                           none of these can be embedded together
//! ```
//!
//! **Owns** the child process (`command/child.rs`): it is started with the first call, serves one call at a time, is
//! killed when it takes too long, and started again with the next call after it has died. **On a crash** of this
//! process the child reads the end of its input, and should exit.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::check::{Dimension, MAX_DIMENSION};
use super::narrow::{Narrow, Trouble};
use super::{CommandSpec, Embedded, Embedder, TextKind};
use crate::failure::{Failure, FailureClass};

mod child;

use child::{Child, ChildError};

/// How many texts one line has.
const BATCH: usize = 64;
/// How long a line for so many vectors can be.
const LINE_BYTES: usize = BATCH * MAX_DIMENSION * 32 + (64 << 10);
/// How often in a row the program may die without an answer before it is not started any more. Finding one text in a
/// batch that kills it takes 7.
const DEATHS: u32 = 16;

/// Embeds texts through a program that speaks JSON lines.
pub struct CommandEmbedder {
    spec: CommandSpec,
    line: String,
    model: String,
    timeout: Duration,
    dimension: Dimension,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    deaths: u32,
}

impl fmt::Debug for CommandEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandEmbedder").field("command", &self.line).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Request<'a> {
    texts: &'a [&'a str],
    kind: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    vectors: Option<Vec<Option<Vec<Option<f32>>>>>,
    error: Option<String>,
}

impl CommandEmbedder {
    /// A program, which is started with the first call. `timeout` is for one answer, the start included.
    ///
    /// # Errors
    /// [`FailureClass::Validation`] when the command is empty.
    pub fn new(spec: CommandSpec, timeout: Duration) -> Result<Self, Failure> {
        if spec.command.first().is_none_or(String::is_empty) {
            return Err(Failure::new(FailureClass::Validation, "the command is empty"));
        }
        let line = spec.line();
        let model = spec.model.clone().unwrap_or_else(|| format!("command:{line}"));
        Ok(Self { spec, line, model, timeout, dimension: Dimension::default(), state: Mutex::default() })
    }

    /// How often the program has died since it last answered.
    #[cfg(test)]
    fn deaths(&self) -> u32 {
        self.state.lock().deaths
    }

    fn request(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Trouble> {
        let mut request = serde_json::to_vec(&Request { texts, kind: kind.name() })
            .map_err(|error| Trouble::Broken(Failure::new(FailureClass::Encoding, error.to_string())))?;
        request.push(b'\n');
        let line = self.exchange(request)?;
        self.vectors(&line, texts.len())
    }

    /// Sends a line and waits for one.
    fn exchange(&self, request: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        let mut state = self.state.lock();
        let mut child = match state.child.take() {
            Some(child) => child,
            None if state.deaths >= DEATHS => {
                let message =
                    format!("{} has died {DEATHS} times in a row and is not started again", self.line);
                return Err(Trouble::Broken(Failure::new(FailureClass::Validation, message)));
            }
            None => Child::start(&self.spec.command, LINE_BYTES).map_err(|error| {
                Trouble::Broken(Failure::new(error.class(), format!("{}: {error}", self.line)))
            })?,
        };
        match child.exchange(request, self.timeout) {
            Ok(line) => {
                state.child = Some(child);
                state.deaths = 0;
                Ok(line)
            }
            Err(error) => {
                // The child is killed as it goes out of scope: what it still sends would be taken for the next answer.
                let failure = |what: String| Failure::new(error.class(), format!("{} {what}", self.line));
                state.deaths += 1;
                Err(match error {
                    ChildError::Died => Trouble::Refused(failure(child.obituary())),
                    ChildError::Unasked => Trouble::Refused(failure(error.to_string())),
                    _ => Trouble::Broken(failure(error.to_string())),
                })
            }
        }
    }

    fn vectors(&self, line: &[u8], count: usize) -> Result<Vec<Embedded>, Trouble> {
        let refused =
            |class, what: String| Err(Trouble::Refused(Failure::new(class, format!("{} {what}", self.line))));
        let answer: Answer = match serde_json::from_slice(line) {
            Ok(answer) => answer,
            Err(error) => {
                return refused(FailureClass::Unknown, format!("gave a line that is no answer: {error}"));
            }
        };
        if let Some(error) = answer.error {
            let error: String =
                error.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
            return refused(FailureClass::Validation, format!("says: {error}"));
        }
        let Some(vectors) = answer.vectors else {
            return refused(FailureClass::Unknown, "gave a line with neither vectors nor error".into());
        };
        if vectors.len() != count {
            return refused(
                FailureClass::Unknown,
                format!("gave {} vectors for {count} texts", vectors.len()),
            );
        }
        Ok(vectors.into_iter().map(|vector| self.vector(vector)).collect())
    }

    fn vector(&self, numbers: Option<Vec<Option<f32>>>) -> Embedded {
        let Some(numbers) = numbers else {
            return Err(Failure::new(
                FailureClass::Validation,
                format!("{} gave no vector for this text", self.line),
            ));
        };
        let vector: Vec<f32> = numbers.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect();
        self.dimension.check(&self.line, &vector)?;
        Ok(vector)
    }
}

impl Embedder for CommandEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimension(&self) -> Result<usize, Failure> {
        if let Some(dimension) = self.dimension.get() {
            return Ok(dimension);
        }
        let results = self.embed(&["dimension"], TextKind::Passage)?;
        results.into_iter().next().map_or_else(
            || Err(Failure::new(FailureClass::Unknown, format!("{} gave no vector", self.line))),
            |vector| vector.map(|vector| vector.len()),
        )
    }

    fn max_batch(&self) -> usize {
        BATCH
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        Narrow::embed(texts, BATCH, |texts: &[&str]| self.request(texts, kind))
    }
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "a failed test is a panic")]
mod tests;
