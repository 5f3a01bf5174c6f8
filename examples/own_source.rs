//! A source of your own: a mailbox, a message queue, a crawler. Each message is stored exactly once, in one write with the
//! position, whenever the program is killed. Here it is, again and again, before it is done.
//!
//! ```text
//! cargo run --example own_source
//! ```

use plimsoll::{
    CollectionConfig, Database, DeadLetter, Document, FailureClass, Metric, Result, Source, Step,
};

/// Where messages come from, each with its number. Yours may be anything that can begin at a position.
fn mailbox(from: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let message = |number: u64| match number {
        13 => vec![b'b', 0xFF],
        _ => format!("message {number}").into_bytes(),
    };
    (from..40).map(move |number| (number, message(number)))
}

/// Where your model goes.
fn embed(text: &str) -> [f32; 3] {
    text.bytes().fold([1.0; 3], |[x, y, z], byte| [y, z, x * 0.9 + f32::from(byte) / 255.0])
}

/// Reads on from where the source is; gives up after so many messages, as if it had been killed.
fn ingest(source: &Source, most: usize) -> Result<()> {
    for (position, message) in mailbox(source.position()).take(most) {
        let mut step = Step::new();
        match String::from_utf8(message) {
            Ok(text) => {
                let vector = embed(&text);
                step.upsert(position, Document::new(position).text(text).vector(vector));
            }
            // Set aside, as it came, with the reason; the others go on.
            Err(error) => {
                let (class, why) = (FailureClass::Encoding, error.to_string());
                step.dead_letter(DeadLetter::new(position, class, why, error.into_bytes()));
            }
        }
        source.commit(&step)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let scratch = tempfile::tempdir()
        .map_err(|error| plimsoll::Error::InvalidArgument(format!("no directory to work in: {error}")))?;
    loop {
        let db = Database::open(scratch.path().join("mail.db"))?;
        db.create_collection("mail", CollectionConfig::new(3, Metric::Cosine))?;
        let source = db.source("inbox", "mail")?.fingerprint("inbox, embed v1").open()?;
        println!("goes on at position {}", source.position());
        ingest(&source, 11)?;
        let status = source.status()?;
        if status.position == 40 {
            let counts = status.counts;
            println!("{} stored, {} set aside", counts.committed, counts.dead_lettered);
            for letter in source.dead_letters()? {
                println!("position {}: {}: {}", letter.position, letter.class, letter.message);
            }
            return Ok(());
        }
        // Nobody closes the database: nothing depends on that.
    }
}
