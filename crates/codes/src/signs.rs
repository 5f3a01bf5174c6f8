//! One bit a dimension: which side of its list's centroid a vector lies on, in blocks of 32 vectors.
//!
//! With x' = R(x − m) a rotated row, c its list's centroid and r = x' − c, the signs of r and two numbers give an
//! unbiased estimate of ⟨r, v⟩ for any v: f ⟨sgn r, v⟩ with f = |r|² / ‖r‖₁ (RaBitQ: J. Gao and C. Long, SIGMOD 2024).
//! All that depends on the row alone is folded into `add` and `scale`, and all that depends on the query alone into
//! one table for all lists, so that the estimate of a row's distance is
//!
//! `base + add + scale · S`, S = ⟨sgn r, q'⟩, with `base` a number of the query and the list.
//!
//! | distance | base | add | scale |
//! |---|---|---|---|
//! | \|q' − x'\|² (L2, and cosine of normalised rows) | \|q' − c\|² | \|r\|² + 2 f ⟨sgn r, c⟩ | −2 f |
//! | −2 ⟨q, x⟩, but for what is the query's alone (dot) | −2 ⟨q', c⟩ | 2 f ⟨sgn r, c⟩ − 2 ⟨c, r⟩ − 2 ⟨m', x'⟩ | −2 f |
//!
//! The error of f ⟨sgn r, q' − c⟩ is near-normal; its deviation is about 0.6 |r| |q' − c| / √D. That is `-scale / 2`
//! times 0.6 |q' − c|, so a lower bound costs one number a list: `low = base + add + scale (S + ε σ)`, where σ² is
//! 0.36 |q' − c|² plus the variance that the rounding of the query's table has.
//!
//! # A block
//! `4 · width` bytes of signs, as [`scan_blocks`] reads them, then the `add` of 32 vectors, then their `scale`, as
//! little-endian float32. Vectors that are not there have `add` = +∞, and so are never within a limit; those whose
//! numbers are too large for float32 have −∞, and are within every limit.

use plimsoll_kernels::{BLOCK, Estimate, dot, largest_group, scan_blocks, sign_table};

/// The length of a block in bytes, for vectors of `width` components.
pub const fn block_len(width: usize) -> usize {
    4 * width + 8 * BLOCK
}

/// How many blocks `rows` rows take.
pub const fn blocks_of(rows: usize) -> usize {
    rows.div_ceil(BLOCK)
}

/// What is estimated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure<'a> {
    /// |q − x|².
    L2,
    /// −2 ⟨q, x⟩, without what depends on the query alone. The rotated mean is needed.
    Dot {
        /// m' = R m.
        mean: &'a [f32],
    },
}

/// Encodes rows into blocks.
#[derive(Debug)]
pub struct SignEncoder<'a> {
    measure: Measure<'a>,
    residual: Vec<f32>,
    signs: Vec<f32>,
}

impl<'a> SignEncoder<'a> {
    /// For vectors of `width` components, a multiple of 16.
    ///
    /// # Panics
    /// When `width` is none, or the mean has another width.
    pub fn new(width: usize, measure: Measure<'a>) -> Self {
        assert!(width.is_multiple_of(16), "a width of {width}");
        if let Measure::Dot { mean } = measure {
            assert!(mean.len() == width, "a mean of {} components, of {width}", mean.len());
        }
        Self { measure, residual: vec![0.0; width], signs: vec![0.0; width] }
    }

    /// Encodes a row of the list with this centroid into slot `slot` of `blocks`, which grows by as many empty blocks as
    /// that takes. A slot may be written once.
    ///
    /// # Panics
    /// When the centroid or the row has another width, or `blocks` is not whole blocks.
    pub fn put(&mut self, row: &[f32], centroid: &[f32], slot: usize, blocks: &mut Vec<u8>) {
        let width = self.signs.len();
        let len = block_len(width);
        assert!(blocks.len().is_multiple_of(len), "{} bytes are not blocks of {len}", blocks.len());
        while blocks.len() <= slot / BLOCK * len {
            let block = blocks.len();
            blocks.resize(block + 4 * width, 0);
            blocks.extend_from_slice(&f32::INFINITY.to_le_bytes().repeat(BLOCK));
            blocks.resize(block + len, 0);
        }
        let block = &mut blocks[slot / BLOCK * len..][..len];
        self.encode(row, centroid, slot % BLOCK, block);
    }

