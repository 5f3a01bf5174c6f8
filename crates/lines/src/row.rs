//! One JSON line: `{"id": …, "vector": […], "text": …, "metadata": {…}}`, the form with `postings`, or a delete.

use std::borrow::Cow;
use std::fmt;

use plimsoll::{Document, Key, Metadata, Posting};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::{Components, parse_key, parse_metadata};

/// What a line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Store this document.
    Upsert(Document),
    /// Remove the document with this key.
    Delete(Key),
}

/// A line, or a part of one, that does not follow its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Malformed {
    /// A sentence for people. It names the field, or the column.
    pub what: String,
}

impl Malformed {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// Reads one line of an import. White space around it is allowed, a line end included.
///
/// # Errors
/// If the line is not JSON, has fields that are missing, unknown, there twice or of the wrong type, or numbers that do
/// not fit.
pub fn parse_line(line: &str) -> Result<Operation, Malformed> {
    let fields: Fields = from_json(line)?;
    fields.into_operation().map_err(Malformed::new)
}

/// Reads a vector that stands alone: an array of numbers.
///
/// # Errors
/// If it is anything else, or a number is too large for an `f32`.
pub fn parse_vector(json: &str) -> Result<Vec<f32>, Malformed> {
    from_json::<Components>(json).map(|components| components.0)
}

/// Reads any value of one line of JSON.
///
/// # Errors
/// With a sentence that says what is wrong, and in which column.
pub fn from_json<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Malformed> {
    serde_json::from_str(json).map_err(|error| describe(json, &error))
}

fn describe(json: &str, error: &serde_json::Error) -> Malformed {
    let (line, column) = (error.line(), error.column());
    let message = error.to_string();
    let message = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
    if error.classify() == Category::Data {
        return Malformed::new(message);
    }
    // Python writes these, and JSON does not have them.
    let around = &json.as_bytes()[column.saturating_sub(3).min(json.len())..(column + 8).min(json.len())];
    for word in ["NaN", "Infinity"] {
        if around.windows(word.len()).any(|window| window == word.as_bytes()) {
            return Malformed::new(format!(
                "column {column}: {word} is not a number of JSON; vectors are finite"
            ));
        }
    }
    Malformed::new(format!("malformed JSON, column {column}: {message}"))
}

#[derive(Debug, Default)]
struct Fields {
    id: Option<Key>,
    delete: Option<bool>,
    text: Option<Option<String>>,
    metadata: Option<Metadata>,
    vector: Option<Components>,
    postings: Option<Vec<PostingField>>,
}

/// An element of `postings`: `{"start": 0, "length": 12, "vector": […]}`, where the range is of UTF-8 bytes of the text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a posting: an object with start, length and vector")]
pub struct PostingField {
    start: u32,
    length: u32,
    vector: Components,
}

impl Fields {
    fn into_operation(self) -> Result<Operation, String> {
        let key = self.id.ok_or("there is no id")?;
        if self.delete == Some(true) {
            let more = self.text.is_some() || self.metadata.is_some();
            return match more || self.vector.is_some() || self.postings.is_some() {
                true => Err("a delete has an id and nothing else".to_owned()),
                false => Ok(Operation::Delete(key)),
            };
        }
        let mut document = Document::new(key);
        document.text = self.text.flatten();
        document.metadata = self.metadata.unwrap_or_default();
        match (self.vector, self.postings) {
            (Some(vector), None) => document = document.vector(vector.0),
            (None, Some(postings)) => {
                document.postings = postings.into_iter().map(PostingField::into_posting).collect();
            }
            (Some(_), Some(_)) => return Err("there are both vector and postings".to_owned()),
            (None, None) => return Err("there is neither vector nor postings".to_owned()),
        }
        Ok(Operation::Upsert(document))
    }

    fn read<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "id" => {
                let json: &RawValue = map.next_value()?;
                set_once(&mut self.id, name, parse_key(json.get()).map_err(A::Error::custom)?)
            }
            "op" => {
                let operation: String = map.next_value()?;
                let delete = match &operation[..] {
                    "delete" => true,
                    "upsert" => false,
                    _ => {
                        return Err(A::Error::custom(format!(
                            "the op {operation:?} is neither delete nor upsert"
                        )));
                    }
                };
                set_once(&mut self.delete, name, delete)
            }
            "text" => set_once(&mut self.text, name, map.next_value()?),
            "metadata" => {
                let json: &RawValue = map.next_value()?;
                set_once(&mut self.metadata, name, parse_metadata(json.get()).map_err(A::Error::custom)?)
            }
            "vector" => set_once(&mut self.vector, name, map.next_value()?),
            "postings" => set_once(&mut self.postings, name, map.next_value()?),
            _ => {
                let known = "id, vector, postings, text, metadata and op";
                Err(A::Error::custom(format!("unknown field {name:?}; a line has {known}")))
            }
        }
    }
}

