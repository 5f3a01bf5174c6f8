//! Several files and streams, one after the other, as one sequence of lines.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::fingerprint::Fingerprint;
use super::line::{Line, LineReader, MAX_LINE_BYTES, Within};
use super::place::{Last, Place, Start};
use super::{Follow, InputError};

const BUFFER_BYTES: usize = 1 << 18;

/// Something that has lines.
pub enum Input {
    /// A file. One that is no regular file (a pipe, say) is read as a stream.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// Any other stream, with a name for messages.
    Stream(String, Box<dyn Read + Send>),
}

impl Input {
    /// The input that an argument of a command line stands for: `-` is standard input.
    pub fn from_argument(argument: &Path) -> Self {
        if argument.as_os_str() == "-" { Self::Stdin } else { Self::File(argument.to_owned()) }
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
            Self::Stream(name, _) => name.clone(),
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({})", self.name())
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A line.
    Line(Line),
    /// Nothing yet, from a file that is followed.
    Idle,
    /// Nothing any more.
    End,
}

/// The lines of several inputs in order, with positions from 0 over all of them.
///
/// Files but the last one must stay as they are: their length is taken when they are opened, and what they are is part
/// of every later [`Place`]. The last one may grow, while it is read and afterwards, and inputs may be added behind it.
/// If its last line had no line end when it was read and has grown since, the whole line is read again, as a line more.
///
/// Takes the memory of one line.
pub struct Inputs {
    inputs: Vec<Input>,
    limit: usize,
    follow: Option<(Arc<AtomicBool>, Duration)>,
    /// In which of them the reader is.
    file: usize,
    current: Current,
    /// Where the next line begins, while `current` is none.
    start: Start,
    before: Option<Fingerprint>,
    /// How many bytes the files before this one have.
    bytes_before: u64,
    fingerprint: Option<Option<Fingerprint>>,
}

type FileLines = LineReader<Take<BufReader<File>>>;

enum Current {
    None,
    File { lines: FileLines, end: Option<u64> },
    Follow(Box<Follow>),
    Stream(LineReader<Box<dyn BufRead + Send>>),
}

impl Inputs {
    /// The lines of `inputs`, from the beginning. Nothing is opened yet.
    pub fn new(inputs: impl IntoIterator<Item = Input>) -> Self {
        Self {
            inputs: inputs.into_iter().collect(),
            limit: MAX_LINE_BYTES,
            follow: None,
            file: 0,
            current: Current::None,
            start: Start::default(),
            before: None,
            bytes_before: 0,
            fingerprint: None,
        }
    }

    /// Sets how many bytes a line may have, its end not counted; [`MAX_LINE_BYTES`] unless set.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Follows the last input, if it is a file, until `stop` is set ([`Follow`]); it is looked at again after each
    /// `interval` in which nothing came. Streams wait for what comes anyway.
    #[must_use]
    pub fn follow(mut self, stop: Arc<AtomicBool>, interval: Duration) -> Self {
        self.follow = Some((stop, interval));
        self
    }

    /// The fingerprint of the first input, by which a source knows its inputs again. `None` while there is nothing in
    /// it: an empty source fits any cursor.
    ///
    /// Of a stream this waits for the first line, or 64 KiB; these are not lost.
    ///
    /// # Errors
    /// If the input can not be read.
    pub fn fingerprint(&mut self) -> Result<Option<Fingerprint>, InputError> {
        if let Some(known) = self.fingerprint {
            return Ok(known);
        }
        let Some(input) = self.inputs.first_mut() else { return Ok(None) };
        let name = input.name();
        let found = match regular(input) {
            Ok(Some(path)) => file_fingerprint(&path),
            Ok(None) => peek(input),
            Err(error) => Err(error),
        };
        let found = found.map_err(|error| InputError::io(name, error))?;
        // A file that is empty now may have a fingerprint later.
        if found.is_some() {
            self.fingerprint = Some(found);
        }
        Ok(found)
    }

