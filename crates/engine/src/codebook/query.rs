//! A query in the terms of one generation's codes.

use plimsoll_base::Metric;
use plimsoll_codes::{PlaneError, PlaneQuery, RefinedDistance, SignQuery};
use plimsoll_kernels as kernels;

use super::Codebook;

/// A query as the codes of one generation see it.
///
/// Distances are |q − x|² under L2 and, of normalised vectors, under cosine; −2 ⟨q, x⟩ + 2 ⟨q, m⟩ under dot.
#[derive(Default)]
pub(crate) struct CodedQuery {
    centred: Vec<f32>,
    rotated: Vec<f32>,
    pub signs: SignQuery,
    pub plane: PlaneQuery,
    /// |q'|².
    pub(super) squared: f32,
    /// 2 ⟨q, m⟩ under dot.
    shift: f32,
}

/// The deviation of a record's distance is this times the record's scale times |q'|: each component is rounded evenly
/// within one step, which has a deviation of 1 / √12, and the distance has twice the product.
const RECORD_DEVIATION: f32 = 0.577_350_26;
/// Numbers up to here can be squared and added without becoming infinite.
const LARGEST: f32 = 1e36;

impl CodedQuery {
    /// Prepares a query that is as the index sees it; false if its numbers are too large for codes.
    pub(crate) fn set(&mut self, book: &Codebook, query: &[f32]) -> bool {
        self.rotated.resize(book.width(), 0.0);
        book.rotate(query, &mut self.centred, &mut self.rotated);
        self.squared = kernels::norm_squared(&self.rotated);
        self.shift = match book.metric {
            Metric::Cosine | Metric::L2 => 0.0,
            Metric::Dot => 2.0 * kernels::dot(query, &book.mean),
        };
        let fits = self.squared < LARGEST && self.shift.abs() < LARGEST;
        if fits {
            self.signs.set(&self.rotated);
            self.plane.set(&self.rotated, book.measure());
        }
        fits
    }

    /// The part of the list at `position` in the distances of its rows, and |q' − c'|², by the centroid itself.
    pub(crate) fn of_list(&self, book: &Codebook, position: u32) -> (f32, f32) {
        let centroid = book.centroid(position);
        let distance_squared = kernels::l2_squared(&self.rotated, centroid);
        let base = match book.metric {
            Metric::Cosine | Metric::L2 => distance_squared,
            Metric::Dot => -2.0 * kernels::dot(&self.rotated, centroid),
        };
        (base, distance_squared)
    }

    /// As [`CodedQuery::of_list`], for a list around the mean.
    pub(crate) fn of_mean(&self, book: &Codebook) -> (f32, f32) {
        let base = match book.metric {
            Metric::Cosine | Metric::L2 => self.squared,
            Metric::Dot => 0.0,
        };
        (base, self.squared)
    }

    /// How far the distance by a record with this scale is from the true one, as a standard deviation.
    pub(crate) fn record_deviation(&self) -> f32 {
        RECORD_DEVIATION * self.squared.sqrt()
    }

    /// How far the distance by a record can be from that of a rank as measures order rows, but for what is the same for
    /// all rows.
    pub(crate) fn record_error(&self, book: &Codebook) -> PlaneError {
        let error = self.plane.error(&self.rotated, book.measure());
        match book.metric {
            Metric::L2 | Metric::Dot => error,
            // Normalised vectors are a few units in the last place off, and so are their lengths.
            Metric::Cosine => error.plus(64.0 * f32::EPSILON),
        }
    }

    /// The distance, rounded up, of a rank as measures order rows: 1 − cos, a squared distance, or a negated product.
    pub(crate) fn distance_of(&self, book: &Codebook, rank: f64) -> f32 {
        let distance = match book.metric {
            Metric::Cosine => 2.0 * rank,
            Metric::L2 => rank,
            Metric::Dot => 2.0 * rank + f64::from(self.shift),
        };
        // The roundings of a query and of its product with the mean, of up to 4,096 dimensions.
        let slack = 4e-5 * (distance.abs() + f64::from(self.squared) + f64::from(self.shift.abs()));
        if distance.is_finite() { ((distance + slack) as f32).next_up() } else { f32::INFINITY }
    }

    /// A row's rank, as measures order rows, by its record and what refines it, and how far off it may be; `None` where that
    /// says nothing: of products, of codes of other lengths, and of numbers that are too large.
    pub(crate) fn refined(&self, book: &Codebook, record: &[u8], refinement: &[u8]) -> Option<(f64, f64)> {
        let RefinedDistance { distance, error } = self.plane.refined(record, refinement)?;
        let distance = distance.max(0.0);
        let (rank, error) = match book.metric {
            Metric::Cosine => {
                // Both vectors were normalised, each to half a unit in the last place.
                let rounded = f64::from(f32::EPSILON);
                let apart = (distance + error).sqrt();
                (distance / 2.0, (error + 2.0 * apart * rounded + rounded * rounded) / 2.0)
            }
            Metric::L2 => (distance, error),
            Metric::Dot => return None,
        };
        (rank.is_finite() && error.is_finite()).then_some((rank, error))
    }

    /// A distance as the stop rule compares it: under dot the negated product.
    pub(crate) fn stop_rank(&self, book: &Codebook, distance: f32) -> f32 {
        match book.metric {
            Metric::Cosine | Metric::L2 => distance,
            Metric::Dot => (distance - self.shift) / 2.0,
        }
    }
}
