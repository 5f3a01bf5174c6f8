//! The arguments of `plimsoll bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Target, parse_k, parse_recall};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Recall and speed of search in an existing database
    Search(Box<SearchBench>),
    /// Speed of durable writes, beside what the disk can do
    Ingest(IngestBench),
    /// Time and syncs of each phase of a flush
    Flush(FlushBench),
    /// Bytes read by opening, and speed of log replay
    Recovery(RecoveryBench),
    /// Grow a real set of vectors to a size for which there is no real one
    Grow(GrowBench),
}

const SEARCH_HELP: &str = "\
What searches read is brought into memory first, as libraries do when they load an index; --no-preload leaves that out.
Each setting warms up with the last 50 queries, then runs every query once, one thread, one at a time. OUT gets a
JSON line a setting: {\"param\": ..., \"ids\": [[...], ...], \"ns\": [... per query], \"cpu_over_wall\": ...}.

With --ground-truth, recall counts an answer when its true distance is no worse than the true k-th (ties count).
With --exact, the bandwidth of reading memory with one core is measured in the same run.

What --threads, --batch, --cold and --byte-limit measure gets tables of its own, and fields of its own in OUT: threads,
batches, cold, byte_limit. They run after a setting's own queries, in turns with what they are compared with.

Examples:
  plimsoll bench search vectors.db c --queries queries.npy --results out.jsonl --ground-truth ground_truth.ivecs
  plimsoll bench search vectors.db c --queries queries.npy --results out.jsonl --recall 0.95,0.99 --threads 2 --cold";

#[derive(Debug, Args)]
#[command(after_help = SEARCH_HELP)]
pub(crate) struct SearchBench {
    #[command(flatten)]
    pub target: Target,
    /// The queries, a .npy, .fvecs or .jsonl file
    #[arg(long, value_name = "FILE")]
    pub queries: PathBuf,
    /// How many passages to find
    #[arg(short, default_value_t = 10, value_parser = parse_k)]
    pub k: usize,
    /// The recalls to aim at, at most 16 [default: twelve from 0.8 to 0.999]
    #[arg(long, value_name = "R,...", value_delimiter = ',', value_parser = parse_recall)]
    pub recall: Vec<f64>,
    /// The numbers of lists to look into, instead of or beside recalls
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = parse_k)]
    pub lists: Vec<usize>,
    /// Where the results go, as JSON lines
    #[arg(long, value_name = "OUT")]
    pub results: PathBuf,
    /// The true nearest rows of each query, an .ivecs file of row numbers (integer ids)
    #[arg(long, value_name = "FILE")]
    pub ground_truth: Option<PathBuf>,
    /// Measure comparing with every passage, too
    #[arg(long)]
    pub exact: bool,
    /// Say how long each stage of a search takes; reading clocks slows searches by a few per cent
    #[arg(long)]
    pub stages: bool,
    /// Find only passages of documents with such metadata; the ground truth has to be one of those
    #[arg(long, value_name = "CONDITION", value_parser = super::parse_filter)]
    pub filter: Option<plimsoll::Filter>,
    /// Use only the first N queries
    #[arg(long, value_name = "N", value_parser = parse_k)]
    pub limit: Option<usize>,
    /// Measure N threads at once, too, each running all queries one at a time, in turns with one thread
    #[arg(long, value_name = "N", value_parser = parse_k)]
    pub threads: Option<usize>,
    /// Measure batches of N queries, too, on one thread and on all cores, in turns with single calls
    #[arg(long, value_name = "N", value_parser = parse_k)]
    pub batch: Option<usize>,
    /// Measure searches of a database that was just opened and of which nothing is in memory, with their page faults
    /// (Linux)
    #[arg(long)]
    pub cold: bool,
    /// Do not bring the collection into memory first: each block of its files is verified when a search touches it for the
    /// first time
    #[arg(long)]
    pub no_preload: bool,
    /// Say which share each setting reaches of the speed at which this machine reads the same bytes
    #[arg(long)]
    pub byte_limit: bool,
    /// Draw qps.svg and codes.svg, the curves against recall, into this directory
    #[arg(long, value_name = "DIR", requires = "ground_truth")]
    pub charts: Option<PathBuf>,
    /// What the charts are titled
    #[arg(long, value_name = "TEXT", requires = "charts")]
    pub charts_title: Option<String>,
}

