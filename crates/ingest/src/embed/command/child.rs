//! A child process with a line in and a line out.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use crate::failure::FailureClass;

/// How much of one line of standard error is shown.
const STDERR_LINE: u64 = 4 << 10;

/// A running child. Dropping it kills and reaps it, with all that it has started.
pub(super) struct Child {
    process: std::process::Child,
    requests: Sender<Vec<u8>>,
    answers: Receiver<Result<Vec<u8>, ChildError>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChildError {
    /// It could not be started because there is no such program, or it may not be run.
    #[error("can not be started: {0}")]
    NoProgram(String),
    /// It could not be started for another reason.
    #[error("can not be started: {0}")]
    Start(String),
    /// Its output ended.
    #[error("has ended without an answer")]
    Died,
    /// A line came before there was a question.
    #[error("gave a line that nobody had asked for, and was killed")]
    Unasked,
    /// No answer came in time.
    #[error("gave no answer in {0:?}, and was killed")]
    Timeout(Duration),
    /// A line is longer than any answer.
    #[error("gave a line of more than {0} bytes, and was killed")]
    TooLong(usize),
}

impl ChildError {
    /// What it means for trying again.
    pub(super) fn class(&self) -> FailureClass {
        match self {
            Self::NoProgram(_) => FailureClass::Validation,
            Self::Start(_) | Self::Died | Self::Unasked => FailureClass::Unknown,
            Self::Timeout(_) => FailureClass::Timeout,
            Self::TooLong(_) => FailureClass::Memory,
        }
    }
}

impl Child {
    /// Starts a program, whose answers have at most `line_bytes` bytes.
    pub(super) fn start(command: &[String], line_bytes: usize) -> Result<Self, ChildError> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| ChildError::NoProgram("no name".into()))?;
        let mut builder = Command::new(program);
        builder.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: an interrupt from the keyboard lets the batch in hand finish, and killing the group
        // reaches what a shell has started.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut builder, 0);
        let mut process = builder.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                ChildError::NoProgram(error.to_string())
            }
            _ => ChildError::Start(error.to_string()),
        })?;
        let (stdin, stdout, stderr) = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (requests, to_write) = channel::<Vec<u8>>();
        // One answer per request: more lines wait in the pipe, and are refused with the next request.
        let (to_read, answers) = sync_channel(1);
        let child = Self { process, requests, answers };
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.into()).spawn(work);
            spawned.map(drop).map_err(|error| ChildError::Start(error.to_string()))
        };
        if let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) {
            start(
                "embed-stdin",
                Box::new(move || {
                    // A child that does not read its input any more is found out by its output.
                    while let Ok(request) = to_write.recv() {
                        if stdin.write_all(&request).and_then(|()| stdin.flush()).is_err() {
                            break;
                        }
                    }
                }),
            )?;
            start("embed-stdout", Box::new(move || read_answers(stdout, &to_read, line_bytes)))?;
            start("embed-stderr", Box::new(move || show_errors(stderr)))?;
        }
        Ok(child)
    }

    /// Sends a line and waits for the next one.
    pub(super) fn exchange(&mut self, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, ChildError> {
        // What came without being asked for belongs to no request, and neither would what follows.
        match self.answers.try_recv() {
            Ok(Ok(_)) => return Err(ChildError::Unasked),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        if self.requests.send(request).is_err() {
            return Err(ChildError::Died);
        }
        match self.answers.recv_timeout(timeout) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(ChildError::Timeout(timeout)),
            Err(RecvTimeoutError::Disconnected) => Err(ChildError::Died),
        }
    }

    /// How it has ended, as far as that is known.
    pub(super) fn obituary(&mut self) -> String {
        self.kill();
        match self.process.wait() {
            Ok(status) => format!("has ended without an answer ({status})"),
            Err(_) => "has ended without an answer".into(),
        }
    }

    fn kill(&mut self) {
        // A child that has ended a moment ago says so; else it is killed. Errors mean that it is gone.
        if let Ok(Some(_)) = self.process.try_wait() {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        // Killed, it can not but end.
        let _ = self.process.wait();
    }
}

fn read_answers(stdout: ChildStdout, to: &SyncSender<Result<Vec<u8>, ChildError>>, limit: usize) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let answer = match (&mut reader).take(limit as u64 + 1).read_until(b'\n', &mut line) {
            Ok(_) if line.len() > limit => Err(ChildError::TooLong(limit)),
            Ok(_) if line.last() == Some(&b'\n') => Ok(line),
            // The end, or a line that the end has cut.
            Ok(_) | Err(_) => return,
        };
        let end = answer.is_err();
        if to.send(answer).is_err() || end {
            return;
        }
    }
}

fn show_errors(stderr: ChildStderr) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(STDERR_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tracing::warn!(target: "plimsoll::embed", "{}", String::from_utf8_lossy(&line).trim_end());
            }
        }
    }
}
