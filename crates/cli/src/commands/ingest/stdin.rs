//! Standard input that can be given up: a run that waits for lines notices that it is to stop, and that nothing comes.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Stop;

/// How long it waits at a time, in milliseconds.
const LOOK: i32 = 100;
/// After so many looks the stream counts as quiet.
const QUIET: u32 = 5;

/// Standard input.
pub(super) struct Stdin {
    stop: Stop,
    may_be_quiet: Quiet,
}

/// Whether a quiet stream is told by an error of kind [`ErrorKind::WouldBlock`], or waited for.
#[derive(Clone, Default)]
pub(super) struct Quiet(Arc<AtomicBool>);

impl Quiet {
    pub(super) fn allow(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Stdin {
    pub(super) fn new(stop: Stop) -> Self {
        Self { stop, may_be_quiet: Quiet::default() }
    }

    pub(super) fn quiet(&self) -> Quiet {
        self.may_be_quiet.clone()
    }

    #[cfg(unix)]
    fn wait(&self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let stdin = io::stdin();
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK) * 1_000_000 };
        let mut looks = 0;
        loop {
            let mut descriptors = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut descriptors, Some(&time)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if self.stop.load(Ordering::Acquire) {
                let kind = match self.may_be_quiet.0.load(Ordering::Acquire) {
                    true => ErrorKind::WouldBlock,
                    false => ErrorKind::Other,
                };
                return Err(io::Error::new(kind, "interrupted"));
            }
            looks += 1;
            if looks >= QUIET && self.may_be_quiet.0.load(Ordering::Acquire) {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    #[cfg(not(unix))]
    fn wait(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stdin {
    #[cfg(unix)]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        // Not through the standard library's buffer: what lies there is not seen by whoever waits.
        Ok(rustix::io::read(io::stdin(), buffer)?)
    }

    #[cfg(not(unix))]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::stdin().lock().read(buffer)
    }
}
