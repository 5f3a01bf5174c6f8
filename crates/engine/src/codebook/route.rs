//! Which lists a query visits, by the codes of their centroids.

use plimsoll_codes::{blocks_of, record_len};
use plimsoll_index::priority;
use plimsoll_kernels as kernels;

use super::{Codebook, CodedQuery};
use crate::order::{self, RoughOrder};

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
    /// All lists, by their signs alone.
    order: RoughOrder,
    /// How many of them are measured.
    measured: usize,
    /// How many were visited.
    visited: usize,
    /// Priorities and positions of those that are measured and not visited yet, the next one last.
    ready: Vec<u64>,
    /// |q' − c'|² by position, where it was measured, and how far off it may be.
    distances: Vec<(f32, f32)>,
}

/// So many lists are measured together, as long as fewer than half as many again as were visited are: the order by signs is
/// not exact, so that what is visited next has to be chosen from more than it.
const TOGETHER: usize = 16;
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
        let is_whole = query.signs.scan(&book.signs, &[], &bound, f32::MAX, lows, masks);
        debug_assert!(is_whole, "{lists} lists");
        let priorities = &mut lows[..lists];
        for (value, spread) in priorities.iter_mut().zip(&book.spreads) {
            *value = priority(*value, *spread);
        }
        self.order.sort(priorities);
        self.ready.clear();
        self.distances.resize(lists, (0.0, 0.0));
        (self.measured, self.visited) = (0, 0);
        self.prefetch(book);
    }

    /// The next list.
    pub(crate) fn next(&mut self, book: &Codebook, query: &CodedQuery) -> Option<Visit> {
        let position = self.peek(book, query)?;
        let key = self.ready.pop()?;
        self.visited += 1;
        let (distance_squared, error) = self.distances[position as usize];
        let priority = order::value(key);
        Some(Visit { position, priority, base: distance_squared - error, distance_squared })
    }

    /// The position of the next list.
    pub(crate) fn peek(&mut self, book: &Codebook, query: &CodedQuery) -> Option<u32> {
        while self.visited * 3 >= self.measured * 2
            && (self.measured < self.order.indexes().len() || self.order.sort_more())
        {
            self.measure_more(book, query);
        }
        self.ready.last().map(|key| order::index(*key))
    }

    /// All lists, as their signs put them in order.
    pub(crate) fn rough(&self) -> &[u32] {
        self.order.indexes()
    }

    /// The next lists by their signs.
    fn upcoming(&self) -> &[u32] {
        let rest = &self.order.indexes()[self.measured..];
        &rest[..rest.len().min(TOGETHER)]
    }

    /// Asks for the records that will be measured next.
    fn prefetch(&self, book: &Codebook) {
        self.upcoming().iter().for_each(|position| kernels::prefetch(book.record(*position)));
    }

    fn measure_more(&mut self, book: &Codebook, query: &CodedQuery) {
        let deviation = CENTROID_DEVIATIONS * query.record_deviation();
        let count = self.upcoming().len();
        for place in self.measured..self.measured + count {
            let position = self.order.indexes()[place];
            let measured = query.plane.distance(book.record(position));
            let (distance, error) = measured
                .map_or((f32::INFINITY, 0.0), |found| (found.distance.max(0.0), deviation * found.scale));
            self.distances[position as usize] = (distance, error);
            let key = order::key(priority(distance, book.spreads[position as usize]), position);
            self.ready.push(key);
        }
        self.ready.sort_unstable_by(|a, b| b.cmp(a));
        self.measured += count;
        self.prefetch(book);
    }
}

impl Codebook {
    /// The record of a centroid.
    #[inline]
    fn record(&self, position: u32) -> &[u8] {
        let len = record_len(self.width());
        &self.records[position as usize * len..][..len]
    }
}
