//! Lines, and going on from any of them: the same lines as in one pass, or an error that names what has changed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "these are tests")]

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use plimsoll_ingest::FailureClass;
use plimsoll_ingest::input::{HEAD_BYTES, Input, InputError, Inputs, Line, LineReader, Next, Place};
use proptest::prelude::*;

fn lines(inputs: &mut Inputs) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Next::Line(line) = inputs.next_line().unwrap() {
        lines.push(line);
    }
    lines
}

fn files(paths: &[PathBuf], limit: usize) -> Inputs {
    Inputs::new(paths.iter().cloned().map(Input::File)).limit(limit)
}

fn streams(contents: &[Vec<u8>], limit: usize) -> Inputs {
    let stream = |(number, bytes): (usize, &Vec<u8>)| {
        Input::Stream(format!("stream {number}"), Box::new(Cursor::new(bytes.clone())))
    };
    Inputs::new(contents.iter().enumerate().map(stream)).limit(limit)
}

fn stored(place: &Place) -> Place {
    Place::from_state(&place.to_state()).unwrap()
}

fn written(dir: &Path, contents: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(number, bytes): (usize, &Vec<u8>)| {
        let path = dir.join(format!("{number}.jsonl"));
        fs::write(&path, bytes).unwrap();
        path
    };
    contents.iter().enumerate().map(write).collect()
}

fn text(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect()
}

#[test]
fn every_line_is_there_with_its_number_and_where_it_lies() {
    let bytes = b"\xef\xbb\xbf{\"a\":1}\r\n\n \t\r\nb\xff\r\r\nlast";
    for capacity in [1, 2, 3, 7, 100] {
        let mut reader = LineReader::new(BufReader::with_capacity(capacity, &bytes[..]));
        let mut found = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            found.push(line);
        }
        let contents: Vec<&[u8]> = found.iter().map(|line| &line.bytes[..]).collect();
        assert_eq!(contents, [&b"{\"a\":1}"[..], b"", b" \t", b"b\xff\r", b"last"]);
        assert_eq!(found.iter().map(|line| line.end).collect::<Vec<_>>(), [12, 13, 17, 22, 26]);
        assert_eq!(found.iter().map(Line::is_blank).collect::<Vec<_>>(), [false, true, true, false, false]);
        assert!(found.iter().zip(0..).all(|(line, number)| (line.number, line.position) == (number, number)));
        assert_eq!(found.iter().map(|line| line.ended).collect::<Vec<_>>(), [true, true, true, true, false]);
        let failure = found[3].text().unwrap_err();
        assert_eq!(failure.class, FailureClass::Encoding);
        assert!(failure.message.contains("byte 1"), "{failure}");
    }
}

#[test]
fn a_line_that_is_too_long_keeps_its_head_and_the_next_one_is_read() {
    let long = vec![b'x'; 3 * HEAD_BYTES];
    let bytes = [&long[..], b"\r\nshort\n", &long[..2 * HEAD_BYTES], b"\r\n", &long[..]].concat();
    let reader = BufReader::with_capacity(1000, &bytes[..]);
    let mut reader = LineReader::new(reader).limit(2 * HEAD_BYTES);
    let first = reader.next_line().unwrap().unwrap();
    assert_eq!(first.bytes, long[..HEAD_BYTES]);
    assert!(first.too_long.is_some());
    let failure = first.text().unwrap_err();
    assert_eq!(failure.class, FailureClass::Memory);
    assert_eq!(reader.next_line().unwrap().unwrap().text(), Ok("short"));
    let just = reader.next_line().unwrap().unwrap();
    assert_eq!((just.bytes.len(), just.too_long), (2 * HEAD_BYTES, None));
    let last = reader.next_line().unwrap().unwrap();
    assert_eq!((last.too_long, last.ended), (Some(3 * HEAD_BYTES as u64), false));
    assert_eq!(reader.next_line().unwrap(), None);
    assert_eq!(reader.start().offset, bytes.len() as u64);
}