    /// Goes on at a place: after the lines that were read before it. To be called before anything was read.
    ///
    /// In files this reads the line before the place, and the beginnings of the files before; a stream is read up to the
    /// place, which is why it must bring the same lines again.
    ///
    /// # Errors
    /// [`InputError::Changed`] if what lies before the place is not what it was, and others if it can not be read.
    pub fn resume(&mut self, place: &Place) -> Result<(), InputError> {
        if *place == Place::default() {
            return Ok(());
        }
        if place.file >= self.inputs.len() {
            let (file, inputs) = (place.file, self.inputs.len());
            let what = format!("the place is in number {file}, counted from 0, and there are {inputs}");
            return Err(InputError::changed("the list of inputs", what));
        }
        (self.before, self.bytes_before) = (None, 0);
        for file in 0..place.file {
            self.pass(file, None)?;
        }
        if self.before != place.before {
            let name = self.inputs[place.file.saturating_sub(1)].name();
            let what = "it, or one of the inputs before it, is not what it was when it was read; files that grow can \
                        be read as the last one, or as a source each";
            return Err(InputError::changed(name, what));
        }
        self.file = place.file;
        let first = place.last.map_or(place.start(), |last| Start {
            offset: last.start,
            line: place.line.saturating_sub(1),
            position: place.position.saturating_sub(1),
        });
        self.start = first;
        self.open(place.end, place.last.is_some())?;
        let Some(last) = place.last else { return Ok(()) };
        self.pass_last(place, last)
    }

    /// Reads the line before the place once more, and compares.
    fn pass_last(&mut self, place: &Place, last: Last) -> Result<(), InputError> {
        let name = self.inputs[self.file].name();
        let line = match &mut self.current {
            Current::File { lines, .. } => lines.next_line(),
            Current::Stream(lines) => lines.next_line(),
            Current::None | Current::Follow(_) => Ok(None),
        };
        let line = line.map_err(|error| InputError::io(&name, error))?;
        let missing = || InputError::changed(&name, format!("its line {} is no longer there", place.line));
        let line = line.ok_or_else(missing)?;
        let found = line.last();
        let is_same = found.hash == last.hash && found.length == last.length && line.start == last.start;
        if is_same && (!last.ended || line.end == place.offset) {
            return Ok(());
        }
        let length = usize::try_from(last.length).unwrap_or(usize::MAX);
        let had = line.bytes.get(..length).map(Fingerprint::of);
        if !last.ended && line.start == last.start && had == Some(last.hash) {
            // It was read before its writer had finished it. The whole of it is a line more.
            return self.again(&line, place);
        }
        let what = format!("its line {}, the last one that was read, is another one now", place.line);
        Err(InputError::changed(name, what))
    }

    /// Goes back to the beginning of a line, which gets the position of the place.
    fn again(&mut self, line: &Line, place: &Place) -> Result<(), InputError> {
        let start = Start { offset: line.start, line: line.number, position: place.position };
        self.start = start;
        let Current::Stream(lines) = std::mem::replace(&mut self.current, Current::None) else {
            return self.open(place.end, false);
        };
        // There is no going back in a stream: the line is put before the rest of it.
        let mut bytes = line.bytes.to_vec();
        let end: &[u8] = match line.end - line.start - bytes.len() as u64 {
            0 => b"",
            1 => b"\n",
            2 => b"\r\n",
            _ => {
                let what =
                    "its last line had no end when it was read, and is now longer than what is kept of one";
                return Err(InputError::changed(self.inputs[self.file].name(), what));
            }
        };
        bytes.extend_from_slice(end);
        let again: Box<dyn BufRead + Send> = Box::new(Cursor::new(bytes).chain(lines.into_reader()));
        let within = Arc::new(Within { file: self.file, before: self.before, end: None });
        self.current = Current::Stream(LineReader::at(again, start).limit(self.limit).within(within));
        Ok(())
    }

