//! Rotated vectors and the compact codes made from them: pure functions over slices, the same on every processor.
//!
//! **Owns** the rotation ([`Rotation`]). **Must not know** files, lists, documents or queries' options.

#![forbid(unsafe_code)]

mod random;
mod rotation;

pub use rotation::Rotation;
