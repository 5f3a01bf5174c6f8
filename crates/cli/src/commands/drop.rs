//! `plimsoll drop`: removes a collection.

use serde::Serialize;

use crate::args::Target;
use crate::error::Result;
use crate::output::Output;

#[derive(Serialize)]
struct Dropped<'a> {
    dropped: &'a str,
}

pub(super) fn run(args: &Target, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.dir)?;
    super::named(db.drop_collection(&args.collection), || super::names(&db))?;
    db.close()?;
    output.either(&Dropped { dropped: &args.collection }, format_args!("dropped {}", args.collection))
}
