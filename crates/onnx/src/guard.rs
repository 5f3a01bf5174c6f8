//! Panics of libraries as failures.
//!
//! tract and tokenizers answer some wrong files with a panic, as when a token's number is larger than a table. Every call
//! of theirs on what a file says goes through here. The panic's message is still printed by the hook of the process.
//!
//! Neither leaves anything half done behind: a plan and a tokenizer are not changed after they were made, and what a call
//! was about to give is dropped.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How much of a message is told: one of tract can hold whole nodes.
const MESSAGE_CHARACTERS: usize = 300;

/// What the work gives, or the message of its error or its panic.
pub(crate) fn caught<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    let message = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) => message.clone(),
            (None, Some(message)) => (*message).to_owned(),
            (None, None) => "it panicked".to_owned(),
        },
    };
    Err(message.chars().take(MESSAGE_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_become_short_messages() {
        assert_eq!(caught(|| Ok::<_, String>(7)), Ok(7));
        assert_eq!(caught(|| Err::<(), _>("wrong")), Err("wrong".to_owned()));
        let row = std::hint::black_box(9);
        assert!(caught(|| Ok::<_, String>([1, 2][row])).unwrap_err().contains("out of bounds"));
        assert_eq!(caught(|| Err::<(), _>("ü".repeat(1000))).unwrap_err(), "ü".repeat(MESSAGE_CHARACTERS));
    }
}
