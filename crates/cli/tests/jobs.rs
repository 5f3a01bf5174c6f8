//! Jobs from the command line: flushes in the background, their records, backups, and signals.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Child;
use std::time::{Duration, Instant};

use common::{Scratch, importing, plimsoll, small_line, small_lines};
use serde_json::Value;

/// Far longer than anything should take.
const PATIENCE: Duration = Duration::from_secs(60);

fn one(run: common::Run) -> Value {
    run.json().remove(0)
}

/// A database with rows that are only in the log, as a killed import leaves it.
fn unflushed(rows: usize) -> Scratch {
    let scratch = Scratch::new();
    let mut child = importing(&scratch.db, rows);
    let mut stdin = child.stdin.take().unwrap();
    (0..rows).for_each(|row| writeln!(stdin, "{}", small_line(row)).unwrap());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("ACK {rows}\n"));
    child.kill().unwrap();
    child.wait().unwrap();
    scratch
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it never happens that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_flush_in_the_background_has_an_id_at_once_and_is_done() {
    let scratch = unflushed(40);
    let id = scratch.run("flush", "--no-wait").ok().trim().to_owned();
    assert!(id.parse::<u64>().is_ok(), "{id:?}");
    let shown = eventually("the flush ends", || {
        let shown = scratch.run("jobs", &format!("show {id} --json"));
        let shown = (shown.code == 0).then(|| one(shown))?;
        // Between the flush and its record it is known to be done, and no more.
        (shown["state"] == "completed" && !shown["flush"].is_null()).then_some(shown)
    });
    assert_eq!(
        (&shown["kind"], &shown["target"], &shown["reason"]),
        (&"flush".into(), &"all".into(), &"manual".into())
    );
    assert_eq!(shown["flush"]["rows"], 40);
    let stats = eventually("the process in the background ends", || {
        let stats = one(scratch.run("stats", "--json"));
        (stats["lsn"]["appended"] == stats["lsn"]["flushed"]).then_some(stats)
    });
    assert_eq!(stats["collections"][0]["flushed_documents"], 40);
    // What goes wrong before there is a job is said here.
    Scratch::new().run("flush", "--no-wait").fails(1, &["no such database"]);
    scratch.run("flush", "--no-wait --collection nobody").fails(1, &["nobody", "c"]);
}

#[test]
fn a_flush_of_a_collection_and_the_list_of_jobs() {
    let scratch = unflushed(10);
    let report = one(scratch.run("flush", "--collection c --json"));
    assert_eq!((report["rows"].as_u64(), report["reason"].as_str()), (Some(10), Some("manual")));
    let id = report["job"].as_u64().unwrap();
    let listed = scratch.run("jobs", "ls --json").json();
    assert_eq!((listed[0]["id"].as_u64(), listed[0]["target"].as_str()), (Some(id), Some("c")));
    assert_eq!(listed[0]["attempts"], 1);
    let again = one(scratch.run("flush", "--json"));
    assert_eq!(again["operations_applied"], 0);
    let listed = scratch.run("jobs", "ls --json").json();
    assert_eq!((listed.len(), &listed[0]["state"]), (2, &"skipped".into()));
    assert_eq!(scratch.run("jobs", "ls --limit 1 --json").json().len(), 1);
    assert!(scratch.run("jobs", "ls").ok().contains("10 rows, LSN"));
    assert!(scratch.run("jobs", &format!("show {id}")).ok().contains("file_sync"));
    scratch.run("jobs", &format!("cancel {id}")).fails(1, &["is completed"]);
    scratch.run("jobs", &format!("retry {id}")).fails(1, &["is completed"]);
    for action in ["show", "cancel", "retry"] {
        scratch.run("jobs", &format!("{action} 4711")).fails(1, &["there is no job 4711"]);
    }
    scratch.run("flush", "--collection nobody").fails(1, &["nobody", "c"]);
    scratch.run("jobs", "show soon").fails(2, &["soon"]);
}

