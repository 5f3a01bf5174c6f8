//! The system table: what the engine has to remember beside the data (rule R14).
//!
//! It is a collection that no user sees. Its documents are written in records of the log, carried to files by flushes,
//! and named by the manifest like any others, so that they are as durable as the data that they are about.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plimsoll_base::{CollectionId, Lsn, Metric, StorageError};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::manifest::CollectionEntry;
use crate::model::{Document, Key, Metadata, Value};
use crate::options::CollectionConfig;
use crate::state::{CollectionState, State};

/// The table's id. Collections that users make have greater ones.
pub(crate) const TABLE: CollectionId = CollectionId(0);
/// What it is called where files are described.
pub(crate) const NAME: &str = "plimsoll.system";

/// Whether a collection is the system table.
pub(crate) fn is_system(id: CollectionId) -> bool {
    id == TABLE
}

/// An empty document of the table: it has a vector only because every document has one.
pub(crate) fn row(key: Key) -> Document {
    Document::new(key).vector([0.0])
}

/// The error about a document of the table that is none of those that the engine writes.
pub(crate) fn malformed(what: &str) -> Error {
    let what = format!("{what} has not the fields that it should have");
    StorageError::corrupted(Path::new(NAME), 0, what).into()
}

/// The key of a pair whose own key may be longer than those of documents: what tells it apart is its identity.
pub(crate) fn pair_key(prefix: &str, key: &str) -> Key {
    let id = Key::String(key.to_owned()).id();
    Key::from(format!("{prefix}{}", to_hex(&id.0)))
}

/// A pair of a key and a value as a document.
pub(crate) fn pair(document: Key, key: &str, value: &[u8]) -> Document {
    row(document).metadata("key", key).metadata("value", value_of(value))
}

/// The key and the value of a pair.
pub(crate) fn pair_of(document: &Document) -> Result<(String, Vec<u8>)> {
    let fields = &document.metadata;
    let pair = text_of(fields, "key").zip(bytes_of(fields, "value"));
    pair.ok_or_else(|| malformed("a pair of key and value"))
}

/// The value of the pair with this key.
pub(crate) fn value_of_pair(document: &Document, key: &str) -> Result<Vec<u8>> {
    let (stored, value) = pair_of(document)?;
    if stored == key {
        return Ok(value);
    }
    Err(Error::IdCollision { stored: Key::String(stored), given: Key::String(key.to_owned()) })
}

/// The number in a value, if it is one that is not negative.
pub(crate) fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(value) => u64::try_from(*value).ok(),
        Value::Unsigned(value) => Some(*value),
        _ => None,
    }
}

/// The text of that name.
pub(crate) fn text_of(fields: &Metadata, name: &str) -> Option<String> {
    match fields.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The milliseconds since 1970.
pub(crate) fn millis(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The time of so many milliseconds since 1970.
pub(crate) fn from_millis(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// A time as it is kept: to the millisecond.
pub(crate) fn kept(at: SystemTime) -> SystemTime {
    from_millis(millis(at)).unwrap_or(at)
}

/// What marks a text that is bytes in hexadecimal digits: metadata has no bytes.
const HEX: &str = "hex";

/// Bytes as a value: the text that they are, or else their digits.
pub(crate) fn value_of(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => Value::Map(Metadata::from([(HEX.to_owned(), to_hex(bytes).into())])),
    }
}

/// The bytes of that name, as [`value_of`] made them.
pub(crate) fn bytes_of(fields: &Metadata, name: &str) -> Option<Vec<u8>> {
    match fields.get(name)? {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Map(map) => from_hex(&text_of(map, HEX)?),
        _ => None,
    }
}

/// Two digits for each byte.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// What [`to_hex`] was given.
pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|nibble| nibble as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

impl CollectionEntry {
    /// The system table, which comes with a database.
    pub(crate) fn system() -> Self {
        Self::new(TABLE, NAME, CollectionConfig::new(1, Metric::L2), Lsn::ZERO)
    }
}

impl State {
    /// The collections that users made.
    pub(crate) fn users(&self) -> impl Iterator<Item = &Arc<CollectionState>> {
        self.collections.values().filter(|collection| !collection.is_system())
    }
}

impl CollectionState {
    /// Whether it is the system table.
    pub(crate) fn is_system(&self) -> bool {
        is_system(self.id)
    }
}

impl Core {
    /// The system table; a database from before there was one gets it now.
    pub(crate) fn system_table(&self) -> Result<Arc<CollectionState>> {
        let found = || self.published.state().collections.get(&TABLE).cloned();
        if let Some(table) = found() {
            return Ok(table);
        }
        self.create_system_table()?;
        found().ok_or(Error::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_as_text_or_digits() {
        for bytes in [&b""[..], b"text", "gr\u{fc}\u{df}e".as_bytes(), b"\xff\x00\x10", &[0, 255, 128]] {
            let fields = Metadata::from([("b".to_owned(), value_of(bytes))]);
            assert_eq!(bytes_of(&fields, "b").as_deref(), Some(bytes));
        }
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0g"), None);
        assert_eq!(bytes_of(&Metadata::from([("b".to_owned(), Value::from(3))]), "b"), None);
    }
}
