//! Memory for many buffers that live about as long as each other, such as the records of a memtable.
//!
//! A buffer of a megabyte that comes fresh from the operating system costs hundreds of page faults, which take
//! longer than filling it. An [`Arena`] asks for large chunks and hands out parts of them one after another; a
//! chunk goes back when the last of its parts is dropped. The process has one chunk in reserve, whose pages are
//! there already; another thread gets it ready ([`Preparation`]).

#![expect(unsafe_code, reason = "disjoint mutable parts of one mapping can not be expressed safely")]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapRaw};

use crate::aligned::ALIGNMENT;

/// The smallest chunk: what a memtable with a few small records takes.
const FIRST_CHUNK: usize = 64 << 10;
/// The largest chunk, but for a single buffer that is larger.
const LARGEST_CHUNK: usize = 8 << 20;
/// From this size on, the next chunk of an arena comes from the reserve.
const LARGE_CHUNK: usize = 1 << 20;
/// The smallest page there is.
const PAGE: usize = 4 << 10;

/// Hands out zeroed, 64-byte aligned parts of chunks. Any number of threads may ask.
#[derive(Debug, Default)]
pub struct Arena {
    open: Mutex<Open>,
    /// The bytes of all parts so far.
    given: AtomicUsize,
}

/// The chunk that parts are taken from.
#[derive(Debug, Default)]
struct Open {
    chunk: Option<Arc<Chunk>>,
    used: usize,
    /// The size of the last chunk.
    size: usize,
}

/// An anonymous mapping. Its bytes are reached only through the [`Part`]s: no reference to all of it exists.
struct Chunk {
    map: MmapRaw,
}

/// A part of a chunk, of which it is the only owner.
pub(crate) struct Part {
    chunk: Arc<Chunk>,
    offset: usize,
    len: usize,
}

impl Arena {
    /// How many bytes it has given out: what it may keep in memory.
    pub fn bytes(&self) -> usize {
        self.given.load(Relaxed)
    }

    /// `len` zero bytes; `None` if the system gives no memory that way.
    pub(crate) fn part(&self, len: usize) -> Option<Part> {
        let space = len.checked_next_multiple_of(ALIGNMENT)?;
        let mut open = lock(&self.open);
        if open.chunk.as_ref().is_none_or(|chunk| chunk.map.len() - open.used < space) {
            // Doubling keeps small arenas small; several buffers to a chunk keep what is left over small.
            let size = (open.size * 2).max(space.saturating_mul(4)).min(LARGEST_CHUNK);
            let size = size.next_power_of_two().max(FIRST_CHUNK);
            let reserve = if size >= LARGE_CHUNK { Reserve::take(space) } else { None };
            let chunk = match reserve {
                Some(chunk) => chunk,
                None => Chunk { map: MmapRaw::from(MmapMut::map_anon(size.max(space)).ok()?) },
            };
            (open.chunk, open.used, open.size) = (Some(Arc::new(chunk)), 0, size);
        }
        let chunk = Arc::clone(open.chunk.as_ref()?);
        let offset = open.used;
        open.used += space;
        self.given.fetch_add(space, Relaxed);
        Some(Part { chunk, offset, len })
    }
}

/// The one chunk that the process has ready.
struct Reserve {
    chunk: Mutex<Option<Chunk>>,
    /// Somebody took it, or would have.
    wanted: AtomicBool,
}

static RESERVE: Reserve = Reserve { chunk: Mutex::new(None), wanted: AtomicBool::new(false) };

impl Reserve {
    fn take(space: usize) -> Option<Chunk> {
        if space > LARGEST_CHUNK {
            return None;
        }
        RESERVE.wanted.store(true, Relaxed);
        lock(&RESERVE.chunk).take()
    }
}

/// Whether arenas grow so fast that a [`Preparation`] is worth its cost, and is due.
pub fn wants_reserve() -> bool {
    RESERVE.wanted.load(Relaxed)
}

/// A chunk on its way into the reserve.
#[derive(Debug)]
pub struct Preparation {
    map: MmapMut,
    touched: usize,
}

impl Preparation {
    /// Begins one if it is due.
    pub fn begin() -> Option<Self> {
        let due = RESERVE.wanted.swap(false, Relaxed) && lock(&RESERVE.chunk).is_none();
        let map = due.then(|| MmapMut::map_anon(LARGEST_CHUNK).ok())??;
        Some(Self { map, touched: 0 })
    }

    /// Gets some more of the pages, a matter of microseconds, and lets others have the processor. The last step
    /// puts the chunk into the reserve; otherwise the preparation is returned.
    ///
    /// Page by page rather than with `MAP_POPULATE`: whoever else maps or unmaps memory would have to wait for
    /// all of that.
    #[must_use]
    pub fn step(mut self) -> Option<Self> {
        let end = (self.touched + 16 * PAGE).min(self.map.len());
        self.map[self.touched..end].iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
        self.touched = end;
        std::thread::yield_now();
        if end < self.map.len() {
            return Some(self);
        }
        *lock(&RESERVE.chunk) = Some(Chunk { map: MmapRaw::from(self.map) });
        None
    }
}

impl std::ops::Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Arena::part` gave these bytes, which lie within the mapping, to no other part; the chunk, and
        // with it the mapping, lives as long as this part; anonymous mappings are zeroed and stay where they are.
        unsafe { std::slice::from_raw_parts(self.chunk.map.as_ptr().add(self.offset), self.len) }
    }
}

impl std::ops::DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; and parts are not cloned, so that whoever borrows this one mutably is alone.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.map.as_mut_ptr().add(self.offset), self.len) }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.map.len())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeroed_aligned_apart_and_outlive_the_arena() {
        let arena = Arena::default();
        let lens = [0, 1, 63, 64, 65, 1700, 70_000, 1_600_000, 9_000_000, 3];
        // Miri looks at each byte, and is slow.
        let lens = if cfg!(miri) { &lens[..6] } else { &lens[..] };
        let fill = |thread: u8| {
            let mut parts = Vec::new();
            for (n, len) in lens.iter().copied().cycle().take(100).enumerate() {
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
        let second = arena.part(100_000).unwrap();
        assert_eq!(second.chunk.map.len(), 512 << 10);
        let own = arena.part(20 << 20).unwrap();
        assert_eq!(own.chunk.map.len(), 20 << 20);
        assert_eq!(arena.part(1).unwrap().chunk.map.len(), LARGEST_CHUNK);
        assert_eq!(Arc::strong_count(&first.chunk), 1);
        assert_eq!(arena.bytes(), 1728 + 100_032 + (20 << 20) + 64);
        assert!(arena.part(usize::MAX).is_none() && arena.part(usize::MAX / 2).is_none());
    }

    #[test]
    fn a_large_arena_takes_the_reserve_and_a_small_one_does_not() {
        let arena = Arena::default();
        let _large = arena.part(LARGEST_CHUNK).unwrap();
        assert!(wants_reserve());
        let mut steps = 0;
        let mut preparation = Preparation::begin();
        while let Some(on) = preparation {
            (preparation, steps) = (on.step(), steps + 1);
        }
        // Other tests of this process may take it as soon as it is there.
        assert_eq!(steps, LARGEST_CHUNK / PAGE / 16);
        assert_eq!(Arena::default().part(1).unwrap().chunk.map.len(), FIRST_CHUNK);
    }
}
