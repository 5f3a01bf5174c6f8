//! The command line as design.md section 7 states it, one test a promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use common::{
    Scratch, command, fvecs, importing, npy, piped, plimsoll, plimsoll_with, small_line, small_lines,
};
use serde_json::json;

#[test]
fn collections_are_created_listed_and_dropped() {
    let scratch = Scratch::new();
    scratch.run("create", "b --dim 3 --metric l2").ok();
    scratch.run("create", "a --dim 2").ok();
    // The same again is no error.
    scratch.run("create", "a --dim 2 --metric cosine").ok();
    let listing = scratch.run("ls", "").ok();
    let words: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["a", "2", "cosine", "0"], ["b", "3", "l2", "0"]]);
    let expected = json!({"collections": [
        {"name": "a", "dimension": 2, "metric": "cosine", "documents": 0},
        {"name": "b", "dimension": 3, "metric": "l2", "documents": 0},
    ]});
    assert_eq!(scratch.run("ls", "--json").json(), [expected]);
    scratch.run("drop", "a").ok();
    scratch.run("drop", "a").fails(1, &["\"a\""]);
    assert_eq!(scratch.run("ls", "").ok().lines().count(), 1);
    scratch.verify();
}

#[test]
fn import_creates_the_collection_from_the_first_row() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..3));
    let lines = scratch.file("l2.jsonl", "{\"id\": 1, \"vector\": [0, 0, 0]}\n");
    scratch.run("import", &format!("d {lines} --metric l2")).ok();
    let listing = scratch.run("ls", "--json").json().remove(0);
    assert_eq!(
        listing["collections"][0],
        json!({"name": "c", "dimension": 2, "metric": "cosine", "documents": 3})
    );
    assert_eq!(
        listing["collections"][1],
        json!({"name": "d", "dimension": 3, "metric": "l2", "documents": 1})
    );
    assert_eq!(scratch.run("count", "c").ok(), "3\n");
    assert_eq!(scratch.run("count", "c --json").json(), [json!({"count": 3})]);
}

#[test]
fn acknowledgements_count_the_rows_of_all_files_in_whole_batches() {
    let scratch = Scratch::new();
    let first = scratch.file("first.jsonl", small_lines(0..7));
    let second = scratch.file("second.jsonl", small_lines(7..12));
    let acks = scratch.run("import", &format!("c {first} {second} --batch-size 5 --ack")).ok();
    assert_eq!(acks, "ACK 5\nACK 10\nACK 12\n");
    assert_eq!(scratch.run("count", "c").ok(), "12\n");
    let summary = scratch.run("import", &format!("c {first} --json")).json();
    assert_eq!(summary[0]["rows"], 7);
}

