//! Query vectors, from the rows of npy and fvecs files or from the `vector` fields of JSON lines.

use std::fmt;
use std::io::BufRead;
use std::path::Path;

use plimsoll_lines::{Components, from_json};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::jsonl::Lines;
use super::matrix::{Numbered, vectors};
use super::{InputError, Place, format_of, name_of, open};
use crate::args::Format;

/// The queries of a file, one at a time.
pub struct Queries(Source);

enum Source {
    Lines(Lines<Box<dyn BufRead>>),
    Rows(Numbered),
}

impl Queries {
    /// Opens a .npy, .fvecs or .jsonl file, or JSON lines on standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, InputError> {
        let (name, format) = (name_of(path), format_of(path, None)?);
        Self::new(open(path)?, name, format)
    }

    /// The queries of a stream, which is called `name` in messages.
    ///
    /// # Errors
    /// If its header is not one of this format.
    pub fn new(reader: Box<dyn BufRead>, name: String, format: Format) -> Result<Self, InputError> {
        Ok(Self(match format {
            Format::Jsonl => Source::Lines(Lines::new(reader, name)),
            Format::Npy | Format::Fvecs => Source::Rows(vectors(reader, name, format)?),
        }))
    }

    /// The next query, and where it stands; `None` after the last one.
    ///
    /// # Errors
    /// If it is not one of this format, or can not be read.
    pub fn next_query(&mut self) -> Result<Option<(Place, Vec<f32>)>, InputError> {
        match &mut self.0 {
            Source::Rows(rows) => Ok(rows.next_vector()?.map(|(row, vector)| (Place::Row(row), vector))),
            Source::Lines(lines) => {
                let name = lines.name.clone();
                let Some((number, line)) = lines.next_line()? else { return Ok(None) };
                let place = Place::Line(number);
                match from_json::<Query>(line) {
                    Ok(query) => Ok(Some((place, query.0.0))),
                    Err(problem) => Err(InputError::at(&name, place, problem.into())),
                }
            }
        }
    }

    /// All queries that are left, at most `limit`.
    pub(crate) fn collect(mut self, limit: Option<usize>) -> Result<Vec<Vec<f32>>, InputError> {
        let mut queries = Vec::new();
        while limit.is_none_or(|limit| queries.len() < limit) {
            match self.next_query()? {
                Some((_, query)) => queries.push(query),
                None => break,
            }
        }
        Ok(queries)
    }
}

/// The `vector` of an object; whatever else it has is not a query's business.
struct Query(Components);

impl<'de> Deserialize<'de> for Query {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(QueryVisitor)
    }
}

struct QueryVisitor;

impl<'de> Visitor<'de> for QueryVisitor {
    type Value = Query;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a vector")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Query, A::Error> {
        let mut vector = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "vector" {
                vector = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        vector.map(Query).ok_or_else(|| A::Error::custom("there is no vector"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_their_vectors_and_wrong_ones_are_named() {
        let text: &[u8] = b"{\"vector\": [1, 2], \"id\": [{}]}\n\n{\"id\": 3}\n";
        let mut queries = Queries::new(Box::new(text), "q".to_owned(), Format::Jsonl).unwrap();
        assert_eq!(queries.next_query(), Ok(Some((Place::Line(1), vec![1.0, 2.0]))));
        assert_eq!(queries.next_query().unwrap_err().to_string(), "q: line 3: there is no vector");
    }
}
