//! What can be said about ingestion and its sources.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use plimsoll::Metric;
use plimsoll_ingest::{Chunking, EmbedderSpec};

use super::{Dir, Target};

const INGEST_HELP: &str = "\
Each line is one of
  {\"id\": \"a\", \"vector\": [0.1, 0.2], \"text\": \"...\"}                       a row of `import`
  {\"id\": \"a\", \"text\": \"...\", \"metadata\": {\"page\": 12}}                 the same, to be cut and embedded
  {\"line\": 7, \"path\": \"a.md\", \"op\": \"modify\", \"content\": \"...\"}        a change: add, modify or delete
  {\"new_changeset\": {...}}                                           remembered with the run, and no data
  docs/a.md                                                          the path of a file, to be read

Contents of changes are in content, content_base64, or the file named by content_ref. Files that lines name are read
below the directory --base. A folder instead of lines gives what was added, modified and deleted since the last time.

How texts become vectors (--embed), kept with the collection and used by `search --text`:
  hash:256                                   by words and parts of words; no model, no network
  http://localhost:11434/v1#nomic-embed-text an endpoint like OpenAI's (Ollama, llama.cpp, TEI, vLLM); the key comes
                                             from OPENAI_API_KEY
  command:python3 embed.py                   a program that reads {\"texts\": [...]} and writes {\"vectors\": [...]}
  onnx:models/all-MiniLM-L6-v2               a directory with model.onnx and tokenizer.json, in a program that was
                                             installed with --features onnx
Without it, documents bring their vectors.

A run that is interrupted, by whatever, goes on where it was when it is started again. What can not be stored is set
aside, with the reason: `plimsoll source DIR failed`, and `retry` once the reason is gone.

Examples:
  plimsoll ingest notes.db notes docs/ --embed hash:256
  generate | plimsoll ingest notes.db notes - --source feed --embed hash:256
  plimsoll search notes.db notes --text 'how to bake bread'";

#[derive(Debug, Args)]
#[command(after_help = INGEST_HELP)]
pub(crate) struct Ingest {
    #[command(flatten)]
    pub target: Target,
    /// Files of lines, one folder, or `-` for lines on standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// What the position in this input is known by [default: the input's own name]
    #[arg(long, value_name = "ID")]
    pub source: Option<String>,
    /// Go on where the source is, which is the default
    #[arg(long, conflicts_with = "restart")]
    pub resume: bool,
    /// Begin the source anew: everything is read again, and what is known about it is forgotten
    #[arg(long)]
    pub restart: bool,
    /// How texts become vectors [default: as the collection has it]
    #[arg(long, value_name = "EMBEDDER")]
    pub embed: Option<EmbedderSpec>,
    /// How texts are cut: tokens, characters, sentences or paragraphs, like tokens:256:32, or whole [default: as the
    /// collection has it, or tokens:256:32]
    #[arg(long, value_name = "UNIT[:SIZE[:OVERLAP]]")]
    pub chunk: Option<Chunking>,
    /// The metric of a collection that is created
    #[arg(long)]
    pub metric: Option<Metric>,
    /// How many items are one atomic write
    #[arg(long, value_name = "ITEMS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_size: u32,
    /// How many batches are in hand at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// How often what fails is tried again before it is set aside
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub max_retries: u32,
    /// How long the embedder may take for one answer, such as 10s or 5m [default: 60s; 300s for a program]
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Read everything and say what would be done; embed and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Read at most so many items a second
    #[arg(long, value_name = "ITEMS", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Wait for more lines at the end of the last file, until interrupted
    #[arg(long)]
    pub follow: bool,
    /// Say what was set aside, and what was passed over, as it happens
    #[arg(long)]
    pub verbose: bool,
    /// The directory below which lines may name files [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Of a folder: only files like this (`*.md`); may be repeated. Files that no longer match are removed
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Of a folder: no files like this; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Of a folder: hidden files, too
    #[arg(long)]
    pub hidden: bool,
    /// Of a folder: also what .gitignore says to ignore
    #[arg(long)]
    pub no_ignore: bool,
    /// Of a folder without any file: remove everything that came from it
    #[arg(long)]
    pub allow_empty: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Source {
    #[command(flatten)]
    pub dir: Dir,
    #[command(subcommand)]
    pub action: SourceAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SourceAction {
    /// List the sources: how far each is, and what became of its items
    Ls,
    /// Say how far sources are: progress, rate, what is left, gaps, the last run
    Status {
        #[command(flatten)]
        which: Which,
        /// One line for all of them together
        #[arg(long)]
        summary: bool,
    },
    /// List the items that were set aside, with the reason and the item as it came
    Failed {
        #[command(flatten)]
        which: Which,
        /// Give up the item at this position, for good: nothing is kept of it. May be repeated
        #[arg(long, value_name = "POSITION", conflicts_with = "limit")]
        forget: Vec<u64>,
        /// How many of each source at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = super::parse_limit)]
        limit: usize,
    },
    /// Try items again that were set aside: all of them, or those at --position
    Retry {
        #[command(flatten)]
        which: Which,
        /// The position of an item; may be repeated
        #[arg(long, value_name = "N")]
        position: Vec<u64>,
        /// Another way to the same model than the collection has
        #[arg(long, value_name = "EMBEDDER")]
        embed: Option<EmbedderSpec>,
        /// How often what fails is tried again
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=100))]
        max_retries: u32,
        /// How long the embedder may take for one answer, such as 10s or 5m [default: 60s; 300s for a program]
        #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
        timeout: Option<Duration>,
    },
    /// Let a source take nothing until it is resumed
    Pause(Which),
    /// Let a source take items again
    Resume(Which),
    /// Forget a source: its position, what was set aside, its runs. The documents that came from it stay
    Reset(Which),
    /// Forget runs and changesets that are older than --older-than
    Purge {
        #[command(flatten)]
        which: Which,
        /// How old
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        older_than: Duration,
    },
    /// Make the SQLite ledger beside the database anew, from the database
    Ledger,
}

/// Which source is meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The source; needed where there are several
    pub source: Option<String>,
    /// Its collection; needed where several have a source of that name
    #[arg(long, value_name = "COLLECTION")]
    pub collection: Option<String>,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("nothing answers in no time".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        Ok(_) => Err("a rate is above 0 and at most 1e9".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}
