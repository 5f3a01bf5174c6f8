//! `plimsoll ls` and `plimsoll count`: what is there.

use serde::Serialize;

use crate::args::{Ls, ReadTarget};
use crate::error::Result;
use crate::output::Output;

#[derive(Serialize)]
struct Listing {
    collections: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    dimension: usize,
    metric: &'static str,
    documents: u64,
}

pub(super) fn run(args: &Ls, output: &mut Output) -> Result<()> {
    let db = super::reader(&args.dir.dir, args.reading, output)?;
    let mut collections = Vec::new();
    for collection in db.collections() {
        collections.push(Entry {
            name: collection.name().to_owned(),
            dimension: collection.dimension(),
            metric: collection.metric().name(),
            documents: collection.count()?,
        });
    }
    if output.json {
        return output.value(&Listing { collections });
    }
    let width = collections.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
    for Entry { name, dimension, metric, documents } in collections {
        output.line(format_args!("{name:width$}  {dimension:>5}  {metric:6}  {documents:>10}"))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Count {
    count: u64,
}

pub(super) fn count(args: &ReadTarget, output: &mut Output) -> Result<()> {
    let count = super::collection(&args.target, args.reading, output)?.count()?;
    output.either(&Count { count }, count)
}
