//! Metadata: a typed map that keeps what it was given, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use plimsoll_base::StorageError;
use plimsoll_base::codec::{Decoder, Encoder};

use super::limits::{MAX_METADATA_BYTES, MAX_METADATA_DEPTH};

/// One value of a document's metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// An integer above `i64::MAX`.
    Unsigned(u64),
    /// A finite number.
    Float(f64),
    /// A text.
    String(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(Metadata),
}

/// A document's metadata: values by name, in the order of the names.
pub type Metadata = BTreeMap<String, Value>;

macro_rules! from {
    ($($type:ty => $make:expr),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                $make(value)
            }
        }
    )*};
}

from! {
    bool => Value::Bool,
    i32 => |value| Value::Integer(i64::from(value)),
    u32 => |value| Value::Integer(i64::from(value)),
    i64 => Value::Integer,
    u64 => |value| i64::try_from(value).map_or(Value::Unsigned(value), Value::Integer),
    f64 => Value::Float,
    &str => |value: &str| Value::String(value.to_owned()),
    String => Value::String,
    Metadata => Value::Map,
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// The bytes of `metadata` on disk; an empty map has none.
///
/// Each value is a tag byte and its bytes; texts, lists and maps begin with a `u32` count.
pub(crate) fn encode(metadata: &Metadata) -> Vec<u8> {
    let mut encoder = Encoder::new();
    if !metadata.is_empty() {
        put_map(&mut encoder, metadata);
    }
    encoder.into_bytes()
}

fn put_map(encoder: &mut Encoder, map: &Metadata) {
    encoder.u32(map.len() as u32);
    for (name, value) in map {
        encoder.prefixed(name.as_bytes());
        put(encoder, value);
    }
}

fn put(encoder: &mut Encoder, value: &Value) {
    match value {
        Value::Null => encoder.u8(0),
        Value::Bool(false) => encoder.u8(1),
        Value::Bool(true) => encoder.u8(2),
        Value::Integer(value) => encoder.u8(3).i64(*value),
        Value::Unsigned(value) => encoder.u8(4).u64(*value),
        Value::Float(value) => encoder.u8(5).f64(*value),
        Value::String(text) => encoder.u8(6).prefixed(text.as_bytes()),
        Value::List(values) => {
            encoder.u8(7).u32(values.len() as u32);
            values.iter().for_each(|value| put(encoder, value));
            encoder
        }
        Value::Map(map) => {
            encoder.u8(8);
            put_map(encoder, map);
            encoder
        }
    };
}

/// Reads metadata back.
pub(crate) fn decode(bytes: &[u8], file: &Path) -> Result<Metadata, StorageError> {
    let mut decoder = Decoder::new(bytes, file, 0);
    if bytes.is_empty() {
        return Ok(Metadata::new());
    }
    let map = get_map(&mut decoder, 1)?;
    decoder.finish()?;
    Ok(map)
}

fn get_map(decoder: &mut Decoder<'_>, depth: usize) -> Result<Metadata, StorageError> {
    if depth > MAX_METADATA_DEPTH {
        return Err(decoder.corrupted(format!("metadata nests deeper than {MAX_METADATA_DEPTH}")));
    }
    let count = decoder.count(5)?;
    (0..count).map(|_| Ok((decoder.string()?.to_owned(), get(decoder, depth)?))).collect()
}

fn get(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, StorageError> {
    Ok(match decoder.u8()? {
        0 => Value::Null,
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::Integer(decoder.i64()?),
        4 => Value::Unsigned(decoder.u64()?),
        5 => Value::Float(decoder.f64()?),
        6 => Value::String(decoder.string()?.to_owned()),
        7 if depth >= MAX_METADATA_DEPTH => {
            return Err(decoder.corrupted(format!("metadata nests deeper than {MAX_METADATA_DEPTH}")));
        }
        7 => {
            let count = decoder.count(1)?;
            Value::List((0..count).map(|_| get(decoder, depth + 1)).collect::<Result<_, _>>()?)
        }
        8 => Value::Map(get_map(decoder, depth + 1)?),
        tag => return Err(decoder.corrupted(format!("unknown metadata tag {tag}"))),
    })
}

/// Why this metadata may not be stored, if so. `encoded` is its length on disk.
pub(crate) fn problem(metadata: &Metadata, encoded: usize) -> Option<String> {
    if encoded > MAX_METADATA_BYTES {
        return Some(format!("the metadata has {encoded} bytes; at most {MAX_METADATA_BYTES} are allowed"));
    }
    metadata.iter().find_map(|(name, value)| {
        value_problem(value, 1).map(|problem| format!("the metadata field {name:?} {problem}"))
    })
}

fn value_problem(value: &Value, depth: usize) -> Option<String> {
    if depth > MAX_METADATA_DEPTH {
        return Some(format!("nests deeper than {MAX_METADATA_DEPTH}"));
    }
    match value {
        Value::Float(number) if !number.is_finite() => Some(format!("holds {number}, which is not finite")),
        Value::List(values) => values.iter().find_map(|value| value_problem(value, depth + 1)),
        Value::Map(map) => map.values().find_map(|value| value_problem(value, depth + 1)),
        _ => None,
    }
}

/// Whether metadata nests too deep to be encoded by recursion; looked at before anything recurses into it.
pub(crate) fn is_too_deep(metadata: &Metadata) -> bool {
    let mut level: Vec<&Value> = metadata.values().collect();
    for _ in 0..MAX_METADATA_DEPTH {
        level = level
            .into_iter()
            .flat_map(|value| -> Box<dyn Iterator<Item = &Value>> {
                match value {
                    Value::List(values) => Box::new(values.iter()),
                    Value::Map(map) => Box::new(map.values()),
                    _ => Box::new(std::iter::empty()),
                }
            })
            .collect();
        if level.is_empty() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let list = vec![Value::Null, Value::from(true), Value::from(-5), Value::from(u64::MAX)];
        let inner = Metadata::from([("ü".to_owned(), Value::from(-0.0)), (String::new(), Value::from("t"))]);
        Metadata::from([("list".to_owned(), list.into()), ("map".to_owned(), inner.into())])
    }

    #[test]
    fn metadata_survives_encoding_and_every_truncation_is_noticed() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes, Path::new("f")).unwrap(), sample());
        for end in 1..bytes.len() {
            assert!(decode(&bytes[..end], Path::new("f")).is_err());
        }
        assert!(encode(&Metadata::new()).is_empty());
    }

    #[test]
    fn nesting_and_numbers_beyond_the_limits_are_refused() {
        let mut value = Value::Null;
        for _ in 0..MAX_METADATA_DEPTH {
            value = Value::List(vec![value]);
        }
        let deep = Metadata::from([("d".to_owned(), value.clone())]);
        assert!(is_too_deep(&deep));
        let Value::List(mut inner) = value else { unreachable!() };
        let fits = Metadata::from([("d".to_owned(), inner.remove(0))]);
        assert!(!is_too_deep(&fits));
        assert_eq!(decode(&encode(&fits), Path::new("f")).unwrap(), fits);
        let nan = Metadata::from([("x".to_owned(), Value::from(f64::NAN))]);
        assert!(problem(&nan, 1).unwrap().contains("\"x\""));
        assert!(problem(&sample(), MAX_METADATA_BYTES + 1).is_some());
    }
}
