//! The borders between crates, and the few places that may hold `unsafe`.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The crates of this workspace that a crate depends on, outside of its tests.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            line.clone_into(&mut section);
        }
        let is_built =
            section.ends_with("dependencies]") && !section.contains("dev-") && !section.contains("workspace");
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if is_built && name.starts_with("plimsoll") {
            found.insert(name.trim_start_matches("plimsoll-").to_owned());
        }
    }
    found
}

#[test]
fn crates_know_only_what_they_may() {
    let allowed = BTreeMap::from([
        ("base", vec![]),
        ("kernels", vec!["base"]),
        ("codes", vec!["kernels"]),
        ("wal", vec!["base"]),
        ("shard", vec!["base", "kernels"]),
        ("index", vec!["base", "kernels"]),
        ("engine", vec!["base", "kernels", "wal", "shard", "index", "codes"]),
        ("sim", vec!["base"]),
        // The torture tests use the public face, and the disk they do it to.
        ("torture", vec!["plimsoll", "sim", "base"]),
        // The bodies of the fuzz targets reach every decoder.
        ("hostile", vec!["plimsoll", "base", "wal", "shard", "sim", "cli", "ingest"]),
        // The program uses the public face; of the kernels it measures the memory's bandwidth.
        ("cli", vec!["plimsoll", "kernels", "lines", "ingest", "onnx"]),
        // What import and ingestion both read.
        ("lines", vec!["plimsoll"]),
        ("ingest", vec!["plimsoll", "lines"]),
        // An embedder; only the program's feature `onnx` builds it.
        ("onnx", vec!["plimsoll", "ingest"]),
        // A local endpoint for tests and demonstrations; its vectors are those of the built-in embedder.
        ("embedding-server", vec!["ingest"]),
    ]);
    let mut crates: Vec<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    crates.sort();
    assert_eq!(crates, allowed.keys().copied().collect::<Vec<_>>(), "a new crate needs a line here");
    for (name, allowed) in allowed {
        for dependency in dependencies(&root().join("crates").join(name).join("Cargo.toml")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
    assert_eq!(dependencies(&root().join("Cargo.toml")), BTreeSet::from(["engine".to_owned()]));
}

#[test]
fn a_plain_build_is_of_every_crate_but_the_one_whose_dependencies_take_minutes() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = text.split("\ndefault-members = [").nth(1).unwrap().split(']').next().unwrap();
    let listed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    let crates = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().file_name());
    let expected: BTreeSet<String> = crates
        .map(|name| format!("crates/{}", name.into_string().unwrap()))
        .filter(|member| member != "crates/onnx")
        .chain([".".to_owned()])
        .collect();
    assert_eq!(listed, expected.iter().map(String::as_str).collect());
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// Whether the word `unsafe` is in the code, comments and strings not counted.
fn has_unsafe(text: &str) -> bool {
    let is_word = |word: &str| word == "unsafe";
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = code.map(|line| line.split('"').step_by(2).collect::<String>());
    code.into_iter().any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_word))
}

#[test]
fn unsafe_code_stays_in_its_places() {
    let mut files = Vec::new();
    ["src", "crates", "examples", "benches"].iter().for_each(|dir| {
        if root().join(dir).is_dir() {
            rust_files(&root().join(dir), &mut files);
        }
    });
    assert!(files.len() > 50, "the sources are here");
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        let may = name.starts_with("crates/kernels/src/")
            || [
                "crates/base/src/storage/map.rs",
                "crates/base/src/storage/writeback.rs",
                "crates/base/src/arena.rs",
            ]
            .contains(&&name[..]);
        assert!(may || !has_unsafe(&fs::read_to_string(&file).unwrap()), "{name} has unsafe code");
    }
}

#[test]
fn only_the_storage_seam_touches_the_file_system() {
    let mut files = Vec::new();
    for name in ["kernels", "wal", "shard", "index", "engine"] {
        rust_files(&root().join("crates").join(name).join("src"), &mut files);
    }
    for file in files.into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        for line in code.filter(|line| !line.trim_start().starts_with("//")) {
            for call in ["std::fs", " File::", "(File::", "OpenOptions", "SystemTime::now"] {
                assert!(!line.contains(call), "{}: {line}", file.display());
            }
        }
    }
}
