//! Searches whose files are not in memory: every one of them freshly mapped, and its pages dropped from the cache before.
//!
//! The pages of a file can be dropped only while nobody has it mapped, so the database is closed, its pages are dropped, and
//! it is opened again; only the search is timed. The same run measures how long the disk takes for one page at a random
//! place: as many of these as there were major faults is what a search would take that waits for each page in turn. Below 1,
//! something else takes the time: mostly what the kernel reads ahead, which the bytes from the disk show.

use std::time::Instant;

use plimsoll::{Effort, ReadOnlyCollection, ReadOnlyDatabase};
use serde::Serialize;

use super::super::cache::{self, Faults};
use super::super::measure::percentile;
use super::measured::{Asked, Subject};
use crate::args::Target;
use crate::error::Result;

/// So many queries run on a database that nobody has searched yet.
const FIRSTS: usize = 30;
/// And so many in turn on one that has been searched by nobody else.
const FEW: usize = 100;
/// So many pages are read to learn how long one takes.
const PAGES: usize = 200;

/// What searches take from a cold cache.
#[derive(Debug, Clone, Serialize)]
pub(in crate::bench) struct Cold {
    /// The first query after opening, over several openings.
    pub first: Figures,
    /// The first hundred queries in turn after one opening, of which each finds what the ones before it have brought.
    pub hundred: Figures,
    /// All queries in turn, those hundred among them.
    pub following: Figures,
    /// The same queries once more, which find everything in memory, as the kernel has brought it there.
    pub again: Figures,
    /// How long one page from a random place of the disk takes, in microseconds.
    pub page_us: f64,
    /// What waiting for the major faults of the first query one by one would take, over what it took.
    pub overlap: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(in crate::bench) struct Figures {
    pub queries: usize,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Page faults a query that waited for the disk, and those that did not.
    pub major_faults: f64,
    pub minor_faults: f64,
    /// Bytes a query read from the disk, with those that the kernel read ahead.
    pub disk_bytes: f64,
}

impl Cold {
    /// Measures a setting on a collection of the database in a directory, which nothing in this process may have open
    /// meanwhile.
    pub(super) fn measure(target: &Target, asked: Asked, effort: Effort) -> Result<Self> {
        let page_us = percentile(&cache::page_reads(&target.dir, PAGES)?, 0.5) as f64 / 1e3;
        let step = (asked.queries.len() / FIRSTS).max(1);
        let mut first = Samples::default();
        for queries in asked.queries.chunks(step).take(FIRSTS) {
            first.search(&Opened::cold(target)?, Asked { queries: &queries[..1], ..asked }, effort)?;
        }
        let opened = Opened::cold(target)?;
        let (few, more) = asked.queries.split_at(FEW.min(asked.queries.len()));
        let mut following = Samples::default();
        following.search(&opened, Asked { queries: few, ..asked }, effort)?;
        let hundred = following.figures();
        following.search(&opened, Asked { queries: more, ..asked }, effort)?;
        let mut again = Samples::default();
        again.search(&opened, asked, effort)?;
        let (first, following, again) = (first.figures(), following.figures(), again.figures());
        let overlap = first.major_faults * page_us / first.p50_us;
        Ok(Self { first, hundred, following, again, page_us, overlap })
    }
}

/// A database that was opened when nothing of it was in memory.
struct Opened {
    collection: ReadOnlyCollection,
    _db: ReadOnlyDatabase,
}

impl Opened {
    fn cold(target: &Target) -> Result<Self> {
        cache::drop_pages(&target.dir)?;
        let db = ReadOnlyDatabase::open(&target.dir)?;
        Ok(Self { collection: db.collection(&target.collection)?, _db: db })
    }
}

/// Queries, and the page faults that they caused.
#[derive(Default)]
struct Samples {
    ns: Vec<u64>,
    major: u64,
    minor: u64,
    disk_bytes: u64,
}

impl Samples {
    fn search(&mut self, opened: &Opened, asked: Asked, effort: Effort) -> Result<()> {
        let subject = Subject { collection: &opened.collection, asked };
        let before = Faults::now()?;
        for query in asked.queries {
            let start = Instant::now();
            subject.search(query, effort)?;
            self.ns.push(start.elapsed().as_nanos() as u64);
        }
        let after = Faults::now()?;
        self.major += after.major - before.major;
        self.minor += after.minor - before.minor;
        self.disk_bytes += after.disk_bytes - before.disk_bytes;
        Ok(())
    }

    fn figures(&self) -> Figures {
        let queries = self.ns.len();
        Figures {
            queries,
            p50_us: percentile(&self.ns, 0.5) as f64 / 1e3,
            p99_us: percentile(&self.ns, 0.99) as f64 / 1e3,
            major_faults: self.major as f64 / queries as f64,
            minor_faults: self.minor as f64 / queries as f64,
            disk_bytes: self.disk_bytes as f64 / queries as f64,
        }
    }
}