    /// The next line.
    ///
    /// # Errors
    /// If an input can not be opened or read, or has changed while it was read. Another call tries again.
    pub fn next_line(&mut self) -> Result<Next, InputError> {
        while self.file < self.inputs.len() {
            if matches!(self.current, Current::None) {
                self.open(None, false)?;
            }
            self.turn_to_following();
            let name = || self.inputs[self.file].name();
            let line = match &mut self.current {
                Current::Follow(follow) => return follow.next_line(),
                Current::File { lines, .. } => lines.next_line(),
                Current::Stream(lines) => lines.next_line(),
                Current::None => Ok(None),
            };
            if let Some(line) = line.map_err(|error| InputError::io(name(), error))? {
                return Ok(Next::Line(line));
            }
            if self.file + 1 == self.inputs.len() {
                break;
            }
            let end = match &self.current {
                Current::File { lines, end } => end.map(|end| (end, lines.start().offset)),
                _ => None,
            };
            if let Some((end, read)) = end.filter(|(end, read)| end != read) {
                let what = format!("it had {end} bytes when it was opened, and {read} when it was read");
                return Err(InputError::changed(name(), what));
            }
            let position = self.position();
            self.pass(self.file, end.map(|(end, _)| end))?;
            self.file += 1;
            self.current = Current::None;
            self.start = Start { offset: 0, line: 0, position };
        }
        Ok(Next::End)
    }

    /// How many lines were read over all inputs: the position of the next one.
    pub fn position(&self) -> u64 {
        match &self.current {
            Current::None => self.start.position,
            Current::File { lines, .. } => lines.start().position,
            Current::Stream(lines) => lines.start().position,
            Current::Follow(follow) => follow.start().position,
        }
    }

    /// How many bytes were read over all inputs.
    pub fn bytes(&self) -> u64 {
        self.bytes_before
            + match &self.current {
                Current::None => self.start.offset,
                Current::File { lines, .. } => lines.start().offset,
                Current::Stream(lines) => lines.start().offset,
                Current::Follow(follow) => follow.start().offset,
            }
    }

    /// How many bytes the inputs have now, if all of them are files. Looks at each of them.
    pub fn total_bytes(&self) -> Option<u64> {
        let length = |input: &Input| match input {
            Input::File(path) => {
                path.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len())
            }
            Input::Stdin | Input::Stream(..) => None,
        };
        self.inputs.iter().map(length).sum()
    }

    /// What the inputs are called, in order.
    pub fn names(&self) -> Vec<String> {
        self.inputs.iter().map(Input::name).collect()
    }

    /// A file that is followed is read with [`Follow`] from its first line on.
    fn turn_to_following(&mut self) {
        let Some((stop, interval)) = &self.follow else { return };
        if self.file + 1 < self.inputs.len() || !matches!(self.current, Current::File { .. }) {
            return;
        }
        let (stop, interval) = (Arc::clone(stop), *interval);
        let current = std::mem::replace(&mut self.current, Current::None);
        self.current = match (current, &self.inputs[self.file]) {
            (Current::File { lines, .. }, Input::File(path)) => {
                Current::Follow(Box::new(Follow::with(path.clone(), lines, self.limit, stop, interval)))
            }
            (other, _) => other,
        };
    }

