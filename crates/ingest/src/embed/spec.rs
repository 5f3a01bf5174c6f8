//! The string that names an embedder, on the command line and beside a collection.
//!
//! ```text
//! given
//! hash:DIMENSION
//! command:PROGRAM ARGUMENT…              command#MODEL:PROGRAM ARGUMENT…
//! http://HOST/v1#MODEL                   https://HOST/v1#MODEL;NAME=VALUE;…
//! onnx:DIRECTORY
//! ```
//!
//! Names and values of the options of an endpoint: `key` (the name of the environment variable that has the API key, or
//! `none`), `dimensions`, `batch`, `passage` and `query` (what is put before texts). In MODEL and values, `;`, `%`,
//! white space and control characters are written as `%3B` and so on. A key itself has no place in the string.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::HashEmbedder;
use super::check::MAX_DIMENSION;

mod escape;
mod words;

/// The variable that an API key is taken from when none is named.
pub(crate) const DEFAULT_KEY: &str = "OPENAI_API_KEY";

/// Which embedder to use, with all that decides its vectors.
///
/// ```
/// use plimsoll_ingest::EmbedderSpec;
/// let spec: EmbedderSpec = "http://localhost:11434/v1#nomic-embed-text;passage=search_document:%20".parse()?;
/// let EmbedderSpec::Http(http) = &spec else { panic!() };
/// assert_eq!((http.model.as_str(), http.passage.as_str()), ("nomic-embed-text", "search_document: "));
/// assert_eq!(spec.to_string().parse::<EmbedderSpec>()?, spec);
/// # Ok::<(), plimsoll_ingest::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmbedderSpec {
    /// Documents bring their vectors.
    Given,
    /// [`HashEmbedder`].
    Hash {
        /// How many numbers a vector has.
        dimension: usize,
    },
    /// An OpenAI-compatible endpoint.
    Http(HttpSpec),
    /// A program that speaks JSON lines.
    Command(CommandSpec),
    /// A directory with `model.onnx` and `tokenizer.json`.
    Onnx {
        /// The directory.
        directory: String,
    },
}

/// An OpenAI-compatible endpoint and its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// What comes before `/embeddings`, such as `http://localhost:11434/v1`; without a slash at the end.
    pub base: String,
    /// The model's name, as the endpoint knows it.
    pub model: String,
    /// Where the API key comes from.
    pub key: KeySource,
    /// The length of vectors to ask for, of a model that can shorten them.
    pub dimensions: Option<NonZeroUsize>,
    /// How many texts one request may have; 32 unless it is said, which every known server takes.
    pub batch: Option<NonZeroUsize>,
    /// What is put before passages, such as `search_document: `.
    pub passage: String,
    /// What is put before queries, such as `search_query: `.
    pub query: String,
}

impl HttpSpec {
    /// An endpoint without options. Whether the two can be right is checked when it is used or parsed.
    pub fn new(base: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base: base.into(),
            model: model.into(),
            key: KeySource::Default,
            dimensions: None,
            batch: None,
            passage: String::new(),
            query: String::new(),
        }
    }

    /// Whether requests leave this machine unencrypted.
    pub fn is_exposed(&self) -> bool {
        !is_https(&self.base) && !self.is_local()
    }

    /// Whether the host is this machine.
    pub fn is_local(&self) -> bool {
        let authority =
            self.base.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The model with all that changes its vectors.
    pub(crate) fn full_model(&self) -> String {
        let mut name = escape::escape(&self.model, &[';']);
        self.options_that_matter(&mut name);
        name
    }

    fn options_that_matter(&self, out: &mut String) {
        if let Some(dimensions) = self.dimensions {
            out.push_str(&format!(";dimensions={dimensions}"));
        }
        for (name, value) in [("passage", &self.passage), ("query", &self.query)] {
            if !value.is_empty() {
                out.push_str(&format!(";{name}={}", escape::escape(value, &[';'])));
            }
        }
    }
}

/// Where the API key of an endpoint comes from. It is never stored, printed or logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KeySource {
    /// From the variable `OPENAI_API_KEY`, if it is set, and the endpoint is on this machine or behind TLS.
    #[default]
    Default,
    /// From this environment variable, which must be set.
    Variable(String),
    /// None is sent.
    None,
}

