//! What can be said on the command line. Parsing only: nothing here opens a file.

mod bench;
mod ingest;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll::limits::MAX_DIMENSION;
use plimsoll::{Filter, Metric};

pub(crate) use bench::{BenchCommand, FlushBench, GrowBench, IngestBench, RecoveryBench, SearchBench};
pub(crate) use ingest::{Ingest, Source, SourceAction, Which};

const EXAMPLES: &str = "\
Examples:
  plimsoll demo
  plimsoll import notes.db passages passages.jsonl
  plimsoll search notes.db passages --like intro#1 -k 5
  plimsoll search notes.db passages --queries questions.npy --recall 0.99 --json
  plimsoll export notes.db passages > passages.jsonl
  plimsoll verify notes.db

Exit codes: 0 done, 1 failed or damaged, 2 wrong usage.
Set PLIMSOLL_LOG=info (or debug) to see what the engine does, on standard error.";

/// An embedded, crash-safe vector database
///
/// A database is a directory. It holds collections of documents; each document has an id, one or more
/// vectors, and as you like a text and metadata. One process writes at a time; any number read beside it.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print JSON instead of text, errors too
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole story on bundled real data, in a temporary directory
    ///
    /// Imports 3,000 passages of the Rust documentation in a child process, kills it with SIGKILL midway,
    /// reopens the database, proves that no acknowledged row is missing and none was invented, resumes,
    /// flushes, searches, compares with exact search, and verifies every file.
    Demo,
    /// Create a collection (and the database, if there is none)
    Create(Create),
    /// List the collections: name, dimension, metric, documents
    Ls(Ls),
    /// Remove a collection and all its documents
    Drop(Target),
    /// Store the rows of files, or of standard input
    Import(Import),
    /// Fill a collection from a stream of lines or a folder, each item exactly once, and go on after any interruption
    Ingest(Ingest),
    /// Say how far the sources of `ingest` are, what was set aside, and try that again
    Source(Source),
    /// Find the nearest passages
    Search(Search),
    /// Print documents as JSON lines
    Get(Get),
    /// Remove documents
    Delete(Ids),
    /// Count the documents of a collection
    Count(ReadTarget),
    /// Print all documents of a collection as JSON lines that `import` reads, ordered by id
    Export(ReadTarget),
    /// Move what is only in the log into sealed files
    Flush(Flush),
    /// List the jobs of a database (flushes, compactions, checks, backups), show, cancel or repeat one
    Jobs(Jobs),
    /// Print watermarks, collections, log and input/output figures
    Stats(Stats),
    /// Copy a database to another directory, where it opens like any other
    ///
    /// What is written meanwhile is not in the copy. Every file is checked on the way.
    Backup(Backup),
    /// Say whether a database is in good order, and what to do if it is not; exit 1 then
    ///
    /// Looks at what can be known at once: the files' presence, what waits in the log, jobs that failed, room on the disk.
    /// `verify` reads every byte.
    Doctor(Dir),
    /// Merge files and give the space of deleted rows back
    Compact(Dir),
    /// Calibrate searches on queries like those that a collection gets
    ///
    /// `search --recall` promises the recall that was measured with the collection's own rows as queries. Where queries
    /// are unlike rows, as questions are unlike passages, it is measured with queries that are given here instead: at
    /// most 1,000 of them are kept and used, also by indexes that are trained later. Use others than those that the recall
    /// is checked with.
    Calibrate(Calibrate),
    /// Check every byte of a database without changing it; exit 1 when it is damaged
    Verify(Dir),
    /// Make a damaged database one that opens, and say what was saved and what is lost
    ///
    /// Damaged files are moved to the directory `lost` in the database's, never removed. A database without damage is
    /// not changed. The exit code is 0 once the database is sound, also if something is lost: --json says how much. An
    /// interrupted repair is simply run again. `export --salvage` shows what a repair would keep, and changes nothing.
    Repair(Dir),
    /// Print what is in a database file; exit 1 when it is damaged
    Dump(Dump),
    /// Measure this machine with this database
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Args)]
pub(crate) struct Dir {
    /// The database's directory
    pub dir: PathBuf,
}

