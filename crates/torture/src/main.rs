//! The `plimsoll-torture` program: does to a database what it must survive, and counts what it did.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Command, Torture};

mod args;

fn main() -> ExitCode {
    match Torture::parse().command {}
}
