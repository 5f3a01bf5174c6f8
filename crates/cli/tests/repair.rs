//! `plimsoll repair`: ten kinds of damage, what is saved, what is lost, and that it is said.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Scratch, plimsoll, plimsoll_with, small_lines};
use serde_json::Value;

/// Two collections, `c` with two flushes, deletions and 40 rows in the log, `other` with one flush.
fn filled() -> Scratch {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..1000));
    plimsoll_with(["import", &scratch.db, "other", "-"], &small_lines(0..50)).ok();
    scratch.run("flush", "").ok();
    scratch.import(&(small_lines(900..1100) + "{\"id\": 5, \"op\": \"delete\"}\n"));
    scratch.run("flush", "").ok();
    // Killed before it closes, so that its rows are in the log only.
    let mut child = common::importing(&scratch.db, 10);
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, small_lines(2000..2040).as_bytes()).unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ACK 40") {
        line.clear();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    scratch
}

/// What `c` holds in [`filled`].
const ROWS: usize = 1100 - 1 + 40;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The files of a database with this ending, oldest first.
fn files(db: &Path, dir: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(db.join(dir)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    found.sort();
    found
}

fn largest(files: Vec<PathBuf>) -> PathBuf {
    files.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn manifest(db: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST"));
    found.into_iter().max().unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Where the log's records are, in its newest segment.
fn a_record(db: &Path, numerator: usize) -> (PathBuf, usize) {
    let log = files(db, "wal", ".wal").pop().unwrap();
    let bytes = fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    (log, end * numerator / 100)
}

type Damage = (&'static str, fn(&Path), usize);

/// Each with the least number of rows of `c` that must be saved.
const DAMAGE: [Damage; 10] = [
    ("a flipped bit in a document", |db| flip(&largest(files(db, "data", ".posting")), 3000), ROWS - 100),
    ("a posting file without its header", |db| flip(&largest(files(db, "data", ".posting")), 5), 100),
    ("a missing posting file", |db| fs::remove_file(largest(files(db, "data", ".posting"))).unwrap(), 100),
    ("a missing vector segment", |db| fs::remove_file(largest(files(db, "data", ".vectors"))).unwrap(), ROWS),
    ("a kill file cut in half", |db| cut(&largest(files(db, "data", ".kills")), 100), ROWS),
    (
        "a flipped bit in the log",
        |db| {
            let (log, at) = a_record(db, 40);
            flip(&log, at);
        },
        ROWS - 20,
    ),
    (
        "a log that was cut off",
        |db| {
            let (log, at) = a_record(db, 50);
            cut(&log, at as u64);
        },
        ROWS - 40,
    ),
    ("a missing log", |db| fs::remove_file(files(db, "wal", ".wal").pop().unwrap()).unwrap(), ROWS - 40),
    ("a damaged manifest", |db| flip(&manifest(db), 100), ROWS),
    ("a missing manifest", |db| fs::remove_file(manifest(db)).unwrap(), ROWS),
];

#[test]
fn ten_kinds_of_damage_are_repaired_and_what_is_lost_is_said() {
    let original = filled();
    for (what, damage, least) in DAMAGE {
        let scratch = Scratch::new();
        copy(Path::new(&original.db), Path::new(&scratch.db));
        damage(Path::new(&scratch.db));
        assert_eq!(scratch.run("verify", "").code, 1, "{what}: verify does not notice");
        let salvaged = plimsoll(["export", &scratch.db, "c", "--salvage"]).ok();
        assert_eq!(scratch.run("verify", "").code, 1, "{what}: salvaging has changed something");
        let report = plimsoll(["repair", &scratch.db, "--json"]).json().remove(0);
        scratch.verify();
        assert_eq!(scratch.export(), salvaged, "{what}");
        let saved = scratch.export().lines().count();
        println!("{what}: {saved} of {ROWS} rows saved; {report}");
        assert_eq!(report["damaged"], Value::Bool(true), "{what}");
        assert!(!report["findings"].as_array().unwrap().is_empty(), "{what}");
        assert!((least..=ROWS + 1).contains(&saved), "{what}: {saved} rows are saved, of {ROWS}: {report}");
        let of_c = report["collections"].as_array().unwrap().iter().find(|of| of["name"] == "c");
        let number = |key: &str| of_c.map_or(0, |of| of[key].as_u64().unwrap());
        let batches = report["log"]["batches_lost"].as_u64().unwrap_or(0);
        let said = number("documents_lost") + number("deletions_lost") + batches;
        let uncounted = report["log"]["uncounted"].as_bool().unwrap_or(false);
        assert_eq!(
            uncounted,
            ["a log that was cut off", "a missing log"].contains(&what),
            "{what}: {report}"
        );
        assert!(
            saved == ROWS || said > 0 || uncounted,
            "{what}: nothing is said of the {} rows: {report}",
            ROWS - saved
        );
        let aside = PathBuf::from(report["moved_to"].as_str().unwrap());
        let kept = fs::read_to_string(aside.join("REPORT")).unwrap();
        for finding in report["findings"].as_array().unwrap() {
            assert!(kept.contains(finding["what"].as_str().unwrap()), "{what}: {kept}");
        }
        assert!(!aside.join("UNFINISHED").exists(), "{what}");
        // The other collection is as it was.
        assert_eq!(scratch.run("count", "other").ok().trim(), "50", "{what}");
        // And all of it goes on.
        scratch.import(&small_lines(9000..9010));
        assert_eq!(scratch.export().lines().count(), saved + 10, "{what}");
        let again = scratch.run("repair", "").ok();
        assert!(again.contains("nothing is damaged"), "{what}: {again}");
    }
}

#[test]
fn without_a_manifest_the_files_are_verified_all_the_same() {
    let scratch = filled();
    let db = Path::new(&scratch.db);
    flip(&manifest(db), 100);
    let posting = largest(files(db, "data", ".posting"));
    flip(&posting, 9000);
    let said = scratch.run("verify", "");
    assert_eq!(said.code, 1);
    for file in [manifest(db), posting] {
        assert!(said.stdout.contains(file.to_str().unwrap()), "{}", said.stdout);
    }
}

#[test]
fn a_sound_database_is_not_changed_and_what_is_none_is_refused() {
    let scratch = filled();
    let listing = |scratch: &Scratch| files(Path::new(&scratch.db), "data", "");
    let before = listing(&scratch);
    let said = scratch.run("repair", "").ok();
    assert!(said.contains("nothing is damaged, nothing was changed"), "{said}");
    assert_eq!(listing(&scratch), before);
    plimsoll(["repair", "/nowhere/at/all"]).fails(1, &["/nowhere/at/all"]);
    let other = Scratch::new();
    fs::create_dir(&other.db).unwrap();
    fs::write(Path::new(&other.db).join("notes.txt"), "mine").unwrap();
    other.run("repair", "").fails(1, &["notes.txt"]);
    assert_eq!(fs::read(Path::new(&other.db).join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn damage_in_one_collection_leaves_the_other_as_it_was() {
    let scratch = filled();
    let db = Path::new(&scratch.db);
    flip(&largest(files(db, "data", ".posting")), 5);
    assert_eq!(scratch.run("count", "other").ok().trim(), "50");
    assert_eq!(scratch.run("export", "other").ok().lines().count(), 50);
    scratch.run("search", "other --vector [1,0] --json").ok();
    plimsoll_with(["import", &scratch.db, "other", "-"], &small_lines(50..60)).ok();
    assert_eq!(scratch.run("count", "other").ok().trim(), "60");
    let name = largest(files(db, "data", ".posting"));
    let name = name.file_name().unwrap().to_str().unwrap();
    scratch.run("export", "c").fails(1, &[name]);
    plimsoll_with(["import", &scratch.db, "c", "-"], &small_lines(0..1)).fails(1, &[name]);
}
