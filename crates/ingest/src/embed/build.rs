//! An embedder from its specification.

use std::time::Duration;

use super::{
    ApiKey, CommandEmbedder, Embedder, EmbedderSpec, Given, HashEmbedder, HttpEmbedder, HttpTimeouts,
};
use crate::failure::{Failure, FailureClass};

/// What embedders need to know beside their specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderOptions {
    /// How long an endpoint may take.
    pub http: HttpTimeouts,
    /// How long a program may take for one answer, its start included; 300 s unless it is said.
    pub command: Duration,
}

impl Default for EmbedderOptions {
    fn default() -> Self {
        Self { http: HttpTimeouts::default(), command: Duration::from_secs(300) }
    }
}

impl EmbedderOptions {
    /// All that may be waited for in one call takes this long at most: an answer of an endpoint, or of a program with its
    /// start.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        let connect = self.http.connect.min(timeout);
        Self { http: HttpTimeouts { connect, read: timeout, total: timeout }, command: timeout }
    }
}

impl EmbedderSpec {
    /// The embedder. Nothing is asked of an endpoint or started yet; the API key is read from the environment now.
    ///
    /// # Errors
    /// [`FailureClass::Validation`] when the specification can not work here: a variable is not set, or
    /// [`EmbedderSpec::Onnx`] was asked for, which the crate `plimsoll-onnx` makes.
    pub fn build(&self, options: &EmbedderOptions) -> Result<Box<dyn Embedder>, Failure> {
        Ok(match self {
            Self::Given => Box::new(Given),
            Self::Hash { dimension } => Box::new(HashEmbedder::new(*dimension)?),
            Self::Http(spec) => {
                let key = ApiKey::find(spec, |name| std::env::var(name).ok())?;
                Box::new(HttpEmbedder::new(spec.clone(), key, options.http)?)
            }
            Self::Command(spec) => Box::new(CommandEmbedder::new(spec.clone(), options.command)?),
            Self::Onnx { directory } => {
                let message = format!("onnx:{directory} is an embedder of the crate plimsoll-onnx");
                return Err(Failure::new(FailureClass::Validation, message));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_specification_names_is_built() {
        for (spec, model) in [
            ("given", "given"),
            ("hash:64", "hash-1:64"),
            ("http://localhost:1/v1#m;dimensions=8;key=none", "m;dimensions=8"),
            ("command:embed 'a b'", "command:embed 'a b'"),
            ("command#m:embed", "m"),
        ] {
            let spec: EmbedderSpec = spec.parse().unwrap();
            assert_eq!(spec.build(&EmbedderOptions::default()).unwrap().model(), model);
        }
        for spec in ["onnx:models/e5", "http://localhost:1/v1#m;key=PLIMSOLL_NO_SUCH_VARIABLE"] {
            let failure =
                spec.parse::<EmbedderSpec>().unwrap().build(&EmbedderOptions::default()).err().unwrap();
            assert_eq!(failure.class, FailureClass::Validation);
        }
    }
}
