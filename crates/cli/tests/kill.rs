//! SIGKILL at random moments: what was acknowledged is there, the rest whole or absent.
//!
//! The seed is printed; `PLIMSOLL_SEED=n` repeats the moments, as far as a machine repeats anything, and
//! `PLIMSOLL_KILLS=n` changes how often the child dies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::Duration;

use common::{Scratch, importing, plimsoll, small_line};
use serde_json::Value;

const BATCH_ROWS: usize = 7;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Imports rows from `first` on until the child is killed after `delay`. Returns how many rows it acknowledged.
fn import_until_killed(scratch: &Scratch, first: usize, delay: Duration) -> usize {
    let mut child = importing(&scratch.db, BATCH_ROWS);
    let mut stdin = child.stdin.take().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for row in first.. {
            if writeln!(stdin, "{}", small_line(row)).is_err() {
                return;
            }
        }
    });
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        for line in BufReader::new(stdout).lines() {
            let line = line.unwrap();
            last = line.strip_prefix("ACK ").unwrap().parse().unwrap();
        }
        last
    });
    std::thread::sleep(delay);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
    assert_eq!(status.code(), None, "it ended by itself: {said}");
    feeder.join().unwrap();
    reader.join().unwrap()
}

/// The rows that are stored, which must be the first ones, each whole.
fn stored_rows(scratch: &Scratch) -> usize {
    if !scratch.path("db").exists() {
        return 0;
    }
    let run = scratch.run("export", "c");
    // It may have died before it had made the collection, or even the first manifest. The caller knows whether
    // anything had been acknowledged by then.
    if run.code == 1
        && ["no collection", "creation was interrupted", "it is empty"]
            .iter()
            .any(|words| run.stderr.contains(words))
    {
        return 0;
    }
    let mut rows = 0;
    for line in run.ok().lines() {
        let stored: Value = serde_json::from_str(line).unwrap();
        let given: Value = serde_json::from_str(&small_line(rows)).unwrap();
        let bits = |line: &Value| -> Vec<u32> {
            line["vector"]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| (x.as_f64().unwrap() as f32).to_bits())
                .collect()
        };
        assert_eq!(
            (&stored["id"], &stored["text"]),
            (&given["id"], &given["text"]),
            "row {rows} is missing or another"
        );
        assert_eq!(bits(&stored), bits(&given));
        rows += 1;
    }
    rows
}

#[test]
fn random_kills_lose_nothing_that_was_acknowledged() {
    let seed = from_environment("PLIMSOLL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = from_environment("PLIMSOLL_KILLS").unwrap_or(100);
    println!("PLIMSOLL_SEED={seed}");
    let mut random = Random(seed);
    let mut scratch = Scratch::new();
    let mut rows = 0;
    let (mut acknowledged_rows, mut kept_rows) = (0, 0);
    for kill in 0..kills {
        // Most deaths hit a database that has died before; now and then it is a new one.
        if random.below(10) == 0 {
            (scratch, rows) = (Scratch::new(), 0);
        }
        let delay = Duration::from_millis(5 + random.below(146));
        let acknowledged = import_until_killed(&scratch, rows, delay);
        // Whoever comes first finds the same: the checker, a reader, or a writer.
        match random.below(3) {
            0 if scratch.path("db").exists() => {
                let run = plimsoll(["verify", &scratch.db]);
                assert!(run.code == 0 || run.stderr.contains("it is empty"), "kill {kill}: {run:?}");
            }
            1 if rows > 0 => drop(scratch.run("flush", "").ok()),
            _ => {}
        }
        let stored = stored_rows(&scratch);
        let added =
            stored.checked_sub(rows).unwrap_or_else(|| panic!("kill {kill}: rows {stored}..{rows} are lost"));
        assert!(
            added >= acknowledged,
            "kill {kill}: {acknowledged} rows were acknowledged, {added} are there"
        );
        assert!(added.is_multiple_of(BATCH_ROWS), "kill {kill}: {added} rows are no whole batches");
        if stored > 0 {
            scratch.verify();
        }
        rows = stored;
        acknowledged_rows += acknowledged;
        kept_rows += added;
    }
    println!(
        "{kills} kills: {acknowledged_rows} rows acknowledged, 0 lost; {} kept beyond",
        kept_rows - acknowledged_rows
    );
    assert!(acknowledged_rows > 0);
}
