//! A listing of any sealed file, as data for `plimsoll dump`, and the full check of any of them.
//!
//! **Owns** no format: it asks each module what its header says. **Must not know** how a listing is printed.
//! It changes nothing on disk.

use std::path::Path;

use plimsoll_base::storage::Storage;
use plimsoll_base::{DocumentOrdinal, Result, StorageError};

use crate::container::{DatabaseId, FileMeta, ReadMode, SealedFile, SectionKind};
use crate::names::SealedKind;
use crate::view::SealedView;
use crate::{IndexFile, KillFile, PostingFile, VectorFile};

/// What a sealed file holds, and whether all of it is sound.
#[derive(Debug, Clone)]
pub struct Description {
    /// Names and values, in the order in which they are to be shown.
    pub fields: Vec<(String, String)>,
    /// The sections, in the order in which they lie in the file.
    pub sections: Vec<SectionDescription>,
    /// The first damage that a full check found.
    pub damage: Option<StorageError>,
}

/// Where a section lies, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionDescription {
    /// Its name, or its number if this program does not know it.
    pub name: String,
    /// Whose it is: a shard's id, or 0.
    pub owner: u32,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// An open file of any kind.
#[derive(Debug)]
enum Opened {
    Posting(PostingFile),
    Vector(VectorFile),
    Kill(KillFile),
    Index(IndexFile),
}

impl Opened {
    fn from_sealed(file: SealedFile) -> Result<Self> {
        Ok(match file.file_meta().kind {
            SealedKind::Posting => Self::Posting(PostingFile::from_sealed(file)?),
            SealedKind::Vector => Self::Vector(VectorFile::from_sealed(file)?),
            SealedKind::Kill => Self::Kill(KillFile::from_sealed(file)?),
            SealedKind::Index => Self::Index(IndexFile::from_sealed(file)?),
        })
    }

    fn verify(&self) -> Result<()> {
        match self {
            Self::Posting(file) => file.verify(),
            Self::Vector(file) => file.verify(),
            Self::Kill(file) => file.verify(),
            Self::Index(file) => file.verify(),
        }
    }
}

/// Opens the file that a manifest names and checks all of it, whatever its kind, with `pread` only.
///
/// # Errors
/// `Corrupted` naming the first place that is wrong; any error of the storage.
pub fn verify_file(storage: &dyn Storage, dir: &Path, meta: &FileMeta, database: DatabaseId) -> Result<()> {
    Opened::from_sealed(SealedFile::open(storage, dir, meta, database, ReadMode::Owned)?)?.verify()
}

/// Describes the sealed file at `path`, believing its name and header, and checks all of it.
///
/// # Errors
/// `InvalidInput` if the path is not the name of a sealed file; `Corrupted` or `UpgradeRequired` if its header,
/// footer or section table can not be read. Damage behind these is part of the description.
pub fn describe(storage: &dyn Storage, path: &Path) -> Result<Description> {
    let file = SealedFile::open_unnamed(storage, path, ReadMode::Owned)?;
    let mut fields = container_fields(&file);
    let sections = file.sections().iter().map(|section| SectionDescription {
        name: section.kind.name().map_or_else(|| unknown_name(section.kind), str::to_owned),
        owner: section.owner,
        offset: section.offset,
        len: section.len,
    });
    let sections = sections.collect();
    let damage = match Opened::from_sealed(file) {
        Ok(opened) => {
            fields.extend(kind_fields(&opened));
            opened.verify().err()
        }
        Err(error) => Some(error),
    };
    let state = damage.as_ref().map_or_else(|| "all verified".to_owned(), ToString::to_string);
    fields.push(field("checksums", state));
    Ok(Description { fields, sections, damage })
}

fn unknown_name(kind: SectionKind) -> String {
    format!("unknown ({})", kind.0)
}

fn field(name: &str, value: impl std::fmt::Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn container_fields(file: &SealedFile) -> Vec<(String, String)> {
    let (meta, header) = (file.file_meta(), file.header());
    let database: String = header.database.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        field("kind", meta.kind),
        field("number", meta.number),
        field("version", header.version),
        field("compatible features", format!("{:#x}", header.compatible)),
        field("read-only-compatible features", format!("{:#x}", header.read_only_compatible)),
        field("incompatible features", format!("{:#x}", header.incompatible)),
        field("database", database),
        field("bytes", meta.len),
        field("crc32", format!("{:08x}", meta.crc)),
    ]
}

fn ordinal_field(ordinals: Option<(DocumentOrdinal, DocumentOrdinal)>) -> (String, String) {
    let value = ordinals.map_or_else(|| "none".to_owned(), |(first, last)| format!("{first} to {last}"));
    field("ordinals", value)
}

fn calibrated_on(queries: usize) -> String {
    match queries {
        0 => "its own rows".to_owned(),
        queries => format!("{queries} queries"),
    }
}

fn kind_fields(opened: &Opened) -> Vec<(String, String)> {
    match opened {
        Opened::Posting(file) => {
            let header = file.header();
            let info = &header.info;
            vec![
                field("collection", info.collection),
                field("dimension", info.dimension),
                field("metric", info.metric),
                field("documents", header.documents),
                field("rows", header.rows),
                ordinal_field(header.ordinals),
                field("lsn", format!("{} to {}", info.first_lsn, info.last_lsn)),
            ]
        }
        Opened::Vector(file) => {
            let header = file.header();
            vec![
                field("collection", header.info.collection),
                field("generation", header.info.generation),
                field("segment", header.info.kind.name()),
                field("shards", header.shards),
                field("rows", header.rows),
                ordinal_field(header.ordinals),
            ]
        }
        Opened::Kill(file) => {
            let header = file.header();
            vec![
                field("collection", header.collection),
                field("kills", header.count),
                ordinal_field(header.ordinals),
            ]
        }
        Opened::Index(file) => {
            let header = file.header();
            vec![
                field("collection", header.collection),
                field("generation", header.generation),
                field("dimension", header.dimension),
                field("metric", header.metric),
                field("lists", file.list_count()),
                field("rows at training", header.rows_at_training),
                field("calibrated on", calibrated_on(file.query_count())),
                field("next list", header.next_list),
                field("next shard", header.next_shard),
                field(
                    "rotation",
                    format!("seed {:#018x}, {} rounds", header.rotation.seed, header.rotation.rounds),
                ),
            ]
        }
    }
}
