//! Documents and their postings.

use super::{Key, Metadata, Value};

/// One searchable passage of a document: a range of its text, and the vector that stands for it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Posting {
    /// Where the passage begins, in UTF-8 bytes of the document's text.
    pub start: u32,
    /// How long it is, in bytes.
    pub length: u32,
    /// The vector, of the collection's dimension.
    pub vector: Vec<f32>,
}

/// What is stored under a key: an optional text, metadata, and one or more postings.
///
/// ```
/// use plimsoll_engine::Document;
/// let document = Document::new("ch01#2")
///     .text("Ownership is a set of rules.")
///     .metadata("page", 12)
///     .vector([0.1, 0.7, 0.2]);
/// assert_eq!(document.postings[0].length, 28);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What the document is called by.
    pub key: Key,
    /// Its text. Without one, posting ranges are kept as they are given.
    pub text: Option<String>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its passages, in order; at least one, at most 65,535.
    pub postings: Vec<Posting>,
}

impl Document {
    /// A document without text, metadata or postings yet.
    pub fn new(key: impl Into<Key>) -> Self {
        Self { key: key.into(), text: None, metadata: Metadata::new(), postings: Vec::new() }
    }

    /// Sets the text. A posting that covered all of the text before covers all of the new one.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        let whole = self.text_len();
        self.text = Some(text.into());
        let length = self.text_len();
        for posting in &mut self.postings {
            if posting.start == 0 && posting.length == whole {
                posting.length = length;
            }
        }
        self
    }

    /// Sets one field of the metadata.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Adds a posting over the whole text.
    #[must_use]
    pub fn vector(self, vector: impl Into<Vec<f32>>) -> Self {
        let length = self.text_len();
        self.posting(0, length, vector)
    }

    /// Adds a posting over `length` bytes of the text from byte `start`.
    #[must_use]
    pub fn posting(mut self, start: u32, length: u32, vector: impl Into<Vec<f32>>) -> Self {
        self.postings.push(Posting { start, length, vector: vector.into() });
        self
    }

    /// The text's length in bytes; 0 without one. Texts beyond `u32` are refused when they are written.
    fn text_len(&self) -> u32 {
        self.text.as_ref().map_or(0, |text| u32::try_from(text.len()).unwrap_or(u32::MAX))
    }
}