/// Pieces of files: lines of every kind, with every kind of end.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-c{}\": ]{0,12}".prop_map(String::into_bytes),
        2 => Just(Vec::new()),
        1 => Just(b"\xff\xfe\x00".to_vec()),
        1 => Just("ü€".as_bytes().to_vec()),
        1 => Just(b"\xef\xbb\xbf".to_vec()),
        1 => Just(vec![b'z'; 40]),
        1 => Just(b" \t".to_vec()),
    ];
    let end = prop_oneof![3 => Just(&b"\n"[..]), 2 => Just(&b"\r\n"[..]), 1 => Just(&b"\r"[..])];
    let lines = prop::collection::vec((piece, end), 0..12);
    (lines, any::<bool>()).prop_map(|(lines, is_ended)| {
        let mut bytes: Vec<u8> =
            lines.into_iter().flat_map(|(piece, end)| [&piece[..], end].concat()).collect();
        if !is_ended {
            bytes.pop();
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn resuming_after_every_line_gives_what_one_pass_gives(
        contents in prop::collection::vec(content(), 1..4),
        limit in prop_oneof![Just(1usize), Just(5), Just(30), Just(1000)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let paths = written(dir.path(), &contents);
        let all = lines(&mut files(&paths, limit));
        prop_assert_eq!(text(&lines(&mut streams(&contents, limit))), text(&all));
        prop_assert!(all.iter().zip(0..).all(|(line, position)| line.position == position));
        let bytes: usize = contents.iter().map(Vec::len).sum();
        prop_assert_eq!(all.iter().map(|line| line.end - line.start).sum::<u64>(), bytes as u64);
        for (at, line) in all.iter().enumerate() {
            let place = stored(&line.place());
            let mut again = files(&paths, limit);
            again.resume(&place).unwrap();
            prop_assert_eq!(again.position(), place.position);
            let rest = lines(&mut again);
            prop_assert_eq!(&rest[..], &all[at + 1..]);
            prop_assert_eq!(again.bytes(), bytes as u64);
            let mut again = streams(&contents, limit);
            again.resume(&stored(&streamed(&contents, limit, at))).unwrap();
            prop_assert_eq!(text(&lines(&mut again)), text(&all[at + 1..]));
        }
    }

    #[test]
    fn another_beginning_is_never_gone_on_with(
        content in content(), at in any::<prop::sample::Index>(), byte in any::<u8>(), bit in any::<u8>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let paths = written(dir.path(), std::slice::from_ref(&content));
        let all = lines(&mut files(&paths, 1000));
        prop_assume!(!all.is_empty());
        let line = &all[at.index(all.len())];
        // Of a byte order mark alone nothing was read.
        prop_assume!(line.ended || !line.bytes.is_empty());
        let mut bytes = content;
        // Any byte of the last line that was read, its end included.
        let place = line.start + u64::from(byte) % (line.end - line.start);
        bytes[usize::try_from(place).unwrap()] ^= 1 << (bit % 8);
        fs::write(&paths[0], bytes).unwrap();
        let mut again = files(&paths, 1000);
        let resumed = again.resume(&line.place());
        // A byte order mark more or less, or a carriage return for another byte, changes the contents of the line.
        prop_assert!(matches!(resumed, Err(InputError::Changed { .. })), "{resumed:?}");
    }
}

/// The place after a line of streams.
fn streamed(contents: &[Vec<u8>], limit: usize, at: usize) -> Place {
    lines(&mut streams(contents, limit))[at].place()
}

#[test]
fn what_is_appended_is_read_later_and_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "1\n2\n").unwrap();
    let paths = [path.clone()];
    let all = lines(&mut files(&paths, 100));
    let place = all[1].place();
    let fingerprint = files(&paths, 100).fingerprint().unwrap();
    fs::write(&path, "1\n2\n3\n").unwrap();
    let mut again = files(&paths, 100);
    again.resume(&place).unwrap();
    let rest = lines(&mut again);
    assert_eq!((text(&rest), rest[0].position), (vec!["3".to_owned()], 2));
    assert_eq!(files(&paths, 100).fingerprint().unwrap(), fingerprint);
    fs::write(&path, "another\n").unwrap();
    assert_ne!(files(&paths, 100).fingerprint().unwrap(), fingerprint);
}

#[test]
fn a_last_line_that_was_not_finished_is_read_again_whole_once_it_is() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (grown, expected)) in [
        ("1\n{\"id\":7}\n3\n", vec!["{\"id\":7}", "3"]),
        // Only its end was missing.
        ("1\n{\"id\"\n3\n", vec!["3"]),
        ("1\r\n{\"id\":", vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(number.to_string());
        fs::write(&path, "1\n{\"id\"").unwrap();
        let all = lines(&mut files(std::slice::from_ref(&path), 100));
        let place = all[1].place();
        fs::write(&path, grown).unwrap();
        for mut again in [files(&[path], 100), streams(&[grown.as_bytes().to_vec()], 100)] {
            let resumed = again.resume(&place);
            if expected.is_empty() {
                assert!(resumed.is_err());
                continue;
            }
            resumed.unwrap();
            let rest = lines(&mut again);
            assert_eq!(text(&rest), expected);
            assert_eq!(rest[0].position, 2);
            let mut third = streams(&[grown.as_bytes().to_vec()], 100);
            third.resume(&rest[0].place()).unwrap();
            assert_eq!(text(&lines(&mut third)), expected[1..]);
        }
    }
}

