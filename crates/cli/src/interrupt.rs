//! SIGINT and SIGTERM while a command writes: what was accepted is flushed before the program ends.
//!
//! The command looks whether it was interrupted, and comes to an end by itself. If it can not, because it waits for input,
//! the database is closed from here, and the program ends. A second signal ends it at once; nothing that was
//! acknowledged is lost by that either.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll::Database;
use plimsoll_ingest::Pause;

use crate::error::{CliError, Result};

/// Whether SIGINT or SIGTERM was seen, for commands that come to an end by themselves soon. A second signal ends the program
/// at once.
#[derive(Clone, Default)]
pub(crate) struct StopFlag {
    is_set: Arc<AtomicBool>,
    pause: Arc<Pause>,
}

impl StopFlag {
    /// Watches for signals from now on. With `json`, what is said about the first one is JSON.
    pub(crate) fn watch(json: bool) -> Result<Self> {
        let flag = Self::default();
        let watched = flag.listen(json);
        watched.map_err(|error| CliError::failed("io", format!("watching for signals: {error}")))?;
        Ok(flag)
    }

    #[cfg(unix)]
    fn listen(&self, json: bool) -> std::io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};

        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let flag = self.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if flag.is_set.swap(true, Ordering::SeqCst) {
                    std::process::exit(1);
                }
                flag.pause.stop();
                let what = "stopping after what is in hand; a second interruption stops at once, and loses nothing that \
                            is stored";
                if json {
                    eprintln!("{}", serde_json::json!({"interrupted": what}));
                } else {
                    eprintln!("{what}");
                }
            }
        })?;
        Ok(())
    }

    #[cfg(not(unix))]
    fn listen(&self, _json: bool) -> std::io::Result<()> {
        Ok(())
    }

    /// Set once a signal was seen.
    pub(crate) fn shared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_set)
    }

    /// Waits that a signal ends.
    pub(crate) fn pause(&self) -> Arc<Pause> {
        Arc::clone(&self.pause)
    }
}

/// Whether the command was interrupted, and what is to be done if it does not notice.
#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_seen: AtomicBool,
    stored: AtomicU64,
    db: Mutex<Option<Database>>,
}

impl Interrupt {
    /// Watches for signals from now on.
    pub(crate) fn watch(json: bool) -> Result<Self> {
        let interrupt = Self::default();
        interrupt
            .listen(json)
            .map_err(|error| CliError::failed("io", format!("watching for signals: {error}")))?;
        Ok(interrupt)
    }

    #[cfg(unix)]
    fn listen(&self, json: bool) -> std::io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};

        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let interrupt = self.clone();
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(move || {
            for _ in signals.forever() {
                if interrupt.shared.is_seen.swap(true, Ordering::SeqCst) {
                    std::process::exit(1);
                }
                let interrupt = interrupt.clone();
                std::thread::spawn(move || interrupt.end_if_stuck(json));
            }
        })?;
        Ok(())
    }

    #[cfg(not(unix))]
    fn listen(&self, _json: bool) -> std::io::Result<()> {
        Ok(())
    }

    /// Closes the database and ends the program, unless that has happened in a while.
    #[cfg(unix)]
    fn end_if_stuck(&self, json: bool) {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let Some(db) = self.lock().take() else { return };
        let cause = match db.close() {
            Ok(()) => CliError::Interrupted,
            Err(error) => error.into(),
        };
        let stored = self.shared.stored.load(Ordering::SeqCst);
        CliError::Import { stored, cause: Box::new(cause) }.report(json);
        std::process::exit(1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Database>> {
        self.shared.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database that is to be closed.
    pub(crate) fn closes(&self, db: &Database) {
        *self.lock() = Some(db.clone());
    }

    /// So many rows are stored by now.
    pub(crate) fn stored(&self, rows: u64) {
        self.shared.stored.store(rows, Ordering::SeqCst);
    }

    /// The command closes the database itself from here on.
    pub(crate) fn release(&self) {
        drop(self.lock().take());
    }

    /// Whether somebody has interrupted the command.
    pub(crate) fn is_seen(&self) -> bool {
        self.shared.is_seen.load(Ordering::SeqCst)
    }
}
