//! Whether a posting file's parts agree with each other: everything its specification promises.

use plimsoll_base::{DocumentId, Result};

use super::{DocumentEntry, HAS_TEXT, IdEntry, PostingFile, norm};
use crate::container::{Section, in_pieces};

/// How many components of vectors each thread has in memory at once.
const VERIFY_COMPONENTS: usize = 1 << 18;

/// Where the next document's parts have to begin.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    key: u64,
    text: u64,
    metadata: u64,
    row: u64,
}

impl PostingFile {
    /// Verifies every checksum of the file ([`SealedFile::verify`](crate::SealedFile::verify)), and then that
    /// its parts agree: the document table with what it describes, ranges with texts, norms with vectors,
    /// and the id table with the documents. The filter is opaque: its owner checks it. Texts and vectors are
    /// read a piece at a time in either mode, so that memory holds the small sections only.
    ///
    /// # Errors
    /// `Corrupted` naming the first place that is wrong.
    pub fn verify(&self) -> Result<()> {
        self.file.verify()?;
        let (mut expected, mut text) = (Expected::default(), Vec::new());
        for index in 0..self.documents() {
            let entry = self.entry(index)?;
            self.verify_entry(index, entry, &mut expected)?;
            self.verify_text(index, entry, &mut text)?;
            self.verify_row_documents(index, entry)?;
        }
        let sections = &self.sections;
        let end = Expected {
            key: sections.keys.len,
            text: sections.text.len,
            metadata: sections.metadata.len,
            row: self.header.rows,
        };
        if expected != end {
            let what = format!("documents end at {expected:?}, their sections at {end:?}");
            return Err(self.file.damaged(sections.documents.offset, what));
        }
        self.verify_norms()?;
        self.verify_ids()
    }

    fn verify_entry(&self, index: usize, entry: &DocumentEntry, expected: &mut Expected) -> Result<()> {
        let damaged =
            |what: String| Err(self.at::<DocumentEntry>(&self.sections.documents, index, what.as_str()));
        let start = Expected {
            key: entry.key_offset,
            text: entry.text_offset,
            metadata: entry.metadata_offset,
            row: u64::from(entry.first_row),
        };
        if start != *expected {
            return damaged(format!("the document begins at {start:?}, the one before ends at {expected:?}"));
        }
        if entry.flags & !HAS_TEXT != 0 || entry.reserved != [0; 12] {
            return damaged("unknown flags or reserved bytes that are not zero".to_owned());
        }
        let Some((first, last)) = self.header.ordinals else {
            return damaged("a document in a file without any".to_owned());
        };
        let ordinal = entry.ordinal;
        let ascends = index == 0 || self.entry(index - 1)?.ordinal < ordinal;
        let ends = (index > 0 || ordinal == first) && (index + 1 < self.documents() || ordinal == last);
        if !ascends || !ends {
            return damaged(format!("ordinal {ordinal} is out of order or not what the header says"));
        }
        let info = &self.header.info;
        if entry.lsn < info.first_lsn || entry.lsn > info.last_lsn {
            return damaged(format!("LSN {} is not of the header's", entry.lsn));
        }
        expected.key += u64::from(entry.key_len);
        expected.text += u64::from(entry.text_len);
        expected.metadata += u64::from(entry.metadata_len);
        expected.row += u64::from(entry.postings);
        Ok(())
    }

    fn verify_text(&self, index: usize, entry: &DocumentEntry, buffer: &mut Vec<u8>) -> Result<()> {
        if !entry.has_text() {
            let what = "a document without text has bytes in TEXT";
            return match entry.text_len {
                0 => Ok(()),
                _ => Err(self.at::<DocumentEntry>(&self.sections.documents, index, what)),
            };
        }
        let section = &self.sections.text;
        if entry.text_offset.saturating_add(u64::from(entry.text_len)) > section.len {
            let what = "a text that is not in TEXT";
            return Err(self.at::<DocumentEntry>(&self.sections.documents, index, what));
        }
        buffer.resize(entry.text_len as usize, 0);
        self.file.read_unverified(section, entry.text_offset, buffer)?;
        let text = std::str::from_utf8(buffer).map_err(|error| {
            let at = section.offset + entry.text_offset + error.valid_up_to() as u64;
            self.file.damaged(at, error.to_string())
        })?;
        for (posting, range) in self.ranges(index)?.iter().enumerate() {
            let (start, end) = (range.start as usize, range.start as usize + range.length as usize);
            if text.get(start..end).is_none() {
                let what = format!("bytes {start} to {end} are not characters of a text of {}", text.len());
                return Err(self.at::<u64>(&self.sections.ranges, entry.first_row as usize + posting, &what));
            }
        }
        Ok(())
    }

    fn verify_row_documents(&self, index: usize, entry: &DocumentEntry) -> Result<()> {
        for (row, document) in entry.rows().zip(self.row_documents(entry.rows())?) {
            if *document as usize != index {
                let what = format!("the row of document {index} says {document}");
                return Err(self.at::<u32>(&self.sections.row_document, row as usize, &what));
            }
        }
        Ok(())
    }

    fn verify_norms(&self) -> Result<()> {
        let dimension = self.dimension();
        if self.rows() == 0 {
            return Ok(());
        }
        let norms = self.norms(0..self.rows())?;
        let at_once = (VERIFY_COMPONENTS / dimension).max(1);
        in_pieces(norms.len() as u64, at_once as u64, |vectors: &mut Vec<f32>, rows| {
            let (first, stored) = (rows.start as usize, &norms[rows.start as usize..rows.end as usize]);
            vectors.resize(stored.len() * dimension, 0.0);
            let start = rows.start * dimension as u64 * 4;
            self.file.read_unverified(&self.sections.raw, start, bytemuck::cast_slice_mut(vectors))?;
            for (row, (stored, vector)) in stored.iter().zip(vectors.chunks_exact(dimension)).enumerate() {
                let computed = norm(vector);
                if !same_norm(*stored, computed) {
                    let what = format!("the norm is {stored}, the vector's is {computed}");
                    return Err(self.at::<f32>(&self.sections.norms, first + row, &what));
                }
            }
            Ok(())
        })
        .map(drop)
    }

    /// As many distinct ids as documents, each leading to a document with that id: none is missing.
    fn verify_ids(&self) -> Result<()> {
        let mut previous: Option<DocumentId> = None;
        for index in 0..self.documents() {
            let entry: &IdEntry = self.file.element(&self.sections.id_table, index as u64)?;
            let damaged = |what| Err(self.at::<IdEntry>(&self.sections.id_table, index, what));
            if previous.is_some_and(|previous| previous >= entry.id) {
                return damaged("ids do not ascend: one occurs twice, or they are not sorted");
            }
            if entry.document as usize >= self.documents()
                || self.entry(entry.document as usize)?.id != entry.id
            {
                return damaged("the id table leads to a document with another id");
            }
            previous = Some(entry.id);
        }
        Ok(())
    }

    /// Damage at element `index` of a section that is an array of `T`.
    fn at<T>(&self, section: &Section, index: usize, what: &str) -> plimsoll_base::StorageError {
        self.file.damaged(section.offset + index as u64 * size_of::<T>() as u64, what)
    }
}

/// Norms may be given by the writer's caller, who may have summed in another order.
fn same_norm(stored: f32, computed: f32) -> bool {
    let tolerance = computed * 1e-6 + f32::MIN_POSITIVE;
    stored.to_bits() == computed.to_bits()
        || (stored.is_nan() && computed.is_nan())
        || (stored - computed).abs() <= tolerance
}
