//! `ingest` and `source`, as a user has them: real processes, real signals, a real endpoint.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::Child;
use std::time::{Duration, Instant};

use common::{Run, Scratch, command, piped, plimsoll, plimsoll_with};
use plimsoll_embedding_server::{Fault, Server};
use serde_json::Value;

/// Far longer than anything should take.
const PATIENCE: Duration = Duration::from_secs(60);
const ITEMS: usize = 300;

fn ingest(scratch: &Scratch, words: &str) -> Run {
    scratch.run("ingest", words)
}

fn report(run: Run) -> Value {
    run.json().remove(0)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// A stream of changes of 40 documents with given words, deletes among them.
fn stream() -> Vec<String> {
    let line = |item: usize| {
        let path = format!("file {}", item * 7 % 40);
        match item % 23 {
            5 => format!(r#"{{"path": "{path}", "op": "delete"}}"#),
            6 => r#"{"new_changeset": {"commit": "abc"}}"#.to_owned(),
            _ => format!(r#"{{"path": "{path}", "op": "modify", "content": "words of item {item}"}}"#),
        }
    };
    (0..ITEMS).map(line).collect()
}

const STREAM: [&str; 9] = ["c", "-", "--source", "s", "--embed", "hash:16", "--batch-size", "10", "--json"];

fn whole(scratch: &Scratch, lines: &[String]) -> Run {
    plimsoll_with(["ingest", &scratch.db].into_iter().chain(STREAM), &(lines.join("\n") + "\n"))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, signal).unwrap();
}

/// One run that gets the first `lines` lines and then a signal, and one that gets all of them.
fn interrupted(lines: &[String], at: usize, how: rustix::process::Signal) -> (Scratch, Value) {
    let scratch = Scratch::new();
    let workers = (at % 3 + 1).to_string();
    let words = ["ingest", &scratch.db].into_iter().chain(STREAM).chain(["--workers", &workers]);
    let mut child = piped(command().args(words)).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    lines[..at].iter().for_each(|line| writeln!(stdin, "{line}").unwrap());
    // Somewhere in its work; a process of which nothing is there yet is killed as well as one that waits for more.
    std::thread::sleep(Duration::from_millis(at as u64 * 37 % 60));
    signal(&child, how);
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    if how == rustix::process::Signal::INT && !output.stdout.is_empty() {
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&ended["state"], number(&ended["in_flight"])), (&"interrupted".into(), 0), "{ended}");
    }
    let status = scratch.run("source", "status --json");
    let status = if status.code == 0 { status.json() } else { Vec::new() };
    let counts = ["committed", "dead_lettered", "rejected"];
    let done: u64 = status.first().map_or(0, |status| counts.iter().map(|name| number(&status[*name])).sum());
    assert!(done <= at as u64);
    let ended = report(whole(&scratch, lines));
    // What is read again is what was not committed, and nothing that was.
    assert_eq!(number(&ended["received"]), ITEMS as u64 - done, "{how:?} at {at}: {ended}");
    assert_eq!((number(&ended["position"]), number(&ended["in_flight"])), (ITEMS as u64, 0));
    (scratch, ended)
}

/// With `PLIMSOLL_EVERY=1` each of the 300 lines is a place to be interrupted at; usually every 17th is.
#[test]
fn signals_at_any_line_lose_and_repeat_nothing() {
    let lines = stream();
    let expected = {
        let scratch = Scratch::new();
        whole(&scratch, &lines).ok();
        scratch.export()
    };
    let every: usize = std::env::var("PLIMSOLL_EVERY").map_or(17, |every| every.parse().unwrap());
    for at in (0..=ITEMS).step_by(every) {
        for how in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
            let (scratch, _) = interrupted(&lines, at, how);
            assert_eq!(scratch.export(), expected, "{how:?} at {at}");
            let status = report(scratch.run("source", "status --json"));
            let done = ["committed", "dead_lettered", "rejected"].map(|name| number(&status[name]));
            assert_eq!(done.iter().sum::<u64>(), ITEMS as u64, "{status}");
        }
    }
}

