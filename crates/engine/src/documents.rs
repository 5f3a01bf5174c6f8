//! Stored documents, to be written again: those of a merge, or those that a repair could read.

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::{DocumentOrdinal, StorageError};
use plimsoll_shard::{DocumentRef, Documents, PendingFile, PostingFile, PostingInfo, RowsRef};

use crate::error::Result;
use crate::flush::bloom_of;
use crate::manifest::PostingEntry;
use crate::tree::FileOpener;

/// Some documents of some posting files, in the order of their ordinals.
pub(crate) struct StoredDocuments<'a> {
    files: Vec<&'a PostingFile>,
    places: Vec<(u32, u32)>,
    rows: u64,
    /// Norms are computed anew, because those that are stored are damaged.
    pub recompute_norms: bool,
}

impl<'a> StoredDocuments<'a> {
    pub(crate) fn of(files: Vec<&'a PostingFile>) -> Self {
        Self { files, places: Vec::new(), rows: 0, recompute_norms: false }
    }

    /// Adds document `document` of file `file`, whose ordinal is greater than that of the one before.
    pub(crate) fn push(&mut self, file: usize, document: usize, rows: u32) {
        self.places.push((file as u32, document as u32));
        self.rows += u64::from(rows);
    }

    fn at(&self, index: usize) -> (&'a PostingFile, usize) {
        let (file, document) = self.places[index];
        (self.files[file as usize], document as usize)
    }

    fn ordinal(&self, index: usize) -> Result<DocumentOrdinal> {
        let (file, document) = self.at(index);
        Ok(file.entry(document)?.ordinal())
    }

    /// Writes them as a posting file of the collection and dimension that `info` says; none for no documents.
    /// The LSNs are those of the files they are from.
    pub(crate) fn write<'b>(
        &self,
        opener: &'b FileOpener,
        number: plimsoll_base::FileNumber,
        info: PostingInfo,
    ) -> Result<Option<(PendingFile<'b>, PostingEntry)>> {
        let Some(last) = self.places.len().checked_sub(1) else { return Ok(None) };
        let infos = self.files.iter().map(|file| file.header().info);
        let (first_lsn, last_lsn) = infos
            .map(|info| (info.first_lsn, info.last_lsn))
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            .unwrap_or_default();
        let info = PostingInfo { first_lsn, last_lsn, ..info };
        let (storage, dir) = (&*opener.storage, &opener.dir);
        let file = plimsoll_shard::posting::write_posting_file(
            storage,
            dir,
            number,
            opener.database,
            &info,
            self,
            bloom_of,
        )?;
        let entry = PostingEntry {
            file: *file.meta(),
            first_ordinal: self.ordinal(0)?,
            last_ordinal: self.ordinal(last)?,
            documents: self.places.len() as u64,
            rows: self.rows,
            killed: 0,
        };
        Ok(Some((file, entry)))
    }
}

impl Documents for StoredDocuments<'_> {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn document(&self, index: usize) -> Result<DocumentRef<'_>, StorageError> {
        let (file, document) = self.at(index);
        let found = file.document(document)?;
        Ok(if mutant::is(Mutant::LoseMetadata) { DocumentRef { metadata: &[], ..found } } else { found })
    }

    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>, StorageError> {
        let (file, document) = self.at(index);
        match self.recompute_norms {
            false => file.document_rows(document),
            true => Ok(RowsRef { vectors: file.vectors(file.entry(document)?.rows())?, norms: None }),
        }
    }
}
