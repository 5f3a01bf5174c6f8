//! Owned bytes at cache-line alignment, so that sections read into memory can be viewed as vectors just as
//! mapped ones are.

use crate::arena::{Arena, Part};

/// One cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The alignment of an [`AlignedBytes`] and of every section in a sealed file, in bytes.
pub const ALIGNMENT: usize = 64;

/// A byte buffer whose first byte is 64-byte aligned.
pub struct AlignedBytes(Memory);

enum Memory {
    Heap { lines: Vec<Line>, len: usize },
    Arena(Part),
}

impl AlignedBytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self(Memory::Heap { lines: bytemuck::zeroed_vec(len.div_ceil(ALIGNMENT)), len })
    }

    /// `len` zero bytes of an arena, or of their own if it has none to give.
    pub fn zeroed_in(arena: &Arena, len: usize) -> Self {
        arena.part(len).map_or_else(|| Self::zeroed(len), |part| Self(Memory::Arena(part)))
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap { lines, len } => &bytemuck::cast_slice(lines)[..*len],
            Memory::Arena(part) => part,
        }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap { lines, len } => &mut bytemuck::cast_slice_mut(lines)[..*len],
            Memory::Arena(part) => part,
        }
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len())
    }
}
