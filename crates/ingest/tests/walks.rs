//! Walks over a folder: each change to it is found once, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use plimsoll::Value;
use plimsoll_ingest::FailureClass;
use plimsoll_ingest::input::{
    Change, InputError, Op, Seen, SeenUpdate, SkipReason, Walk, WalkItem, WalkOptions,
};
use proptest::prelude::*;

type Memory = BTreeMap<String, Seen>;

/// Writes a file that was modified so many seconds ago: long enough for its time to be relied on.
fn write(root: &Path, path: &str, content: impl AsRef<[u8]>, seconds_ago: u64) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    let modified = SystemTime::now() - Duration::from_secs(seconds_ago);
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
}

fn remember(memory: &mut Memory, items: &[WalkItem]) {
    for item in items {
        match item.seen {
            SeenUpdate::Keep => {}
            SeenUpdate::Put(seen) => drop(memory.insert(item.path.clone(), seen)),
            SeenUpdate::Remove => drop(memory.remove(&item.path)),
        }
    }
}

/// One walk with everything done that it asks for.
fn walk_with(root: &Path, options: &WalkOptions, memory: &mut Memory) -> Vec<WalkItem> {
    let items: Vec<WalkItem> = Walk::new(root, options, memory).unwrap().map(Result::unwrap).collect();
    remember(memory, &items);
    items
}

fn walk(root: &Path, memory: &mut Memory) -> Vec<WalkItem> {
    walk_with(root, &WalkOptions::default(), memory)
}

/// What was done to which paths.
fn told(items: &[WalkItem]) -> Vec<String> {
    let tell = |item: &WalkItem| {
        let what = match &item.change {
            Ok(Change::Text { text, .. }) => format!("{} {text:?}", item.op.name()),
            Ok(Change::Delete(_)) => "delete".to_owned(),
            Ok(Change::Skip(reason)) => reason.name().to_owned(),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => failure.class.name().to_owned(),
        };
        format!("{}: {what}", item.path)
    };
    items.iter().map(tell).collect()
}

#[test]
fn the_second_walk_finds_nothing_and_each_change_is_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut memory = Memory::new();
    write(root, "a.txt", "eins", 100);
    write(root, "a/b.md", "zwei", 100);
    write(root, "z", "", 100);
    assert_eq!(
        told(&walk(root, &mut memory)),
        ["a.txt: add \"eins\"", "a/b.md: add \"zwei\"", "z: add \"\""]
    );
    assert_eq!(told(&walk(root, &mut memory)), [""; 0]);

    // A touch: the contents are as they were.
    write(root, "a.txt", "eins", 50);
    assert_eq!(told(&walk(root, &mut memory)), ["a.txt: unchanged"]);
    assert_eq!(told(&walk(root, &mut memory)), [""; 0]);
    // An edit, to the same length.
    write(root, "a.txt", "EINS", 40);
    assert_eq!(told(&walk(root, &mut memory)), ["a.txt: modify \"EINS\""]);
    // An edit to an older time, as from a backup.
    write(root, "a.txt", "einz", 4000);
    assert_eq!(told(&walk(root, &mut memory)), ["a.txt: modify \"einz\""]);
    fs::rename(root.join("a/b.md"), root.join("c.md")).unwrap();
    assert_eq!(told(&walk(root, &mut memory)), ["a/b.md: delete", "c.md: add \"zwei\""]);
    fs::remove_file(root.join("z")).unwrap();
    write(root, "z/y", "drei", 100);
    assert_eq!(told(&walk(root, &mut memory)), ["z: delete", "z/y: add \"drei\""]);
    fs::remove_dir_all(root.join("z")).unwrap();
    assert_eq!(told(&walk(root, &mut memory)), ["z/y: delete"]);
    assert_eq!(told(&walk(root, &mut memory)), [""; 0]);
    assert_eq!(memory.keys().collect::<Vec<_>>(), ["a.txt", "c.md"]);
}

#[test]
fn what_was_not_committed_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut memory = Memory::new();
    for name in ["a", "b", "c"] {
        write(dir.path(), name, name, 100);
    }
    let items: Vec<WalkItem> =
        Walk::new(dir.path(), &WalkOptions::default(), &memory).unwrap().map(Result::unwrap).collect();
    remember(&mut memory, &items[..1]);
    assert_eq!(told(&walk(dir.path(), &mut memory)), ["b: add \"b\"", "c: add \"c\""]);
}

