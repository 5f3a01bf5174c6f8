//! Document keys, as users know them.

use std::fmt;
use std::path::Path;

use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::{DocumentId, StorageError};

use super::limits::MAX_KEY_BYTES;

/// What a user calls a document by. The type is part of the key: `7` and `"7"` are two documents.
///
/// ```
/// use plimsoll_engine::Key;
/// assert_ne!(Key::from(7), Key::from("7"));
/// assert_eq!(Key::from(7u64), Key::from(7i32));
/// assert_eq!(Key::from("guide/ch01").to_string(), "guide/ch01");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Key {
    /// An integer from −2⁶³ to 2⁶⁴ − 1.
    Integer(i128),
    /// A UUID, as its sixteen bytes.
    Uuid([u8; 16]),
    /// A ULID, as its sixteen bytes.
    Ulid([u8; 16]),
    /// Any text of 1 to 1,024 bytes.
    String(String),
}

const INTEGER: u8 = 1;
const UUID: u8 = 2;
const ULID: u8 = 3;
const STRING: u8 = 4;

impl Key {
    /// The 128-bit identity of this key: the first half of the BLAKE3 hash of its encoding, which begins with
    /// the type's tag. Fixed on disk for ever.
    pub fn id(&self) -> DocumentId {
        Self::id_of_encoded(&self.encode())
    }

    /// The identity of an encoded key.
    pub(crate) fn id_of_encoded(encoded: &[u8]) -> DocumentId {
        let hash = blake3::hash(encoded);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        DocumentId(id)
    }

    /// Why this key may not be stored, if so.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Integer(value) if !(i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(value) => {
                Some(format!("the key {value} is not between -2^63 and 2^64 - 1"))
            }
            Self::String(text) if text.is_empty() => Some("the key is empty".to_owned()),
            Self::String(text) if text.len() > MAX_KEY_BYTES => {
                Some(format!("the key has {} bytes; at most {MAX_KEY_BYTES} are allowed", text.len()))
            }
            _ => None,
        }
    }

    /// The key's bytes on disk: a tag, then sixteen bytes or the text.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        self.put(&mut encoder);
        encoder.into_bytes()
    }

    /// Appends what [`Key::encode`] returns.
    pub(crate) fn put(&self, encoder: &mut Encoder) {
        match self {
            Self::Integer(value) => encoder.u8(INTEGER).raw(&value.to_le_bytes()),
            Self::Uuid(bytes) => encoder.u8(UUID).raw(bytes),
            Self::Ulid(bytes) => encoder.u8(ULID).raw(bytes),
            Self::String(text) => encoder.u8(STRING).raw(text.as_bytes()),
        };
    }

    /// Reads a key back.
    pub(crate) fn decode(bytes: &[u8], file: &Path) -> Result<Self, StorageError> {
        let mut decoder = Decoder::new(bytes, file, 0);
        let key = match decoder.u8()? {
            INTEGER => Self::Integer(i128::from_le_bytes(decoder.array()?)),
            UUID => Self::Uuid(decoder.array()?),
            ULID => Self::Ulid(decoder.array()?),
            STRING => {
                let text = decoder.raw(decoder.remaining())?;
                let text = std::str::from_utf8(text).map_err(|error| decoder.corrupted(error.to_string()))?;
                Self::String(text.to_owned())
            }
            tag => return Err(decoder.corrupted(format!("unknown key tag {tag}"))),
        };
        decoder.finish()?;
        Ok(key)
    }
}

/// As text; the alternate form `{:#}` puts string keys in quotes, so that `7` and `"7"` look different.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) if f.alternate() => write!(f, "{text:?}"),
            Self::Integer(value) => value.fmt(f),
            Self::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).fmt(f),
            Self::Ulid(bytes) => write!(f, "{}", crockford(*bytes)),
            Self::String(text) => text.fmt(f),
        }
    }
}

/// A ULID's text: 26 digits of Crockford's base 32.
fn crockford(bytes: [u8; 16]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = u128::from_be_bytes(bytes);
    (0..26).rev().map(|digit| char::from(DIGITS[(bits >> (5 * digit)) as usize & 31])).collect()
}

macro_rules! from_integer {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Key {
            fn from(value: $integer) -> Self {
                Self::Integer(i128::from(value))
            }
        }
    )*};
}

from_integer!(i32, u32, i64, u64);

impl From<usize> for Key {
    fn from(value: usize) -> Self {
        Self::Integer(value as i128)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<&Self> for Key {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_key_is_fixed_for_ever() {
        // Known answers: changing the hash or the encoding would orphan every stored document.
        assert_eq!(Key::from(7).id().to_string(), "040adceda8b5319f3508bb0779a93e06");
        assert_eq!(Key::from("7").id().to_string(), "c31712036f2fedd3621f24c1518088d7");
    }

    #[test]
    fn keys_survive_encoding() {
        let keys = [
            Key::from(0),
            Key::from(-1),
            Key::from(u64::MAX),
            Key::Uuid([9; 16]),
            Key::Ulid([255; 16]),
            Key::from("é/ß"),
        ];
        for key in keys {
            let bytes = key.encode();
            assert_eq!(Key::decode(&bytes, Path::new("f")).unwrap(), key);
            assert_eq!(key.problem(), None);
            if !matches!(key, Key::String(_)) {
                assert!(Key::decode(&bytes[..16], Path::new("f")).is_err());
            }
        }
        assert_eq!(Key::Ulid([255; 16]).to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
    }

    #[test]
    fn keys_beyond_the_limits_are_refused() {
        assert!(Key::from("").problem().is_some());
        assert!(Key::from("x".repeat(1025)).problem().is_some());
        assert!(Key::from("x".repeat(1024)).problem().is_none());
        assert!(Key::Integer(1 << 64).problem().is_some());
    }
}
