//! Writing a vector segment, shard after shard.

use std::path::Path;

use plimsoll_base::storage::Storage;
use plimsoll_base::{DocumentOrdinal, FileNumber, Generation, ListId, Result, ShardId};

use super::{LISTS, ListEntry, ORDINALS, POSTINGS, VectorHeader, VectorInfo};
use crate::container::{DatabaseId, PendingFile, SealedWriter, SectionKind, invalid};
use crate::names::SealedKind;

/// The rows of one list.
#[derive(Debug, Clone, Copy)]
pub struct ListRows<'a> {
    /// The list.
    pub list: ListId,
    /// The document of each row.
    pub ordinals: &'a [DocumentOrdinal],
    /// The posting of the document of each row, from 0.
    pub postings: &'a [u16],
}

/// Writes one vector segment.
#[derive(Debug)]
pub struct VectorWriter<'a> {
    writer: SealedWriter<'a>,
    header: VectorHeader,
}

impl<'a> VectorWriter<'a> {
    /// Begins segment `number`.
    ///
    /// # Errors
    /// As [`SealedWriter::create`].
    pub fn create(
        storage: &'a dyn Storage,
        dir: &Path,
        number: FileNumber,
        database: DatabaseId,
        info: VectorInfo,
    ) -> Result<Self> {
        let writer = SealedWriter::create(storage, dir, SealedKind::Vector, number, database)?;
        Ok(Self { writer, header: VectorHeader { info, shards: 0, rows: 0, ordinals: None } })
    }

    /// Writes the rows of `shard`, whose lists ascend; lists without rows are left out. Returns the shard's
    /// directory as it is in the file, which places the codes.
    ///
    /// # Errors
    /// `InvalidInput` if the lists do not ascend, their slices differ in length, there are too many rows, or
    /// a list other than 0 is in generation 0; any error of the storage.
    pub fn shard(&mut self, shard: ShardId, lists: &[ListRows<'_>]) -> Result<Vec<ListEntry>> {
        let entries = self.directory(shard, lists)?;
        self.writer.section(LISTS, shard.0, bytemuck::cast_slice(&entries))?;
        self.writer.begin(ORDINALS, shard.0)?;
        for list in lists {
            self.writer.append(bytemuck::cast_slice(list.ordinals))?;
            for &ordinal in list.ordinals {
                let (first, last) = self.header.ordinals.unwrap_or((ordinal, ordinal));
                self.header.ordinals = Some((first.min(ordinal), last.max(ordinal)));
            }
            self.header.rows += list.ordinals.len() as u64;
        }
        self.writer.begin(POSTINGS, shard.0)?;
        lists.iter().try_for_each(|list| self.writer.append(bytemuck::cast_slice(list.postings)))?;
        self.header.shards += 1;
        Ok(entries)
    }

    fn directory(&self, shard: ShardId, lists: &[ListRows<'_>]) -> Result<Vec<ListEntry>> {
        let refuse = |what: &str| Err(invalid(self.writer.path(), format!("shard {shard}: {what}")));
        let mut entries: Vec<ListEntry> = Vec::with_capacity(lists.len());
        let (mut row, mut slot) = (0_u32, 0_u32);
        for list in lists.iter().filter(|list| !list.ordinals.is_empty() || !list.postings.is_empty()) {
            if entries.last().is_some_and(|last| last.list >= list.list) {
                return refuse("lists do not ascend");
            }
            if list.ordinals.len() != list.postings.len() {
                return refuse("a list with more ordinals than postings, or fewer");
            }
            if self.header.info.generation == Generation(0) && list.list != ListId(0) {
                return refuse("generation 0 has the one pseudo list 0");
            }
            let rows = u32::try_from(list.ordinals.len()).ok();
            let place = rows.zip(self.header.info.kind.next_list(slot)).and_then(|(rows, first_slot)| {
                Some((rows, first_slot, first_slot.checked_add(rows)?, row.checked_add(rows)?))
            });
            let Some((rows, first_slot, next_slot, next_row)) = place else {
                return refuse("more than 2^32 rows");
            };
            entries.push(ListEntry { list: list.list, first_slot, first_row: row, rows });
            (slot, row) = (next_slot, next_row);
        }
        Ok(entries)
    }

    /// Begins a further section of `shard`, such as codes.
    pub fn begin(&mut self, kind: SectionKind, shard: ShardId) -> Result<()> {
        self.writer.begin(kind, shard.0)
    }

    /// Appends to the section begun last with [`VectorWriter::begin`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.append(bytes)
    }

    /// Seals the segment; its name is not durable before [`crate::commit_files`].
    ///
    /// # Errors
    /// As [`SealedWriter::finish`].
    pub fn finish(mut self) -> Result<PendingFile<'a>> {
        self.writer.section(SectionKind::META, 0, &self.header.encode())?;
        self.writer.finish()
    }
}
