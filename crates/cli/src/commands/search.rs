//! `plimsoll search`: the nearest passages to a vector, to each vector of a file, or to a document.

use std::path::Path;
use std::time::Instant;

use plimsoll::{Dedup, Effort, Error, Hit, SearchResults};
use plimsoll_lines::{KeyJson, MetadataJson, parse_argument};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use crate::args::{DedupBy, EffortArgs, Search};
use crate::error::{CliError, Result, kind_of};
use crate::input::{InputError, Place, Queries, name_of};
use crate::output::Output;

/// So many queries of a file are searched at once, on all cores.
const TOGETHER: usize = 256;
/// How much of a passage a line of text shows.
const SNIPPET_CHARACTERS: usize = 90;

/// The answers to one query, for JSON.
#[derive(Serialize)]
struct Answer<'a> {
    query: u64,
    hits: Vec<HitJson<'a>>,
}

struct HitJson<'a>(&'a Hit);

impl Serialize for HitJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let hit = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &KeyJson(&hit.key))?;
        map.serialize_entry("distance", &hit.distance)?;
        map.serialize_entry("start", &hit.start)?;
        map.serialize_entry("length", &hit.length)?;
        if let Some(text) = &hit.text {
            map.serialize_entry("text", text)?;
        }
        if let Some(metadata) = hit.metadata.as_ref().filter(|metadata| !metadata.is_empty()) {
            map.serialize_entry("metadata", &MetadataJson(metadata))?;
        }
        map.end()
    }
}

impl EffortArgs {
    fn effort(&self) -> Effort {
        match (self.recall, self.lists) {
            _ if self.exact => Effort::Exact,
            (_, Some(lists)) => Effort::Lists(lists),
            (Some(recall), None) => Effort::Recall(recall as f32),
            (None, None) => Effort::default(),
        }
    }
}

pub(super) fn run(args: &Search, output: &mut Output) -> Result<()> {
    let collection = super::collection(&args.target, args.reading, output)?;
    if let Some(vector) = &args.query.vector {
        return print(output, None, &args.describe(collection.search(&vector.0)).run()?);
    }
    if let Some(id) = &args.query.like {
        let like = collection.search_like(parse_argument(id))?;
        return print(output, None, &args.describe(like).run()?);
    }
    if let Some(text) = &args.query.text {
        let vector = super::ingest::query_vector(args, text, output)?;
        return print(output, None, &args.describe(collection.search(&vector)).run()?);
    }
    let Some(path) = &args.query.queries else { return Ok(()) };
    let mut queries = Queries::open(path)?;
    let search = args.describe(collection.search(&[]));
    let mut number = 0;
    let started = Instant::now();
    loop {
        let (mut places, mut batch) = (Vec::new(), Vec::new());
        let mut ended = Ok(());
        while batch.len() < TOGETHER {
            match queries.next_query() {
                Ok(Some((place, query))) => {
                    places.push(place);
                    batch.push(query);
                }
                Ok(None) => break,
                // Those before it are answered.
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        let search = match args.timeout {
            Some(timeout) => search.clone().timeout(timeout.saturating_sub(started.elapsed())),
            None => search.clone(),
        };
        for (place, answer) in places.into_iter().zip(search.run_each(&batch)) {
            print(output, Some(number), &answer.map_err(|error| at(path, place, &error))?)?;
            number += 1;
        }
        ended?;
        if batch.len() < TOGETHER {
            return Ok(());
        }
    }
}

impl Search {
    /// What is asked of each query.
    fn describe<'a>(&self, search: plimsoll::Search<'a>) -> plimsoll::Search<'a> {
        let search = search
            .k(self.k)
            .effort(self.effort.effort())
            .exact_distances(true)
            .with_text(true)
            .with_metadata(true);
        let search = match self.within {
            Some(distance) => search.within(distance),
            None => search,
        };
        let search = match self.timeout {
            Some(timeout) => search.timeout(timeout),
            None => search,
        };
        let search = match self.dedup {
            Some(DedupBy::Document) => search.dedup(Dedup::Document),
            Some(DedupBy::Position) => search.dedup(Dedup::Position),
            Some(DedupBy::Vector) => search.dedup(Dedup::Vector),
            None => search,
        };
        match &self.filter {
            Some(filter) => search.filter(filter.clone()),
            None => search,
        }
    }
}

/// An error about one query, unless it is about the database.
pub(super) fn at(path: &Path, place: Place, error: &Error) -> CliError {
    match error {
        Error::InvalidQuery { problem, .. } => {
            InputError::new(name_of(path), place, kind_of(error), problem.clone()).into()
        }
        Error::DimensionMismatch { .. } | Error::InvalidArgument(_) | Error::InvalidDocument { .. } => {
            InputError::new(name_of(path), place, kind_of(error), error.to_string()).into()
        }
        _ => error.clone().into(),
    }
}

fn print(output: &mut Output, query: Option<u64>, results: &SearchResults) -> Result<()> {
    if output.json {
        let hits = results.hits.iter().map(HitJson).collect();
        return output.value(&Answer { query: query.unwrap_or(0), hits });
    }
    if let Some(query) = query {
        output.line(format_args!("query {query}"))?;
    }
    for (rank, hit) in results.hits.iter().enumerate() {
        let (rank, distance) = (rank + 1, hit.distance);
        output.line(format_args!("{rank:>4}  {distance:<10.6}  {}{}", hit.key, range(hit)))?;
        if let Some(text) = &hit.text {
            output.line(format_args!("      {}", snippet(text, SNIPPET_CHARACTERS)))?;
        }
    }
    Ok(())
}

fn range(hit: &Hit) -> String {
    match (hit.start, hit.length) {
        (0, 0) => String::new(),
        (start, length) => format!("  bytes {start}..{}", u64::from(start) + u64::from(length)),
    }
}

/// The beginning of a text, on one line.
pub(crate) fn snippet(text: &str, characters: usize) -> String {
    let mut words = String::new();
    for word in text.split_whitespace() {
        let separator = if words.is_empty() { "" } else { " " };
        let used = words.chars().count() + separator.len();
        if used + word.chars().count() > characters {
            let rest: String = word.chars().take(characters.saturating_sub(used)).collect();
            return format!("{words}{separator}{rest}…");
        }
        words.push_str(separator);
        words.push_str(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_is_one_line_and_not_longer_than_asked() {
        assert_eq!(snippet("a  b\nc", 10), "a b c");
        assert_eq!(snippet("grüße aus Köln", 8), "grüße au…");
        assert_eq!(snippet("", 8), "");
        assert_eq!(snippet("aaaa bbbb", 4), "aaaa …");
    }
}
