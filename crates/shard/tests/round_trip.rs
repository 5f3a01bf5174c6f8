//! What is written is read back, bit for bit, in both modes, for every kind of file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use common::*;
use plimsoll_base::storage::OsStorage;
use plimsoll_base::{CollectionId, DocumentId, DocumentOrdinal, FileNumber, Generation, ListId, ShardId};
use plimsoll_shard::SealedView;
use plimsoll_shard::index_file::{IndexContents, write_index_file};
use plimsoll_shard::kill::write_kill_file;
use plimsoll_shard::posting::{norm, write_posting_file};
use plimsoll_shard::*;
use proptest::prelude::*;
use roaring::RoaringTreemap;

/// A text, and ranges on its character boundaries.
fn text_and_ranges() -> impl Strategy<Value = (Option<String>, Vec<PostingRange>)> {
    let indexes = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4);
    (prop::option::of("\\PC{0,40}"), indexes).prop_map(|(text, indexes)| {
        let of = text.clone().unwrap_or_default();
        let boundaries: Vec<usize> = (0..=of.len()).filter(|at| of.is_char_boundary(*at)).collect();
        let range = |(a, b): &(prop::sample::Index, prop::sample::Index)| {
            let (a, b) = (*a.get(&boundaries), *b.get(&boundaries));
            PostingRange { start: a.min(b) as u32, length: a.abs_diff(b) as u32 }
        };
        (text, indexes.iter().map(range).collect())
    })
}

