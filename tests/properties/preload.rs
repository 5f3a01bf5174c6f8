//! A preload reads everything that it says it did, as far as it is allowed, and notices what is damaged.

use std::path::{Path, PathBuf};

use plimsoll::{
    CollectionConfig, Database, Effort, Error, Metric, ReadOnlyDatabase, StorageError, WriteBatch,
};

const ROWS: u64 = 5000;

/// A database with files of every kind, and the paths of the collection's.
fn stored(dir: &Path) -> Vec<PathBuf> {
    let db = Database::builder(dir).background(false).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(16, Metric::L2)).unwrap();
    let mut batch = WriteBatch::new();
    for row in 0..ROWS {
        batch.upsert_vector(
            row,
            &std::array::from_fn::<_, 16, _>(|at| ((row * 31 + at as u64 * 7) % 97) as f32),
        );
    }
    collection.write(&batch).unwrap();
    db.flush().unwrap();
    db.compact().unwrap();
    let mut batch = WriteBatch::new();
    for row in 0..9_u64 {
        batch.delete(row);
    }
    collection.write(&batch).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    let files = std::fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().path());
    let sealed = |path: &PathBuf| match path.extension().unwrap_or_default().to_str().unwrap() {
        "index" | "kills" => true,
        // Smaller ones have the records of jobs.
        "vectors" | "posting" => len(path) > 64 << 10,
        _ => false,
    };
    files.filter(sealed).collect()
}

fn len(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_preload_reads_the_files_in_their_order_as_far_as_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let files = stored(dir.path());
    let of = |kind: &str| -> u64 {
        files.iter().filter(|path| path.extension().unwrap() == kind).map(|path| len(path)).sum()
    };
    assert!(["index", "vectors", "posting", "kills"].iter().all(|kind| of(kind) > 0), "{files:?}");
    let db = ReadOnlyDatabase::open(dir.path()).unwrap();
    let collection = db.collection("c").unwrap();
    let preload = |at_most| {
        let preloaded = collection.preload(at_most).unwrap();
        (preloaded.bytes, preloaded.left_out)
    };
    let query = [3.0; 16];
    let search = || collection.search(&query).effort(Effort::Recall(0.99)).run().unwrap();
    let before = search();
    let all = of("index") + of("vectors") + of("posting") + of("kills");
    assert_eq!(preload(0), (0, all));
    assert_eq!(preload(of("index")), (of("index"), all - of("index")));
    let codes = of("index") + of("vectors") + of("kills");
    assert_eq!(preload(codes), (codes, of("posting")));
    assert_eq!(preload(u64::MAX), (all, 0));
    assert_eq!((before.hits.len(), before.hits), (10, search().hits));
}

#[test]
fn a_preload_names_whatever_file_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let files = stored(dir.path());
    for path in &files {
        let whole = std::fs::read(path).unwrap();
        // In the first block, in the middle, and near the end of the data.
        for at in [80, whole.len() / 2, whole.len().saturating_sub(whole.len() / 8 + 300).max(80)] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
            let preloaded =
                ReadOnlyDatabase::open(dir.path()).and_then(|db| db.collection("c")?.preload(u64::MAX));
            match preloaded {
                Err(Error::Storage(StorageError::Corrupted { file, .. })) => assert_eq!(&file, path),
                other => panic!("{}, byte {at}: {other:?}", path.display()),
            }
        }
        std::fs::write(path, whole).unwrap();
    }
    ReadOnlyDatabase::open(dir.path()).unwrap().collection("c").unwrap().preload(u64::MAX).unwrap();
}
