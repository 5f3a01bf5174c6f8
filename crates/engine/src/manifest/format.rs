//! The manifest's bytes.

use std::path::Path;

use plimsoll_base::checksum::crc32;
use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::header::{FileHeader, FileKind, HEADER_LEN};
use plimsoll_base::{
    CollectionId, DocumentOrdinal, FileNumber, Generation, ListId, Lsn, Metric, ShardId, StorageError,
};
use plimsoll_shard::{FileMeta, SealedKind};

use super::{CollectionEntry, IndexEntry, KillEntry, Manifest, PostingEntry, VectorEntry};
use crate::options::CollectionConfig;

/// The newest format version.
const VERSION: u16 = 2;
type Result<T> = std::result::Result<T, StorageError>;

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.raw(&FileHeader::new(FileKind::Manifest, VERSION, self.database, self.number).encode());
        out.u64(self.next_file.0).u32(self.next_collection.0).u64(self.wal_pointer.0).u64(self.durable.0);
        out.u64(self.newest_segment.0);
        put_all(&mut out, &self.collections, put_collection);
        let checksum = crc32(out.as_slice());
        out.u32(checksum);
        out.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8], file: &Path, number: FileNumber) -> Result<Self> {
        let header = FileHeader::decode(&bytes[..bytes.len().min(HEADER_LEN)], file)?;
        header.expect(FileKind::Manifest, VERSION, file)?;
        header.expect_identity(header.database, number, file)?;
        let body_end = bytes.len().saturating_sub(4).max(HEADER_LEN);
        let mut checksum = Decoder::new(&bytes[body_end..], file, body_end as u64);
        if checksum.u32()? != crc32(&bytes[..body_end]) {
            return Err(StorageError::corrupted(file, body_end as u64, "the checksum does not match"));
        }
        let mut body = Decoder::new(&bytes[HEADER_LEN..body_end], file, HEADER_LEN as u64);
        let manifest = Self {
            number,
            database: header.database,
            next_file: FileNumber(body.u64()?),
            next_collection: CollectionId(body.u32()?),
            wal_pointer: Lsn(body.u64()?),
            durable: Lsn(body.u64()?),
            newest_segment: FileNumber(if header.version == 1 { 0 } else { body.u64()? }),
            collections: get_all(&mut body, 53, get_collection)?,
        };
        body.finish()?;
        Ok(manifest)
    }
}

fn put_all<T>(out: &mut Encoder, items: &[T], put: impl Fn(&mut Encoder, &T)) {
    out.u32(items.len() as u32);
    items.iter().for_each(|item| put(out, item));
}

