//! No embedder: documents bring their vectors.

use super::{Embedded, Embedder, TextKind};
use crate::failure::{Failure, FailureClass};

/// Embeds nothing. Every text is refused with a sentence that says what to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given;

impl Given {
    fn failure() -> Failure {
        Failure::new(
            FailureClass::Validation,
            "no embedder is configured: give each document its vectors, or name an embedder such as hash:256",
        )
    }
}

impl Embedder for Given {
    fn model(&self) -> &'static str {
        "given"
    }

    fn dimension(&self) -> Result<usize, Failure> {
        Err(Self::failure())
    }

    fn max_batch(&self) -> usize {
        1
    }

    fn embed(&self, texts: &[&str], _: TextKind) -> Result<Vec<Embedded>, Failure> {
        // A document without vectors is that document's fault; the next one may bring its own.
        Ok(texts.iter().map(|_| Err(Self::failure())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_refused_on_its_own() {
        let results = Given.embed(&["a", "b"], TextKind::Passage).unwrap();
        assert_eq!(results.len(), 2);
        assert!(results.iter().all(|r| r.as_ref().unwrap_err().class == FailureClass::Validation));
        assert!(Given.dimension().is_err());
    }
}
