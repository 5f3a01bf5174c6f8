//! What the tests of the program share: running it, and data to run it on.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test program uses its own part, and fails by panicking"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Asserts success, and returns standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Asserts an exit code and that standard error says each of these.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for words in said {
            assert!(self.stderr.contains(words), "{words:?} is missing: {self:?}");
        }
        self
    }

    /// Asserts success, and returns standard output as lines of JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The program, not yet started.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_plimsoll"))
}

/// Runs the program with nothing on standard input.
pub(crate) fn plimsoll<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    plimsoll_with(args, "")
}

/// Runs the program with this on standard input.
pub(crate) fn plimsoll_with<S: AsRef<std::ffi::OsStr>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
) -> Run {
    let mut child = piped(command().args(args)).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // The program need not read all of it.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().unwrap()
    });
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Every stream of the command is a pipe.
pub(crate) fn piped(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// An import that reads standard input and acknowledges each of its batches.
pub(crate) fn importing(db: &str, batch_rows: usize) -> Child {
    let rows = batch_rows.to_string();
    piped(command().args(["import", db, "c", "-", "--ack", "--batch-size", &rows])).spawn().unwrap()
}

/// A directory for one test, with a database that does not exist yet.
pub(crate) struct Scratch {
    dir: TempDir,
    /// The database's directory.
    pub(crate) db: String,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db").to_str().unwrap().to_owned();
        Self { dir, db }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and returns its name.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs `plimsoll COMMAND DB ARGS…`; the arguments are the words of `words`.
    pub(crate) fn run(&self, command: &str, words: &str) -> Run {
        plimsoll([command, &self.db].into_iter().chain(words.split_whitespace()))
    }

    /// Imports JSON lines into the collection `c`.
    #[track_caller]
    pub(crate) fn import(&self, lines: &str) -> String {
        plimsoll_with(["import", &self.db, "c", "-"], lines).ok()
    }

    pub(crate) fn export(&self) -> String {
        self.run("export", "c").ok()
    }

    #[track_caller]
    pub(crate) fn verify(&self) {
        self.run("verify", "").ok();
    }
}

/// The lines of a file of JSON lines.
pub(crate) fn json_lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The folder of the bundled data.
pub(crate) fn rustdocs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/rustdocs")
}

/// The vectors of the bundled passages: 3,000 rows of 384, after a header of 128 bytes.
pub(crate) fn rustdocs_vectors() -> Vec<Vec<f32>> {
    let bytes = std::fs::read(rustdocs().join("vectors.npy")).unwrap();
    let (numbers, _) = bytes[128..].as_chunks();
    let numbers: Vec<f32> = numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    numbers.chunks(384).map(<[f32]>::to_vec).collect()
}

/// The bundled passages as lines that `import` reads, their numbers printed as Python prints them: each `f32`
/// as the shortest decimal of the equal `f64`.
pub(crate) fn rustdocs_lines() -> Vec<String> {
    let documents = std::fs::read_to_string(rustdocs().join("documents.jsonl")).unwrap();
    let with_vector = |(line, vector): (&str, Vec<f32>)| {
        let numbers: Vec<String> = vector.into_iter().map(|x| f64::from(x).to_string()).collect();
        format!("{}, \"vector\": [{}]}}", line.strip_suffix('}').unwrap(), numbers.join(", "))
    };
    documents.lines().zip(rustdocs_vectors()).map(with_vector).collect()
}

/// A line with a small vector that belongs to the row.
pub(crate) fn small_line(row: usize) -> String {
    let angle = row as f64;
    format!(
        r#"{{"id": {row}, "text": "row {row}", "vector": [{}, {}]}}"#,
        angle.cos() as f32,
        angle.sin() as f32
    )
}

/// Rows from a range as lines.
pub(crate) fn small_lines(rows: std::ops::Range<usize>) -> String {
    rows.map(|row| small_line(row) + "\n").collect()
}

/// A .npy file of float32.
pub(crate) fn npy(rows: &[&[f32]]) -> Vec<u8> {
    let columns = rows.first().map_or(1, |row| row.len());
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {columns}), }}", rows.len());
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let text = format!("{text:<117}\n");
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    rows.iter().for_each(|row| row.iter().for_each(|number| bytes.extend(number.to_le_bytes())));
    bytes
}

/// A .fvecs file.
pub(crate) fn fvecs(rows: &[&[f32]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend((row.len() as i32).to_le_bytes());
        row.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    }
    bytes
}