#[test]
fn a_file_modified_just_before_it_was_looked_at_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut memory = Memory::new();
    // However long the walk takes to come, this is less than two seconds before it.
    let modified = SystemTime::now() + Duration::from_secs(1000);
    write(dir.path(), "a", "eins", 0);
    File::options().write(true).open(dir.path().join("a")).unwrap().set_modified(modified).unwrap();
    walk(dir.path(), &mut memory);
    // The same size and the same time: only the contents tell.
    fs::write(dir.path().join("a"), "zwei").unwrap();
    File::options().write(true).open(dir.path().join("a")).unwrap().set_modified(modified).unwrap();
    assert_eq!(told(&walk(dir.path(), &mut memory)), ["a: modify \"zwei\""]);
}

#[test]
fn keys_and_metadata_are_those_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "über/a b.txt", "grüße", 100);
    let item = walk(dir.path(), &mut Memory::new()).remove(0);
    assert_eq!((item.op, &item.payload[..]), (Op::Add, "über/a b.txt".as_bytes()));
    let Ok(Change::Text { key, metadata, .. }) = item.change else { panic!("{item:?}") };
    assert_eq!(key, plimsoll::Key::from("über/a b.txt"));
    assert_eq!(metadata["path"], Value::from("über/a b.txt"));
    assert_eq!(metadata["size"], Value::from(7));
    let Value::Integer(modified) = metadata["modified"] else { panic!("{metadata:?}") };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((100..1000).contains(&(i64::try_from(now).unwrap() - modified)), "{modified}");
}

#[test]
fn what_is_no_text_is_skipped_or_fails_once_and_is_no_delete() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut memory = Memory::new();
    write(root, "image", b"\x89PNG\0\0", 100);
    write(root, "latin", b"gr\xfc\xdfe", 100);
    let large = File::create(root.join("large")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    large.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
    drop(large);
    write(root, "long", vec![b'x'; (16 << 20) + 1], 100);
    let found = walk(root, &mut memory);
    assert_eq!(told(&found), ["image: binary", "large: binary", "latin: encoding", "long: memory"]);
    assert_eq!(told(&walk(root, &mut memory)), [""; 0]);
    // Text becomes binary, and the other way.
    write(root, "image", "text", 90);
    assert_eq!(told(&walk(root, &mut memory))[0], "image: modify \"text\"");
    write(root, "image", b"x\0", 80);
    assert_eq!(told(&walk(root, &mut memory))[0], "image: delete");
    write(root, "image", b"y\0", 70);
    assert_eq!(told(&walk(root, &mut memory))[0], "image: binary");
    write(root, "latin", "grüße", 70);
    let found = walk(root, &mut memory);
    assert!(told(&found).contains(&"latin: modify \"grüße\"".to_owned()), "{found:?}");
    write(root, "latin", b"gr\xfc\xdfe", 60);
    let found = walk(root, &mut memory);
    assert!(told(&found).contains(&"latin: encoding".to_owned()), "the old text stays: {found:?}");
    fs::remove_file(root.join("latin")).unwrap();
    let found = walk(root, &mut memory);
    assert!(told(&found).contains(&"latin: delete".to_owned()), "{found:?}");
}

#[test]
fn a_folder_that_is_gone_or_empty_is_an_error_and_no_delete() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let mut memory = Memory::new();
    let walked = |options: &WalkOptions, memory: &Memory| Walk::new(&root, options, memory).map(drop);
    assert!(matches!(walked(&WalkOptions::default(), &memory), Err(InputError::Io { .. })));
    write(&root, "a/b", "x", 100);
    walk(&root, &mut memory);
    fs::remove_dir_all(root.join("a")).unwrap();
    let error = walked(&WalkOptions::default(), &memory).unwrap_err();
    assert!(matches!(error, InputError::Folder { .. }), "{error}");
    let options = WalkOptions { allow_empty: true, ..WalkOptions::default() };
    let items: Vec<_> = Walk::new(&root, &options, &memory).unwrap().map(Result::unwrap).collect();
    assert_eq!(told(&items), ["a/b: delete"]);
    fs::remove_dir_all(&root).unwrap();
    assert!(walked(&options, &memory).is_err());
    fs::write(&root, "a file").unwrap();
    assert!(walked(&options, &memory).is_err());
}

