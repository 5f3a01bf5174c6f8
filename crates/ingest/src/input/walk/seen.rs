//! What a folder looked like the last time.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::input::Fingerprint;

/// Modification times may be that coarse, or a clock that far off: what was modified so short before it was looked at may
/// have been modified afterwards without a difference.
const RACY_NS: i64 = 2_000_000_000;

/// What was seen of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// How many bytes it had.
    pub size: u64,
    /// When it was modified, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// When it was looked at, the same way.
    pub looked_ns: i64,
    /// A hash of its contents; of a file of more than 16 MiB, of the beginning.
    pub hash: Fingerprint,
    /// What it was.
    pub state: SeenState,
}

/// What a file was when it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenState {
    /// Text, which was handed on.
    Text,
    /// Binary, and nothing was done.
    Binary,
    /// A failure that stays one until the contents change.
    Refused,
}

/// How what was seen is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenUpdate {
    /// Not at all.
    Keep,
    /// This is what the file looks like now.
    Put(Seen),
    /// There is no such file.
    Remove,
}

/// What was seen of a folder the last time, by path.
pub trait SeenFiles {
    /// What was seen of a file.
    fn get(&self, path: &str) -> Option<Seen>;

    /// All paths, in any order.
    fn for_each_path(&self, visit: &mut dyn FnMut(&str));
}

impl SeenFiles for BTreeMap<String, Seen> {
    fn get(&self, path: &str) -> Option<Seen> {
        BTreeMap::get(self, path).copied()
    }

    fn for_each_path(&self, visit: &mut dyn FnMut(&str)) {
        self.keys().for_each(|path| visit(path));
    }
}

impl Seen {
    /// Whether a file that looks like this need not be read.
    pub(super) fn is_clean(&self, metadata: &Metadata) -> bool {
        let is_settled = self.modified_ns.saturating_add(RACY_NS) < self.looked_ns;
        is_settled && self.size == metadata.len() && self.modified_ns == modified_ns(metadata)
    }
}

/// When a file was modified. Where that is not known, at the end of time: then it is read each time.
pub(super) fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.modified().map_or(i64::MAX, nanoseconds)
}

/// From 1970 on, or before it if negative; from 1678 to 2262.
pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |before| -before),
    }
}
