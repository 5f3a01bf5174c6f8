//! Files of each kind for the tests, and everything that can be read from one.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes,
    reason = "each test uses its part"
)]

use std::fmt::Write as _;
use std::path::Path;

use plimsoll_base::storage::{OsStorage, Syncs};
use plimsoll_base::{
    CollectionId, DocumentId, DocumentOrdinal, FileNumber, Generation, ListId, Lsn, Metric, Result, ShardId,
    Version,
};
use plimsoll_shard::SealedView;
use plimsoll_shard::index_file::{IndexContents, write_index_file};
use plimsoll_shard::kill::write_kill_file;
use plimsoll_shard::posting::write_posting_file;
use plimsoll_shard::vector::{PLANE, RADII, REFINEMENTS, SIGNS};
use plimsoll_shard::*;
use roaring::RoaringTreemap;

pub const DATABASE: DatabaseId = *b"database of test";
pub const MODES: [ReadMode; 2] = [ReadMode::Mapped, ReadMode::Owned];

/// A document in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Doc {
    pub ordinal: u64,
    pub id: [u8; 16],
    pub key: Vec<u8>,
    pub text: Option<String>,
    pub metadata: Vec<u8>,
    pub ranges: Vec<PostingRange>,
    pub vectors: Vec<f32>,
}

#[derive(Debug)]
pub struct Docs(pub Vec<Doc>);

impl Documents for Docs {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn document(&self, index: usize) -> Result<DocumentRef<'_>> {
        let doc = &self.0[index];
        Ok(DocumentRef {
            ordinal: DocumentOrdinal(doc.ordinal),
            id: DocumentId(doc.id),
            version: Version::new(Lsn(1 + doc.ordinal % 50), doc.ordinal as u32),
            key: &doc.key,
            text: doc.text.as_deref(),
            metadata: &doc.metadata,
            ranges: &doc.ranges,
        })
    }

    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>> {
        Ok(RowsRef { vectors: &self.0[index].vectors, norms: None })
    }
}

pub fn info(dimension: u32) -> PostingInfo {
    PostingInfo {
        collection: CollectionId(3),
        dimension,
        metric: Metric::L2,
        first_lsn: Lsn(1),
        last_lsn: Lsn(50),
    }
}

pub fn commit(dir: &Path, file: PendingFile) -> FileMeta {
    commit_files(&OsStorage, dir, [file], Syncs::InOrder).unwrap()[0]
}

pub fn write_postings(dir: &Path, number: u64, dimension: u32, docs: &Docs) -> FileMeta {
    let bloom = |ids: &[DocumentId]| ids.iter().map(|id| id.0[0]).collect();
    let file =
        write_posting_file(&OsStorage, dir, FileNumber(number), DATABASE, &info(dimension), docs, bloom);
    commit(dir, file.unwrap())
}

pub fn few_docs() -> Docs {
    let doc = |ordinal: u64, text: Option<&str>, postings: u32| Doc {
        ordinal,
        id: [(ordinal * 37 % 251) as u8; 16],
        key: format!("schlüssel {ordinal}").into_bytes(),
        text: text.map(str::to_owned),
        metadata: vec![0xEE; ordinal as usize],
        ranges: (0..postings).map(|start| PostingRange { start, length: postings - start }).collect(),
        vectors: (0..postings * 3).map(|i| i as f32 - ordinal as f32 / 3.0).collect(),
    };
    Docs(vec![doc(2, Some("some text"), 2), doc(3, None, 1), doc(7, Some(""), 0), doc(9, Some("日本"), 0)])
}

/// How long the codes of [`write_coded_vectors`] are.
pub const LENGTHS: CodeLengths = CodeLengths { block: 320, record: 24 };

pub fn write_vectors(dir: &Path, number: u64, kind: SegmentKind) -> FileMeta {
    write_segment(dir, number, kind, None, None)
}

/// A base segment whose rows have codes, of bytes that only look random.
pub fn write_coded_vectors(dir: &Path, number: u64) -> FileMeta {
    write_segment(dir, number, SegmentKind::Base, Some(LENGTHS), None)
}

/// A delta segment whose rows have refinements of 16 bytes, too.
pub fn write_refined_vectors(dir: &Path, number: u64) -> FileMeta {
    write_segment(dir, number, SegmentKind::Delta, Some(LENGTHS), Some(REFINEMENTS))
}

/// A delta segment that says how far the rows of its lists are from their centroids.
pub fn write_vectors_with_radii(dir: &Path, number: u64) -> FileMeta {
    write_segment(dir, number, SegmentKind::Delta, Some(LENGTHS), Some(RADII))
}