#[test]
fn a_folder_that_gets_lost_while_it_is_read_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let mut memory = Memory::new();
    ["a", "b", "c"].iter().for_each(|name| write(&root, name, name, 100));
    walk(&root, &mut memory);
    ["a", "b", "c"].iter().for_each(|name| write(&root, name, "new", 50));
    let mut items = Walk::new(&root, &WalkOptions::default(), &memory).unwrap();
    assert!(items.next().unwrap().is_ok());
    fs::remove_file(root.join("b")).unwrap();
    assert_eq!(told(&[items.next().unwrap().unwrap()]), ["b: delete"]);
    // Another folder with the same name, as under a disk that was detached.
    fs::rename(&root, dir.path().join("moved")).unwrap();
    fs::create_dir(&root).unwrap();
    assert!(matches!(items.next(), Some(Err(InputError::Folder { .. }))));
    assert!(items.next().is_none());
}

#[test]
fn ignored_hidden_and_excluded_files_are_left_out_and_go_when_they_become_so() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut memory = Memory::new();
    for name in [".hidden", ".git/config", "a.md", "b.tmp", "docs/c.md", "docs/d.rs", "target/e.md"] {
        write(root, name, "x", 100);
    }
    write(root, ".gitignore", "target/\n", 100);
    let paths = |items: &[WalkItem]| items.iter().map(|item| item.path.clone()).collect::<Vec<_>>();
    let all = WalkOptions { hidden: true, no_ignore: true, ..WalkOptions::default() };
    let found = paths(&walk_with(root, &all, &mut Memory::new()));
    assert_eq!(found, [".gitignore", ".hidden", "a.md", "b.tmp", "docs/c.md", "docs/d.rs", "target/e.md"]);
    assert_eq!(paths(&walk(root, &mut memory)), ["a.md", "b.tmp", "docs/c.md", "docs/d.rs"]);
    let some = |include: &[&str], exclude: &[&str]| WalkOptions {
        include: include.iter().map(ToString::to_string).collect(),
        exclude: exclude.iter().map(ToString::to_string).collect(),
        ..WalkOptions::default()
    };
    let found = |options| paths(&walk_with(root, &options, &mut Memory::new()));
    assert_eq!(found(some(&["*.md"], &[])), ["a.md", "docs/c.md"]);
    assert_eq!(found(some(&["docs/", "/a.md"], &["*.rs"])), ["a.md", "docs/c.md"]);
    assert_eq!(found(some(&[], &["docs"])), ["a.md", "b.tmp"]);
    let wrong = Walk::new(root, &some(&["a{"], &[]), &memory);
    assert!(matches!(wrong, Err(InputError::Folder { .. })));
    write(root, ".ignore", "docs/*.rs\n", 100);
    assert_eq!(told(&walk(root, &mut memory)), ["docs/d.rs: delete"]);
    assert_eq!(told(&walk_with(root, &some(&[], &["*.tmp"]), &mut memory)), ["b.tmp: delete"]);
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn permit(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_can_not_be_read_is_a_failure_and_no_delete() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut memory = Memory::new();
        ["a/b", "a/c/d", "ab", "e"].iter().for_each(|name| write(root, name, name, 100));
        walk(root, &mut memory);
        permit(&root.join("a"), 0);
        write(root, "e", "new", 50);
        permit(&root.join("e"), 0);
        fs::remove_file(root.join("ab")).unwrap();
        let found = told(&walk(root, &mut memory));
        permit(&root.join("a"), 0o755);
        permit(&root.join("e"), 0o644);
        if found.contains(&"e: modify \"new\"".to_owned()) {
            // Root may read everything.
            return;
        }
        assert_eq!(found, ["a: file system", "ab: delete", "e: file system"]);
        assert_eq!(told(&walk(root, &mut memory)), ["e: modify \"new\""]);
    }

    #[test]
    fn a_name_that_is_not_utf_8_fails_with_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(b"gr\xfc\xdfe");
        if fs::write(dir.path().join(name), "x").is_err() {
            return;
        }
        write(dir.path(), "gr\\xfc\\xdfe", "y", 100);
        let mut memory = Memory::new();
        let items = walk(dir.path(), &mut memory);
        let failed: Vec<_> = items.iter().filter(|item| item.change.is_err()).collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].payload, b"gr\xfc\xdfe");
        assert_eq!(failed[0].path, "gr\\xfc\\xdfe");
        assert_eq!(failed[0].change.as_ref().unwrap_err().class, FailureClass::Encoding);
        assert_eq!(memory.len(), 1, "only the one that has such a name in ASCII");
    }

    #[test]
    fn links_are_not_followed_unless_asked_for_and_loops_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        write(&root, "a/b", "x", 100);
        write(dir.path(), "outside/c", "y", 100);
        symlink(dir.path().join("outside"), root.join("link")).unwrap();
        symlink(root.join("a/b"), root.join("file")).unwrap();
        symlink(&root, root.join("a/loop")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        assert_eq!(told(&walk(&root, &mut Memory::new())), ["a/b: add \"x\""]);
        let options = WalkOptions { follow_links: true, ..WalkOptions::default() };
        let found = told(&walk_with(&root, &options, &mut Memory::new()));
        let expected = [
            "a/b: add \"x\"",
            "a/loop: file system",
            "dangling: file system",
            "file: add \"x\"",
            "link/c: add \"y\"",
        ];
        assert_eq!(found, expected);
        // A file that has become a link is gone.
        let mut memory = Memory::new();
        walk(&root, &mut memory);
        fs::remove_file(root.join("a/b")).unwrap();
        symlink(dir.path().join("outside/c"), root.join("a/b")).unwrap();
        write(&root, "z", "z", 100);
        assert_eq!(told(&walk(&root, &mut memory)), ["a/b: delete", "z: add \"z\""]);
    }

    #[test]
    fn a_pipe_is_no_file_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::new();
        write(dir.path(), "a", "x", 100);
        write(dir.path(), "b", "x", 100);
        walk(dir.path(), &mut memory);
        write(dir.path(), "a", "y", 50);
        let mut items = Walk::new(dir.path(), &WalkOptions::default(), &memory).unwrap();
        // It becomes one after the listing.
        fs::remove_file(dir.path().join("a")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("a")).status();
        if made.is_ok_and(|status| status.success()) {
            assert_eq!(told(&[items.next().unwrap().unwrap()]), ["a: delete"]);
            assert_eq!(told(&walk(dir.path(), &mut memory)), ["a: delete"]);
        }
    }
}

