//! Vectors that were paid for once: a cache by model, kind and content, in SQLite.
//!
//! **Owns** one file, `embeddings.sqlite`, in a directory that the caller gives, and an embedder that asks it first
//! ([`Cached`]). **Must not know** how vectors are made. It never fails a run: a file that is damaged is set aside and
//! begun anew, and one that is locked, full or not to be opened is gone around, which is counted and said once.
//! **On a crash** it has what was put before the crash of the process; after one of the machine it may have less, never
//! something else: each vector carries a checksum.

mod cached;
mod store;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub use cached::{Cached, CallCounts};
use store::{Store, StoreError};

use crate::embed::TextKind;

/// The hash of a text.
pub(crate) type Hash = [u8; 32];

/// A cache of vectors, shared by threads and by processes.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
    counts: Counts,
}

#[derive(Debug)]
enum State {
    Open(Store),
    /// It could not be opened, or failed in a way that trying again does not help.
    Bypassed,
}

#[derive(Debug, Default)]
struct Counts {
    bypassed: AtomicU64,
    set_aside: AtomicU64,
    evicted: AtomicU64,
}

/// What a cache has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Reads and writes that went around the cache because it was locked, full, or could not be used.
    pub bypassed: u64,
    /// How often a damaged file was set aside.
    pub set_aside: u64,
    /// Vectors that were removed for want of room.
    pub evicted: u64,
}

impl Cache {
    /// The name of the file in its directory.
    pub const FILE: &'static str = "embeddings.sqlite";
    /// How large a cache grows unless it is said: 4 GiB, about a million vectors of 1,024 numbers.
    pub const DEFAULT_BYTES: u64 = 4 << 30;

    /// The cache in a directory, which is made if it is missing. The vectors in it take at most `max_bytes`, which is
    /// held by removing those that were not used for the longest time, a tenth at once.
    ///
    /// This does not fail: see the module.
    pub fn open(directory: &Path, max_bytes: u64) -> Self {
        let cache = Self {
            directory: directory.to_path_buf(),
            max_bytes,
            state: Mutex::new(State::Bypassed),
            counts: Counts::default(),
        };
        let state = cache.open_store();
        *cache.state.lock() = state;
        cache
    }

    /// What it has been through since it was opened.
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            bypassed: self.counts.bypassed.load(Ordering::Relaxed),
            set_aside: self.counts.set_aside.load(Ordering::Relaxed),
            evicted: self.counts.evicted.load(Ordering::Relaxed),
        }
    }

    /// The vectors of texts: one per hash, in their order, where there is one.
    pub(crate) fn get(&self, model: &str, kind: TextKind, hashes: &[Hash]) -> Vec<Option<Vec<f32>>> {
        self.run(|store| store.get(model, kind, hashes)).unwrap_or_else(|| vec![None; hashes.len()])
    }

    /// Keeps vectors, all of them or none.
    pub(crate) fn put(&self, model: &str, kind: TextKind, vectors: &[(Hash, &[f32])]) {
        if vectors.is_empty() {
            return;
        }
        let evicted = self.run(|store| store.put(model, kind, vectors, self.max_bytes));
        self.counts.evicted.fetch_add(evicted.unwrap_or(0), Ordering::Relaxed);
    }

    /// How many numbers the vectors of a model have, if there are any.
    pub(crate) fn dimension(&self, model: &str) -> Option<usize> {
        self.run(|store| store.dimension(model)).flatten()
    }

    /// Removes all vectors of a model.
    pub(crate) fn forget(&self, model: &str) {
        self.run(|store| store.forget(model));
    }

    /// Does something with the store, or goes around it.
    fn run<T>(&self, mut work: impl FnMut(&mut Store) -> Result<T, StoreError>) -> Option<T> {
        let mut state = self.state.lock();
        let State::Open(store) = &mut *state else {
            self.counts.bypassed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        match work(store) {
            Ok(value) => return Some(value),
            Err(StoreError::Damaged(what)) => {
                // Closed before it is renamed, so that nothing is written to it any more.
                *state = State::Bypassed;
                self.set_aside(&what);
                *state = self.open_store();
                if let State::Open(store) = &mut *state
                    && let Ok(value) = work(store)
                {
                    return Some(value);
                }
            }
            Err(error) => {
                // Locked now, or full: the next call may do better.
                tracing::warn!(target: "plimsoll::embed", %error, file = %self.file().display(), "the cache of vectors is not used");
            }
        }
        self.counts.bypassed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Opens the store; begins anew when it is damaged.
    fn open_store(&self) -> State {
        if let Err(error) = std::fs::create_dir_all(&self.directory) {
            let directory = self.directory.display();
            tracing::warn!(target: "plimsoll::embed", %error, %directory, "there is no cache of vectors");
            return State::Bypassed;
        }
        let mut result = Store::open(&self.file());
        if let Err(StoreError::Damaged(what)) = &result {
            self.set_aside(what);
            result = Store::open(&self.file());
        }
        match result {
            Ok(store) => State::Open(store),
            Err(error) => {
                let file = self.file();
                tracing::warn!(target: "plimsoll::embed", %error, file = %file.display(), "there is no cache of vectors");
                State::Bypassed
            }
        }
    }

    /// Renames a damaged file, in the place of one that was set aside before.
    fn set_aside(&self, what: &str) {
        let file = self.file();
        let aside = self.directory.join(format!("{}.damaged", Self::FILE));
        tracing::warn!(target: "plimsoll::embed", file = %file.display(), aside = %aside.display(), what, "the cache of vectors is damaged and begun anew");
        self.counts.set_aside.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = std::fs::rename(&file, &aside) {
            tracing::warn!(target: "plimsoll::embed", %error, "the damaged cache can not be renamed");
        }
        for end in ["-wal", "-shm"] {
            // They belong to the damaged file, and would be read as parts of the new one. Mostly there are none.
            let _ = std::fs::remove_file(self.directory.join(format!("{}{end}", Self::FILE)));
        }
    }

    /// Its file.
    pub fn file(&self) -> PathBuf {
        self.directory.join(Self::FILE)
    }
}

#[cfg(test)]
mod tests;
