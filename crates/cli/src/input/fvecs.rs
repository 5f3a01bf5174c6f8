//! The fvecs format: each row is a 32-bit dimension and that many `f32`, little-endian.

use std::io::Read;

use plimsoll::limits::MAX_DIMENSION;

use super::Problem;
use super::matrix::{Vectors, finite, read_record};

/// The rows of an fvecs stream, which must all have the first one's dimension.
pub(super) struct Fvecs<R> {
    reader: R,
    dimension: Option<usize>,
    buffer: Vec<u8>,
}

impl<R: Read> Fvecs<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, dimension: None, buffer: Vec::new() }
    }

    fn check(&mut self, stored: i32) -> Result<usize, Problem> {
        let Ok(dimension @ 1..=MAX_DIMENSION) = usize::try_from(stored) else {
            let what = format!("a dimension of {stored} is not between 1 and {MAX_DIMENSION}");
            return Err(Problem::malformed(what));
        };
        match *self.dimension.get_or_insert(dimension) {
            first if first == dimension => Ok(dimension),
            first => {
                let what = format!("{dimension} dimensions, and {first} in the rows before it");
                Err(Problem::new("dimension_mismatch", what))
            }
        }
    }
}

impl<R: Read> Vectors for Fvecs<R> {
    fn next_vector(&mut self) -> Result<Option<Vec<f32>>, Problem> {
        let mut stored = [0; 4];
        if !read_record(&mut self.reader, &mut stored)? {
            return Ok(None);
        }
        let dimension = self.check(i32::from_le_bytes(stored))?;
        self.buffer.resize(dimension * 4, 0);
        if !read_record(&mut self.reader, &mut self.buffer)? {
            return Err(Problem::truncated("the file ends after the dimension"));
        }
        let (numbers, _) = self.buffer.as_chunks();
        finite(numbers.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes)))).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dimension: i32, numbers: &[f32]) -> Vec<u8> {
        let mut bytes = dimension.to_le_bytes().to_vec();
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    }

    fn second(first: &[u8], second: &[u8]) -> Result<Option<Vec<f32>>, &'static str> {
        let bytes = [first, second].concat();
        let mut rows = Fvecs::new(&bytes[..]);
        rows.next_vector().unwrap();
        rows.next_vector().map_err(|problem| problem.kind)
    }

    #[test]
    fn rows_are_read_bit_for_bit() {
        let first = row(2, &[1.0, -0.0]);
        assert_eq!(
            second(&first, &row(2, &[f32::MIN_POSITIVE / 2.0, 2.0])),
            Ok(Some(vec![f32::MIN_POSITIVE / 2.0, 2.0]))
        );
        assert_eq!(second(&first, &[]), Ok(None));
        assert!(Fvecs::new(&first[..]).next_vector().unwrap().unwrap()[1].is_sign_negative());
    }

    #[test]
    fn every_truncation_and_a_wrong_dimension_is_noticed() {
        let first = row(2, &[1.0, 2.0]);
        for end in 1..first.len() {
            assert_eq!(second(&first, &first[..end]), Err("truncated"), "{end}");
        }
        assert_eq!(second(&first, &row(3, &[1.0; 3])), Err("dimension_mismatch"));
        for dimension in [0, -1, i32::MAX, 4097] {
            assert_eq!(second(&first, &row(dimension, &[1.0])), Err("malformed"));
        }
        assert_eq!(second(&first, &row(2, &[1.0, f32::NAN])), Err("invalid_document"));
    }
}
