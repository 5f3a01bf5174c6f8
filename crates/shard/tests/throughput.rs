//! How fast files are written and read. `cargo test --release -p plimsoll-shard --test throughput -- --ignored
//! --nocapture`; `PLIMSOLL_BENCH_DIR` chooses where (default: memory, so that the disk is left out).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::*;
use plimsoll_base::storage::{DirEntry, Lock, OsStorage, ReadFile, Storage, SyncFile, WriteFile};
use plimsoll_base::{DocumentId, DocumentOrdinal, FileNumber, Lsn, Result, Version};
use plimsoll_shard::SealedView;
use plimsoll_shard::posting::write_posting_file;
use plimsoll_shard::*;

const DIMENSION: usize = 768;
const DOCUMENTS: usize = 200_000;

/// Documents of one posting each, their vectors windows into one array.
struct Many {
    vectors: Vec<f32>,
}

impl Documents for Many {
    fn len(&self) -> usize {
        DOCUMENTS
    }

    fn document(&self, index: usize) -> Result<DocumentRef<'_>> {
        let hash = (index as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        Ok(DocumentRef {
            ordinal: DocumentOrdinal(index as u64),
            id: DocumentId(hash.to_be_bytes()),
            version: Version::new(Lsn(1), index as u32),
            key: b"a key of some length",
            text: Some(
                "A text of a hundred bytes or so, which is what a short passage in a corpus comes to, or less.",
            ),
            metadata: b"{}",
            ranges: &[PostingRange { start: 0, length: 20 }],
        })
    }

    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>> {
        let start = index * 61 % (self.vectors.len() - DIMENSION);
        Ok(RowsRef { vectors: &self.vectors[start..start + DIMENSION], norms: None })
    }
}

/// A disk that takes everything in no time and keeps nothing.
#[derive(Debug)]
struct NoDisk;

#[derive(Debug, Default)]
struct NoFile(u64);

impl WriteFile for NoFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0 += bytes.len() as u64;
        Ok(())
    }

    fn preallocate(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn position(&self) -> u64 {
        self.0
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        Ok(Box::new(NoDisk))
    }
}

impl SyncFile for NoDisk {
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

impl Storage for NoDisk {
    fn create_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, _: &Path) -> Result<Vec<DirEntry>> {
        Ok(Vec::new())
    }

    fn create(&self, _: &Path) -> Result<Box<dyn WriteFile>> {
        Ok(Box::new(NoFile::default()))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        OsStorage.open(path)
    }

    fn rename_noreplace(&self, _: &Path, _: &Path) -> Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        OsStorage.lock(path)
    }

    fn free_space(&self, _: &Path) -> Result<u64> {
        Ok(u64::MAX)
    }
}

#[test]
#[ignore = "a measurement"]
fn throughput() {
    let dir = std::env::var("PLIMSOLL_BENCH_DIR")
        .map_or_else(|_| temp_dir(), |dir| tempfile::TempDir::new_in(dir).unwrap());
    let docs = Many { vectors: (0..16 << 20).map(|i| (i % 1000) as f32 / 999.0 - 0.5).collect() };
    let raw = (DOCUMENTS * DIMENSION * 4) as f64 / 1e9;
    for number in 1..4 {
        let start = Instant::now();
        let sum: f32 = docs.vectors.chunks_exact(DIMENSION).map(posting::norm).sum();
        let rate = docs.vectors.len() as f64 * 4.0 / 1e9 / start.elapsed().as_secs_f64();
        println!("norms: {rate:.2} GB/s ({sum})");
        println!("write, no disk: {:.2} GB/s", raw / write(&NoDisk, dir.path(), number, &docs).1);
        let (file, seconds) = write(&OsStorage, dir.path(), number, &docs);
        println!("write: {raw:.2} GB of vectors in {seconds:.3} s = {:.2} GB/s", raw / seconds);
        let meta = commit(dir.path(), file);
        for mode in MODES {
            read(dir.path(), &meta, mode, raw);
        }
        std::fs::remove_file(dir.path().join(meta.name().to_string())).unwrap();
    }
}

fn write<'a>(storage: &'a dyn Storage, dir: &Path, number: u64, docs: &Many) -> (PendingFile<'a>, f64) {
    let start = Instant::now();
    let (number, info) = (FileNumber(number), info(DIMENSION as u32));
    let bloom = |ids: &[DocumentId]| vec![0; ids.len()];
    let file = write_posting_file(storage, dir, number, DATABASE, &info, docs, bloom).unwrap();
    (file, start.elapsed().as_secs_f64())
}

fn read(dir: &Path, meta: &FileMeta, mode: ReadMode, raw: f64) {
    let start = Instant::now();
    let file = PostingFile::open(&OsStorage, dir, meta, DATABASE, mode).unwrap();
    println!("{mode:?} open: {:.1} us", start.elapsed().as_secs_f64() * 1e6);
    for pass in ["first scan (verifies)", "second scan"] {
        let (start, mut sum) = (Instant::now(), 0.0);
        for row in (0..file.rows()).step_by(256) {
            let rows = file.vectors(row..file.rows().min(row + 256)).unwrap();
            sum += rows.iter().step_by(16).sum::<f32>();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{mode:?} {pass}: {:.2} GB/s ({sum})", raw / seconds);
    }
    let wanted: Vec<_> = (0..DOCUMENTS).step_by(2).map(|i| file.entry(i).unwrap().id()).collect();
    for pass in ["first", "second"] {
        let start = Instant::now();
        for (i, id) in wanted.iter().enumerate() {
            assert_eq!(file.find(id).unwrap(), Some(i * 2));
        }
        let each = start.elapsed().as_secs_f64() / wanted.len() as f64;
        println!("{mode:?} find, {pass} time: {:.0} ns", each * 1e9);
    }
    let start = Instant::now();
    file.sealed().verify().unwrap();
    println!("{mode:?} checksums: {:.2} GB/s", meta.len as f64 / 1e9 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    file.verify().unwrap();
    println!("{mode:?} verify: {:.2} GB/s", meta.len as f64 / 1e9 / start.elapsed().as_secs_f64());
}