fn write_segment(
    dir: &Path,
    number: u64,
    kind: SegmentKind,
    codes: Option<CodeLengths>,
    more: Option<SectionKind>,
) -> FileMeta {
    let info = VectorInfo { collection: CollectionId(3), generation: Generation(2), kind, codes };
    let mut writer = VectorWriter::create(&OsStorage, dir, FileNumber(number), DATABASE, info).unwrap();
    for shard in [5, 2] {
        let rows: Vec<(Vec<DocumentOrdinal>, Vec<u16>)> = (0..3_u64)
            .map(|list| {
                let ordinals = (0..list * 2 + 1).map(|i| DocumentOrdinal(100 + i * 7 + u64::from(shard)));
                (ordinals.collect(), (0..list as u16 * 2 + 1).collect())
            })
            .collect();
        let lists: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(i, (ordinals, postings))| ListRows { list: ListId(i as u32 * 4 + 1), ordinals, postings })
            .collect();
        let entries = writer.shard(ShardId(shard), &lists).unwrap();
        if let Some(lengths) = codes {
            let slots = entries.last().map_or(0, |last| last.first_slot + last.rows) as usize;
            let rows: u32 = entries.iter().map(|entry| entry.rows).sum();
            let bytes = |len: usize| (0..len).map(|at| ((at * 151) >> 3) as u8).collect::<Vec<u8>>();
            writer.begin(SIGNS, ShardId(shard)).unwrap();
            writer.append(&bytes(slots.div_ceil(32) * lengths.block as usize)).unwrap();
            writer.begin(PLANE, ShardId(shard)).unwrap();
            writer.append(&bytes((rows * lengths.record) as usize)).unwrap();
            if more == Some(REFINEMENTS) {
                writer.begin(REFINEMENTS, ShardId(shard)).unwrap();
                writer.append(&bytes((rows * lengths.refinement()) as usize)).unwrap();
            }
            if more == Some(RADII) {
                writer.begin(RADII, ShardId(shard)).unwrap();
                let radii = (0..entries.len()).flat_map(|list| (list as f32 / 7.0).to_le_bytes());
                writer.append(&radii.collect::<Vec<u8>>()).unwrap();
            }
        }
    }
    commit(dir, writer.finish().unwrap())
}

pub fn write_kills(dir: &Path, number: u64) -> FileMeta {
    let kills: RoaringTreemap =
        (100..130).chain([7, 1 << 33, (1 << 40) + 5]).chain((1 << 41)..(1 << 41) + 9).collect();
    let file =
        write_kill_file(&OsStorage, dir, FileNumber(number), DATABASE, CollectionId(3), &kills).unwrap();
    commit(dir, file)
}

pub fn index_header() -> IndexHeader {
    IndexHeader {
        collection: CollectionId(3),
        generation: Generation(2),
        metric: Metric::Cosine,
        dimension: 5,
        rows_at_training: 4096,
        next_list: ListId(40),
        next_shard: ShardId(4),
        rotation: Rotation { seed: 0x1234_5678_9abc_def0, rounds: 3 },
    }
}

pub fn write_index(dir: &Path, number: u64) -> FileMeta {
    write_index_of(dir, number, &[], &[], &[])
}

/// With what only generations that have codes say.
pub fn write_coded_index(dir: &Path, number: u64) -> FileMeta {
    write_index_of(dir, number, &[0.25, 0.0, 7.5], &[1.0, 1.5, 2.0], &[])
}

/// With queries that its stop rules are calibrated on, too.
pub fn write_calibrated_index(dir: &Path, number: u64) -> FileMeta {
    write_index_of(dir, number, &[0.25, 0.0, 7.5], &[1.0, 1.5, 2.0], &QUERIES)
}

/// Two queries.
pub const QUERIES: [f32; 10] = [0.6, 0.8, 0.0, -0.0, 0.0, 0.0, 0.0, 0.28, 0.96, 0.0];

fn write_index_of(dir: &Path, number: u64, spreads: &[f32], epsilons: &[f32], queries: &[f32]) -> FileMeta {
    let lists = [1, 4, 39].map(|id| IndexList {
        id: ListId(id),
        shard: ShardId(id % 4),
        rows: id * 10,
        radius: id as f32 / 7.0,
    });
    let centroids: Vec<f32> = (0..15).map(|i| i as f32 / 11.0 - 0.5).collect();
    let stops = [(10, 0.9, 1.0), (10, 0.95, 1.05), (100, 0.9, 1.1)].map(|(k, recall, stop)| StopRule {
        k,
        recall,
        stop,
    });
    let contents = IndexContents {
        header: index_header(),
        mean: &[0.5, -0.5, 0.25, 1.0, -0.0],
        centroids: &centroids,
        lists: &lists,
        stops: &stops,
        spreads,
        epsilons,
        queries,
    };
    commit(dir, write_index_file(&OsStorage, dir, FileNumber(number), DATABASE, &contents).unwrap())
}

