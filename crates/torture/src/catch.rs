//! Panics as values: what a case panicked with, and where.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// `None` outside of a case; in one, what the last panic said.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `case`; if it panics, returns the message and the place instead of printing them.
pub(crate) fn catch<T>(case: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !remember(info) {
                others(info);
            }
        }));
    });
    let outer = SAID.with(|said| said.replace(Some(String::new())));
    let result = panic::catch_unwind(AssertUnwindSafe(case));
    let said = SAID.with(|said| said.replace(outer)).unwrap_or_default();
    result.map_err(|_| said)
}

/// Keeps what a panic says, if it happens in a case.
fn remember(info: &PanicHookInfo<'_>) -> bool {
    SAID.with(|said| {
        let Ok(mut said) = said.try_borrow_mut() else { return false };
        let Some(said) = said.as_mut() else { return false };
        // The first panic is the cause; what unwinding runs into is not.
        if said.is_empty() {
            let message = info.payload_as_str().unwrap_or("a panic without a message");
            let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
            *said = format!("{message}{}", place.unwrap_or_default());
            let trace = Backtrace::capture();
            if trace.status() == std::backtrace::BacktraceStatus::Captured {
                said.push_str(&format!("\n{trace}"));
            }
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_value_with_its_place() {
        assert_eq!(catch(|| 7), Ok(7));
        let said = catch(|| -> () { panic!("it broke") }).unwrap_err();
        assert!(said.starts_with("it broke (") && said.contains("catch.rs:"), "{said}");
        let outer: Result<(), String> = catch(|| {
            catch(|| -> () { panic!("inside") }).unwrap_err();
            panic!("outside");
        });
        assert!(outer.unwrap_err().starts_with("outside"));
    }
}