impl PostingField {
    /// The same as the library has it.
    pub fn into_posting(self) -> Posting {
        Posting { start: self.start, length: self.length, vector: self.vector.0 }
    }
}

/// Sets the field of that name.
///
/// # Errors
/// If it is set already: which of two values is meant, nobody can tell.
pub fn set_once<T, E: Error>(field: &mut Option<T>, name: &str, value: T) -> Result<(), E> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format!("the field {name:?} appears twice"))),
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an id and a vector")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            fields.read(&name, &mut map)?;
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(line: &str) -> Document {
        match parse_line(line).unwrap() {
            Operation::Upsert(document) => document,
            Operation::Delete(key) => panic!("{key}"),
        }
    }

    #[test]
    fn the_three_forms_of_a_line_are_read() {
        let short = upsert(r#"{"id": "a", "vector": [1, 2.5], "text": "grüße", "metadata": {"n": 1}}"#);
        assert_eq!(short, Document::new("a").text("grüße").metadata("n", 1).vector([1.0, 2.5]));
        assert_eq!(short.postings[0].length, 7);
        let long =
            upsert(r#"{"postings": [{"start": 1, "length": 2, "vector": [1]}], "text": "abc", "id": 7}"#);
        assert_eq!(long, Document::new(7).text("abc").posting(1, 2, [1.0]));
        let delete = parse_line(r#" {"id": -7, "op": "delete"} "#).unwrap();
        assert_eq!(delete, Operation::Delete(Key::from(-7)));
        assert_eq!(
            upsert(r#"{"id": 1, "op": "upsert", "text": null, "metadata": null, "vector": []}"#).text,
            None
        );
        assert_eq!(upsert(r#"{"i\u0064": "\ud83d\ude00", "vector": [1]}"#).key, Key::from("😀"));
    }

    #[test]
    fn each_mistake_is_named() {
        for (line, expected) in [
            ("{", "malformed JSON"),
            ("", "malformed JSON"),
            ("7", "an object with an id"),
            ("[]", "an object with an id"),
            (r#"{"id": 1, "vector": [1]} x"#, "malformed JSON, column 26"),
            (r#"{"id": 1, "vector": [1, NaN]}"#, "NaN"),
            (r#"{"id": 1, "vector": [-Infinity]}"#, "Infinity"),
            (r#"{"vector": [1]}"#, "there is no id"),
            (r#"{"id": 1}"#, "neither vector nor postings"),
            (r#"{"id": 1, "vector": [1], "postings": []}"#, "both vector and postings"),
            (r#"{"id": 1.5, "vector": [1]}"#, "1.5 is not an integer"),
            (r#"{"id": null, "vector": [1]}"#, "neither a string nor an integer"),
            (r#"{"id": 1, "vector": [1], "extra": 2}"#, "unknown field \"extra\""),
            (r#"{"id": 1, "id": 2, "vector": [1]}"#, "\"id\" appears twice"),
            (r#"{"id": 1, "op": "delete", "vector": [1]}"#, "nothing else"),
            (r#"{"id": 1, "op": "remove"}"#, "\"remove\""),
            (r#"{"id": 1, "vector": [1], "metadata": 3}"#, "not an object"),
            (r#"{"id": 1, "vector": [1], "text": 3}"#, "expected a string"),
            (r#"{"id": 1, "vector": ["1"]}"#, "expected a number"),
            (r#"{"id": 1, "postings": [{"start": 0, "length": 1}]}"#, "vector"),
            (r#"{"id": 1, "postings": [{"start": -1, "length": 1, "vector": [1]}]}"#, "-1"),
            (r#"{"id": 1, "postings": [{"start": 0, "length": 1, "vector": [1], "x": 1}]}"#, "`x`"),
            (r#"{"id": "\ud800", "vector": [1]}"#, "hex escape"),
        ] {
            let problem = parse_line(line).unwrap_err();
            assert!(problem.what.contains(expected), "{line}: {}", problem.what);
        }
    }
}
