//! Verifying every byte of a container, whatever its sections mean.

use plimsoll_base::Result;
use plimsoll_base::checksum::Crc32;

use super::{FOOTER_LEN, MAX_BLOCK_LEN, SealedFile};

/// How much is read at once: a multiple of every block's length.
const READ_LEN: usize = 4 * MAX_BLOCK_LEN;

impl SealedFile {
    /// Reads the whole file, in pieces and never through the mapping, and verifies each block's
    /// checksum and that of the whole file. It knows nothing of what the sections mean.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`](plimsoll_base::StorageError::Corrupted) with the offset of the first
    /// damaged block or table; any error of the storage.
    pub fn verify(&self) -> Result<()> {
        let table = self.block_table()?;
        let mut body = Crc32::new();
        let mut block = 0;
        self.read_parts(0, self.footer.section_offset, |bytes| {
            for bytes in bytes.chunks(self.footer.block_size as usize) {
                self.check_block(table, block, bytes)?;
                block += 1;
            }
            body.update(bytes);
            Ok(())
        })?;
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

    /// Reads bytes `start` to `end`, in pieces of [`READ_LEN`] but for the last.
    fn read_parts(&self, start: u64, end: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; READ_LEN];
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
