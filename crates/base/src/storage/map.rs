//! Read-only mappings of files.

#![expect(unsafe_code, reason = "a file mapping can not be expressed safely; this module is its only home")]

use std::fs::File;
use std::io;

/// A whole file mapped read-only. Never writable, never shared for writing.
#[derive(Debug)]
pub struct Map {
    map: memmap2::Mmap,
}

impl Map {
    /// Maps `file`, which must be sealed: nobody in this program writes to it again.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes behind the mapping must not change while it exists. Every file that reaches this
        // point was sealed: it is published by rename after its last write and no code path opens it for
        // writing again. Strangers who truncate it are outside the promise of mapped mode (rule R18).
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self { map })
    }

    /// Tells the kernel that `length` bytes from `offset` will be read soon. A hint: errors mean nothing.
    pub fn will_need(&self, offset: usize, length: usize) {
        #[cfg(unix)]
        if offset < self.map.len() {
            let length = length.min(self.map.len() - offset);
            let _hint = self.map.advise_range(memmap2::Advice::WillNeed, offset, length);
        }
        #[cfg(not(unix))]
        let _unused = (offset, length);
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
