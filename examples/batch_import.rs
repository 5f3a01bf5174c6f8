//! Streams 3,000 passages of the Rust documentation with their vectors into a database, a batch at a time, and
//! prints what each phase of the flush took.
//!
//! ```text
//! cargo run --example batch_import                 a directory of its own, removed at the end
//! cargo run --example batch_import -- rustdocs.db  a directory of yours, which stays
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use plimsoll::{CollectionConfig, Database, Document, Metric, WriteBatch};
use serde_json::Value;

/// How many documents are one atomic, durable write.
const BATCH: usize = 250;
/// The dimension of the bundled vectors.
const DIMENSION: usize = 384;

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let path = std::env::args_os().nth(1).map_or_else(|| scratch.path().join("rustdocs.db"), PathBuf::from);
    let mut rows = Rows::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/cli/data/rustdocs"))?;

    let db = Database::open(&path)?;
    let passages = db.create_collection("passages", CollectionConfig::new(DIMENSION, Metric::Cosine))?;

    let start = Instant::now();
    let mut batch = WriteBatch::new();
    let mut stored = 0;
    while let Some(document) = rows.next_document()? {
        batch.upsert(document);
        if batch.len() == BATCH {
            // When it returns, the whole batch is on disk.
            passages.write(&batch)?;
            stored += batch.len();
            batch.clear();
            if stored % 1000 == 0 {
                println!("{stored:5} documents after {:.2} s", start.elapsed().as_secs_f64());
            }
        }
    }
    // Writing an empty batch does nothing.
    passages.write(&batch)?;
    println!("{:5} documents in {}", passages.count()?, path.display());

    println!("\n{}", db.flush()?);
    db.close()?;
    Ok(())
}

/// The bundled documents and their vectors, which are in two files in the same order.
struct Rows {
    documents: std::io::Lines<BufReader<File>>,
    vectors: BufReader<File>,
}

impl Rows {
    fn open(dir: &Path) -> Result<Self, Box<dyn Error>> {
        let open = |name: &str| {
            let path = dir.join(name);
            File::open(&path).map(BufReader::new).map_err(|error| {
                format!("{}: {error}. This example needs a checkout of the repository.", path.display())
            })
        };
        let documents = open("documents.jsonl")?.lines();
        let mut vectors = open("vectors.npy")?;
        // A .npy file of version 1 begins with its magic, its version, and the length of its header.
        let mut start = [0; 10];
        vectors.read_exact(&mut start)?;
        let header = u16::from_le_bytes([start[8], start[9]]);
        std::io::copy(&mut (&mut vectors).take(u64::from(header)), &mut std::io::sink())?;
        Ok(Self { documents, vectors })
    }

    fn next_document(&mut self) -> Result<Option<Document>, Box<dyn Error>> {
        let Some(line) = self.documents.next() else { return Ok(None) };
        let line: Value = serde_json::from_str(&line?)?;
        let mut vector = [0; 4 * DIMENSION];
        self.vectors.read_exact(&mut vector)?;
        let vector: Vec<f32> = vector
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();

        let id = line["id"].as_str().ok_or("a line without an id")?;
        let mut document = Document::new(id).text(line["text"].as_str().unwrap_or_default());
        for (name, value) in line["metadata"].as_object().into_iter().flatten() {
            document = match value {
                Value::String(text) => document.metadata(name, &text[..]),
                Value::Number(number) => document.metadata(name, number.as_i64().unwrap_or_default()),
                _ => document,
            };
        }
        Ok(Some(document.vector(vector)))
    }
}
