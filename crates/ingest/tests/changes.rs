//! What each kind of line asks for, and that each mistake has its class and a sentence.

#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "these are tests")]

use std::fs;
use std::path::Path;

use plimsoll::{Document, Key, Metadata, Value};
use plimsoll_ingest::input::{
    Change, Changeset, Entry, Files, Follow, Format, Inputs, Line, Op, Parser, SkipReason, Walk,
};
use plimsoll_ingest::{Failure, FailureClass};
use plimsoll_lines::{DocumentLine, Operation, parse_line};
use proptest::prelude::*;

fn parse(line: &str) -> Entry {
    Parser::new(Files::none()).parse_text(line)
}

fn below(base: &Path) -> Parser {
    Parser::new(Files::below(base).unwrap())
}

fn text_of(entry: Entry) -> (Key, String, Metadata) {
    match entry.change {
        Ok(Change::Text { key, text, metadata }) => (key, text, metadata),
        other => panic!("{other:?}"),
    }
}

fn failure(entry: Entry) -> Failure {
    entry.change.unwrap_err()
}

#[test]
fn rows_of_import_are_what_import_makes_of_them() {
    let row = r#"{"id": "a", "vector": [1, 2.5], "text": "grüße", "metadata": {"n": 1}}"#;
    let expected = Document::new("a").text("grüße").metadata("n", 1).vector([1.0, 2.5]);
    let entry = parse(row);
    assert_eq!((entry.format, entry.op), (Format::Row, Op::Upsert));
    assert_eq!(entry.change, Ok(Change::Upsert(expected)));
    let delete = parse(r#" {"id": 7, "op": "delete"}"#);
    assert_eq!((delete.op, delete.change), (Op::Delete, Ok(Change::Delete(Key::from(7)))));
    // Without a vector there is a text to be embedded.
    let (key, text, metadata) = text_of(parse(r#"{"id": 7, "text": "abc", "metadata": {"n": 1}}"#));
    assert_eq!((key, text.as_str(), &metadata["n"]), (Key::from(7), "abc", &Value::from(1)));
}

#[test]
fn changes_have_their_content_with_them() {
    let line = r#"{"line": 12, "path": "src/a.rs", "op": "add", "repo": "r", "content": "fn", "size": 2, "mime": "text/rust", "new": [1]}"#;
    let entry = parse(line);
    assert_eq!((entry.format, entry.op, entry.line), (Format::Change, Op::Add, Some(12)));
    assert_eq!((entry.path.as_deref(), entry.repo.as_deref()), (Some("src/a.rs"), Some("r")));
    let (key, text, metadata) = text_of(entry);
    assert_eq!((key, text.as_str()), (Key::from("r:src/a.rs"), "fn"));
    let expected =
        [("path", "src/a.rs".into()), ("repo", "r".into()), ("mime", "text/rust".into()), ("size", 2.into())];
    assert_eq!(metadata, expected.map(|(name, value): (&str, Value)| (name.to_owned(), value)).into());

    let (key, text, metadata) =
        text_of(parse(r#"{"path": "a", "content_base64": "Z3LDvMOfZQ==", "repo": null}"#));
    assert_eq!((key, text.as_str(), &metadata["size"]), (Key::from("a"), "grüße", &Value::from(7)));
    assert_eq!(text_of(parse(r#"{"path": "a", "content_base64": "Z3LDvMOfZQ"}"#)).1, "grüße");
    assert_eq!(text_of(parse(r#"{"path": "a", "op": "modify", "content": ""}"#)).1, "");
    let delete = parse(r#"{"path": "a", "op": "delete", "repo": "r", "skip_index": true}"#);
    assert_eq!((delete.op, delete.change), (Op::Delete, Ok(Change::Delete(Key::from("r:a")))));
    let skipped = parse(r#"{"path": "a", "op": "add", "skip_index": true, "content": "x"}"#);
    assert_eq!(skipped.change, Ok(Change::Skip(SkipReason::SkipIndex)));
}

#[test]
fn readers_can_be_moved_and_parsers_shared_between_threads() {
    fn moved<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    moved::<(Inputs, Follow, Walk, Line)>();
    shared::<(Parser, Entry)>();
}

#[test]
fn control_records_are_kept_as_they_are_and_are_no_data() {
    let entry = parse(r#"{"line": 999, "repo": "r", "new_changeset": {"commit": "abc", "parent" : "def"}}"#);
    assert_eq!((entry.format, entry.line), (Format::Control, Some(999)));
    let changeset =
        Changeset { repo: Some("r".to_owned()), json: r#"{"commit": "abc", "parent" : "def"}"#.to_owned() };
    assert_eq!(entry.change, Ok(Change::Control(changeset)));
    assert_eq!(parse(" \t").change, Ok(Change::Skip(SkipReason::Blank)));
}

#[test]
fn each_mistake_has_its_class_and_is_named() {
    use FailureClass::{Encoding, Memory, Validation};
    let long = "x".repeat(1025);
    let long_path = format!(r#"{{"path": "{long}", "content": "x"}}"#);
    let long_with_repo = format!(r#"{{"path": "{}", "repo": "r", "op": "delete"}}"#, &long[..1023]);
    let large = format!(r#"{{"path": "a", "content": "{}"}}"#, "x".repeat((16 << 20) + 1));
    let large_base64 =
        format!(r#"{{"path": "a", "content_base64": "{}"}}"#, "AAAA".repeat((16 << 20) / 3 + 2));
    let large_row = format!(r#"{{"id": 1, "vector": [1], "text": "{}"}}"#, "x".repeat((16 << 20) + 1));
    let large_metadata =
        format!(r#"{{"id": 1, "text": "", "metadata": {{"a": [{}0]}}}}"#, "0,".repeat(4 << 20));
    let large_changeset = format!(r#"{{"new_changeset": {{"a": "{}"}}}}"#, "x".repeat(1 << 20));
    for (line, class, expected) in [
        (&large_metadata[..], Validation, "the metadata has 8388618 bytes"),
        (&large_changeset, Validation, "the new_changeset has"),
        ("{", Validation, "malformed JSON"),
        ("{}", Validation, "neither id nor path"),
        (r#"{"path": null, "op": "add"}"#, Validation, "neither id nor path"),
        (r#"{"path": ""}"#, Validation, "the path is empty"),
        (r#"{"path": 7}"#, Validation, "\"path\""),
        (r#"{"path": "a", "id": 1}"#, Validation, "both id and path"),
        (r#"{"path": "a", "op": "remove"}"#, Validation, "\"remove\""),
        (r#"{"path": "a", "op": "upsert"}"#, Validation, "\"upsert\""),
        (r#"{"path": "a", "op": 1}"#, Validation, "\"op\""),
        (r#"{"path": "a", "vector": [1]}"#, Validation, "\"vector\""),
        (r#"{"path": "a", "text": "x"}"#, Validation, "\"text\""),
        (r#"{"path": "a", "content": "x", "content_ref": "b"}"#, Validation, "more than one"),
        (r#"{"path": "a", "content": "x", "content": "y"}"#, Validation, "twice"),
        (r#"{"path": "a", "content": ["x"]}"#, Validation, "\"content\""),
        (r#"{"path": "a", "content": "x", "size": -1}"#, Validation, "\"size\""),
        (r#"{"path": "a", "content": "x", "size": "1"}"#, Validation, "\"size\""),
        (r#"{"path": "a", "content": "x", "line": 1.5}"#, Validation, "\"line\""),
        (r#"{"path": "a", "content": "x", "skip_index": "yes"}"#, Validation, "\"skip_index\""),
        (r#"{"path": "a", "content_base64": "%%"}"#, Encoding, "not base64"),
        (r#"{"path": "a", "content_base64": "/w=="}"#, Encoding, "not UTF-8 at byte 0"),
        (r#"{"path": "a", "content_base64": "YQBi"}"#, Encoding, "byte 1 is zero"),
        (r#"{"path": "a", "content": "a\u0000b"}"#, Encoding, "byte 1 is zero"),
        (r#"{"path": "a"}"#, Validation, "no directory was given"),
        ("some/path", Validation, "no directory was given"),
        (&long, Validation, "1025 bytes"),
        (&long_path, Validation, "1025 bytes"),
        (&long_with_repo, Validation, "1025 bytes"),
        (&large, Memory, "16777217 bytes"),
        (&large_base64, Memory, "at most 16777216"),
        (&large_row, Memory, "16777217 bytes"),
        (r#"{"new_changeset": 7}"#, Validation, "not an object"),
        (r#"{"id": 1}"#, Validation, "neither text nor vector"),
        (r#"{"id": "", "text": "x"}"#, Validation, "the id is empty"),
        (r#"{"id": 1, "vector": [1], "mime": "x"}"#, Validation, "unknown field \"mime\""),
        (r#"{"id": 1, "vector": [1], "extra": "x"}"#, Validation, "unknown field \"extra\""),
        (r#"{"id": 1, "vector": [1], "postings": []}"#, Validation, "both vector and postings"),
        (r#"{"id": 1, "postings": []}"#, Validation, "0 postings"),
        (r#"{"id": 1, "op": "delete", "text": "x"}"#, Validation, "nothing else"),
        (r#"{"id": 1, "op": "add", "vector": [1]}"#, Validation, "\"add\""),
    ] {
        let failure = failure(parse(line));
        let shown = &line[..line.len().min(80)];
        assert!(failure.message.contains(expected), "{shown}: {failure}");
        assert_eq!(failure.class, class, "{shown}: {failure}");
    }
    assert_eq!(failure(Parser::new(Files::none()).parse_payload(b"{\xff")).class, Encoding);
    // What is known of it, is told.
    let entry = parse(r#"{"path": "a", "op": "remove", "repo": "r", "line": 7}"#);
    assert_eq!((entry.path.as_deref(), entry.repo.as_deref(), entry.line), (Some("a"), Some("r"), Some(7)));
}

#[test]
fn paths_and_references_are_read_below_the_base_only() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir_all(base.join("sub")).unwrap();
    fs::write(base.join("sub/a.txt"), "grüße").unwrap();
    fs::write(base.join("latin"), b"\xfc").unwrap();
    fs::write(base.join("binary"), b"x\0").unwrap();
    fs::File::create(base.join("large")).unwrap().set_len((16 << 20) + 1).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let parser = below(&base);
    let entry = parser.parse_text("sub/a.txt");
    assert_eq!((entry.format, entry.path.as_deref()), (Format::Path, Some("sub/a.txt")));
    let (key, text, metadata) = text_of(entry);
    assert_eq!((key, text.as_str()), (Key::from("sub/a.txt"), "grüße"));
    assert_eq!(metadata["size"], Value::from(7));
    let absolute = base.join("sub/a.txt").display().to_string();
    let (key, text, _) = text_of(parser.parse_text(&absolute));
    assert_eq!((key, text.as_str()), (Key::from(absolute), "grüße"));
    assert_eq!(
        text_of(parser.parse_text(r#"{"path": "x", "content_ref": "./sub/a.txt"}"#)).0,
        Key::from("x")
    );
    assert_eq!(text_of(parser.parse_text(r#"{"path": "sub/a.txt", "op": "add"}"#)).1, "grüße");
    assert_eq!(parser.parse_text("sub").change, Ok(Change::Skip(SkipReason::Directory)));

    let secret = dir.path().join("secret").display().to_string();
    for (path, class, expected) in [
        ("../secret", FailureClass::Validation, ".."),
        ("sub/../a", FailureClass::Validation, ".."),
        (&secret, FailureClass::Validation, "not below"),
        ("/etc/passwd", FailureClass::Validation, "not below"),
        ("gone", FailureClass::FileSystem, "gone"),
        ("sub/a.txt/b", FailureClass::FileSystem, "sub/a.txt/b"),
        ("latin", FailureClass::Encoding, "not UTF-8"),
        ("binary", FailureClass::Encoding, "binary"),
        ("large", FailureClass::Memory, "16777217 bytes"),
        ("a\\u0000b", FailureClass::Validation, "no path"),
    ] {
        let line = format!(r#"{{"path": "key", "content_ref": "{path}"}}"#);
        let failure = failure(parser.parse_text(&line));
        assert_eq!(failure.class, class, "{path}: {failure}");
        assert!(failure.message.contains(expected), "{path}: {failure}");
    }
    let failure = failure(parser.parse_text(r#"{"path": "key", "content_ref": "sub"}"#));
    assert!(failure.message.contains("directory"), "{failure}");
    assert!(Files::below(&base.join("gone")).is_err());
    assert!(Files::below(&base.join("latin")).is_err());
}

#[cfg(unix)]
#[test]
fn links_out_of_the_base_and_pipes_are_refused() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir_all(base.join("sub")).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    fs::write(base.join("a"), "inside").unwrap();
    symlink("../secret", base.join("out")).unwrap();
    symlink(dir.path(), base.join("up")).unwrap();
    symlink("../a", base.join("sub/in")).unwrap();
    symlink("loop", base.join("loop")).unwrap();
    let parser = below(&base);
    for (path, class) in [
        ("out", FailureClass::Validation),
        ("up/secret", FailureClass::Validation),
        ("loop", FailureClass::FileSystem),
    ] {
        assert_eq!(failure(parser.parse_text(path)).class, class, "{path}");
    }
    assert_eq!(text_of(parser.parse_text("sub/in")).1, "inside");
    // A base that is itself a link is where it leads to.
    symlink(&base, dir.path().join("link")).unwrap();
    let parser = below(&dir.path().join("link"));
    assert_eq!(text_of(parser.parse_text("a")).1, "inside");
    assert_eq!(text_of(parser.parse_text(&dir.path().join("link/a").display().to_string())).1, "inside");
    let made = std::process::Command::new("mkfifo").arg(base.join("pipe")).status();
    if made.is_ok_and(|status| status.success()) {
        assert!(failure(parser.parse_text("pipe")).message.contains("no regular file"));
    }
}

/// Lines that are nearly right: fields in any order, with values of the wrong type now and then.
fn line() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "id",
        "op",
        "text",
        "metadata",
        "vector",
        "postings",
        "line",
        "path",
        "repo",
        "content",
        "content_base64",
        "content_ref",
        "size",
        "mime",
        "skip_index",
        "new_changeset",
        "x",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "\"a\"",
        "null",
        "true",
        "[1, 2]",
        "{}",
        "\"delete\"",
        "\"add\"",
        "\"upsert\"",
        "\"YQ==\"",
        "\"\"",
        "-1",
        "[{\"start\": 0, \"length\": 1, \"vector\": [1]}]",
        "{\"a\": [1]}",
        "\"../a\"",
        "1e400",
        "\"\\ud800\"",
    ]);
    let fields = prop::collection::vec((field, value), 0..5);
    fields.prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    })
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic_and_every_change_can_be_stored(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            ".{0,80}".prop_map(String::into_bytes),
            line().prop_map(String::into_bytes),
            (line(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(line, at, byte)| {
                let mut bytes = line.into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            }),
        ]
    ) {
        let entry = Parser::new(Files::none()).parse_payload(&bytes);
        match entry.change {
            Ok(Change::Upsert(document)) => prop_assert!(!document.postings.is_empty()),
            Ok(Change::Text { text, .. }) => prop_assert!(text.len() <= 16 << 20),
            Ok(Change::Delete(_)) => prop_assert_eq!(entry.op, Op::Delete),
            Ok(Change::Control(changeset)) => {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&changeset.json).unwrap().is_object());
            }
            Ok(Change::Skip(_)) => {}
            Err(failure) => prop_assert!(!failure.message.is_empty()),
        }
    }

    /// Whatever `import` takes is taken, and means the same.
    #[test]
    fn what_import_reads_is_read_the_same(line in line()) {
        match (parse_line(&line), parse(&line).change) {
            (Ok(Operation::Delete(key)), change) => prop_assert_eq!(change, Ok(Change::Delete(key))),
            (Ok(Operation::Upsert(document)), Ok(Change::Upsert(read))) => {
                prop_assert_eq!(serde_json::to_string(&DocumentLine(&read)).unwrap(),
                    serde_json::to_string(&DocumentLine(&document)).unwrap());
            }
            // The library refuses what is refused here already.
            (Ok(Operation::Upsert(document)), Err(_)) => {
                prop_assert!(document.postings.is_empty() || document.key == Key::from(""));
            }
            (Ok(Operation::Upsert(document)), Ok(other)) => prop_assert!(false, "{document:?} {other:?}"),
            (Err(_), Ok(Change::Upsert(document))) => prop_assert!(false, "{document:?}"),
            (Err(_), _) => {}
        }
    }
}

#[test]
fn a_failed_change_of_a_repository_without_a_name_is_about_no_other_document() {
    let repo = "r".repeat(3000);
    let line = format!(r#"{{"repo": "{repo}", "path": "p", "content": "text"}}"#);
    let entry = Parser::new(Files::none()).parse_text(&line);
    assert!(entry.change.is_err());
    assert_eq!((entry.repo, entry.path), (None, None), "p alone would be another document");
}
