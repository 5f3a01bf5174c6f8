//! Searching one index generation through its codes.
//!
//! Lists are visited nearest first. The sign codes of a list's rows give lower bounds of their distances; the rows
//! that may be among the best k are measured by their 8-bit records after the next list is scanned, so that waiting
//! for memory and scanning overlap; and those that still may be are put in order in the end, by what refines their records
//! or from their raw vectors. The first lists have no k-th distance to compare with: their most promising rows are measured
//! first.

use std::cell::Cell;

use plimsoll_base::{DocumentOrdinal, Generation, ListId, Metric, ShardId, StorageError};
use plimsoll_index::{Progress, Route, StopRule};
use plimsoll_kernels::BLOCK;
use plimsoll_shard::{CodedRows, ListEntry};

use super::exact::Scanner;
use super::pool::{Pool, Pooled};
use super::refine::{Refined, refine};
use super::unbounded::Unbounded;
use crate::codebook::{Codebook, CodedQuery, CodedRoute, Visit};
use crate::error::Result;
use crate::lanes::lanes;
use crate::router::Router;

/// What a search needs while it runs; each thread keeps its own, so that searching allocates next to nothing.
#[derive(Default)]
pub(super) struct Scratch {
    pub query: CodedQuery,
    route: CodedRoute,
    pub lows: Vec<f32>,
    pub masks: Vec<u32>,
    candidates: Candidates,
    unbounded: Unbounded,
    pool: Pool,
    refined: Vec<Refined>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// This thread's; to be put back.
    pub(super) fn take() -> Box<Self> {
        SCRATCH.take().unwrap_or_default()
    }

    pub(super) fn put_back(self: Box<Self>) {
        SCRATCH.set(Some(self));
    }
}

/// The rows that passed the signs, in the order in which they did.
#[derive(Default)]
struct Candidates {
    rows: Vec<Candidate>,
    /// So many of them are measured.
    measured: usize,
    /// So many are measured or wait for it, their records asked for. The others are of the list that is scanned.
    chosen: usize,
}

impl Candidates {
    fn clear(&mut self) {
        self.rows.clear();
        (self.measured, self.chosen) = (0, 0);
    }
}

/// A row that passed the signs.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    low: f32,
    section: u32,
    row: u32,
}

/// A shard's part of a segment.
pub(super) struct Section<'a> {
    shard: ShardId,
    pub(super) rows: CodedRows<'a>,
}

/// Where a list is in a section.
#[derive(Clone, Copy)]
struct Located<'a> {
    /// The section, by its place in the query's list of sections.
    section: usize,
    entry: ListEntry,
    /// The blocks of its signs, and the first slot and the one after the last, counted from the first block.
    blocks: &'a [u8],
    slots: (usize, usize),
}

impl<'a> Located<'a> {
    fn find(number: usize, section: &Section<'a>, list: ListId) -> Result<Option<Self>> {
        let Some(entry) = section.rows.list(list) else { return Ok(None) };
        let end = entry.first_slot.checked_add(entry.rows).filter(|end| *end > entry.first_slot);
        let end = end.filter(|end| end.checked_next_multiple_of(BLOCK as u32).is_some());
        let Some(end) = end else { return Err(misplaced(&section.rows, &entry)) };
        let first = entry.first_slot / BLOCK as u32;
        let blocks = section.rows.blocks(first..end.div_ceil(BLOCK as u32))?;
        let from_first = |slot: u32| (slot - first * BLOCK as u32) as usize;
        let slots = (from_first(entry.first_slot), from_first(end));
        Ok(Some(Self { section: number, entry, blocks, slots }))
    }
}

/// How many standard deviations a record's distance may be off.
const RECORD_DEVIATIONS: f32 = 3.0;
/// The first rows that are measured are the most promising ones of so many lists.
const FIRST_LISTS: usize = 2;

/// Lists whose signs are asked for before the first one is visited.
const FIRST_AHEAD: usize = 8;

