//! Vectors of 8 bits a component, which do not depend on any centroid: they re-rank what the signs let through. Moving
//! a row to another list copies them.
//!
//! A row x' is stored as integers n of 8 bits, with x' ≈ s · n and s = max |x'| / 127. The query is rounded to 16 bits,
//! coarser where sums would not fit in 32 (for widths up to 4,096 that costs at most 2 of these bits), so that products
//! are exact integers and equal on every processor.
//!
//! # A record
//! |x'|² or another number of the row's (see [`PlaneEncoder`]), then s, as little-endian float32, then `width` bytes.
//!
//! # A refinement
//! The next 8 bits of each component, `width` bytes: x' ≈ s · (n + l / 254), where half a step of n is 127 of l. With a record it
//! says a squared distance to a few millionths of the squared lengths, for a quarter of the memory that the vector takes.

use plimsoll_kernels::{dot, dot_error, dot_i8, norm_squared, round_i8, round_i16, sizes};

use crate::signs::Measure;

/// The length of a record in bytes, for vectors of `width` components.
pub const fn record_len(width: usize) -> usize {
    8 + width
}

/// The steps on either side of 0.
const STEPS: f32 = 127.0;
/// How far sums of the absolute values of a query may go: 128 of them fit in an `i32`.
const LARGEST_SUM: f32 = ((1 << 24) - 4096) as f32;

/// Encodes rows into records.
#[derive(Debug, Clone, Copy)]
pub struct PlaneEncoder<'a> {
    measure: Measure<'a>,
}

impl<'a> PlaneEncoder<'a> {
    /// For distances of this kind.
    pub fn new(measure: Measure<'a>) -> Self {
        Self { measure }
    }

    /// Appends the record of a rotated row.
    ///
    /// The number in the header is what the row alone adds to its distance: |x'|² for L2, −2 ⟨m', x'⟩ for dot.
    pub fn encode(&self, row: &[f32], records: &mut Vec<u8>) {
        let add = match self.measure {
            Measure::L2 => dot(row, row),
            Measure::Dot { mean } => -2.0 * dot(mean, row),
        };
        // Of a row that is (nearly) nothing, the steps are too large rather than their inverse infinite.
        let scale = (sizes(row).0 / STEPS).max(f32::MIN_POSITIVE);
        records.extend_from_slice(&add.to_le_bytes());
        records.extend_from_slice(&scale.to_le_bytes());
        let at = records.len();
        records.resize(at + row.len(), 0);
        round_i8(row, 1.0 / scale, bytemuck::cast_slice_mut(&mut records[at..]));
    }
}

/// Appends the refinement of a rotated row, whose record was made of it.
///
/// # Panics
/// When the record is of a row of another width.
pub fn refine(row: &[f32], record: &[u8], refinements: &mut Vec<u8>) {
    assert!(record.len() == record_len(row.len()), "a record of {} bytes", record.len());
    let (header, components) = record.split_at(8);
    let per_step = 1.0 / f32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let components: &[i8] = bytemuck::cast_slice(components);
    let rest: Vec<f32> = row.iter().zip(components).map(|(x, n)| x * per_step - f32::from(*n)).collect();
    let at = refinements.len();
    refinements.resize(at + row.len(), 0);
    round_i8(&rest, REFINED, bytemuck::cast_slice_mut(&mut refinements[at..]));
}

/// Steps of a refinement in one of a record.
const REFINED: f32 = 254.0;
/// So many standard deviations of all roundings are a limit of the error of a refined distance, if roundings are many and do not
/// depend on each other. Of so few components the limit is the most that rounding can do.
const REFINED_DEVIATIONS: f64 = 6.0;
const FEW_COMPONENTS: usize = 64;

/// What a query is to records: its components as 16-bit integers.
#[derive(Debug, Clone, Default)]
pub struct PlaneQuery {
    components: Vec<i16>,
    /// What one unit of a component is worth.
    scale: f32,
    /// Σ |component|, exact.
    sum: f32,
    /// |q'|² for L2, 0 for dot.
    base: f32,
}

/// A row's distance as far as its record says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneDistance {
    /// The distance of the row as it is stored.
    pub distance: f32,
    /// The row's scale: one step of its components.
    pub scale: f32,
    /// What the row alone adds to its distance.
    pub add: f32,
}

/// What a record has: the number of its row, its scale and its components.
#[inline]
fn parts(record: &[u8]) -> Option<(f32, f32, &[i8])> {
    let (add, record) = record.split_first_chunk()?;
    let (scale, components) = record.split_first_chunk()?;
    Some((f32::from_le_bytes(*add), f32::from_le_bytes(*scale), bytemuck::cast_slice(components)))
}

/// What squares and products of so many components that underflow can hide.
fn hidden(width: f64) -> f64 {
    16.0 * width * f64::from(f32::MIN_POSITIVE)
}

/// A squared distance as far as a record and its refinement say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefinedDistance {
    /// The squared distance.
    pub distance: f64,
    /// How far off it may be: six standard deviations of what rounding the row and the query does (of up to 64 components, the
    /// most that it can do), and what float32 sums are off.
    pub error: f64,
}