    fn encode(&mut self, row: &[f32], centroid: &[f32], vector: usize, block: &mut [u8]) {
        let width = self.signs.len();
        assert!((row.len(), centroid.len()) == (width, width), "a row or centroid of another width");
        for (((residual, sign), row), centre) in
            self.residual.iter_mut().zip(&mut self.signs).zip(row).zip(centroid)
        {
            *residual = row - centre;
            *sign = 1.0_f32.copysign(*residual);
        }
        let nibbles = block[vector % 16..4 * width].iter_mut().step_by(16);
        for (byte, signs) in nibbles.zip(self.signs.chunks_exact(4)) {
            let pattern = (0..4).fold(0, |bits, dim| bits | u8::from(signs[dim] > 0.0) << dim);
            *byte |= pattern << (vector / 16 * 4);
        }
        let (residual, signs) = (&self.residual[..], &self.signs[..]);
        let (squared, sum) = (dot(residual, residual), dot(residual, signs));
        // A row that is its centroid needs no correction.
        let factor = if sum > 0.0 { squared / sum } else { 0.0 };
        let towards = 2.0 * factor * dot(signs, centroid);
        let add = match self.measure {
            Measure::L2 => squared + towards,
            Measure::Dot { mean } => towards - 2.0 * dot(centroid, residual) - 2.0 * dot(mean, row),
        };
        // What a query could not be compared with in float32 is within every limit.
        let (add, scale) = match (add, -2.0 * factor) {
            (add, scale) if add.is_finite() && scale.is_finite() => (add, scale),
            _ => (f32::NEG_INFINITY, 0.0),
        };
        for (number, at) in [(add, 4 * width), (scale, 4 * (width + BLOCK))] {
            block[at + 4 * vector..][..4].copy_from_slice(&number.to_le_bytes());
        }
    }
}

/// What a query is to sign codes: one table for all lists.
#[derive(Debug, Clone, Default)]
pub struct SignQuery {
    table: Vec<u8>,
    step: f32,
    shift: f32,
    variance: f32,
}

/// The highest entry of a table: eight of them fit in a byte.
const HIGHEST: f32 = 31.0;
/// The variance of f ⟨sgn r, v⟩ as an estimate of ⟨r, v⟩ is f² |v|² (1 − a²), with a = ‖r‖₁ / (√D |r|) the cosine between
/// r and its signs, which is near √(2/π) = 0.8 after the rotation.
const DEVIATION_SQUARED: f32 = 0.36;

impl SignQuery {
    /// Makes the table of a rotated query q', in place of what was there: no allocation after the first time.
    pub fn set(&mut self, query: &[f32]) {
        // Of a query that is (nearly) nothing, the steps are too large rather than their inverse infinite.
        let highest = largest_group(query).max(HIGHEST * f32::MIN_POSITIVE);
        self.step = 2.0 * highest / HIGHEST;
        self.table.resize(4 * query.len(), 0);
        let total = sign_table(query, HIGHEST / highest, &mut self.table);
        // The 16 sums of a group are 0 on average, and so they stay when they are rounded.
        self.shift = -self.step * (total as f32 / 16.0);
        self.variance = self.step * self.step / 12.0 * (query.len() / 4) as f32;
    }

    /// The lower bounds of the distances of the vectors of a list that hold for all but a share of the rows that falls
    /// with `epsilon` (0: the estimates themselves), 32 for each block, and a mask for each block of those that are at
    /// most `limit`. `next` is what will be scanned next, or nothing: it is brought into the nearest cache meanwhile.
    ///
    /// False, and nothing written, if there are not as many bytes as blocks of this query's width for each mask, and 32
    /// bounds. Their alignment does not matter.
    #[must_use]
    pub fn scan(
        &self,
        blocks: &[u8],
        next: &[u8],
        bound: &Bound,
        limit: f32,
        lows: &mut [f32],
        masks: &mut [u32],
    ) -> bool {
        let count = masks.len();
        let bytes = count.checked_mul(block_len(self.table.len() / 4));
        if bytes != Some(blocks.len()) || count.checked_mul(BLOCK) != Some(lows.len()) {
            return false;
        }
        let estimate = Estimate { step: self.step, shift: bound.shift, base: bound.base };
        scan_blocks(&self.table, blocks, next, &estimate, limit, lows, masks);
        true
    }

