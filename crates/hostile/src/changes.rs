//! Any bytes as a stream that is ingested.

use std::io::Cursor;

use plimsoll_cli::{Operation, rows};
use plimsoll_ingest::input::{Change, Files, Format, Input, Inputs, Line, Next, Op, Parser, Place};

/// Every line has its place, from which the same lines follow; every one is a change or a failure, and what is a row
/// of import is what `import` makes of it. The first byte says how long a line may be.
pub(crate) fn changes(input: &[u8]) {
    let Some((limit, bytes)) = input.split_first() else { return };
    let limit = if *limit == 0 { usize::MAX >> 1 } else { usize::from(*limit) };
    let lines = lines(inputs(bytes, limit));
    assert_eq!(lines.iter().map(|line| line.end - line.start).sum::<u64>(), bytes.len() as u64);
    assert!(lines.iter().zip(0..).all(|(line, position)| line.position == position));
    if let Some(middle) = lines.get(lines.len() / 2) {
        let place = Place::from_state(&middle.place().to_state()).unwrap();
        let mut again = inputs(bytes, limit);
        again.resume(&place).unwrap();
        let mut rest = lines[lines.len() / 2 + 1..].iter();
        while let Next::Line(line) = again.next_line().unwrap() {
            assert_eq!(Some(&line), rest.next());
        }
        assert!(rest.next().is_none());
    }
    let parser = Parser::new(Files::none());
    for line in &lines {
        assert!(line.bytes.len() <= limit || line.too_long.is_some());
        let entry = parser.parse(line);
        match &entry.change {
            Ok(Change::Upsert(document)) => {
                let vectors = document.postings.iter().flat_map(|posting| &posting.vector);
                assert!(vectors.into_iter().all(|x| x.is_finite()));
                assert_eq!(Some(Operation::Upsert(document.clone())), imported(line));
            }
            Ok(Change::Delete(key)) => {
                assert_eq!(entry.op, Op::Delete);
                let is_row = entry.format == Format::Row;
                assert!(!is_row || imported(line) == Some(Operation::Delete(key.clone())));
            }
            Ok(Change::Text { text, .. }) => assert!(entry.format == Format::Row || !text.contains('\0')),
            Ok(Change::Control(changeset)) => assert!(changeset.json.starts_with('{')),
            Ok(Change::Skip(_)) => {}
            Err(failure) => assert!(!failure.message.is_empty()),
        }
    }
}

fn inputs(bytes: &[u8], limit: usize) -> Inputs {
    Inputs::new([Input::Stream("changes".to_owned(), Box::new(Cursor::new(bytes.to_vec())))]).limit(limit)
}

fn lines(mut inputs: Inputs) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Next::Line(line) = inputs.next_line().unwrap() {
        lines.push(line);
    }
    lines
}

fn imported(line: &Line) -> Option<Operation> {
    let stream = Box::new(Cursor::new(line.bytes.clone()));
    let mut rows = rows(stream, "line".to_owned(), plimsoll_cli::Format::Jsonl).unwrap();
    rows.next_row().ok().flatten().map(|row| row.operation)
}
