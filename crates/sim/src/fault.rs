//! Calls that fail on request: which ones, with what error, and what they had done by then.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::OperationKind;

/// How a call fails.
///
/// ```
/// use plimsoll_sim::Failure;
/// use std::io::ErrorKind;
///
/// let nothing_done = Failure::from(ErrorKind::StorageFull);
/// let a_short_write = Failure::errno(5).after_bytes(100);
/// let done_but_denied = Failure::from(ErrorKind::TimedOut).although_done();
/// # let _ = (nothing_done, a_short_write, done_but_denied);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    error: Error,
    done: Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Error {
    Kind(io::ErrorKind),
    Errno(i32),
    /// None: the call takes this long.
    Slow(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Nothing,
    Bytes(u64),
    All,
}

impl From<io::ErrorKind> for Failure {
    fn from(kind: io::ErrorKind) -> Self {
        Self { error: Error::Kind(kind), done: Done::Nothing }
    }
}

impl Failure {
    /// Fails with an error number of the operating system, such as 5 for `EIO`.
    #[must_use]
    pub fn errno(errno: i32) -> Self {
        Self { error: Error::Errno(errno), done: Done::Nothing }
    }

    /// Does not fail, but takes that long, and all calls after it wait.
    #[must_use]
    pub fn slow(time: Duration) -> Self {
        Self { error: Error::Slow(time), done: Done::All }
    }

    /// An append writes its first `bytes` bytes before it fails. Other calls do nothing.
    #[must_use]
    pub fn after_bytes(self, bytes: u64) -> Self {
        Self { done: Done::Bytes(bytes), ..self }
    }

    /// The call takes its whole effect and then reports the error: the caller can't know the outcome.
    #[must_use]
    pub fn although_done(self) -> Self {
        Self { done: Done::All, ..self }
    }

    pub(crate) fn error(self) -> io::Error {
        match self.error {
            Error::Kind(kind) => kind.into(),
            Error::Errno(errno) => io::Error::from_raw_os_error(errno),
            Error::Slow(_) => io::ErrorKind::TimedOut.into(),
        }
    }

    pub(crate) fn is_done(self) -> bool {
        self.done == Done::All
    }

    /// How many of the `length` bytes of an append are written.
    pub(crate) fn written(self, length: usize) -> usize {
        match self.done {
            Done::Nothing => 0,
            Done::Bytes(bytes) => length.min(usize::try_from(bytes).unwrap_or(usize::MAX)),
            Done::All => length,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            Error::Slow(_) => return f.write_str("slow"),
            Error::Kind(kind) => write!(f, "{kind:?}")?,
            Error::Errno(4) => f.write_str("EINTR")?,
            Error::Errno(5) => f.write_str("EIO")?,
            Error::Errno(13) => f.write_str("EACCES")?,
            Error::Errno(24) => f.write_str("EMFILE")?,
            Error::Errno(28) => f.write_str("ENOSPC")?,
            Error::Errno(30) => f.write_str("EROFS")?,
            Error::Errno(122) => f.write_str("EDQUOT")?,
            Error::Errno(errno) => write!(f, "errno {errno}")?,
        }
        match self.done {
            Done::Nothing => Ok(()),
            Done::Bytes(_) => f.write_str(", short"),
            Done::All => f.write_str(", done"),
        }
    }
}

/// How often a fault set by operation number strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// That operation only.
    Once,
    /// That operation and every later one of the same kind: the syncs of a broken disk, the appends to a
    /// full one.
    ForEver,
    /// That operation and every later one that would change something: a disk turned read-only.
    AllForEver,
}

#[derive(Debug, Clone, Copy)]
enum Trigger {
    Number(u64, Times),
    /// Calls of that kind: how many that don't fail come first, and how many fail.
    Kind(OperationKind, u64, u64),
}

/// The faults still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<(Trigger, Failure)>,
    struck: BTreeMap<(OperationKind, String), u64>,
}

impl Faults {
    pub(crate) fn at(&mut self, number: u64, failure: Failure, times: Times) {
        self.rules.push((Trigger::Number(number, times), failure));
    }

    pub(crate) fn next(&mut self, kind: OperationKind, failure: Failure, count: u64) {
        self.after(kind, 0, failure, count);
    }

    pub(crate) fn after(&mut self, kind: OperationKind, skip: u64, failure: Failure, count: u64) {
        self.rules.push((Trigger::Kind(kind, skip, count), failure));
    }

    /// How often each kind of call failed with each error.
    pub(crate) fn struck(&self) -> &BTreeMap<(OperationKind, String), u64> {
        &self.struck
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault that strikes a call of `kind`, with its number if it has one. The rule set first wins.
    pub(crate) fn strike(&mut self, kind: OperationKind, number: Option<u64>) -> Option<Failure> {
        let struck = self.rules.iter_mut().position(|(trigger, _)| match trigger {
            Trigger::Number(at, Times::AllForEver) => number.is_some_and(|number| number >= *at),
            Trigger::Number(at, _) => number == Some(*at),
            Trigger::Kind(of, skip, left) if *of == kind && *left > 0 => {
                let is_struck = *skip == 0;
                *skip = skip.saturating_sub(1);
                is_struck
            }
            Trigger::Kind(..) => false,
        })?;
        let (trigger, failure) = &mut self.rules[struck];
        match trigger {
            Trigger::Number(_, Times::ForEver) => *trigger = Trigger::Kind(kind, 0, u64::MAX),
            Trigger::Kind(_, _, left) if *left < u64::MAX => *left -= 1,
            Trigger::Number(..) | Trigger::Kind(..) => {}
        }
        let failure = *failure;
        *self.struck.entry((kind, failure.to_string())).or_default() += 1;
        if let Error::Slow(time) = failure.error {
            std::thread::sleep(time);
            return None;
        }
        Some(failure)
    }
}
