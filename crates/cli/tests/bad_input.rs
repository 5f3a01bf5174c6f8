//! Everything that can be wrong with what the program is given: each mistake is named, and nothing else is lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};

use common::{Scratch, fvecs, importing, npy, plimsoll, plimsoll_with, small_lines};
use serde_json::Value;

/// A collection of two dimensions with the rows 0 to 9.
fn filled() -> Scratch {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..10));
    scratch
}

#[test]
fn a_wrong_row_is_named_and_leaves_what_was_stored_as_it_was() {
    let scratch = filled();
    let before = scratch.export();
    let long_key = format!(r#"{{"id": "{}", "vector": [1, 0]}}"#, "k".repeat(1025));
    let long_text = format!(r#"{{"id": 1, "text": "{}", "vector": [1, 0]}}"#, "t".repeat((16 << 20) + 1));
    let metadata =
        format!(r#"{{"id": 1, "metadata": {{"m": "{}"}}, "vector": [1, 0]}}"#, "m".repeat(1 << 20));
    let deep = format!(
        r#"{{"id": 1, "metadata": {{"m": {}1{}}}, "vector": [1, 0]}}"#,
        "[".repeat(90),
        "]".repeat(90)
    );
    let mistakes: [(&str, &str, &[&str]); 24] = [
        (r#"{"id": 1, "vector": [1, 0, 0]}"#, "dimension_mismatch", &["3 dimensions", "2"]),
        (r#"{"id": 1, "vector": []}"#, "dimension_mismatch", &["0"]),
        (r#"{"id": 1, "vector": [1, NaN]}"#, "malformed", &["NaN"]),
        (r#"{"id": 1, "vector": [1, Infinity]}"#, "malformed", &["Infinity"]),
        (r#"{"id": 1, "vector": [1, 1e39]}"#, "malformed", &["1e39"]),
        (r#"{"id": 1, "vector": [0, 0]}"#, "invalid_document", &["zero"]),
        (r#"{"id": "", "vector": [1, 0]}"#, "invalid_document", &["key", "empty"]),
        (&long_key, "invalid_document", &["1025", "1024"]),
        (&long_text, "invalid_document", &["16777217"]),
        (&metadata, "invalid_document", &["metadata"]),
        (&deep, "invalid_document", &["nests deeper"]),
        (r#"{"id": 1, "vector": [1, 0]"#, "malformed", &["malformed JSON"]),
        ("not json", "malformed", &["malformed JSON, column"]),
        (r#"{"id": 1, "vector": [1, 0], "extra": true}"#, "malformed", &["\"extra\""]),
        (r#"{"vector": [1, 0]}"#, "malformed", &["no id"]),
        (r#"{"id": 1}"#, "malformed", &["neither vector nor postings"]),
        (r#"{"id": 1, "postings": []}"#, "invalid_document", &["posting"]),
        (r#"{"id": 1, "vector": [1, 0], "postings": []}"#, "malformed", &["both"]),
        (r#"{"id": 1, "vector": [1, 0], "metadata": {"n": 18446744073709551616}}"#, "malformed", &["2^64"]),
        (r#"{"id": 1, "vector": [1, 0], "metadata": [1]}"#, "malformed", &["not an object"]),
        (
            r#"{"id": 1, "text": "ü", "postings": [{"start": 1, "length": 1, "vector": [1, 0]}]}"#,
            "invalid_document",
            &[],
        ),
        (
            r#"{"id": 1, "text": "x", "postings": [{"start": 0, "length": 2, "vector": [1, 0]}]}"#,
            "invalid_document",
            &[],
        ),
        (r#"{"id": 1.5, "vector": [1, 0]}"#, "malformed", &["1.5"]),
        (r#"{"id": 1, "op": "explode"}"#, "malformed", &["explode"]),
    ];
    for (line, kind, said) in mistakes {
        // The batches before the wrong row stay (they only repeat what is there); nothing of its own does.
        let rows = format!("{}{}\n{{\"id\": 99, \"vector\": [1, 0]}}\n", small_lines(0..5), line);
        let args = ["import", &scratch.db, "c", "-", "--batch-size", "2"];
        let run = plimsoll_with(args, &rows).fails(1, said);
        assert!(run.stderr.starts_with("plimsoll: standard input: line 6: "), "{}", run.stderr);
        assert!(run.stderr.contains("4 rows before it are stored"), "{}", run.stderr);
        let run = plimsoll_with(args.into_iter().chain(["--json"]), &rows).fails(1, &[]);
        let error: Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(
            (&error["kind"], &error["line"], &error["rows_stored"]),
            (&kind.into(), &6.into(), &4.into())
        );
        assert_eq!(scratch.export(), before, "{kind}");
    }
    scratch.verify();
}

#[test]
fn wrong_files_of_vectors_are_named_with_their_row() {
    let scratch = filled();
    let good: [&[f32]; 3] = [&[1.0, 0.0], &[0.0, 1.0], &[1.0, 1.0]];
    let (npy_bytes, fvecs_bytes) = (npy(&good), fvecs(&good));
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = fvecs_bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let fortran = String::from_utf8_lossy(&npy_bytes[10..128]).replace("False, ", "True,  ");
    let fortran = [&npy_bytes[..10], fortran.as_bytes(), &npy_bytes[128..]].concat();
    let cases: [(&str, Vec<u8>, &[&str]); 13] = [
        ("cut.npy", npy_bytes[..npy_bytes.len() - 3].to_vec(), &["row 2", "ends after 5 of 8 bytes"]),
        ("short.npy", npy_bytes[..npy_bytes.len() - 8].to_vec(), &["row 2", "2 of 3 rows"]),
        ("header.npy", npy_bytes[..40].to_vec(), &["header.npy", "ends"]),
        ("long.npy", [&npy_bytes[..], b"x"].concat(), &["row 3", "follow the last row"]),
        ("no.npy", b"something else entirely".to_vec(), &["not a .npy file"]),
        ("fortran.npy", fortran, &["Fortran"]),
        ("nan.npy", npy(&[&[1.0, 0.0], &[f32::NAN, 0.0]]), &["row 1", "component 0", "NaN"]),
        ("wide.npy", npy(&[&[1.0, 0.0, 0.0]]), &["row 0", "3 dimensions", "2"]),
        ("cut.fvecs", fvecs_bytes[..fvecs_bytes.len() - 1].to_vec(), &["row 2", "ends after 7 of 8 bytes"]),
        ("negative.fvecs", changed(12, &(-2i32).to_le_bytes()), &["row 1", "-2"]),
        ("huge.fvecs", changed(12, &i32::MAX.to_le_bytes()), &["row 1", "2147483647"]),
        ("other.fvecs", changed(12, &1i32.to_le_bytes()), &["row 1", "1 dimensions, and 2"]),
        ("zero.fvecs", fvecs(&[&[1.0, 0.0], &[0.0, 0.0]]), &["row 1", "zero"]),
    ];
    for (name, bytes, said) in cases {
        let path = scratch.file(name, bytes);
        let run = scratch.run("import", &format!("c {path}")).fails(1, said);
        assert!(
            run.stderr.contains(name) && run.stderr.contains("nothing of the input is stored"),
            "{run:?}"
        );
    }
    assert_eq!(scratch.run("count", "c").ok(), "10\n");
    // Rows of the batches before a truncation stay.
    let path = scratch.file("late.npy", &npy_bytes[..npy_bytes.len() - 1]);
    scratch
        .run("import", &format!("late {path} --batch-size 1"))
        .fails(1, &["row 2", "2 rows before it are stored"]);
    assert_eq!(scratch.run("count", "late").ok(), "2\n");
    let queries = scratch.file("q.npy", npy(&[&[1.0, 0.0], &[1.0, f32::INFINITY]]));
    scratch.run("search", &format!("c --queries {queries}")).fails(1, &["q.npy: row 1"]);
    let queries = scratch.file("q.jsonl", "{\"vector\": [1, 0]}\n{\"vector\": [1]}\n");
    scratch.run("search", &format!("c --queries {queries}")).fails(1, &["q.jsonl: line 2: ", "dimensions"]);
    scratch.run("search", "c --vector [0,0]").fails(1, &["zero"]);
}

#[test]
fn names_that_do_not_exist_or_do_not_fit_are_named() {
    let scratch = filled();
    for (command, words) in [
        ("count", "no"),
        ("export", "no"),
        ("get", "no 1"),
        ("delete", "no 1"),
        ("drop", "no"),
        ("search", "no --vector [1,0]"),
    ] {
        let run = scratch.run(command, &format!("{words} --json")).fails(1, &["\\\"no\\\""]);
        let error: Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(error["kind"], "collection_not_found", "{command}");
        assert!(error["error"].as_str().is_some_and(|text| text.ends_with("there are: c")), "{error}");
    }
    scratch.run("create", "c --dim 3").fails(1, &["\"c\"", "2 dimensions", "3 dimensions"]);
    scratch.run("create", "c --dim 2 --metric dot").fails(1, &["cosine", "dot"]);
    let path = scratch.file("rows.jsonl", small_lines(0..1));
    scratch.run("import", &format!("c {path} --metric l2")).fails(1, &["cosine", "l2"]);
    plimsoll(["create", &scratch.db, "", "--dim", "2"]).fails(1, &["name"]);
    scratch.run("create", "d --dim 4097").fails(2, &["4097"]);
    scratch.run("import", "c no/such.jsonl").fails(1, &["no/such.jsonl"]);
    scratch.run("import", &format!("c {}", scratch.db)).fails(1, &["extension"]);
    scratch.run("import", &format!("c {} --format jsonl", scratch.db)).fails(1, &[&scratch.db, "directory"]);
    plimsoll_with(["import", &scratch.db, "new", "-"], "{\"id\": 1, \"op\": \"delete\"}\n")
        .fails(1, &["\"new\""]);
    plimsoll(["dump", "no/such.wal"]).fails(1, &["no/such.wal", "No such file"]);
    plimsoll(["dump", &path]).fails(1, &["rows.jsonl", "is nothing to dump"]);
}

#[test]
fn a_new_collection_comes_with_its_first_batch_or_not_at_all() {
    let scratch = filled();
    let import = |lines: &str, size: &str| {
        plimsoll_with(["import", &scratch.db, "new", "-", "--batch-size", size, "--ack"], lines)
    };
    let long = format!("{{\"id\": 1, \"vector\": [{}1]}}\n", "1,".repeat(4096));
    import(&long, "10").fails(1, &["line 1", "4097", "4096"]);
    let refused = "{\"id\": 1, \"vector\": [1, 0]}\n{\"id\": 2, \"vector\": [0, 0]}\n";
    import(refused, "10").fails(1, &["line 2", "zero", "nothing of the input is stored"]);
    scratch.run("count", "new").fails(1, &["there is no collection \"new\""]);
    // Deletes before the first vector have nothing to do, however they are grouped.
    let deletes_first = "{\"id\": 9, \"op\": \"delete\"}\n".repeat(3) + &small_lines(0..2);
    for size in ["1", "2", "10"] {
        import(&deletes_first, size).ok();
        assert_eq!(scratch.run("count", "new").ok(), "2\n");
        scratch.run("drop", "new").ok();
    }
}

#[test]
fn directories_that_hold_no_database_are_left_alone() {
    let scratch = Scratch::new();
    for (command, words) in [
        ("ls", ""),
        ("count", "c"),
        ("export", "c"),
        ("get", "c 1"),
        ("delete", "c 1"),
        ("drop", "c"),
        ("flush", ""),
        ("compact", ""),
        ("stats", ""),
        ("verify", ""),
    ] {
        scratch.run(command, words).fails(1, &[&scratch.db]);
        assert!(!scratch.path("db").exists(), "{command}");
    }
    // A file with no good row leaves nothing behind either.
    plimsoll_with(["import", &scratch.db, "c", "-"], "oops\n").fails(1, &["line 1"]);
    assert!(!scratch.path("db").exists());
    fs::create_dir(scratch.path("db")).unwrap();
    let theirs = scratch.file("db/theirs.txt", "precious");
    for (command, words) in [("create", "c --dim 2"), ("ls", ""), ("flush", ""), ("verify", "")] {
        scratch.run(command, words).fails(1, &[&scratch.db]);
    }
    plimsoll_with(["import", &scratch.db, "c", "-"], &small_lines(0..1)).fails(1, &[&scratch.db]);
    assert_eq!(fs::read_to_string(theirs).unwrap(), "precious");
    assert_eq!(fs::read_dir(scratch.path("db")).unwrap().count(), 1);
    plimsoll(["dump", "no/such/file"]).fails(1, &["no/such/file"]);
    plimsoll([
        "dump",
        &scratch.file("text", "just some text, longer than any header of a file could be......"),
    ])
    .fails(1, &["text"]);
}

#[test]
fn a_damaged_file_is_named_and_verify_says_so() {
    let scratch = filled();
    scratch.run("flush", "").ok();
    let files = sealed_files(&scratch);
    assert!(files.len() >= 3);
    for path in files {
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(plimsoll(["dump".as_ref(), path.as_os_str()]).code, 1, "{name}");
        let run = scratch.run("verify", "");
        assert_eq!(run.code, 1, "{name}: {run:?}");
        assert!(run.stdout.contains(name) || run.stderr.contains(name), "{name}: {run:?}");
        // The right answer or a typed error, never a wrong one.
        let export = scratch.run("export", "c");
        assert!(export.code == 1 || export.stdout.lines().count() == 10, "{name}: {export:?}");
        fs::write(&path, &good).unwrap();
    }
    scratch.verify();
}

/// The sealed files and the manifest: everything whose every byte is checked.
fn sealed_files(scratch: &Scratch) -> Vec<std::path::PathBuf> {
    let mut dirs = vec![scratch.path("db")];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                dirs.push(path);
            } else if !name.ends_with(".wal")
                && name != "LOCK"
                && name != "RESERVE"
                && !name.ends_with(".tmp")
                // Put by for a repair, and not read before.
                && !name.starts_with("PREVIOUS")
            {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn a_file_of_a_newer_version_is_refused_by_name() {
    let scratch = filled();
    scratch.run("flush", "").ok();
    for path in sealed_files(&scratch) {
        let good = fs::read(&path).unwrap();
        let mut newer = good.clone();
        newer[10..12].copy_from_slice(&999u16.to_le_bytes());
        let checksum = crc32fast::hash(&newer[..60]);
        newer[60..64].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, &newer).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let run = scratch.run("export", "c --json").fails(1, &[name, "999"]);
        let error: Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(error["kind"], "upgrade_required", "{name}");
        scratch.run("flush", "").fails(1, &[name, "newer Plimsoll"]);
        assert_eq!(scratch.run("verify", "").code, 1, "{name}");
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(scratch.run("count", "c").ok(), "10\n");
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_and_explained() {
    let scratch = Scratch::new();
    let mut child = importing(&scratch.db, 10);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(small_lines(0..200).as_bytes()).unwrap();
    let acks = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(acks.take_while(|line| line != "ACK 200").count() < 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let wal = fs::read_dir(scratch.path("db/wal")).unwrap().map(|entry| entry.unwrap().path());
    let wal = wal.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).max().unwrap();
    let good = fs::read(&wal).unwrap();
    let text = good.windows(6).position(|window| window == b"row 50").unwrap();
    let mut bad = good.clone();
    bad[text] ^= 1;
    fs::write(&wal, &bad).unwrap();
    let name = wal.file_name().unwrap().to_str().unwrap();
    for (command, words) in [("export", "c"), ("count", "c"), ("flush", ""), ("delete", "c 1")] {
        scratch.run(command, words).fails(1, &[name, "damaged at byte"]);
    }
    plimsoll_with(["import", &scratch.db, "c", "-"], &small_lines(0..1)).fails(1, &[name, "damaged at byte"]);
    let run = scratch.run("verify", "");
    assert!(run.code == 1 && run.stdout.contains(name), "{run:?}");
    let report: Value = serde_json::from_str(&scratch.run("verify", "--json").stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(report["findings"][0]["offset"].is_u64(), "{report}");
    fs::write(&wal, &good).unwrap();
    assert_eq!(scratch.run("count", "c").ok(), "200\n");
    scratch.verify();
}
