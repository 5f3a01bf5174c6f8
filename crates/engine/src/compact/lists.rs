//! All live rows of a collection, as training reads them.

use plimsoll_base::Metric;
use plimsoll_index::{Malformed, Rows};
use plimsoll_kernels as kernels;
use plimsoll_shard::PostingFile;

use crate::codebook::push_indexed;
use crate::error::{Error, Result};
use crate::tree::Tree;

/// The live rows of the posting files, numbered from 0.
pub(super) struct LiveRows<'a> {
    metric: Metric,
    dimension: usize,
    files: Vec<&'a PostingFile>,
    /// File and row.
    places: Vec<(u32, u32)>,
}

impl<'a> LiveRows<'a> {
    /// # Errors
    /// If a file is damaged, or there are too many rows.
    pub(super) fn read(tree: &'a Tree) -> Result<Self> {
        let files = tree.posting_files()?;
        let mut places = Vec::new();
        for (number, file) in (0..).zip(&files) {
            for document in 0..file.documents() {
                if !tree.kills.contains(file.entry(document)?.ordinal())? {
                    places.extend(file.rows_of(document)?.map(|row| (number, row)));
                }
            }
        }
        if u32::try_from(places.len()).is_err() {
            return Err(Error::InvalidArgument(format!("{} rows are too many for an index", places.len())));
        }
        let config = &tree.entry.config;
        Ok(Self { metric: config.metric, dimension: config.dimension, files, places })
    }

    pub(super) fn metric(&self) -> Metric {
        self.metric
    }

    pub(super) fn files(&self) -> &[&'a PostingFile] {
        &self.files
    }

    /// File and row of every live row, which ascend.
    pub(super) fn places(&self) -> &[(u32, u32)] {
        &self.places
    }
}

impl Rows for LiveRows<'_> {
    type Error = Error;

    fn dim(&self) -> usize {
        self.dimension
    }

    fn count(&self) -> usize {
        self.places.len()
    }

    fn push(&self, row: u32, into: &mut Vec<f32>) -> Result<()> {
        let (file, row) = self.places[row as usize];
        let file = self.files[file as usize];
        push_indexed(self.metric, file.vectors(row..row + 1)?, file.norms(row..row + 1)?[0], into);
        Ok(())
    }

    fn row<'b>(&'b self, row: u32, room: &'b mut Vec<f32>) -> Result<&'b [f32]> {
        if self.metric == Metric::Cosine {
            room.clear();
            self.push(row, room)?;
            return Ok(room);
        }
        let (file, row) = self.places[row as usize];
        Ok(self.files[file as usize].vectors(row..row + 1)?)
    }

    fn prefetch(&self, row: u32) {
        let (file, row) = self.places[row as usize];
        if let Ok(vector) = self.files[file as usize].vectors(row..row + 1) {
            kernels::prefetch(vector);
        }
    }
}

pub(super) fn malformed(Malformed(what): Malformed) -> Error {
    Error::InvalidArgument(format!("training gave a malformed table: {what}"))
}
