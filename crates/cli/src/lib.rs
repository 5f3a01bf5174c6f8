//! The `plimsoll` program: an embedded, crash-safe vector database on the command line.
//!
//! **Owns** what the user sees: arguments, input formats, output, exit codes (0 done, 1 failed or damaged, 2
//! wrong usage), and the benchmarks. **Must not know** how anything is stored: it uses the public face of the
//! library like any other program.
//!
//! [`run`] is the whole program. The readers of its input formats are public, too, so that fuzzers and tests can
//! feed them anything: [`rows`] reads what is imported, [`Queries`] what is searched for, and [`DocumentLine`]
//! prints what can be read again.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod commands;
mod demo;
mod error;
mod input;
mod interrupt;
mod output;
mod progress;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::Cli;
use error::CliError;
use output::Output;

pub use args::Format;
pub use input::{InputError, Operation, Place, Queries, Row, Rows, rows};
pub use plimsoll_lines::DocumentLine;

/// Runs the program with the arguments of this process, and says how it went.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log_to_stderr();
    let mut output = Output::stdout(cli.json);
    let result = commands::run(cli.command, &mut output);
    match result.and(output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(cli.json),
    }
}

/// Prints help or a complaint, the latter as JSON where that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let is_complaint =
        error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_complaint && std::env::args_os().any(|argument| argument == OsStr::new("--json")) {
        let text = error.to_string();
        let message = text.trim().trim_start_matches("error: ");
        return CliError::Usage(message.to_owned()).report(true);
    }
    // When not even this can be written, there is nobody to tell.
    let _unwritten = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

fn log_to_stderr() {
    let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("PLIMSOLL_LOG") else { return };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