impl PlaneQuery {
    /// Rounds a rotated query, in place of what was there.
    pub fn set(&mut self, query: &[f32], measure: Measure<'_>) {
        let (largest, sum) = sizes(query);
        self.scale = (largest / f32::from(i16::MAX)).max(sum / LARGEST_SUM).max(f32::MIN_POSITIVE);
        self.components.resize(query.len(), 0);
        self.sum = round_i16(query, 1.0 / self.scale, &mut self.components) as f32;
        self.base = match measure {
            Measure::L2 => dot(query, query),
            Measure::Dot { .. } => 0.0,
        };
    }

    /// The distance of a row by its record; `None` if the record has another length.
    pub fn distance(&self, record: &[u8]) -> Option<PlaneDistance> {
        let (add, scale, row) = parts(record)?;
        if row.len() != self.components.len() {
            return None;
        }
        let product = dot_i8(row, &self.components);
        let distance = add + self.base - 2.0 * scale * self.scale * product as f32;
        Some(PlaneDistance { distance, scale, add })
    }

    /// The squared distance of a row by its record and its refinement, both for L2; `None` if they have other lengths.
    pub fn refined(&self, record: &[u8], refinement: &[u8]) -> Option<RefinedDistance> {
        let (add, scale, row) = parts(record)?;
        if row.len() != self.components.len() || refinement.len() != row.len() {
            return None;
        }
        let coarse = dot_i8(row, &self.components);
        let fine = dot_i8(bytemuck::cast_slice(refinement), &self.components);
        let product = f64::from(coarse) + f64::from(fine) / f64::from(REFINED);
        let (square, of_query) = (f64::from(add), f64::from(self.base));
        let (scale, of_scale) = (f64::from(scale), f64::from(self.scale));
        let distance = square + of_query - 2.0 * scale * of_scale * product;
        let (row_step, query_step) = (scale / f64::from(REFINED), of_scale);
        let width = self.components.len() as f64;
        // Half a step at most in each component of either, times the other's.
        let rounding = if self.components.len() <= FEW_COMPONENTS {
            let sums = (f64::from(self.sum) * of_scale, (width * square).sqrt());
            1.01 * (sums.0 * row_step + sums.1 * query_step) + width * row_step * query_step
        } else {
            // Evenly: a twelfth of a step squared each.
            let squares = of_query * row_step * row_step + square * query_step * query_step;
            REFINED_DEVIATIONS * (squares / 3.0).sqrt()
        };
        let lengths = square.sqrt() + of_query.sqrt();
        let error = rounding + 4.0 * f64::from(f32::EPSILON) * lengths * lengths + hidden(width);
        Some(RefinedDistance { distance, error })
    }

    /// How far [`PlaneQuery::distance`] can be from the distance that the vectors had before they were rotated, the mean
    /// still subtracted from both; `query` is the one that was set.
    ///
    /// All of these at once, in one direction, with u = 2⁻²⁴:
    /// - Half a step of the row in every component of the query as it is stored. The product with the inverse of a step
    ///   rounds, too: 127 steps by less than 10⁻⁴ of a step, 32,767 by less than a hundredth.
    /// - So half a step of the query in every component of the row, none of which is above 127 steps.
    /// - Rotations: of 6 log₂ D + 22 roundings at most on the way of a component, each is relative to the length of the whole
    ///   vector, since what comes after it keeps lengths. So |q'| and |x'| are off by that many u, and their distance
    ///   squared by 20 log₂ D · u · (|q'| + |x'|)².
    /// - The numbers that are stored, or known of the query, as float32 sums ([`dot_error`]).
    /// - The few operations of [`PlaneQuery::distance`], and of subtracting or adding this error.
    pub fn error(&self, query: &[f32], measure: Measure<'_>) -> PlaneError {
        let u = f64::from(f32::EPSILON) / 2.0;
        let width = query.len() as f64;
        let (step, largest_row) = (f64::from(self.scale), 1.01 * f64::from(STEPS));
        let sum = f64::from(self.sum) * step;
        let rotating = 20.0 * width.log2() * u;
        let adding = 1.01 * f64::from(dot_error(query.len()));
        let rounding = 10.0 * u;
        let mut of_scale =
            2.0 * (0.5001 * sum + 0.51 * step * largest_row * width) + rounding * 2.0 * largest_row * sum;
        let (of_add, of_query) = match measure {
            Measure::L2 => {
                let of_square = 2.0 * rotating + adding + rounding;
                (of_square, of_square * f64::from(self.base))
            }
            Measure::Dot { mean } => {
                let length = |of: &[f32]| 1.01 * f64::from(norm_squared(of)).sqrt();
                let row = largest_row * width.sqrt();
                of_scale +=
                    (2.0 * adding * length(mean) + 2.0 * rotating * (length(query) + length(mean))) * row;
                (rounding, 0.0)
            }
        };
        let up = |value: f64| (value as f32).next_up();
        PlaneError { of_scale: up(of_scale), of_add: up(of_add), of_query: up(of_query + hidden(width)) }
    }
}

