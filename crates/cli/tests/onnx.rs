//! `--embed onnx:DIRECTORY`, in a program with the feature `onnx` and in one without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use common::{Scratch, plimsoll};

/// A tiny model that `plimsoll-onnx` is tested with: its vectors come from a table of twelve words.
fn model() -> String {
    format!("onnx:{}/../onnx/tests/models/table", env!("CARGO_MANIFEST_DIR"))
}

fn folder(scratch: &Scratch) -> String {
    std::fs::create_dir(scratch.path("docs")).unwrap();
    scratch.file("docs/ship.md", "the hull . a ship");
    scratch.file("docs/bread.md", "bread salt flour water");
    scratch.path("docs").to_str().unwrap().to_owned()
}

#[cfg(not(feature = "onnx"))]
#[test]
fn a_program_without_local_models_says_how_to_get_one_with_them() {
    let scratch = Scratch::new();
    let folder = folder(&scratch);
    let run = plimsoll(["ingest", &scratch.db, "c", &folder, "--embed", &model()]);
    run.fails(1, &["built without", "cargo install --locked --path crates/cli --features onnx"]);
    assert!(!std::path::Path::new(&scratch.db).exists(), "nothing was created");
}

#[cfg(feature = "onnx")]
#[test]
fn a_folder_is_embedded_and_searched_with_a_local_model() {
    let scratch = Scratch::new();
    let folder = folder(&scratch);
    let report = |run: common::Run| run.json().remove(0);
    let ingested = report(plimsoll(["ingest", &scratch.db, "c", &folder, "--embed", &model(), "--json"]));
    assert_eq!((&ingested["committed"], &ingested["embedded"]), (&2.into(), &2.into()));
    for (text, key) in [("bread salt flour water", "bread.md"), ("the hull . a ship", "ship.md")] {
        let found = report(plimsoll(["search", &scratch.db, "c", "--text", text, "-k", "1", "--json"]));
        assert_eq!(found["hits"][0]["id"], key);
        assert!(found["hits"][0]["distance"].as_f64().unwrap() < 1e-6, "{found}");
    }
    let again = report(plimsoll(["ingest", &scratch.db, "c", &folder, "--json"]));
    assert_eq!(
        (&again["committed"], &again["embedded"]),
        (&0.into(), &0.into()),
        "the collection remembers it"
    );
}

#[cfg(feature = "onnx")]
#[test]
fn passages_that_are_longer_than_the_model_takes_are_counted() {
    let scratch = Scratch::new();
    let folder = folder(&scratch);
    scratch.file("docs/long.md", "the deep line . ".repeat(5));
    let embed = model();
    let ingest = ["ingest", &scratch.db, "c", &folder, "--embed", &embed];
    let report = plimsoll(ingest.iter().chain([&"--json"])).json().remove(0);
    assert_eq!((&report["embedded"], &report["truncated"]), (&3.into(), &1.into()));
    scratch.file("docs/longer.md", "bread salt flour water ".repeat(5));
    let said = plimsoll(ingest).ok();
    assert!(
        said.contains("1 passage embedded, 0 known from before, 1 longer than the model takes"),
        "{said}"
    );
}

#[cfg(feature = "onnx")]
#[test]
fn another_model_in_the_same_place_is_refused() {
    let scratch = Scratch::new();
    let folder = folder(&scratch);
    std::fs::create_dir(scratch.path("model")).unwrap();
    let copy = |file: &str| {
        let from = format!("{}/../onnx/tests/models/table/{file}", env!("CARGO_MANIFEST_DIR"));
        scratch.file(&format!("model/{file}"), std::fs::read(from).unwrap())
    };
    copy("model.onnx");
    let embed = format!("onnx:{}", scratch.path("model").display());
    let ingest = || plimsoll(["ingest", &scratch.db, "c", &folder, "--embed", &embed]);
    ingest().fails(1, &["tokenizer.json can not be read"]);
    assert!(!std::path::Path::new(&scratch.db).exists(), "nothing was created");
    let tokenizer = copy("tokenizer.json");
    ingest().ok();
    let mut text = std::fs::read(&tokenizer).unwrap();
    text.push(b'\n');
    std::fs::write(&tokenizer, text).unwrap();
    ingest().fails(1, &["was embedded with", "can not be compared"]);
}
