//! A list that one thread appends to while any number read it, without a lock.
//!
//! Elements never move: they live in chunks that double in size, and the length is published after the
//! element is in place. This is the usual segmented array; the once-cells keep it free of `unsafe`.

use std::sync::OnceLock;

use plimsoll_base::sync::atomic::{AtomicUsize, Ordering};

const CHUNKS: usize = 32;
const FIRST: usize = 32;

/// An append-only list. [`AppendList::push`] must not be called by two threads at once; the second would
/// get its element back.
pub(crate) struct AppendList<T> {
    chunks: [OnceLock<Box<[OnceLock<T>]>>; CHUNKS],
    len: AtomicUsize,
}

impl<T> AppendList<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], len: AtomicUsize::new(0) }
    }

    /// Appends `value` and returns its index; gives it back if another thread appends at the same time or
    /// the list is full.
    pub(crate) fn push(&self, value: T) -> Result<usize, T> {
        let index = self.len.load(Ordering::Relaxed);
        let (chunk, slot) = place(index);
        let Some(chunk_cell) = self.chunks.get(chunk) else { return Err(value) };
        let slots = chunk_cell.get_or_init(|| (0..FIRST << chunk).map(|_| OnceLock::new()).collect());
        slots[slot].set(value)?;
        self.len.store(index + 1, Ordering::Release);
        Ok(index)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let (chunk, slot) = place(index);
        self.chunks.get(chunk)?.get()?.get(slot)?.get()
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The elements that were there when the iteration began.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// The chunk of an element and its slot there: chunk c holds `FIRST << c` elements.
fn place(index: usize) -> (usize, usize) {
    let chunk = (index / FIRST + 1).ilog2() as usize;
    (chunk, index - FIRST * ((1 << chunk) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_a_growing_prefix_while_one_thread_appends() {
        let end = if cfg!(miri) { 100 } else { 10_000 };
        let list = AppendList::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < end {
                        let now = list.iter().enumerate().map(|(i, v)| assert_eq!(i, *v)).count();
                        assert!(now >= seen);
                        seen = now;
                    }
                });
            }
            for i in 0..end {
                assert_eq!(list.push(i), Ok(i));
            }
        });
        assert_eq!(list.get(end - 1), Some(&(end - 1)));
        assert_eq!(list.get(end), None);
    }
}
