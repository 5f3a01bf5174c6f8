//! The order of the nearest rows by 16 bits a component, for a quarter of what reading their vectors takes.
//!
//! A record and what refines it say a row's rank within limits. Rows that are certainly not among the best k go; the
//! others are offered with their limits, and when all parts of a search are together, those that stay uncertain are measured
//! ([`uncertain`](super::top::uncertain)).

use super::coded::Section;
use super::exact::{BLOCK, Location, Scanner};
use super::pool::Pooled;
use super::top::{Candidate, Dedup, Group, Wanted};
use crate::codebook::{Codebook, CodedQuery};
use crate::error::Result;
use crate::tree::StoredPlace;

/// A row of a live document whose rank is known within limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refined {
    pub place: StoredPlace,
    pub posting: u16,
    pub rank: f64,
    pub error: f64,
}

/// If refined distances leave half as many rows again as are wanted, and so many more, they do not tell rows apart.
const SPARE: usize = 8;

impl Scanner<'_> {
    /// Whether it is enough to know ranks within limits: not where hits depend on more than the order of single rows.
    pub(super) fn may_refine(&self) -> bool {
        let Wanted { dedup, limit, .. } = self.top.wanted();
        !self.exact_distances && dedup == Dedup::None && limit == f64::INFINITY
    }

    /// Offers rows whose ranks are known within limits.
    pub(super) fn offer_refined(&mut self, rows: &[Refined]) -> Result<()> {
        let tree = &*self.state.tree;
        for rows in rows.chunks(BLOCK) {
            self.check()?;
            for Refined { place, posting, rank, error } in rows.iter().copied() {
                let file = tree.posting(place)?;
                let row = file.row_of(place.document, posting)?;
                let entry = file.entry(place.document)?;
                file.prefetch_hit(row, entry);
                let id = entry.id();
                let location = Location::Stored { place, row };
                self.top.offer(Candidate { rank, error, id, posting, group: Group::Row, location });
            }
        }
        Ok(())
    }
}

/// Refines the distances of rows, and leaves those that may be among the best k; false, and nothing of use, if that does not
/// tell enough of them apart, or numbers are too large.
pub(super) fn refine(
    scanner: &mut Scanner<'_>,
    book: &Codebook,
    query: &CodedQuery,
    sections: &[Section<'_>],
    rows: &[Pooled],
    refined: &mut Vec<Refined>,
) -> Result<bool> {
    refined.clear();
    for rows in rows.chunks(BLOCK) {
        scanner.check()?;
        let first = refined.len();
        for pooled in rows {
            let section = &sections[pooled.section as usize].rows;
            section.prefetch_refinement(pooled.row);
            let (ordinal, posting) = section.row(pooled.row)?;
            let Some(place) = scanner.place(ordinal)? else { return Ok(false) };
            scanner.state.tree.posting(place)?.prefetch_entry(place.document);
            refined.push(Refined { place, posting, rank: 0.0, error: 0.0 });
        }
        for (pooled, refined) in rows.iter().zip(&mut refined[first..]) {
            let section = &sections[pooled.section as usize].rows;
            let (record, refinement) = (section.record(pooled.row)?, section.refinement(pooled.row)?);
            scanner.explain.bytes_touched += refinement.map_or(0, <[u8]>::len) as u64;
            let found = refinement.and_then(|refinement| query.refined(book, record, refinement));
            let Some((rank, error)) = found else { return Ok(false) };
            (refined.rank, refined.error) = (rank, error);
        }
    }
    scanner.explain.rows_refined += refined.len() as u64;
    let k = scanner.k();
    if refined.len() > k {
        let high = |refined: &Refined| refined.rank + refined.error;
        let (_, kth, _) = refined.select_nth_unstable_by(k - 1, |a, b| high(a).total_cmp(&high(b)));
        let bound = high(kth);
        refined.retain(|refined| refined.rank - refined.error <= bound);
    }
    Ok(refined.len() <= k.saturating_add(k / 2).saturating_add(SPARE))
}
