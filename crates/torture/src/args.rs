//! What can be asked for.

use clap::{Parser, Subcommand};

/// Power cuts, bad disks and bad bytes, from seeds that replay.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-torture", version)]
pub(crate) struct Torture {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {}