fn folder(scratch: &Scratch) -> String {
    let root = scratch.path("docs");
    std::fs::create_dir_all(root.join("sub")).unwrap();
    for (name, text) in [
        ("bread.md", "Bread is baked from flour, water and salt."),
        ("sub/ship.md", "A ship floats because it is lighter than the water it displaces."),
        ("sub/tree.md", "An old oak tree gives shade in summer."),
    ] {
        std::fs::write(root.join(name), text).unwrap();
    }
    root.to_str().unwrap().to_owned()
}

#[test]
fn a_folder_is_found_by_text_embedded_once_and_followed() {
    let scratch = Scratch::new();
    let root = folder(&scratch);
    ingest(&scratch, &format!("c {root}")).fails(2, &["--embed hash:256"]);
    assert!(!scratch.path("db").exists());
    let first = report(ingest(&scratch, &format!("c {root} --embed hash:256 --json")));
    assert_eq!((number(&first["committed"]), number(&first["embedded"])), (3, 3));
    let search = |text: &str| {
        report(plimsoll(["search", &scratch.db, "c", "--text", text, "-k", "1", "--json"]))["hits"][0]["id"]
            .clone()
    };
    assert_eq!(search("what floats on the water, a ship"), "sub/ship.md");
    assert_eq!(search("the shade of an oak"), "sub/tree.md");
    let second = report(ingest(&scratch, &format!("c {root} --json")));
    assert_eq!((number(&second["committed"]), number(&second["embedded"])), (0, 0));
    std::fs::rename(scratch.path("docs/bread.md"), scratch.path("docs/cake.md")).unwrap();
    std::fs::remove_file(scratch.path("docs/sub/tree.md")).unwrap();
    let third = report(ingest(&scratch, &format!("c {root} --json")));
    assert_eq!((number(&third["committed"]), number(&third["embedded"])), (3, 0), "{third}");
    let counts = ["stored", "removed", "unchanged"].map(|name| number(&third[name]));
    assert_eq!(counts, [1, 2, 1], "{third}");
    let left: Vec<Value> = scratch.run("export", "c").json().iter().map(|line| line["id"].clone()).collect();
    assert_eq!(left, ["cake.md", "sub/ship.md"]);
    // Another model's vectors can not be compared with these.
    ingest(&scratch, &format!("c {root} --embed hash:128")).fails(1, &["256 dimensions", "128"]);
    let same = format!("c {root} --embed command#other:cat --source other");
    assert_eq!(ingest(&scratch, &same).code, 1);
    // Everything is gone at once: that is no reason to forget everything.
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    assert_eq!(ingest(&scratch, &format!("c {root}")).code, 1);
    assert_eq!(scratch.run("count", "c").ok().trim(), "2");
    ingest(&scratch, &format!("c {root} --allow-empty")).ok();
    assert_eq!(scratch.run("count", "c").ok().trim(), "0");
}

