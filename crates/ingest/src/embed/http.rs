//! An endpoint that speaks the embeddings format of OpenAI, as Ollama, llama.cpp, TEI and vLLM do.
//!
//! **Owns** requests, what is believed of answers (`http/answer.rs`), and what a status or an error says about trying
//! again (`http/wait.rs`). It sends each request once: `retry` decides about more.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::check::{Dimension, MAX_DIMENSION};
use super::narrow::{Narrow, Trouble};
use super::spec::{DEFAULT_KEY, check_base};
use super::{Embedded, Embedder, HttpSpec, KeySource, TextKind};
use crate::failure::{Failure, FailureClass};

mod answer;
mod wait;

/// How many texts a request has unless it is said: what TEI takes, which takes the fewest.
const DEFAULT_BATCH: usize = 32;
/// How much of an answer that is an error is read.
const ERROR_BYTES: u64 = 64 << 10;
/// How much a number of a vector takes in an answer at most, and how much everything else.
const BYTES_PER_NUMBER: u64 = 32;
const BYTES_BESIDE: u64 = 64 << 10;

/// How long an endpoint may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// Until there is a connection, with TLS; 10 s unless it is said.
    pub connect: Duration,
    /// Until something more arrives; 60 s unless it is said.
    pub read: Duration,
    /// For the whole request; 60 s unless it is said.
    pub total: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(60),
            total: Duration::from_secs(60),
        }
    }
}

