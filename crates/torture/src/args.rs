//! What can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll_torture::Layer;

/// Power cuts, bad disks and bad bytes, from seeds that replay.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-torture", version)]
pub(crate) struct Torture {
    /// Print the counters as one line of JSON, and nothing else on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every layer once, at the size of a CI run, or only the layers named.
    Matrix { layers: Vec<Layer> },
    /// Random cases of every layer, or of the layers named, without end until the time is over.
    Long {
        /// For how long.
        #[arg(long)]
        minutes: f64,
        /// Where the random cases start.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        layers: Vec<Layer>,
    },
    /// Runs cases again, as a violation names them, and says what there is to know about each.
    Replay {
        #[arg(required = true, value_name = "LAYER:CASE")]
        cases: Vec<String>,
    },
    /// Cut the power of a real file system (ext4 or XFS, on a loop device) while the real program writes
    ///
    /// Needs Linux, root, mkfs and xfs_io; says `skipped` and exits with 0 where one of these is missing.
    PowerCuts(PowerCuts),
    /// Fill small real file systems until nothing more fits, then delete, flush, compact and go on
    SmallDisks(Seeded),
    /// Run the real program under limits: of file size, open files, address space and memory
    Limits(Seeded),
    /// Write rows with small memtables and log segments until killed: what the commands above start
    #[command(hide = true)]
    Churn(Churn),
    /// Show that the tests see every seeded bug, or those named; exit 1 if one survives
    ///
    /// Builds the test programs with the feature `mutants` by cargo, and runs them with one bug at a time.
    Mutants {
        /// Print what there is, and run nothing
        #[arg(long)]
        list: bool,
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PowerCuts {
    /// The file system whose power is cut
    #[arg(long)]
    pub(crate) filesystem: Filesystem,
    /// How many times
    #[arg(long, default_value_t = 100)]
    pub(crate) cuts: u64,
    /// Repeats rows, modes and moments, as far as a machine repeats moments [default: of the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The size of the disk in MiB; XFS wants 300 at least
    #[arg(long, default_value_t = 768)]
    pub(crate) size_mb: u64,
    /// Keep the image of the disk afterwards, and say where
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filesystem {
    Ext4,
    Xfs,
}

impl Filesystem {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Seeded {
    /// Repeats the rows and the choices [default: of the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Churn {
    /// The database's directory
    pub(crate) dir: PathBuf,
    /// Which stream of rows
    pub(crate) stream: u64,
    /// What its rows are made from
    #[arg(long)]
    pub(crate) seed: u64,
    /// How many documents they are of at most
    #[arg(long)]
    pub(crate) keys: u64,
    /// The first row
    #[arg(long)]
    pub(crate) from: u64,
    /// How many rows are one atomic write
    #[arg(long)]
    pub(crate) batch_size: u64,
    /// How many such writes; without it, until something fails
    #[arg(long)]
    pub(crate) batches: Option<u64>,
}
