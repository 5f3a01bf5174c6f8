//! The simulator and the operating system answer the same calls the same way.
//!
//! Not compared, because nothing in Plimsoll does it: opening, renaming or removing a directory as a file,
//! and syncing a file as a directory.

#![cfg(target_os = "linux")]

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_base::storage::{DirEntry, Lock, OsStorage, ReadFile, Storage, WriteFile};
use plimsoll_base::{Result, StorageError};
use plimsoll_sim::SimStorage;
use proptest::prelude::*;

/// One call: on a directory out of [`DIRS`], a path out of [`PATHS`], or the handle in a slot.
#[derive(Debug, Clone, Copy)]
enum Call {
    CreateDir(usize),
    List(usize),
    SyncDir(usize),
    FreeSpace(usize),
    Lock(usize, usize),
    Unlock(usize),
    Create(usize, usize),
    Append(usize, usize),
    Preallocate(usize, u64),
    Sync(usize),
    CloseWriter(usize),
    Open(usize, usize),
    Read(usize, u64, usize),
    CloseReader(usize),
    Rename(usize, usize),
    Remove(usize),
}

const DIRS: [&str; 4] = [".", "d", "d/e", "a"];
const PATHS: [&str; 8] = ["a", "b", "./b", "d", "d/a", "d/b", "d/e/a", "a/x"];
const SLOTS: usize = 2;

/// A storage with what a program holds open on it.
struct Program<'a> {
    storage: &'a dyn Storage,
    root: &'a Path,
    writers: [Option<Box<dyn WriteFile>>; SLOTS],
    readers: [Option<Arc<dyn ReadFile>>; SLOTS],
    locks: [Option<Box<dyn Lock>>; SLOTS],
    /// How many bytes were appended so far, so that neighbours differ.
    appended: usize,
}

impl<'a> Program<'a> {
    fn new(storage: &'a dyn Storage, root: &'a Path) -> Self {
        let (writers, readers, locks) = Default::default();
        Self { storage, root, writers, readers, locks, appended: 0 }
    }

    /// Makes the call and describes its outcome, without the root.
    fn call(&mut self, call: Call) -> String {
        match call {
            Call::CreateDir(dir) => show(self.storage.create_dir(&self.dir(dir))),
            Call::List(dir) => show(self.storage.list(&self.dir(dir)).map(without_lock_lengths)),
            Call::SyncDir(dir) if self.is_file(&self.dir(dir)) => "not compared".to_owned(),
            Call::SyncDir(dir) => show(self.storage.sync_dir(&self.dir(dir))),
            Call::FreeSpace(dir) => show(self.storage.free_space(&self.dir(dir)).map(|free| free > 0)),
            Call::Lock(slot, dir) => {
                let result = self.storage.lock(&self.dir(dir).join("LOCK"));
                keep(&mut self.locks[slot], result)
            }
            Call::Unlock(slot) => show(Ok(self.locks[slot].take().is_some())),
            Call::Open(_, path) | Call::Rename(path, _) | Call::Remove(path)
                if self.is_dir(&self.path(path)) =>
            {
                "not compared".to_owned()
            }
            Call::Rename(from, to) => show(self.storage.rename_noreplace(&self.path(from), &self.path(to))),
            Call::Remove(path) => show(self.storage.remove(&self.path(path))),
            _ => self.call_on_file(call),
        }
    }

    fn call_on_file(&mut self, call: Call) -> String {
        match call {
            Call::Create(slot, path) => {
                let result = self.storage.create(&self.path(path));
                keep(&mut self.writers[slot], result)
            }
            Call::Append(slot, length) => {
                let bytes: Vec<u8> = (self.appended..).map(|byte| byte as u8).take(length).collect();
                self.appended += length;
                on(&mut self.writers[slot], |file| file.append(&bytes).map(|()| file.position()))
            }
            Call::Preallocate(slot, bytes) => on(&mut self.writers[slot], |file| file.preallocate(bytes)),
            Call::Sync(slot) => on(&mut self.writers[slot], |file| file.sync().and(file.syncer()?.sync())),
            Call::CloseWriter(slot) => show(Ok(self.writers[slot].take().is_some())),
            Call::Open(slot, path) => {
                let result = self.storage.open(&self.path(path));
                keep(&mut self.readers[slot], result)
            }
            Call::Read(slot, offset, length) => on(&mut self.readers[slot], |file| {
                let mut buffer = vec![0; length];
                file.read_exact_at(offset, &mut buffer).map(|()| (file.len(), buffer))
            }),
            Call::CloseReader(slot) => show(Ok(self.readers[slot].take().is_some())),
            other => format!("{other:?} is not on a file"),
        }
    }

    fn dir(&self, dir: usize) -> PathBuf {
        self.root.join(DIRS[dir])
    }

    fn path(&self, path: usize) -> PathBuf {
        self.root.join(PATHS[path])
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.storage.list(path).is_ok()
    }

    fn is_file(&self, path: &Path) -> bool {
        !self.is_dir(path) && self.storage.open(path).is_ok()
    }
}

