//! The ivecs format: each row is a 32-bit count and that many `i32`, little-endian. Ground truth comes in it.

use std::io::Read;
use std::path::Path;

use super::matrix::read_record;
use super::{InputError, Place, Problem, name_of, open};

/// The most numbers a row may have; more is a damaged file.
const MAX_COLUMNS: i32 = 1 << 20;

/// Reads all rows of an ivecs file.
pub(crate) fn read_ivecs(path: &Path) -> Result<Vec<Vec<u32>>, InputError> {
    parse_ivecs(&mut open(path)?, &name_of(path))
}

/// Reads all rows of an ivecs stream.
pub(crate) fn parse_ivecs(reader: &mut impl Read, name: &str) -> Result<Vec<Vec<u32>>, InputError> {
    let mut rows = Vec::new();
    loop {
        let place = Place::Row(rows.len() as u64);
        match next_row(reader) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => return Ok(rows),
            Err(problem) => return Err(InputError::at(name, place, problem)),
        }
    }
}

/// Reads the next row of ids; `None` at the end.
fn next_row(reader: &mut impl Read) -> Result<Option<Vec<u32>>, Problem> {
    let mut stored = [0; 4];
    if !read_record(reader, &mut stored)? {
        return Ok(None);
    }
    let columns = i32::from_le_bytes(stored);
    if !(0..=MAX_COLUMNS).contains(&columns) {
        return Err(Problem::malformed(format!("{columns} columns")));
    }
    let mut bytes = vec![0; columns as usize * 4];
    if !read_record(reader, &mut bytes)? && columns > 0 {
        return Err(Problem::truncated("the file ends after the number of columns"));
    }
    let (numbers, _) = bytes.as_chunks();
    let row = numbers.iter().map(|&bytes| {
        let number = i32::from_le_bytes(bytes);
        u32::try_from(number).map_err(|_| Problem::malformed(format!("the row number {number} is negative")))
    });
    row.collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_truncation_is_noticed() {
        let bytes: Vec<u8> = [2i32, 5, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(next_row(&mut &bytes[..]).unwrap(), Some(vec![5, 0]));
        assert_eq!(next_row(&mut &bytes[..0]).unwrap(), None);
        for end in 1..bytes.len() {
            assert_eq!(next_row(&mut &bytes[..end]).unwrap_err().kind, "truncated");
        }
        for wrong in [[-1i32, 0], [1, -5], [i32::MAX, 0]] {
            let bytes: Vec<u8> = wrong.iter().flat_map(|number| number.to_le_bytes()).collect();
            assert!(next_row(&mut &bytes[..]).is_err());
        }
    }
}
