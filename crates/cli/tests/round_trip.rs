//! What is imported comes back bit for bit: from the log, from sealed files, after reopening and compaction.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};

use common::{Scratch, importing, plimsoll_with, rustdocs, rustdocs_lines, rustdocs_vectors};
use serde_json::Value;

/// The documents of JSON lines by id, with their numbers as the bits of `f32`.
fn documents(lines: &str) -> BTreeMap<String, (Value, Value, Vec<u32>)> {
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let numbers =
            line["vector"].as_array().unwrap().iter().map(|x| (x.as_f64().unwrap() as f32).to_bits());
        let id = line["id"].as_str().unwrap().to_owned();
        (id, (line["text"].clone(), line["metadata"].clone(), numbers.collect()))
    };
    let documents: Vec<_> = lines.lines().map(read).collect();
    let count = documents.len();
    let map: BTreeMap<_, _> = documents.into_iter().collect();
    assert_eq!(map.len(), count);
    map
}

#[test]
fn rustdocs_survive_bit_for_bit() {
    let given: String = rustdocs_lines().into_iter().map(|line| line + "\n").collect();
    let expected = documents(&given);
    let scratch = Scratch::new();
    // Left as a crash leaves it: everything is in the log only.
    let mut child = importing(&scratch.db, 1000);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let feeder = std::thread::spawn({
        let given = given.clone();
        move || {
            stdin.write_all(given.as_bytes()).unwrap();
            stdin
        }
    });
    let mut line = String::new();
    while line != "ACK 3000\n" {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(feeder.join());

    let from_log = scratch.export();
    assert_eq!(documents(&from_log), expected);
    let stats = scratch.run("stats", "--json").json().remove(0);
    assert_eq!(stats["collections"][0]["flushed_documents"], 0);
    scratch.verify();
    for command in ["flush", "stats", "compact", "flush", "compact"] {
        scratch.run(command, "").ok();
        assert!(scratch.export() == from_log, "the export differs after {command}");
        scratch.verify();
    }
    // An export is an import, and its export is the same to the byte.
    let copy = Scratch::new();
    plimsoll_with(["import", &copy.db, "c", "-", "--batch-size", "77"], &from_log).ok();
    assert!(copy.export() == from_log);
    let ids: Vec<&str> = expected.keys().map(String::as_str).collect();
    let order: Vec<Value> =
        from_log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(order, ids, "ordered by id");
}

#[test]
fn npy_files_survive_bit_for_bit_and_float16_is_widened() {
    let scratch = Scratch::new();
    let path = rustdocs().join("vectors.npy");
    scratch.run("import", &format!("c {}", path.display())).ok();
    let vectors = rustdocs_vectors();
    let export = scratch.export();
    for (row, line) in export.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["id"], row);
        let numbers =
            line["vector"].as_array().unwrap().iter().map(|x| (x.as_f64().unwrap() as f32).to_bits());
        assert!(numbers.eq(vectors[row].iter().map(|x| x.to_bits())), "row {row}");
    }
    assert_eq!(export.lines().count(), 3000);

    let halves = [half::f16::from_f32(0.1), half::f16::from_f32(-6e-8), half::f16::MAX];
    let text = format!("{:<117}\n", "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3), }");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(text.as_bytes());
    halves.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
    let path = scratch.file("half.npy", bytes);
    scratch.run("import", &format!("half {path}")).ok();
    let line = scratch.run("export", "half").json().remove(0);
    let expected: Vec<f64> = halves.iter().map(|half| half.to_f64()).collect();
    let numbers: Vec<f64> =
        line["vector"].as_array().unwrap().iter().map(|x| f64::from(x.as_f64().unwrap() as f32)).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn answers_equal_brute_force_before_and_after_flush_and_compaction() {
    let scratch = Scratch::new();
    let lines: String = rustdocs_lines().into_iter().map(|line| line + "\n").collect();
    plimsoll_with(["import", &scratch.db, "c", "-"], &lines).ok();
    let queries = rustdocs().join("queries.npy");
    let search = |effort: &str| {
        scratch.run("search", &format!("c --queries {} {effort} --json", queries.display())).json()
    };
    let exact = search("--exact");
    assert_eq!(exact.len(), 40);
    let ids: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].take()).collect();
    let truth = std::fs::read(rustdocs().join("ground_truth.ivecs")).unwrap();
    for (query, answer) in exact.iter().enumerate() {
        let row = |rank: usize| {
            let at = query * 404 + 4 + rank * 4;
            u32::from_le_bytes(truth[at..at + 4].try_into().unwrap()) as usize
        };
        let hits = answer["hits"].as_array().unwrap();
        let distances: Vec<f64> = hits.iter().map(|hit| hit["distance"].as_f64().unwrap()).collect();
        assert!(distances.is_sorted());
        // Equal up to passages at the same distance.
        for (rank, hit) in hits.iter().enumerate() {
            let tie =
                distances.iter().filter(|distance| (*distance - distances[rank]).abs() < 2e-7).count() > 1;
            assert!(tie || hit["id"] == ids[row(rank)], "query {query}, rank {rank}");
        }
    }
    assert_eq!(search("--recall 0.95"), exact, "below 4,096 rows everything is exact");
    scratch.run("compact", "").ok();
    assert_eq!(search("--exact"), exact);
}
