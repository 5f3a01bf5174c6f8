//! Rows whose lists were scanned before there was a k-th best distance to compare them with.

use plimsoll_kernels::BLOCK;

use crate::lanes::{lanes, mask_of};

/// The bounds of such rows, and which rows they are of.
#[derive(Debug, Default)]
pub(crate) struct Unbounded {
    /// Whole blocks; infinite where there is no row, or it was taken.
    lows: Vec<f32>,
    lists: Vec<List>,
    least: Vec<f32>,
}

/// A part of a list.
#[derive(Debug, Clone, Copy)]
struct List {
    /// Where its bounds begin.
    first: usize,
    section: u32,
    /// The number of the row that the first bound would be of: rows of other lists may stand in front.
    row: u32,
}

impl Unbounded {
    pub(crate) fn clear(&mut self) {
        self.lows.clear();
        self.lists.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Adds the blocks of a list in a section: the bounds, and for each block which of them are of its rows. The first
    /// bound of them all is of the row number `row`, which may be "below" 0.
    pub(crate) fn add(&mut self, section: u32, row: u32, lows: &[f32], masks: &[u32]) {
        self.lists.push(List { first: self.lows.len(), section, row });
        for (lows, mask) in lows.as_chunks::<BLOCK>().0.iter().zip(masks) {
            let at = self.lows.len();
            self.lows.extend(lows.map(|low| low.min(f32::MAX)));
            // Most of the time that is none.
            for lane in lanes(!mask) {
                self.lows[at + lane] = f32::INFINITY;
            }
        }
    }

    /// Takes the most promising rows: at least `count` of them, unless there are fewer, and seldom many more.
    pub(crate) fn take_best(&mut self, count: usize, take: impl FnMut(f32, u32, u32)) {
        // The least of every n-th bound, for some large n: as many of these as are wanted are of so many rows.
        let lanes = count.saturating_mul(2).clamp(1, self.lows.len().max(1)).next_multiple_of(BLOCK);
        self.least.clear();
        self.least.resize(lanes, f32::INFINITY);
        for lows in self.lows.chunks(lanes) {
            for (least, low) in self.least.iter_mut().zip(lows) {
                *least = if low < least { *low } else { *least };
            }
        }
        let limit = match count.checked_sub(1) {
            None => f32::NEG_INFINITY,
            Some(last) if last < lanes => *self.least.select_nth_unstable_by(last, f32::total_cmp).1,
            Some(_) => f32::MAX,
        };
        self.take_within(limit.min(f32::MAX), take);
    }

    /// Takes the rows whose bounds are at most `limit`, by bound, section and row.
    pub(crate) fn take_within(&mut self, limit: f32, mut take: impl FnMut(f32, u32, u32)) {
        let limit = limit.min(f32::MAX);
        let mut lists = self.lists.iter().peekable();
        let mut list = List { first: 0, section: 0, row: 0 };
        for (block, lows) in self.lows.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let at = block * BLOCK;
            while let Some(next) = lists.next_if(|next| next.first <= at) {
                list = *next;
            }
            for lane in lanes(mask_of(lows, |low| low <= limit)) {
                let row = list.row.wrapping_add((at - list.first + lane) as u32);
                take(std::mem::replace(&mut lows[lane], f32::INFINITY), list.section, row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Unbounded, Vec<(f32, u32, u32)>) {
        let mut rows = Unbounded::default();
        let mut all = Vec::new();
        // Two lists: rows 100 to 149 of section 3 from lane 7 on, rows 0 to 39 of section 1.
        for (section, first, start, count) in [(3, 100, 7, 50), (1, 0, 0, 40)] {
            let blocks = (start + count as usize).div_ceil(BLOCK);
            let lows: Vec<f32> =
                (0..blocks * BLOCK).map(|n| ((n * 37 + section as usize * 11) % 101) as f32).collect();
            let masks: Vec<u32> = (0..blocks)
                .map(|block| {
                    (0..BLOCK)
                        .filter(|lane| (start..start + count as usize).contains(&(block * BLOCK + lane)))
                        .fold(0, |mask, lane| mask | 1 << lane)
                })
                .collect();
            rows.add(section, u32::wrapping_sub(first, start as u32), &lows, &masks);
            all.extend((0..count).map(|n| (lows[start + n as usize], section, first + n)));
        }
        all.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
        (rows, all)
    }

    #[test]
    fn the_best_are_taken_once_and_then_the_others() {
        for count in [0, 1, 10, 31, 32, 33, 60, 89, 90, 91, 1000, usize::MAX] {
            let (mut rows, all) = sample();
            let mut taken = Vec::new();
            rows.take_best(count, |low, section, row| taken.push((low, section, row)));
            taken.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
            assert!(taken.len() >= count.min(all.len()), "{count}: {}", taken.len());
            assert!(taken.len() <= count.saturating_mul(2), "{count}: {}", taken.len());
            let worst = taken.last().map_or(f32::NEG_INFINITY, |row| row.0);
            let expected: Vec<_> = all.iter().copied().filter(|row| row.0 <= worst).collect();
            assert_eq!(taken, expected, "{count}");
            rows.take_within(80.0, |low, section, row| taken.push((low, section, row)));
            taken.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
            let expected: Vec<_> = all.iter().copied().filter(|row| row.0 <= worst.max(80.0)).collect();
            assert_eq!(taken, expected, "{count}");
        }
    }

    #[test]
    fn rows_of_enormous_or_minimal_bounds_are_rows() {
        let mut rows = Unbounded::default();
        let mut lows = [1.0; BLOCK];
        (lows[0], lows[1], lows[2]) = (f32::INFINITY, f32::NEG_INFINITY, f32::MAX);
        rows.add(0, 0, &lows, &[0b111]);
        let mut taken = Vec::new();
        rows.take_best(1, |_, _, row| taken.push(row));
        assert_eq!(taken, [1]);
        rows.take_within(f32::INFINITY, |_, _, row| taken.push(row));
        assert_eq!(taken, [1, 0, 2]);
        rows.clear();
        assert!(rows.is_empty());
    }
}
