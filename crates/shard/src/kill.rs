//! Kill files: the ordinals of documents that a flush or a compaction found replaced or deleted (rule R2).
//!
//! **Owns** the layout below. **Must not know** why a document was killed, or which kills are still needed.
//! **On a crash**: a sealed file, see [`crate::container`].
//!
//! # Layout, version 1
//! A container with these sections of owner 0:
//! ```text
//! kind  name   length  content
//!    1  META       44  below
//!  301  KILLS          the set, as a 64-bit Roaring bitmap in its portable serialisation
//!                      (https://github.com/RoaringBitmap/RoaringFormatSpec, "extension for 64-bit")
//!
//! META
//! offset size field
//!      0    4 collection
//!      4    4 reserved, zero
//!      8    8 number of ordinals
//!     16    8 least ordinal    (0 if there are none)
//!     24    8 greatest ordinal (0 if there are none)
//!     32    8 reserved, zero
//!     40    4 CRC-32 of bytes 0 to 39
//! ```

use std::path::Path;
use std::sync::OnceLock;

use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::storage::Storage;
use plimsoll_base::{CollectionId, DocumentOrdinal, FileNumber, Result};
use roaring::RoaringTreemap;

use crate::container::{
    DatabaseId, PendingFile, SealedFile, SealedWriter, Section, SectionKind, invalid, seal_meta,
};
use crate::names::SealedKind;
use crate::view::SealedView;

/// The newest version of the format.
pub const VERSION: u16 = 2;

/// The set of ordinals.
pub const KILLS: SectionKind = SectionKind(301);

/// The format's sections and their names.
pub(crate) const SECTIONS: &[(SectionKind, &str)] = &[(KILLS, "KILLS")];

/// What a kill file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillHeader {
    /// Whose documents these are.
    pub collection: CollectionId,
    /// The number of ordinals.
    pub count: u64,
    /// The least and the greatest ordinal; `None` if there are none.
    pub ordinals: Option<(DocumentOrdinal, DocumentOrdinal)>,
}

impl KillHeader {
    fn of(collection: CollectionId, kills: &RoaringTreemap) -> Self {
        let ordinals = kills.min().map(DocumentOrdinal).zip(kills.max().map(DocumentOrdinal));
        Self { collection, count: kills.len(), ordinals }
    }

    fn encode(&self) -> Vec<u8> {
        let (first, last) = self.ordinals.unwrap_or_default();
        let mut encoder = Encoder::new();
        encoder.u32(self.collection.0).u32(0).u64(self.count).u64(first.0).u64(last.0).u64(0);
        seal_meta(encoder)
    }

    fn decode(mut decoder: Decoder<'_>) -> Result<Self> {
        let at = decoder.clone();
        let (collection, reserved) = (CollectionId(decoder.u32()?), decoder.u32()?);
        let count = decoder.u64()?;
        let (first, last) = (DocumentOrdinal(decoder.u64()?), DocumentOrdinal(decoder.u64()?));
        if reserved != 0 || decoder.u64()? != 0 {
            return Err(at.corrupted("reserved bytes that are not zero"));
        }
        decoder.finish()?;
        if first > last || (count == 0 && last.0 != 0) || (count > 0 && last.0 - first.0 < count - 1) {
            return Err(at.corrupted(format!("{count} ordinals from {first} to {last}")));
        }
        Ok(Self { collection, count, ordinals: (count > 0).then_some((first, last)) })
    }
}

/// Writes kill file `number`; its name is not durable before [`crate::commit_files`].
///
/// # Errors
/// Any error of the storage.
pub fn write_kill_file<'a>(
    storage: &'a dyn Storage,
    dir: &Path,
    number: FileNumber,
    database: DatabaseId,
    collection: CollectionId,
    kills: &RoaringTreemap,
) -> Result<PendingFile<'a>> {
    let mut writer = SealedWriter::create(storage, dir, SealedKind::Kill, number, database)?;
    let mut bytes = Vec::with_capacity(kills.serialized_size());
    kills.serialize_into(&mut bytes).map_err(|error| invalid(writer.path(), error.to_string()))?;
    writer.section(SectionKind::META, 0, &KillHeader::of(collection, kills).encode())?;
    writer.section(KILLS, 0, &bytes)?;
    writer.finish()
}

/// An open kill file.
#[derive(Debug)]
pub struct KillFile {
    file: SealedFile,
    header: KillHeader,
    section: Section,
    kills: OnceLock<RoaringTreemap>,
}

impl SealedView for KillFile {
    fn from_sealed(file: SealedFile) -> Result<Self> {
        file.expect_kind(SealedKind::Kill)?;
        let (meta, offset) = file.read_meta()?;
        let header = KillHeader::decode(Decoder::new(&meta, file.path(), offset))?;
        let section = file.section(KILLS, 0)?;
        Ok(Self { file, header, section, kills: OnceLock::new() })
    }

    fn sealed(&self) -> &SealedFile {
        &self.file
    }
}

impl KillFile {
    /// What the file says about itself.
    pub const fn header(&self) -> &KillHeader {
        &self.header
    }

    /// The ordinals, decoded when they are first asked for. The memory they take is bounded by a small
    /// multiple of the file's length.
    ///
    /// # Errors
    /// `Corrupted` if the bytes are damaged, are not such a set, or not the one that the header counts.
    pub fn ordinals(&self) -> Result<&RoaringTreemap> {
        if let Some(kills) = self.kills.get() {
            return Ok(kills);
        }
        let kills = self.decode()?;
        Ok(self.kills.get_or_init(|| kills))
    }

    fn decode(&self) -> Result<RoaringTreemap> {
        let damaged = |what: String| self.file.damaged(self.section.offset, what);
        let mut bytes = self.file.bytes(&self.section, 0..self.section.len)?;
        let kills = RoaringTreemap::deserialize_from(&mut bytes)
            .map_err(|error| damaged(format!("not a Roaring bitmap: {error}")))?;
        if !bytes.is_empty() {
            return Err(damaged(format!("{} bytes after the Roaring bitmap", bytes.len())));
        }
        let found = KillHeader::of(self.header.collection, &kills);
        if found != self.header {
            return Err(damaged(format!("the set is {found:?}, the meta section says {:?}", self.header)));
        }
        Ok(kills)
    }

    /// Verifies every checksum of the file ([`SealedFile::verify`]), and that the set is what the meta
    /// section says.
    ///
    /// # Errors
    /// `Corrupted` naming the first place that is wrong.
    pub fn verify(&self) -> Result<()> {
        self.file.verify()?;
        self.decode().map(|_| ())
    }
}
