//! numpy's format: a header that names type and shape, then the numbers.

use std::io::Read;

use half::f16;

use super::Problem;
use super::matrix::{Vectors, finite, read_record};
use super::npy_header::{Element, Header};

/// The rows of an npy stream of two dimensions.
///
/// float64 is rounded to the nearest float32; a number too large for one is an error.
pub(super) struct Npy<R> {
    reader: R,
    header: Header,
    done: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Npy<R> {
    /// Reads the header.
    pub(super) fn new(mut reader: R) -> Result<Self, Problem> {
        let header = Header::read(&mut reader)?;
        let buffer = vec![0; header.columns * header.element.size()];
        Ok(Self { reader, header, done: 0, buffer })
    }

    fn decode(&self) -> Result<Vec<f32>, Problem> {
        match self.header.element {
            Element::F16 => {
                let (numbers, _) = self.buffer.as_chunks();
                finite(numbers.iter().map(|&bytes| f64::from(f16::from_le_bytes(bytes))))
            }
            Element::F32 => {
                let (numbers, _) = self.buffer.as_chunks();
                finite(numbers.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))))
            }
            Element::F64 => {
                let (numbers, _) = self.buffer.as_chunks();
                finite(numbers.iter().map(|&bytes| f64::from_le_bytes(bytes)))
            }
        }
    }
}

impl<R: Read> Vectors for Npy<R> {
    fn next_vector(&mut self) -> Result<Option<Vec<f32>>, Problem> {
        if self.done == self.header.rows {
            return match read_record(&mut self.reader, &mut [0])? {
                false => Ok(None),
                true => Err(Problem::malformed("bytes follow the last row that the header promises")),
            };
        }
        if !read_record(&mut self.reader, &mut self.buffer)? {
            let what = format!("the file ends after {} of {} rows", self.done, self.header.rows);
            return Err(Problem::truncated(what));
        }
        self.done += 1;
        self.decode().map(Some)
    }

    fn expected(&self) -> Option<u64> {
        Some(self.header.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::npy_header::tests::file;
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Vec<f32>>, Problem> {
        let mut npy = Npy::new(bytes)?;
        let mut rows = Vec::new();
        while let Some(row) = npy.next_vector()? {
            rows.push(row);
        }
        Ok(rows)
    }

    fn header(descr: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")
    }

    #[test]
    fn the_three_widths_are_read() {
        let f32s: Vec<u8> = [1f32, -0.0, 3.5, 1e-40].iter().flat_map(|x| x.to_le_bytes()).collect();
        let rows = read(&file(1, &header("<f4", "(2, 2)"), &f32s)).unwrap();
        assert_eq!(rows, [[1.0, -0.0], [3.5, 1e-40]]);
        assert!(rows[0][1].is_sign_negative());
        let f16s: Vec<u8> = [1f32, 0.1].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        assert_eq!(read(&file(2, &header("<f2", "(1, 2)"), &f16s)).unwrap(), [[1.0, 0.099_975_586]]);
        let f64s: Vec<u8> = [1f64, 0.1].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(read(&file(3, &header("<f8", "(2, 1)"), &f64s)).unwrap(), [[1.0], [0.1]]);
        assert_eq!(read(&file(1, &header("<f4", "(0, 8)"), &[])).unwrap(), Vec::<Vec<f32>>::new());
    }

    #[test]
    fn every_truncation_and_bytes_too_many_are_noticed() {
        let numbers: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let whole = file(1, &header("<f4", "(2, 2)"), &numbers);
        assert!(read(&whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]).unwrap_err().kind, "truncated", "{end}");
        }
        assert_eq!(read(&[&whole[..], b"x"].concat()).unwrap_err().kind, "malformed");
    }

    #[test]
    fn numbers_that_are_no_finite_f32_are_refused() {
        for number in [f64::NAN, f64::INFINITY, 1e39] {
            let problem = read(&file(1, &header("<f8", "(1, 1)"), &number.to_le_bytes())).unwrap_err();
            assert!(problem.what.starts_with("component 0: "), "{}", problem.what);
        }
    }
}