fn get_all<T>(
    from: &mut Decoder<'_>,
    least: usize,
    get: impl Fn(&mut Decoder<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = from.count(least)?;
    (0..count).map(|_| get(from)).collect()
}

fn put_file(out: &mut Encoder, file: &FileMeta) {
    out.u64(file.number.0).u64(file.len).u32(file.crc);
}

fn get_file(from: &mut Decoder<'_>, kind: SealedKind) -> Result<FileMeta> {
    Ok(FileMeta { kind, number: FileNumber(from.u64()?), len: from.u64()?, crc: from.u32()? })
}

fn put_collection(out: &mut Encoder, entry: &CollectionEntry) {
    out.u32(entry.id.0).prefixed(entry.name.as_bytes());
    out.u32(entry.config.dimension as u32).u8(entry.config.metric.code());
    out.u64(entry.flushed.0).u64(entry.next_ordinal.0).u32(entry.next_list.0).u32(entry.next_shard.0);
    put_all(out, &entry.postings, |out, posting| {
        put_file(out, &posting.file);
        out.u64(posting.first_ordinal.0).u64(posting.last_ordinal.0);
        out.u64(posting.documents).u64(posting.rows).u64(posting.killed);
    });
    put_all(out, &entry.vectors, |out, vector| {
        put_file(out, &vector.file);
        out.u32(vector.generation.0).u8(u8::from(vector.base));
        put_all(out, &vector.live, |out, (shard, rows)| {
            out.u32(shard.0).u64(*rows);
        });
    });
    put_all(out, &entry.kills, |out, kill| {
        put_file(out, &kill.file);
        out.u64(kill.ordinals);
    });
    put_all(out, &entry.indexes, |out, index| {
        put_file(out, &index.file);
        out.u32(index.generation.0).u64(index.rows_at_training).u32(index.lists).u32(index.shards);
    });
}

fn get_collection(from: &mut Decoder<'_>) -> Result<CollectionEntry> {
    let id = CollectionId(from.u32()?);
    let name = from.string()?.to_owned();
    let dimension = from.u32()? as usize;
    let code = from.u8()?;
    let Some(metric) = Metric::from_code(code) else {
        return Err(from.corrupted(format!("unknown metric {code}")));
    };
    let config = CollectionConfig::new(dimension, metric);
    if config.validate().is_err() {
        return Err(from.corrupted(format!("a dimension of {dimension}")));
    }
    Ok(CollectionEntry {
        id,
        name,
        config,
        flushed: Lsn(from.u64()?),
        next_ordinal: DocumentOrdinal(from.u64()?),
        next_list: ListId(from.u32()?),
        next_shard: ShardId(from.u32()?),
        postings: get_all(from, 60, get_posting)?,
        vectors: get_all(from, 29, get_vector)?,
        kills: get_all(from, 28, |from| {
            Ok(KillEntry { file: get_file(from, SealedKind::Kill)?, ordinals: from.u64()? })
        })?,
        indexes: get_all(from, 40, get_index)?,
    })
}

fn get_posting(from: &mut Decoder<'_>) -> Result<PostingEntry> {
    Ok(PostingEntry {
        file: get_file(from, SealedKind::Posting)?,
        first_ordinal: DocumentOrdinal(from.u64()?),
        last_ordinal: DocumentOrdinal(from.u64()?),
        documents: from.u64()?,
        rows: from.u64()?,
        killed: from.u64()?,
    })
}

fn get_vector(from: &mut Decoder<'_>) -> Result<VectorEntry> {
    Ok(VectorEntry {
        file: get_file(from, SealedKind::Vector)?,
        generation: Generation(from.u32()?),
        base: from.u8()? != 0,
        live: get_all(from, 12, |from| Ok((ShardId(from.u32()?), from.u64()?)))?,
    })
}

fn get_index(from: &mut Decoder<'_>) -> Result<IndexEntry> {
    Ok(IndexEntry {
        file: get_file(from, SealedKind::Index)?,
        generation: Generation(from.u32()?),
        rows_at_training: from.u64()?,
        lists: from.u32()?,
        shards: from.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let file = |kind, number| FileMeta { kind, number: FileNumber(number), len: number * 10, crc: 7 };
        let mut manifest = Manifest { newest_segment: FileNumber(5), ..Manifest::new([3; 16]) };
        let mut entry =
            CollectionEntry::new(CollectionId(1), "docs", CollectionConfig::new(8, Metric::L2), Lsn(9));
        entry.postings.push(PostingEntry {
            file: file(SealedKind::Posting, 1),
            first_ordinal: DocumentOrdinal(0),
            last_ordinal: DocumentOrdinal(4),
            documents: 5,
            rows: 6,
            killed: 1,
        });
        entry.vectors.push(VectorEntry {
            file: file(SealedKind::Vector, 2),
            generation: Generation(1),
            base: true,
            live: vec![(ShardId(1), 6)],
        });
        entry.kills.push(KillEntry { file: file(SealedKind::Kill, 3), ordinals: 1 });
        entry.indexes.push(IndexEntry {
            file: file(SealedKind::Index, 4),
            generation: Generation(1),
            rows_at_training: 6,
            lists: 2,
            shards: 1,
        });
        manifest.collections.push(entry);
        manifest
    }

    #[test]
    fn the_golden_manifests_of_every_version_read_and_the_newest_writes_as_ever() {
        let decode = |golden: &[u8]| Manifest::decode(golden, Path::new("golden"), FileNumber(1)).unwrap();
        let first = decode(include_bytes!("../../tests/golden/v1/manifest"));
        assert_eq!(first, Manifest { newest_segment: FileNumber(0), ..sample() });
        let golden: &[u8] = include_bytes!("../../tests/golden/v2/manifest");
        assert_eq!(decode(golden), sample());
        assert_eq!(sample().encode(), golden);
    }

    #[test]
    #[ignore = "writes the golden file; only for a new format version"]
    fn write_the_golden_manifest() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{VERSION}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("manifest"), sample().encode()).unwrap();
    }

    #[test]
    fn a_manifest_survives_and_every_damage_is_noticed() {
        let (manifest, file) = (sample(), Path::new("MANIFEST"));
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes, file, FileNumber(1)).unwrap(), manifest);
        assert!(Manifest::decode(&bytes, file, FileNumber(2)).is_err());
        for end in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..end], file, FileNumber(1)).is_err(), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&damaged, file, FileNumber(1)).is_err(), "bit {bit}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(Manifest::decode(&longer, file, FileNumber(1)).is_err());
    }
}
