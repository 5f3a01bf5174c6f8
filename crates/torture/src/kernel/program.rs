//! Running the real program: feeding it rows, hearing what it acknowledges, killing it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::rows::Stream;
use super::{Failure, Result};

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn succeeded(&self) -> bool {
        self.status.success()
    }
}

/// Starts programs one after the other; another thread may kill the one that runs.
#[derive(Default)]
pub(crate) struct Runner {
    /// What every command is started by, such as `prlimit` with its arguments.
    pub(crate) prefix: Vec<OsString>,
    running: Mutex<Option<Child>>,
    /// The power is going: what is acknowledged from now on need not be kept.
    pub(crate) is_cut: AtomicBool,
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

impl Runner {
    pub(crate) fn limited<S: Into<OsString>>(prefix: impl IntoIterator<Item = S>) -> Self {
        Self { prefix: prefix.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Kills the program that runs now, if any does.
    pub(crate) fn kill(&self) -> Result<()> {
        match self.running.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(child) => child.kill().map_err(broken),
            None => Ok(()),
        }
    }

    /// Runs a program to its end, with these lines on its standard input. Each line of its standard output goes to
    /// `heard` as soon as it is said.
    pub(crate) fn run(
        &self,
        program: &Path,
        args: &[OsString],
        mut lines: impl Iterator<Item = String> + Send,
        mut heard: impl FnMut(&str),
    ) -> Result<Ended> {
        let words: Vec<OsString> =
            self.prefix.iter().cloned().chain([program.into()]).chain(args.iter().cloned()).collect();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            return Err(broken("a program has no pipes"));
        };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let mut complained = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            // It may end before it has read everything.
            scope.spawn(move || lines.try_for_each(|line| writeln!(stdin, "{line}")).is_ok());
            let errors = scope.spawn(|| stderr.read_to_end(&mut complained).map(drop));
            for line in BufReader::new(stdout).lines() {
                heard(&line.map_err(broken)?);
            }
            errors.join().map_err(|_| broken("a thread panicked"))?.map_err(broken)
        })?;
        // Its standard output is closed: it is ending, or was killed.
        let child = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let status = child.map(|mut child| child.wait()).ok_or_else(|| broken("it has vanished"))?;
        let stderr = String::from_utf8_lossy(&complained).trim().to_owned();
        Ok(Ended { status: status.map_err(broken)?, stderr })
    }

    /// Runs a program that reads nothing.
    pub(crate) fn call(&self, program: &Path, args: &[OsString]) -> Result<Ended> {
        self.run(program, args, std::iter::empty(), |_| ())
    }

    /// Imports rows from where the stream stands by `plimsoll import --ack`, and notes what was acknowledged:
    /// `batches` of them, or without an end.
    pub(crate) fn import(
        &self,
        plimsoll: &Path,
        db: &Path,
        stream: &mut Stream,
        batch_size: u64,
        batches: Option<u64>,
    ) -> Result<Ended> {
        let size = batch_size.to_string();
        let args = words(&["import"], db, &[&stream.name(), "-", "--ack", "--batch-size", &size]);
        let (from, rows) = (stream.acknowledged, stream.clone());
        let end = batches.map_or(u64::MAX, |batches| from + batches * batch_size);
        let lines = (from..end).map(move |row| rows.line(row));
        stream.attempt(from + batch_size);
        self.run(plimsoll, &args, lines, |line| self.heard(stream, from, batch_size, end, line))
    }

    /// As [`Runner::import`], by this program with small memtables.
    pub(crate) fn churn(
        &self,
        own: &Path,
        db: &Path,
        stream: &mut Stream,
        batch_size: u64,
        batches: Option<u64>,
    ) -> Result<Ended> {
        let from = stream.acknowledged;
        let end = batches.map_or(u64::MAX, |batches| from + batches * batch_size);
        let [seed, number, keys] = stream.origin().map(|number| number.to_string());
        let (first, size) = (from.to_string(), batch_size.to_string());
        let numbers = [&number, "--seed", &seed, "--keys", &keys, "--from", &first, "--batch-size", &size];
        let mut args = words(&["churn"], db, &numbers);
        args.extend(batches.map(|batches| format!("--batches={batches}").into()));
        stream.attempt(from + batch_size);
        self.run(own, &args, std::iter::empty(), |line| self.heard(stream, from, batch_size, end, line))
    }

    /// Notes an acknowledgement, and that the next batch may follow.
    fn heard(&self, stream: &mut Stream, from: u64, batch_size: u64, end: u64, line: &str) {
        let rows = line.strip_prefix("ACK ").and_then(|rows| rows.parse::<u64>().ok());
        if let Some(rows) = rows {
            match self.is_cut.load(Ordering::SeqCst) {
                false => stream.acknowledge(from + rows),
                true => stream.acknowledge_late(from + rows),
            }
            stream.attempt(end.min(from + rows + batch_size));
        }
    }
}

/// Arguments with a database's directory among them.
pub(crate) fn words(before: &[&str], db: &Path, after: &[&str]) -> Vec<OsString> {
    let (before, after) = (before.iter().map(OsString::from), after.iter().map(OsString::from));
    before.chain([db.into()]).chain(after).collect()
}
