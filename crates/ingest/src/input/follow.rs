//! Following a file that grows, as `tail -F` does.

use std::fs::{File, Metadata};
use std::io::{BufReader, ErrorKind, Take};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::inputs::{self, Next};
use super::line::LineReader;
use super::place::Start;
use super::{Input, InputError};

/// How often a sleeping follower looks whether it is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(20);

/// The lines of a file that grows.
///
/// A line is taken when its end is there. When the file gets shorter (truncation), or when another file has taken over
/// its name (rotation), what is left of the old contents is read to its end, the rest without a line end as a line of
/// its own, and reading goes on at the beginning of the new contents; positions go on, too. Of a file that was replaced,
/// the old one is read until nothing has come for one interval, because its writer may not know yet. While nothing has
/// that name, it is waited for.
///
/// Not noticed is a file that was truncated and, between two looks, grew beyond what was read of it; nor are files that
/// had the name only between two looks. Where the operating
/// system does not tell one file from another (anywhere but Unix), a replacement is noticed only if it is shorter.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    reader: LineReader<Take<BufReader<File>>>,
    limit: usize,
    stop: Arc<AtomicBool>,
    interval: Duration,
    /// Another file has the name: once more, and this one is done.
    replaced: bool,
}

impl Follow {
    /// Follows the file from its beginning, in which lines have at most `limit` bytes.
    ///
    /// It is looked at again after each `interval` in which nothing came, until `stop` is set.
    ///
    /// # Errors
    /// If the file can not be opened.
    pub fn open(
        path: &Path,
        limit: usize,
        stop: Arc<AtomicBool>,
        interval: Duration,
    ) -> Result<Self, InputError> {
        let mut inputs = inputs::Inputs::new([Input::File(path.to_owned())]).limit(limit);
        inputs = inputs.follow(stop, interval);
        inputs.into_follow()
    }

    pub(super) fn with(
        path: PathBuf,
        reader: LineReader<Take<BufReader<File>>>,
        limit: usize,
        stop: Arc<AtomicBool>,
        interval: Duration,
    ) -> Self {
        Self { path, reader, limit, stop, interval, replaced: false }
    }

    /// Where the next line begins, in the file that has the name now.
    pub fn start(&self) -> Start {
        self.reader.start()
    }

    /// The next line; [`Next::Idle`] if none has come for an interval, which is when a caller may finish what it has;
    /// [`Next::End`] once it is to stop. A last line without its end is then left for another time.
    ///
    /// # Errors
    /// If the file can not be read, or the one that has taken its name can not be opened.
    pub fn next_line(&mut self) -> Result<Next, InputError> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Next::End);
        }
        if let Some(line) = self.reader.complete_line().map_err(|error| self.failed(error))? {
            // Whoever writes to a file that was replaced has not noticed yet.
            self.replaced = false;
            return Ok(Next::Line(line));
        }
        let open = self.file().metadata().map_err(|error| self.failed(error))?;
        if open.len() < self.reader.read_to() {
            let file = self.file().try_clone().map_err(|error| self.failed(error))?;
            return self.begin(file);
        }
        let named = match std::fs::metadata(&self.path) {
            Ok(named) => Some(named),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(self.failed(error)),
        };
        let is_other = named.is_some_and(|named| identity(&named) != identity(&open));
        if is_other && self.replaced {
            match File::open(&self.path) {
                Ok(file) => return self.begin(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.replaced = is_other;
        self.wait();
        Ok(Next::Idle)
    }

    /// Goes on at the beginning of `file`, after what is left of the one before.
    fn begin(&mut self, file: File) -> Result<Next, InputError> {
        let left = self.reader.unfinished();
        let at = Start { offset: 0, line: 0, position: self.reader.start().position };
        let opened = inputs::lines_from(file, at, u64::MAX).map_err(|error| self.failed(error))?;
        let within = self.reader.within_of();
        self.reader = opened.limit(self.limit).within(within);
        self.replaced = false;
        match left {
            Some(line) => Ok(Next::Line(line)),
            None => self.next_line(),
        }
    }

    fn wait(&self) {
        let until = Instant::now() + self.interval;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(left.min(STOP_INTERVAL));
        }
    }

    fn file(&self) -> &File {
        self.reader.reader().get_ref().get_ref()
    }

    fn failed(&self, error: std::io::Error) -> InputError {
        InputError::io(self.path.display().to_string(), error)
    }
}

/// What tells one file from another, whatever they are called.
#[cfg(unix)]
pub(super) fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
pub(super) fn identity(_metadata: &Metadata) -> Option<(u64, u64)> {
    None
}
