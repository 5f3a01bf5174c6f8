//! Rows of vectors without ids, from npy and fvecs, whatever they are needed for.

use std::io::{BufRead, ErrorKind, Read};
use std::path::Path;

use plimsoll::Document;
use plimsoll_lines::narrow;

use super::fvecs::Fvecs;
use super::npy::Npy;
use super::{InputError, Operation, Place, Problem, Row, Rows, format_of, name_of, open};
use crate::args::Format;

/// A format that is nothing but vectors.
pub(super) trait Vectors {
    /// The next vector; `None` after the last one.
    fn next_vector(&mut self) -> Result<Option<Vec<f32>>, Problem>;

    /// How many there are in all, where the file says so.
    fn expected(&self) -> Option<u64> {
        None
    }
}

/// Vectors with the numbers of their rows, from 0.
pub(crate) struct Numbered {
    vectors: Box<dyn Vectors>,
    name: String,
    row: u64,
}

impl Numbered {
    pub(crate) fn next_vector(&mut self) -> Result<Option<(u64, Vec<f32>)>, InputError> {
        let row = self.row;
        let failed = |problem| InputError::at(&self.name, Place::Row(row), problem);
        let Some(vector) = self.vectors.next_vector().map_err(failed)? else { return Ok(None) };
        self.row += 1;
        Ok(Some((row, vector)))
    }

    pub(crate) fn expected(&self) -> Option<u64> {
        self.vectors.expected()
    }
}

/// The vectors of an npy or fvecs stream.
pub(super) fn vectors(
    reader: Box<dyn BufRead>,
    name: String,
    format: Format,
) -> Result<Numbered, InputError> {
    let failed = |problem| InputError::at(&name, Place::File, problem);
    let vectors: Box<dyn Vectors> = match format {
        Format::Npy => Box::new(Npy::new(reader).map_err(failed)?),
        Format::Fvecs => Box::new(Fvecs::new(reader)),
        Format::Jsonl => {
            return Err(failed(Problem::new("unknown_format", "a .npy or .fvecs file is needed here")));
        }
    };
    Ok(Numbered { vectors, name, row: 0 })
}

/// Vectors as documents whose ids are their row numbers.
pub(super) struct MatrixRows {
    vectors: Numbered,
}

impl MatrixRows {
    pub(super) fn new(vectors: Numbered) -> Self {
        Self { vectors }
    }
}

impl Rows for MatrixRows {
    fn next_row(&mut self) -> Result<Option<Row>, InputError> {
        let Some((row, vector)) = self.vectors.next_vector()? else { return Ok(None) };
        let operation = Operation::Upsert(Document::new(row).vector(vector));
        Ok(Some(Row { place: Place::Row(row), operation }))
    }

    fn expected(&self) -> Option<u64> {
        self.vectors.expected()
    }
}

/// A whole file of vectors in memory, row after row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    pub dimension: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.dimension.max(1)
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimension..][..self.dimension]
    }
}

/// Reads a whole .npy or .fvecs file, which must hold at least one row.
pub(crate) fn read_matrix(path: &Path) -> Result<Matrix, InputError> {
    collect(vectors(open(path)?, name_of(path), format_of(path, None)?)?)
}

/// Reads the bytes of a .npy file, which must hold at least one row.
pub(crate) fn parse_npy(bytes: &'static [u8], name: &str) -> Result<Matrix, InputError> {
    collect(vectors(Box::new(bytes), name.to_owned(), Format::Npy)?)
}

fn collect(mut vectors: Numbered) -> Result<Matrix, InputError> {
    let mut matrix = Matrix { dimension: 0, values: Vec::new() };
    while let Some((_, vector)) = vectors.next_vector()? {
        matrix.dimension = vector.len();
        matrix.values.extend_from_slice(&vector);
    }
    if matrix.dimension == 0 {
        return Err(InputError::new(vectors.name, Place::File, "empty", "there are no vectors in it"));
    }
    Ok(matrix)
}

/// Reads exactly `buffer.len()` bytes; false when the stream ends before the first of them.
pub(super) fn read_record(reader: &mut impl Read, buffer: &mut [u8]) -> Result<bool, Problem> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => {
                let what = format!("the file ends after {filled} of {} bytes", buffer.len());
                return Err(Problem::truncated(what));
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Problem::io(&error)),
        }
    }
    Ok(true)
}

/// A vector of finite numbers, or which of them is not.
pub(super) fn finite(numbers: impl Iterator<Item = f64> + Clone) -> Result<Vec<f32>, Problem> {
    let rounded: Vec<f32> = numbers.clone().map(|number| number as f32).collect();
    // Whatever can not be narrowed is not finite as a float32; which one it is, is found out if there is one.
    if rounded.iter().fold(true, |all, number| all & number.is_finite()) {
        return Ok(rounded);
    }
    let narrowed = numbers.enumerate().map(|(component, number)| {
        narrow(number)
            .map_err(|what| Problem::new("invalid_document", format!("component {component}: {what}")))
    });
    narrowed.collect()
}
