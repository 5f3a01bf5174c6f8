//! Writes the seeds of the fuzz targets to `fuzz/seeds`: `cargo run -p plimsoll-hostile`. Those that were found
//! (`found-*`) stay.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write as _};

use plimsoll_hostile::seeds;

fn main() -> io::Result<()> {
    let mut bytes = 0;
    let all = seeds::all();
    for (target, name, seed) in &all {
        let dir = seeds::directory().join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), seed)?;
        bytes += seed.len();
    }
    writeln!(io::stdout(), "{} seeds, {bytes} bytes", all.len())
}
