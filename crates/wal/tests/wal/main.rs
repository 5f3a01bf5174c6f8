//! The log against a simulated disk.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also in its helpers")]

mod common;
mod crash;
mod damage;
mod faults;
mod golden;
mod log;
mod pending;
mod readers;
mod salvage;
mod speed;