#[test]
fn an_acknowledgement_comes_before_more_is_read() {
    let scratch = Scratch::new();
    let mut child = importing(&scratch.db, 2);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for batch in 0..3 {
        stdin.write_all(small_lines(2 * batch..2 * batch + 2).as_bytes()).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("ACK {}\n", 2 * batch + 2));
        // What is acknowledged is visible to others at once, though it is only in the log.
        assert_eq!(scratch.run("count", "c").ok(), format!("{}\n", 2 * batch + 2));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn every_format_is_read_and_rows_are_their_numbers() {
    let rows: [&[f32]; 2] = [&[1.0, -0.0], &[0.25, 1e-20]];
    let scratch = Scratch::new();
    let (a, b) = (scratch.file("a.npy", npy(&rows)), scratch.file("b.fvecs", fvecs(&rows)));
    let c = scratch.file("c.data", fvecs(&rows));
    scratch.run("import", &format!("a {a} --metric dot")).ok();
    scratch.run("import", &format!("b {b} --metric dot")).ok();
    scratch.run("import", &format!("c {c} --metric dot --format fvecs")).ok();
    let expected = "{\"id\":0,\"vector\":[1.0,-0.0]}\n{\"id\":1,\"vector\":[0.25,1e-20]}\n";
    for collection in ["a", "b", "c"] {
        assert_eq!(scratch.run("export", collection).ok(), expected);
    }
    scratch.run("import", &format!("c {c}")).fails(1, &["c.data", "--format"]);
}

#[test]
fn the_last_operation_on_an_id_wins_and_deletes_are_rows() {
    let scratch = Scratch::new();
    scratch.import(
        "{\"id\": 1, \"vector\": [1, 0]}\n{\"id\": 1, \"vector\": [0, 1]}\n{\"id\": 2, \"vector\": [1, 1]}\n\
         {\"id\": 2, \"op\": \"delete\"}\n{\"id\": \"1\", \"vector\": [1, 2]}\n",
    );
    assert_eq!(scratch.export(), "{\"id\":1,\"vector\":[0.0,1.0]}\n{\"id\":\"1\",\"vector\":[1.0,2.0]}\n");
    scratch.import("{\"id\": \"1\", \"op\": \"delete\"}\n");
    assert_eq!(scratch.run("count", "c").ok(), "1\n");
}

#[test]
fn documents_of_every_shape_come_back_as_they_were() {
    let scratch = Scratch::new();
    let lines = [
        r#"{"id":-5,"vector":[1.0,0.0]}"#,
        r#"{"id":7,"text":"seven","vector":[0.1,0.2]}"#,
        r#"{"id":18446744073709551615,"metadata":{"a":[1,1.0,"x",null,true,{"b":-1}]},"vector":[1.0,0.0]}"#,
        r#"{"id":{"uuid":"67e55044-10b1-426f-9247-bb680e5fe0c8"},"vector":[1.0,0.0]}"#,
        r#"{"id":{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV"},"vector":[1.0,0.0]}"#,
        r#"{"id":"7","text":"grüße","postings":[{"start":0,"length":2,"vector":[1.0,2.0]},{"start":2,"length":2,"vector":[1.0,-3.0]}]}"#,
        r#"{"id":"part","text":"text","postings":[{"start":0,"length":3,"vector":[1.0,2.0]}]}"#,
    ];
    // Given in any order, and spread over batches.
    let given: String = lines.iter().rev().map(|line| format!("{line}\n")).collect();
    plimsoll_with(["import", &scratch.db, "c", "-", "--batch-size", "2"], &given).ok();
    let expected: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(scratch.export(), expected);
    assert_eq!(scratch.run("export", "c --json").ok(), expected);
}

#[test]
fn get_and_delete_take_json_scalars_and_anything_else_as_strings() {
    let scratch = Scratch::new();
    scratch.import(
        "{\"id\": 7, \"vector\": [1, 0]}\n{\"id\": \"7\", \"vector\": [0, 1]}\n{\"id\": \"a b\", \"vector\": [1, 1]}\n\
         {\"id\": -3, \"vector\": [1, 2]}\n{\"id\": \"true\", \"vector\": [1, 3]}\n",
    );
    let get = |ids: &[&str]| plimsoll(["get", &scratch.db, "c"].iter().chain(ids));
    assert_eq!(
        get(&["7", "\"7\""]).ok(),
        "{\"id\":7,\"vector\":[1.0,0.0]}\n{\"id\":\"7\",\"vector\":[0.0,1.0]}\n"
    );
    assert_eq!(get(&["a b", "-3", "true"]).json().len(), 3);
    let run = get(&["nobody", "7", "8"]).fails(1, &["\"nobody\", 8"]);
    assert_eq!(run.stdout, "{\"id\":7,\"vector\":[1.0,0.0]}\n");
    let delete = |ids: &[&str]| plimsoll(["delete", &scratch.db, "c", "--json"].iter().chain(ids));
    assert_eq!(delete(&["7", "7", "nobody", "a b"]).json(), [json!({"deleted": 2, "not_found": ["nobody"]})]);
    assert_eq!(delete(&["7"]).json(), [json!({"deleted": 0, "not_found": [7]})]);
    assert_eq!(scratch.run("count", "c").ok(), "3\n");
    get(&["7"]).fails(1, &["7"]);
}

#[test]
fn search_prints_a_line_a_query_best_first() {
    let scratch = Scratch::new();
    scratch.import(
        "{\"id\": 1, \"vector\": [1, 0], \"text\": \"east\", \"metadata\": {\"n\": 1}}\n\
         {\"id\": \"two\", \"text\": \"north east\", \"postings\": [{\"start\": 0, \"length\": 5, \"vector\": [0, 1]}, \
         {\"start\": 6, \"length\": 4, \"vector\": [1, 1]}]}\n",
    );
    let by_vector = plimsoll(["search", &scratch.db, "c", "--vector", "[2, 0]", "--exact", "--json"]).json();
    let hits = by_vector[0]["hits"].as_array().unwrap();
    assert_eq!(by_vector[0]["query"], 0);
    assert_eq!(
        hits[0],
        json!({"id": 1, "distance": 0.0, "start": 0, "length": 4, "text": "east", "metadata": {"n": 1}})
    );
    assert_eq!(
        (&hits[1]["id"], &hits[1]["start"], &hits[1]["text"]),
        (&json!("two"), &json!(6), &json!("east"))
    );
    assert!((hits[1]["distance"].as_f64().unwrap() - (1.0 - 0.5f64.sqrt())).abs() < 1e-6);
    assert_eq!(hits.len(), 3);

    let queries = scratch.file("q.jsonl", "{\"vector\": [0, 1]}\n{\"vector\": [1, 0]}\n");
    let answers = scratch.run("search", &format!("c --queries {queries} -k 1 --recall 0.9 --json")).json();
    assert_eq!((&answers[0]["query"], &answers[1]["query"]), (&json!(0), &json!(1)));
    assert_eq!((&answers[0]["hits"][0]["id"], &answers[1]["hits"][0]["id"]), (&json!("two"), &json!(1)));
    assert_eq!(answers[0]["hits"].as_array().unwrap().len(), 1);
    let rows = scratch.file("q.npy", npy(&[&[0.0, 1.0]]));
    assert_eq!(
        scratch.run("search", &format!("c --queries {rows} -k 1 --json")).json()[0]["hits"],
        answers[0]["hits"]
    );

    let like = scratch.run("search", "c --like 1 --lists 4 --json").json().remove(0);
    assert!(like["hits"].as_array().unwrap().iter().all(|hit| hit["id"] == "two"));
    let text = scratch.run("search", "c --like two -k 1").ok();
    assert!(text.contains("0.000000") || text.contains("1.000000"), "{text}");
    scratch.run("search", "c --like nobody").fails(1, &["nobody"]);
}

#[test]
fn searches_are_narrowed_by_metadata_and_by_distance() {
    let scratch = Scratch::new();
    scratch.import(
        "{\"id\": 1, \"vector\": [1, 0], \"metadata\": {\"lang\": \"en\", \"year\": 1999}}\n\
         {\"id\": 2, \"vector\": [1, 1], \"metadata\": {\"lang\": \"de\", \"year\": 2005}}\n\
         {\"id\": 3, \"vector\": [0, 1], \"metadata\": {\"lang\": \"en\", \"year\": 2010}}\n",
    );
    let ids = |more: &[&str]| {
        let base = ["search", &scratch.db, "c", "--vector", "[1, 0]", "--json"];
        let answer = plimsoll(base.iter().chain(more)).json().remove(0);
        let hits = answer["hits"].as_array().unwrap();
        hits.iter().map(|hit| hit["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), [1, 2, 3]);
    assert_eq!(ids(&["--filter", "lang = 'en' and year >= 2000"]), [3]);
    assert_eq!(ids(&["--filter", "not lang = \"en\""]), [2]);
    assert_eq!(ids(&["--within", "0.5"]), [1, 2]);
    assert_eq!(ids(&["--within", "-1"]), [] as [u64; 0]);
    let refused = |more: [&str; 2], code, said: &[&str]| {
        let base = ["search", &scratch.db, "c", "--vector", "[1, 0]"];
        plimsoll(base.iter().chain(&more)).fails(code, said);
    };
    refused(["--filter", "lang ="], 2, &["--filter"]);
    refused(["--filter", "author = 'me'"], 1, &["author"]);
    refused(["--within", "near"], 2, &["--within"]);
    refused(["--within", "nan"], 1, &["not a number"]);
}

#[test]
fn searches_count_once_what_belongs_together() {
    let scratch = Scratch::new();
    scratch.import(
        "{\"id\": 1, \"text\": \"one two\", \"postings\": [{\"start\": 0, \"length\": 3, \"vector\": [1, 0]}, \
         {\"start\": 0, \"length\": 3, \"vector\": [1, 0.1]}, {\"start\": 4, \"length\": 3, \"vector\": [1, 0.2]}]}\n\
         {\"id\": 2, \"vector\": [1, 0.2]}\n",
    );
    let found = |more: &[&str]| {
        let base = ["search", &scratch.db, "c", "--vector", "[1, 0]", "--json"];
        let answer = plimsoll(base.iter().chain(more)).json().remove(0);
        let hits = answer["hits"].as_array().unwrap();
        hits.iter()
            .map(|hit| (hit["id"].as_u64().unwrap(), hit["start"].as_u64().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&[]).len(), 4);
    assert_eq!(found(&["--dedup", "document"]), [(1, 0), (2, 0)]);
    assert_eq!(found(&["--dedup", "position"]), [(1, 0), (1, 4), (2, 0)]);
    assert_eq!(found(&["--dedup", "vector"]).len(), 3);
    assert_eq!(found(&["--dedup", "vector", "-k", "2"]), [(1, 0), (1, 0)]);
    plimsoll(["search", &scratch.db, "c", "--vector", "[1, 0]", "--dedup", "id"]).fails(2, &["--dedup"]);
}

#[test]
fn a_search_ends_when_its_time_is_over() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..50));
    let queries = scratch.file("q.jsonl", "{\"vector\": [0, 1]}\n{\"vector\": [1, 0]}\n");
    let search = |more: &str| scratch.run("search", &format!("c --queries {queries} --json {more}"));
    assert_eq!(search("--timeout 10min").json().len(), 2);
    let over = search("--timeout 0s").fails(1, &["time", "over"]);
    assert!(over.stdout.is_empty());
    let report: serde_json::Value = serde_json::from_str(&over.stderr).unwrap();
    assert_eq!(report["kind"], "timeout");
    scratch.run("search", "c --vector [0,1] --timeout 0ms").fails(1, &["over"]);
    scratch.run("search", "c --vector [0,1] --timeout soon").fails(2, &["--timeout"]);
}

#[test]
fn flush_stats_compact_verify_and_dump_say_what_they_did() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..50));
    for command in ["flush", "stats", "compact", "verify"] {
        assert!(!scratch.run(command, "").ok().is_empty());
        let report = scratch.run(command, "--json").json();
        assert!(report.len() == 1 && report[0].is_object(), "{command}");
    }
    let stats = scratch.run("stats", "--json").json().remove(0);
    assert_eq!(stats["collections"][0]["flushed_documents"], 50);
    assert_eq!(stats["lsn"]["appended"], stats["lsn"]["flushed"]);
    let verified = scratch.run("verify", "--json").json().remove(0);
    assert_eq!((&verified["ok"], &verified["findings"]), (&json!(true), &json!([])));
    let mut dumped = 0;
    for file in files_of(scratch.db.as_ref()) {
        let run = plimsoll(["dump".as_ref(), file.as_os_str()]);
        if run.code == 0 {
            assert!(run.stdout.lines().count() > 1, "{file:?}");
            assert!(
                plimsoll(["dump".as_ref(), file.as_os_str(), "--json".as_ref()]).json()[0]["fields"]
                    .is_array()
            );
            dumped += 1;
        }
    }
    assert!(dumped >= 3, "only {dumped} files could be dumped");
}

