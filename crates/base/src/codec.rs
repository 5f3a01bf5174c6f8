//! The little-endian codec: an encoder that appends to a vector, and a decoder that never reads past its
//! bytes and turns every shortage into [`StorageError::Corrupted`] with the file and the offset.

use std::path::Path;

use crate::{Result, StorageError};

/// Appends little-endian values to a byte vector.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

macro_rules! put {
    ($($name:ident: $type:ty),*) => {$(
        #[doc = concat!("Appends a `", stringify!($type), "`.")]
        pub fn $name(&mut self, value: $type) -> &mut Self {
            self.bytes.extend_from_slice(&value.to_le_bytes());
            self
        }
    )*};
}

impl Encoder {
    /// An empty encoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty encoder with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Removes what was appended, keeping the memory.
    pub fn clear(&mut self) -> &mut Self {
        self.bytes.clear();
        self
    }

    put!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64, f32: f32, f64: f64);

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a `u32` length, then the bytes. Lengths are bounded far below `u32::MAX` by validation.
    pub fn prefixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    /// Pads with zeros up to a multiple of `alignment`.
    pub fn align(&mut self, alignment: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self
    }

    /// How many bytes have been appended.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been appended.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads little-endian values from untrusted bytes.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    position: usize,
    file: &'a Path,
    base: u64,
}

macro_rules! get {
    ($($name:ident: $type:ty),*) => {$(
        #[doc = concat!("Reads a `", stringify!($type), "`.")]
        pub fn $name(&mut self) -> Result<$type> {
            Ok(<$type>::from_le_bytes(self.array()?))
        }
    )*};
}

impl<'a> Decoder<'a> {
    /// Decodes `bytes`, which stand at byte `base` of `file`.
    pub fn new(bytes: &'a [u8], file: &'a Path, base: u64) -> Self {
        Self { bytes, position: 0, file, base }
    }

    get!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64, f32: f32, f64: f64);

    /// Reads `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// Reads `length` bytes.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        if length > rest.len() {
            return Err(self.corrupted(format!("{length} bytes expected, {} left", rest.len())));
        }
        self.position += length;
        Ok(&rest[..length])
    }

    /// Reads a `u32` length, then that many bytes.
    pub fn prefixed(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.raw(length)
    }

    /// Reads a `u32` length, then that many bytes as UTF-8.
    pub fn string(&mut self) -> Result<&'a str> {
        let at = self.clone();
        std::str::from_utf8(self.prefixed()?).map_err(|error| at.corrupted(error.to_string()))
    }

    /// Reads a `u32` count of items that take at least `least` bytes each, so that a hostile count can not
    /// make anyone allocate more than the file could hold.
    pub fn count(&mut self, least: usize) -> Result<usize> {
        let at = self.clone();
        let count = self.u32()? as usize;
        if count.saturating_mul(least.max(1)) > self.remaining() {
            return Err(
                at.corrupted(format!("a count of {count} does not fit the {} bytes left", self.remaining()))
            );
        }
        Ok(count)
    }

    /// Skips padding up to a multiple of `alignment` from the start of these bytes.
    pub fn align(&mut self, alignment: usize) -> Result<()> {
        let padding = self.position.next_multiple_of(alignment) - self.position;
        self.raw(padding).map(|_| ())
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Where in the file the next byte is.
    pub fn offset(&self) -> u64 {
        self.base + self.position as u64
    }

    /// Where in these bytes the next byte is.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Damage at the next byte.
    pub fn corrupted(&self, what: impl Into<String>) -> StorageError {
        StorageError::corrupted(self.file, self.offset(), what)
    }

    /// Requires that nothing is left.
    pub fn finish(&self) -> Result<()> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.corrupted(format!("{left} unexpected bytes at the end"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_is_read_past_the_end() {
        let mut encoder = Encoder::new();
        encoder.u8(1).u16(2).u32(3).u64(4).i64(-5).f32(6.5).f64(-7.25).prefixed("eight".as_bytes()).align(8);
        let bytes = encoder.into_bytes();
        let decode = |bytes: &[u8]| -> Result<()> {
            let mut decoder = Decoder::new(bytes, Path::new("f"), 100);
            assert_eq!(decoder.u8()?, 1);
            assert_eq!(decoder.u16()?, 2);
            assert_eq!(decoder.u32()?, 3);
            assert_eq!(decoder.u64()?, 4);
            assert_eq!(decoder.i64()?, -5);
            assert_eq!(decoder.f32()?, 6.5);
            assert_eq!(decoder.f64()?, -7.25);
            assert_eq!(decoder.string()?, "eight");
            decoder.align(8)?;
            decoder.finish()
        };
        decode(&bytes).unwrap();
        for end in 0..bytes.len() {
            let error = decode(&bytes[..end]).unwrap_err();
            assert!(matches!(error, StorageError::Corrupted { offset, .. } if offset >= 100), "{error}");
        }
    }

    #[test]
    fn a_count_larger_than_the_file_is_damage() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(Decoder::new(&bytes, Path::new("f"), 0).count(1).is_err());
        assert!(Decoder::new(&bytes, Path::new("f"), 0).count(0).is_err());
    }
}
