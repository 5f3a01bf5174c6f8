//! Standard output: text for people, JSON for programs, and quiet when nobody listens any more.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::error::{CliError, Result};

/// Where a command puts its answer.
pub(crate) struct Output {
    /// Whether JSON was asked for.
    pub json: bool,
    writer: BufWriter<Box<dyn Write>>,
}

impl Output {
    /// The process's standard output.
    pub(crate) fn stdout(json: bool) -> Self {
        Self { json, writer: BufWriter::with_capacity(1 << 16, Box::new(io::stdout())) }
    }

    /// Prints a line of text.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<()> {
        writeln!(self.writer, "{text}").map_err(|error| CliError::output(&error))
    }

    /// Prints text that is no line.
    pub(crate) fn text(&mut self, text: impl Display) -> Result<()> {
        write!(self.writer, "{text}").map_err(|error| CliError::output(&error))
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn value(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.writer, value).map_err(|error| match error.io_error_kind() {
            Some(kind) => CliError::output(&kind.into()),
            None => CliError::failed("other", format!("encoding JSON: {error}")),
        })?;
        self.line("")
    }

    /// Prints `value` as JSON if that was asked for, and else `text`.
    pub(crate) fn either(&mut self, value: &impl Serialize, text: impl Display) -> Result<()> {
        if self.json { self.value(value) } else { self.line(text) }
    }

    /// Hands everything printed so far to the operating system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(|error| CliError::output(&error))
    }
}

/// `count` things, with the thing in the right number.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Bytes as people read them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration with the unit it is best read in.
pub(crate) fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn quantities_are_readable() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(duration(Duration::from_micros(1500)), "1.50 ms");
        assert_eq!(counted(1, "row", "rows"), "1 row");
    }
}
