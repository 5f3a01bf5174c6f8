//! `plimsoll-embedding-server --port 8080`: an endpoint for `http://127.0.0.1:8080/v1#hash` until it is interrupted.

#![forbid(unsafe_code)]

use std::io::Write as _;

use clap::Parser;
use plimsoll_embedding_server::Server;

/// A local endpoint with the embeddings format of OpenAI. Its vectors are made from the words of a text, without a
/// model.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The port of 127.0.0.1; 0 for any that is free.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// How many numbers a vector has.
    #[arg(long, default_value_t = 256)]
    dimension: usize,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let server = Server::start(arguments.port, arguments.dimension)?;
    // Programs that start this one read the address from the first line.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}#hash", server.base())?;
    out.flush()?;
    drop(out);
    server.wait();
    Ok(())
}
