//! Lines of JSON from a stream, one at a time.

use std::io::{BufRead, Read as _};

use plimsoll_lines::parse_line;

use super::{InputError, Place, Problem, Row, Rows};

/// The longest line: enough for a text of the largest size with every character escaped, and for tens of
/// millions of bytes of vectors; short enough that a file without line ends can not fill the memory.
pub(crate) const MAX_LINE_BYTES: usize = 256 << 20;

/// The lines of a stream that are not blank, with their numbers from 1.
pub(crate) struct Lines<R> {
    reader: R,
    pub(super) name: String,
    buffer: Vec<u8>,
    number: u64,
    limit: usize,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R, name: String) -> Self {
        Self { reader, name, buffer: Vec::new(), number: 0, limit: MAX_LINE_BYTES }
    }

    /// The next line that holds anything, and its number.
    pub(crate) fn next_line(&mut self) -> Result<Option<(u64, &str)>, InputError> {
        loop {
            self.number += 1;
            match self.read_line() {
                Ok(false) => return Ok(None),
                Ok(true) if self.buffer.trim_ascii().is_empty() => {}
                Ok(true) => break,
                Err(problem) => return Err(self.error(problem)),
            }
        }
        let bytes = match self.number {
            1 => self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer),
            _ => &self.buffer,
        };
        match std::str::from_utf8(bytes) {
            Ok(line) => Ok(Some((self.number, line))),
            Err(error) => {
                let what = format!("not UTF-8 at byte {} of the line", error.valid_up_to());
                Err(self.error(Problem::malformed(what)))
            }
        }
    }

    /// Reads a line into the buffer; false at the end of the stream.
    fn read_line(&mut self) -> Result<bool, Problem> {
        self.buffer.clear();
        let mut limited = self.reader.by_ref().take(self.limit as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(|error| Problem::io(&error))?;
        if read > self.limit && self.buffer.last() != Some(&b'\n') {
            let what = format!("the line is longer than {} bytes", self.limit);
            return Err(Problem::new("line_too_long", what));
        }
        Ok(read > 0)
    }

    fn error(&self, problem: Problem) -> InputError {
        InputError::at(&self.name, Place::Line(self.number), problem)
    }
}

/// The rows of a stream of JSON lines.
pub(crate) struct JsonLines<R> {
    lines: Lines<R>,
}

impl<R: BufRead> JsonLines<R> {
    pub(crate) fn new(reader: R, name: String) -> Self {
        Self { lines: Lines::new(reader, name) }
    }
}

impl<R: BufRead> Rows for JsonLines<R> {
    fn next_row(&mut self) -> Result<Option<Row>, InputError> {
        let Some((number, line)) = self.lines.next_line()? else { return Ok(None) };
        let place = Place::Line(number);
        match parse_line(line) {
            Ok(operation) => Ok(Some(Row { place, operation })),
            Err(problem) => Err(InputError::at(&self.lines.name, place, problem.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> JsonLines<&[u8]> {
        JsonLines::new(text, "in".to_owned())
    }

    #[test]
    fn blank_lines_count_but_hold_nothing() {
        let text = b"\xef\xbb\xbf{\"id\":1,\"vector\":[1]}\r\n\n \t\n{\"id\":2,\"vector\":[1]}";
        let mut rows = lines(text);
        assert_eq!(rows.next_row().unwrap().unwrap().place, Place::Line(1));
        assert_eq!(rows.next_row().unwrap().unwrap().place, Place::Line(4));
        assert_eq!(rows.next_row(), Ok(None));
        assert_eq!(rows.next_row(), Ok(None));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let mut rows = lines(b"{\"id\":1,\"vector\":[1]}\n{\"id\":1");
        rows.next_row().unwrap();
        let error = rows.next_row().unwrap_err();
        assert!(error.to_string().starts_with("in: line 2: malformed JSON"), "{error}");
        let error = lines(b"{\"id\":\"\xff\"").next_row().unwrap_err();
        assert_eq!(error.to_string(), "in: line 1: not UTF-8 at byte 7 of the line");
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_not_longer() {
        let mut rows = Lines::new(&b"1234\n12345\n123456\n"[..], "in".to_owned());
        rows.limit = 5;
        assert_eq!(rows.next_line().unwrap().unwrap(), (1, "1234\n"));
        assert_eq!(rows.next_line().unwrap().unwrap(), (2, "12345\n"));
        assert_eq!(rows.next_line().unwrap_err().kind, "line_too_long");
        let mut rows = Lines::new(&b"123456"[..], "in".to_owned());
        rows.limit = 5;
        assert_eq!(rows.next_line().unwrap_err().place, Place::Line(1));
    }
}
