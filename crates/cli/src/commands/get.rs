//! `plimsoll get`: documents by their ids, as the lines that `import` reads.

use plimsoll_lines::{DocumentLine, KeyJson, parse_argument};

use crate::args::{Get, Ids};
use crate::error::{CliError, Result};
use crate::output::Output;

pub(super) fn run(args: &Get, output: &mut Output) -> Result<()> {
    let Ids { target, ids } = &args.ids;
    let collection = super::collection(target, args.reading, output)?;
    let mut missing = Vec::new();
    for id in ids {
        let key = parse_argument(id);
        match collection.get(&key)? {
            Some(document) => output.value(&DocumentLine(&document))?,
            None => missing.push(serde_json::to_string(&KeyJson(&key)).unwrap_or_else(|_| key.to_string())),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    output.flush()?;
    let name = &target.collection;
    Err(CliError::failed("document_not_found", format!("{name} has no document {}", missing.join(", "))))
}
