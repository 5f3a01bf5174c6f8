//! Progress on a terminal: on standard error, never with `--json`, never when nobody watches.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar, or nothing.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar towards `expected` steps, or a counter when nobody knows how many there will be.
    pub(crate) fn new(json: bool, what: &'static str, expected: Option<u64>) -> Self {
        if json || !stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let (bar, template) = match expected {
            Some(expected) => {
                (ProgressBar::new(expected), "{msg:12} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
            }
            None => (ProgressBar::new_spinner(), "{msg:12} {spinner} {human_pos} {per_sec} {elapsed}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: bar.with_style(style).with_message(what) }
    }

    /// A bar over bytes, as many as [`Progress::reach`] says.
    pub(crate) fn bytes(json: bool, what: &'static str) -> Self {
        if json || !stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let template = "{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: ProgressBar::new(0).with_style(style).with_message(what) }
    }

    /// A bar of a run that goes on at `read` of `total`: bytes of lines, or files of a folder.
    pub(crate) fn of_run(json: bool, is_bytes: bool, (read, total): (u64, Option<u64>)) -> Self {
        if json || !stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let template = match (is_bytes, total) {
            (true, Some(_)) => "{msg:12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            (true, None) => "{msg:12} {spinner} {bytes} {bytes_per_sec} {elapsed}",
            (false, _) => "{msg:12} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_style(style);
        // The rate and the time left count from here, and not from zero.
        bar.set_position(read);
        bar.reset_eta();
        Self { bar: bar.with_message("ingesting") }
    }

    /// Moves on to `read`, and takes notice of how much there is now.
    pub(crate) fn move_to(&self, read: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(read);
    }

    /// Says something on standard error beside the bar.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Moves on to `position` of `total`.
    pub(crate) fn reach(&self, position: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(position);
    }

    /// Moves on by `steps`.
    pub(crate) fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