/// One small file of each kind (and each kind of vector segment), numbered from 1.
pub fn write_all(dir: &Path) -> Vec<FileMeta> {
    vec![
        write_postings(dir, 1, 3, &few_docs()),
        write_vectors(dir, 2, SegmentKind::Delta),
        write_vectors(dir, 3, SegmentKind::Base),
        write_kills(dir, 4),
        write_index(dir, 5),
        write_coded_vectors(dir, 6),
        write_coded_index(dir, 7),
        write_calibrated_index(dir, 8),
        write_refined_vectors(dir, 9),
        write_vectors_with_radii(dir, 10),
    ]
}

/// Opens a file and reads everything that it can be asked for, as text to compare.
pub fn read_everything(dir: &Path, meta: &FileMeta, mode: ReadMode) -> Result<String> {
    let (storage, mut out) = (&OsStorage, String::new());
    match meta.kind {
        SealedKind::Posting => {
            read_postings(&PostingFile::open(storage, dir, meta, DATABASE, mode)?, &mut out)?;
        }
        SealedKind::Vector => {
            let file = VectorFile::open(storage, dir, meta, DATABASE, mode)?;
            writeln!(out, "{:?} {:?}", file.header(), file.shards()).unwrap();
            for shard in file.shards() {
                if let Some(radii) = file.radii(*shard)? {
                    writeln!(out, "{shard} {radii:?}").unwrap();
                }
                for list in file.lists(*shard)? {
                    assert_eq!(file.find_list(*shard, list.list)?, Some(*list));
                    writeln!(out, "{shard} {list:?} {:?}", file.rows(*shard, list)?).unwrap();
                }
                let Some(codes) = file.header().info.codes else { continue };
                let Some(codes) = file.codes(*shard, codes)? else { continue };
                for list in file.lists(*shard)? {
                    let blocks = list.first_slot / 32..(list.first_slot + list.rows).div_ceil(32);
                    writeln!(out, "{:?}", codes.blocks(blocks)?).unwrap();
                    for row in list.first_row..list.first_row + list.rows {
                        let (ordinal, posting) = codes.row(row)?;
                        writeln!(out, "{ordinal} {posting} {:?}", codes.record(row)?).unwrap();
                        if let Some(refinement) = codes.refinement(row)? {
                            writeln!(out, "{refinement:?}").unwrap();
                        }
                    }
                }
            }
        }
        SealedKind::Kill => {
            let file = KillFile::open(storage, dir, meta, DATABASE, mode)?;
            let ordinals: Vec<_> = file.ordinals()?.iter().collect();
            writeln!(out, "{:?} {ordinals:?}", file.header()).unwrap();
        }
        SealedKind::Index => {
            let file = IndexFile::open(storage, dir, meta, DATABASE, mode)?;
            writeln!(out, "{:?}", file.contents()?).unwrap();
        }
    }
    Ok(out)
}

fn read_postings(file: &PostingFile, out: &mut String) -> Result<()> {
    writeln!(out, "{:?} {:?}", file.header(), file.bloom()?).unwrap();
    for index in 0..file.documents() {
        let document = file.document(index)?;
        let rows = file.entry(index)?.rows();
        writeln!(out, "{document:?} {rows:?} {:?}", file.document_rows(index)?).unwrap();
        assert_eq!(file.find(&document.id)?, Some(index));
        assert_eq!(file.index_of(document.ordinal)?, Some(index));
    }
    let all = 0..file.rows();
    let (vectors, norms, documents) =
        (file.vectors(all.clone())?, file.norms(all.clone())?, file.row_documents(all)?);
    writeln!(out, "{vectors:?} {norms:?} {documents:?}").unwrap();
    Ok(())
}

pub fn verify(dir: &Path, meta: &FileMeta, mode: ReadMode) -> Result<()> {
    match meta.kind {
        SealedKind::Posting => PostingFile::open(&OsStorage, dir, meta, DATABASE, mode)?.verify(),
        SealedKind::Vector => VectorFile::open(&OsStorage, dir, meta, DATABASE, mode)?.verify(),
        SealedKind::Kill => KillFile::open(&OsStorage, dir, meta, DATABASE, mode)?.verify(),
        SealedKind::Index => IndexFile::open(&OsStorage, dir, meta, DATABASE, mode)?.verify(),
    }
}

/// A temporary directory, in memory where that is possible: some tests write a file for each bit of it.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::TempDir::new_in("/dev/shm").or_else(|_| tempfile::TempDir::new()).unwrap()
}
