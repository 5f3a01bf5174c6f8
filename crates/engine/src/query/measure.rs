//! Distances of one query: fast float32 estimates with a proven error bound, and the float64 value that
//! decides.
//!
//! Every row is first estimated by a float32 kernel. A row whose estimate minus its error bound is beyond the
//! k-th best can not be among the answers; the others are measured in float64 from the raw vector. So the
//! answer equals that of a float64 scan, at the speed of a float32 one, and is the same before and after a
//! flush and on every CPU.

use std::borrow::Cow;

use plimsoll_base::Metric;
use plimsoll_kernels as kernels;

use crate::error::{Error, Result};
use crate::record::validated_norm;

/// One query, prepared.
pub(crate) struct Measure<'q> {
    metric: Metric,
    raw: &'q [f32],
    /// What the kernels see: the query, normalised under cosine.
    prepared: Cow<'q, [f32]>,
    norm: f64,
    /// Rounding bounds: of an inner product relative to the product of the lengths, of a squared distance
    /// relative to itself.
    dot_error: f64,
    l2_error: f64,
}

/// What products and squares that underflow can hide, at most, per component.
const UNDERFLOW: f64 = f32::MIN_POSITIVE as f64;

impl<'q> Measure<'q> {
    pub(crate) fn new(metric: Metric, dimension: usize, query: &'q [f32]) -> Result<Self> {
        if query.len() != dimension {
            return Err(Error::DimensionMismatch { expected: dimension, got: query.len() });
        }
        let norm = validated_norm(metric, query)
            .map_err(|problem| Error::InvalidArgument(format!("the query: {problem}")))?;
        let prepared = match metric {
            Metric::Cosine => {
                let scale = 1.0 / norm;
                query.iter().map(|component| (f64::from(*component) * scale) as f32).collect()
            }
            Metric::L2 | Metric::Dot => Cow::Borrowed(query),
        };
        Ok(Self {
            metric,
            raw: query,
            prepared,
            norm,
            dot_error: f64::from(kernels::dot_error(dimension)),
            l2_error: f64::from(kernels::l2_error(dimension)),
        })
    }

    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// The query as the index routes it: normalised under cosine.
    pub(crate) fn routed(&self) -> &[f32] {
        &self.prepared
    }

    /// A lower bound of the rank of each of some rows (see [`Measure::rank`]), from their vectors, one after
    /// another, and their lengths.
    pub(crate) fn lower_bounds(&self, rows: &[f32], norms: &[f32], out: &mut [f32]) {
        match self.metric {
            Metric::L2 => {
                kernels::l2_squared_rows(&self.prepared, rows, out);
                let slack = UNDERFLOW * self.raw.len() as f64;
                for value in out {
                    *value = below(f64::from(*value) * (1.0 - self.l2_error) - slack);
                }
            }
            Metric::Cosine => {
                kernels::dot_rows(&self.prepared, rows, out);
                // Normalising the query and rounding both lengths cost a few units more.
                let error = self.dot_error + 8.0 * f64::from(f32::EPSILON);
                for (value, norm) in out.iter_mut().zip(norms) {
                    *value = below(1.0 - f64::from(*value) / f64::from(*norm) - error);
                }
            }
            Metric::Dot => {
                kernels::dot_rows(&self.prepared, rows, out);
                let error = self.dot_error * self.norm * (1.0 + 1e-6);
                let slack = UNDERFLOW * self.raw.len() as f64;
                for (value, norm) in out.iter_mut().zip(norms) {
                    *value = below(-f64::from(*value) - error * f64::from(*norm) - slack);
                }
            }
        }
    }

    /// What rows are ordered by, in float64: 1 − cos, the squared distance, or the negated inner product.
    pub(crate) fn rank(&self, vector: &[f32]) -> f64 {
        match self.metric {
            Metric::L2 => kernels::l2_squared_f64(self.raw, vector),
            Metric::Dot => -kernels::dot_f64(self.raw, vector),
            Metric::Cosine => {
                let (product, square) = kernels::dot_and_square_f64(self.raw, vector);
                let cosine = product / (self.norm * square.sqrt());
                (1.0 - cosine).clamp(0.0, 2.0)
            }
        }
    }

    /// The largest rank of a distance that users see; see [`Measure::rank`].
    pub(crate) fn rank_of(&self, distance: f32) -> f64 {
        let distance = f64::from(distance);
        match self.metric {
            Metric::L2 if distance < 0.0 => f64::NEG_INFINITY,
            Metric::L2 => distance * distance,
            Metric::Cosine | Metric::Dot => distance,
        }
    }

    /// The distance that users see, from a rank.
    pub(crate) fn distance(&self, rank: f64) -> f32 {
        match self.metric {
            Metric::L2 => rank.sqrt() as f32,
            Metric::Cosine | Metric::Dot => rank as f32,
        }
    }
}

/// The nearest float32 that is not above `value`.
fn below(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) > value { rounded.next_down() } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lower_bound_is_never_above_the_rank(
            dimension in 1usize..70,
            seed in any::<u64>(),
            exponent in -20i32..20,
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            let scale = 2f32.powi(exponent);
            let query: Vec<f32> = (0..dimension).map(|_| next()).collect();
            let mut rows: Vec<f32> = (0..dimension * 3).map(|_| next() * scale).collect();
            rows[..dimension].copy_from_slice(&query);
            for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
                let norms: Vec<f32> = rows
                    .chunks_exact(dimension)
                    .filter_map(|row| validated_norm(metric, row).ok().map(|norm| norm as f32))
                    .collect();
                prop_assume!(norms.len() == 3 && validated_norm(metric, &query).is_ok());
                let measure = Measure::new(metric, dimension, &query).unwrap();
                let mut bounds = [0.0; 3];
                measure.lower_bounds(&rows, &norms, &mut bounds);
                for (row, bound) in rows.chunks_exact(dimension).zip(bounds) {
                    let rank = measure.rank(row);
                    prop_assert!(f64::from(bound) <= rank, "{metric}: {bound} > {rank}");
                    let scale = norms.iter().fold(1f32, |most, norm| most.max(*norm)).powi(2);
                    prop_assert!(rank - f64::from(bound) < 1e-4 * f64::from(scale), "{metric}: {bound} {rank}");
                }
            }
        }
    }
}
