//! A power cut or a kill before any operation of a workload: what was acknowledged is there, what was under
//! way is there as a whole or not at all, nothing was invented, and the database goes on.

use plimsoll::{Document, Durability, Metric};

use crate::support::replay::Recorder;

use Durability::{Buffered, Durable};

fn document(key: u64, version: u64) -> Document {
    let text = format!("document {key}, version {version}; {}", "padding ".repeat((key % 7) as usize * 4));
    Document::new(key)
        .text(text)
        .metadata("version", version)
        .vector([key as f32 + 0.5, version as f32 + 0.25])
}

fn documents(keys: std::ops::Range<u64>, version: u64) -> Vec<Document> {
    keys.map(|key| document(key, version)).collect()
}

fn opened() -> Recorder {
    let mut run = Recorder::new();
    run.open();
    run.create("a", 2, Metric::L2);
    run
}

fn creation() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..2, 1), &[], Durable);
    run.write("a", &documents(2..3, 1), &[0], Durable);
    run
}

fn log_rotation() -> Recorder {
    let mut run = opened();
    for n in 0..14 {
        run.write("a", &documents(n * 3..n * 3 + 4, n), &[n], Durable);
    }
    run
}

fn buffered_writes() -> Recorder {
    let mut run = opened();
    for n in 0..6 {
        run.write("a", &documents(n..n + 5, n), &[], Buffered);
        run.write("a", &documents(n + 3..n + 8, n), &[n], Buffered);
        if n % 2 == 1 {
            run.sync();
        }
    }
    run
}

fn flushes() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..6, 1), &[], Durable);
    run.flush();
    run.write("a", &documents(3..9, 2), &[0, 5], Durable);
    run.write("a", &documents(20..22, 2), &[], Buffered);
    run.flush();
    run.write("a", &documents(4..5, 3), &[1, 8], Durable);
    run
}

fn automatic_flushes() -> Recorder {
    let mut run = Recorder::new();
    run.memtable_bytes = 3000;
    run.open();
    run.create("a", 2, Metric::Cosine);
    for n in 0..12 {
        run.write("a", &documents(n * 2..n * 2 + 4, n), &[n], Durable);
    }
    run
}

fn compactions() -> Recorder {
    let mut run = opened();
    for n in 0..3 {
        run.write("a", &documents(n * 2..n * 2 + 4, n), &[n], Durable);
        run.flush();
    }
    run.compact();
    run.write("a", &documents(0..2, 9), &[4], Durable);
    run.flush();
    run.compact();
    run
}

fn several_collections() -> Recorder {
    let mut run = opened();
    run.create("b", 2, Metric::Dot);
    run.write("a", &documents(0..3, 1), &[], Durable);
    run.write_both(["a", "b"], [document(1, 2), document(7, 2)]);
    run.flush();
    run.write_both(["a", "b"], [document(2, 3), document(7, 3)]);
    run.drop_collection("a");
    run.write("b", &documents(8..9, 4), &[], Durable);
    run.create("a", 2, Metric::L2);
    run.write_both(["a", "b"], [document(1, 5), document(9, 5)]);
    run.flush();
    run.drop_collection("b");
    run
}

fn closing() -> Recorder {
    let mut run = opened();
    run.write("a", &documents(0..3, 1), &[], Buffered);
    run.close();
    run.open();
    run.write("a", &documents(1..4, 2), &[0], Durable);
    run.close();
    run.open();
    run.close();
    run.open();
    run.write("a", &documents(1..2, 3), &[], Durable);
    run
}

fn a_new_index() -> Recorder {
    let mut run = opened();
    run.memtable_bytes = 64 << 20;
    let many: Vec<Document> =
        (0..4200u64).map(|n| Document::new(n).vector([(n % 97) as f32, (n % 89) as f32])).collect();
    run.write("a", &many, &[], Durable);
    run.flush();
    run.compact();
    run.write("a", &documents(0..3, 1), &[7], Durable);
    run.flush();
    run.compact();
    run
}

/// One test for each workload, with every how many-th operation is a crash point, and for crashes in the
/// recovery of one.
macro_rules! crashes {
    ($($workload:ident $stride:literal $again:literal,)*) => {
        mod once {
            $(#[test] fn $workload() { super::$workload().crash_everywhere($stride); })*
        }
        mod again_while_recovering {
            $(#[test] fn $workload() { super::$workload().crash_again_while_recovering($again); })*
        }
    };
}

crashes! {
    creation 1 3,
    log_rotation 1 9,
    buffered_writes 1 7,
    flushes 1 9,
    automatic_flushes 1 13,
    compactions 1 17,
    several_collections 1 17,
    closing 1 13,
    a_new_index 13 61,
}
