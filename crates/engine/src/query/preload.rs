//! Bringing what searches read into memory before the first of them asks for it.

use plimsoll_shard::{FileMeta, SealedView};

use super::read::ReadOnlyCollection;
use crate::error::Result;

/// What a preload brought into memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preloaded {
    /// Bytes of files that were read and verified.
    pub bytes: u64,
    /// Bytes of files that were left out, because they were more than what was allowed.
    pub left_out: u64,
}

impl ReadOnlyCollection {
    /// Reads and verifies the collection's files, as far as they have no more than `at_most` bytes together, in the order in
    /// which searches need them most: the index, the codes, the vectors with the documents' keys and texts. A file is
    /// brought in whole, or left out.
    ///
    /// Nothing has to be preloaded: without it, each block of 4 KiB is read, mapped and verified when the first search of
    /// this process touches it, so that some thousand searches take longer than later ones. It costs as much as reading the
    /// files once, can not be cancelled, and what is read stays in the page cache only as long as the kernel has no other use
    /// for it. Where files are not mapped ([`DatabaseBuilder::mapped`](crate::DatabaseBuilder::mapped)), it is in the program's
    /// own memory instead, as what searches read is. It covers what is flushed at the moment of this view.
    ///
    /// ```
    /// # fn main() -> plimsoll_engine::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use plimsoll_engine::{CollectionConfig, Database, Document, Metric};
    /// let db = Database::open(dir.path().join("db"))?;
    /// let points = db.create_collection("points", CollectionConfig::new(2, Metric::L2))?;
    /// points.upsert(Document::new("a").vector([1.0, 0.0]))?;
    /// db.flush()?;
    /// let preloaded = points.preload(1 << 30)?;
    /// assert!(preloaded.bytes > 0 && preloaded.left_out == 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage) if a file can not be read or is damaged: searches that do not need that part
    /// of it go on.
    pub fn preload(&self, at_most: u64) -> Result<Preloaded> {
        let tree = &*self.state.tree;
        let mut preloaded = Preloaded::default();
        for slot in tree.routers.values() {
            if preloaded.takes(slot.meta, at_most) {
                let router = slot.get()?;
                router.file().sealed().preload()?;
                router.codebook()?;
            }
        }
        for segment in tree.vectors.iter().filter(|segment| preloaded.takes(segment.file.meta, at_most)) {
            segment.file.get()?.sealed().preload()?;
        }
        for kills in tree.kills.files.iter().filter(|kills| preloaded.takes(kills.meta, at_most)) {
            kills.get()?.sealed().preload()?;
        }
        for posting in tree.postings.iter().filter(|posting| preloaded.takes(posting.meta, at_most)) {
            posting.get()?.sealed().preload()?;
        }
        Ok(preloaded)
    }
}

impl Preloaded {
    /// Whether a file is brought in, because it is not too much.
    fn takes(&mut self, file: FileMeta, at_most: u64) -> bool {
        let fits = self.bytes.saturating_add(file.len) <= at_most;
        match fits {
            true => self.bytes += file.len,
            false => self.left_out = self.left_out.saturating_add(file.len),
        }
        fits
    }
}
