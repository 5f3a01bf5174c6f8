//! Contents of files and fields, as text: bounded, and only from where they may come.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};

use memchr::memchr;
use plimsoll::limits::MAX_TEXT_BYTES;

use super::InputError;
use crate::{Failure, FailureClass};

/// How long the text of one document may be: 16 MiB.
pub const MAX_CONTENT_BYTES: usize = MAX_TEXT_BYTES;

/// The files that lines may name: those below one directory.
///
/// A path is taken relative to that directory, or is an absolute one that begins with it. One with `..`, and one that a
/// symbolic link leads out of the directory, is refused: lines often come from somewhere else, and must not be able to
/// have `/etc/shadow` read. (`/` as the directory permits everything.) Someone who can change the directory while it is
/// read can still get around that.
#[derive(Debug, Clone)]
pub struct Files {
    base: Option<Base>,
}

#[derive(Debug, Clone)]
struct Base {
    given: PathBuf,
    real: PathBuf,
}

/// Why a file was not read, where that matters for what becomes of the line.
#[derive(Debug)]
pub(super) enum Unread {
    Directory(Failure),
    Other(Failure),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Directory(failure) | Unread::Other(failure) => failure,
        }
    }
}

impl Files {
    /// The files below `base`.
    ///
    /// # Errors
    /// If it is no directory, or can not be read.
    pub fn below(base: &Path) -> Result<Self, InputError> {
        let failed = |error| InputError::io(base.display().to_string(), error);
        let real = base.canonicalize().map_err(failed)?;
        if !real.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        Ok(Self { base: Some(Base { given: base.to_owned(), real }) })
    }

    /// No files: lines must bring their contents.
    pub fn none() -> Self {
        Self { base: None }
    }

    /// The text of the file at `path`.
    ///
    /// # Errors
    /// A failure of class file system if the file is not there or can not be read, memory if it is larger than
    /// [`MAX_CONTENT_BYTES`], encoding if it is binary or not UTF-8, validation if the path may not be read.
    pub fn read_text(&self, path: &str) -> Result<String, Failure> {
        Ok(self.read(path)?.0)
    }

    /// The text of the file at `path`, and what the file system says about that file.
    pub(super) fn read(&self, path: &str) -> Result<(String, Metadata), Unread> {
        let real = self.find(path).map_err(Unread::Other)?;
        let file = open(&real, Links::Refuse).map_err(|error| Unread::Other(unreadable(path, &error)))?;
        let metadata = file.metadata().map_err(|error| Unread::Other(unreadable(path, &error)))?;
        if metadata.is_dir() {
            let what = format!("{path} is a directory");
            return Err(Unread::Directory(Failure::new(FailureClass::Validation, what)));
        }
        if !metadata.is_file() {
            let what = format!("{path} is no regular file");
            return Err(Unread::Other(Failure::new(FailureClass::Validation, what)));
        }
        let bytes = read_bounded(path, &file, metadata.len()).map_err(Unread::Other)?;
        let text = text(path, bytes).map_err(Unread::Other)?;
        Ok((text, metadata))
    }

    /// Where the file really is, if it may be read.
    fn find(&self, path: &str) -> Result<PathBuf, Failure> {
        let refused = |what: String| Err(Failure::new(FailureClass::Validation, what));
        let Some(Base { given, real }) = &self.base else {
            return refused(format!(
                "{path} has no content with it, and no directory was given to read it from"
            ));
        };
        if path.is_empty() || path.contains('\0') {
            return refused(format!("{path:?} is no path of a file"));
        }
        let relative = Path::new(path);
        if relative.components().any(|part| part == Component::ParentDir) {
            return refused(format!("{path} has a .. in it; give a path below {}", given.display()));
        }
        let outside =
            || Failure::new(FailureClass::Validation, format!("{path} is not below {}", given.display()));
        if relative.has_root() && !relative.starts_with(given) && !relative.starts_with(real) {
            return Err(outside());
        }
        // An absolute path replaces what it is joined to.
        let found = real.join(relative).canonicalize().map_err(|error| unreadable(path, &error))?;
        if found.starts_with(real) { Ok(found) } else { Err(outside()) }
    }
}

/// A failure that names the file.
pub(super) fn unreadable(path: &str, error: &io::Error) -> Failure {
    let class = match error.kind() {
        ErrorKind::OutOfMemory => FailureClass::Memory,
        ErrorKind::TimedOut => FailureClass::Timeout,
        _ => FailureClass::FileSystem,
    };
    Failure::new(class, format!("{path}: {error}"))
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    Refuse,
}

/// Opens a file for reading, without waiting for whoever writes to it if it is a pipe.
pub(super) fn open(path: &Path, links: Links) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        let mut flags = OFlags::NONBLOCK;
        flags.set(OFlags::NOFOLLOW, links == Links::Refuse);
        options.custom_flags(flags.bits().cast_signed());
    }
    #[cfg(not(unix))]
    if links == Links::Refuse && path.symlink_metadata()?.is_symlink() {
        return Err(io::Error::other("it is a symbolic link"));
    }
    options.open(path)
}

/// All bytes of a file of about `length` bytes, if they are not too many.
pub(super) fn read_bounded(name: &str, file: &File, length: u64) -> Result<Vec<u8>, Failure> {
    check_length(name, length)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    let read = file.take(MAX_CONTENT_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, &error))?;
    check_length(name, bytes.len() as u64)?;
    Ok(bytes)
}

/// The first bytes of a file, at most `length`.
pub(super) fn read_beginning(name: &str, file: &File, length: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    Ok(bytes)
}

/// Whether `length` bytes are not too many.
pub(super) fn check_length(name: &str, length: u64) -> Result<(), Failure> {
    if length <= MAX_CONTENT_BYTES as u64 {
        return Ok(());
    }
    let what = format!("{name} has {length} bytes; at most {MAX_CONTENT_BYTES} are allowed");
    Err(Failure::new(FailureClass::Memory, what))
}

/// Where a zero byte is, which no text has and nearly every binary file.
pub(super) fn zero_byte(bytes: &[u8]) -> Option<usize> {
    memchr(0, bytes)
}

/// The text that these bytes are.
pub(super) fn text(name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    if let Some(at) = zero_byte(&bytes) {
        let what = format!("{name} is binary: its byte {at} is zero");
        return Err(Failure::new(FailureClass::Encoding, what));
    }
    String::from_utf8(bytes).map_err(|error| not_utf8(name, error.utf8_error()))
}

/// The text that these bytes are, where they stay.
pub(super) fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes).map_err(|error| not_utf8(name, error))
}

fn not_utf8(name: &str, error: std::str::Utf8Error) -> Failure {
    let what = format!("{name} is not UTF-8 at byte {}", error.valid_up_to());
    Failure::new(FailureClass::Encoding, what)
}