/// An API key. It is sent to its endpoint, and never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key.
    ///
    /// # Errors
    /// [`FailureClass::Validation`] when it is empty, or has characters that a header can not have.
    pub fn new(key: &str) -> Result<Self, Failure> {
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::new(
                FailureClass::Validation,
                "the API key is empty or has characters that no key has",
            ));
        }
        Ok(Self(key.to_owned()))
    }

    /// The key that a specification asks for, from the environment as `lookup` knows it.
    ///
    /// # Errors
    /// [`FailureClass::Validation`] when a variable was named that is not set, or that holds no key.
    pub fn find(spec: &HttpSpec, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        let of = |name: &str, key: String| {
            Self::new(&key).map(Some).map_err(|failure| {
                Failure::new(failure.class, format!("environment variable {name}: {failure}"))
            })
        };
        match &spec.key {
            KeySource::None => Ok(None),
            // Nobody has said that this endpoint may see the key: it must not cross a network unencrypted.
            KeySource::Default if spec.is_exposed() => Ok(None),
            KeySource::Default => match lookup(DEFAULT_KEY).filter(|key| !key.trim().is_empty()) {
                Some(key) => of(DEFAULT_KEY, key),
                None => Ok(None),
            },
            KeySource::Variable(name) => match lookup(name) {
                Some(key) => of(name, key),
                None => Err(Failure::new(
                    FailureClass::Validation,
                    format!("environment variable {name}, which should hold the API key, is not set"),
                )),
            },
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// Embeds texts through an OpenAI-compatible endpoint.
///
/// Each request is sent once. A batch that the endpoint refuses with 400, 413, 422 or 500, or answers with something
/// that is no list of vectors, is halved until the texts are found that are the cause.
pub struct HttpEmbedder {
    agent: Agent,
    url: String,
    spec: HttpSpec,
    model: String,
    key: Option<ApiKey>,
    dimension: Dimension,
}

impl fmt::Debug for HttpEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEmbedder")
            .field("url", &self.url)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: Vec<String>,
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

impl HttpEmbedder {
    /// An endpoint. Nothing is sent yet.
    ///
    /// # Errors
    /// [`FailureClass::Validation`] when the address can not be one, or needs TLS that was not built in.
    pub fn new(spec: HttpSpec, key: Option<ApiKey>, timeouts: HttpTimeouts) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::new(FailureClass::Validation, message);
        let base = check_base(&spec.base).map_err(|error| invalid(error.to_string()))?;
        if base.starts_with("https://") && !cfg!(feature = "https") {
            return Err(invalid("this build can not speak https; build it with the feature https".into()));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // A key and texts go where the user said, and nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(timeouts.connect))
            .timeout_per_read(Some(timeouts.read))
            .timeout_global(Some(timeouts.total))
            .user_agent(concat!("plimsoll/", env!("CARGO_PKG_VERSION")));
        if spec.is_local() {
            config = config.proxy(None);
        }
        let model = spec.full_model();
        let dimension = Dimension::expecting(spec.dimensions.map(std::num::NonZero::get));
        Ok(Self {
            agent: config.build().new_agent(),
            url: format!("{base}/embeddings"),
            spec,
            model,
            key,
            dimension,
        })
    }

    /// One request, for as many texts as are given.
    fn request(&self, texts: &[&str], prefix: &str) -> Result<Vec<Embedded>, Trouble> {
        let request = Request {
            model: &self.spec.model,
            input: texts.iter().map(|text| format!("{prefix}{text}")).collect(),
            encoding_format: "float",
            dimensions: self.spec.dimensions.map(std::num::NonZero::get),
        };
        let body = serde_json::to_vec(&request)
            .map_err(|error| Trouble::Broken(Failure::new(FailureClass::Encoding, error.to_string())))?;
        let mut call = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(ApiKey(key)) = &self.key {
            call = call.header("authorization", &format!("Bearer {key}"));
        }
        let mut response = call.send(body).map_err(|error| Trouble::Broken(self.transport(error)))?;
        if !response.status().is_success() {
            return Err(self.refusal(&mut response));
        }
        let limit = texts.len() as u64 * MAX_DIMENSION as u64 * BYTES_PER_NUMBER + BYTES_BESIDE;
        let body = self.read(&mut response, limit)?;
        answer::vectors(&body, texts.len(), &self.url, &self.dimension)
    }

    /// The body of an answer, of `limit` bytes at most.
    fn read(&self, response: &mut Response<Body>, limit: u64) -> Result<Vec<u8>, Trouble> {
        response.body_mut().with_config().limit(limit).read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => Trouble::Broken(Failure::new(
                FailureClass::Memory,
                format!("{} answers with more than {limit} bytes, more than the vectors can take", self.url),
            )),
            error => Trouble::Broken(self.transport(error)),
        })
    }

    /// What an answer with another status than success means.
    fn refusal(&self, response: &mut Response<Body>) -> Trouble {
        let status = response.status();
        let retry_after = wait::wait(response.headers(), status == StatusCode::TOO_MANY_REQUESTS);
        // The message is worth having and not worth failing for.
        let body = response.body_mut().with_config().limit(ERROR_BYTES).read_to_vec().unwrap_or_default();
        let mut message = format!("{} answers {}", self.url, status.as_u16());
        if let Some(reason) = status.canonical_reason() {
            message.push_str(&format!(" {reason}"));
        }
        if let Some(location) = response.headers().get("location").and_then(|to| to.to_str().ok()) {
            message.push_str(&format!(" to {}, which is not followed", answer::clean(location)));
        }
        if let Some(said) = answer::error_message(&body) {
            message.push_str(&format!(": {said}"));
        }
        let class = match status.as_u16() {
            408 | 504 => FailureClass::Timeout,
            413 => FailureClass::Memory,
            429 => FailureClass::RateLimit,
            500..=599 => FailureClass::Network,
            _ => FailureClass::Validation,
        };
        let failure = Failure { class, message: self.without_key(message), retry_after };
        match status.as_u16() {
            400 | 413 | 422 | 500 => Trouble::Refused(failure),
            _ => Trouble::Broken(failure),
        }
    }

    fn transport(&self, error: ureq::Error) -> Failure {
        let timeout = match &error {
            ureq::Error::Timeout(_) => true,
            ureq::Error::Io(error) => {
                matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
            }
            _ => false,
        };
        let class = match &error {
            _ if timeout => FailureClass::Timeout,
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => FailureClass::Validation,
            _ => FailureClass::Network,
        };
        Failure::new(class, self.without_key(format!("{}: {error}", self.url)))
    }

    /// Some services repeat the key that they refuse.
    fn without_key(&self, message: String) -> String {
        match &self.key {
            Some(ApiKey(key)) => message.replace(key.as_str(), "[key]"),
            None => message,
        }
    }
}

impl Embedder for HttpEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimension(&self) -> Result<usize, Failure> {
        if let Some(dimension) = self.dimension.get() {
            return Ok(dimension);
        }
        let results = self.embed(&["dimension"], TextKind::Passage)?;
        results.into_iter().next().map_or_else(
            || Err(Failure::new(FailureClass::Unknown, format!("{} gave no vector", self.url))),
            |vector| vector.map(|vector| vector.len()),
        )
    }

    fn max_batch(&self) -> usize {
        self.spec.batch.map_or(DEFAULT_BATCH, std::num::NonZero::get)
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        let prefix = match kind {
            TextKind::Passage => &self.spec.passage,
            TextKind::Query => &self.spec.query,
        };
        Narrow::embed(texts, self.max_batch(), |texts: &[&str]| self.request(texts, prefix))
    }
}
