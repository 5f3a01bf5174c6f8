//! Any bytes as a sealed file: posting file, vector segment, kill file or index file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::LazyLock;

use plimsoll_base::checksum::crc32;
use plimsoll_base::header::{FileHeader, HEADER_LEN};
use plimsoll_base::storage::{OsStorage, Storage, Syncs};
use plimsoll_base::{FileNumber, Result, StorageError};
use plimsoll_shard::names::FileName;
use plimsoll_shard::{
    Documents as _, IndexFile, KillFile, PostingFile, ReadMode, SealedFile, SealedKind, SealedView,
    SealedWriter, SectionKind, VectorFile, commit_files, describe,
};
use plimsoll_sim::SimStorage;
use tempfile::TempDir;

use crate::checksums;

/// Not more documents of a file are looked at: each of them may claim all of its text.
const MOST_DOCUMENTS: usize = 100;

const DATABASE: [u8; 16] = *b"database of test";

/// Where files are mapped from.
static DIR: LazyLock<TempDir> =
    LazyLock::new(|| TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap());

/// Any bytes as a posting file.
pub(crate) fn posting(input: &[u8]) {
    sealed(SealedKind::Posting, 100, input);
}

/// Any bytes as a vector segment.
pub(crate) fn vectors(input: &[u8]) {
    sealed(SealedKind::Vector, 200, input);
}

/// Any bytes as a kill file.
pub(crate) fn kills(input: &[u8]) {
    sealed(SealedKind::Kill, 300, input);
}

/// Any bytes as an index file.
pub(crate) fn index(input: &[u8]) {
    sealed(SealedKind::Index, 400, input);
}

/// The file opens or not, in both modes alike. What `verify` passes can be read, and both modes read the same.
/// The format's sections are those of the kinds from `first`.
fn sealed(kind: SealedKind, first: u32, input: &[u8]) {
    let Some((mode, bytes)) = input.split_first() else { return };
    let bytes = match mode % 3 {
        0 => Some(bytes.to_vec()),
        1 => {
            let mut bytes = bytes.to_vec();
            checksums::of_sealed(&mut bytes);
            Some(bytes)
        }
        _ => of_sections(kind, first, bytes),
    };
    let Some(bytes) = bytes else { return };
    let header = bytes.get(..HEADER_LEN).and_then(|header| FileHeader::decode(header, Path::new("")).ok());
    let number = header.map_or(FileNumber(1), |header| header.number);
    let name = FileName::new(kind, number).to_string();

    let disk = SimStorage::new();
    let path = Path::new("/").join(&name);
    disk.put(&path, &bytes).unwrap();
    let owned = read(&disk, &path, kind, ReadMode::Owned);
    match (describe(&disk, &path), &owned) {
        (Err(error), opened) => {
            assert_typed(&error);
            assert!(opened.is_err(), "describe: {error}");
        }
        (Ok(description), Ok(opened)) => assert_eq!(description.damage.is_none(), opened.verified.is_ok()),
        (Ok(description), Err(_)) => assert!(description.damage.is_some()),
    }

    if cfg!(miri) {
        return; // There are no mappings of files.
    }
    let path = DIR.path().join(&name);
    std::fs::write(&path, &bytes).unwrap();
    let mapped = read(&OsStorage, &path, kind, ReadMode::Mapped);
    std::fs::remove_file(&path).unwrap();
    match (owned, mapped) {
        (Ok(owned), Ok(mapped)) => {
            assert_eq!(owned.verified.is_ok(), mapped.verified.is_ok(), "{owned:?} {mapped:?}");
            assert!(owned.verified.is_err() || owned.contents.is_some(), "verified, and not readable");
            assert!(owned.verified.is_err() || owned.contents == mapped.contents, "{owned:?} {mapped:?}");
            for error in [owned.verified.err(), mapped.verified.err()].into_iter().flatten() {
                assert_typed(&error);
            }
        }
        (Err(owned), Err(mapped)) => [owned, mapped].iter().for_each(assert_typed),
        (owned, mapped) => panic!("only one mode opens it: {owned:?} {mapped:?}"),
    }
}

