//! Writing a posting file: one pass over the documents for each section, so that nothing large is buffered.

use std::path::Path;

use plimsoll_base::storage::Storage;
use plimsoll_base::{DocumentId, DocumentOrdinal, FileNumber, Result};

use super::{
    BLOOM, DOCUMENTS, DocumentEntry, DocumentRef, HAS_TEXT, ID_TABLE, IdEntry, KEYS, METADATA, NORMS,
    PostingHeader, PostingInfo, RANGES, RAW, ROW_DOCUMENT, RowsRef, TEXT,
};
use crate::container::{DatabaseId, PendingFile, SealedWriter, SectionKind, invalid};
use crate::names::SealedKind;

/// The documents of a posting file to be written, in ascending order of their ordinals.
///
/// Each is asked for about seven times, always in order, and for its rows once; the answers must not change.
pub trait Documents {
    /// The number of documents.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Document `index`, without its vectors.
    fn document(&self, index: usize) -> Result<DocumentRef<'_>>;

    /// The vectors of document `index`.
    fn document_rows(&self, index: usize) -> Result<RowsRef<'_>>;
}

/// Writes posting file `number`. `bloom` makes the filter from the file's ids, which it gets in ascending
/// order. The file's name is not durable before [`crate::commit_files`].
///
/// In memory at once: 36 bytes for each document and 4 bytes for each row.
///
/// # Errors
/// `InvalidInput` if ordinals do not ascend, an id occurs twice, a version is outside of the given LSNs, or
/// counts and lengths do not fit each other or the format; any error of `docs` and of the storage. A file
/// that was begun is removed.
pub fn write_posting_file<'a>(
    storage: &'a dyn Storage,
    dir: &Path,
    number: FileNumber,
    database: DatabaseId,
    info: &PostingInfo,
    docs: &dyn Documents,
    bloom: impl FnOnce(&[DocumentId]) -> Vec<u8>,
) -> Result<PendingFile<'a>> {
    let mut writer = SealedWriter::create(storage, dir, SealedKind::Posting, number, database)?;
    let (header, ids) = survey(&writer, info, docs)?;
    writer.section(SectionKind::META, 0, &header.encode())?;
    write_document_table(&mut writer, docs)?;
    write_bytes(&mut writer, KEYS, docs, |document| document.key)?;
    write_bytes(&mut writer, TEXT, docs, |document| document.text.unwrap_or_default().as_bytes())?;
    write_bytes(&mut writer, METADATA, docs, |document| document.metadata)?;
    write_bytes(&mut writer, RANGES, docs, |document| bytemuck::cast_slice(document.ranges))?;
    write_rows(&mut writer, &header, docs)?;
    writer.section(ID_TABLE, 0, bytemuck::cast_slice(&ids))?;
    let ids: Vec<DocumentId> = ids.into_iter().map(|entry| entry.id).collect();
    writer.section(BLOOM, 0, &bloom(&ids))?;
    writer.finish()
}

/// The first pass: checks what the format demands, counts, and gathers the id table.
fn survey(
    writer: &SealedWriter<'_>,
    info: &PostingInfo,
    docs: &dyn Documents,
) -> Result<(PostingHeader, Vec<IdEntry>)> {
    let refuse = |what: String| Err(invalid(writer.path(), what));
    if docs.len() >= u32::MAX as usize || info.first_lsn > info.last_lsn {
        return refuse(format!("{} documents of LSN {} to {}", docs.len(), info.first_lsn, info.last_lsn));
    }
    let mut ids = Vec::with_capacity(docs.len());
    let mut ordinals: Option<(DocumentOrdinal, DocumentOrdinal)> = None;
    let mut rows = 0;
    for index in 0..docs.len() {
        let document = docs.document(index)?;
        let ordinal = document.ordinal;
        if ordinals.is_some_and(|(_, last)| last >= ordinal) {
            return refuse(format!("ordinal {ordinal} does not ascend"));
        }
        if document.version.lsn < info.first_lsn || document.version.lsn > info.last_lsn {
            return refuse(format!("document {} is of LSN {}", document.id, document.version.lsn));
        }
        ordinals = Some((ordinals.map_or(ordinal, |(first, _)| first), ordinal));
        rows += document.ranges.len() as u64;
        ids.push(IdEntry { id: document.id, document: index as u32 });
    }
    if rows >= u64::from(u32::MAX) || (info.dimension == 0 && rows > 0) {
        return refuse(format!("{rows} rows of dimension {}", info.dimension));
    }
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return refuse(format!("document {} occurs twice", pair[0].id));
    }
    Ok((PostingHeader { info: *info, documents: docs.len() as u64, rows, ordinals }, ids))
}

