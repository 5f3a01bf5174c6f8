//! Several processes on one database, and directories that can not be written.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use common::{Run, Scratch, command, importing, plimsoll_with, small_lines};
use serde_json::Value;

#[test]
fn a_second_writer_is_told_who_the_first_one_is_and_readers_are_welcome() {
    let scratch = Scratch::new();
    let mut child = importing(&scratch.db, 5);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdin.write_all(small_lines(0..5).as_bytes()).unwrap();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let pid = child.id().to_string();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (command, words) in
        [("flush", ""), ("create", "d --dim 2"), ("drop", "c"), ("delete", "c 1"), ("compact", "")]
    {
        scratch.run(command, words).fails(1, &[&pid, host.trim()]);
    }
    let run = plimsoll_with(["import", &scratch.db, "c", "-", "--json"], &small_lines(5..6)).fails(1, &[]);
    let error: Value = serde_json::from_str(&run.stderr).unwrap();
    assert_eq!(error["kind"], "locked");
    for (command, words) in
        [("ls", ""), ("stats", ""), ("verify", ""), ("get", "c 4"), ("search", "c --like 1")]
    {
        scratch.run(command, words).ok();
    }
    assert_eq!(scratch.run("count", "c").ok(), "5\n");
    drop(stdin);
    assert!(child.wait().unwrap().success());
    scratch.run("flush", "").ok();
}

/// Runs the program as someone who may read the database and not write it.
fn as_stranger(scratch: &Scratch, name: &str, words: &str) -> Run {
    let mut command = command();
    command.arg(name).arg(&scratch.db).args(words.split_whitespace());
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn set_permissions(path: &Path, dirs: u32, files: u32) {
    let is_dir = path.is_dir();
    let mode = if is_dir { dirs } else { files };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if is_dir {
        fs::read_dir(path).unwrap().for_each(|entry| set_permissions(&entry.unwrap().path(), dirs, files));
    }
}

#[test]
fn a_read_only_directory_can_be_read_and_says_that_it_can_not_be_written() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..10));
    scratch.run("flush", "").ok();
    set_permissions(&scratch.path(""), 0o555, 0o444);
    for (name, words) in
        [("flush", ""), ("drop", "c"), ("delete", "c 1"), ("create", "d --dim 2"), ("compact", "")]
    {
        as_stranger(&scratch, name, words).fails(1, &[&scratch.db, "ermission denied"]);
    }
    assert_eq!(as_stranger(&scratch, "count", "c").ok(), "10\n");
    assert_eq!(as_stranger(&scratch, "export", "c").ok().lines().count(), 10);
    as_stranger(&scratch, "verify", "").ok();
    as_stranger(&scratch, "search", "c --like 3").ok();
    set_permissions(&scratch.path(""), 0o755, 0o644);
    assert_eq!(scratch.export().lines().count(), 10);
}
