//! The `plimsoll-torture` program: does to a database what it must survive, and counts what it did.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Command, Torture};

mod args;
mod kernel;

fn main() -> ExitCode {
    match Torture::parse().command {
        Command::PowerCuts(args) => kernel::power_cuts(&args),
        Command::SmallDisks(args) => kernel::small_disks(&args),
        Command::Limits(args) => kernel::limits(&args),
        Command::Churn(args) => kernel::churn(&args),
    }
}