fn assert_typed(error: &StorageError) {
    let expected = matches!(error, StorageError::Corrupted { .. } | StorageError::UpgradeRequired { .. });
    // A number that is too long for a name of ours.
    let is_name =
        matches!(error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput);
    assert!(expected || is_name, "{error:?}");
}

/// A sealed file with good checksums whose sections are as `bytes` say: kind, owner, length (u16), contents.
fn of_sections(kind: SealedKind, first: u32, bytes: &[u8]) -> Option<Vec<u8>> {
    let disk = SimStorage::new();
    let mut writer = SealedWriter::create(&disk, Path::new("/"), kind, FileNumber(1), DATABASE).unwrap();
    let mut rest = bytes;
    while let Some(([number, owner, low, high], more)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (contents, more) = more.split_at(length);
        rest = more;
        let (kind, mut contents) = (SectionKind(first + u32::from(*number)), contents.to_vec());
        if *number == 0 {
            contents.extend(crc32(&contents).to_le_bytes());
        }
        let kind = if *number == 0 { SectionKind::META } else { kind };
        // The writer refuses what can not be one of its files, such as two sections of one name.
        writer.section(kind, u32::from(*owner), &contents).ok()?;
    }
    let file = writer.finish().ok()?;
    let metas = commit_files(&disk, Path::new("/"), [file], Syncs::InOrder).unwrap();
    disk.bytes(Path::new("/").join(metas[0].name().to_string()))
}

/// What an opened file answers.
#[derive(Debug)]
struct Opened {
    verified: Result<()>,
    /// A hash of everything that can be read; `None` after an error.
    contents: Option<u64>,
}

fn read(storage: &dyn Storage, path: &Path, kind: SealedKind, mode: ReadMode) -> Result<Opened> {
    let file = SealedFile::open_unnamed(storage, path, mode)?;
    let mut hasher = DefaultHasher::new();
    let (verified, contents) = match kind {
        SealedKind::Posting => {
            let file = PostingFile::from_sealed(file)?;
            (file.verify(), read_postings(&file, &mut hasher))
        }
        SealedKind::Vector => {
            let file = VectorFile::from_sealed(file)?;
            (file.verify(), read_vectors(&file, &mut hasher))
        }
        SealedKind::Kill => {
            let file = KillFile::from_sealed(file)?;
            let contents = file.ordinals().map(|ordinals| {
                assert_eq!(ordinals.len(), file.header().count);
                ordinals.iter().take(10_000).for_each(|ordinal| ordinal.hash(&mut hasher));
            });
            (file.verify(), contents)
        }
        SealedKind::Index => {
            let file = IndexFile::from_sealed(file)?;
            let contents = file.contents().map(|contents| format!("{contents:?}").hash(&mut hasher));
            (file.verify(), contents)
        }
    };
    Ok(Opened { verified, contents: contents.ok().map(|()| hasher.finish()) })
}

/// Everything of each document, though one may fail; then the error of the first that did.
fn read_postings(file: &PostingFile, hasher: &mut DefaultHasher) -> Result<()> {
    let mut result = file.bloom().map(|bloom| bloom.hash(hasher));
    for index in 0..file.documents().min(MOST_DOCUMENTS) {
        let read = read_document(file, index, hasher);
        result = result.and(read);
    }
    result
}

fn read_document(file: &PostingFile, index: usize, hasher: &mut DefaultHasher) -> Result<()> {
    let entry = file.entry(index)?;
    file.find(&entry.id())?;
    file.index_of(entry.ordinal())?;
    let rows = entry.rows();
    let document = file.document(index)?;
    (document.ordinal, document.id.0, document.key, document.text, document.metadata).hash(hasher);
    format!("{:?} {:?}", document.ranges, file.document_rows(index)?).hash(hasher);
    for row in rows {
        file.vectors(row..row + 1)?;
        file.norms(row..row + 1)?;
        file.row_documents(row..row + 1)?.hash(hasher);
    }
    Ok(())
}

fn read_vectors(file: &VectorFile, hasher: &mut DefaultHasher) -> Result<()> {
    let mut result = Ok(());
    for shard in file.shards() {
        for list in file.lists(*shard)? {
            let read = file.rows(*shard, list).map(|rows| format!("{list:?} {rows:?}").hash(hasher));
            result = result.and(read).and(file.find_list(*shard, list.list).map(|_| ()));
        }
    }
    result
}