#[test]
fn what_becomes_of_each_file_is_counted_by_its_reason() {
    let scratch = Scratch::new();
    let root = scratch.path("docs");
    std::fs::create_dir(&root).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    write("text.md", b"words");
    write("picture", b"\x89PNG\0");
    write("empty", b"");
    write("latin", b"caf\xe9");
    write("huge", &[b'a'; 16 << 10]);
    std::fs::OpenOptions::new().write(true).open(root.join("huge")).unwrap().set_len((16 << 20) + 1).unwrap();
    let words = format!("c {} --embed hash:16", root.to_str().unwrap());
    let expected = |counts: &Value| {
        assert_eq!(counts["failures"], serde_json::json!({"encoding": 1, "memory": 1}), "{counts}");
        assert_eq!(counts["passed_over"], serde_json::json!({"binary": 1, "empty": 1}), "{counts}");
    };
    expected(&report(ingest(&scratch, &format!("{words} --dry-run --json"))));
    let run = ingest(&scratch, &format!("{words} --json --verbose"));
    for (name, reason) in [("picture", "binary"), ("empty", "empty")] {
        let said = run.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        assert!(said.into_iter().any(|said| said["id"] == name && said["reason"] == reason), "{run:?}");
    }
    let done = report(run);
    expected(&done);
    let counts = ["stored", "removed", "unchanged", "in_flight"].map(|name| number(&done[name]));
    assert_eq!(counts, [1, 0, 0, 0], "{done}");
    let sum: u64 = ["committed", "dead_lettered", "rejected"].iter().map(|name| number(&done[name])).sum();
    assert_eq!((sum, number(&done["received"])), (5, 5), "{done}");
    // One is looked at, because its time is another, and is as it was; the others are not even read.
    let text = std::fs::OpenOptions::new().write(true).open(root.join("text.md")).unwrap();
    text.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let again = report(ingest(&scratch, &format!("{words} --json")));
    let counts = ["stored", "removed", "unchanged", "dead_lettered"].map(|name| number(&again[name]));
    assert_eq!((counts, &again["passed_over"]), ([0, 0, 5, 0], &serde_json::json!({})), "{again}");
    std::fs::remove_file(root.join("picture")).unwrap();
    write("text.md", b"other words");
    write("late", b"\0");
    let said = ingest(&scratch, &format!("{words} --verbose"));
    assert!(said.stderr.contains(" (late): binary"), "{said:?}");
    let said = said.ok();
    let expected = "completed: 1 stored, 0 removed, 3 unchanged, 0 set aside, 2 with nothing to store (absent 1, binary 1); \
                    1 passage embedded, 0 known from before; ";
    assert!(said.starts_with(expected), "{said}");
    let status = scratch.run("source", "status").ok();
    assert!(status.contains("items read: 1 stored, 0 removed; 0 attempts repeated"), "{status}");
}

#[test]
fn a_refused_way_to_cut_is_not_remembered() {
    let scratch = Scratch::new();
    let root = folder(&scratch);
    let words = format!("c {root} --json");
    ingest(&scratch, &format!("{words} --embed hash:64")).ok();
    ingest(&scratch, &format!("{words} --chunk whole")).fails(1, &["tokens:256:32", "whole", "--restart"]);
    ingest(&scratch, &words).ok();
    let anew = report(ingest(&scratch, &format!("{words} --chunk whole --restart")));
    assert_eq!(number(&anew["received"]), 3);
    // The source keeps its own.
    assert_eq!(number(&report(ingest(&scratch, &words))["committed"]), 0);
}

#[test]
fn folders_do_not_overwrite_each_other_and_a_database_is_no_part_of_one() {
    let scratch = Scratch::new();
    let root = folder(&scratch);
    ingest(&scratch, &format!("c {root} --embed hash:64")).ok();
    let other = scratch.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("bread.md"), "another bread").unwrap();
    let other = other.to_str().unwrap();
    ingest(&scratch, &format!("c {other}")).fails(1, &["would overwrite"]);
    let inside = scratch.path("docs/notes [1].db");
    let inside = inside.to_str().unwrap();
    for expected in [3, 0] {
        let run = plimsoll(["ingest", inside, "c", &root, "--embed", "hash:64", "--json"]);
        assert_eq!(number(&report(run)["committed"]), expected);
    }
    let keys = plimsoll(["export", inside, "c"]).json();
    assert_eq!(keys.len(), 3, "the database is not in itself");
}

#[test]
fn a_file_that_is_no_stream_of_lines_is_refused() {
    let scratch = Scratch::new();
    let notes = scratch.file("notes.md", "# Notes\n\n{\"id\": 7, \"op\": \"delete\"}\n");
    ingest(&scratch, &format!("c {notes} --embed hash:64")).fails(1, &["no stream of lines", "--include"]);
    assert!(!scratch.path("db").exists());
}

