//! Metadata from JSON, with the type of every value kept.

use std::fmt;

use plimsoll::{Metadata, Value};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Reads the JSON text of a `metadata` field: an object, or `null` for none.
///
/// # Errors
/// A sentence, if it is anything else, has a field twice, or has an integer of more than 64 bits.
pub fn parse_metadata(json: &str) -> Result<Metadata, String> {
    // A reader of JSON numbers hands over integers beyond 64 bits as floats, and digits would be lost.
    if let Some(integer) = oversized_integer(json) {
        return Err(format!("the metadata holds {integer}, which is not between -2^63 and 2^64 - 1"));
    }
    match serde_json::from_str(json) {
        Ok(ValueField(Value::Map(map))) => Ok(map),
        Ok(ValueField(Value::Null)) => Ok(Metadata::new()),
        Ok(_) => Err("the metadata is not an object".to_owned()),
        Err(error) => Err(format!("in the metadata, {error}")),
    }
}

/// The first integer of a valid JSON text that fits neither `i64` nor `u64`.
fn oversized_integer(json: &str) -> Option<&str> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let end = at + bytes[at..].iter().take_while(|byte| in_number(byte)).count();
                let number = &json[at..end];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(number);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

struct ValueField(Value);

impl<'de> Deserialize<'de> for ValueField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(ValueField)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(ValueField(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Metadata::new();
        while let Some((name, ValueField(value))) = fields.next_entry::<String, _>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format!("the field {name:?} appears twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_kept() {
        let metadata = parse_metadata(
            r#"{"i": -3, "u": 18446744073709551615, "f": 3.0, "s": "x", "l": [null, true], "m": {}}"#,
        )
        .unwrap();
        assert_eq!(metadata["i"], Value::Integer(-3));
        assert_eq!(metadata["u"], Value::Unsigned(u64::MAX));
        assert_eq!(metadata["f"], Value::Float(3.0));
        assert_eq!(metadata["l"], Value::List(vec![Value::Null, Value::Bool(true)]));
        assert_eq!(metadata["m"], Value::Map(Metadata::new()));
        assert_eq!(parse_metadata("null"), Ok(Metadata::new()));
    }

    #[test]
    fn integers_that_would_lose_digits_are_refused_and_digits_in_strings_are_not() {
        for wrong in ["18446744073709551616", "-9223372036854775809"] {
            let error = parse_metadata(&format!("{{\"a\": [{wrong}]}}")).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
        let fine = r#"{"a": "18446744073709551616 \" 18446744073709551616", "18446744073709551616": 1e30}"#;
        assert_eq!(parse_metadata(fine).unwrap().len(), 2);
        assert!(parse_metadata(r#"{"a": -9223372036854775808, "b": 0}"#).is_ok());
    }

    #[test]
    fn only_objects_with_each_field_once() {
        assert!(parse_metadata("[1]").unwrap_err().contains("not an object"));
        assert!(parse_metadata(r#"{"a": 1, "a": 2}"#).unwrap_err().contains("\"a\" appears twice"));
        assert!(parse_metadata(r#"{"m": {"a": 1, "a": 2}}"#).is_err());
        assert!(parse_metadata(&format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200))).is_err());
    }
}
