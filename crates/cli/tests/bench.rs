//! The benchmarks run, and write what their readers need.

mod common;

use std::fs;

use common::{Scratch, json_lines, npy, plimsoll, rustdocs};
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
    let lines = json_lines(&results);
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
    let line = json_lines(&results).remove(0);
    assert_eq!((line["ids"].as_array().unwrap().len(), line["ids"][0].as_array().unwrap().len()), (7, 3));
    bench(&format!("--lists {}", ["1"; 17].join(","))).fails(2, &["16"]);
}

/// 5,000 rows in clusters, and 100 queries from the same.
fn clusters(scratch: &Scratch) -> (String, String) {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let centres: Vec<f32> = (0..8 * 16).map(|_| random()).collect();
    let rows: Vec<Vec<f32>> = (0..5100)
        .map(|row| (0..16).map(|component| centres[row % 8 * 16 + component] + random()).collect())
        .collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    (scratch.file("rows.npy", npy(&rows[..5000])), scratch.file("queries.npy", npy(&rows[5000..])))
}

#[test]
fn bench_search_measures_threads_batches_the_cold_cache_and_the_byte_limit() {
    let scratch = Scratch::new();
    let (rows, queries) = clusters(&scratch);
    scratch.run("import", &format!("c {rows} --metric l2")).ok();
    scratch.run("compact", "").ok();
    let path = scratch.path("results.jsonl");
    let words = format!("--queries {queries} --results {} --recall 0.9,0.99", path.display());
    let bench = |more: &str| {
        let words: Vec<&str> = words.split(' ').chain(more.split_whitespace()).collect();
        plimsoll(["bench", "search", &scratch.db, "c"].into_iter().chain(words))
    };
    bench("").ok();
    for line in json_lines(&path) {
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            ["cpu_over_wall", "ids", "ns", "param", "touched"],
            "nothing that was not asked for"
        );
        assert!(
            line["touched"]["codes"].as_f64().unwrap() > 100.0,
            "codes were searched: {}",
            line["touched"]
        );
    }
    bench("--exact --byte-limit").ok();
    assert!(json_lines(&path).pop().unwrap().get("byte_limit").is_none(), "an exact search reads no codes");
    let report = bench("--threads 2 --batch 16 --byte-limit --json").json().remove(0);
    let positive = |value: &Value| assert!(value.as_f64().unwrap() > 0.0, "{value}");
    for line in json_lines(&path).iter().chain(report["settings"].as_array().unwrap()) {
        let (threads, batches, limit) = (&line["threads"], &line["batches"], &line["byte_limit"]);
        assert_eq!((&threads["threads"], &batches["batch"]), (&2.into(), &16.into()));
        let per_second = ["qps", "one_thread_qps", "ratio", "p50_us", "p99_us", "cpu_over_wall"];
        per_second.into_iter().for_each(|figure| positive(&threads[figure]));
        ["single_qps", "one_thread_qps", "one_thread_ratio", "all_cores_qps", "all_cores_ratio"]
            .into_iter()
            .for_each(|figure| positive(&batches[figure]));
        assert!(limit["bytes"].as_f64().unwrap() > 10.0 * line["touched"]["codes"].as_f64().unwrap());
        assert!(
            limit["limit_us"].as_f64() < limit["measured_us"].as_f64(),
            "nothing beats the limit: {line}"
        );
        assert!(line.get("cold").is_none());
    }
    positive(&report["rates"]["codes"]);
    assert_eq!(report["rates"]["streams"].as_array().unwrap().len(), 3);
    if cfg!(target_os = "linux") {
        let table = bench("--cold").ok();
        assert!(table.contains("major faults"), "{table}");
        for line in json_lines(&path) {
            let (first, following) = (&line["cold"]["first"], &line["cold"]["following"]);
            let queries =
                ["first", "hundred", "following", "again"].map(|part| &line["cold"][part]["queries"]);
            assert_eq!(queries, [30, 100, 100, 100], "{line}");
            assert_eq!(line["cold"]["again"]["disk_bytes"], 0.0, "everything is in memory: {line}");
            // Where files live in memory only, nothing can be dropped, and mapping them still causes minor faults.
            positive(&first["minor_faults"]);
            positive(&first["p50_us"]);
            assert!(
                first["minor_faults"].as_f64() > following["minor_faults"].as_f64(),
                "{first} {following}"
            );
        }
    }
    bench("--threads 0").fails(2, &["--threads"]);
}