    /// What [`SignQuery::scan`] needs to know of a list.
    pub fn bound(&self, base: f32, distance_squared: f32, epsilon: f32) -> Bound {
        let deviation = (DEVIATION_SQUARED * distance_squared + self.variance).sqrt();
        Bound { base, shift: self.shift + epsilon * deviation }
    }
}

/// A list's part in the lower bounds of its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    base: f32,
    shift: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rotation;
    use crate::random::Random;

    /// Rows around a centre, rotated, their centroid, and a query near them.
    struct Case {
        width: usize,
        rows: Vec<Vec<f32>>,
        mean: Vec<f32>,
        centroid: Vec<f32>,
        query: Vec<f32>,
    }

    impl Case {
        fn new(dimension: usize, rows: usize, centre: f32, seed: u64) -> Self {
            let mut random = Random(seed);
            let rotation = Rotation::new(dimension, seed);
            let width = rotation.width();
            let offset: Vec<f32> = (0..dimension).map(|_| centre * random.normal()).collect();
            let mut near = || {
                let row: Vec<f32> = offset.iter().map(|x| x + random.normal()).collect();
                let mut rotated = vec![0.0; width];
                rotation.rotate(&row, &mut rotated);
                rotated
            };
            let rows: Vec<Vec<f32>> = (0..rows).map(|_| near()).collect();
            let query = near();
            let mut mean = vec![0.0; width];
            rotation.rotate(&vec![0.3; dimension], &mut mean);
            let share = 1.0 / rows.len() as f32;
            let centroid = (0..width).map(|i| rows.iter().map(|row| row[i] * share).sum()).collect();
            Self { width, rows, mean, centroid, query }
        }

        fn blocks(&self, measure: Measure<'_>) -> Vec<u8> {
            let mut out = Vec::new();
            let mut encoder = SignEncoder::new(self.width, measure);
            for (slot, row) in self.rows.iter().enumerate() {
                encoder.put(row, &self.centroid, slot, &mut out);
            }
            out
        }

        /// The bounds with `epsilon` of all rows, and their true distances.
        fn bounds(&self, measure: Measure<'_>, epsilon: f32) -> Vec<(f64, f64)> {
            let blocks = self.blocks(measure);
            let mut query = SignQuery::default();
            query.set(&self.query);
            let product = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let squared = |a: &[f32], b: &[f32]| product(a, a) - 2.0 * product(a, b) + product(b, b);
            let far = squared(&self.query, &self.centroid);
            let base = match measure {
                Measure::L2 => far,
                Measure::Dot { .. } => -2.0 * product(&self.query, &self.centroid),
            };
            let bound = query.bound(base as f32, far as f32, epsilon);
            let count = blocks_of(self.rows.len());
            let (mut lows, mut masks) = (vec![0.0; count * BLOCK], vec![0; count]);
            assert!(query.scan(&blocks, &[], &bound, f32::MAX, &mut lows, &mut masks));
            let mut found = Vec::new();
            for (number, (lows, within)) in lows.chunks(BLOCK).zip(masks).enumerate() {
                let rows = &self.rows[number * BLOCK..self.rows.len().min((number + 1) * BLOCK)];
                assert_eq!(within.count_ones() as usize, rows.len(), "only rows that are there");
                for (row, &low) in rows.iter().zip(lows) {
                    let distance = match measure {
                        Measure::L2 => squared(&self.query, row),
                        Measure::Dot { mean } => -2.0 * product(&self.query, row) - 2.0 * product(mean, row),
                    };
                    found.push((f64::from(low), distance));
                }
            }
            assert_eq!(found.len(), self.rows.len());
            found
        }
    }

    fn measures(case: &Case) -> [Measure<'_>; 2] {
        [Measure::L2, Measure::Dot { mean: &case.mean }]
    }

    #[test]
    fn estimates_are_unbiased_and_bounds_hold_as_often_as_they_should() {
        for dimension in [100, 128, 384, 784] {
            for centre in [0.0, 1.0, 10.0] {
                let case = Case::new(dimension, 2000, centre, dimension as u64);
                for measure in measures(&case) {
                    let estimates = case.bounds(measure, 0.0);
                    let errors: Vec<f64> = estimates.iter().map(|(low, distance)| low - distance).collect();
                    let n = errors.len() as f64;
                    let bias = errors.iter().sum::<f64>() / n;
                    let deviation = (errors.iter().map(|error| error * error).sum::<f64>() / n).sqrt();
                    assert!(bias.abs() < 0.15 * deviation, "{dimension}, {centre}: {bias} of {deviation}");
                    // One-sided: 6.7 % of a normal distribution are beyond 1.5 deviations.
                    let bounds = case.bounds(measure, 1.5);
                    let broken = bounds.iter().filter(|(low, distance)| low > distance).count() as f64 / n;
                    println!(
                        "{dimension} {centre} bias {bias:.3} deviation {deviation:.3} broken {broken:.3}"
                    );
                    assert!((0.01..0.13).contains(&broken), "{dimension}, {centre}: {broken} are broken");
                }
            }
        }
    }

    #[test]
    fn a_row_that_is_its_centroid_is_exact_and_nothing_is_within_no_limit() {
        let mut case = Case::new(64, 1, 1.0, 3);
        case.rows = vec![case.centroid.clone(); 33];
        for (low, distance) in case.bounds(Measure::L2, 0.0) {
            assert!((low - distance).abs() < 1e-3 * distance, "{low} {distance}");
        }
        let blocks = case.blocks(Measure::L2);
        assert_eq!(blocks.len(), blocks_of(33) * block_len(case.width));
        let mut query = SignQuery::default();
        query.set(&vec![0.0; case.width]);
        let (mut lows, mut masks) = ([0.0; 2 * BLOCK], [u32::MAX; 2]);
        let bound = query.bound(0.0, 0.0, 1.5);
        assert!(query.scan(&blocks, &[], &bound, f32::NEG_INFINITY, &mut lows, &mut masks));
        assert_eq!(masks, [0, 0]);
    }

    #[test]
    fn what_is_not_whole_blocks_or_has_no_room_is_refused_and_alignment_does_not_matter() {
        let case = Case::new(64, 70, 1.0, 4);
        let blocks = case.blocks(Measure::L2);
        let mut query = SignQuery::default();
        query.set(&case.query);
        let bound = query.bound(9.0, 3.0, 1.5);
        let (mut lows, mut masks) = ([7.0; 3 * BLOCK], [7; 3]);
        for wrong in [1, 3, block_len(case.width) - 1, block_len(case.width), blocks.len()] {
            assert!(!query.scan(&blocks[wrong..], &[], &bound, 1.0, &mut lows, &mut masks));
        }
        assert!(!query.scan(&blocks, &[], &bound, 1.0, &mut lows[1..], &mut masks));
        assert!(!query.scan(&blocks, &[], &bound, 1.0, &mut lows, &mut masks[1..]));
        assert_eq!((lows, masks), ([7.0; 3 * BLOCK], [7; 3]), "nothing is written");
        assert!(query.scan(&[], &[], &bound, 1.0, &mut [], &mut []));
        assert!(query.scan(&blocks, &[], &bound, 1.0, &mut lows, &mut masks));
        for shift in 1..4 {
            let shifted: Vec<u8> = std::iter::repeat_n(0, shift).chain(blocks.iter().copied()).collect();
            let (mut again, mut found) = ([0.0; 3 * BLOCK], [0; 3]);
            assert!(query.scan(&shifted[shift..], &[], &bound, 1.0, &mut again, &mut found));
            assert_eq!((again.map(f32::to_bits), found), (lows.map(f32::to_bits), masks));
        }
    }
}
