//! Plimsoll
pub use plimsoll_engine::*;
