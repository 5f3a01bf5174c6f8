//! The best k rows seen so far.

use std::collections::HashSet;

use plimsoll_base::DocumentId;

/// One row that may be among the answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate<L> {
    pub rank: f64,
    pub id: DocumentId,
    /// The posting's ordinal in its document: with the id it breaks ties the same way wherever rows are.
    pub posting: u16,
    pub location: L,
}

impl<L> Candidate<L> {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let ties = || (self.id, self.posting).cmp(&(other.id, other.posting));
        self.rank.total_cmp(&other.rank).then_with(ties)
    }
}

/// Keeps the best k candidates; with `distinct`, the best posting of each of the best k documents.
#[derive(Debug)]
pub(crate) struct Top<L> {
    k: usize,
    distinct: bool,
    kept: Vec<Candidate<L>>,
    /// A rank beyond which nothing is wanted.
    limit: f64,
    bound: f64,
}

impl<L: Copy> Top<L> {
    pub(crate) fn new(k: usize, distinct: bool, limit: f64) -> Self {
        Self { k, distinct, kept: Vec::with_capacity(k.min(4096) * 2), limit, bound: limit }
    }

    /// How many are kept.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// A rank above which nothing is among the best k.
    pub(crate) fn bound(&self) -> f64 {
        self.bound
    }

    /// Offers a candidate; those above the bound are dropped.
    pub(crate) fn offer(&mut self, candidate: Candidate<L>) {
        if candidate.rank <= self.bound {
            self.kept.push(candidate);
            if self.kept.len() >= self.k.saturating_mul(2).saturating_add(64) {
                self.tighten();
            }
        }
    }

    /// Moves everything out.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self::new(self.k, self.distinct, self.limit);
        std::mem::replace(self, empty)
    }

    /// Offers everything that `other` has.
    pub(crate) fn absorb(&mut self, other: Self) {
        other.kept.into_iter().for_each(|candidate| self.offer(candidate));
    }

    /// Drops what is beyond the best k, and returns the rank of the k-th, once there are k.
    pub(crate) fn tighten(&mut self) -> Option<f64> {
        if self.distinct {
            self.kept.sort_unstable_by(Candidate::order);
            let mut seen = HashSet::with_capacity(self.kept.len());
            self.kept.retain(|candidate| seen.insert(candidate.id));
        }
        if self.kept.len() < self.k {
            return None;
        }
        if self.kept.len() > self.k {
            self.kept.select_nth_unstable_by(self.k - 1, Candidate::order);
            self.kept.truncate(self.k);
        }
        let worst = self.kept.iter().map(|candidate| candidate.rank).fold(f64::NEG_INFINITY, f64::max);
        self.bound = worst;
        Some(worst)
    }

    /// The best k, best first.
    pub(crate) fn into_sorted(mut self) -> Vec<Candidate<L>> {
        self.tighten();
        self.kept.sort_unstable_by(Candidate::order);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(rank: f64, id: u8, posting: u16) -> Candidate<u32> {
        Candidate { rank, id: DocumentId([id; 16]), posting, location: 0 }
    }

    #[test]
    fn the_best_k_are_kept_and_ties_are_broken_by_id_and_posting() {
        let mut top = Top::new(3, false, f64::INFINITY);
        for n in 0..200u8 {
            top.offer(candidate(f64::from(n % 50), 199 - n, 0));
        }
        let best: Vec<_> = top.into_sorted().into_iter().map(|c| (c.rank, c.id.0[0])).collect();
        assert_eq!(best, [(0.0, 49), (0.0, 99), (0.0, 149)]);
    }

    #[test]
    fn distinct_keeps_the_best_posting_of_each_document() {
        let mut top = Top::new(2, true, f64::INFINITY);
        for (rank, id, posting) in [(3.0, 1, 0), (1.0, 1, 1), (2.0, 1, 2), (5.0, 2, 0), (4.0, 3, 0)] {
            top.offer(candidate(rank, id, posting));
        }
        let best: Vec<_> = top.into_sorted().into_iter().map(|c| (c.id.0[0], c.posting)).collect();
        assert_eq!(best, [(1, 1), (3, 0)]);
    }

    #[test]
    fn nothing_beyond_the_limit_is_kept() {
        let mut top = Top::new(5, false, 3.0);
        (0..10).for_each(|n| top.offer(candidate(f64::from(n), n as u8, 0)));
        let others = top.take();
        top.offer(candidate(7.0, 7, 0));
        top.absorb(others);
        assert_eq!(top.into_sorted().len(), 4);
    }

    #[test]
    fn a_huge_k_keeps_everything() {
        let mut top = Top::new(usize::MAX, false, f64::INFINITY);
        (0..10).for_each(|n| top.offer(candidate(f64::from(n), n as u8, 0)));
        assert_eq!(top.tighten(), None);
        assert_eq!(top.into_sorted().len(), 10);
    }
}
