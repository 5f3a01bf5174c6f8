//! The rows that may be among the best k, by distances that are known within limits.

use std::collections::{BinaryHeap, HashMap};

use plimsoll_base::DocumentOrdinal;

/// A row of a section, and between which limits its distance is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pooled {
    pub low: f32,
    pub high: f32,
    /// The section, by its place in the query's list of sections.
    pub section: u32,
    pub row: u32,
    /// The document, where documents count once.
    pub ordinal: Option<DocumentOrdinal>,
}

/// Keeps every row whose lower limit is not above the k-th smallest upper limit.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    k: usize,
    rows: Vec<Pooled>,
    /// The k smallest upper limits, the largest first.
    highs: BinaryHeap<Ordered>,
    /// Where documents count once: the smallest upper limit of each.
    documents: HashMap<DocumentOrdinal, f32>,
    bound: f32,
    /// How many documents there were when the bound was computed last.
    settled: usize,
}

/// A float32 in its order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Pool {
    /// Empties it, for the best k of those within a limit.
    pub(crate) fn reset(&mut self, k: usize, limit: f32) {
        self.k = k;
        self.rows.clear();
        self.highs.clear();
        self.documents.clear();
        self.bound = limit;
        self.settled = 0;
    }

    /// How many rows are wanted.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// The k-th smallest upper limit: nothing above it is among the best k. Before there are k, the limit of all.
    pub(crate) fn bound(&self) -> f32 {
        self.bound
    }

    /// Whether there is a bound.
    pub(crate) fn is_full(&self) -> bool {
        self.bound < f32::INFINITY
    }

    /// Adds a row, unless it can not be among the best k.
    pub(crate) fn push(&mut self, row: Pooled) {
        if row.low > self.bound {
            return;
        }
        self.rows.push(row);
        match row.ordinal {
            Some(ordinal) => self.count_document(ordinal, row.high),
            None => self.count_row(row.high),
        }
    }

    fn count_row(&mut self, high: f32) {
        if self.highs.len() < self.k {
            self.highs.push(Ordered(high));
        } else if let Some(mut worst) = self.highs.peek_mut()
            && high < worst.0
        {
            worst.0 = high;
        }
        if self.highs.len() == self.k
            && let Some(worst) = self.highs.peek()
        {
            self.bound = self.bound.min(worst.0);
        }
    }

    fn count_document(&mut self, ordinal: DocumentOrdinal, high: f32) {
        let best = self.documents.entry(ordinal).or_insert(high);
        *best = best.min(high);
        // Computing the bound costs as much as there are documents, so it is done now and then.
        if self.documents.len() >= self.k && self.documents.len() >= self.settled + self.settled / 4 {
            let mut highs: Vec<f32> = self.documents.values().copied().collect();
            let (_, kth, _) = highs.select_nth_unstable_by(self.k - 1, f32::total_cmp);
            self.bound = self.bound.min(*kth);
            let bound = self.bound;
            self.documents.retain(|_, high| *high <= bound);
            self.settled = self.documents.len();
        }
    }

    /// The rows that may be among the best k.
    pub(crate) fn settle(&mut self) -> &[Pooled] {
        let bound = self.bound;
        self.rows.retain(|row| row.low <= bound);
        &self.rows
    }
}
