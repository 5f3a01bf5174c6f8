//! The programs that a run needs, and whether this machine has them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use super::{Failure, Result};

/// Where `plimsoll` and this program are.
pub(crate) struct Tools {
    pub(crate) plimsoll: PathBuf,
    pub(crate) own: PathBuf,
}

impl Tools {
    /// Looks for what every run needs, and for `programs`.
    pub(crate) fn find(programs: &[&str]) -> Result<Self> {
        if !cfg!(target_os = "linux") {
            return Err(Failure::Skipped("this needs Linux".to_owned()));
        }
        for program in ["id", "mount", "umount", "unshare"].iter().chain(programs) {
            if !is_on_path(program) {
                return Err(Failure::Skipped(format!("{program} is not installed")));
            }
        }
        if call("id", ["-u"])?.trim() != "0" {
            return Err(Failure::Skipped("only root may mount file systems".to_owned()));
        }
        if !quiet("unshare", ["--mount", "--", "true"]) {
            return Err(Failure::Skipped("mount namespaces are not allowed here".to_owned()));
        }
        let own = std::env::current_exe().map_err(|error| Failure::Broken(error.to_string()))?;
        let plimsoll = own.with_file_name("plimsoll");
        if !plimsoll.is_file() {
            let what = format!("{} is missing: build plimsoll-cli in the same profile", plimsoll.display());
            return Err(Failure::Broken(what));
        }
        Ok(Self { plimsoll, own })
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Whether the program could be run and succeeded.
pub(crate) fn quiet<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Runs a program that must succeed, and returns its standard output.
pub(crate) fn call<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| Failure::Broken(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Broken(format!("{program}: {}: {}", output.status, said.trim())))
}
