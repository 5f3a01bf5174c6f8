//! What a compaction should do next.

use std::collections::BTreeMap;
use std::ops::Range;

use plimsoll_base::ShardId;
use plimsoll_index::kmeans::{MIN_INDEXED_ROWS, lists_for};

use crate::manifest::{IndexEntry, PostingEntry};
use crate::router::Router;
use crate::tree::Tree;

/// How many posting files of similar size are merged into one, and the factor between sizes.
const TIER: usize = 8;
/// Posting files smaller than this many bytes count as equally small.
const SMALLEST_TIER: u64 = 1 << 20;
/// A posting file is rewritten when this share of its documents is killed.
const KILLED_SHARE: f64 = 0.3;
/// Posting files of so many bytes or more, of which nothing is killed, stay as they are: merging them would gain nothing.
const LARGE: u64 = 16 << 20;
/// A shard's sections are merged when it has more than this many.
const MAX_SECTIONS: usize = 8;
/// Kill files are merged into one when there are more than this many.
const MAX_KILL_FILES: usize = 16;
/// What closing a database merges at most.
const QUICK_BYTES: u64 = 32 << 20;
/// Rows may grow by this factor before the background trains a new generation.
const GROWTH: u64 = 4;
/// And by this much while writes go on.
const BUSY_GROWTH: u64 = 16;
/// And by this much before an explicit compaction does.
const EXPLICIT_GROWTH: f64 = 1.25;

/// How much is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// What keeps the number of files bounded and the index fit.
    Due,
    /// The same while writes go on: an index that is less fit will do until they pause, within reason, because
    /// training takes as much processor time as the writes themselves.
    Busy,
    /// Of what is due, that which takes but a moment.
    Closing,
    /// All there is to gain.
    Everything,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Merge neighbouring posting files into one.
    MergePostings(Range<usize>),
    /// Merge the sections of these shards of the newest generation, and rows of older ones, into base sections.
    MergeSections(Vec<ShardId>),
    /// Train a new index generation and assign every row to its lists.
    Train(Urgency),
}

impl Plan {
    /// The next step; `None` when there is nothing to gain.
    pub(crate) fn make(tree: &Tree, urgency: Urgency) -> Option<Self> {
        if let Some(files) = posting_run(tree, urgency) {
            return Some(Self::MergePostings(files));
        }
        // Training takes the rows of every generation, so that at most the newest one before it stays visible,
        // for what is flushed meanwhile (rule R12).
        if urgency != Urgency::Closing && is_outgrown(tree, urgency) {
            return Some(Self::Train(urgency));
        }
        crowded_shards(tree, urgency).map(Self::MergeSections)
    }

    /// Whether nothing but what this step makes due can follow.
    pub(crate) fn is_last(&self) -> bool {
        !matches!(self, Self::MergePostings(_))
    }
}

/// Neighbouring posting files to be merged into one.
fn posting_run(tree: &Tree, urgency: Urgency) -> Option<Range<usize>> {
    let files = &tree.entry.postings;
    if urgency == Urgency::Everything {
        let mut end = 0;
        return files.chunk_by(|a, b| stays(a) == stays(b)).find_map(|run| {
            end += run.len();
            let is_worth_it = !stays(&run[0]) && (run.len() > 1 || run[0].killed > 0);
            is_worth_it.then_some(end - run.len()..end)
        });
    }
    let much_killed = files
        .iter()
        .position(|file| file.killed > 0 && file.killed as f64 >= KILLED_SHARE * file.documents as f64);
    if let Some(at) = much_killed
        && (urgency != Urgency::Closing || files[at].file.len <= QUICK_BYTES)
    {
        return Some(at..at + 1);
    }
    // Files are older and larger to the left. A run of a tier is merged together with smaller ones between.
    let tier = |len: u64| (len.max(SMALLEST_TIER) / SMALLEST_TIER).ilog(TIER as u64);
    (0..files.len()).find_map(|start| {
        let level = tier(files[start].file.len);
        let length = files[start..].iter().take_while(|file| tier(file.file.len) <= level).count();
        let bytes: u64 = files[start..start + length].iter().map(|file| file.file.len).sum();
        let is_quick = urgency != Urgency::Closing || bytes <= QUICK_BYTES;
        (length >= TIER && is_quick).then_some(start..start + length)
    })
}

/// Whether even an explicit compaction leaves a posting file as it is, whatever is beside it.
fn stays(file: &PostingEntry) -> bool {
    file.killed == 0 && file.file.len >= LARGE
}

/// Whether the collection has outgrown its index.
fn is_outgrown(tree: &Tree, urgency: Urgency) -> bool {
    let rows = tree.live_rows();
    if lists_for(rows as usize) == 0 {
        return false;
    }
    let newest = tree.entry.indexes.iter().max_by_key(|index| index.generation);
    let Some(index) = newest else {
        return urgency != Urgency::Busy || rows >= MIN_INDEXED_ROWS as u64 * BUSY_GROWTH;
    };
    let has_codes = |index: &IndexEntry| match tree.router(index.generation) {
        Ok(router) => router.is_none_or(Router::has_codes),
        Err(_) => true, // Damage is for a repair.
    };
    let trained = index.rows_at_training;
    match urgency {
        Urgency::Due | Urgency::Everything if !has_codes(index) => true,
        Urgency::Due | Urgency::Closing => rows >= trained.saturating_mul(GROWTH),
        Urgency::Busy => rows >= trained.saturating_mul(BUSY_GROWTH),
        Urgency::Everything => rows as f64 >= trained as f64 * EXPLICIT_GROWTH,
    }
}

/// Shards whose sections are to be merged: those with too many; all of them when there are too many kill
/// files, or when everything is to be merged. Rows of older generations are moved along with any of them.
fn crowded_shards(tree: &Tree, urgency: Urgency) -> Option<Vec<ShardId>> {
    let newest = tree.generation();
    let mut sections: BTreeMap<ShardId, (usize, bool)> = BTreeMap::new();
    let mut has_older = false;
    for segment in &tree.vectors {
        has_older |= segment.generation != newest;
        for (shard, _) in segment.live.iter().filter(|_| segment.generation == newest) {
            let (count, is_loose) = sections.entry(*shard).or_default();
            *count += 1;
            *is_loose |= !segment.base;
        }
    }
    let kills = &tree.entry.kills;
    let all = match urgency {
        Urgency::Due | Urgency::Busy | Urgency::Closing => kills.len() > MAX_KILL_FILES,
        Urgency::Everything => kills.iter().any(|kill| kill.ordinals > 0),
    };
    let merge = |count: usize, is_loose: bool| match urgency {
        _ if all => true,
        Urgency::Due | Urgency::Busy | Urgency::Closing => count > MAX_SECTIONS,
        Urgency::Everything => count > 1 || is_loose,
    };
    let shards: Vec<ShardId> = sections
        .into_iter()
        .filter_map(|(shard, (count, is_loose))| merge(count, is_loose).then_some(shard))
        .collect();
    (all || has_older || !shards.is_empty()).then_some(shards)
}