const FLUSH_HELP: &str = "\
Only one process writes to a database at a time: while another one has it open, it is that one that flushes.

Examples:
  plimsoll flush notes.db
  plimsoll flush notes.db --collection passages
  plimsoll jobs notes.db show $(plimsoll flush notes.db --no-wait)";

#[derive(Debug, Args)]
#[command(after_help = FLUSH_HELP)]
pub(crate) struct Flush {
    #[command(flatten)]
    pub dir: Dir,
    /// Only this collection
    #[arg(long, value_name = "COLLECTION", conflicts_with = "all")]
    pub collection: Option<String>,
    /// All collections, which is the default
    #[arg(long)]
    pub all: bool,
    /// Return when the flush has ended, which is the default
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,
    /// Print the job's id and return at once; a process in the background does the rest
    #[arg(long)]
    pub no_wait: bool,
    /// What the process in the background is told
    #[arg(long, hide = true, conflicts_with_all = ["wait", "no_wait"])]
    pub in_background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    #[command(flatten)]
    pub dir: Dir,
    #[command(subcommand)]
    pub action: JobsAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsAction {
    /// List the newest jobs, newest first
    Ls {
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = parse_limit)]
        limit: usize,
    },
    /// Show all that is known about a job
    Show {
        /// The job's id
        id: u64,
    },
    /// Cancel a job that no process is doing
    Cancel {
        /// The job's id
        id: u64,
    },
    /// Do once more what a job that failed or was cancelled was to do, and wait for it
    Retry {
        /// The job's id
        id: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    pub dir: Dir,
    /// Look again and again: watermarks, jobs, the last flush, and what changed since the look before
    #[arg(long)]
    pub watch: bool,
    /// How long to wait between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch", value_parser = parse_interval)]
    pub interval: Duration,
    /// Stop after so many looks
    #[arg(long, value_name = "N", requires = "watch", value_parser = parse_limit)]
    pub times: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub dir: Dir,
    /// Where the copy goes: a directory that is empty or not there
    #[arg(value_name = "TO")]
    pub to: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The database's directory
    pub dir: PathBuf,
    /// The collection
    pub collection: String,
}

/// How a database is read.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Reading {
    /// Read a damaged database as `repair` would leave it, without changing it; nobody may be writing to it
    #[arg(long)]
    pub salvage: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub dir: Dir,
    #[command(flatten)]
    pub reading: Reading,
}

#[derive(Debug, Args)]
pub(crate) struct ReadTarget {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub reading: Reading,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub target: Target,
    /// The number of components of every vector
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_DIMENSION as i64))]
    pub dim: u32,
    /// How distance is measured: cosine, l2 or dot
    #[arg(long, default_value = "cosine")]
    pub metric: Metric,
}

const CALIBRATE_HELP: &str = "\
Examples:
  plimsoll calibrate notes.db passages --queries questions.npy
  plimsoll calibrate notes.db passages --reset";

#[derive(Debug, Args)]
#[command(after_help = CALIBRATE_HELP)]
pub(crate) struct Calibrate {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub on: CalibrateOn,
    /// Take at most this many queries of the file, from its beginning
    #[arg(long, value_name = "N", value_parser = parse_limit, conflicts_with = "reset")]
    pub limit: Option<usize>,
}

/// What a collection is calibrated on.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct CalibrateOn {
    /// The rows of a .npy or .fvecs file, or the {"vector": ...} lines of a .jsonl file
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// The collection's own rows, as before any calibration
    #[arg(long)]
    pub reset: bool,
}

const IMPORT_HELP: &str = "\
A collection that is missing is created from the first row: with its dimension, and --metric or cosine.

