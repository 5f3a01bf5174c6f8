//! What tells one input from another: a hash of its beginning.

use std::fmt;
use std::io::{self, BufRead, ErrorKind};

use memchr::memchr;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::line::HEAD_BYTES;

/// The BLAKE3 hash of the first line of an input that is not blank, without white space at its end; of a line that does
/// not end within the first [`HEAD_BYTES`] of the input, only what lies there.
///
/// It does not depend on the file's name. A file that is appended to keeps it, and another file under the same name has
/// another one, unless both begin with the same line. What lies behind the first line is not part of it: that it is
/// still the same up to the place where reading goes on, is checked when it goes on
/// ([`Inputs::resume`](super::Inputs::resume)).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The hash of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the beginning of an input, and keeps what it took of it in `taken`. `None` if there is no line that is not
    /// blank yet.
    ///
    /// The line may lack its end: whoever writes it may not have finished, or never will.
    pub(super) fn read<R: BufRead>(mut reader: R, taken: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let mut start = 0;
        loop {
            let buffer = match reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let found = memchr(b'\n', buffer);
            let room = HEAD_BYTES.saturating_sub(taken.len());
            let part = found.map_or(buffer.len(), |at| at + 1).min(room);
            taken.extend_from_slice(&buffer[..part]);
            let (is_end, is_full) = (buffer.is_empty() || found.is_some_and(|at| at < room), part == room);
            reader.consume(part);
            if !is_end && !is_full {
                continue;
            }
            let line = taken[start..].trim_ascii_end();
            if !line.trim_ascii_start().is_empty() {
                return Ok(Some(Self::of(line)));
            }
            // A beginning that is blank as far as it is looked at tells nothing.
            if part == 0 || is_full {
                return Ok(None);
            }
            start = taken.len();
        }
    }

    /// The hash of what came before, and of a file that follows it.
    pub(super) fn followed_by(before: Option<Self>, file: Option<Self>, length: Option<u64>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [before, file] {
            hasher.update(&[u8::from(part.is_some())]);
            hasher.update(&part.map_or([0; 32], |part| part.0));
        }
        hasher.update(&[u8::from(length.is_some())]);
        hasher.update(&length.unwrap_or(0).to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(&digits).map(|hash| Self(*hash.as_bytes())).map_err(D::Error::custom)
    }
}
