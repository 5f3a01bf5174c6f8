//! Looking at rows that are not flushed yet.

use plimsoll_kernels::BLOCK;

use super::coded::Scratch;
use super::exact::{BLOCK as ROWS, EPSILON, Location, Scanner};
use crate::codebook::Codebook;
use crate::error::Result;
use crate::lanes::lanes;
use crate::memtable::{Batch, Chunk, Memtable, Place, RowPlace};
use crate::router::Router;

impl<'a> Scanner<'a> {
    /// Searches what is not flushed yet, vector by vector.
    pub(crate) fn memtables(&mut self) -> Result<()> {
        for age in 0..self.memtables.len() {
            self.memtable(age, RowPlace::default())?;
        }
        self.clock.lap(|stages| &mut stages.memtables);
        Ok(())
    }

    /// Searches what is not flushed yet by the sign codes of a generation, which pass over most rows when k others were
    /// found before; vector by vector what has none yet.
    pub(super) fn coded_memtables(&mut self, router: &Router, book: &Codebook) -> Result<()> {
        self.clock.lap(|stages| &mut stages.measure);
        if self.memtables.iter().all(|memtable| memtable.is_empty()) {
            return Ok(());
        }
        self.top.tighten();
        let mut scratch = Scratch::take();
        let fits = scratch.query.set(book, self.measure.routed());
        let done = (0..self.memtables.len()).try_for_each(|age| {
            let memtable = self.memtables[age];
            let coded = fits.then(|| memtable.coded(router.generation(), || book.encoder())).flatten();
            for chunk in coded.iter().flat_map(|coded| coded.chunks()) {
                self.chunk(age, chunk, book, &mut scratch)?;
            }
            self.memtable(age, coded.map_or_else(RowPlace::default, |coded| coded.next))
        });
        scratch.put_back();
        self.clock.lap(|stages| &mut stages.memtables);
        done
    }

    /// Searches the rows of a memtable from a place on.
    fn memtable(&mut self, age: usize, from: RowPlace) -> Result<()> {
        let dimension = self.state.config.dimension;
        let memtable = self.memtables[age];
        for (number, batch) in memtable.batches_from(from.batch, self.visible) {
            let first = if number == from.batch { from.row as usize } else { 0 };
            let norms = batch.norms().get(first..).unwrap_or_default();
            let vectors = batch.vectors().get(first * dimension..).unwrap_or_default();
            for (block, (vectors, norms)) in
                vectors.chunks(ROWS * dimension).zip(norms.chunks(ROWS)).enumerate()
            {
                self.check()?;
                self.explain.memtable_rows += norms.len() as u64;
                self.bounds.resize(norms.len(), 0.0);
                self.measure.lower_bounds(vectors, norms, &mut self.bounds);
                for index in 0..norms.len() {
                    if f64::from(self.bounds[index]) <= self.top.bound() {
                        let row = (first + block * ROWS + index) as u32;
                        self.memory_row(age, RowPlace { batch: number, row }, batch)?;
                    }
                }
            }
            self.top.tighten();
        }
        Ok(())
    }

    /// Searches a chunk of coded rows.
    fn chunk(&mut self, age: usize, chunk: &Chunk, book: &Codebook, scratch: &mut Scratch) -> Result<()> {
        self.check()?;
        let Scratch { query, lows, masks, .. } = scratch;
        let count = chunk.rows.len() / BLOCK;
        lows.resize(lows.len().max(count * BLOCK), 0.0);
        masks.resize(masks.len().max(count), 0);
        let (lows, masks) = (&mut lows[..count * BLOCK], &mut masks[..count]);
        let limit = query.distance_of(book, self.top.bound());
        let (base, distance_squared) = query.of_mean(book);
        let bound = query.signs.bound(base, distance_squared, EPSILON);
        let is_whole = query.signs.scan(&chunk.blocks, &[], &bound, limit, lows, masks);
        debug_assert!(is_whole, "{count} blocks");
        self.explain.memtable_rows += chunk.rows.len() as u64;
        self.explain.codes_scanned += chunk.rows.len() as u64;
        self.explain.bytes_touched += chunk.blocks.len() as u64;
        for (block, mask) in masks.iter().enumerate() {
            for lane in lanes(*mask) {
                let place = chunk.rows[block * BLOCK + lane];
                if let Some(batch) = self.memtables[age].batch(place.batch) {
                    self.memory_row(age, place, batch)?;
                }
            }
        }
        self.top.tighten();
        Ok(())
    }

    /// Offers a row of a memtable, unless it does not count.
    fn memory_row(&mut self, age: usize, place: RowPlace, batch: &Batch) -> Result<()> {
        let RowPlace { batch: number, row } = place;
        let memtable: &'a Memtable = self.memtables[age];
        let Some((operation, _)) = batch.operation_of(row).filter(|_| batch.lsn <= self.visible) else {
            return Ok(());
        };
        let place = Place { batch: number, operation };
        let Some(entry) = memtable.entry(place) else { return Ok(()) };
        if batch.is_superseded(operation, self.visible)
            || self.is_hidden(entry.id(), age)
            || !self.selects_memory(&entry)?
        {
            return Ok(());
        }
        let posting = (row - entry.first_row()) as u16;
        let Some((vector, _)) = entry.row(usize::from(posting)) else { return Ok(()) };
        let range = || Ok(entry.ranges()[usize::from(posting)]);
        self.offer(entry.id(), posting, vector, range, Location::Memory { memtable: age, place })
    }
}
