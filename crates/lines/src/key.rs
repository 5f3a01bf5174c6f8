//! Document keys as JSON: integers and strings as they are, UUIDs and ULIDs as objects that name their kind.

use plimsoll::Key;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value as Json;

/// A key that is printed.
pub struct KeyJson<'a>(pub &'a Key);

impl Serialize for KeyJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = |serializer: S, kind: &str| {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(kind, &self.0.to_string())?;
            map.end()
        };
        match self.0 {
            Key::Integer(value) => serializer.serialize_i128(*value),
            Key::Uuid(_) => named(serializer, "uuid"),
            Key::Ulid(_) => named(serializer, "ulid"),
            Key::String(text) => serializer.serialize_str(text),
            other => serializer.serialize_str(&other.to_string()),
        }
    }
}

/// Reads the key that a line's `id` field holds, from its JSON text: a string, an integer, `{"uuid": "…"}` or
/// `{"ulid": "…"}`.
///
/// # Errors
/// A sentence, if it is none of these.
pub fn parse_key(json: &str) -> Result<Key, String> {
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).map(Key::String).map_err(|error| error.to_string()),
        Some(b'-' | b'0'..=b'9') => parse_integer(json).map(Key::Integer),
        Some(b'{') => parse_object(json),
        _ => Err(format!("the id {json} is neither a string nor an integer")),
    }
}

fn parse_integer(json: &str) -> Result<i128, String> {
    let in_range = |value: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(value);
    match json.parse::<i128>() {
        Ok(value) if in_range(&value) => Ok(value),
        _ if json.contains(['.', 'e', 'E']) => Err(format!("the id {json} is not an integer")),
        _ => Err(format!("the id {json} is not between -2^63 and 2^64 - 1")),
    }
}

fn parse_object(json: &str) -> Result<Key, String> {
    let wrong = || format!(r#"the id {json} is not {{"uuid": "..."}} or {{"ulid": "..."}}"#);
    let Ok(Json::Object(map)) = serde_json::from_str(json) else { return Err(wrong()) };
    let mut fields = map.iter();
    match (fields.next(), fields.next()) {
        (Some((kind, Json::String(text))), None) if kind == "uuid" => match uuid::Uuid::parse_str(text) {
            Ok(uuid) => Ok(Key::Uuid(uuid.into_bytes())),
            Err(error) => Err(format!("{text:?} is not a UUID: {error}")),
        },
        (Some((kind, Json::String(text))), None) if kind == "ulid" => match parse_ulid(text) {
            Some(ulid) => Ok(Key::Ulid(ulid)),
            None => Err(format!("{text:?} is not a ULID")),
        },
        _ => Err(wrong()),
    }
}

/// 26 digits of Crockford's base 32, the first at most 7; small letters too, and I, L, O as he reads them.
fn parse_ulid(text: &str) -> Option<[u8; 16]> {
    let mut bits = 0u128;
    for (place, character) in text.bytes().enumerate() {
        let digit = match character.to_ascii_uppercase() {
            digit @ b'0'..=b'9' => digit - b'0',
            b'O' => 0,
            b'I' | b'L' => 1,
            letter @ b'A'..=b'H' => letter - b'A' + 10,
            letter @ b'J'..=b'K' => letter - b'J' + 18,
            letter @ b'M'..=b'N' => letter - b'M' + 20,
            letter @ b'P'..=b'T' => letter - b'P' + 22,
            letter @ b'V'..=b'Z' => letter - b'V' + 27,
            _ => return None,
        };
        if place == 0 && digit > 7 {
            return None;
        }
        bits = bits << 5 | u128::from(digit);
    }
    (text.len() == 26).then(|| bits.to_be_bytes())
}

/// Reads an id from the command line: a JSON scalar that can be a key, and anything else as a string.
pub fn parse_argument(argument: &str) -> Key {
    let is_json = serde_json::from_str::<Json>(argument).is_ok();
    match parse_key(argument) {
        Ok(key) if is_json => key,
        _ => Key::String(argument.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_as_what_they_were() {
        let keys = [
            Key::from(7),
            Key::from("7"),
            Key::from(i64::MIN),
            Key::from(u64::MAX),
            Key::from("a \"quoted\" ü \u{1}"),
            Key::Uuid(*b"0123456789abcdef"),
            Key::Ulid(*b"0123456789abcdef"),
            Key::Ulid([255; 16]),
        ];
        for key in keys {
            let json = serde_json::to_string(&KeyJson(&key)).unwrap();
            assert_eq!(parse_key(&json).unwrap(), key, "{json}");
            assert_eq!(parse_argument(&json), key, "{json}");
        }
        assert_eq!(serde_json::to_string(&KeyJson(&Key::from(u64::MAX))).unwrap(), "18446744073709551615");
    }

    #[test]
    fn what_is_no_key_is_refused_in_a_line() {
        for wrong in
            ["1.0", "1e3", "18446744073709551616", "-9223372036854775809", "true", "null", "[1]", "{}"]
        {
            assert!(parse_key(wrong).is_err(), "{wrong}");
        }
        assert!(parse_key(r#"{"uuid": "no"}"#).unwrap_err().contains("UUID"));
        assert!(parse_key(r#"{"ulid": "80000000000000000000000000"}"#).unwrap_err().contains("ULID"));
        assert!(parse_key(r#"{"ulid": "0000000000000000000000000U"}"#).is_err());
        assert!(parse_key(r#"{"uuid": "x", "ulid": "y"}"#).is_err());
    }

    #[test]
    fn arguments_are_json_scalars_or_else_strings() {
        assert_eq!(parse_argument("7"), Key::from(7));
        assert_eq!(parse_argument("-7"), Key::from(-7));
        assert_eq!(parse_argument("\"7\""), Key::from("7"));
        for text in ["abc", "007", "7.5", "true", "null", "", "-", "\"open", "{x}", "18446744073709551616"] {
            assert_eq!(parse_argument(text), Key::from(text));
        }
    }
}
