//! Verifying every byte of a container, whatever its sections mean.

use std::ops::Range;

use plimsoll_base::Result;
use plimsoll_base::checksum::Crc32;
use rayon::ThreadPoolBuilder;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use super::{FOOTER_LEN, MAX_BLOCK_LEN, SealedFile};

/// How much is read at once, by each thread: a multiple of every block's length.
const READ_LEN: usize = 16 * MAX_BLOCK_LEN;

impl SealedFile {
    /// Reads the whole file, in pieces, on all processors and never through the mapping, and verifies each block's
    /// checksum and that of the whole file. It knows nothing of what the sections mean.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`](plimsoll_base::StorageError::Corrupted) with the offset of the first
    /// damaged block or table; any error of the storage.
    pub fn verify(&self) -> Result<()> {
        let table = self.block_table()?;
        let size = self.footer.block_size as usize;
        let pieces =
            in_pieces(self.footer.section_offset, READ_LEN as u64, |buffer: &mut Vec<u8>, piece| {
                buffer.resize((piece.end - piece.start) as usize, 0);
                self.file.read_exact_at(piece.start, buffer)?;
                let first = piece.start / size as u64;
                (first..)
                    .zip(buffer.chunks(size))
                    .try_for_each(|(n, block)| self.check_block(table, n, block))?;
                let mut crc = Crc32::new();
                crc.update(buffer);
                Ok(crc)
            })?;
        let mut body = Crc32::new();
        pieces.iter().for_each(|piece| body.combine(piece));
        let footer = self.footer;
        self.verify_part("section table", footer.section_offset, footer.section_len, footer.section_crc)?;
        self.verify_part("block table", footer.block_offset, footer.block_len, footer.block_crc)?;
        self.read_parts(self.footer.section_offset, self.footer_offset(), |bytes| {
            body.update(bytes);
            Ok(())
        })?;
        let mut now = [0; FOOTER_LEN];
        self.file.read_exact_at(self.footer_offset(), &mut now)?;
        if now != self.footer_bytes[..] {
            return Err(self.damaged(self.footer_offset(), "the footer changed since the file was opened"));
        }
        if body.value() != self.footer.body_crc {
            return Err(self.damaged(self.footer_offset() + 40, "the whole file's checksum does not match"));
        }
        Ok(())
    }

    fn verify_part(&self, what: &str, offset: u64, len: u64, expected: u32) -> Result<()> {
        let mut crc = Crc32::new();
        self.read_parts(offset, offset + len, |bytes| {
            crc.update(bytes);
            Ok(())
        })?;
        if crc.value() != expected {
            return Err(self.damaged(offset, format!("the {what}'s checksum does not match")));
        }
        Ok(())
    }

    /// Reads bytes `start` to `end`, one piece after the other.
    fn read_parts(&self, start: u64, end: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; (end - start).min(READ_LEN as u64) as usize];
        let mut at = start;
        while at < end {
            let part = &mut buffer[..(end - at).min(READ_LEN as u64) as usize];
            self.file.read_exact_at(at, part)?;
            take(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// The checksum of the whole file as its bytes are now; equal to the manifest's if nothing changed.
    ///
    /// # Errors
    /// Any error of the storage.
    pub fn current_crc(&self) -> Result<u32> {
        let mut crc = Crc32::new();
        self.read_parts(0, self.file_meta().len, |bytes| {
            crc.update(bytes);
            Ok(())
        })?;
        Ok(crc.value())
    }
}

/// Does something to each piece of `0..len`, with a buffer that each thread keeps, and on all processors if there
/// are several. Returns what it gave, or the error of the first piece that had one.
pub(crate) fn in_pieces<T: Send, B: Default + Send>(
    len: u64,
    piece: u64,
    check: impl Fn(&mut B, Range<u64>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let range = |n: u64| n * piece..len.min((n + 1) * piece);
    let pieces = len.div_ceil(piece);
    // Where no thread can be started, this one does it.
    let threads = if pieces > 1 { ThreadPoolBuilder::new().build().ok() } else { None };
    let Some(threads) = threads else {
        let mut buffer = B::default();
        return (0..pieces).map(|n| check(&mut buffer, range(n))).collect();
    };
    let checked: Vec<Result<T>> = threads.install(|| {
        (0..pieces).into_par_iter().map_init(B::default, |buffer, n| check(buffer, range(n))).collect()
    });
    checked.into_iter().collect()
}
