//! The benchmarks run, and write what their readers need.

mod common;

use std::fs;

use common::{Scratch, npy, plimsoll, rustdocs};
use serde_json::Value;

#[test]
fn bench_search_answers_every_query_once_a_setting() {
    let scratch = Scratch::new();
    let (vectors, queries) = (rustdocs().join("vectors.npy"), rustdocs().join("queries.npy"));
    let truth = rustdocs().join("ground_truth.ivecs");
    scratch.run("import", &format!("c {}", vectors.display())).ok();
    let results = scratch.path("results.jsonl");
    let words = format!("--queries {} --results {}", queries.display(), results.display());
    let bench = |more: &str| {
        let words: Vec<&str> = words.split(' ').chain(more.split_whitespace()).collect();
        plimsoll(["bench", "search", &scratch.db, "c"].into_iter().chain(words))
    };
    let table = bench(&format!("--exact --ground-truth {}", truth.display())).ok();
    assert!(table.contains("recall 0.95") && table.contains("exact search reads"), "{table}");
    let lines: Vec<Value> = fs::read_to_string(&results)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 13);
    for line in &lines {
        let (ids, ns) = (line["ids"].as_array().unwrap(), line["ns"].as_array().unwrap());
        assert_eq!((ids.len(), ns.len()), (40, 40));
        assert!(ids.iter().all(|row| row.as_array().unwrap().iter().all(Value::is_u64)));
        assert!(ids.iter().all(|row| row.as_array().unwrap().len() == 10));
        assert!(ns.iter().all(|ns| ns.as_u64().unwrap() > 0));
        assert!(line["cpu_over_wall"].as_f64().unwrap() > 0.0);
        assert_eq!(line["recall"], 1.0, "3,000 rows are searched exactly");
    }
    let report = bench("--recall 0.9,0.99 -k 3 --limit 7 --json").json().remove(0);
    assert_eq!(report["settings"].as_array().unwrap().len(), 2);
    let line = fs::read_to_string(&results).unwrap();
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!((line["ids"].as_array().unwrap().len(), line["ids"][0].as_array().unwrap().len()), (7, 3));
    bench(&format!("--lists {}", ["1"; 17].join(","))).fails(2, &["16"]);
}

#[test]
fn bench_flush_and_recovery_measure_small_databases() {
    let scratch = Scratch::new();
    let dir = scratch.path("").display().to_string();
    let words =
        ["bench", "flush", "--base", "5000", "--rows", "100", "--shard-rows", "4096,512", "--dim", "16"];
    let report = plimsoll(words.into_iter().chain(["--dir", &dir, "--json"])).json().remove(0);
    let flushes = report["flushes"].as_array().unwrap();
    assert_eq!(flushes.len(), 2);
    assert!(flushes[1]["shards"].as_u64() > flushes[0]["shards"].as_u64());
    assert_eq!(flushes[0]["files_synced"], flushes[1]["files_synced"], "syncs don't grow with shards");
    assert_eq!(flushes[0]["dir_syncs"], flushes[1]["dir_syncs"]);

    let words = ["bench", "recovery", "--rows", "500,5000", "--dim", "16", "--rounds", "2"];
    let report = plimsoll(words.into_iter().chain(["--dir", &dir, "--json"])).json().remove(0);
    assert_eq!(report["opening"].as_array().unwrap().len(), 2);
    assert!(report["replay"]["wal_bytes"].as_u64().unwrap() > 5000 * 16 * 4);
    plimsoll(words.into_iter().chain(["--dir", &dir])).ok();
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn bench_ingest_compares_with_the_disk() {
    let scratch = Scratch::new();
    let rows: Vec<Vec<f32>> = (0..100).map(|row| (0..32).map(|x| (row * 32 + x) as f32).collect()).collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let vectors = scratch.file("v.npy", npy(&rows));
    let dir = scratch.path("").display().to_string();
    let words = [
        "bench",
        "ingest",
        "--vectors",
        &vectors,
        "--dir",
        &dir,
        "--rounds",
        "1",
        "--memtable-bytes",
        "200000",
    ];
    let report = plimsoll(words.into_iter().chain(["--json"])).json().remove(0);
    let lines = report["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line["ratio"].as_f64().unwrap() > 0.0));
    assert!(report["rounds"][0]["sustained_flushes"].as_u64().unwrap() >= 2);
    if !cfg!(feature = "sqlite") {
        plimsoll(words.into_iter().chain(["--sqlite"])).fails(2, &["--features sqlite"]);
    }
}
