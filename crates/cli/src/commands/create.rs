//! `plimsoll create`: a collection, and the database if there is none.

use plimsoll::{CollectionConfig, Database};
use serde::Serialize;

use crate::args::Create;
use crate::error::Result;
use crate::output::Output;

#[derive(Serialize)]
struct Created<'a> {
    collection: &'a str,
    dimension: u32,
    metric: &'static str,
}

pub(super) fn run(args: &Create, output: &mut Output) -> Result<()> {
    let db = Database::builder(&args.target.dir).create(true).open()?;
    let name = &args.target.collection[..];
    db.create_collection(name, CollectionConfig::new(args.dim as usize, args.metric))?;
    db.close()?;
    let created = Created { collection: name, dimension: args.dim, metric: args.metric.name() };
    output.either(&created, format_args!("{name}: {} dimensions, {}", args.dim, args.metric))
}