#[test]
fn what_a_killed_run_was_is_known_and_a_run_without_news_changes_no_progress() {
    let scratch = Scratch::new();
    let file = scratch.file("rows.jsonl", common::small_lines(0..25));
    let words = format!("c {file} --source s");
    ingest(&scratch, &words).ok();
    ingest(&scratch, &words).ok();
    let status = report(scratch.run("source", "status s --json"));
    assert_eq!((status["progress_percent"].as_f64(), number(&status["lag_bytes"])), (Some(100.0), 0));
    let mut child =
        piped(command().args(["ingest", &scratch.db, "c", "-", "--source", "t"])).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(common::small_lines(0..150).as_bytes()).unwrap();
    let end = Instant::now() + PATIENCE;
    while !scratch.run("source", "status t --json").stdout.contains("\"position\":100,") {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    let again = ["ingest", &scratch.db, "c", "-", "--source", "t"];
    plimsoll_with(again, &common::small_lines(0..150)).ok();
    let status = report(scratch.run("source", "status t --json"));
    assert_eq!((number(&status["position"]), &status["last_run"]["state"]), (150, &"completed".into()));
    let states = rusqlite::Connection::open(scratch.path("db.ingest/ledger.sqlite")).unwrap();
    let left: i64 =
        states.query_row("SELECT count(*) FROM runs WHERE state = 'running'", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_search_by_text_needs_to_know_how() {
    let scratch = Scratch::new();
    scratch.import(&common::small_lines(0..3));
    let run = plimsoll(["search", &scratch.db, "c", "--text", "words"]);
    run.fails(1, &["nobody has said how texts become vectors"]);
}

#[test]
fn an_endpoint_that_fails_costs_time_and_nothing_else() {
    let scratch = Scratch::new();
    let server = Server::start(0, 32).unwrap();
    let embed = format!("{}#m;key=none", server.base());
    let lines: String =
        (0..30).map(|item| format!("{{\"id\": {item}, \"text\": \"words of item {item}\"}}\n")).collect();
    let file = scratch.file("items.jsonl", &lines);
    for fault in
        [Fault::Status(429, "retry-after: 0"), Fault::Status(500, ""), Fault::Truncated, Fault::Reset]
    {
        server.next(fault);
    }
    let done = report(ingest(&scratch, &format!("c {file} --embed {embed} --batch-size 10 --json")));
    assert_eq!((number(&done["committed"]), number(&done["dead_lettered"])), (30, 0), "{done}");
    assert!(number(&done["retries"]) >= 3, "{done}");
    // Now it is down for good: nothing is blamed on the items, and the same command goes on.
    let more: String =
        (30..40).map(|item| format!("{{\"id\": {item}, \"text\": \"item {item}\"}}\n")).collect();
    std::fs::write(&file, lines + &more).unwrap();
    server.always(Some(Fault::Status(503, "")));
    let down = ingest(&scratch, &format!("c {file} --max-retries 0 --json"));
    assert_eq!((down.code, down.stderr.contains("\"embedder\"")), (1, true), "{down:?}");
    let status = report(scratch.run("source", "status --json"));
    assert_eq!((number(&status["position"]), number(&status["dead_lettered"])), (30, 0));
    assert_eq!(status["last_run"]["state"], "failed");
    server.always(None);
    let texts = server.texts();
    assert_eq!((&status["embedder"], &status["model"]), (&embed.as_str().into(), &"m".into()));
    let done = report(ingest(&scratch, &format!("c {file} --json")));
    assert_eq!((number(&done["received"]), number(&done["committed"])), (10, 10));
    assert!(server.texts() <= texts + 11, "nothing was embedded twice");
    let found = report(plimsoll(["search", &scratch.db, "c", "--text", "item 35", "-k", "1", "--json"]));
    assert_eq!(found["hits"][0]["id"], 35);
}

#[test]
fn an_embedder_that_hangs_is_waited_for_as_long_as_is_said_or_until_the_second_interruption() {
    let scratch = Scratch::new();
    let server = Server::start(0, 16).unwrap();
    let embed = format!("{}#m;key=none", server.base());
    let lines: String =
        (0..5).map(|item| format!("{{\"id\": {item}, \"text\": \"item {item}\"}}\n")).collect();
    let file = scratch.file("items.jsonl", &lines);
    let words = format!("c {file} --embed {embed} --source s --json");
    report(ingest(&scratch, &words));
    std::fs::write(&file, lines + "{\"id\": 5, \"text\": \"item 5\"}\n").unwrap();
    server.always(Some(Fault::Hang));
    let begin = Instant::now();
    let ended = ingest(&scratch, &format!("{words} --timeout 100ms --max-retries 0"));
    ended.fails(1, &["\"embedder\"", "the same command goes on"]);
    assert!(begin.elapsed() < Duration::from_secs(60), "without --timeout it takes that long at least");
    let asked = server.requests();
    let mut child = command();
    child.args(["ingest", &scratch.db]).args(words.split_whitespace()).args(["--timeout", "1d"]);
    let mut child = piped(&mut child).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while server.requests() == asked {
        assert!(Instant::now() < end, "the embedder is asked");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&child, rustix::process::Signal::INT);
    let mut said = String::new();
    std::io::BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["interrupted"].as_str().unwrap().contains("second interruption"), "{said}");
    assert_eq!(child.try_wait().unwrap(), None, "it waits for the embedder");
    signal(&child, rustix::process::Signal::INT);
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "it ends");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1));
    server.always(None);
    let done = report(ingest(&scratch, &words));
    assert_eq!((number(&done["stored"]), number(&done["position"])), (1, 6), "{done}");
    scratch.verify();
}

