//! Dead letters as documents of the system table.

use std::path::Path;

use super::failure::FailureClass;
use super::step::DeadLetter;
use crate::model::{Document, Key};
use crate::system::{self, bytes_of, from_hex, from_millis, millis, row, text_of, to_hex, unsigned};

impl DeadLetter {
    pub(super) fn document(&self, key: Key) -> Document {
        // The payload is the text, which may be larger than metadata may.
        let (payload, is_hex) = match std::str::from_utf8(&self.payload) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (to_hex(&self.payload), true),
        };
        let mut document = row(key)
            .metadata("position", self.position)
            .metadata("class", self.class.name())
            .metadata("message", self.message.clone())
            .metadata("hex", is_hex)
            .metadata("attempts", u64::from(self.attempts))
            .metadata("failed_at", millis(self.failed_at));
        document.text = Some(payload);
        if let Some(key) = &self.key {
            document = document.metadata("key", system::value_of(&key.encode()));
        }
        match self.retry_at {
            Some(at) => document.metadata("retry_at", millis(at)),
            None => document,
        }
    }

    /// Reads one back; `None` if it is none.
    pub(super) fn decode(document: Document) -> Option<Self> {
        let fields = document.metadata;
        let number = |name: &str| fields.get(name).and_then(unsigned);
        let text = document.text.unwrap_or_default();
        let key = match fields.contains_key("key") {
            true => Some(Key::decode(&bytes_of(&fields, "key")?, Path::new(system::NAME)).ok()?),
            false => None,
        };
        Some(Self {
            position: number("position")?,
            class: FailureClass::from_name(&text_of(&fields, "class")?)?,
            message: text_of(&fields, "message")?,
            payload: match fields.get("hex")? {
                crate::model::Value::Bool(true) => from_hex(&text)?,
                _ => text.into_bytes(),
            },
            key,
            attempts: u32::try_from(number("attempts")?).ok()?,
            failed_at: from_millis(number("failed_at")?)?,
            retry_at: match fields.contains_key("retry_at") {
                true => Some(from_millis(number("retry_at")?)?),
                false => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_letter_survives_storage_with_every_byte_of_its_payload() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567);
        for payload in [&b"{\"path\": \"a\"}"[..], b"", b"\xff\x00\xfe"] {
            let letter = DeadLetter::new(7, FailureClass::RateLimit, "slow down", payload)
                .key(-3)
                .attempts(4)
                .failed_at(at)
                .retry_at(at + Duration::from_secs(1));
            assert_eq!(DeadLetter::decode(letter.document(Key::from("l"))).unwrap(), letter);
        }
        let bare = DeadLetter::new(0, FailureClass::Unknown, "", *b"x").failed_at(at);
        assert_eq!(DeadLetter::decode(bare.document(Key::from("l"))).unwrap(), bare);
        for field in ["position", "class", "message", "hex", "attempts", "failed_at"] {
            let mut document = bare.document(Key::from("l"));
            document.metadata.remove(field);
            assert_eq!(DeadLetter::decode(document), None, "{field}");
        }
    }
}
