//! What each decoder must do with bytes that no one wrote: the bodies of the fuzz targets.
//!
//! A target takes any bytes and panics if a promise is broken. `fuzz/` gives them to libFuzzer; the test
//! `seeds_and_mutations` runs each of them over its seeds and a fixed set of mutations, so that no target rots. The
//! program of this crate writes the seeds.
//!
//! Where a format has checksums, the first byte of the input says what is done with the rest: left as it is, or
//! with the checksums put right, so that the fuzzer reaches what lies behind them. In the latter case an answer may
//! be wrong, because the bytes lie. It must still be an answer or a typed error, in bounded time and memory.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a broken promise is a panic, as in any test")]

mod changes;
mod checksums;
mod database;
mod directory;
mod filter;
mod log;
mod rows;
mod sealed;
pub mod seeds;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of the program in `fuzz/fuzz_targets`, and of its directory in `fuzz/seeds`.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&[u8]),
    /// How many bytes it may take in memory at once: so many for each byte of the input, and so many more.
    pub memory: (usize, usize),
}

/// For each byte of the input, and at least: what a decoder of one file may take.
const DECODER: (usize, usize) = (64, 1 << 20);
/// A whole database takes memory for its memtables and files, whatever is in them.
const DATABASE: (usize, usize) = (64, 32 << 20);

/// All targets.
pub const TARGETS: [Target; 15] = [
    Target { name: "wal_reader", run: log::wal_reader, memory: DECODER },
    Target { name: "posting", run: sealed::posting, memory: DECODER },
    Target { name: "vectors", run: sealed::vectors, memory: DECODER },
    Target { name: "kills", run: sealed::kills, memory: DECODER },
    Target { name: "index", run: sealed::index, memory: DECODER },
    Target { name: "dump", run: database::dump, memory: DECODER },
    Target { name: "manifest", run: database::manifest, memory: DATABASE },
    Target { name: "log_record", run: database::log_record, memory: DATABASE },
    Target { name: "directory", run: directory::directory, memory: DATABASE },
    Target { name: "json_lines", run: rows::json_lines, memory: DECODER },
    Target { name: "npy", run: rows::npy, memory: DECODER },
    Target { name: "fvecs", run: rows::fvecs, memory: DECODER },
    Target { name: "queries", run: rows::queries, memory: DECODER },
    Target { name: "changes", run: changes::changes, memory: DECODER },
    Target { name: "filter", run: filter::filter, memory: DECODER },
];

/// Runs the target of that name.
///
/// # Panics
/// If there is none, or if the input makes the target break a promise.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name}")).run)(input);
}