#[test]
fn what_was_set_aside_is_shown_and_tried_again() {
    let scratch = Scratch::new();
    let lines = [
        r#"{"path": "good", "content": "good words"}"#,
        r#"{"path": "late", "content_ref": "late.txt"}"#,
        "{not json",
        r#"{"path": "x", "op": "rename"}"#,
        r#"{"op": "add"}"#,
        r#"{"path": "b", "content_base64": "/w=="}"#,
        "",
    ];
    let mut bytes = (lines.join("\n") + "\n").into_bytes();
    bytes.extend(b"{\"path\": \"\xff\"}\n");
    let file = scratch.file("changes.jsonl", bytes);
    let base = scratch.path("files");
    std::fs::create_dir(&base).unwrap();
    let base = base.to_str().unwrap();
    let words = format!("c {file} --source s --embed hash:16 --base {base}");
    let dry = report(ingest(&scratch, &format!("{words} --dry-run --json")));
    assert_eq!((number(&dry["items"]), number(&dry["texts"]), number(&dry["rejected"])), (8, 1, 1), "{dry}");
    assert!(!scratch.path("db").exists(), "nothing is stored");
    let done = report(ingest(&scratch, &format!("{words} --json")));
    assert_eq!((number(&done["committed"]), number(&done["dead_lettered"])), (1, 6), "{done}");
    let failed = scratch.run("source", "failed --json").json();
    let classes: Vec<&str> = failed.iter().map(|item| item["class"].as_str().unwrap()).collect();
    let expected = ["file system", "validation", "validation", "validation", "encoding", "encoding"];
    assert_eq!(classes, expected);
    assert_eq!((&failed[0]["payload"], &failed[0]["id"]), (&lines[1].into(), &"late".into()));
    assert_eq!(failed[5]["payload_hex"], "7b2270617468223a2022ff227d");
    let failed = scratch.run("source", "failed").ok();
    assert!(failed.contains("tried 1 time:"), "{failed}");
    std::fs::write(scratch.path("files/late.txt"), "better late than never").unwrap();
    scratch.run("source", "retry s --position 0").fails(1, &["position 0"]);
    let retried = report(scratch.run("source", "retry s --json"));
    assert_eq!(
        (number(&retried["tried"]), number(&retried["committed"]), number(&retried["left"])),
        (6, 1, 5)
    );
    assert_eq!(scratch.run("count", "c").ok().trim(), "2");
    // What is given up is counted, and no more.
    let given_up = report(scratch.run("source", "failed s --forget 2 --forget 3 --forget 2 --json"));
    assert_eq!((number(&given_up["forgotten"]), number(&given_up["left"])), (2, 3));
    scratch.run("source", "failed s --forget 4 --forget 2").fails(1, &["position 2"]);
    let left = scratch.run("source", "failed --json").json();
    let left: Vec<u64> = left.iter().map(|item| number(&item["position"])).collect();
    assert_eq!(left, [4, 5, 7]);
    let status = report(scratch.run("source", "status s --json"));
    let counts = ["committed", "dead_lettered", "rejected", "position"].map(|name| number(&status[name]));
    assert_eq!(counts, [2, 3, 3, 8], "{status}");
    let ledger = rusqlite::Connection::open(scratch.path("db.ingest/ledger.sqlite")).unwrap();
    let rows: i64 = ledger.query_row("SELECT count(*) FROM failed_items", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3);
    scratch.verify();
}

