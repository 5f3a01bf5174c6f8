//! A whole directory to which something was done: bytes changed, files cut, extended, removed, swapped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use plimsoll::storage::Storage;
use plimsoll::{Document, Effort, Error, ReadOnlyCollection, ReadOnlyDatabase, verify_in};
use plimsoll_base::header::HEADER_LEN;
use plimsoll_base::storage::OsStorage;
use plimsoll_sim::SimStorage;
use tempfile::TempDir;

use crate::checksums;
use crate::database::{
    Contents, INDEXED, PATH, SMALL, Sample, answer, assert_typed, builder, contents, files, use_it,
};

/// More edits than this say nothing new.
const MOST_EDITS: usize = 8;
/// The bytes of an edit.
const EDIT: usize = 8;

/// Where databases are mapped from.
static DIR: LazyLock<TempDir> =
    LazyLock::new(|| TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap());

/// The first byte chooses the database, and whether checksums are put right when all is done. Each edit is 8 bytes:
/// what, which file, where (4 bytes), with what (2 bytes).
///
/// With the checksums as they are, the answer is one of those that may be there after a crash, or a typed error that
/// `verify` finds, too; and from then on everything works.
pub(crate) fn directory(input: &[u8]) {
    let Some((choice, edits)) = input.split_first() else { return };
    // Miri is too slow for thousands of documents.
    let sample: &Sample = if choice >> 1 == 127 && cfg!(not(miri)) { &INDEXED } else { &SMALL };
    let disk = sample.disk.after_kill();
    let all = files(&disk);
    edits.chunks_exact(EDIT).take(MOST_EDITS).for_each(|bytes| edit(&disk, &all, bytes));
    if choice % 2 == 1 {
        put_right(&disk, &all);
        use_it(&disk);
    } else {
        check(&disk, sample);
    }
}

