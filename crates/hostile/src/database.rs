//! A small database of which some bytes lie: its manifest, a record of its log, or any file that is dumped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use plimsoll::storage::Storage;
use plimsoll::{
    CollectionConfig, Database, DatabaseBuilder, Document, Effort, Error, Key, Metric, ReadOnlyCollection,
    StorageError, WriteBatch, dump_in, verify_in,
};
use plimsoll_base::Lsn;
use plimsoll_base::checksum::crc32;
use plimsoll_sim::{SimClock, SimStorage};
use plimsoll_wal::format::{
    RECORD_ALIGNMENT, RECORD_HEADER_LEN, RecordHeader, RecordKind, SEGMENT_HEADER_LEN, SegmentHeader,
};

use crate::checksums;

/// Where the database is on its simulated disk.
pub(crate) const PATH: &str = "/db";

/// What a database holds: the documents of each collection.
pub(crate) type Contents = BTreeMap<String, BTreeMap<Key, Document>>;

/// Each version of each document, by collection and key.
pub(crate) type Versions = BTreeMap<(String, Key), Vec<Document>>;

/// A valid database.
pub(crate) struct Sample {
    /// The disk that it is on.
    pub(crate) disk: SimStorage,
    /// What it held after its last flush, and after each write since then.
    pub(crate) states: Vec<Contents>,
    /// Each version of each document, by collection and key.
    pub(crate) written: Versions,
}

/// Two collections, files of each kind but an index, and a log with four records that are not flushed.
pub(crate) static SMALL: LazyLock<Sample> = LazyLock::new(|| {
    let mut history = History::new();
    history.create("a", 2, Metric::L2);
    history.create("b", 3, Metric::Cosine);
    history.write("a", &(0..12).map(pair).collect::<Vec<_>>(), &[]);
    let vector = |n: u8| [1.0, f32::from(n), 0.5];
    history.write("b", &[0, 1, 2].map(|n| Document::new(format!("key {n}")).vector(vector(n))), &[]);
    history.flush();
    history.write("a", &[pair(1).text("changed")], &[2, 3]);
    history.flush();
    history.write("a", &[pair(20)], &[]);
    history.write("b", &[Document::new("key 1").text("tail").posting(0, 2, [3.0, 2.0, 1.0])], &[]);
    history.write("a", &[pair(21).metadata("deep", vec![1, 2])], &[4]);
    history.write("a", &[pair(5).text("last")], &[]);
    history.finish()
});

/// 4,200 documents, so that there is an index.
pub(crate) static INDEXED: LazyLock<Sample> = LazyLock::new(|| {
    let mut history = History::new();
    history.create("a", 2, Metric::L2);
    history.write("a", &(0..4200).map(pair).collect::<Vec<_>>(), &[]);
    history.flush();
    drop(history.database.compact().unwrap());
    history.write("a", &[pair(1).text("changed")], &[2, 3]);
    history.flush();
    history.write("a", &[pair(5000)], &[4]);
    history.finish()
});

fn pair(n: u64) -> Document {
    Document::new(n).text(format!("text {n}")).metadata("n", n).vector([(n % 97) as f32, (n % 89) as f32])
}

/// Small limits and no threads, so that runs repeat.
pub(crate) fn builder(disk: &SimStorage) -> DatabaseBuilder {
    let storage = Arc::new(disk.clone());
    let builder = Database::builder(PATH).storage(storage).clock(Arc::new(SimClock::default()));
    builder.background(false).seed(1).wal_segment_bytes(4096)
}

struct History {
    disk: SimStorage,
    database: Database,
    contents: Contents,
    states: Vec<Contents>,
    written: Versions,
}

impl History {
    fn new() -> Self {
        let disk = SimStorage::new();
        let database = builder(&disk).open().unwrap();
        let (contents, written) = (Contents::new(), Versions::new());
        Self { disk, database, contents, states: Vec::new(), written }
    }

    fn create(&mut self, name: &str, dimension: usize, metric: Metric) {
        self.database.create_collection(name, CollectionConfig::new(dimension, metric)).unwrap();
        self.contents.insert(name.to_owned(), BTreeMap::new());
    }