#[test]
fn bench_search_draws_its_curves() {
    let scratch = Scratch::new();
    let (rows, queries) = clusters(&scratch);
    scratch.run("import", &format!("c {rows} --metric l2")).ok();
    scratch.run("compact", "").ok();
    let (path, charts) = (scratch.path("results.jsonl"), scratch.path("charts"));
    let words = format!("--queries {queries} --results {} --charts {}", path.display(), charts.display());
    let bench = |more: &str| {
        let words: Vec<&str> = words.split(' ').chain(more.split_whitespace()).collect();
        plimsoll(["bench", "search", &scratch.db, "c"].into_iter().chain(words))
    };
    bench("").fails(2, &["--ground-truth"]);
    bench("--lists 1000").fails(2, &["--ground-truth"]);
    plimsoll(
        ["bench", "search", &scratch.db, "c"].into_iter().chain(words.split(' ').take(4)).chain(["--exact"]),
    )
    .ok();
    let exact = json_lines(&path).pop().unwrap();
    let mut truth = Vec::new();
    for row in exact["ids"].as_array().unwrap() {
        let ids = row.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        std::iter::once(10).chain(ids).for_each(|id| truth.extend(id.to_le_bytes()));
    }
    let truth = scratch.file("truth.ivecs", truth);
    bench(&format!("--ground-truth {truth} --charts-title clusters")).ok();
    for (file, value) in [("qps.svg", "QPS"), ("codes.svg", "codes")] {
        let svg = fs::read_to_string(charts.join(file)).unwrap();
        assert!(svg.contains("clusters") && svg.contains(value) && svg.contains("recall@10"), "{svg}");
        assert!(svg.matches("<circle").count() >= 2, "{svg}");
    }
    bench(&format!("--ground-truth {truth} --recall 1")).fails(1, &["no curve"]);
}

#[test]
fn bench_grow_repeats_itself_and_resembles_its_base() {
    let scratch = Scratch::new();
    let (rows, queries) = clusters(&scratch);
    let dir = scratch.path("").display().to_string();
    let out = |name: &str| scratch.path(name).display().to_string();
    let grow = |words: &[&str]| plimsoll(["bench", "grow", &rows, "--dir", &dir].iter().chain(words));
    for (name, seed) in [("one", "1"), ("again", "1"), ("other", "2")] {
        grow(&[&out(name), "--rows", "12000", "--seed", seed]).ok();
    }
    let [base, one, again, other] =
        ["rows.npy", "one", "again", "other"].map(|name| fs::read(scratch.path(name)).unwrap());
    assert_eq!(one.len(), 128 + 12_000 * 16 * 4);
    assert_eq!(one[128..base.len()], base[128..], "the real rows come first");
    assert!(one == again && one != other);
    let report = grow(&["--check", "--queries", &queries, "--json"]).json().remove(0);
    assert_eq!((&report["grown_from"], &report["rows"]), (&500.into(), &5000.into()));
    assert!((report["ratio"].as_f64().unwrap() - 1.0).abs() < 0.2, "{report}");
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 5, "nothing is left behind");
    grow(&[&out("x"), "--rows", "10"]).fails(2, &["5000 rows already"]);
    grow(&[&out("x")]).fails(2, &["--rows"]);
    grow(&[]).fails(2, &["--check"]);
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

#[test]
fn calibrate_says_what_it_did_and_refuses_what_are_no_queries() {
    let scratch = Scratch::new();
    let (rows, queries) = clusters(&scratch);
    scratch.run("import", &format!("c {rows} --metric l2")).ok();
    scratch.run("calibrate", &format!("c --queries {queries}")).fails(1, &["has no index"]);
    scratch.run("flush", "").ok();
    scratch.run("compact", "").ok();
    let report =
        scratch.run("calibrate", &format!("c --queries {queries} --limit 70 --json")).json().remove(0);
    assert_eq!(report["queries"], 70);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    let recalls = report["recalls"].as_array().unwrap();
    assert_eq!(recalls.len(), 3);
    for (of, asked) in recalls.iter().zip([0.9, 0.95, 0.99]) {
        assert!((of["recall"].as_f64().unwrap() - asked).abs() < 1e-6, "{of}");
        for when in ["before", "after"] {
            let share = |what: &str| of[when][what].as_f64().unwrap();
            assert!(share("recall") > 0.5 && share("recall") <= 1.0, "{of}");
            assert!(share("scanned") > 0.0 && share("scanned") <= 1.0, "{of}");
        }
    }
    assert_eq!(scratch.run("stats", "--json").json()[0]["collections"][0]["calibration_queries"], 70);
    assert!(scratch.run("stats", "").ok().contains("calibrated on 70 queries"));
    let text = scratch.run("calibrate", &format!("c --queries {queries}")).ok();
    assert!(text.contains("calibrated on 100 queries") && text.contains("asked for 0.95"), "{text}");

    let wrong = scratch.file("wrong.jsonl", "{\"vector\": [1, 2]}\n");
    scratch.run("calibrate", &format!("c --queries {wrong}")).fails(1, &["line 1", "2 dimensions"]);
    let none = scratch.file("none.jsonl", "");
    scratch.run("calibrate", &format!("c --queries {none}")).fails(1, &["there are no queries"]);
    let mut row = [0.5_f32; 16];
    row[3] = f32::NAN;
    let nan = scratch.file("nan.npy", npy(&[&[0.5; 16], &row]));
    scratch.run("calibrate", &format!("c --queries {nan}")).fails(1, &["row 1", "NaN"]);
    scratch.run("calibrate", "d --queries x.npy").fails(1, &["there are: c"]);
    assert_eq!(scratch.run("stats", "--json").json()[0]["collections"][0]["calibration_queries"], 100);

    let report = scratch.run("calibrate", "c --reset --json").json().remove(0);
    assert_eq!((&report["queries"], report.get("recalls")), (&0.into(), None));
    assert_eq!(scratch.run("stats", "--json").json()[0]["collections"][0]["calibration_queries"], 0);
    scratch.run("verify", "").ok();
}
