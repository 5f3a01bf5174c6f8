//! Any bytes as something to import, or as queries.

use std::io::Cursor;

use plimsoll::Document;
use plimsoll_cli::{DocumentLine, Format, Operation, Queries, rows};

/// JSON lines: what is read is printed and read again, bit for bit.
pub(crate) fn json_lines(input: &[u8]) {
    read(input, Format::Jsonl, |operation| {
        if let Operation::Upsert(document) = operation {
            let mut line = Vec::new();
            serde_json::to_writer(&mut line, &DocumentLine(&document)).unwrap();
            let again = rows(Box::new(Cursor::new(line)), "again".to_owned(), Format::Jsonl);
            let again = again.unwrap().next_row().unwrap().unwrap();
            let Operation::Upsert(again) = again.operation else { panic!("a delete: {document:?}") };
            assert_eq!(again, document);
            assert_eq!(bits(&again), bits(&document));
        }
    });
}

/// A numpy array.
pub(crate) fn npy(input: &[u8]) {
    read(input, Format::Npy, finite);
}

/// Rows of fvecs.
pub(crate) fn fvecs(input: &[u8]) {
    read(input, Format::Fvecs, finite);
}

/// Queries; the first byte chooses their format.
pub(crate) fn queries(input: &[u8]) {
    let Some((format, bytes)) = input.split_first() else { return };
    let format = [Format::Jsonl, Format::Fvecs, Format::Npy][usize::from(*format % 3)];
    let stream = Box::new(Cursor::new(bytes.to_vec()));
    let Ok(mut queries) = Queries::new(stream, "queries".to_owned(), format) else { return };
    let mut last = None;
    while let Ok(Some((place, query))) = queries.next_query() {
        assert!(last.is_none_or(|last| place > last));
        assert!(query.iter().all(|x| x.is_finite()));
        last = Some(place);
    }
}

/// Every row up to the first error stands behind the one before it.
fn read(input: &[u8], format: Format, mut check: impl FnMut(Operation)) {
    let stream = Box::new(Cursor::new(input.to_vec()));
    let Ok(mut rows) = rows(stream, "rows".to_owned(), format) else { return };
    let (expected, mut count, mut last) = (rows.expected(), 0, None);
    let end = loop {
        match rows.next_row() {
            Ok(Some(row)) => {
                assert!(last.is_none_or(|last| row.place > last));
                (last, count) = (Some(row.place), count + 1);
                check(row.operation);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert!(end.is_err() || expected.is_none_or(|expected| expected == count), "{expected:?} {count}");
}

fn finite(operation: Operation) {
    let Operation::Upsert(document) = operation else { panic!("these formats have no deletes") };
    assert!(document.postings.iter().flat_map(|posting| &posting.vector).all(|x| x.is_finite()));
}

fn bits(document: &Document) -> Vec<u32> {
    document.postings.iter().flat_map(|posting| &posting.vector).map(|x| x.to_bits()).collect()
}