    fn write(&mut self, name: &str, documents: &[Document], deleted: &[u64]) {
        let (mut batch, held) = (WriteBatch::new(), self.contents.get_mut(name).unwrap());
        for document in documents {
            batch.upsert(document.clone());
            let place = (name.to_owned(), document.key.clone());
            self.written.entry(place).or_default().push(document.clone());
            held.insert(document.key.clone(), document.clone());
        }
        for key in deleted {
            batch.delete(*key);
            held.remove(&Key::from(*key));
        }
        self.database.collection(name).unwrap().write(&batch).unwrap();
        self.states.push(self.contents.clone());
    }

    fn flush(&mut self) {
        self.database.flush().unwrap();
        self.states = vec![self.contents.clone()];
    }

    fn finish(self) -> Sample {
        Sample { disk: self.disk.after_kill(), states: self.states, written: self.written }
    }
}

/// The files of a database that mean something, sorted.
pub(crate) fn files(disk: &SimStorage) -> Vec<PathBuf> {
    let means_something = |path: &PathBuf| !path.ends_with("LOCK") && !path.ends_with("RESERVE");
    disk.paths().into_iter().filter(means_something).collect()
}

/// Everything in some collections, or the first error.
pub(crate) fn contents(collections: &[ReadOnlyCollection]) -> Result<Contents, Error> {
    let mut contents = Contents::new();
    for collection in collections {
        let held = contents.entry(collection.name().to_owned()).or_default();
        for document in collection.scan() {
            let document = document?;
            held.insert(document.key.clone(), document);
        }
    }
    Ok(contents)
}

/// An error that names a file of the database, or says that this is none.
pub(crate) fn assert_typed(error: &Error, path: &Path) {
    let expected = match error {
        Error::Storage(StorageError::Corrupted { file, .. } | StorageError::UpgradeRequired { file, .. }) => {
            file.starts_with(path)
        }
        Error::Storage(StorageError::Io { path: at, source, .. }) => {
            at.starts_with(path) && source.kind() == std::io::ErrorKind::NotFound
        }
        Error::NotADatabase { .. } | Error::DatabaseNotFound(_) => true,
        _ => false,
    };
    assert!(expected, "{error:?}");
}

/// `Some` if all went well; the error of damage is checked to be a typed one.
pub(crate) fn answer<T>(result: Result<T, Error>) -> Option<T> {
    result.inspect_err(|error| assert_typed(error, Path::new(PATH))).ok()
}

/// `Some` if all went well. Where bytes lie under good checksums, the error may also name a memtable, be the
/// refusal to seal what contradicts itself, or say of a document that its key and its id do not fit each other.
fn any_answer<T>(result: Result<T, Error>) -> Option<T> {
    let refused = |error: &Error| match error {
        Error::Storage(StorageError::Corrupted { file, .. }) => file == Path::new("memtable"),
        Error::Storage(StorageError::Io { source, .. }) => source.kind() == std::io::ErrorKind::InvalidInput,
        Error::DocumentNotFound(_) | Error::IdCollision { .. } => true,
        _ => false,
    };
    match result {
        Err(error) if refused(&error) => None,
        result => answer(result),
    }
}

/// Does with a database what one does: verifies, opens, reads, searches, writes, flushes, compacts, opens again.
/// Its bytes may lie, so that nothing is said about the answers.
pub(crate) fn use_it(disk: &SimStorage) {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let path = Path::new(PATH);
    let _findings = any_answer(verify_in(path, &storage));
    if let Some(reader) = any_answer(plimsoll::ReadOnlyDatabase::open_in(path, storage, false)) {
        reader.collections().iter().for_each(look_around);
    }
    for _ in 0..2 {
        let Some(database) = any_answer(builder(disk).open()) else { return };
        for collection in database.collections() {
            if let Some(collection) = any_answer(collection.snapshot()) {
                look_around(&collection);
            }
            let vector = vec![0.5; collection.dimension()];
            any_answer(collection.upsert(Document::new("new").text("new").vector(vector)));
            any_answer(collection.delete(1));
        }
        let _stats = database.stats();
        any_answer(database.flush());
        any_answer(database.compact());
        let _closed = any_answer(database.close());
    }
}

