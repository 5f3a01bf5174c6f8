//! Opens a database, stores documents, searches and closes.
//!
//! ```text
//! cargo run --example quickstart              a directory of its own, removed at the end
//! cargo run --example quickstart -- notes.db  a directory of yours, which stays
//! ```

use plimsoll::{CollectionConfig, Database, Document, Effort, Metric, WriteBatch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let path = std::env::args_os().nth(1).map_or_else(|| scratch.path().join("notes.db"), Into::into);

    // Creates the directory the first time, and recovers whatever a crash has left every time.
    let db = Database::open(&path)?;
    // Returns the collection if it is there already with the same dimension and metric.
    let notes = db.create_collection("notes", CollectionConfig::new(3, Metric::Cosine))?;

    // When `upsert` returns, the document is on disk and searches find it.
    notes.upsert(Document::new("n1").text("buy bread").metadata("done", false).vector([0.2, 0.9, 0.1]))?;
    notes.upsert(Document::new("n2").text("read a book").vector([0.9, 0.1, 0.3]))?;

    // A batch is stored as a whole or not at all. Keys may also be integers, and 7 is not "7".
    let mut batch = WriteBatch::new();
    batch.upsert(Document::new(7).text("bake a cake").vector([0.3, 0.8, 0.2]));
    batch.delete("n2");
    notes.write(&batch)?;

    let query = [0.1, 1.0, 0.0];
    for hit in notes.search(&query).k(3).effort(Effort::Exact).with_text(true).run()? {
        println!("{:.3}  {:4}  {}", hit.distance, hit.key.to_string(), hit.text.unwrap_or_default());
    }
    println!("{} documents", notes.count()?);

    // What is only in the log goes into sealed files, and opening has less to do next time.
    db.close()?;
    Ok(())
}
