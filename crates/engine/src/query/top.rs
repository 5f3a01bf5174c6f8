//! The best k rows seen so far.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use plimsoll_base::DocumentId;
use plimsoll_shard::PostingRange;

/// Which rows count once: of each group only the best row is found, and k counts groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dedup {
    /// Every row counts.
    #[default]
    None,
    /// The rows of a document.
    Document,
    /// The rows of a document with the same start and length, such as several vectors of one passage.
    Position,
    /// Rows with equal vectors, number for number, whichever documents they are of; the document with the smallest
    /// identity is the one that is found.
    Vector,
}

/// What is asked of the rows together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// How many.
    pub k: usize,
    /// What counts once.
    pub dedup: Dedup,
    /// A rank beyond which nothing is wanted.
    pub limit: f64,
}

/// Rows that count once together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Group<'v> {
    /// Every row is its own.
    Row,
    Document(DocumentId),
    Position(DocumentId, PostingRange),
    /// With the rank, which is the same for equal vectors.
    Vector(f64, &'v [f32]),
}

/// Neither ranks nor vectors are ever not a number.
impl Eq for Group<'_> {}

impl Hash for Group<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Row => {}
            Self::Document(id) => id.hash(state),
            Self::Position(id, range) => (id, range).hash(state),
            // Zero has two signs.
            Self::Vector(rank, _) => (rank + 0.0).to_bits().hash(state),
        }
    }
}

/// One row that may be among the answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate<'v, L> {
    pub rank: f64,
    /// How far off the rank may be: 0 if it was measured. Rows that count once together are.
    pub error: f64,
    pub id: DocumentId,
    /// The posting's ordinal in its document: with the id it breaks ties the same way wherever rows are.
    pub posting: u16,
    pub group: Group<'v>,
    pub location: L,
}

impl<L> Candidate<'_, L> {
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.total_cmp(&other.rank).then_with(|| self.ties(other))
    }

    fn order_of_highs(&self, other: &Self) -> std::cmp::Ordering {
        self.high().total_cmp(&other.high()).then_with(|| self.ties(other))
    }

    fn ties(&self, other: &Self) -> std::cmp::Ordering {
        (self.id, self.posting).cmp(&(other.id, other.posting))
    }

    fn low(&self) -> f64 {
        self.rank - self.error
    }

    fn high(&self) -> f64 {
        self.rank + self.error
    }
}

/// A rank may be off by this share of itself and be good enough to be said.
const SAID: f64 = 1.0 / 4096.0;

/// Of candidates in their order, those that have to be measured: the place of which among the others is not certain, or the
/// rank of which is not known well enough to be said.
pub(crate) fn uncertain<L>(candidates: &[Candidate<'_, L>]) -> Vec<usize> {
    if candidates.iter().all(|candidate| candidate.error == 0.0) {
        return Vec::new();
    }
    // The least low limit from each on.
    let mut lows: Vec<f64> = candidates.iter().map(Candidate::low).collect();
    for index in (1..lows.len()).rev() {
        lows[index - 1] = lows[index - 1].min(lows[index]);
    }
    let mut uncertain = Vec::new();
    let mut high = f64::NEG_INFINITY;
    for (index, candidate) in candidates.iter().enumerate() {
        let is_behind = candidate.low() > high;
        high = high.max(candidate.high());
        let is_before = lows.get(index + 1).is_none_or(|low| candidate.high() < *low);
        let is_known = candidate.error <= candidate.rank.abs() * SAID;
        if candidate.error > 0.0 && !(is_behind && is_before && is_known) {
            uncertain.push(index);
        }
    }
    uncertain
}

/// Keeps the best row of each of the best k groups.
#[derive(Debug)]
pub(crate) struct Top<'v, L> {
    wanted: Wanted,
    kept: Vec<Candidate<'v, L>>,
    bound: f64,
}