fn files_of(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..5000));
    let mut child = piped(command().args(["export", &scratch.db, "c"])).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"id\":0,"));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert_eq!(said, "");
}

#[test]
fn an_import_can_read_a_pipe_that_opens_only_once() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, small_lines(0..10)).unwrap()
    });
    scratch.run("import", &format!("c {}", pipe.display())).ok();
    writer.join().unwrap();
    assert_eq!(scratch.run("count", "c").ok(), "10\n");
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    plimsoll(["--help"]).ok();
    plimsoll(["import", "--help"]).ok();
    assert!(plimsoll(["--version"]).ok().starts_with("plimsoll "));
    for words in
        ["", "nonsense", "count d", "search d c --vector [1] -k 0", "search d c --vector oops", "bench"]
    {
        let run = plimsoll(words.split_whitespace());
        assert_eq!((run.code, run.stdout.len()), (2, 0), "{words}");
    }
    let run = plimsoll(["search", "d", "c", "--vector", "[1,", "--json"]).fails(2, &["malformed JSON"]);
    let error: serde_json::Value = serde_json::from_str(&run.stderr).unwrap();
    assert_eq!(error["kind"], "usage");
    let scratch = Scratch::new();
    scratch.import(&small_line(1));
    scratch.run("import", "c - -").fails(2, &["standard input"]);
}
