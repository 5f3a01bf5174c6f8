//! The bytes of one file: a written part, and zeros up to its length.

use std::hash::{Hash, Hasher};
use std::io;

/// What a file holds. Preallocated space is not stored: bytes from `bytes.len()` to `len` are zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    len: u64,
}

impl Hash for Content {
    /// The same for the same bytes, however many of the zeros at the end are stored.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let written = self.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        hasher.write_u64(self.len);
        self.bytes[..written].hash(hasher);
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), len: bytes.len() as u64 }
    }
}

impl Content {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes `bytes` at `offset`; a gap before it reads as zeros.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = offset as usize;
        let end = start + bytes.len();
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
        self.extend(end as u64);
    }

    /// Makes the file at least `len` bytes long.
    pub(crate) fn extend(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Makes the file exactly `len` bytes long.
    pub(crate) fn resize(&mut self, len: u64) {
        if len < self.bytes.len() as u64 {
            self.bytes.truncate(len as usize);
        }
        self.len = len;
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before the buffer is full.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = (offset as usize).min(self.bytes.len());
        let stored = (self.bytes.len() - start).min(buffer.len());
        buffer[..stored].copy_from_slice(&self.bytes[start..start + stored]);
        buffer[stored..].fill(0);
        Ok(())
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(self.len as usize, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_preallocated_space_read_as_zeros() {
        let mut content = Content::from(&b"ab"[..]);
        content.write(4, b"c");
        content.extend(8);
        assert_eq!(content.to_vec(), b"ab\0\0c\0\0\0");
        let mut buffer = [9; 4];
        content.read(3, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0c\0\0");
        content.read(6, &mut buffer[..2]).unwrap();
        assert!(content.read(6, &mut buffer[..3]).is_err());
        content.read(100, &mut []).unwrap();
        content.resize(1);
        content.extend(3);
        assert_eq!(content.to_vec(), b"a\0\0");
    }
}
