//! Documents as the JSON lines that `export` and `get` print and `import` reads.

use plimsoll::{Document, Metadata, Posting, Value};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, SerializeStruct as _, Serializer};

use crate::KeyJson;

/// A document that is printed as a line of JSON: in the short form when its one posting covers the whole text.
pub struct DocumentLine<'a>(pub &'a Document);

impl Serialize for DocumentLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let document = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &KeyJson(&document.key))?;
        if let Some(text) = &document.text {
            map.serialize_entry("text", text)?;
        }
        if !document.metadata.is_empty() {
            map.serialize_entry("metadata", &MetadataJson(&document.metadata))?;
        }
        match &document.postings[..] {
            [posting] if is_whole(document, posting) => {
                map.serialize_entry("vector", &VectorJson(&posting.vector))?;
            }
            postings => map.serialize_entry("postings", &PostingsJson(postings))?,
        }
        map.end()
    }
}

/// Whether `posting` is what the short form stands for.
fn is_whole(document: &Document, posting: &Posting) -> bool {
    let length = document.text.as_ref().map_or(0, String::len);
    posting.start == 0 && posting.length as usize == length
}

struct PostingsJson<'a>(&'a [Posting]);

impl Serialize for PostingsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(PostingJson))
    }
}

struct PostingJson<'a>(&'a Posting);

impl Serialize for PostingJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut posting = serializer.serialize_struct("Posting", 3)?;
        posting.serialize_field("start", &self.0.start)?;
        posting.serialize_field("length", &self.0.length)?;
        posting.serialize_field("vector", &VectorJson(&self.0.vector))?;
        posting.end()
    }
}

/// A vector whose numbers read back bit for bit.
pub struct VectorJson<'a>(pub &'a [f32]);

impl Serialize for VectorJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for &component in self.0 {
            if survives_short(component) {
                list.serialize_element(&component)?;
            } else {
                list.serialize_element(&f64::from(component))?;
            }
        }
        list.end()
    }
}

/// Whether the shortest decimal of this `f32`, read as `f64` and rounded to `f32` as importers (ours, and
/// anybody's with JSON numbers) do, gives the same bits. Rounding twice can go wrong: 7.038531e-26 does.
fn survives_short(component: f32) -> bool {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(component);
    text.parse::<f64>().is_ok_and(|number| (number as f32).to_bits() == component.to_bits())
}

/// Metadata that is printed.
pub struct MetadataJson<'a>(pub &'a Metadata);

impl Serialize for MetadataJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, ValueJson(value))))
    }
}

struct ValueJson<'a>(&'a Value);

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Integer(value) => serializer.serialize_i64(*value),
            Value::Unsigned(value) => serializer.serialize_u64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::String(text) => serializer.serialize_str(text),
            Value::List(values) => serializer.collect_seq(values.iter().map(ValueJson)),
            Value::Map(map) => MetadataJson(map).serialize(serializer),
            other => Err(serde::ser::Error::custom(format!("{other:?} has no JSON form yet"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Operation, parse_line};

    fn print(document: &Document) -> String {
        serde_json::to_string(&DocumentLine(document)).unwrap()
    }

    fn read(line: &str) -> Document {
        match parse_line(line).unwrap() {
            Operation::Upsert(document) => document,
            Operation::Delete(_) => panic!("{line}"),
        }
    }

    #[test]
    fn the_short_form_is_one_posting_over_the_whole_text() {
        let whole = Document::new("a").text("grüße").metadata("n", 1.0).vector([1.0, -0.0]);
        assert_eq!(print(&whole), r#"{"id":"a","text":"grüße","metadata":{"n":1.0},"vector":[1.0,-0.0]}"#);
        let part = Document::new(7).text("text").posting(0, 3, [1.0]);
        assert_eq!(
            print(&part),
            r#"{"id":7,"text":"text","postings":[{"start":0,"length":3,"vector":[1.0]}]}"#
        );
        let bare = Document::new(7).vector([0.5]);
        assert_eq!(print(&bare), r#"{"id":7,"vector":[0.5]}"#);
        let range_without_text = Document::new(7).posting(3, 4, [0.5]);
        for document in [whole, part, bare, range_without_text] {
            assert_eq!(read(&print(&document)), document);
        }
    }

    #[test]
    fn a_number_that_rounding_twice_would_change_is_printed_longer() {
        let awkward: f32 = "7.038531e-26".parse().unwrap();
        assert!(!survives_short(awkward));
        let line = print(&Document::new(1).vector([awkward, 0.1]));
        assert!(line.contains(",0.1]"), "{line}");
        assert_eq!(read(&line).postings[0].vector[0].to_bits(), awkward.to_bits());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e300..1e300f64).prop_map(Value::from),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Value::from),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_document_reads_back_bit_for_bit(
            id in prop_oneof![any::<i64>().prop_map(plimsoll::Key::from), any::<String>().prop_map(plimsoll::Key::from)],
            text in any::<Option<String>>(),
            bits in prop::collection::vec(any::<u32>(), 1..20),
            metadata in prop::collection::btree_map(any::<String>(), value(), 0..4),
            whole in any::<bool>(),
        ) {
            let vector: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|x| x.is_finite()).collect();
            let mut document = Document::new(id);
            document.metadata = metadata;
            if let Some(text) = text {
                document = document.text(text);
            }
            document = if whole {
                document.vector(vector)
            } else {
                document.posting(0, 0, vector.clone()).posting(0, 0, vector)
            };
            let copy = read(&print(&document));
            prop_assert_eq!(&copy, &document);
            for (a, b) in copy.postings.iter().zip(&document.postings) {
                let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&a.vector), bits(&b.vector));
            }
        }
    }
}