fn look_around(collection: &ReadOnlyCollection) {
    let _count = any_answer(collection.count());
    collection.keys().take(1000).for_each(|key| drop(any_answer(key)));
    for document in collection.scan().take(1000).map_while(any_answer) {
        let _found = any_answer(collection.get(document.key));
    }
    let query = vec![0.5; collection.dimension()];
    for effort in [Effort::Exact, Effort::Recall(0.9)] {
        for partial in [false, true] {
            let search = collection.search(&query).k(5).effort(effort).allow_partial(partial);
            let _hits = any_answer(search.with_text(true).with_metadata(true).with_vector(true).run());
        }
    }
}

/// Any bytes as the manifest of a database; an odd first byte has their checksums put right.
pub(crate) fn manifest(input: &[u8]) {
    let Some((mode, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode % 2 == 1 {
        checksums::of_manifest(&mut bytes);
    }
    let disk = SMALL.disk.after_kill();
    let path = files(&disk).into_iter().find(|path| path.to_string_lossy().contains("MANIFEST")).unwrap();
    disk.put(&path, &bytes).unwrap();
    answer(dump_in(&path, &disk));
    use_it(&disk);
}

/// Any bytes as the payload of a record behind those of a good log.
pub(crate) fn log_record(payload: &[u8]) {
    let disk = SMALL.disk.after_kill();
    let path =
        files(&disk).into_iter().rfind(|path| path.extension().is_some_and(|ext| ext == "wal")).unwrap();
    let mut segment = disk.bytes(&path).unwrap();
    let header = SegmentHeader::decode(&segment[..SEGMENT_HEADER_LEN as usize], &path).unwrap();
    let (mut end, mut last) = (SEGMENT_HEADER_LEN as usize, header.previous.last_lsn);
    while let Some(bytes) = segment.get(end..).and_then(<[u8]>::first_chunk)
        && let Some(record) = RecordHeader::decode(bytes, header.salt)
    {
        (end, last) = (end + record.encoded_len() as usize, record.lsn);
    }
    let mut padded = payload.to_vec();
    padded.resize(
        (RECORD_HEADER_LEN + payload.len()).next_multiple_of(RECORD_ALIGNMENT) - RECORD_HEADER_LEN,
        0,
    );
    let record = RecordHeader {
        payload_len: payload.len() as u32,
        payload_crc: crc32(&padded),
        lsn: Lsn(last.0 + 1),
        durable_before: last,
        kind: RecordKind::Commit,
    };
    segment.truncate(end);
    segment.extend(record.encode(header.salt));
    segment.extend(padded);
    disk.put(&path, segment).unwrap();
    use_it(&disk);
}

/// Any bytes as a file that is dumped. The first byte chooses its name, the second whether checksums are put right.
pub(crate) fn dump(input: &[u8]) {
    let Some(([name, mode], bytes)) = input.split_first_chunk() else { return };
    let mut bytes = bytes.to_vec();
    let (name, put_right): (_, fn(&mut [u8])) = match name % 8 {
        0 => ("MANIFEST-000000000001", checksums::of_manifest),
        1 => ("000000000001.wal", checksums::of_segment),
        2 => ("000000000001.posting", checksums::of_sealed),
        3 => ("000000000001.vectors", checksums::of_sealed),
        4 => ("000000000001.kills", checksums::of_sealed),
        5 => ("000000000001.index", checksums::of_sealed),
        6 => ("LOCK", checksums::of_manifest),
        _ => ("MANIFEST-1.posting", checksums::of_sealed),
    };
    if mode % 2 == 1 {
        put_right(&mut bytes);
    }
    let (path, disk) = (Path::new(PATH).join(name), SimStorage::new());
    disk.put(&path, &bytes).unwrap();
    match dump_in(&path, &disk) {
        Err(Error::InvalidArgument(_)) => assert!(name == "LOCK" || name == "MANIFEST-1.posting"),
        result => drop(answer(result)),
    }
}