#[test]
fn files_before_the_last_one_must_stay_and_more_may_follow() {
    let dir = tempfile::tempdir().unwrap();
    let contents = [b"a1\na2\n".to_vec(), b"b1\nb2".to_vec()];
    let mut paths = written(dir.path(), &contents);
    let all = lines(&mut files(&paths, 100));
    assert_eq!(text(&all), ["a1", "a2", "b1", "b2"]);
    assert_eq!(files(&paths, 100).total_bytes(), Some(11));
    assert_eq!(streams(&contents, 100).total_bytes(), None);
    paths.push(dir.path().join("c"));
    fs::write(&paths[2], "c1\n").unwrap();
    let mut more = files(&paths, 100);
    more.resume(&all[3].place()).unwrap();
    let rest = lines(&mut more);
    assert_eq!((text(&rest), rest[0].position), (vec!["c1".to_owned()], 4));
    fs::write(&paths[0], "a1\na2\na3\n").unwrap();
    let error = files(&paths, 100).resume(&rest[0].place()).unwrap_err();
    assert!(matches!(error, InputError::Changed { .. }), "{error}");
    assert!(files(&paths, 100).resume(&all[0].place()).is_err(), "its length is known");
    assert!(files(&paths[..1], 100).resume(&all[3].place()).is_err(), "a file less");
}

#[test]
fn a_file_that_got_shorter_or_is_gone_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "1\n2\n3\n").unwrap();
    let paths = [path.clone()];
    let place = lines(&mut files(&paths, 100))[2].place();
    for shorter in ["1\n2\n", "1\n", "", "1\n2\n3"] {
        fs::write(&path, shorter).unwrap();
        let error = files(&paths, 100).resume(&place).unwrap_err();
        assert!(matches!(error, InputError::Changed { .. }), "{shorter:?}: {error}");
        let mut stream = streams(&[shorter.as_bytes().to_vec()], 100);
        assert!(stream.resume(&place).is_err(), "{shorter:?}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(files(&paths, 100).resume(&place), Err(InputError::Io { .. })));
    assert!(matches!(files(&paths, 100).next_line(), Err(InputError::Io { .. })));
    assert!(matches!(files(&[dir.path().to_owned()], 100).next_line(), Err(InputError::Io { .. })));
    // Whoever wants the file that has taken its place from its beginning on can have it.
    fs::write(&path, "x\n").unwrap();
    let mut again = files(&paths, 100);
    again.resume(&place.at_start_of_file()).unwrap();
    let rest = lines(&mut again);
    assert_eq!((text(&rest), rest[0].position), (vec!["x".to_owned()], 3));
}

#[test]
fn the_fingerprint_is_the_first_line_that_is_not_blank_and_takes_nothing_from_a_stream() {
    let fingerprint = |bytes: &[u8]| {
        let mut inputs = streams(&[bytes.to_vec()], 1 << 20);
        let found = inputs.fingerprint().unwrap();
        let expected = lines(&mut streams(&[bytes.to_vec()], 1 << 20));
        assert_eq!(lines(&mut inputs), expected);
        found
    };
    let first = fingerprint(b"first\nsecond\n");
    assert!(first.is_some());
    assert_eq!(first, fingerprint(b"first"));
    assert_eq!(first, fingerprint(b"first\r\nother"));
    assert_ne!(first, fingerprint(b"fi"));
    assert_eq!(first, fingerprint(b"\n \t\nfirst\nother\n"));
    assert_eq!(fingerprint(b""), None);
    assert_eq!(fingerprint(b" \n\r\n"), None);
    assert_eq!(fingerprint(&vec![b'\n'; 2 * HEAD_BYTES]), None);
    let long = vec![b'x'; 2 * HEAD_BYTES];
    assert_eq!(fingerprint(&long), fingerprint(&[&long[..], b"yz\nabc"].concat()));
    assert_eq!(fingerprint(&long), fingerprint(&[&long[..], &long[..], &long[..], b"yz\nabc"].concat()));
}

#[test]
fn states_that_are_no_places_are_refused() {
    assert_eq!(Place::from_state(b"").unwrap(), Place::default());
    let place = lines(&mut streams(&[b"a\nb\n".to_vec()], 10))[1].place();
    let good = String::from_utf8(place.to_state()).unwrap();
    assert!(good.len() < 300, "{good}");
    for (from, to) in
        [("\"offset\":4", "\"offset\":1"), ("\"line\":2", "\"line\":0"), ("\"position\":2", "\"position\":1")]
    {
        assert!(good.contains(from), "{good}");
        let wrong = good.replace(from, to);
        assert!(matches!(Place::from_state(wrong.as_bytes()), Err(InputError::Place(_))), "{wrong}");
    }
    assert!(Place::from_state(b"{").is_err());
    for file in [7, usize::MAX] {
        let mut elsewhere = place.clone();
        elsewhere.file = file;
        assert!(streams(&[b"a\nb\n".to_vec()], 10).resume(&elsewhere).is_err());
        let mut nowhere = Place::default();
        nowhere.file = file;
        assert!(streams(&[b"a\nb\n".to_vec()], 10).resume(&nowhere).is_err());
    }
}
