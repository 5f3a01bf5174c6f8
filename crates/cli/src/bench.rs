//! `plimsoll bench`: what this machine does with this database. Everything is measured through the public face.

mod cache;
mod curve;
mod disk;
mod flush;
mod grow;
mod ingest;
mod measure;
mod random;
mod recall;
mod recovery;
mod search;
#[cfg(feature = "sqlite")]
mod sqlite;
mod workload;

use crate::args::BenchCommand;
use crate::error::Result;
use crate::output::Output;

pub(crate) fn run(command: BenchCommand, output: &mut Output) -> Result<()> {
    match command {
        BenchCommand::Search(args) => search::run(&args, output),
        BenchCommand::Ingest(args) => ingest::run(&args, output),
        BenchCommand::Flush(args) => flush::run(&args, output),
        BenchCommand::Recovery(args) => recovery::run(&args, output),
        BenchCommand::Grow(args) => grow::run(&args, output),
    }
}
