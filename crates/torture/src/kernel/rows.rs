//! Streams of rows, made from a seed: each row stores, replaces or deletes a document.
//!
//! What a collection must hold after the first n rows follows from the seed alone, so a stream is the model that
//! a database is compared with.

use std::collections::BTreeMap;

use plimsoll::{Document, Key, Value};

use plimsoll_torture::random::Random;

/// What row a document of a key was last stored by.
pub(crate) type Rows = BTreeMap<u64, u64>;

/// One row.
pub(crate) enum Row {
    Upsert(Document),
    Delete(u64),
}

/// The rows of one collection, and how many of them are in the database.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    seed: u64,
    number: u64,
    /// How many documents there are at most.
    keys: u64,
    /// Rows that are known to be stored.
    pub(crate) stored: u64,
    /// What they come to.
    rows: Rows,
    /// Rows that were acknowledged; never less than `stored`.
    pub(crate) acknowledged: u64,
    /// Where further batches end that may be stored, too, in their order.
    open: Vec<u64>,
    /// Where the last batch ends that was acknowledged while the power was going.
    late: u64,
}

impl Stream {
    pub(crate) fn new(seed: u64, number: u64, keys: u64) -> Self {
        Self { seed, number, keys, stored: 0, rows: Rows::new(), acknowledged: 0, open: Vec::new(), late: 0 }
    }

    /// What the stream is made from: seed, number and keys.
    pub(crate) fn origin(&self) -> [u64; 3] {
        [self.seed, self.number, self.keys]
    }

    /// The collection's name.
    pub(crate) fn name(&self) -> String {
        format!("c{}", self.number)
    }

    pub(crate) fn dimension(&self) -> usize {
        [8, 100, 33][(self.number % 3) as usize]
    }

