//! Torture tests: power cuts, bad disks and full disks, from seeds that replay.
//!
//! A database runs on the simulated disk of `plimsoll-sim`, beside a naive [`model`] of what it must hold.
//! Each **layer** goes through one kind of trouble; a layer consists of **cases**, each of which has a name
//! that runs it again (`plimsoll-torture replay LAYER:CASE`), and ends well or in a [`Violation`]. A panic in
//! a case is one, wherever it comes from.
//!
//! **Owns** the layers, the model, the generators and the recorder of workloads; `tests/properties` use them,
//! too. **Must not know** what is inside the database: it uses the public face only.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed check is a panic")]

pub mod campaign;
pub mod counters;
pub mod crashes;
pub mod exhaustive;
pub mod faults;
pub mod full_disk;
pub mod generate;
pub mod hook;
pub mod model;
pub mod random;
pub mod recorder;
pub mod recovery;
pub mod runs;
pub mod workloads;

mod catch;

pub use campaign::{Campaign, Layer, Violation};