/// What may happen to a file between two walks.
#[derive(Debug, Clone)]
enum Edit {
    Write(usize, String),
    Touch(usize),
    Remove(usize),
    Rename(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let file = || 0..PATHS.len();
    prop_oneof![
        (file(), "[ab]{0,2}").prop_map(|(file, text)| Edit::Write(file, text)),
        file().prop_map(Edit::Touch),
        file().prop_map(Edit::Remove),
        (file(), file()).prop_map(|(from, to)| Edit::Rename(from, to)),
    ]
}

const PATHS: [&str; 5] = ["a", "a.b", "b/a", "b/c", "d/e/f"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn after_each_walk_what_was_told_is_what_is_there(rounds in prop::collection::vec(prop::collection::vec(edit(), 0..6), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (mut memory, mut documents, mut age) = (Memory::new(), BTreeMap::new(), 1_000_000);
        let options = WalkOptions { allow_empty: true, ..WalkOptions::default() };
        for edits in rounds {
            for edit in edits {
                age -= 10;
                match edit {
                    Edit::Write(file, text) => write(root, PATHS[file], text, age),
                    Edit::Touch(file) => {
                        if let Ok(content) = fs::read(root.join(PATHS[file])) {
                            write(root, PATHS[file], content, age);
                        }
                    }
                    Edit::Remove(file) => drop(fs::remove_file(root.join(PATHS[file]))),
                    Edit::Rename(from, to) => {
                        fs::create_dir_all(root.join(PATHS[to]).parent().unwrap()).unwrap();
                        drop(fs::rename(root.join(PATHS[from]), root.join(PATHS[to])));
                    }
                }
            }
            let items = walk_with(root, &options, &mut memory);
            prop_assert!(items.windows(2).all(|pair| pair[0].path < pair[1].path));
            for item in items {
                let had = documents.get(&item.path).cloned();
                match item.change.unwrap() {
                    Change::Text { text, .. } => {
                        prop_assert_ne!(had.as_ref(), Some(&text), "nothing is embedded twice");
                        prop_assert_eq!(item.op, if had.is_some() { Op::Modify } else { Op::Add });
                        documents.insert(item.path, text);
                    }
                    Change::Delete(_) => prop_assert!(documents.remove(&item.path).is_some()),
                    change => prop_assert_eq!(change, Change::Skip(SkipReason::Unchanged)),
                }
            }
            let there: BTreeMap<String, String> = PATHS
                .iter()
                .filter_map(|path| Some(((*path).to_owned(), fs::read_to_string(root.join(path)).ok()?)))
                .collect();
            prop_assert_eq!(&documents, &there);
            prop_assert!(memory.keys().eq(there.keys()));
        }
    }
}