#[test]
fn a_backup_is_a_database_and_a_failed_one_can_be_repeated() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..30));
    let copy = scratch.path("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("file"), "somebody else's").unwrap();
    scratch.run("backup", copy.to_str().unwrap()).fails(1, &["is not empty"]);
    scratch.run("backup", scratch.path("db/copy").to_str().unwrap()).fails(1, &["is in the database"]);
    std::fs::remove_file(copy.join("file")).unwrap();
    let data = std::fs::read_dir(scratch.path("db").join("data")).unwrap().map(|entry| entry.unwrap().path());
    let largest = data.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    flip(&largest);
    scratch.run("backup", copy.to_str().unwrap()).fails(1, &["checksum"]);
    let failed = scratch.run("jobs", "ls --json").json().remove(0);
    assert_eq!((&failed["kind"], &failed["state"]), (&"backup".into(), &"failed".into()));
    let unwell = scratch.run("doctor", "");
    assert_eq!(unwell.code, 1);
    assert!(unwell.stdout.contains("BAD") && unwell.stdout.contains("checksum"), "{}", unwell.stdout);
    flip(&largest);
    let id = failed["id"].as_u64().unwrap();
    assert!(scratch.run("jobs", &format!("retry {id}")).ok().contains("completed"));
    let export = |dir: &std::path::Path| plimsoll(["export".as_ref(), dir.as_os_str(), "c".as_ref()]).ok();
    assert_eq!(export(&copy), export(scratch.db.as_ref()));
    plimsoll(["verify".as_ref(), copy.as_os_str()]).ok();
    let second = scratch.path("second");
    let report = one(scratch.run("backup", &format!("{} --json", second.display())));
    assert!(report["files"].as_u64().unwrap() > 0 && report["bytes"].as_u64().unwrap() > 0);
    assert_eq!(export(&second), export(scratch.db.as_ref()));
    // What has failed once and then went well is history, and a copy is as well as what it is a copy of.
    scratch.run("doctor", "").ok();
    plimsoll([
        "import".as_ref(),
        second.as_os_str(),
        "c".as_ref(),
        scratch.file("more.jsonl", small_lines(40..41)).as_ref(),
    ])
    .ok();
    plimsoll(["doctor".as_ref(), second.as_os_str()]).ok();
}

/// Changes a bit in the middle of a file, or changes it back.
fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_doctor_finds_a_sound_database_well_and_says_what_is_missing() {
    let scratch = unflushed(5);
    let well = one(scratch.run("doctor", "--json"));
    assert_eq!(well["ok"], true);
    assert!(well["findings"][1]["what"].as_str().unwrap().starts_with("5 rows wait"), "{well}");
    scratch.run("flush", "").ok();
    let data = scratch.path("db").join("data");
    let file = std::fs::read_dir(&data).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(file).unwrap();
    assert_eq!(scratch.run("verify", "").code, 1);
    Scratch::new().run("doctor", "").fails(1, &["no such database"]);
}

#[test]
fn watching_shows_what_changes_beside_the_writer() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..10));
    let looks = scratch.run("stats", "--watch --times 3 --interval 20ms --json").json();
    assert_eq!(looks.len(), 3);
    for look in &looks {
        assert_eq!((&look["flushed_rows"], &look["unflushed_rows"]), (&10.into(), &0.into()));
        assert_eq!(look["lsn"]["appended"], look["lsn"]["flushed"]);
        assert_eq!((&look["running"], &look["queued"]), (&0.into(), &0.into()));
    }
    let text = scratch.run("stats", "--watch --times 1").ok();
    assert!(text.contains("10 in files") && text.contains("0 queued"), "{text}");
}

#[cfg(unix)]
fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, signal).unwrap();
}

/// Whether it waits for input or is in the middle of it: what was acknowledged is in files, and the log is empty.
#[cfg(unix)]
#[test]
fn a_signal_flushes_what_was_accepted_and_says_how_much() {
    use rustix::process::Signal;
    for (which, goes_on) in
        [(Signal::INT, true), (Signal::TERM, true), (Signal::INT, false), (Signal::TERM, false)]
    {
        let scratch = Scratch::new();
        let mut child = importing(&scratch.db, 7);
        let mut stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        (0..21).for_each(|row| writeln!(stdin, "{}", small_line(row)).unwrap());
        let mut lines = BufReader::new(stdout).lines();
        let mut acknowledged =
            || -> Option<u64> { Some(lines.next()?.unwrap().strip_prefix("ACK ").unwrap().parse().unwrap()) };
        while acknowledged() != Some(21) {}
        // Otherwise it waits for input that does not come.
        let mut input = Some(stdin);
        let feeder = goes_on.then(|| {
            let mut stdin = input.take().unwrap();
            std::thread::spawn(move || {
                for row in 21.. {
                    if writeln!(stdin, "{}", small_line(row)).is_err() {
                        return;
                    }
                }
            })
        });
        signal(&child, which);
        let mut last = 21;
        while let Some(rows) = acknowledged() {
            last = rows;
        }
        let status = child.wait().unwrap();
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("interrupted; {last} rows before it are stored")), "{last}: {said}");
        drop(input);
        drop(feeder.map(std::thread::JoinHandle::join));
        let stats = one(scratch.run("stats", "--json"));
        assert_eq!(stats["lsn"]["appended"], stats["lsn"]["flushed"], "{which:?}: {said}");
        assert_eq!(stats["collections"][0]["flushed_documents"], last);
    }
}
