//! `plimsoll delete`: removes documents, all in one atomic write.

use std::collections::BTreeSet;

use plimsoll::WriteBatch;
use plimsoll_lines::{KeyJson, parse_argument};
use serde::Serialize;

use crate::args::Ids;
use crate::error::Result;
use crate::output::{Output, counted};

#[derive(Serialize)]
struct Deleted {
    deleted: u64,
    not_found: Vec<serde_json::Value>,
}

pub(super) fn run(args: &Ids, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.target.dir)?;
    let collection = super::named(db.collection(&args.target.collection), || super::names(&db))?;
    let keys: BTreeSet<_> = args.ids.iter().map(|id| parse_argument(id)).collect();
    let (mut batch, mut not_found) = (WriteBatch::new(), Vec::new());
    // Nobody else writes while this process does, so what is there now is there when the batch is applied.
    for key in keys {
        if collection.get(&key)?.is_some() {
            batch.delete(key);
        } else {
            not_found.push(serde_json::to_value(KeyJson(&key)).unwrap_or_default());
        }
    }
    let deleted = batch.len() as u64;
    if !batch.is_empty() {
        collection.write(&batch)?;
    }
    db.close()?;
    let mut text = format!("{} deleted", counted(deleted, "document", "documents"));
    if !not_found.is_empty() {
        let ids: Vec<_> = not_found.iter().map(ToString::to_string).collect();
        text += &format!("; not there: {}", ids.join(", "));
    }
    output.either(&Deleted { deleted, not_found }, text)
}