const INGEST_HELP: &str = "\
Everything is measured in one run, in turns, and the medians of the rounds are compared: the disk's own append and
fdatasync with the same record sizes and preallocation; one writer, 64 writers and batches of 1000 before the first
flush; batches of 1000 with a small memtable until flushes and compaction are done; and SQLite with --sqlite (its
WAL, synchronous=FULL), when the program was built with that feature.

Example:
  plimsoll bench ingest --vectors base.npy --dir /mnt/disk";

#[derive(Debug, Args)]
#[command(after_help = INGEST_HELP)]
pub(crate) struct IngestBench {
    /// The vectors to store, a .npy or .fvecs file; they are repeated as often as needed
    #[arg(long, value_name = "FILE")]
    pub vectors: PathBuf,
    /// How many rows the sustained part stores [default: 5 memtables, and all of the file]
    #[arg(long, value_name = "N", value_parser = parse_k)]
    pub rows: Option<usize>,
    /// The memtable of the sustained part, in bytes
    #[arg(long, value_name = "B", default_value_t = 16 << 20, value_parser = parse_k)]
    pub memtable_bytes: usize,
    /// Where the temporary databases are made; the disk that is measured [default: the current directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// How often each part is measured
    #[arg(long, default_value_t = 3, value_parser = parse_k)]
    pub rounds: usize,
    /// Measure SQLite, too
    #[arg(long)]
    pub sqlite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FlushBench {
    /// The vectors to store, a .npy or .fvecs file [default: random ones]
    #[arg(long, value_name = "FILE")]
    pub vectors: Option<PathBuf>,
    /// How many rows each measured flush moves
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = parse_k, default_value = "1000,8000")]
    pub rows: Vec<usize>,
    /// How many rows a shard holds, one database each: fewer rows, more shards
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = parse_k,
        default_value = "65536,4096,1024")]
    pub shard_rows: Vec<usize>,
    /// How many rows are there before
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = parse_k)]
    pub base: usize,
    /// The dimension of random vectors
    #[arg(long, default_value_t = 384, value_parser = parse_k)]
    pub dim: usize,
    /// Where the temporary databases are made [default: the current directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RecoveryBench {
    /// The vectors to store, a .npy or .fvecs file [default: random ones]
    #[arg(long, value_name = "FILE")]
    pub vectors: Option<PathBuf>,
    /// The sizes of the cleanly closed databases that are opened
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = parse_k, default_value = "6000,60000")]
    pub rows: Vec<usize>,
    /// The dimension of random vectors
    #[arg(long, default_value_t = 384, value_parser = parse_k)]
    pub dim: usize,
    /// Where the temporary databases are made [default: the current directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// How often opening and replay are measured
    #[arg(long, default_value_t = 5, value_parser = parse_k)]
    pub rounds: usize,
}

const GROW_HELP: &str = "\
OUT gets the rows of BASE and then synthetic ones, in float32. Every real row becomes the parent of as many synthetic
ones; each is drawn from the normal distribution of its parent and that row's fifteen nearest neighbours. Rows of length 1
stay of length 1. The same BASE, N and S give the same OUT. The rows are not real: use them for speed and memory at a
size, and say so.

--check grows a tenth of BASE to the size of BASE and searches both for the same queries: held-out rows, or those of
--queries. It prints how many codes each takes for a recall, and exits with 1 if at recall 0.95 they are more than 20 %
apart.

Examples:
  plimsoll bench grow base.npy million.npy --rows 1000000
  plimsoll bench grow base.npy --check";

#[derive(Debug, Args)]
#[command(after_help = GROW_HELP)]
pub(crate) struct GrowBench {
    /// The real rows, a .npy or .fvecs file
    #[arg(value_name = "BASE")]
    pub base: PathBuf,
    /// Where the rows go, a .npy file
    #[arg(value_name = "OUT", requires = "rows", conflicts_with = "check")]
    pub out: Option<PathBuf>,
    /// How many rows there are to be, the real ones among them
    #[arg(long, value_name = "N", value_parser = parse_k, requires = "out")]
    pub rows: Option<usize>,
    /// What the random numbers begin with
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// See whether grown rows are searched like real ones
    #[arg(long)]
    pub check: bool,
    /// The queries of the check, a .npy, .fvecs or .jsonl file [default: 1000 rows that are held out]
    #[arg(long, value_name = "FILE", requires = "check")]
    pub queries: Option<PathBuf>,
    /// Where the temporary databases are made [default: the current directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
}