#[test]
fn a_dry_run_refuses_another_embedder_and_takes_given_vectors_as_a_run_does() {
    let scratch = Scratch::new();
    let texts = scratch.file("texts.jsonl", br#"{"path": "a", "content": "words"}"#);
    ingest(&scratch, &format!("c {texts} --embed hash:16")).ok();
    ingest(&scratch, &format!("c {texts} --embed hash:32 --dry-run")).fails(1, &["was embedded with"]);
    let vector = vec!["1"; 16].join(", ");
    let rows = scratch.file("rows.jsonl", format!("{{\"id\": \"b\", \"vector\": [{vector}]}}").as_bytes());
    for words in ["--dry-run", ""] {
        ingest(&scratch, &format!("c {rows} --embed given {words}")).ok();
    }
}

#[test]
fn a_stream_may_begin_with_a_byte_order_mark() {
    let scratch = Scratch::new();
    let file = scratch.file("changes.jsonl", b"\xef\xbb\xbf{\"path\": \"a\", \"content\": \"words\"}\n");
    let done = report(ingest(&scratch, &format!("c {file} --embed hash:16 --json")));
    assert_eq!((number(&done["stored"]), number(&done["dead_lettered"])), (1, 0), "{done}");
}

#[test]
fn a_source_that_was_begun_with_an_empty_file_goes_on_when_there_is_something_in_it() {
    let scratch = Scratch::new();
    let file = scratch.file("changes.jsonl", b"");
    let words = format!("c {file} --embed hash:16 --json");
    assert_eq!(number(&report(ingest(&scratch, &words))["received"]), 0);
    for line in 1..3 {
        let mut file = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
        writeln!(file, r#"{{"path": "{line}", "content": "text"}}"#).unwrap();
        assert_eq!(number(&report(ingest(&scratch, &words))["committed"]), 1);
    }
}

#[test]
fn a_run_that_is_refused_or_about_another_source_changes_nothing_for_the_same_command() {
    let scratch = Scratch::new();
    let one = scratch.file("one.jsonl", br#"{"path": "a", "content": "some words"}"#);
    let other = scratch.file("other.jsonl", br#"{"path": "b", "content": "other words"}"#);
    let words = format!("c {one} --embed hash:16");
    ingest(&scratch, &words).ok();
    ingest(&scratch, &format!("{words} --chunk whole")).fails(1, &["was begun with"]);
    ingest(&scratch, &words).ok();
    ingest(&scratch, &format!("c {other} --chunk whole")).ok();
    ingest(&scratch, &words).ok();
    ingest(&scratch, &format!("c {other}")).ok();
}

#[test]
fn a_run_that_reads_nothing_more_is_as_far_as_the_one_before() {
    let scratch = Scratch::new();
    let lines = "{\"path\": \"a\", \"content\": \"words\"}\n{not json\n";
    let file = scratch.file("changes.jsonl", lines.as_bytes());
    let words = format!("c {file} --source s --embed hash:16");
    let at_the_end = || {
        let status = report(scratch.run("source", "status s --json"));
        assert_eq!(
            (status["progress_percent"].as_f64(), number(&status["lag_bytes"])),
            (Some(100.0), 0),
            "{status}"
        );
    };
    for _ in 0..2 {
        ingest(&scratch, &words).ok();
        at_the_end();
    }
    scratch.run("source", "retry s").ok();
    at_the_end();
}

#[test]
fn sources_are_listed_paused_reset_and_purged() {
    let scratch = Scratch::new();
    let file = scratch.file("rows.jsonl", common::small_lines(0..25));
    let words = format!("c {file} --source s --batch-size 10");
    ingest(&scratch, &words).ok();
    // Given vectors: no embedder, and the position is behind the last row.
    let listed = report(scratch.run("source", "ls --json"));
    assert_eq!((&listed["source"], number(&listed["position"])), (&"s".into(), 25));
    let summary = report(scratch.run("source", "status --summary --json"));
    assert_eq!((number(&summary["sources"]), number(&summary["committed"])), (1, 25));
    let status = report(scratch.run("source", "status s --json"));
    assert_eq!((status["progress_percent"].as_f64(), number(&status["lag_bytes"])), (Some(100.0), 0));
    scratch.run("source", "status none").fails(1, &["none"]);
    for action in ["status", "status --summary", "failed", "status s", "purge", "pause s"] {
        scratch.run("source", &format!("{action} --collection nosuch")).fails(1, &["nosuch"]);
    }
    scratch.run("create", "empty --dim 2").ok();
    assert_eq!(scratch.run("source", "status --collection empty --json").ok(), "");
    assert_eq!(status.get("embedder"), None);
    scratch.run("source", "pause s").ok();
    ingest(&scratch, &words).fails(1, &["paused"]);
    scratch.run("source", "resume s").ok();
    let again = report(ingest(&scratch, &format!("{words} --json")));
    assert_eq!((number(&again["received"]), number(&again["run"])), (0, 2));
    // Another file under that name is another input.
    std::fs::write(&file, common::small_lines(100..110)).unwrap();
    ingest(&scratch, &words).fails(1, &["is not the one", "--restart"]);
    let anew = report(ingest(&scratch, &format!("{words} --restart --json")));
    assert_eq!((number(&anew["received"]), number(&anew["run"])), (10, 1));
    ingest(&scratch, &words).ok();
    scratch.run("source", "purge --older-than 0s").ok();
    assert_eq!(number(&report(scratch.run("source", "status s --json"))["runs"]), 1);
    scratch.run("source", "ledger").ok();
    assert!(scratch.path("db.ingest/ledger.sqlite").exists());
    scratch.run("source", "reset s").ok();
    assert_eq!(scratch.run("source", "ls").ok().trim(), "no sources");
    assert_eq!(scratch.run("count", "c").ok().trim(), "35");
}

#[test]
fn a_file_that_grows_is_followed_until_a_signal() {
    let scratch = Scratch::new();
    let file = scratch.file("rows.jsonl", common::small_lines(0..5));
    let args = ["c", &file, "--source", "s", "--follow", "--json"];
    let mut child = piped(command().args(["ingest", &scratch.db]).args(args)).spawn().unwrap();
    let mut grown = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    grown.write_all(common::small_lines(5..9).as_bytes()).unwrap();
    grown.write_all(b"{\"id\": 9, \"vec").unwrap();
    // What is there is committed although no batch is full.
    let end = Instant::now() + PATIENCE;
    loop {
        let status = scratch.run("source", "status --json");
        if status.code == 0 && status.stdout.contains("\"position\":9,") {
            break;
        }
        assert!(Instant::now() < end, "{status:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    signal(&child, rustix::process::Signal::INT);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let ended: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((number(&ended["received"]), number(&ended["committed"])), (9, 9));
    grown.write_all(b"tor\": [1, 0]}\n").unwrap();
    let done = report(ingest(&scratch, &format!("c {file} --source s --json")));
    assert_eq!((number(&done["received"]), number(&done["position"])), (1, 10));
}

#[test]
fn what_can_not_be_meant_is_a_usage_error() {
    let scratch = Scratch::new();
    let root = folder(&scratch);
    let file = scratch.file("rows.jsonl", common::small_lines(0..3));
    for words in [
        format!("c {root} {file}"),
        format!("c {root} --follow --embed hash:16"),
        format!("c {root} --base . --embed hash:16"),
        format!("c {file} --include *.md"),
        format!("c {file} --batch-size 0"),
        format!("c {file} --workers 0"),
        format!("c {file} --rate 0"),
        format!("c {file} --timeout 0s"),
        format!("c {file} --timeout soon"),
        format!("c {file} --resume --restart"),
        format!("c {file} --embed hash:0"),
        format!("c {file} --embed nonsense"),
        format!("c {file} --chunk words:3"),
        "c - -".to_owned(),
        "c".to_owned(),
    ] {
        ingest(&scratch, &words).fails(2, &[]);
    }
    ingest(&scratch, "c no-such-file.jsonl").fails(1, &["no-such-file.jsonl"]);
    let texts = scratch.file("texts.jsonl", "{\"id\": 1, \"text\": \"words\"}\n");
    ingest(&scratch, &format!("c {texts}")).fails(1, &["--embed hash:256"]);
    assert!(!scratch.path("db").exists(), "nothing was created");
}