/// The lists a query visits.
enum Visits {
    /// By the codes of the centroids.
    Coded,
    /// By the centroids themselves: under dot the order depends on more than distances.
    Measured(Route),
}

/// A query on its way from list to list.
struct Walk<'a> {
    visits: Visits,
    progress: Progress,
    /// The share of the rows that a filter lets through.
    share: f64,
    /// Where the list is that is visited.
    here: Vec<Located<'a>>,
    /// Where the one is that probably will be next: it is found while there is time.
    ahead: Vec<Located<'a>>,
    position_ahead: Option<u32>,
    /// So many lists were asked for ahead.
    asked: usize,
}

/// So many of them, if it is not known how many rows are within a limit.
const FIRST_WITHIN: usize = 10;

/// One query in one generation.
struct Coded<'s, 'a> {
    scratch: &'s mut Scratch,
    router: &'a Router,
    book: &'a Codebook,
    /// The shards and ids of the lists, by position.
    lists: (&'a [ShardId], &'a [ListId]),
    sections: Vec<Section<'a>>,
    rule: StopRule,
    epsilon: f32,
    margin: f32,
    /// Whether it depends on a row's document if the row counts.
    asks_documents: bool,
    /// The recall that is asked for, where rows count once.
    recall_of_groups: Option<f32>,
}

impl<'a> Scanner<'a> {
    /// Searches the lists of a generation that has codes until `rule` ends it; false, and nothing done, if a segment
    /// has none, or the query's numbers are too large for them. Where rows count once, the rule is chosen anew for a recall.
    pub(super) fn coded(
        &mut self,
        router: &'a Router,
        book: &'a Codebook,
        rule: StopRule,
        epsilon: f32,
        recall_of_groups: Option<f32>,
    ) -> Result<bool> {
        let Some(sections) = self.coded_sections(router.generation(), book)? else { return Ok(false) };
        let lists = router.lists()?;
        let mut scratch = Scratch::take();
        let fits = scratch.query.set(book, self.measure.routed());
        self.clock.lap(|stages| &mut stages.prepare);
        let visited = match fits {
            false => Ok(false),
            true => {
                let margin = RECORD_DEVIATIONS * scratch.query.record_deviation();
                let asks_documents = self.asks_documents();
                let coded = Coded {
                    scratch: &mut scratch,
                    router,
                    book,
                    lists,
                    sections,
                    rule,
                    epsilon,
                    margin,
                    asks_documents,
                    recall_of_groups,
                };
                coded.run(self).map(|()| true)
            }
        };
        scratch.put_back();
        visited
    }

    /// The live parts of a generation's segments; `None` if one has no codes.
    pub(super) fn coded_sections(
        &self,
        generation: Generation,
        book: &Codebook,
    ) -> Result<Option<Vec<Section<'a>>>> {
        let mut sections = Vec::new();
        for segment in self.state.tree.vectors.iter().filter(|segment| segment.generation == generation) {
            let file = &**segment.file.get()?;
            for (shard, _) in &segment.live {
                let Some(rows) = file.codes(*shard, book.lengths())? else { return Ok(None) };
                sections.push(Section { shard: *shard, rows });
            }
        }
        Ok(Some(sections))
    }
}

