//! Lines of a stream, one at a time, in bounded memory, each with the place after it.

use std::io::{self, BufRead, ErrorKind};
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr;

use super::fingerprint::Fingerprint;
use super::place::{Last, Place, Start};
use crate::{Failure, FailureClass};

/// How long a line may be unless something else is asked for: enough for a text of the largest size with every
/// character escaped.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// So much of a longer line is kept, to show which one it was.
pub const HEAD_BYTES: usize = 64 << 10;

/// Memory for lines is asked for in such pieces, so that not each line asks for its own.
const ROOM_BYTES: usize = 64 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What is the same for all lines of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Within {
    pub file: usize,
    pub before: Option<Fingerprint>,
    pub end: Option<u64>,
}

/// One line, whatever it holds: blank ones are lines, too, and so is what is no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number from 0 over all inputs.
    pub position: u64,
    /// Its number from 0 in its file.
    pub number: u64,
    /// Its bytes without the line end (`\n` or `\r\n`) and, at the beginning of a file, without the byte order mark. Of
    /// a line that is too long, the first [`HEAD_BYTES`]. Lines that were read together share their memory.
    pub bytes: Bytes,
    /// How many bytes it has, if they are more than `bytes`.
    pub too_long: Option<u64>,
    /// Where it begins in its file, in bytes.
    pub start: u64,
    /// Where the next one begins.
    pub end: u64,
    /// Whether it had a line end; only the last one of a file may have none.
    pub ended: bool,
    pub(super) limit: usize,
    pub(super) within: Arc<Within>,
}

impl Line {
    /// Its text.
    ///
    /// # Errors
    /// A failure of class encoding if it is not UTF-8, and of class memory if it is too long. What there is of it stays
    /// in `bytes`.
    pub fn text(&self) -> Result<&str, Failure> {
        if let Some(length) = self.too_long {
            let (limit, kept) = (self.limit, self.bytes.len());
            let what = format!(
                "the line has {length} bytes; at most {limit} are allowed, the first {kept} are kept"
            );
            return Err(Failure::new(FailureClass::Memory, what));
        }
        super::content::utf8("the line", &self.bytes)
    }

    /// Whether it holds nothing but white space.
    pub fn is_blank(&self) -> bool {
        self.too_long.is_none() && self.bytes.trim_ascii().is_empty()
    }

    /// Where reading goes on after this line.
    pub fn place(&self) -> Place {
        Place {
            position: self.position + 1,
            file: self.within.file,
            line: self.number + 1,
            offset: self.end,
            last: Some(self.last()),
            end: self.within.end,
            before: self.within.before,
        }
    }

    /// What is remembered of it, to know it again.
    pub(super) fn last(&self) -> Last {
        Last {
            start: self.start,
            length: self.too_long.unwrap_or(self.bytes.len() as u64),
            hash: Fingerprint::of(&self.bytes),
            ended: self.ended,
        }
    }
}

/// Reads lines from anything that can be read.
///
/// Takes the memory of one line, at most that of the longest one allowed and what the reader itself buffers.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    limit: usize,
    /// The place of the line that is being read.
    at: Start,
    /// What was read of it so far: all, or of a line that is too long its head.
    pending: BytesMut,
    /// How many bytes of it were read so far.
    length: u64,
    within: Arc<Within>,
}

impl<R: BufRead> LineReader<R> {
    /// Lines of at most [`MAX_LINE_BYTES`], where the reader stands at the beginning of a file.
    pub fn new(reader: R) -> Self {
        Self::at(reader, Start::default())
    }

    /// The same for a reader that stands somewhere else, at the beginning of a line.
    pub fn at(reader: R, at: Start) -> Self {
        Self {
            reader,
            limit: MAX_LINE_BYTES,
            at,
            pending: BytesMut::new(),
            length: 0,
            within: Arc::new(Within::default()),
        }
    }

    /// Sets how many bytes a line may have, its end not counted; 64 MiB unless set.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    pub(super) fn within(mut self, within: Arc<Within>) -> Self {
        self.within = within;
        self
    }

    /// The next line; `None` after the last one. What follows the last line end is a line, too, unless it is empty.
    ///
    /// # Errors
    /// If the reader fails. What was read of a line is kept, and another call goes on.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        Ok(self.complete_line()?.or_else(|| self.unfinished()))
    }

    /// The next line that has a line end. `None` if there is none yet: more may come, and another call then goes on.
    ///
    /// # Errors
    /// If the reader fails.
    pub fn complete_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(buffer) => buffer,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let found = memchr(b'\n', buffer);
            let taken = found.map_or(buffer.len(), |at| at + 1);
            self.length += taken as u64;
            // With a line end of two bytes, a line of just the allowed length has two more.
            if self.length <= self.limit as u64 + 2 {
                if self.pending.capacity() - self.pending.len() < taken {
                    self.pending.reserve(taken.max(ROOM_BYTES));
                }
                self.pending.extend_from_slice(&buffer[..taken]);
            } else {
                let head = HEAD_BYTES.min(self.limit);
                let missing = head.saturating_sub(self.pending.len()).min(taken);
                self.pending.extend_from_slice(&buffer[..missing]);
                if self.pending.len() > head {
                    self.pending = BytesMut::from(&self.pending[..head]);
                }
            }
            self.reader.consume(taken);
            if found.is_some() {
                return Ok(Some(self.take(true)));
            }
        }
    }

    /// What was read of a line without an end, as a line; `None` if that is nothing.
    pub fn unfinished(&mut self) -> Option<Line> {
        (self.length > 0).then(|| self.take(false))
    }

    /// Where the next line begins. What was read of a line without an end lies behind that.
    pub fn start(&self) -> Start {
        self.at
    }

    /// How many bytes of the file were read, those of an unfinished line among them.
    pub fn read_to(&self) -> u64 {
        self.at.offset + self.length
    }

    pub(super) fn reader(&self) -> &R {
        &self.reader
    }

    /// The reader, which stands at the beginning of a line unless there is an unfinished one.
    pub(super) fn into_reader(self) -> R {
        self.reader
    }

    pub(super) fn within_of(&self) -> Arc<Within> {
        Arc::clone(&self.within)
    }

    fn take(&mut self, ended: bool) -> Line {
        let mut bytes = self.pending.split().freeze();
        let length = std::mem::take(&mut self.length);
        let Start { offset: start, line: number, position } = self.at;
        let end = start + length;
        self.at = Start { offset: end, line: number + 1, position: position + 1 };
        let mut content = length - u64::from(ended);
        let is_whole = length <= self.limit as u64 + 2;
        if is_whole && ended {
            bytes.truncate(bytes.len() - 1);
            if bytes.last() == Some(&b'\r') {
                bytes.truncate(bytes.len() - 1);
            }
            content = bytes.len() as u64;
        }
        let too_long = (content > self.limit as u64).then_some(content);
        if too_long.is_some() {
            bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(HEAD_BYTES).min(self.limit)]);
        }
        if start == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.advance(BYTE_ORDER_MARK.len());
        }
        let within = Arc::clone(&self.within);
        Line { position, number, bytes, too_long, start, end, ended, limit: self.limit, within }
    }
}