    fn random(&self, row: u64) -> Random {
        let mut mixed = Random::new(self.seed ^ self.number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        Random::new(mixed.bits() ^ row.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// The key of a row, and whether it is deleted.
    fn operation(&self, row: u64) -> (u64, bool) {
        let mut random = self.random(row);
        (random.bits() % self.keys, random.below(8) == 0)
    }

    /// The document that row `row` stores.
    fn document(&self, row: u64) -> Document {
        let mut random = self.random(row);
        let key = random.bits() % self.keys;
        let mut words = || "plimsoll ".repeat(random.below(12));
        let text = format!("row {row}: {}", words());
        // Sixty-fourths are the same in decimal and in binary; the first one keeps the length above zero.
        let component = |at| (random.below(256) as f32 - 128.0 + if at == 0 { 257.0 } else { 0.0 }) / 64.0;
        let vector: Vec<f32> = (0..self.dimension()).map(component).collect();
        Document::new(key).text(text).metadata("row", row).vector(vector)
    }

    pub(crate) fn row(&self, row: u64) -> Row {
        match self.operation(row) {
            (key, true) => Row::Delete(key),
            (_, false) => Row::Upsert(self.document(row)),
        }
    }

    /// The row as `plimsoll import` reads it.
    pub(crate) fn line(&self, row: u64) -> String {
        let json = match self.row(row) {
            Row::Delete(key) => serde_json::json!({ "id": key, "op": "delete" }),
            Row::Upsert(document) => serde_json::json!({
                "id": self.operation(row).0,
                "text": document.text,
                "metadata": { "row": row },
                "vector": document.postings.first().map(|posting| &posting.vector),
            }),
        };
        json.to_string()
    }

    /// The key and the row that a stored document says it is of, if it is that row's, bit for bit.
    pub(crate) fn recognise(&self, found: &Document) -> Option<(u64, u64)> {
        let Some(Value::Integer(row)) = found.metadata.get("row") else { return None };
        let row = u64::try_from(*row).ok()?;
        let is_it = matches!(self.row(row), Row::Upsert(document) if document == *found);
        match &found.key {
            Key::Integer(key) if is_it => Some((u64::try_from(*key).ok()?, row)),
            _ => None,
        }
    }

    /// What the database must hold after `rows` rows, which are no fewer than are stored.
    fn after(&self, rows: u64) -> Rows {
        let mut expected = self.rows.clone();
        for row in self.stored..rows {
            match self.operation(row) {
                (key, true) => drop(expected.remove(&key)),
                (key, false) => drop(expected.insert(key, row)),
            }
        }
        expected
    }

    /// Goes on from what was found, or says how it differs from everything that it may be: the acknowledged rows,
    /// or these and some of the batches after them. Returns how many batches that were acknowledged late are missing.
    /// That is one at most: the one whose sync was under way when the power went.
    pub(crate) fn settle(&mut self, found: &Rows) -> Result<u64, String> {
        for rows in [self.acknowledged].into_iter().chain(self.open.iter().copied()) {
            let expected = self.after(rows);
            if *found == expected {
                let lost_late = self.open.iter().filter(|end| (rows + 1..=self.late).contains(end)).count();
                if lost_late > 1 {
                    return Err(format!(
                        "{}: {lost_late} batches acknowledged after a cut are lost",
                        self.name()
                    ));
                }
                self.rows = expected;
                (self.stored, self.acknowledged, self.late) = (rows, rows, 0);
                self.open.clear();
                return Ok(lost_late as u64);
            }
        }
        let certain = self.after(self.acknowledged);
        let lost = certain.iter().filter(|(key, row)| found.get(key) < Some(row)).count();
        let deleted = found.keys().filter(|key| !certain.contains_key(key)).count();
        Err(format!(
            "{}: {} rows were acknowledged, batches that may be there end at {:?}; {lost} documents are missing or \
             older, {deleted} should not be there",
            self.name(),
            self.acknowledged,
            self.open
        ))
    }

    /// The keys of the documents that are stored.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> {
        self.rows.keys().copied()
    }

    /// A document was deleted by other means than a row.
    pub(crate) fn forget(&mut self, key: u64) {
        self.rows.remove(&key);
    }

    /// All rows up to `end` are stored.
    pub(crate) fn acknowledge(&mut self, end: u64) {
        self.acknowledged = self.acknowledged.max(end);
        self.open.retain(|open| *open > end);
    }

    /// A batch that ends at `end` may be stored.
    pub(crate) fn attempt(&mut self, end: u64) {
        if end > self.acknowledged && self.open.last().is_none_or(|last| *last < end) {
            self.open.push(end);
        }
    }

    /// A batch that ends at `end` was acknowledged while the power was going: it may be stored or not.
    pub(crate) fn acknowledge_late(&mut self, end: u64) {
        self.attempt(end);
        self.late = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(stream: &Stream, rows: u64) -> Rows {
        stream.after(rows)
    }

    #[test]
    fn what_was_acknowledged_and_the_batch_in_flight_may_be_there() {
        let mut stream = Stream::new(7, 0, 3000);
        stream.acknowledge(100);
        stream.attempt(110);
        for rows in [100, 110] {
            let found = import(&stream, rows);
            let mut settled = stream.clone();
            assert_eq!(settled.settle(&found), Ok(0));
            assert_eq!(settled.stored, rows);
        }
    }

    #[test]
    fn lost_torn_and_invented_rows_are_noticed() {
        let mut stream = Stream::new(7, 0, 3000);
        stream.acknowledge(100);
        stream.attempt(110);
        for rows in [0, 99, 105, 111] {
            assert!(stream.clone().settle(&import(&stream, rows)).is_err(), "{rows} rows");
        }
    }

    #[test]
    fn a_document_of_another_row_is_not_recognised() {
        let stream = Stream::new(7, 1, 3000);
        let row = (0..).find(|row| !stream.operation(*row).1).unwrap();
        let mut document = stream.document(row);
        assert_eq!(stream.recognise(&document), Some((stream.operation(row).0, row)));
        document.postings[0].vector[3] += 0.5;
        assert_eq!(stream.recognise(&document), None);
    }
}
