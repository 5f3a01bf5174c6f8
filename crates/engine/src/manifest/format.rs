//! The manifest's bytes.

use std::path::Path;
use std::time::Duration;

use plimsoll_base::checksum::crc32;
use plimsoll_base::codec::{Decoder, Encoder};
use plimsoll_base::header::{FileHeader, FileKind, HEADER_LEN};
use plimsoll_base::{
    CollectionId, DocumentOrdinal, FileNumber, Generation, ListId, Lsn, Metric, ShardId, StorageError,
};
use plimsoll_shard::{FileMeta, SealedKind};

use super::{CollectionEntry, IndexEntry, KillEntry, Manifest, PostingEntry, VectorEntry};
use crate::options::CollectionConfig;
use crate::policy::{AdaptiveInterval, FlushPolicy};

/// The newest format version.
const VERSION: u16 = 3;
/// No number is larger, so that a few of them can be added without a thought; and the sum of all is below 2^63.
const LARGEST: u64 = 1 << 56;
/// As [`LARGEST`], of ids.
const LARGEST_ID: u32 = 1 << 31;
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
            next_file: FileNumber(get_number(&mut body)?),
            next_collection: CollectionId(get_id(&mut body)?),
            wal_pointer: Lsn(get_number(&mut body)?),
            durable: Lsn(get_number(&mut body)?),
            newest_segment: FileNumber(if header.version == 1 { 0 } else { get_number(&mut body)? }),
            collections: get_all(&mut body, 53, |from| get_collection(from, header.version))?,
        };
        body.finish()?;
        if manifest.sum().is_none_or(|sum| sum > i64::MAX as u64) {
            return Err(StorageError::corrupted(file, HEADER_LEN as u64, "its numbers add up to too much"));
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// All lengths and counts together; `None` if that is no number of 64 bits.
    fn sum(&self) -> Option<u64> {
        let files = self.files().map(|file| file.len);
        let postings = self.collections.iter().flat_map(|entry| &entry.postings);
        let postings = postings.flat_map(|posting| [posting.documents, posting.rows, posting.killed]);
        let vectors = self.collections.iter().flat_map(|entry| &entry.vectors);
        let vectors = vectors.flat_map(|vector| vector.live.iter().map(|(_, rows)| *rows));
        let kills = self.collections.iter().flat_map(|entry| &entry.kills).map(|kill| kill.ordinals);
        files.chain(postings).chain(vectors).chain(kills).try_fold(0_u64, u64::checked_add)
    }
}

fn get_number(from: &mut Decoder<'_>) -> Result<u64> {
    let at = from.clone();
    let number = from.u64()?;
    if number > LARGEST { Err(at.corrupted(format!("the number {number}"))) } else { Ok(number) }
}

fn get_id(from: &mut Decoder<'_>) -> Result<u32> {
    let at = from.clone();
    let id = from.u32()?;
    if id > LARGEST_ID { Err(at.corrupted(format!("the id {id}"))) } else { Ok(id) }
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
    Ok(FileMeta { kind, number: FileNumber(get_number(from)?), len: get_number(from)?, crc: from.u32()? })
}

fn put_collection(out: &mut Encoder, entry: &CollectionEntry) {
    out.u32(entry.id.0).prefixed(entry.name.as_bytes());
    out.u32(entry.config.dimension as u32).u8(entry.config.metric.code());
    put_policy(out, &entry.policy);
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

fn get_collection(from: &mut Decoder<'_>, version: u16) -> Result<CollectionEntry> {
    let collection = CollectionId(get_id(from)?);
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
        id: collection,
        name,
        config,
        policy: if version < 3 { FlushPolicy::default() } else { get_policy(from)? },
        flushed: Lsn(get_number(from)?),
        next_ordinal: DocumentOrdinal(get_number(from)?),
        next_list: ListId(get_id(from)?),
        next_shard: ShardId(get_id(from)?),
        postings: get_all(from, 60, get_posting)?,
        vectors: get_all(from, 29, get_vector)?,
        kills: get_all(from, 28, |from| {
            Ok(KillEntry { file: get_file(from, SealedKind::Kill)?, ordinals: get_number(from)? })
        })?,
        indexes: get_all(from, 40, get_index)?,
    })
}

fn put_policy(out: &mut Encoder, policy: &FlushPolicy) {
    let millis = |time: Duration| time.as_millis() as u64;
    let FlushPolicy { max_rows, max_bytes, max_age, max_idle, adaptive } = *policy;
    let limits = [max_rows, max_bytes, max_age.map(millis), max_idle.map(millis)];
    let mut set = u8::from(adaptive.is_some()) << limits.len();
    for (bit, limit) in limits.iter().enumerate() {
        set |= u8::from(limit.is_some()) << bit;
    }
    out.u8(set);
    for limit in limits.into_iter().flatten() {
        out.u64(limit);
    }
    if let Some(AdaptiveInterval { min, max }) = adaptive {
        out.u64(millis(min)).u64(millis(max));
    }
}

