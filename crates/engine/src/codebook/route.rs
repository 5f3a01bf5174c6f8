//! Which lists a query visits, by the codes of their centroids.

use plimsoll_codes::{blocks_of, record_len};
use plimsoll_index::priority;
use plimsoll_kernels as kernels;

use super::{Codebook, CodedQuery};
use crate::order;

/// A list that a query may visit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Visit {
    pub position: u32,
    /// What the stop rule compares; see [`plimsoll_index::Step`].
    pub priority: f32,
    /// The list's part in the distances of its rows.
    pub base: f32,
    /// |q' − c'|².
    pub distance_squared: f32,
}

/// The lists in the order in which a query visits them, nearest first, measured as far as they are asked for. For
/// distances only: under dot the records of centroids, which are of squared distances, would be read as products.
#[derive(Default)]
pub(crate) struct CodedRoute {
    /// A list's priority and position; the first `measured` are in order, the others by their signs alone.
    order: Vec<u64>,
    /// |q' − c'|² by position, where it was measured, and how far off it may be.
    distances: Vec<(f32, f32)>,
    measured: usize,
    next: usize,
}

/// So many lists are measured at first, and as many again as there are when half of them are visited: the order by
/// signs is not exact, so that what is visited next has to be chosen from more than it.
const FIRST_MEASURED: usize = 16;
/// How many standard deviations a centroid's distance may be off.
const CENTROID_DEVIATIONS: f32 = 2.0;

impl CodedRoute {
    /// Looks at the signs of all centroids.
    pub(crate) fn start(
        &mut self,
        book: &Codebook,
        query: &CodedQuery,
        lows: &mut Vec<f32>,
        masks: &mut Vec<u32>,
    ) {
        let lists = book.spreads.len();
        lows.resize(blocks_of(lists) * kernels::BLOCK, 0.0);
        masks.resize(blocks_of(lists), 0);
        let bound = query.signs.bound(query.squared, query.squared, 0.0);
        let _blocks = query.signs.scan(&book.signs, &[], &bound, f32::MAX, lows, masks);
        let priorities =
            lows.iter().zip(&book.spreads).map(|(distance, spread)| priority(*distance, *spread));
        self.order.clear();
        self.order.extend(priorities.zip(0..).map(|(priority, position)| order::key(priority, position)));
        self.distances.resize(lists, (0.0, 0.0));
        (self.measured, self.next) = (0, 0);
    }

    /// The next list.
    pub(crate) fn next(&mut self, book: &Codebook, query: &CodedQuery) -> Option<Visit> {
        let position = self.peek(book, query)?;
        let (distance_squared, error) = self.distances[position as usize];
        let priority = order::value(self.order[self.next]);
        self.next += 1;
        Some(Visit { position, priority, base: distance_squared - error, distance_squared })
    }

    /// The position of the next list.
    pub(crate) fn peek(&mut self, book: &Codebook, query: &CodedQuery) -> Option<u32> {
        if self.next * 2 >= self.measured && self.measured < self.order.len() {
            self.measure_more(book, query);
        }
        self.order.get(self.next).map(|key| order::index(*key))
    }

    fn measure_more(&mut self, book: &Codebook, query: &CodedQuery) {
        let rest = &mut self.order[self.measured..];
        let more = self.measured.max(FIRST_MEASURED).min(rest.len());
        if more < rest.len() {
            rest.select_nth_unstable(more);
        }
        let len = record_len(book.width());
        let deviation = CENTROID_DEVIATIONS * query.record_deviation();
        for key in &mut rest[..more] {
            let position = order::index(*key);
            let record = &book.records[position as usize * len..][..len];
            let measured = query.plane.distance(record);
            let (distance, error) = measured
                .map_or((f32::INFINITY, 0.0), |found| (found.distance.max(0.0), deviation * found.scale));
            self.distances[position as usize] = (distance, error);
            *key = order::key(priority(distance, book.spreads[position as usize]), position);
        }
        self.measured += more;
        self.order[self.next..self.measured].sort_unstable();
    }
}