fn write_document_table(writer: &mut SealedWriter<'_>, docs: &dyn Documents) -> Result<()> {
    writer.begin(DOCUMENTS, 0)?;
    let (mut key_offset, mut text_offset, mut metadata_offset, mut first_row) = (0, 0, 0, 0);
    for index in 0..docs.len() {
        let document = docs.document(index)?;
        let text = document.text.unwrap_or_default();
        let length =
            |len: usize| u32::try_from(len).map_err(|_| invalid(writer.path(), "4 GiB in one field"));
        let entry = DocumentEntry {
            ordinal: document.ordinal,
            id: document.id,
            lsn: document.version.lsn,
            operation: document.version.operation,
            flags: if document.text.is_some() { HAS_TEXT } else { 0 },
            key_offset,
            text_offset,
            metadata_offset,
            key_len: length(document.key.len())?,
            text_len: length(text.len())?,
            metadata_len: length(document.metadata.len())?,
            first_row,
            postings: length(document.ranges.len())?,
            reserved: [0; 12],
        };
        key_offset += u64::from(entry.key_len);
        text_offset += u64::from(entry.text_len);
        metadata_offset += u64::from(entry.metadata_len);
        first_row = first_row.saturating_add(entry.postings);
        writer.append(bytemuck::bytes_of(&entry))?;
    }
    Ok(())
}

/// One pass that writes a field of each document.
fn write_bytes(
    writer: &mut SealedWriter<'_>,
    section: SectionKind,
    docs: &dyn Documents,
    field: impl for<'a> Fn(&DocumentRef<'a>) -> &'a [u8],
) -> Result<()> {
    writer.begin(section, 0)?;
    (0..docs.len()).try_for_each(|index| writer.append(field(&docs.document(index)?)))
}

/// The pass over the vectors, and the two small arrays that come of it.
fn write_rows(writer: &mut SealedWriter<'_>, header: &PostingHeader, docs: &dyn Documents) -> Result<()> {
    let dimension = header.info.dimension as usize;
    let (mut norms, mut documents) = (Vec::new(), Vec::new());
    writer.begin(RAW, 0)?;
    for index in 0..docs.len() {
        let postings = docs.document(index)?.ranges.len();
        let rows = docs.document_rows(index)?;
        if rows.vectors.len() != postings * dimension || rows.norms.is_some_and(|n| n.len() != postings) {
            let what = format!("document {index} has {postings} postings and other numbers of components");
            return Err(invalid(writer.path(), what));
        }
        writer.append(bytemuck::cast_slice(rows.vectors))?;
        match rows.norms {
            Some(given) => norms.extend_from_slice(given),
            None if postings > 0 => norms.extend(rows.vectors.chunks_exact(dimension).map(norm)),
            None => {}
        }
        documents.extend(std::iter::repeat_n(index as u32, postings));
    }
    if documents.len() as u64 != header.rows {
        return Err(invalid(writer.path(), "the documents changed while they were written"));
    }
    writer.section(NORMS, 0, bytemuck::cast_slice(&norms))?;
    writer.section(ROW_DOCUMENT, 0, bytemuck::cast_slice(&documents))
}

/// The Euclidean norm of a vector. Squares of `f32` are exact in `f64`; they are summed in 16 lanes in a fixed
/// order, so that the result is the same on every machine (rule R20).
///
/// ```
/// assert_eq!(plimsoll_shard::posting::norm(&[3.0, 4.0]), 5.0);
/// ```
pub fn norm(vector: &[f32]) -> f32 {
    let mut lanes = [0.0_f64; 16];
    let (chunks, rest) = vector.as_chunks::<16>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*x) * f64::from(*x);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0].sqrt() as f32
}