impl<'a> Coded<'_, 'a> {
    fn run(mut self, scanner: &mut Scanner<'a>) -> Result<()> {
        let limit = self.scratch.query.distance_of(self.book, scanner.limit());
        self.scratch.pool.reset(scanner.k(), limit);
        self.scratch.candidates.clear();
        self.scratch.unbounded.clear();
        let visits = match scanner.measure.metric() {
            Metric::Cosine | Metric::L2 => {
                let Scratch { query, route, lows, masks, .. } = &mut *self.scratch;
                route.start(self.book, query, lows, masks);
                Visits::Coded
            }
            Metric::Dot => {
                let radii = scanner.state.tree.radii(self.router)?;
                Visits::Measured(self.router.route_within(scanner.measure.routed(), radii, &self.rule)?)
            }
        };
        let all_were_asked_for = self.sections.iter().all(|section| section.rows.all_signs_were_asked_for());
        let mut walk = Walk {
            visits,
            progress: Progress { next: 0.0, first: 0.0, kth: None, rows: 0, lists: 0 },
            // Of rows that a filter does not let through, none is among the best k: as if they were not there.
            share: scanner.share(),
            here: Vec::new(),
            ahead: Vec::new(),
            position_ahead: None,
            asked: if all_were_asked_for { usize::MAX } else { 0 },
        };
        while self.visit(scanner, &mut walk)? {}
        loop {
            self.measure_waiting(scanner)?;
            self.choose();
            if self.scratch.candidates.measured == self.scratch.candidates.chosen {
                break;
            }
        }
        scanner.clock.lap(|stages| &mut stages.rerank);
        scanner.explain.lists_probed += walk.progress.lists;
        self.promote(scanner)
    }

    /// Visits the next list; false if there is none that is worth it.
    fn visit(&mut self, scanner: &mut Scanner<'a>, walk: &mut Walk<'a>) -> Result<bool> {
        let Some(visit) = self.next(&mut walk.visits) else { return Ok(false) };
        scanner.check()?;
        let pool = &self.scratch.pool;
        let progress = &mut walk.progress;
        progress.kth = pool.is_full().then(|| self.scratch.query.stop_rank(self.book, pool.bound()));
        progress.next = visit.priority;
        if progress.lists == 0 {
            progress.first = visit.priority;
        }
        if let (Some(recall), true) = (self.recall_of_groups, pool.is_full()) {
            // The rows that are as near as the k-th group are the nearest so many rows.
            let k = pool.k().map(|k| pool.near().max(k));
            self.rule = self.router.stop_for(recall, k, &scanner.state.tree)?.0;
        }
        if self.rule.stops(progress) {
            return Ok(false);
        }
        if progress.lists >= walk.asked / 2 {
            walk.asked = self.ask_ahead(&walk.visits, walk.asked);
        }
        progress.lists += 1;
        progress.rows += (f64::from(self.book.rows(visit.position)) * walk.share) as u64;
        std::mem::swap(&mut walk.here, &mut walk.ahead);
        if walk.position_ahead != Some(visit.position) {
            self.locate(visit.position, &mut walk.here)?;
        }
        // What is damaged is said when it is visited.
        let next = self.peek(&mut walk.visits);
        walk.position_ahead = next.filter(|next| self.locate(*next, &mut walk.ahead).is_ok());
        if walk.position_ahead.is_none() {
            walk.ahead.clear();
        }
        scanner.clock.lap(|stages| &mut stages.route);
        for located in &walk.here {
            let next = walk.ahead.iter().find(|next| next.section == located.section);
            self.scan(scanner, visit, located, next.map_or(&[], |next| next.blocks))?;
        }
        scanner.clock.lap(|stages| &mut stages.scan);
        self.measure_waiting(scanner)?;
        if walk.progress.lists >= FIRST_LISTS {
            self.choose();
        }
        scanner.clock.lap(|stages| &mut stages.rerank);
        Ok(true)
    }

    fn next(&mut self, visits: &mut Visits) -> Option<Visit> {
        let Scratch { query, route, .. } = &mut *self.scratch;
        match visits {
            Visits::Coded => route.next(self.book, query),
            Visits::Measured(route) => {
                let step = route.next()?;
                let (base, distance_squared) = query.of_list(self.book, step.position);
                Some(Visit { position: step.position, priority: step.priority, base, distance_squared })
            }
        }
    }

    /// The list that will probably be visited next.
    fn peek(&mut self, visits: &mut Visits) -> Option<u32> {
        let Visits::Coded = visits else { return None };
        let Scratch { query, route, .. } = &mut *self.scratch;
        route.peek(self.book, query)
    }

    /// Asks the disk for the signs of lists that will probably be visited, twice as many as before, where nobody has touched
    /// them yet. Returns for how many lists it has done so. Lists by their centroids themselves have no order to go by.
    fn ask_ahead(&self, visits: &Visits, asked: usize) -> usize {
        let Visits::Coded = visits else { return usize::MAX };
        let lists = self.scratch.route.rough();
        let until = asked_next(asked, lists.len());
        for position in lists.iter().take(until).skip(asked) {
            let (shard, list) = self.list(*position);
            for section in self.sections.iter().filter(|section| section.shard == shard) {
                if let Some(entry) = section.rows.list(list) {
                    section.rows.ask_for(&entry);
                }
            }
        }
        until
    }

    fn list(&self, position: u32) -> (ShardId, ListId) {
        let (shards, lists) = self.lists;
        (shards[position as usize], lists[position as usize])
    }

    /// Finds a list in every section that has a part of it.
    fn locate(&self, position: u32, found: &mut Vec<Located<'a>>) -> Result<()> {
        found.clear();
        let (shard, list) = self.list(position);
        for (number, section) in
            self.sections.iter().enumerate().filter(|(_, section)| section.shard == shard)
        {
            found.extend(Located::find(number, section, list)?);
        }
        Ok(())
    }

    /// Scans the signs of a list in a section, while those of the next one are fetched.
    fn scan(
        &mut self,
        scanner: &mut Scanner<'a>,
        visit: Visit,
        located: &Located<'a>,
        next: &[u8],
    ) -> Result<()> {
        let Located { section, entry, blocks, slots: (start, end) } = *located;
        let Scratch { query, lows, masks, candidates, unbounded, pool, .. } = &mut *self.scratch;
        let count = end.div_ceil(BLOCK);
        if lows.len() < count * BLOCK {
            lows.resize(count * BLOCK, 0.0);
            masks.resize(count, 0);
        }
        let (lows, masks) = (&mut lows[..count * BLOCK], &mut masks[..count]);
        let bound = query.signs.bound(visit.base, visit.distance_squared, self.epsilon);
        if !query.signs.scan(blocks, next, &bound, pool.bound(), lows, masks) {
            return Err(misplaced(&self.sections[section].rows, &entry));
        }
        scanner.explain.codes_scanned += u64::from(entry.rows);
        scanner.explain.bytes_touched += blocks.len() as u64;
        // Lanes of other lists, in front and behind.
        masks[0] &= u32::MAX << start;
        masks[count - 1] &= u32::MAX >> (count * BLOCK - end);
        // The row of the first lane, as it were.
        let first = entry.first_row.wrapping_sub(start as u32);
        if scanner.explain.documents_matching.is_some() {
            let rows = &self.sections[section].rows;
            for (block, mask) in masks.iter_mut().enumerate() {
                for lane in lanes(*mask) {
                    let row = first.wrapping_add((block * BLOCK + lane) as u32);
                    if !scanner.passes_filter(rows.row(row)?.0)? {
                        *mask &= !(1 << lane);
                    }
                }
            }
        }
        let section = section as u32;
        if !pool.is_full() {
            unbounded.add(section, first, lows, masks);
            return Ok(());
        }
        for (block, mask) in masks.iter().enumerate() {
            for lane in lanes(*mask) {
                let slot = block * BLOCK + lane;
                let row = first.wrapping_add(slot as u32);
                candidates.rows.push(Candidate { low: lows[slot], section, row });
            }
        }
        Ok(())
    }

    /// Chooses the rows that are measured after the next list is scanned, and asks for their records: those that may be
    /// among the best k, or, before there are k, the most promising ones.
    fn choose(&mut self) {
        let Scratch { candidates, unbounded, pool, .. } = &mut *self.scratch;
        if !unbounded.is_empty() {
            let take = |low, section, row| candidates.rows.push(Candidate { low, section, row });
            if pool.is_full() {
                unbounded.take_within(pool.bound(), take);
                unbounded.clear();
            } else {
                unbounded.take_best(pool.k().unwrap_or(FIRST_WITHIN), take);
            }
        }
        for candidate in &candidates.rows[candidates.chosen..] {
            let rows = &self.sections[candidate.section as usize].rows;
            rows.prefetch_record(candidate.row);
            if self.asks_documents {
                rows.prefetch_row(candidate.row);
            }
        }
        candidates.chosen = candidates.rows.len();
    }

    fn measure_waiting(&mut self, scanner: &mut Scanner<'a>) -> Result<()> {
        let Candidates { measured, chosen, .. } = self.scratch.candidates;
        for index in measured..chosen {
            self.measure(scanner, self.scratch.candidates.rows[index])?;
        }
        self.scratch.candidates.measured = chosen;
        Ok(())
    }

    /// Measures a row by its record, unless it can not be among the best k any more.
    fn measure(&mut self, scanner: &mut Scanner<'a>, candidate: Candidate) -> Result<()> {
        let Candidate { low, section: number, row } = candidate;
        let pool = &mut self.scratch.pool;
        if low > pool.bound() {
            return Ok(());
        }
        let section = &self.sections[number as usize];
        let record = section.rows.record(row)?;
        scanner.explain.rows_reranked += 1;
        scanner.explain.bytes_touched += record.len() as u64;
        let Some(found) = self.scratch.query.plane.distance(record) else { return Ok(()) };
        let margin = self.margin * found.scale;
        let (low, high) = match (found.distance - margin, found.distance + margin) {
            (low, high) if low.is_finite() && high.is_finite() => (low, high),
            // Its numbers are too large for a record: its raw vector decides.
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        };
        if low > pool.bound() {
            return Ok(());
        }
        let mut document = (DocumentOrdinal(0), 0);
        if self.asks_documents {
            document = section.rows.row(row)?;
            if !scanner.is_live(document.0)? {
                return Ok(());
            }
        }
        let group = scanner.group(document, found)?;
        // It may be returned: which document it is of will be asked then.
        section.rows.prefetch_row(row);
        pool.push(Pooled { low, high, section: number, row, group });
        Ok(())
    }

    /// Measures what may be among the best k: by what refines their records, as far as that is enough, and otherwise from the
    /// raw vectors.
    fn promote(self, scanner: &mut Scanner<'a>) -> Result<()> {
        let Scratch { pool, query, refined, .. } = self.scratch;
        let rows = pool.settle();
        let refines =
            scanner.may_refine() && self.sections.iter().all(|section| section.rows.has_refinements());
        let refines = refines && refine(scanner, self.book, query, &self.sections, rows, refined)?;
        let measured = match refines {
            true => scanner.offer_refined(refined),
            false => {
                let named =
                    rows.iter().map(|pooled| self.sections[pooled.section as usize].rows.row(pooled.row));
                scanner.measure_raw(&named.collect::<plimsoll_base::Result<Vec<_>>>()?)
            }
        };
        // Last, so that nothing waits for it.
        self.sections.iter().for_each(|section| section.rows.ask_for_more());
        measured
    }
}

/// For how many lists the disk is asked after it was asked for so many, if so many are in order: nobody would ask for those that
/// are put in order later if they counted as asked for.
fn asked_next(asked: usize, in_order: usize) -> usize {
    (asked * 2).max(FIRST_AHEAD).min(in_order)
}

pub(super) fn misplaced(rows: &CodedRows<'_>, entry: &ListEntry) -> crate::error::Error {
    StorageError::corrupted(rows.file().path(), 0, format!("an impossible list: {entry:?}")).into()
}

#[cfg(test)]
mod tests {
    use super::asked_next;

    #[test]
    fn every_list_is_asked_for_however_late_it_is_put_in_order() {
        let (mut asked, mut covered) = (0, 0);
        for in_order in [3, 3, 96, 96, 96, 96, 96, 96, 150, 150, 400, 400, 400] {
            let until = asked_next(asked, in_order);
            assert!(until >= asked && until <= in_order, "{until} of {in_order} after {asked}");
            covered += until - asked;
            asked = until;
        }
        assert_eq!((asked, covered), (400, 400));
    }
}
