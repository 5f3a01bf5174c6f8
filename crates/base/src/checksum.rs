//! CRC-32 (IEEE 802.3, as in zlib), the one checksum of every format.

/// The checksum of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A checksum over bytes that arrive in pieces.
#[derive(Debug, Clone, Default)]
pub struct Crc32(crc32fast::Hasher);

impl Crc32 {
    /// A checksum of no bytes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the bytes that `other` has seen, after those seen here.
    pub fn combine(&mut self, other: &Self) {
        self.0.combine(&other.0);
    }

    /// The checksum of everything added so far.
    pub fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}
