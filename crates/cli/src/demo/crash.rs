//! A child process that imports, its death, and what it left behind.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use plimsoll::{Collection, Document, Key};
use serde::Serialize;

use super::COLLECTION;
use super::data::Bundle;
use crate::error::{CliError, Result};

/// The rows of a batch of the child.
const BATCH_ROWS: usize = 25;

/// What was known of the child when it died.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Crash {
    /// How many rows it was given.
    given: usize,
    /// How many of them it had acknowledged.
    pub(super) acknowledged: usize,
}

/// What a database holds after the crash, held against the source.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Survivors {
    /// All rows that are there.
    pub(super) rows: usize,
    acknowledged: usize,
    /// Acknowledged and not there.
    lost: usize,
    /// There, but not as they were given, or never given.
    invented: usize,
    /// Rows of a batch that is there only in part.
    torn: usize,
}

impl Survivors {
    /// Whether the promise was kept.
    pub(super) fn are_right(&self) -> bool {
        (self.lost, self.invented, self.torn) == (0, 0, 0)
    }
}

impl fmt::Display for Survivors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, acknowledged, lost, invented, torn } = self;
        write!(
            f,
            "{rows} rows are there: {lost} of {acknowledged} acknowledged rows lost, {invented} rows invented, \
             {torn} rows of torn batches"
        )
    }
}

/// Lets a child process import, and kills it with SIGKILL when it has acknowledged half of what it can get. It
/// is never given everything, so that it can not be finished before.
pub(super) fn import_and_kill(bundle: &Bundle, path: &Path) -> Result<Crash> {
    let given = bundle.lines.len() * 4 / 5;
    let enough = bundle.lines.len() / 2;
    let mut child = spawn(path).map_err(|error| child_failed(&error.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(child_failed("it has no pipes"));
    };
    let acknowledged = std::thread::scope(|scope| {
        // Writing fails when the child dies, which is what is wanted. Until then the pipe stays open.
        let feeder = scope.spawn(move || {
            let written = bundle.lines[..given].iter().try_for_each(|line| writeln!(stdin, "{line}"));
            let _flushed = written.and_then(|()| stdin.flush());
            stdin
        });
        let acknowledged = read_until_killed(&mut child, stdout, enough);
        drop(feeder.join());
        acknowledged
    });
    let status = child.wait().map_err(|error| child_failed(&error.to_string()))?;
    match acknowledged? {
        acknowledged if acknowledged >= enough => Ok(Crash { given, acknowledged }),
        _ => Err(child_failed(&format!("it ended by itself, {status}"))),
    }
}

fn child_failed(what: &str) -> CliError {
    CliError::failed("child_failed", format!("the importing child process: {what}"))
}

fn spawn(path: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("import").arg(path).args([COLLECTION, "-", "--ack", "--batch-size", &BATCH_ROWS.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

/// Reads acknowledgements, kills the child at the first one that is enough, and reads those that were still on
/// their way. Returns the last one.
fn read_until_killed(child: &mut Child, stdout: impl Read, enough: usize) -> Result<usize> {
    let mut last = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| child_failed(&error.to_string()))?;
        if let Some(rows) = line.strip_prefix("ACK ").and_then(|rows| rows.parse().ok()) {
            let reached = last < enough && rows >= enough;
            last = rows;
            if reached {
                child.kill().map_err(|error| child_failed(&error.to_string()))?;
            }
        }
    }
    Ok(last)
}

/// Holds every stored row against its source.
pub(super) fn survivors(bundle: &Bundle, crash: &Crash, collection: &Collection) -> Result<Survivors> {
    let given: HashMap<&Key, usize> =
        bundle.documents[..crash.given].iter().zip(0..).map(|(document, row)| (&document.key, row)).collect();
    let mut is_there = vec![false; crash.given];
    let (mut rows, mut invented) = (0, 0);
    for document in collection.scan()? {
        let document = document?;
        rows += 1;
        match given.get(&document.key) {
            Some(&row) if same_bits(&document, &bundle.documents[row]) && !is_there[row] => {
                is_there[row] = true;
            }
            _ => invented += 1,
        }
    }
    let lost = is_there[..crash.acknowledged].iter().filter(|is_there| !**is_there).count();
    let torn = is_there[crash.acknowledged..].chunks(BATCH_ROWS).map(|batch| {
        let present = batch.iter().filter(|is_there| **is_there).count();
        if present == batch.len() { 0 } else { present }
    });
    Ok(Survivors { rows, acknowledged: crash.acknowledged, lost, invented, torn: torn.sum() })
}

/// Whether two documents are equal to the last bit, the sign of a zero included.
fn same_bits(a: &Document, b: &Document) -> bool {
    let bits = |document: &Document| -> Vec<u32> {
        document.postings.iter().flat_map(|posting| &posting.vector).map(|number| number.to_bits()).collect()
    };
    a == b && bits(a) == bits(b)
}
