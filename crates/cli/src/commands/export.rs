//! `plimsoll export`: every document as a line that `import` reads, ordered by id.

use plimsoll_lines::DocumentLine;

use crate::args::ReadTarget;
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::progress::Progress;

pub(super) fn run(args: &ReadTarget, output: &mut Output) -> Result<()> {
    let collection = super::collection(&args.target, args.reading, output)?;
    // The keys are sorted in memory, and each document is read when its turn has come. Both see the same
    // state: a reader's view moves only when it is told to.
    let mut keys = collection.keys().collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    let progress = Progress::new(output.json, "exporting", Some(keys.len() as u64));
    for key in keys {
        let Some(document) = collection.get(&key)? else {
            let message = format!("the document {key} was listed and is not found: run plimsoll verify");
            return Err(CliError::failed("inconsistent", message));
        };
        output.value(&DocumentLine(&document))?;
        progress.advance(1);
    }
    output.flush()
}