fn some_docs(dimension: u32) -> impl Strategy<Value = Docs> {
    let one = (
        1..4_u64,
        any::<[u8; 16]>(),
        "\\PC{0,20}",
        text_and_ranges(),
        prop::collection::vec(any::<u8>(), 0..30),
        any::<u32>(),
    );
    prop::collection::vec(one, 0..40).prop_map(move |parts| {
        let (mut ordinal, mut docs, mut ids) = (0, Vec::new(), std::collections::HashSet::new());
        for (step, id, key, (text, ranges), metadata, seed) in parts {
            ordinal += step;
            if !ids.insert(id) {
                continue;
            }
            // Finite values of any magnitude, signed zeros and subnormals among them.
            let bits = |i: u32| (seed ^ i).wrapping_mul(0x9E37_79B9) & 0xBFFF_FFFF;
            let vectors = (0..ranges.len() as u32 * dimension).map(|i| f32::from_bits(bits(i))).collect();
            docs.push(Doc { ordinal, id, key: key.into_bytes(), text, metadata, ranges, vectors });
        }
        Docs(docs)
    })
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn check_posting_file(file: &PostingFile, docs: &Docs, dimension: usize) {
    assert_eq!((file.documents(), file.dimension()), (docs.0.len(), dimension));
    let mut first = 0;
    for (index, doc) in docs.0.iter().enumerate() {
        let written = docs.document(index).unwrap();
        assert_eq!(file.document(index).unwrap(), written);
        let rows = file.entry(index).unwrap().rows();
        assert_eq!(rows, first..first + doc.ranges.len() as u32);
        first = rows.end;
        assert_eq!(bits(file.vectors(rows.clone()).unwrap()), bits(&doc.vectors));
        let norms: Vec<f32> = doc.vectors.chunks_exact(dimension).map(norm).collect();
        assert_eq!(bits(file.norms(rows.clone()).unwrap()), bits(&norms));
        assert!(file.row_documents(rows.clone()).unwrap().iter().all(|document| *document as usize == index));
        for (row, range) in rows.zip(&doc.ranges) {
            assert_eq!(file.range(row).unwrap(), *range);
        }
        assert_eq!(file.find(&written.id).unwrap(), Some(index));
        let mut absent = written.id;
        absent.0[15] ^= 0x80;
        let expected = docs.0.iter().position(|doc| doc.id == absent.0);
        assert_eq!(file.find(&absent).unwrap(), expected);
        assert!(file.entry(docs.0.len()).is_err());
    }
    let last = docs.0.last().map_or(0, |doc| doc.ordinal);
    for ordinal in (0..last + 3).chain([u64::MAX]) {
        let expected = docs.0.iter().position(|doc| doc.ordinal == ordinal);
        assert_eq!(file.index_of(DocumentOrdinal(ordinal)).unwrap(), expected);
    }
    assert_eq!(file.rows(), first);
    assert!(file.vectors(0..first + 1).is_err() && file.row_documents(first..first + 1).is_err());
    let mut ids: Vec<_> = docs.0.iter().map(|doc| doc.id).collect();
    ids.sort_unstable();
    assert_eq!(file.bloom().unwrap(), ids.iter().map(|id| id[0]).collect::<Vec<_>>());
    file.verify().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn documents(
        (dimension, docs) in prop_oneof![1..20_u32, Just(127), Just(384), Just(1023), Just(4095), Just(4096)]
            .prop_flat_map(|dimension| (Just(dimension), some_docs(dimension)))
    ) {
        let dir = temp_dir();
        let meta = write_postings(dir.path(), 1, dimension, &docs);
        for mode in MODES {
            let file = PostingFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
            check_posting_file(&file, &docs, dimension as usize);
            // Written again from itself, it is the same file but for its number.
            let number = FileNumber(2 + mode as u64);
            let bloom = file.bloom().unwrap().to_vec();
            let info = info(dimension);
            let again =
                write_posting_file(&OsStorage, dir.path(), number, DATABASE, &info, &file, |_| bloom).unwrap();
            let again = commit(dir.path(), again);
            let read = |meta: &FileMeta| std::fs::read(dir.path().join(meta.name().to_string())).unwrap();
            prop_assert_eq!(&read(&again)[64..again.len as usize - 64], &read(&meta)[64..meta.len as usize - 64]);
        }
    }

    #[test]
    fn kills(ordinals in prop::collection::btree_set(prop_oneof![0..5000_u64, any::<u64>()], 0..300)) {
        let dir = temp_dir();
        let kills: RoaringTreemap = ordinals.iter().copied().collect();
        let file = write_kill_file(&OsStorage, dir.path(), FileNumber(1), DATABASE, CollectionId(9), &kills);
        let meta = commit(dir.path(), file.unwrap());
        for mode in MODES {
            let file = KillFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
            prop_assert_eq!(file.ordinals().unwrap(), &kills);
            prop_assert_eq!(file.header().count, kills.len());
            let ends = ordinals.first().zip(ordinals.last()).map(|(a, b)| (DocumentOrdinal(*a), DocumentOrdinal(*b)));
            prop_assert_eq!(file.header().ordinals, ends);
            file.verify().unwrap();
        }
    }

    #[test]
    fn vectors(
        shards in prop::collection::btree_map(0..1000_u32,
            prop::collection::btree_map(0..500_u32,
                prop::collection::vec((any::<u64>(), any::<u16>()), 0..90), 0..9), 0..6),
        base in any::<bool>(),
    ) {
        let dir = temp_dir();
        let kind = if base { SegmentKind::Base } else { SegmentKind::Delta };
        let info = VectorInfo { collection: CollectionId(1), generation: Generation(4), kind, codes: None };
        let mut writer = VectorWriter::create(&OsStorage, dir.path(), FileNumber(1), DATABASE, info).unwrap();
        type Rows = (u32, Vec<DocumentOrdinal>, Vec<u16>);
        let split = |lists: &std::collections::BTreeMap<u32, Vec<(u64, u16)>>| -> Vec<Rows> {
            let rows = |rows: &[(u64, u16)]| rows.iter().map(|(o, p)| (DocumentOrdinal(*o), *p)).unzip();
            lists.iter().map(|(list, of)| { let (o, p) = rows(of); (*list, o, p) }).collect()
        };
        for (shard, lists) in shards.iter().rev() {
            let rows = split(lists);
            let lists: Vec<_> = rows.iter()
                .map(|(list, ordinals, postings)| ListRows { list: ListId(*list), ordinals, postings }).collect();
            let entries = writer.shard(ShardId(*shard), &lists).unwrap();
            writer.begin(SectionKind(299), ShardId(*shard)).unwrap();
            writer.append(bytemuck::cast_slice(&entries)).unwrap();
        }
        let meta = commit(dir.path(), writer.finish().unwrap());
        for mode in MODES {
            let file = VectorFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
            prop_assert_eq!(file.shards(), shards.keys().map(|shard| ShardId(*shard)).collect::<Vec<_>>());
            for (shard, lists) in &shards {
                let shard = ShardId(*shard);
                let (mut row, mut slot) = (0, 0);
                for (list, ordinals, postings) in split(lists) {
                    let found = file.find_list(shard, ListId(list)).unwrap();
                    prop_assert_eq!(found.is_none(), ordinals.is_empty());
                    let Some(entry) = found else { continue };
                    prop_assert_eq!(file.rows(shard, &entry).unwrap(), (&ordinals[..], &postings[..]));
                    if base {
                        slot = 32 * u32::div_ceil(slot, 32);
                    }
                    prop_assert_eq!((entry.first_row, entry.first_slot), (row, slot));
                    row += entry.rows;
                    slot += entry.rows;
                }
                prop_assert_eq!(file.shard_rows(shard), row);
                prop_assert!(file.find_list(shard, ListId(777)).unwrap().is_none());
                let extra = file.sealed().section(SectionKind(299), shard.0).unwrap();
                prop_assert_eq!(file.sealed().view::<ListEntry>(&extra, 0..extra.len / 16).unwrap(), file.lists(shard).unwrap());
            }
            prop_assert!(file.lists(ShardId(5000)).unwrap().is_empty());
            file.verify().unwrap();
        }
    }
}

#[test]
fn an_index() {
    let dir = temp_dir();
    let meta = write_index(dir.path(), 1);
    for mode in MODES {
        let file = IndexFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
        assert_eq!(*file.header(), index_header());
        assert_eq!(bits(file.mean().unwrap()), bits(&[0.5, -0.5, 0.25, 1.0, -0.0]));
        assert_eq!((file.list_count(), file.lists().unwrap().len()), (3, 3));
        assert_eq!(file.centroids().unwrap()[14], 14.0 / 11.0 - 0.5);
        assert_eq!(file.stops().unwrap()[1], StopRule { k: 10, recall: 0.95, stop: 1.05 });
        assert_eq!((file.query_count(), file.queries().unwrap()), (0, &[][..]));
        let end = file.sealed().file_meta().len;
        assert_eq!(file.searched(), [0..end, end..end]);
        file.verify().unwrap();
    }
    let meta = write_calibrated_index(dir.path(), 2);
    for mode in MODES {
        let file = IndexFile::open(&OsStorage, dir.path(), &meta, DATABASE, mode).unwrap();
        assert_eq!((file.query_count(), bits(file.queries().unwrap())), (2, bits(&QUERIES)));
        let [front, behind] = file.searched();
        let queries = file.sealed().section(index_file::QUERIES, 0).unwrap();
        let end = queries.offset + queries.len;
        assert_eq!((front, behind), (0..queries.offset, end..file.sealed().file_meta().len));
        file.verify().unwrap();
    }
}

/// What no valid file can hold is refused by the writers, and leaves nothing behind.
#[test]
fn writers_refuse_what_readers_would() {
    let dir = temp_dir();
    let refused = |result: plimsoll_base::Result<PendingFile>| {
        assert_eq!(result.unwrap_err().io_kind(), Some(std::io::ErrorKind::InvalidInput));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    };
    let postings = |info: &PostingInfo, change: &dyn Fn(&mut Vec<Doc>)| {
        let mut docs = few_docs();
        change(&mut docs.0);
        write_posting_file(
            &OsStorage,
            dir.path(),
            FileNumber(1),
            DATABASE,
            info,
            &docs,
            |_: &[DocumentId]| Vec::new(),
        )
    };
    refused(postings(&info(3), &|docs| docs.swap(0, 1)));
    refused(postings(&info(3), &|docs| docs[1].id = docs[0].id));
    refused(postings(&info(3), &|docs| docs[1].vectors.truncate(2)));
    refused(postings(&info(0), &|_| {}));
    refused(postings(&PostingInfo { last_lsn: plimsoll_base::Lsn(2), ..info(3) }, &|_| {}));

    let vectors = |generation, lists: &[ListRows<'_>]| {
        let info = VectorInfo {
            collection: CollectionId(1),
            generation: Generation(generation),
            kind: SegmentKind::Delta,
            codes: None,
        };
        let mut writer = VectorWriter::create(&OsStorage, dir.path(), FileNumber(1), DATABASE, info)?;
        writer.shard(ShardId(1), lists)?;
        writer.finish()
    };
    let ordinals = [DocumentOrdinal(1), DocumentOrdinal(2)];
    let list =
        |list, rows: usize| ListRows { list: ListId(list), ordinals: &ordinals, postings: &[0; 3][..rows] };
    refused(vectors(1, &[list(2, 2), list(2, 2)]));
    refused(vectors(1, &[list(2, 2), list(3, 1)]));
    refused(vectors(0, &[list(1, 2)]));

    let index = |change: &dyn Fn(&mut IndexContents<'_>)| {
        let lists =
            [IndexList { id: ListId(3), shard: ShardId(1), rows: 1, radius: 0.0 }; 2].map(|list| list);
        let stops = [StopRule { k: 0, recall: 0.5, stop: 1.0 }];
        let mut contents = IndexContents {
            header: index_header(),
            mean: &[0.0; 5],
            centroids: &[0.0; 5],
            lists: &lists[..1],
            stops: &[],
            spreads: &[],
            epsilons: &[],
            queries: &[],
        };
        change(&mut contents);
        let contents = match contents.stops.len() {
            1 => IndexContents { stops: &stops, ..contents },
            _ => contents,
        };
        write_index_file(&OsStorage, dir.path(), FileNumber(1), DATABASE, &contents)
    };
    refused(index(&|contents| contents.mean = &[0.0; 4]));
    refused(index(&|contents| contents.centroids = &[f32::NAN; 5]));
    refused(index(&|contents| contents.spreads = &[0.5; 2]));
    refused(index(&|contents| contents.spreads = &[-0.5]));
    refused(index(&|contents| contents.epsilons = &[1.0]));
    refused(index(&|contents| contents.queries = &[1.0; 6]));
    refused(index(&|contents| contents.queries = &[1.0, 1.0, f32::NAN, 1.0, 1.0]));
    refused(index(&|contents| contents.header.next_list = ListId(3)));
    refused(index(&|contents| contents.header.next_shard = ShardId(1)));
    refused(index(&|contents| contents.stops = &[StopRule { k: 1, recall: 1.5, stop: 0.0 }]));
}
