//! Memory for many buffers that live about as long as each other, such as the records of a memtable.
//!
//! A buffer of a megabyte that comes fresh from the operating system costs hundreds of page faults, which take
//! longer than filling it. An arena asks for large chunks and hands out parts of them one after another; a chunk
//! goes back when the last of its parts is dropped. Another thread can have the next chunk ready, its pages
//! already there ([`Arena::prepare`]).

#![expect(unsafe_code, reason = "disjoint mutable parts of one mapping can not be expressed safely")]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

use crate::aligned::ALIGNMENT;

/// The smallest chunk: what a memtable with a few small records takes.
const FIRST_CHUNK: usize = 64 << 10;
/// The largest chunk, but for a single buffer that is larger.
const LARGEST_CHUNK: usize = 8 << 20;
/// From this size of the open chunk on, the next one is worth preparing.
const WORTH_PREPARING: usize = 1 << 20;

/// The smallest page there is.
const PAGE: usize = 4 << 10;

/// Hands out zeroed, 64-byte aligned parts of chunks. Any number of threads may ask.
#[derive(Debug, Default)]
pub struct Arena {
    open: Mutex<Open>,
}

/// The chunk that parts are taken from.
#[derive(Debug, Default)]
struct Open {
    chunk: Option<Arc<Chunk>>,
    used: usize,
    /// The size of the last chunk.
    size: usize,
    /// The chunk to be opened next, if it is ready.
    spare: Option<Arc<Chunk>>,
}

/// An anonymous mapping. Its bytes are reached only through the [`Part`]s.
#[derive(Debug)]
struct Chunk {
    start: NonNull<u8>,
    /// Keeps the memory.
    map: MmapMut,
}

// SAFETY: the pointer is that of the mapping, which is `Send` and `Sync`; the parts, which alone follow it, do
// not overlap.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

/// A part of a chunk, of which it is the only owner.
#[derive(Debug)]
pub(crate) struct Part {
    chunk: Arc<Chunk>,
    offset: usize,
    len: usize,
}

impl Arena {
    /// An arena for what comes after this one, which leaves it the chunk that it has ready.
    pub fn successor(&self) -> Self {
        let spare = self.open().spare.take();
        let size = spare.as_ref().map_or(0, |spare| spare.map.len());
        Self { open: Mutex::new(Open { size, spare, ..Open::default() }) }
    }

    /// Whether so much is asked of it that [`Arena::prepare`] is worth its cost, and is due.
    pub fn wants_spare(&self) -> bool {
        let open = self.open();
        open.spare.is_none() && open.chunk.is_some() && open.size >= WORTH_PREPARING
    }

    /// Gets the next chunk ready, if that is due.
    pub fn prepare(&self) {
        if self.wants_spare()
            && let Some(chunk) = Chunk::new(LARGEST_CHUNK, Pages::Now)
        {
            self.open().spare.get_or_insert(Arc::new(chunk));
        }
    }

    /// `len` zero bytes; `None` if the system gives no memory that way.
    pub(crate) fn part(&self, len: usize) -> Option<Part> {
        let space = len.checked_next_multiple_of(ALIGNMENT)?;
        let mut open = self.open();
        if open.chunk.as_ref().is_none_or(|chunk| chunk.map.len() - open.used < space) {
            // Doubling keeps small arenas small; several buffers to a chunk keep what is left over small.
            let size = (open.size * 2).max(space.saturating_mul(4)).next_power_of_two();
            let size = size.clamp(FIRST_CHUNK, LARGEST_CHUNK);
            let spare = open.spare.take_if(|spare| spare.map.len() >= space);
            let chunk = match spare {
                Some(spare) => spare,
                None => Arc::new(Chunk::new(size.max(space), Pages::WhenTouched)?),
            };
            (open.chunk, open.used, open.size) = (Some(chunk), 0, size);
        }
        let chunk = Arc::clone(open.chunk.as_ref()?);
        let offset = open.used;
        open.used += space;
        Some(Part { chunk, offset, len })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Every change is complete before anything that could panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a chunk gets its pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    Now,
    WhenTouched,
}

impl Chunk {
    fn new(size: usize, pages: Pages) -> Option<Self> {
        let mut map = MmapMut::map_anon(size).ok()?;
        if pages == Pages::Now {
            // Not by `MAP_POPULATE`: whoever else maps or unmaps memory would have to wait for all of it.
            for pages in map.chunks_mut(16 * PAGE) {
                pages.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
                std::thread::yield_now();
            }
        }
        Some(Self { start: NonNull::new(map.as_mut_ptr())?, map })
    }
}

impl std::ops::Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Arena::part` gave these bytes, which lie within the mapping, to no other part; the chunk, and
        // with it the mapping, lives as long as this part; anonymous mappings are zeroed and stay where they are.
        unsafe { std::slice::from_raw_parts(self.chunk.start.add(self.offset).as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; and parts are not cloned, so that whoever borrows this one mutably is alone.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start.add(self.offset).as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeroed_aligned_apart_and_outlive_the_arena() {
        let arena = Arena::default();
        let lens = [0, 1, 63, 64, 65, 1700, 70_000, 1_600_000, 9_000_000, 3];
        let fill = |thread: u8| {
            let mut parts = Vec::new();
            for (n, len) in lens.into_iter().cycle().take(100).enumerate() {
                let mut part = arena.part(len).unwrap();
                assert_eq!(part.as_ptr().align_offset(ALIGNMENT), 0);
                assert!(part.len() == len && part.iter().all(|byte| *byte == 0));
                part.fill(thread * 100 + n as u8);
                parts.push(part);
            }
            parts
        };
        let threads = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|thread| scope.spawn(move || fill(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        drop(arena);
        for (thread, parts) in threads.iter().enumerate() {
            for (n, part) in parts.iter().enumerate() {
                assert!(part.iter().all(|byte| usize::from(*byte) == thread * 100 + n));
            }
        }
    }

    #[test]
    fn chunks_grow_with_what_is_asked_for_and_are_given_back() {
        let arena = Arena::default();
        let first = arena.part(1700).unwrap();
        assert_eq!(first.chunk.map.len(), FIRST_CHUNK);
        let large = arena.part(1 << 20).unwrap();
        assert_eq!(large.chunk.map.len(), 4 << 20);
        let own = arena.part(20 << 20).unwrap();
        assert_eq!(own.chunk.map.len(), 20 << 20);
        assert_eq!(arena.part(1).unwrap().chunk.map.len(), LARGEST_CHUNK);
        assert_eq!(Arc::strong_count(&first.chunk), 1);
    }

    #[test]
    fn a_prepared_chunk_is_the_next_one_and_passes_to_the_successor() {
        let arena = Arena::default();
        arena.prepare();
        assert!(arena.open().spare.is_none(), "nothing was asked for yet");
        let _small = arena.part(100).unwrap();
        assert!(!arena.wants_spare());
        let _large = arena.part(LARGEST_CHUNK).unwrap();
        assert!(arena.wants_spare());
        arena.prepare();
        assert!(!arena.wants_spare());
        let start = arena.open().spare.as_ref().unwrap().start;
        let successor = arena.successor();
        assert!(arena.wants_spare() && !successor.wants_spare());
        assert_eq!(successor.part(1).unwrap().chunk.start, start);
        assert!(successor.wants_spare());
    }
}