fn get_policy(from: &mut Decoder<'_>) -> Result<FlushPolicy> {
    let at = from.clone();
    let set = from.u8()?;
    let mut limit = |bit: u8| if set & 1 << bit == 0 { Ok(None) } else { from.u64().map(Some) };
    let mut policy = FlushPolicy::manual();
    policy.max_rows = limit(0)?;
    policy.max_bytes = limit(1)?;
    policy.max_age = limit(2)?.map(Duration::from_millis);
    policy.max_idle = limit(3)?.map(Duration::from_millis);
    if let Some(min) = limit(4)? {
        let (min, max) = (Duration::from_millis(min), Duration::from_millis(from.u64()?));
        policy.adaptive = Some(AdaptiveInterval { min, max });
    }
    match policy.validate() {
        Ok(()) if set < 32 => Ok(policy),
        Ok(()) => Err(at.corrupted(format!("unknown limits {set:#x} of a flush policy"))),
        Err(error) => Err(at.corrupted(error.to_string())),
    }
}

fn get_posting(from: &mut Decoder<'_>) -> Result<PostingEntry> {
    Ok(PostingEntry {
        file: get_file(from, SealedKind::Posting)?,
        first_ordinal: DocumentOrdinal(get_number(from)?),
        last_ordinal: DocumentOrdinal(get_number(from)?),
        documents: get_number(from)?,
        rows: get_number(from)?,
        killed: get_number(from)?,
    })
}

fn get_vector(from: &mut Decoder<'_>) -> Result<VectorEntry> {
    Ok(VectorEntry {
        file: get_file(from, SealedKind::Vector)?,
        generation: Generation(get_id(from)?),
        base: from.u8()? != 0,
        live: get_all(from, 12, |from| Ok((ShardId(get_id(from)?), get_number(from)?)))?,
    })
}

fn get_index(from: &mut Decoder<'_>) -> Result<IndexEntry> {
    Ok(IndexEntry {
        file: get_file(from, SealedKind::Index)?,
        generation: Generation(get_id(from)?),
        rows_at_training: get_number(from)?,
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

    /// As of version 3 a collection has a flush policy of its own.
    fn with_policies() -> Manifest {
        let mut manifest = sample();
        let mut entry =
            CollectionEntry::new(CollectionId(2), "log", CollectionConfig::new(3, Metric::Dot), Lsn(7));
        entry.policy = FlushPolicy::manual();
        entry.policy.max_bytes = Some(1 << 20);
        entry.policy.max_idle = Some(Duration::from_millis(1500));
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        entry.policy.adaptive = Some(AdaptiveInterval { min, max });
        manifest.collections.push(entry);
        manifest
    }

    #[test]
    fn the_golden_manifests_of_every_version_read_and_the_newest_writes_as_ever() {
        let decode = |golden: &[u8]| Manifest::decode(golden, Path::new("golden"), FileNumber(1)).unwrap();
        let first = decode(include_bytes!("../../tests/golden/v1/manifest"));
        assert_eq!(first, Manifest { newest_segment: FileNumber(0), ..sample() });
        assert_eq!(decode(include_bytes!("../../tests/golden/v2/manifest")), sample());
        let golden: &[u8] = include_bytes!("../../tests/golden/v3/manifest");
        assert_eq!(decode(golden), with_policies());
        assert_eq!(with_policies().encode(), golden);
    }

    #[test]
    #[ignore = "writes the golden file; only for a new format version"]
    fn write_the_golden_manifest() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{VERSION}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("manifest"), with_policies().encode()).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "minutes: the checksum of each flipped bit")]
    fn a_manifest_survives_and_every_damage_is_noticed() {
        let (manifest, file) = (with_policies(), Path::new("MANIFEST"));
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

    /// Sums of them are formed when a database is opened, verified or dumped, and ids are counted up.
    #[test]
    fn numbers_that_could_not_be_added_are_refused() {
        let refused = |change: &dyn Fn(&mut CollectionEntry)| {
            let mut manifest = sample();
            change(&mut manifest.collections[0]);
            Manifest::decode(&manifest.encode(), Path::new("MANIFEST"), FileNumber(1)).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|entry| entry.postings[0].file.len = u64::MAX - 1));
        assert!(refused(&|entry| entry.vectors[0].live = vec![(ShardId(1), LARGEST + 1)]));
        assert!(refused(&|entry| entry.kills = vec![entry.kills[0].clone(); 200]
            .into_iter()
            .map(|mut kill| {
                kill.ordinals = LARGEST;
                kill
            })
            .collect()));
        assert!(refused(&|entry| entry.next_ordinal = DocumentOrdinal(u64::MAX)));
        assert!(refused(&|entry| entry.next_list = ListId(u32::MAX)));
    }
}
