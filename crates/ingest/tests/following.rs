//! A file that grows, is cut short and is replaced while it is followed: every finished line, once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "these are tests")]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plimsoll_ingest::input::{Follow, Input, Inputs, Line, Next, Place};

const INTERVAL: Duration = Duration::from_millis(1);

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// What comes until nothing comes for two intervals: after the first, a replaced file is read to its end.
fn lines(mut next: impl FnMut() -> Next) -> Vec<Line> {
    let (mut lines, mut idle) = (Vec::new(), 0);
    while idle < 2 {
        match next() {
            Next::Line(line) => {
                lines.push(line);
                idle = 0;
            }
            Next::Idle => idle += 1,
            Next::End => panic!("nobody has asked to stop"),
        }
    }
    lines
}

fn text(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text().unwrap()).collect()
}

#[test]
fn a_line_comes_when_its_end_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, "one\ntw");
    let stop = Arc::new(AtomicBool::new(false));
    let mut follow = Follow::open(&path, 100, Arc::clone(&stop), INTERVAL).unwrap();
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), ["one"]);
    append(&path, "o");
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), [""; 0]);
    append(&path, "\nthree\n");
    let found = lines(|| follow.next_line().unwrap());
    assert_eq!(text(&found), ["two", "three"]);
    assert_eq!(found.iter().map(|line| line.position).collect::<Vec<_>>(), [1, 2]);
    append(&path, "unfinished");
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), [""; 0]);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(follow.next_line().unwrap(), Next::End);
    // It is left for another time.
    assert_eq!(follow.start().offset, 14);
}

#[test]
fn after_a_truncation_and_a_replacement_reading_goes_on_at_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, "one\ntwo\nrest");
    let mut follow = Follow::open(&path, 100, Arc::default(), INTERVAL).unwrap();
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), ["one", "two"]);
    fs::write(&path, "a\n").unwrap();
    let found = lines(|| follow.next_line().unwrap());
    assert_eq!(text(&found), ["rest", "a"], "what was written is not lost");
    assert_eq!((found[1].position, found[1].start, found[1].number), (3, 0, 0));

    // Rotation: the writer goes on in the old file for a while.
    fs::rename(&path, dir.path().join("log.1")).unwrap();
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), [""; 0]);
    append(&dir.path().join("log.1"), "late\n");
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), ["late"]);
    append(&path, "new\n");
    let found = lines(|| follow.next_line().unwrap());
    assert_eq!((text(&found), found[0].position), (vec!["new"], 5));
    append(&path, "more\n");
    assert_eq!(text(&lines(|| follow.next_line().unwrap())), ["more"]);
}

#[test]
fn following_begins_where_reading_had_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (first, path) = (dir.path().join("first"), dir.path().join("log"));
    append(&first, "0\n");
    append(&path, "1\n2\n");
    let inputs = || Inputs::new([Input::File(first.clone()), Input::File(path.clone())]);
    let mut followed = inputs().follow(Arc::default(), INTERVAL);
    let found = lines(|| followed.next_line().unwrap());
    assert_eq!(text(&found), ["0", "1", "2"]);
    for at in 0..3 {
        let place = Place::from_state(&found[at].place().to_state()).unwrap();
        let mut again = inputs().follow(Arc::default(), INTERVAL);
        again.resume(&place).unwrap();
        assert_eq!(lines(|| again.next_line().unwrap()), found[at + 1..]);
    }
    // A place in a file that was replaced while it was followed is one in the new file.
    fs::remove_file(&path).unwrap();
    append(&path, "x\ny\n");
    let found = lines(|| followed.next_line().unwrap());
    assert_eq!(text(&found), ["x", "y"]);
    let mut again = inputs().follow(Arc::default(), INTERVAL);
    again.resume(&found[0].place()).unwrap();
    assert_eq!(lines(|| again.next_line().unwrap()), found[1..]);
}

#[test]
fn lines_written_by_another_thread_come_in_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, "");
    let stop = Arc::new(AtomicBool::new(false));
    let mut follow = Follow::open(&path, 100, Arc::clone(&stop), INTERVAL).unwrap();
    let (writing, rotated) = (path.clone(), dir.path().join("log.1"));
    let writer = thread::spawn(move || {
        for number in 0..300 {
            for part in format!("line {number}\n").split_inclusive(' ') {
                append(&writing, part);
            }
            if number == 150 {
                fs::rename(&writing, &rotated).unwrap();
            }
        }
    });
    let mut found = Vec::new();
    while found.len() < 300 {
        match follow.next_line().unwrap() {
            Next::Line(line) => found.push(line),
            Next::Idle => {}
            Next::End => panic!("nobody has asked to stop"),
        }
    }
    writer.join().unwrap();
    for (number, line) in found.iter().enumerate() {
        assert_eq!(line.text().unwrap(), format!("line {number}"));
        assert_eq!(line.position, number as u64);
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(follow.next_line().unwrap(), Next::End);
}