    pub(super) fn into_follow(mut self) -> Result<Follow, InputError> {
        self.open(None, false)?;
        self.turn_to_following();
        match self.current {
            Current::Follow(follow) => Ok(*follow),
            _ => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
                Err(InputError::io(self.names().concat(), error))
            }
        }
    }

    /// Counts an input that was read to its end, which is `end` if that is known.
    fn pass(&mut self, file: usize, end: Option<u64>) -> Result<(), InputError> {
        let input = &self.inputs[file];
        let named = |error| InputError::io(input.name(), error);
        let (fingerprint, length) = match regular(input).map_err(named)? {
            Some(path) => {
                let length = match end {
                    Some(end) => end,
                    None => path.metadata().map_err(named)?.len(),
                };
                (file_fingerprint(&path).map_err(named)?, Some(length))
            }
            None => (None, None),
        };
        self.before = Some(Fingerprint::followed_by(self.before, fingerprint, length));
        self.bytes_before += length.unwrap_or(0);
        Ok(())
    }

    /// Opens the input that it is the turn of, at `self.start`. `end` is how long it was when it was read before.
    fn open(&mut self, end: Option<u64>, is_checked: bool) -> Result<(), InputError> {
        let name = self.inputs[self.file].name();
        let is_last = self.file + 1 == self.inputs.len();
        let failed = |error| InputError::io(&name, error);
        let path = regular(&self.inputs[self.file]).map_err(failed)?;
        let Some(path) = path else {
            let reader = stream(&mut self.inputs[self.file]).map_err(failed)?;
            let within = Arc::new(Within { file: self.file, before: self.before, end: None });
            return self.open_stream(reader, within, &name);
        };
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if let Some(end) = end.filter(|&end| end != length) {
            return Err(InputError::changed(&name, format!("it had {end} bytes, and has {length} now")));
        }
        if length < self.start.offset || is_checked && length == self.start.offset {
            let read = self.start.offset;
            let what = format!("{read} bytes and more were read of it, and it has {length} now");
            return Err(InputError::changed(&name, what));
        }
        let end = (!is_last).then_some(length);
        let lines = lines_from(file, self.start, end.unwrap_or(u64::MAX)).map_err(failed)?;
        let within = Arc::new(Within { file: self.file, before: self.before, end });
        self.current = Current::File { lines: lines.limit(self.limit).within(within), end };
        Ok(())
    }

    /// Reads a stream up to `self.start`.
    fn open_stream(
        &mut self,
        reader: Box<dyn BufRead + Send>,
        within: Arc<Within>,
        name: &str,
    ) -> Result<(), InputError> {
        let (wanted, position) = (self.start.line, self.start.position);
        let start = Start { offset: 0, line: 0, position: position - wanted.min(position) };
        let mut lines = LineReader::at(reader, start).limit(self.limit).within(within);
        while lines.start().line < wanted {
            if lines.next_line().map_err(|error| InputError::io(name, error))?.is_none() {
                let (there, wanted) = (lines.start().line, wanted + 1);
                let what = format!("{wanted} lines were read of it, and it has {there} now");
                return Err(InputError::changed(name, what));
            }
        }
        self.current = Current::Stream(lines);
        Ok(())
    }
}

/// The lines of a file from `start` on, up to byte `end`.
pub(super) fn lines_from(mut file: File, start: Start, end: u64) -> io::Result<FileLines> {
    file.seek(SeekFrom::Start(start.offset))?;
    let reader = BufReader::with_capacity(BUFFER_BYTES, file);
    Ok(LineReader::at(reader.take(end.saturating_sub(start.offset)), start))
}

/// The path of an input that can be read from any place on.
fn regular(input: &Input) -> io::Result<Option<PathBuf>> {
    let Input::File(path) = input else { return Ok(None) };
    let metadata = path.metadata()?;
    match () {
        () if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        () if metadata.is_file() => Ok(Some(path.clone())),
        () => Ok(None),
    }
}

fn file_fingerprint(path: &Path) -> io::Result<Option<Fingerprint>> {
    Fingerprint::read(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?), &mut Vec::new())
}

/// Opens a stream; it can be had once.
fn stream(input: &mut Input) -> io::Result<Box<dyn BufRead + Send>> {
    let name = input.name();
    let gone = || Input::Stream(name, Box::new(io::empty()));
    let reader: Box<dyn Read + Send> = match std::mem::replace(input, gone()) {
        Input::File(path) => Box::new(File::open(path)?),
        Input::Stdin => Box::new(io::stdin()),
        Input::Stream(_, reader) => reader,
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, reader)))
}

/// The fingerprint of a stream, from which nothing is taken.
fn peek(input: &mut Input) -> io::Result<Option<Fingerprint>> {
    let name = input.name();
    let mut reader = stream(input)?;
    let mut taken = Vec::new();
    let found = Fingerprint::read(&mut reader, &mut taken);
    *input = Input::Stream(name, Box::new(Cursor::new(taken).chain(reader)));
    found
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, position) = (self.file, self.position());
        f.debug_struct("Inputs")
            .field("inputs", &self.inputs)
            .field("file", &file)
            .field("position", &position)
            .finish()
    }
}
