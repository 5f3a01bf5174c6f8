//! Reading files of a model's directory with a limit, and failures that name them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use plimsoll_ingest::{Failure, FailureClass};

/// What is wrong with a file's contents.
pub(crate) fn invalid(path: &Path, what: &str) -> Failure {
    Failure::new(FailureClass::Validation, format!("{} {what}", path.display()))
}

/// Why a file can not be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureClass::FileSystem, format!("{} can not be read: {error}", path.display()))
}

/// A file of at most `limit` bytes, ready to be read. It may still grow.
///
/// # Errors
/// [`FailureClass::FileSystem`] when it is missing, is no file or can not be opened, [`FailureClass::Validation`] when it
/// is longer.
pub(crate) fn open(path: &Path, limit: u64) -> Result<File, Failure> {
    let failed = |error: &io::Error| unreadable(path, error);
    // Asked before it is opened: opening a pipe would wait for whoever writes into it.
    let metadata = std::fs::metadata(path).map_err(|error| failed(&error))?;
    if !metadata.is_file() {
        return Err(failed(&io::Error::other("it is not a regular file")));
    }
    if metadata.len() > limit {
        return Err(too_long(path, limit));
    }
    File::open(path).map_err(|error| failed(&error))
}

/// Says that a file is longer than what is read of it.
pub(crate) fn too_long(path: &Path, limit: u64) -> Failure {
    invalid(path, &format!("has more than {limit} bytes"))
}

/// The bytes of a file of at most `limit` bytes.
///
/// # Errors
/// [`FailureClass::FileSystem`] when it is missing or can not be read, [`FailureClass::Validation`] when it is longer.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let file = open(path, limit)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > limit {
        return Err(too_long(path, limit));
    }
    Ok(bytes)
}

/// The same for a file that need not be there.
pub(crate) fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
    match path.try_exists() {
        Ok(true) => read(path, limit).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}
