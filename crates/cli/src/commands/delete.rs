//! `plimsoll delete`: removes documents, all in one atomic write.

use std::collections::BTreeSet;

use plimsoll::WriteBatch;
use serde::Serialize;

use crate::args::Ids;
use crate::error::Result;
use crate::json::parse_argument;
use crate::output::{Output, counted};

#[derive(Serialize)]
struct Deleted {
    deleted: u64,
}

pub(super) fn run(args: &Ids, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.target.dir)?;
    let collection = db.collection(&args.target.collection)?;
    let keys: BTreeSet<_> = args.ids.iter().map(|id| parse_argument(id)).collect();
    let (mut batch, mut deleted) = (WriteBatch::new(), 0);
    // Nobody else writes while this process does, so what is there now is there when the batch is applied.
    for key in keys {
        if collection.get(&key)?.is_some() {
            batch.delete(key);
            deleted += 1;
        }
    }
    if !batch.is_empty() {
        collection.write(&batch)?;
    }
    db.close()?;
    let text = format!("{} deleted", counted(deleted, "document", "documents"));
    output.either(&Deleted { deleted }, text)
}
