//! Locks and atomic numbers whose schedules can be explored.
//!
//! These are the standard library's, re-exported. Built with `--cfg shuttle` they are those of the crate shuttle, which
//! runs the threads of a test one at a time and chooses at each lock, wait and atomic access who goes on. The log and
//! the engine take from here what decides the order of commits, seals, snapshots and errors.
//!
//! What stays the standard library's never waits while another thread of the test could go on: `Arc`, `OnceLock`
//! (nothing is chosen while one is initialised), `ArcSwap` (it does not block), rayon (its closures compare and
//! compute), and the locks of the arena, of sealed files and of the simulated disk (each is given back before anything
//! from here is used). What is not explored by that is the order of accesses inside of them; ThreadSanitizer and Miri
//! look at these. Shuttle's memory is sequentially consistent: weaker orderings are theirs, too.
//!
//! The mutex counts for how many locks a thread has waited ([`waits`]), so that tests and searches can say that it was
//! none. Under shuttle that is not counted.

mod counted;

pub use counted::waits;

/// The mutex for what shuttle does not explore; it counts, too.
pub use counted::Mutex as PlainMutex;

#[cfg(not(shuttle))]
pub use counted::Mutex;

#[cfg(not(shuttle))]
pub use std::sync::{Condvar, MutexGuard, atomic};

#[cfg(shuttle)]
pub use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