/// How far the distances of records can be from the true ones, for one query; see [`PlaneQuery::error`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneError {
    of_scale: f32,
    of_add: f32,
    of_query: f32,
}

impl PlaneError {
    /// The same with so much more.
    #[must_use]
    pub fn plus(self, more: f32) -> Self {
        Self { of_query: (self.of_query + more).next_up(), ..self }
    }

    /// How far the distance of a record can be off.
    #[inline]
    pub fn of(&self, found: PlaneDistance) -> f32 {
        self.of_scale * found.scale + self.of_add * found.add.abs() + self.of_query
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn vector(random: &mut Random, width: usize, scale: f32) -> Vec<f32> {
        (0..width).map(|_| scale * random.normal()).collect()
    }

    fn product(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn true_distance(query: &[f32], row: &[f32], measure: Measure<'_>) -> f64 {
        match measure {
            Measure::L2 => product(query, query) - 2.0 * product(query, row) + product(row, row),
            Measure::Dot { mean } => -2.0 * product(query, row) - 2.0 * product(mean, row),
        }
    }

    #[test]
    fn records_are_as_exact_as_they_say() {
        for width in [16, 128, 384, 784, 4096] {
            let mut random = Random(width as u64);
            let mean = vector(&mut random, width, 0.5);
            for measure in [Measure::L2, Measure::Dot { mean: &mean }] {
                for norm in [0.01, 1.0, 300.0] {
                    let row = vector(&mut random, width, norm);
                    let query = vector(&mut random, width, 1.0);
                    let mut record = Vec::new();
                    PlaneEncoder::new(measure).encode(&row, &mut record);
                    assert_eq!(record.len(), record_len(width));
                    let mut scanner = PlaneQuery::default();
                    scanner.set(&query, measure);
                    let found = scanner.distance(&record).unwrap();
                    let truth = true_distance(&query, &row, measure);
                    let error = (f64::from(found.distance) - truth).abs();
                    let bound = f64::from(scanner.error(&query, measure).of(found));
                    assert!(error <= bound, "{width}, {norm}: {error} is more than {bound}");
                    let deviation = f64::from(found.scale) * product(&query, &query).sqrt() / 3.0_f64.sqrt();
                    assert!(error < 5.0 * deviation, "{width}, {norm}: {error} at {deviation}");
                }
            }
        }
    }

    #[test]
    fn refined_distances_are_as_exact_as_they_say() {
        for width in [16, 32, 64, 128, 384, 784, 4096] {
            let mut random = Random(width as u64);
            for norm in [1e-22_f32, 1e-3, 1.0, 300.0] {
                // As near as the nearest rows are, and elsewhere; also with components that are all alike, or all but one.
                let alike: Vec<f32> = (0..width).map(|_| norm.copysign(random.normal())).collect();
                let halves = alike.iter().map(|x| x * 0.5).skip(1).chain([norm]).collect();
                for (row, apart) in [
                    (vector(&mut random, width, norm), 0.0),
                    (vector(&mut random, width, norm), 0.3),
                    (vector(&mut random, width, norm), 3.0),
                    (alike, 0.2),
                    (halves, 0.5),
                ] {
                    let away = vector(&mut random, width, norm * apart);
                    let query: Vec<f32> = row.iter().zip(&away).map(|(x, a)| x + a).collect();
                    let (mut record, mut refinement) = (Vec::new(), Vec::new());
                    PlaneEncoder::new(Measure::L2).encode(&row, &mut record);
                    refine(&row, &record, &mut refinement);
                    let mut scanner = PlaneQuery::default();
                    scanner.set(&query, Measure::L2);
                    let found = scanner.refined(&record, &refinement).unwrap();
                    let truth = true_distance(&query, &row, Measure::L2);
                    let error = (found.distance - truth).abs();
                    assert!(error <= found.error, "{width}, {norm}: {error} is more than {}", found.error);
                    let squares = product(&query, &query) + product(&row, &row);
                    let most = 1e-30 + 2e-4 * squares;
                    assert!(found.error < most, "{width}, {norm}: {} of {squares}", found.error);
                    assert_eq!(scanner.refined(&record, &refinement[1..]), None);
                    assert_eq!(scanner.refined(&record[1..], &refinement), None);
                }
            }
        }
    }

    #[test]
    fn nothing_overflows_and_zeros_are_zero() {
        let width = 4096;
        let (row, query) = (vec![-2.0; width], vec![3.0; width]);
        let mut record = Vec::new();
        PlaneEncoder::new(Measure::L2).encode(&row, &mut record);
        let mut scanner = PlaneQuery::default();
        scanner.set(&query, Measure::L2);
        let distance = scanner.distance(&record).unwrap().distance;
        assert!((distance / (25.0 * width as f32) - 1.0).abs() < 1e-3, "{distance}");
        scanner.set(&[0.0; 16], Measure::L2);
        let mut record = Vec::new();
        PlaneEncoder::new(Measure::L2).encode(&[0.0; 16], &mut record);
        assert_eq!(scanner.distance(&record).unwrap().distance, 0.0);
        assert_eq!(scanner.distance(&record[1..]), None);
    }
}
