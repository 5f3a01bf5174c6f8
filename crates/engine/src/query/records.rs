//! Exact search of rows that have codes: their 8-bit records are scanned in the order of the bytes, a quarter of what the
//! vectors have.
//!
//! A record says a distance within limits that are proven ([`PlaneQuery::error`](plimsoll_codes::PlaneQuery::error)): every
//! row whose lower limit is not above the k-th smallest upper limit is measured in float64 from its vector, and no other
//! row can be among the best k. So the answer is that of a float64 scan.

use plimsoll_base::{Generation, StorageError};

use super::coded::Section;
use super::exact::Scanner;
use super::pool::{Pool, Pooled};
use crate::codebook::{Codebook, CodedQuery};
use crate::error::Result;
use crate::router::Router;
use crate::rows::UNLISTED;

/// Records between two looks at the clock.
const BLOCK: u32 = 256;
/// Rows without codes are looked up one by one, which is worth it as long as there are few of them: one in so many.
const FEW: u64 = 8;

impl<'a> Scanner<'a> {
    /// Searches every stored row; false, and what was found is worth nothing, if too many have no codes, or the query's
    /// numbers are too large for them.
    pub(super) fn all_records(&mut self) -> Result<bool> {
        let tree = &*self.state.tree;
        let (unlisted, list) = UNLISTED;
        let without: u64 = tree
            .vectors
            .iter()
            .filter(|segment| segment.generation == Generation(0))
            .flat_map(|segment| &segment.live)
            .map(|(_, rows)| *rows)
            .sum();
        if without > tree.rows() / FEW {
            return Ok(false);
        }
        for router in tree.routers.values().rev() {
            let router: &'a Router = router.get()?;
            let Some(book) = router.codebook()? else { return Ok(false) };
            let Some(sections) = self.coded_sections(router.generation(), book)? else { return Ok(false) };
            if !self.records_of(book, &sections)? {
                return Ok(false);
            }
        }
        self.list(Generation(0), unlisted, list)?;
        self.explain.lists_probed = self.explain.lists_total;
        self.explain.exact = true;
        Ok(true)
    }

    /// Searches the rows of one generation.
    fn records_of(&mut self, book: &Codebook, sections: &[Section<'a>]) -> Result<bool> {
        let mut query = CodedQuery::default();
        if !query.set(book, self.measure.routed()) {
            return Ok(false);
        }
        let error = query.record_error(book);
        let mut pool = Pool::default();
        pool.reset(self.k(), query.distance_of(book, self.bound()));
        let asks_documents = self.asks_documents();
        for (number, section) in sections.iter().enumerate() {
            let rows = section.rows.row_count();
            for first in (0..rows).step_by(BLOCK as usize) {
                self.check()?;
                let block = first..rows.min(first.saturating_add(BLOCK));
                let (records, len) = section.rows.records(block.clone())?;
                self.explain.rows_reranked += block.len() as u64;
                self.explain.bytes_touched += records.len() as u64;
                for (row, record) in block.zip(records.chunks_exact(len)) {
                    let Some(found) = query.plane.distance(record) else {
                        let what = format!("a record of {len} bytes");
                        return Err(StorageError::corrupted(section.rows.file().path(), 0, what).into());
                    };
                    let margin = error.of(found);
                    let (low, high) = match (found.distance - margin, found.distance + margin) {
                        (low, high) if low.is_finite() && high.is_finite() => (low, high),
                        // Its numbers are too large for a record: its raw vector decides.
                        _ => (f32::NEG_INFINITY, f32::INFINITY),
                    };
                    if low > pool.bound() {
                        continue;
                    }
                    let document = section.rows.row(row)?;
                    if (asks_documents && !self.is_live(document.0)?) || !self.passes_filter(document.0)? {
                        continue;
                    }
                    let group = self.group(document, found)?;
                    pool.push(Pooled { low, high, section: number as u32, row, group });
                }
            }
        }
        let named = pool.settle().iter().map(|pooled| sections[pooled.section as usize].rows.row(pooled.row));
        let named = named.collect::<plimsoll_base::Result<Vec<_>>>()?;
        self.measure_raw(&named)?;
        Ok(true)
    }
}
