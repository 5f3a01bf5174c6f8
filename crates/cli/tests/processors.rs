//! The same ids and distances, bit for bit, whatever instructions the processor has (rule R20): a database is built and
//! searched with each set of kernels, and searched with the others.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "these are tests")]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::command;

const ROWS: u64 = 6000;
const DIMENSION: usize = 40;

/// Points around 70 centres.
fn point(state: &mut u64) -> Vec<f32> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let centre = ((next() + 1.0) * 35.0).floor();
    (0..DIMENSION).map(|at| (centre * (at as f32 + 1.0)).sin() + 0.5 * next()).collect()
}

fn lines(state: &mut u64, rows: u64) -> String {
    let mut lines = String::new();
    for id in 0..rows {
        writeln!(lines, "{}", serde_json::json!({ "id": id, "vector": point(state) })).unwrap();
    }
    lines
}

fn run(cpu: &str, args: &[&str], dir: &Path) -> String {
    let output = command().args(args).current_dir(dir).env("PLIMSOLL_CPU", cpu).output().unwrap();
    assert!(output.status.success(), "{cpu} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_set_of_kernels_gives_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    std::fs::write(dir.path().join("rows.jsonl"), lines(&mut state, ROWS)).unwrap();
    std::fs::write(dir.path().join("queries.jsonl"), lines(&mut state, 40)).unwrap();
    for metric in ["cosine", "l2", "dot"] {
        let mut answers = Vec::new();
        for built_with in ["scalar", "avx2", "avx512", "avx512vnni"] {
            let db = format!("{metric}-{built_with}.db");
            run(built_with, &["import", &db, "c", "rows.jsonl", "--metric", metric], dir.path());
            run(built_with, &["compact", &db], dir.path());
            for searched_with in ["scalar", "avx2", "avx512", "avx512vnni"] {
                let search = ["search", &db, "c", "--queries", "queries.jsonl", "--recall", "0.95", "--json"];
                answers.push((built_with, searched_with, run(searched_with, &search, dir.path())));
            }
        }
        assert!(answers[0].2.lines().count() == 40 && answers[0].2.contains("distance"));
        for (built_with, searched_with, answer) in &answers {
            assert_eq!(
                answer, &answers[0].2,
                "{metric}: built with {built_with}, searched with {searched_with}"
            );
        }
    }
}