/// An outcome without what may differ: paths, error texts, who holds a lock.
fn show<T: Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(StorageError::Io { operation, source, .. }) => format!("{operation}: {:?}", source.kind()),
        Err(StorageError::Locked { .. }) => "locked".to_owned(),
        Err(other) => format!("unexpected: {other}"),
    }
}

fn keep<T>(slot: &mut Option<T>, result: Result<T>) -> String {
    show(result.map(|value| {
        *slot = Some(value);
    }))
}

fn on<T, V: Debug>(slot: &mut Option<T>, call: impl FnOnce(&mut T) -> Result<V>) -> String {
    slot.as_mut().map_or("no handle".to_owned(), |value| show(call(value)))
}

fn without_lock_lengths(mut entries: Vec<DirEntry>) -> Vec<DirEntry> {
    for entry in &mut entries {
        entry.len = if entry.name == "LOCK" { 0 } else { entry.len };
    }
    entries
}

/// A directory of the operating system, removed in the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("conformance-{}-{number}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

/// Makes the calls on both; the outcomes that differ, as (call, operating system, simulator).
fn differences(calls: &[Call]) -> Result<Vec<(Call, String, String)>> {
    let (dir, simulator) = (TempDir::new(), SimStorage::new());
    OsStorage.create_dir(&dir.0)?;
    simulator.create_dir(&dir.0)?;
    let (mut expected, mut got) = (Program::new(&OsStorage, &dir.0), Program::new(&simulator, &dir.0));
    let outcomes = calls.iter().map(|call| (*call, expected.call(*call), got.call(*call)));
    Ok(outcomes.filter(|(_, expected, got)| expected != got).collect())
}

#[test]
fn the_life_of_a_database_directory_has_the_same_outcomes() {
    let calls = [
        Call::CreateDir(1),
        Call::CreateDir(1),
        Call::Lock(0, 1),
        Call::Lock(1, 1),
        Call::Create(0, 4),
        Call::Create(1, 4),
        Call::Preallocate(0, 4096),
        Call::Append(0, 100),
        Call::Append(0, 0),
        Call::Open(0, 4),
        Call::Append(0, 600),
        Call::Sync(0),
        Call::Read(0, 90, 20),
        Call::Read(0, 4000, 96),
        Call::Read(0, 4000, 97),
        Call::Read(0, 5000, 0),
        Call::Append(0, 4000),
        Call::Read(0, 4100, 10),
        Call::SyncDir(1),
        Call::Rename(4, 5),
        Call::Open(1, 4),
        Call::Open(1, 5),
        Call::Read(1, 0, 4700),
        Call::Create(1, 4),
        Call::Rename(4, 5),
        Call::Rename(5, 5),
        Call::Rename(6, 0),
        Call::List(0),
        Call::List(1),
        Call::List(2),
        Call::Remove(5),
        Call::Remove(5),
        Call::Read(1, 0, 4700),
        Call::Append(0, 1),
        Call::Unlock(0),
        Call::Lock(1, 1),
        Call::FreeSpace(1),
        Call::FreeSpace(2),
        Call::List(1),
    ];
    let differences = differences(&calls).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
}

fn any_call() -> impl Strategy<Value = Call> {
    let (dir, path, slot) = (0..DIRS.len(), 0..PATHS.len(), 0..SLOTS);
    prop_oneof![
        2 => dir.clone().prop_map(Call::CreateDir),
        2 => dir.clone().prop_map(Call::List),
        1 => dir.clone().prop_map(Call::SyncDir),
        1 => dir.clone().prop_map(Call::FreeSpace),
        1 => (slot.clone(), dir).prop_map(|(slot, dir)| Call::Lock(slot, dir)),
        1 => slot.clone().prop_map(Call::Unlock),
        4 => (slot.clone(), path.clone()).prop_map(|(slot, path)| Call::Create(slot, path)),
        4 => (slot.clone(), 0_usize..2000).prop_map(|(slot, length)| Call::Append(slot, length)),
        1 => (slot.clone(), 1_u64..5000).prop_map(|(slot, bytes)| Call::Preallocate(slot, bytes)),
        1 => slot.clone().prop_map(Call::Sync),
        1 => slot.clone().prop_map(Call::CloseWriter),
        4 => (slot.clone(), path.clone()).prop_map(|(slot, path)| Call::Open(slot, path)),
        4 => (slot.clone(), 0_u64..3000, 0_usize..3000)
            .prop_map(|(slot, offset, length)| Call::Read(slot, offset, length)),
        1 => slot.prop_map(Call::CloseReader),
        3 => (path.clone(), path.clone()).prop_map(|(from, to)| Call::Rename(from, to)),
        3 => path.prop_map(Call::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn any_calls_have_the_same_outcomes(calls in prop::collection::vec(any_call(), 1..60)) {
        let differences = differences(&calls).unwrap();
        prop_assert!(differences.is_empty(), "{:#?}", differences);
    }
}