/// A program that speaks JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSpec {
    /// The program and its arguments; at least the program.
    pub command: Vec<String>,
    /// What its vectors are known by; the command line itself unless it is said.
    pub model: Option<String>,
}

/// Why a string does not name an embedder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// It begins like no embedder.
    #[error(
        "{0:?} names no embedder; there are given, hash:DIMENSION, command:PROGRAM, onnx:DIRECTORY and \
         http://HOST/v1#MODEL"
    )]
    UnknownKind(String),
    /// The dimension is not a number that can be stored.
    #[error("{0:?} is not a dimension from {min} to {MAX_DIMENSION}", min = HashEmbedder::MIN_DIMENSION)]
    Dimension(String),
    /// The address of an endpoint can not be used.
    #[error("the endpoint's address {what}")]
    Address {
        /// What is wrong with it. The address is left out: it may hold a password.
        what: &'static str,
    },
    /// The model is missing.
    #[error(
        "the endpoint has no model: write it behind the address, as in http://localhost:11434/v1#nomic-embed-text"
    )]
    NoModel,
    /// An option that is not known, comes twice, or has a wrong value.
    #[error("option {name}: {what}")]
    Option {
        /// Its name.
        name: String,
        /// What is wrong. The value is left out: it may be a key.
        what: &'static str,
    },
    /// A `%` that two hexadecimal digits do not follow, or bytes that are not UTF-8.
    #[error("{0:?} has a % that does not stand for a character")]
    Escape(String),
    /// The command is empty or has an open quote.
    #[error("the command {0}")]
    Command(&'static str),
    /// The directory is missing.
    #[error("onnx: needs a directory with model.onnx and tokenizer.json")]
    NoDirectory,
}

impl FromStr for EmbedderSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if has_scheme(text) {
            return parse_http(text).map(Self::Http);
        }
        let (kind, rest) = match text.find([':', '#']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        match kind {
            "given" if rest.is_empty() => Ok(Self::Given),
            "hash" if rest.is_empty() => Ok(Self::Hash { dimension: HashEmbedder::DEFAULT_DIMENSION }),
            "hash" => parse_hash(rest.strip_prefix(':').unwrap_or(rest)),
            "command" => parse_command(rest),
            "onnx" => match rest.strip_prefix(':') {
                Some(directory) if !directory.is_empty() => {
                    Ok(Self::Onnx { directory: directory.to_owned() })
                }
                _ => Err(SpecError::NoDirectory),
            },
            _ => Err(SpecError::UnknownKind(kind.chars().take(40).collect())),
        }
    }
}

fn parse_hash(text: &str) -> Result<EmbedderSpec, SpecError> {
    match text.parse() {
        Ok(dimension) if (HashEmbedder::MIN_DIMENSION..=MAX_DIMENSION).contains(&dimension) => {
            Ok(EmbedderSpec::Hash { dimension })
        }
        _ => Err(SpecError::Dimension(text.chars().take(40).collect())),
    }
}