fn edit(disk: &SimStorage, all: &[PathBuf], bytes: &[u8]) {
    let place = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
    let value = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let path = &all[usize::from(bytes[1]) % all.len()];
    let Some(mut content) = disk.bytes(path) else { return };
    let len = content.len();
    match bytes[0] % 8 {
        0 if len > 0 => content[place % len] ^= 1 << (value % 8),
        1 if len > 0 => content[place % len] = value as u8,
        2 => content.truncate(place % (len + 1)),
        3 => content.resize(len + value % 4096, bytes[2]),
        4 => {
            disk.delete(path).unwrap();
            return;
        }
        5 => {
            let other = &all[value % all.len()];
            let Some(theirs) = disk.bytes(other) else { return };
            disk.put(other, &content).unwrap();
            content = theirs;
        }
        6 => {
            let start = place % (len + 1);
            let end = (start + value).min(len);
            content[start..end].fill(0);
        }
        _ if len >= 4 => {
            let at = place % (len - 3);
            let value = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, u32::MAX][value % 8];
            content[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        _ => {}
    }
    disk.put(path, content).unwrap();
}

/// Puts all checksums right, those of the sealed files in the manifest, too.
fn put_right(disk: &SimStorage, all: &[PathBuf]) {
    let mut sealed = Vec::new();
    let mut manifests = Vec::new();
    for path in all {
        let Some(mut bytes) = disk.bytes(path) else { continue };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wal") => checksums::of_segment(&mut bytes),
            None => {
                manifests.push(path);
                continue;
            }
            Some(_) => {
                checksums::of_sealed(&mut bytes);
                let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
                let crc = plimsoll_base::checksum::crc32(&bytes);
                sealed.extend(number.map(|number| (number, bytes.len() as u64, crc)));
            }
        }
        disk.put(path, bytes).unwrap();
    }
    for path in manifests {
        let Some(mut bytes) = disk.bytes(path) else { continue };
        // An entry is the file's number (u64), its length (u64), its checksum (u32), at any place.
        for (number, len, crc) in &sealed {
            let entry = |bytes: &[u8]| bytes[..8] == number.to_le_bytes() && bytes[13..16] == [0; 3];
            let at = bytes.windows(20).skip(HEADER_LEN + 28).position(entry);
            if let Some(at) = at.map(|at| at + HEADER_LEN + 28) {
                bytes[at + 8..at + 16].copy_from_slice(&len.to_le_bytes());
                bytes[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
            }
        }
        checksums::of_manifest(&mut bytes);
        disk.put(path, bytes).unwrap();
    }
}

fn check(disk: &SimStorage, sample: &Sample) {
    let path = Path::new(PATH);
    let storage: Arc<dyn Storage> = Arc::new(disk.after_kill());
    let report = answer(verify_in(path, &storage));
    let is_damaged = report.as_ref().is_none_or(plimsoll::VerifyReport::is_damaged);

    // Readers, in both modes: a state that was there, or an error.
    let read = ReadOnlyDatabase::open_in(path, storage, false).and_then(|db| contents(&db.collections()));
    assert_read(read, sample, path, is_damaged);
    // Miri has no mappings of files.
    if cfg!(not(miri)) {
        let mapped = DIR.path().join("db");
        copy_out(disk, &mapped);
        let read = ReadOnlyDatabase::open_in(&mapped, Arc::new(OsStorage), true);
        assert_read(read.and_then(|db| contents(&db.collections())), sample, &mapped, is_damaged);
        std::fs::remove_dir_all(&mapped).unwrap();
    }

    // The writer.
    let database = match builder(disk).open() {
        Ok(database) => database,
        Err(error) => {
            assert_typed(&error, path);
            assert!(is_damaged, "{error}, and verify finds nothing");
            return;
        }
    };
    let snapshot = database.snapshot();
    let found = contents(&snapshot.collections());
    let Some(mut held) = assert_read(found, sample, path, is_damaged) else {
        snapshot.collections().iter().for_each(|collection| search(collection, sample, true));
        return;
    };
    snapshot.collections().iter().for_each(|collection| search(collection, sample, false));
    drop(snapshot);
    let new = Document::new("new").vector([1.0, 1.0]);
    match answer(database.collection("a").unwrap().upsert(new.clone())) {
        Some(_) => drop(held.get_mut("a").unwrap().insert(new.key.clone(), new)),
        // A damaged collection can be read as far as it goes, and not written to.
        None => assert!(is_damaged),
    }
    // Flushing may read what is damaged.
    if answer(database.flush()).is_none() || answer(database.compact()).is_none() {
        assert!(is_damaged);
    }
    drop(database);
    if let Some(database) = answer(builder(disk).open())
        && let Some(again) = answer(contents(&database.snapshot().collections()))
    {
        assert!(again == held, "a reopened database holds something else");
    } else {
        assert!(is_damaged);
    }
}

/// What was read was there: after the last flush, or after a write since then.
fn assert_read(
    read: Result<Contents, Error>,
    sample: &Sample,
    path: &Path,
    is_damaged: bool,
) -> Option<Contents> {
    match read {
        Ok(contents) => {
            assert!(sample.states.contains(&contents), "an answer that never was: {contents:?}");
            Some(contents)
        }
        Err(error) => {
            assert_typed(&error, path);
            assert!(is_damaged, "{error}, and verify finds nothing");
            None
        }
    }
}

/// Whatever a search finds, someone wrote.
fn search(collection: &ReadOnlyCollection, sample: &Sample, partial: bool) {
    let query = vec![3.0; collection.dimension()];
    for effort in [Effort::Exact, Effort::Recall(0.95)] {
        let search = collection.search(&query).k(20).effort(effort).with_text(true).with_vector(true);
        let results = search.allow_partial(partial).run();
        let Some(results) = answer(results) else { continue };
        for hit in &results.hits {
            let versions = &sample.written[&(collection.name().to_owned(), hit.key.clone())];
            let postings = versions.iter().flat_map(|document| &document.postings);
            let mut vectors = postings.map(|posting| Some(&posting.vector));
            assert!(vectors.any(|vector| vector == hit.vector.as_ref()), "no one wrote {hit:?}");
        }
    }
}

/// Writes all files of the disk's database to a directory of the operating system's.
fn copy_out(disk: &SimStorage, to: &Path) {
    for path in disk.paths().iter().filter(|path| !path.ends_with("RESERVE")) {
        let target = to.join(path.strip_prefix(PATH).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, disk.bytes(path).unwrap()).unwrap();
    }
}