impl<'v, L: Copy> Top<'v, L> {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { wanted, kept: Vec::with_capacity(wanted.k.min(4096) * 2), bound: wanted.limit }
    }

    /// What it keeps.
    pub(crate) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// A rank above which nothing is among the best k.
    pub(crate) fn bound(&self) -> f64 {
        self.bound
    }

    /// Offers a candidate; those certainly above the bound are dropped.
    pub(crate) fn offer(&mut self, candidate: Candidate<'v, L>) {
        if candidate.low() <= self.bound {
            self.kept.push(candidate);
            if self.kept.len() >= self.wanted.k.saturating_mul(2).saturating_add(64) {
                self.tighten();
            }
        }
    }

    /// Moves everything out.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.wanted))
    }

    /// Offers everything that `other` has.
    pub(crate) fn absorb(&mut self, other: Self) {
        other.kept.into_iter().for_each(|candidate| self.offer(candidate));
    }

    /// Drops what is certainly beyond the best k, and returns what the rank of the k-th is at most, once there are k.
    pub(crate) fn tighten(&mut self) -> Option<f64> {
        let Wanted { k, dedup, .. } = self.wanted;
        if dedup != Dedup::None {
            self.kept.sort_unstable_by(Candidate::order);
            let mut seen = HashSet::with_capacity(self.kept.len());
            self.kept.retain(|candidate| seen.insert(candidate.group));
        }
        if self.kept.len() < k {
            return None;
        }
        if self.kept.len() > k {
            self.kept.select_nth_unstable_by(k - 1, Candidate::order_of_highs);
        }
        let worst = self.kept.iter().take(k).map(Candidate::high).fold(f64::NEG_INFINITY, f64::max);
        let mut index = 0;
        self.kept.retain(|candidate| {
            index += 1;
            // Of those that were measured, none of the others is better than the first k.
            index <= k || (candidate.error > 0.0 && candidate.low() <= worst)
        });
        self.bound = worst;
        Some(worst)
    }

    /// The best k, best first by what is known of their ranks, and what may be among them.
    pub(crate) fn into_sorted(mut self) -> Vec<Candidate<'v, L>> {
        self.tighten();
        self.kept.sort_unstable_by(Candidate::order);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Wanted = Wanted { k: usize::MAX, dedup: Dedup::None, limit: f64::INFINITY };

    fn candidate(rank: f64, id: u8, posting: u16) -> Candidate<'static, u32> {
        Candidate { rank, error: 0.0, id: DocumentId([id; 16]), posting, group: Group::Row, location: 0 }
    }

    #[test]
    fn the_best_k_are_kept_and_ties_are_broken_by_id_and_posting() {
        let mut top = Top::new(Wanted { k: 3, ..ALL });
        for n in 0..200u8 {
            top.offer(candidate(f64::from(n % 50), 199 - n, 0));
        }
        let best: Vec<_> = top.into_sorted().into_iter().map(|c| (c.rank, c.id.0[0])).collect();
        assert_eq!(best, [(0.0, 49), (0.0, 99), (0.0, 149)]);
    }

    proptest! {
        /// Whatever the true ranks are within their limits: measuring what is uncertain puts the best k in their order, and
        /// what is said of the others is near enough.
        #[test]
        fn what_is_uncertain_is_measured_and_the_rest_in_order(
            rows in prop::collection::vec(
                (0_u32..400, prop_oneof![Just(0_u32), 0_u32..30], -1.0..=1.0_f64),
                1..250,
            ),
            k in 1_usize..30,
        ) {
            let is = |(rank, error, off): &(u32, u32, f64)| f64::from(*rank) + f64::from(*error) * off;
            let truth: Vec<f64> = rows.iter().map(is).collect();
            let mut top = Top::new(Wanted { k, ..ALL });
            let mut others = Top::new(Wanted { k, ..ALL });
            for (index, (rank, error, _)) in rows.iter().enumerate() {
                let plain = candidate(f64::from(*rank), index as u8, 0);
                let known = Candidate { error: f64::from(*error), location: index as u32, ..plain };
                if index % 3 == 0 { others.offer(known) } else { top.offer(known) }
            }
            top.absorb(others);
            let mut best = top.into_sorted();
            let uncertain = uncertain(&best);
            for (index, candidate) in best.iter_mut().enumerate() {
                let is = truth[candidate.location as usize];
                if uncertain.contains(&index) {
                    (candidate.rank, candidate.error) = (is, 0.0);
                } else if index < k {
                    prop_assert!((candidate.rank - is).abs() <= candidate.rank.abs() * SAID);
                }
            }
            best.sort_unstable_by(Candidate::order);
            best.truncate(k);
            let found: Vec<f64> = best.iter().map(|candidate| truth[candidate.location as usize]).collect();
            let mut ranks = truth;
            ranks.sort_unstable_by(f64::total_cmp);
            ranks.truncate(k);
            prop_assert_eq!(found, ranks);
        }
    }

    #[test]
    fn ranks_that_are_all_alike_do_not_pile_up() {
        let mut top = Top::new(Wanted { k: 3, ..ALL });
        (0..=255).for_each(|n| top.offer(candidate(1.0, n, 0)));
        assert_eq!(top.tighten(), Some(1.0));
        assert_eq!(top.kept.len(), 3);
    }

    #[test]
    fn the_best_row_of_each_group_is_kept() {
        let range = |start| PostingRange { start, length: 5 };
        let vectors = [[1.0, 0.0], [1.0, -0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]];
        // Rank, document, posting, start of the passage, and the vector by its number.
        let rows =
            [(3.0, 1, 0, 0, 3), (1.0, 1, 1, 0, 0), (1.0, 4, 0, 0, 1), (1.0, 1, 2, 7, 2), (4.0, 3, 0, 0, 4)];
        let best = |dedup| {
            let mut top = Top::new(Wanted { k: 3, dedup, ..ALL });
            for (rank, id, posting, start, vector) in rows {
                let plain = candidate(rank, id, posting);
                let group = match dedup {
                    Dedup::None => Group::Row,
                    Dedup::Document => Group::Document(plain.id),
                    Dedup::Position => Group::Position(plain.id, range(start)),
                    Dedup::Vector => Group::Vector(rank, &vectors[vector]),
                };
                top.offer(Candidate { group, ..plain });
            }
            top.into_sorted().into_iter().map(|c| (c.id.0[0], c.posting)).collect::<Vec<_>>()
        };
        assert_eq!(best(Dedup::None), [(1, 1), (1, 2), (4, 0)]);
        assert_eq!(best(Dedup::Document), [(1, 1), (4, 0), (3, 0)]);
        assert_eq!(best(Dedup::Position), [(1, 1), (1, 2), (4, 0)]);
        assert_eq!(best(Dedup::Vector), [(1, 1), (1, 2), (1, 0)]);
    }

    #[test]
    fn nothing_beyond_the_limit_is_kept() {
        let mut top = Top::new(Wanted { k: 5, limit: 3.0, ..ALL });
        (0..10).for_each(|n| top.offer(candidate(f64::from(n), n as u8, 0)));
        let others = top.take();
        top.offer(candidate(7.0, 7, 0));
        top.absorb(others);
        assert_eq!(top.into_sorted().len(), 4);
    }

    #[test]
    fn a_huge_k_keeps_everything() {
        let mut top = Top::new(ALL);
        (0..10).for_each(|n| top.offer(candidate(f64::from(n), n as u8, 0)));
        assert_eq!(top.tighten(), None);
        assert_eq!(top.into_sorted().len(), 10);
    }
}
