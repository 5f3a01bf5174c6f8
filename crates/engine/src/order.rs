//! Orders of many float32 at the cost of looking at each of them a few times.

use crate::lanes::{LANES, lanes, mask_of};

/// The number for a value, in the order of [`f32::total_cmp`], and an index: such numbers are sorted faster than pairs.
#[inline]
pub(crate) fn key(value: f32, index: u32) -> u64 {
    let bits = value.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(index)
}

/// The value of a number.
#[inline]
pub(crate) fn value(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// The index of a number.
#[inline]
pub(crate) fn index(key: u64) -> u32 {
    key as u32
}

/// Sorts the indexes of values roughly: by which of 256 equal steps from the least to the largest one they are in. Of many
/// values the first ones are sorted at once, and others when they are asked for: a query visits few of many lists.
#[derive(Debug, Default)]
pub(crate) struct RoughOrder {
    steps: Vec<u8>,
    /// The step from which on indexes are not sorted yet.
    next: usize,
    indexes: Vec<u32>,
    unsorted: Vec<u32>,
}

const STEPS: usize = 256;
/// From here to twice this, float32 are the whole numbers.
const WHOLE: f32 = (1 << 23) as f32;
/// So many values are sorted at once.
const FEW: usize = 128;
/// Of more values, one in so many says how many are in which step.
const SAMPLE: usize = 8;
/// About so many indexes are sorted at first, and at least one in so many.
const FIRST: usize = 96;
const FIRST_SHARE: usize = 24;

impl RoughOrder {
    /// Puts the indexes of `values` in order, in the place of what was there. Values that are not finite may be anywhere.
    pub(crate) fn sort(&mut self, values: &[f32]) {
        let (least, largest) = extremes(values);
        // A little less than what would take the largest value to the step beyond the last.
        let scale = ((STEPS - 1) as f32 / (largest - least)).min(f32::MAX);
        self.steps.clear();
        self.steps.extend(values.iter().map(|value| ((value - least) * scale + WHOLE).to_bits() as u8));
        self.next = 0;
        self.indexes.clear();
        self.sort_more();
    }

    /// The indexes of the values that were sorted last, as far as they are sorted.
    pub(crate) fn indexes(&self) -> &[u32] {
        &self.indexes
    }

    /// Sorts more of the indexes, at least as many as are sorted; false if there are no more.
    pub(crate) fn sort_more(&mut self) -> bool {
        let before = self.indexes.len();
        while self.indexes.len() == before && self.next < STEPS {
            let first = self.next;
            self.next = self.end_of(FIRST.max(self.steps.len() / FIRST_SHARE).max(before));
            self.gather(first);
            self.append(first);
        }
        self.indexes.len() > before
    }

    /// The end of steps from the next one on that have about `wanted` values.
    fn end_of(&self, wanted: usize) -> usize {
        if self.steps.len() <= FEW {
            return STEPS;
        }
        let mut counts = [0_u32; STEPS];
        self.steps.iter().step_by(SAMPLE).for_each(|step| counts[usize::from(*step)] += 1);
        let mut sum = 0;
        let enough = (self.next..STEPS).find(|step| {
            sum += counts[*step] as usize * SAMPLE;
            sum >= wanted
        });
        enough.map_or(STEPS, |step| step + 1)
    }

    /// Finds the indexes of the values in the steps from `first` to the next one.
    fn gather(&mut self, first: usize) {
        let count = self.steps.len();
        self.unsorted.clear();
        if self.next - first == STEPS {
            self.unsorted.extend(0..count as u32);
            return;
        }
        let (least, width) = (first as u8, (self.next - first) as u8);
        let is_wanted = |step: u8| step.wrapping_sub(least) < width;
        let (blocks, rest) = self.steps.as_chunks::<LANES>();
        for (at, block) in (0..).step_by(LANES).zip(blocks) {
            self.unsorted.extend(lanes(mask_of(block, is_wanted)).map(|lane| at + lane as u32));
        }
        let at = count - rest.len();
        let wanted = (at as u32..).zip(rest).filter(|(_, step)| is_wanted(**step));
        self.unsorted.extend(wanted.map(|(index, _)| index));
    }

    /// Appends what was gathered in the order of its steps.
    fn append(&mut self, first: usize) {
        let mut ends = [0_u32; STEPS];
        for index in &self.unsorted {
            ends[usize::from(self.steps[*index as usize])] += 1;
        }
        let mut end = self.indexes.len() as u32;
        self.indexes.resize(self.indexes.len() + self.unsorted.len(), 0);
        for count in &mut ends[first..self.next] {
            let start = end;
            end += *count;
            *count = start;
        }
        for index in &self.unsorted {
            let place = &mut ends[usize::from(self.steps[*index as usize])];
            self.indexes[*place as usize] = *index;
            *place += 1;
        }
    }
}

/// The least and the largest of some values that are numbers.
fn extremes(values: &[f32]) -> (f32, f32) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (mut least, mut largest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut take = |chunk: &[f32]| {
        for ((least, largest), value) in least.iter_mut().zip(&mut largest).zip(chunk) {
            *least = if *value < *least { *value } else { *least };
            *largest = if *value > *largest { *value } else { *largest };
        }
    };
    chunks.iter().for_each(|chunk| take(chunk));
    take(rest);
    (least.into_iter().fold(f32::INFINITY, f32::min), largest.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_order_of_their_values() {
        let values = [f32::NEG_INFINITY, -2.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3e38, f32::INFINITY];
        let keys: Vec<u64> =
            values.iter().zip([9, 8, 7, 6, 5, 4, 3, 2, 1]).map(|(value, at)| key(*value, at)).collect();
        assert!(keys.is_sorted());
        assert!(key(1.0, 3) < key(1.0, 4));
        for (number, expected) in keys.iter().zip(values) {
            assert_eq!(value(*number).to_bits(), expected.to_bits());
        }
        assert_eq!(index(key(-7.0, u32::MAX)), u32::MAX);
    }

    #[test]
    fn a_rough_order_is_right_but_for_a_step_and_has_every_index_once() {
        let mut order = RoughOrder::default();
        for count in [0, 1, 2, 15, 16, 17, 128, 129, 400, 1024, 1025, 5000, 70_000_u32] {
            let values: Vec<f32> =
                (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 8) as f32 - 1e6).collect();
            order.sort(&values);
            assert_eq!(order.indexes().len() < count as usize, count > 128, "{count}");
            while order.sort_more() {}
            let (least, largest) = extremes(&values);
            let step = (largest - least) / 255.0 * 1.001;
            let sorted: Vec<f32> = order.indexes().iter().map(|index| values[*index as usize]).collect();
            let mut most = f32::NEG_INFINITY;
            for value in sorted {
                assert!(value > most - step, "{count}: {value} after {most}");
                most = most.max(value);
            }
            let mut indexes = order.indexes().to_vec();
            indexes.sort_unstable();
            assert!(indexes.into_iter().eq(0..count));
        }
    }

    #[test]
    fn what_is_not_finite_or_all_equal_still_has_every_index_once() {
        let mut order = RoughOrder::default();
        let cases: [&[f32]; 5] = [
            &[1.0; 40],
            &[f32::NAN; 3],
            &[f32::INFINITY, 1.0, f32::NEG_INFINITY, f32::NAN],
            &[f32::MAX, f32::MIN, 0.0],
            &[1.0, 1.0 + f32::EPSILON, f32::MIN_POSITIVE],
        ];
        for values in cases {
            order.sort(values);
            while order.sort_more() {}
            let mut indexes = order.indexes().to_vec();
            indexes.sort_unstable();
            assert!(indexes.into_iter().eq(0..values.len() as u32), "{values:?}");
        }
    }
}