fn parse_command(rest: &str) -> Result<EmbedderSpec, SpecError> {
    let (model, line) = match rest.strip_prefix('#') {
        Some(rest) => {
            let (model, line) = rest.split_once(':').ok_or(SpecError::Command("is missing"))?;
            if model.is_empty() {
                return Err(SpecError::Command("has an empty model"));
            }
            (Some(escape::unescape(model)?), line)
        }
        None => (None, rest.strip_prefix(':').ok_or(SpecError::Command("is missing"))?),
    };
    let command = words::split(line).ok_or(SpecError::Command("has a quote that is not closed"))?;
    if command.first().is_none_or(String::is_empty) {
        return Err(SpecError::Command("is missing"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(SpecError::Command("has a zero byte"));
    }
    Ok(EmbedderSpec::Command(CommandSpec { command, model }))
}

fn has_scheme(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| starts_with_ignoring_case(text, scheme))
}

fn is_https(base: &str) -> bool {
    starts_with_ignoring_case(base, "https://")
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn parse_http(text: &str) -> Result<HttpSpec, SpecError> {
    let (base, rest) = match text.split_once('#') {
        Some((base, rest)) => (base, Some(rest)),
        None => (text, None),
    };
    let base = check_base(base)?;
    let mut parts = rest.ok_or(SpecError::NoModel)?.split(';');
    let model = escape::unescape(parts.next().unwrap_or_default())?;
    if model.is_empty() {
        return Err(SpecError::NoModel);
    }
    let mut spec = HttpSpec::new(base, model);
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if seen.contains(&name) {
            return Err(option(name, "comes twice"));
        }
        seen.push(name);
        set_option(&mut spec, name, &escape::unescape(value)?)?;
    }
    Ok(spec)
}

fn option(name: &str, what: &'static str) -> SpecError {
    SpecError::Option { name: name.chars().take(20).collect(), what }
}

fn set_option(spec: &mut HttpSpec, name: &str, value: &str) -> Result<(), SpecError> {
    match name {
        "key" => spec.key = parse_key(value)?,
        "dimensions" => match value.parse::<NonZeroUsize>() {
            Ok(dimensions) if dimensions.get() <= MAX_DIMENSION => spec.dimensions = Some(dimensions),
            _ => return Err(option(name, "is not a dimension that can be stored")),
        },
        "batch" => match value.parse::<NonZeroUsize>() {
            Ok(batch) if batch.get() <= MAX_BATCH => spec.batch = Some(batch),
            _ => return Err(option(name, "is not a number from 1 to 2048")),
        },
        "passage" => value.clone_into(&mut spec.passage),
        "query" => value.clone_into(&mut spec.query),
        _ => return Err(option(name, "is not known; there are key, dimensions, batch, passage and query")),
    }
    Ok(())
}

/// The most texts of one request.
pub(crate) const MAX_BATCH: usize = 2048;

/// Only names in capitals: keys of the known services have small letters or dashes, and must not end up in a file.
fn parse_key(value: &str) -> Result<KeySource, SpecError> {
    let mut characters = value.chars();
    let is_name = characters.next().is_some_and(|c| c.is_ascii_uppercase() || c == '_')
        && characters.all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        && value.len() <= 64;
    match value {
        "none" => Ok(KeySource::None),
        DEFAULT_KEY => Ok(KeySource::Variable(DEFAULT_KEY.to_owned())),
        _ if is_name => Ok(KeySource::Variable(value.to_owned())),
        _ => Err(option(
            "key",
            "must be the name of an environment variable, in capitals, or none; never a key",
        )),
    }
}

/// The address without what may stand behind it, or what is wrong with it.
pub(crate) fn check_base(base: &str) -> Result<String, SpecError> {
    let wrong = |what| Err(SpecError::Address { what });
    let Some((scheme, rest)) = base.split_once("://") else {
        return wrong("must begin with http:// or https://");
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return wrong("holds a password; keys come from environment variables");
    }
    if base.contains(['?', '#']) {
        return wrong("has a query; only a path can stand behind the host");
    }
    let parsed: Result<ureq::http::Uri, _> = base.parse();
    if authority.is_empty() || parsed.is_err() || base.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("is not one of the web");
    }
    let rest = rest.trim_end_matches('/');
    let rest = rest.strip_suffix("/embeddings").unwrap_or(rest).trim_end_matches('/');
    Ok(format!("{}://{rest}", scheme.to_ascii_lowercase()))
}

impl fmt::Display for EmbedderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given"),
            Self::Hash { dimension } => write!(f, "hash:{dimension}"),
            Self::Http(spec) => write!(f, "{spec}"),
            Self::Command(spec) => write!(f, "{spec}"),
            Self::Onnx { directory } => write!(f, "onnx:{directory}"),
        }
    }
}

impl fmt::Display for HttpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = String::new();
        match &self.key {
            KeySource::Default => {}
            KeySource::Variable(name) => options.push_str(&format!(";key={name}")),
            KeySource::None => options.push_str(";key=none"),
        }
        if let Some(batch) = self.batch {
            options.push_str(&format!(";batch={batch}"));
        }
        write!(f, "{}#{}{options}", self.base, self.full_model())
    }
}

impl CommandSpec {
    /// The command as a line that a shell would read the same way.
    pub fn line(&self) -> String {
        words::join(&self.command)
    }
}

impl fmt::Display for CommandSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.model {
            Some(model) => write!(f, "command#{}:{}", escape::escape(model, &[':']), self.line()),
            None => write!(f, "command:{}", self.line()),
        }
    }
}

impl Serialize for EmbedderSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EmbedderSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
