//! Verifying every byte of a container, whatever its sections mean.

use plimsoll_base::Result;
use plimsoll_base::checksum::Crc32;

use super::{BLOCK_LEN, FOOTER_LEN, SealedFile};

impl SealedFile {
    /// Reads the whole file, a block at a time and never through the mapping, and verifies each block's
    /// checksum and that of the whole file. It knows nothing of what the sections mean.
    ///
    /// # Errors
    /// [`StorageError::Corrupted`](plimsoll_base::StorageError::Corrupted) with the offset of the first
    /// damaged block or table; any error of the storage.
    pub fn verify(&self) -> Result<()> {
        let table = self.block_table()?;
        let mut body = Crc32::new();
        let mut buffer = vec![0; BLOCK_LEN];
        for block in 0..self.footer.blocks() {
            let range = self.block_range(block);
            let bytes = &mut buffer[..(range.end - range.start) as usize];
            self.file.read_exact_at(range.start, bytes)?;
            let mut crc = Crc32::new();
            crc.update(bytes);
            self.check_crc(table, block, crc.value())?;
            body.combine(&crc);
        }
        let footer = self.footer;
        self.verify_part("section table", footer.section_offset, footer.section_len, footer.section_crc)?;
        self.verify_part("block table", footer.block_offset, footer.block_len, footer.block_crc)?;
        self.read_parts(self.footer.section_offset, self.footer_offset(), |bytes| body.update(bytes))?;
        let now = &mut buffer[..FOOTER_LEN];
        self.file.read_exact_at(self.footer_offset(), now)?;
        if *now != self.footer_bytes[..] {
            return Err(self.damaged(self.footer_offset(), "the footer changed since the file was opened"));
        }
        if body.value() != self.footer.body_crc {
            return Err(self.damaged(self.footer_offset() + 40, "the whole file's checksum does not match"));
        }
        Ok(())
    }

    fn verify_part(&self, what: &str, offset: u64, len: u64, expected: u32) -> Result<()> {
        let mut crc = Crc32::new();
        self.read_parts(offset, offset + len, |bytes| crc.update(bytes))?;
        if crc.value() != expected {
            return Err(self.damaged(offset, format!("the {what}'s checksum does not match")));
        }
        Ok(())
    }

    /// Reads bytes `start` to `end`, a block's length at a time.
    fn read_parts(&self, start: u64, end: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = vec![0; BLOCK_LEN];
        let mut at = start;
        while at < end {
            let part = &mut buffer[..(end - at).min(BLOCK_LEN as u64) as usize];
            self.file.read_exact_at(at, part)?;
            take(part);
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
        self.read_parts(0, self.file_meta().len, |bytes| crc.update(bytes))?;
        Ok(crc.value())
    }
}
