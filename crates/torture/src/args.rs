//! What can be asked for.

use clap::{Parser, Subcommand};
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
}