JSON lines, one row each:
  {\"id\": \"a\", \"vector\": [0.1, 0.2], \"text\": \"...\", \"metadata\": {\"page\": 12}}
  {\"id\": 7, \"text\": \"...\", \"postings\": [{\"start\": 0, \"length\": 12, \"vector\": [0.1, 0.2]}]}
  {\"id\": 7, \"op\": \"delete\"}
An id is a string or an integer (or {\"uuid\": \"...\"}, {\"ulid\": \"...\"}); 7 and \"7\" differ. Ranges are UTF-8
bytes of the text, on character boundaries. A row replaces the whole document of its id. Numbers of vectors are
rounded to the nearest 32-bit float. Blank lines are skipped; fields of other names are an error.

fvecs and npy rows (float16, float32 or float64, two dimensions, C order) get their row number, from 0 in each
file, as integer id.

Each --batch-size rows are one atomic, durable write, across the files in their order. When a row is wrong, the
batches before it stay, nothing of its own batch is stored, and the message names file and line or row.

Examples:
  plimsoll import notes.db passages passages.jsonl
  generate | plimsoll import notes.db passages - --ack
  plimsoll import vectors.db images base.fvecs --metric l2 --batch-size 5000";

#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct Import {
    #[command(flatten)]
    pub target: Target,
    /// The files to read, or `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The format, where the file's extension does not say it [standard input: jsonl]
    #[arg(long)]
    pub format: Option<Format>,
    /// The metric of a collection that is created, or the one an existing collection must have
    #[arg(long)]
    pub metric: Option<Metric>,
    /// How many rows are one atomic write
    #[arg(long, value_name = "ROWS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// Print `ACK n` on its own line once rows 1 to n of this input are durable
    #[arg(long)]
    pub ack: bool,
}

/// The format of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON lines
    Jsonl,
    /// Rows of a 32-bit dimension and that many float32
    Fvecs,
    /// A numpy array of two dimensions
    Npy,
}

const SEARCH_HELP: &str = "\
With --json, one line a query:
  {\"query\": 0, \"hits\": [{\"id\": \"a\", \"distance\": 0.25, \"start\": 0, \"length\": 12, \"text\": \"...\"}]}
Distances, nearest first: cosine is 1 - cos, l2 the Euclidean distance, dot the negated inner product.

Examples:
  plimsoll search notes.db passages --vector '[0.1, 0.9]' -k 3
  plimsoll search notes.db passages --like intro#1
  plimsoll search notes.db passages --queries questions.npy --exact --json";

#[derive(Debug, Args)]
#[command(after_help = SEARCH_HELP)]
pub(crate) struct Search {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub reading: Reading,
    #[command(flatten)]
    pub query: Query,
    /// How many passages to find
    #[arg(short, default_value_t = 10, value_parser = parse_k)]
    pub k: usize,
    #[command(flatten)]
    pub effort: EffortArgs,
    /// Find only passages of documents with such metadata, like 'lang = "en" and year >= 2000'
    #[arg(long, value_name = "CONDITION", value_parser = parse_filter)]
    pub filter: Option<Filter>,
    /// Find only passages that are not farther than this
    #[arg(long, value_name = "DISTANCE", allow_hyphen_values = true)]
    pub within: Option<f32>,
    /// Count together, as the best of them, passages of one document, those at one position of a document, or those of
    /// any documents with equal vectors
    #[arg(long, value_name = "BY")]
    pub dedup: Option<DedupBy>,
    /// Give up when searching takes longer than this, like 100ms or 2s; that is for all --queries together
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

/// What passages that count once have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DedupBy {
    /// The document
    Document,
    /// The document, and the place in its text
    Position,
    /// The vector
    Vector,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Query {
    /// Search for this vector, a JSON array of numbers
    #[arg(long, value_name = "JSON", value_parser = parse_vector)]
    pub vector: Option<Vector>,
    /// Search for each row of a .npy or .fvecs file, or for each {"vector": ...} line of a .jsonl file
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Search for the first vector of this document, which is itself left out
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub like: Option<String>,
    /// Search for this text, embedded as the collection's texts were by `ingest`
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Option<String>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct EffortArgs {
    /// The share of the true nearest passages to find, in (0, 1] [default: 0.95]
    #[arg(long, value_name = "R", value_parser = parse_recall)]
    pub recall: Option<f64>,
    /// How many lists of the index to look into
    #[arg(long, value_name = "N", value_parser = parse_lists)]
    pub lists: Option<usize>,
    /// Compare with every passage
    #[arg(long)]
    pub exact: bool,
}

const ID_HELP: &str = "\
An id is a JSON scalar, and anything else a string: 7 is the integer, '\"7\"' (with the quotes) the string, abc a
string.";

#[derive(Debug, Args)]
#[command(after_help = ID_HELP)]
pub(crate) struct Ids {
    #[command(flatten)]
    pub target: Target,
    /// The ids
    #[arg(required = true, value_name = "ID", allow_negative_numbers = true)]
    pub ids: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = ID_HELP)]
pub(crate) struct Get {
    #[command(flatten)]
    pub ids: Ids,
    #[command(flatten)]
    pub reading: Reading,
}

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// A file of a database
    pub file: PathBuf,
}

/// A vector given on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Vector(pub Vec<f32>);

fn parse_vector(text: &str) -> Result<Vector, String> {
    plimsoll_lines::parse_vector(text).map(Vector).map_err(|problem| problem.what)
}

pub(crate) fn parse_k(text: &str) -> Result<usize, String> {
    parse_at_least_one(text, "k")
}

fn parse_lists(text: &str) -> Result<usize, String> {
    parse_at_least_one(text, "the number of lists")
}

fn parse_limit(text: &str) -> Result<usize, String> {
    parse_at_least_one(text, "the limit")
}

fn parse_at_least_one(text: &str, what: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err(format!("{what} must be at least 1")),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// Nobody reads faster, or waits longer.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&interval) { Ok(interval) } else { Err("10ms to 24h are allowed".to_owned()) }
}

pub(crate) fn parse_recall(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(recall) if recall > 0.0 && recall <= 1.0 => Ok(recall),
        Ok(_) => Err("a recall is above 0 and at most 1".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

pub(crate) fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn efforts_and_queries_exclude_each_other() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("plimsoll search d c --vector [1] --exact --json").is_ok());
        for wrong in [
            "plimsoll search d c",
            "plimsoll search d c --vector [1] --like a",
            "plimsoll search d c --vector [1] --exact --lists 3",
            "plimsoll search d c --vector [1] --recall 0",
            "plimsoll search d c --vector [1] --recall 1.5",
            "plimsoll search d c --vector [1] --recall nan",
            "plimsoll search d c --vector [1] -k 0",
            "plimsoll search d c --vector [1] --timeout 100",
            "plimsoll search d c --vector [1] --timeout -1s",
            "plimsoll search d c --vector [1] --dedup none",
            "plimsoll search d c --vector 1",
            "plimsoll create d c --dim 0",
            "plimsoll import d c",
            "plimsoll calibrate d c",
            "plimsoll calibrate d c --queries f --reset",
            "plimsoll calibrate d c --reset --limit 3",
            "plimsoll calibrate d c --queries f --limit 0",
            "plimsoll import d c f --batch-size 0",
            "plimsoll flush d --collection c --all",
            "plimsoll flush d --wait --no-wait",
            "plimsoll jobs d",
            "plimsoll jobs d show",
            "plimsoll jobs d show x",
            "plimsoll jobs d show -1",
            "plimsoll jobs d ls --limit 0",
            "plimsoll stats d --interval 1s",
            "plimsoll stats d --times 2",
            "plimsoll stats d --watch --interval 0s",
            "plimsoll stats d --watch --times 0",
            "plimsoll backup d",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn ids_may_be_negative_numbers() {
        let cli = Cli::try_parse_from(["plimsoll", "get", "d", "c", "-7", "8"]).unwrap();
        let Command::Get(get) = cli.command else { panic!("{cli:?}") };
        assert_eq!(get.ids.ids, ["-7", "8"]);
    }
}
