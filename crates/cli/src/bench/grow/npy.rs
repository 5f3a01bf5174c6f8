//! Writing numpy's format, a row at a time.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

/// The numbers begin at a multiple of this, as numpy's do.
const ALIGNMENT: usize = 64;

/// An .npy file of float32 that is being written.
pub(super) struct NpyWriter {
    file: BufWriter<File>,
    bytes: u64,
}

impl NpyWriter {
    /// Creates a file for so many rows.
    pub(super) fn create(path: &Path, rows: usize, dimension: usize) -> io::Result<Self> {
        let header = header(rows, dimension);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&header)?;
        Ok(Self { file, bytes: header.len() as u64 })
    }

    pub(super) fn row(&mut self, row: &[f32]) -> io::Result<()> {
        for number in row {
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.bytes += size_of_val(row) as u64;
        Ok(())
    }

    /// Writes what is left, and says how long the file is.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        Ok(self.bytes)
    }
}

fn header(rows: usize, dimension: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}");
    let start = b"\x93NUMPY\x01\x00";
    let end = (start.len() + 2 + text.len() + 1).next_multiple_of(ALIGNMENT);
    text.extend(std::iter::repeat_n(' ', end - start.len() - 2 - text.len() - 1));
    text.push('\n');
    [&start[..], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::read_matrix;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.npy");
        let mut writer = NpyWriter::create(&path, 2, 3).unwrap();
        writer.row(&[1.0, -0.0, 1e-40]).unwrap();
        writer.row(&[4.0, 5.0, 6.5]).unwrap();
        assert_eq!(writer.finish().unwrap(), std::fs::metadata(&path).unwrap().len());
        let read = read_matrix(&path).unwrap();
        assert_eq!((read.dimension, read.values), (3, vec![1.0, -0.0, 1e-40, 4.0, 5.0, 6.5]));
        assert!((1..2000).all(|rows| header(rows, rows * 7).len().is_multiple_of(ALIGNMENT)));
    }
}
