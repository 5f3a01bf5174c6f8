//! Read-only mappings of files.

#![expect(unsafe_code, reason = "a file mapping can not be expressed safely; this module is its only home")]

use std::fs::File;
use std::io;

/// A whole file mapped read-only. Never writable, never shared for writing.
#[derive(Debug)]
pub struct Map {
    map: memmap2::Mmap,
    /// Whether the kernel says what of the file is in memory.
    #[cfg(target_os = "linux")]
    is_own: bool,
}

impl Map {
    /// Maps `file`, which must be sealed: nobody in this program writes to it again.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes behind the mapping must not change while it exists. Every file that reaches this
        // point was sealed: it is published by rename after its last write and no code path opens it for
        // writing again. Strangers who truncate it are outside the promise of mapped mode (rule R18).
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self {
            map,
            #[cfg(target_os = "linux")]
            is_own: linux::is_own(file),
        })
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

    /// Which of the 16 pieces of `piece` bytes from `offset` on are wholly in memory: one bit each, the lowest for the
    /// first. None are where the kernel does not say, and what is beyond the end is not.
    pub fn in_memory(&self, offset: usize, piece: usize) -> u16 {
        #[cfg(target_os = "linux")]
        if self.is_own {
            return linux::in_memory(&self.map, offset, piece);
        }
        let _unused = (offset, piece);
        0
    }
}

/// What the page cache has of a mapping. Elsewhere than on Linux `mincore` means other things, or is missing.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    /// Whether the file is this user's. Of files of others that it may not write, `mincore` says that they are in memory,
    /// whether or not they are. A file that does not say whose it is counts as theirs: it is mapped all the same.
    pub(super) fn is_own(file: &File) -> bool {
        file.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
    }

    pub(super) fn in_memory(map: &[u8], offset: usize, piece: usize) -> u16 {
        let page = rustix::param::page_size();
        let start = offset - offset % page;
        let end = offset.saturating_add(piece.saturating_mul(16)).min(map.len());
        let Some(bytes) = map.get(start..end) else { return 0 };
        let mut pages = vec![0; bytes.len().div_ceil(page)];
        // SAFETY: the bytes are of a mapping, from the beginning of a page on, and `pages` has a byte for each of their
        // pages, begun ones included. Nothing else is written.
        let failed =
            unsafe { libc::mincore(bytes.as_ptr().cast_mut().cast(), bytes.len(), pages.as_mut_ptr()) };
        if failed != 0 {
            return 0;
        }
        let is_in_memory = |piece_start: usize| {
            let piece_end = piece_start.saturating_add(piece).min(end);
            piece_start < piece_end
                && pages[(piece_start - start) / page..(piece_end - start).div_ceil(page)]
                    .iter()
                    .all(|page| page & 1 == 1)
        };
        (0..16).fold(0, |bits, number| {
            bits | u16::from(is_in_memory(offset.saturating_add(piece.saturating_mul(number)))) << number
        })
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "real files: mappings")]
    fn what_is_in_memory_is_known_by_pieces() {
        const PAGE: usize = 64 << 10;
        let file = tempfile::tempfile().unwrap();
        // A hole is not in memory before it is read, whatever the file system. The last page is a begun one.
        file.set_len(29 * PAGE as u64 + 1).unwrap();
        let write = |page: usize| file.write_all_at(&[1; PAGE], (page * PAGE) as u64).unwrap();
        [3, 4, 17, 18].into_iter().for_each(write);
        file.write_all_at(&[1], 29 * PAGE as u64).unwrap();
        let map = Map::new(&file).unwrap();
        assert_eq!(map.in_memory(0, PAGE), 1 << 3 | 1 << 4);
        assert_eq!(map.in_memory(16 * PAGE, PAGE), 1 << 1 | 1 << 2 | 1 << 13, "up to the end of the file");
        assert_eq!(map.in_memory(3 * PAGE + 100, 100), u16::MAX, "pieces of a page");
        assert_eq!(map.in_memory(PAGE, 2 * PAGE), 1 << 1 | 1 << 8 | 1 << 14, "and of several");
        for (offset, piece) in [(0, 0), (30 * PAGE, PAGE), (usize::MAX, usize::MAX), (0, usize::MAX)] {
            assert_eq!(map.in_memory(offset, piece), 0, "{offset}, {piece}");
        }
    }
}
