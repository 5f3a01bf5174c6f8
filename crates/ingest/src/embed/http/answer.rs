//! What an endpoint has answered, checked before it is believed.

use serde::Deserialize;

use crate::embed::Embedded;
use crate::embed::check::Dimension;
use crate::embed::narrow::Trouble;
use crate::failure::{Failure, FailureClass};

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: Option<usize>,
    /// `None` where the model computed no number: servers write NaN as null.
    embedding: Vec<Option<f32>>,
}

/// The vectors of an answer to a request for `count` texts, in the order of the texts.
pub(super) fn vectors(
    body: &[u8],
    count: usize,
    url: &str,
    dimension: &Dimension,
) -> Result<Vec<Embedded>, Trouble> {
    let refused = |what: String| {
        Err(Trouble::Refused(Failure::new(FailureClass::Unknown, format!("{url} gave {what}"))))
    };
    let answer: Answer = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) if error.is_eof() => {
            let message = format!("{url} broke off its answer after {} bytes", body.len());
            return Err(Trouble::Broken(Failure::new(FailureClass::Network, message)));
        }
        Err(error) => return refused(format!("an answer that is no list of vectors: {error}")),
    };
    if answer.data.len() != count {
        return refused(format!("{} vectors for {count} texts", answer.data.len()));
    }
    let ordered = match in_order(answer.data) {
        Ok(ordered) => ordered,
        Err(what) => return refused(what),
    };
    if let Some(expected) = dimension.get()
        && let Some(first) = ordered.first()
        && ordered.iter().all(|numbers| numbers.len() != expected)
    {
        // No text is to blame when all vectors are wrong: the model is another one.
        let what = format!("{url} gives vectors of {} numbers where {expected} are expected", first.len());
        return Err(Trouble::Broken(Failure::new(FailureClass::Validation, what)));
    }
    Ok(ordered.into_iter().map(|numbers| vector(numbers, url, dimension)).collect())
}

/// The vectors by their index, or by their place if none of them has an index.
fn in_order(items: Vec<Item>) -> Result<Vec<Vec<Option<f32>>>, String> {
    if items.iter().all(|item| item.index.is_none()) {
        return Ok(items.into_iter().map(|item| item.embedding).collect());
    }
    let count = items.len();
    let mut ordered: Vec<Option<Vec<Option<f32>>>> = vec![None; count];
    for item in items {
        let index = item.index.ok_or("vectors with an index and one without")?;
        let place = ordered.get_mut(index).ok_or_else(|| format!("index {index} for {count} texts"))?;
        if place.replace(item.embedding).is_some() {
            return Err(format!("index {index} twice"));
        }
    }
    // As many as there are places, and none twice: all are taken.
    Ok(ordered.into_iter().flatten().collect())
}

fn vector(numbers: Vec<Option<f32>>, url: &str, dimension: &Dimension) -> Embedded {
    let vector: Vec<f32> = numbers.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect();
    dimension.check(url, &vector)?;
    Ok(vector)
}

/// What an answer that is an error says, in one line of at most 300 characters.
pub(super) fn error_message(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let said = json.as_ref().and_then(|json| {
        ["/error/message", "/error", "/message", "/detail"]
            .iter()
            .find_map(|path| json.pointer(path).and_then(serde_json::Value::as_str))
    });
    Some(clean(said.unwrap_or(&text))).filter(|message| !message.is_empty())
}

/// A text from outside that can be shown on a terminal.
pub(super) fn clean(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(300).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str, count: usize) -> Result<Vec<Embedded>, Trouble> {
        vectors(body.as_bytes(), count, "it", &Dimension::default())
    }

    fn refused(body: &str, count: usize) -> String {
        match read(body, count) {
            Err(Trouble::Refused(failure)) => failure.message,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn vectors_come_in_the_order_of_their_index() {
        let body =
            r#"{"data": [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1.5]}], "model": "m"}"#;
        let vectors: Vec<_> = read(body, 2).unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(vectors, [[1.5], [2.0]]);
        let body = r#"{"data": [{"embedding": [2]}, {"embedding": [1]}]}"#;
        assert_eq!(
            read(body, 2).unwrap()[0],
            Ok(vec![2.0]),
            "without an index the order is that of the texts"
        );
    }

    #[test]
    fn an_answer_that_can_not_be_matched_to_the_texts_is_refused() {
        let item = r#"{"index": 0, "embedding": [1]}"#;
        assert!(refused(&format!(r#"{{"data": [{item}]}}"#), 2).contains("1 vectors for 2 texts"));
        assert!(refused(&format!(r#"{{"data": [{item}, {item}]}}"#), 2).contains("index 0 twice"));
        let far = r#"{"index": 7, "embedding": [1]}"#;
        assert!(refused(&format!(r#"{{"data": [{item}, {far}]}}"#), 2).contains("index 7"));
        let none = r#"{"embedding": [1]}"#;
        assert!(refused(&format!(r#"{{"data": [{item}, {none}]}}"#), 2).contains("without"));
        for body in [
            "[]",
            "{}",
            r#"{"data": 3}"#,
            r#"{"data": [{"embedding": [[1]]}]}"#,
            r#"{"data":[{"embedding":[NaN]}]}"#,
        ] {
            assert!(refused(body, 1).contains("no list of vectors"), "{body}");
        }
    }

    #[test]
    fn an_answer_that_breaks_off_is_no_fault_of_the_texts() {
        let Err(Trouble::Broken(failure)) = read(r#"{"data": [{"embedding": [1, 2"#, 1) else { panic!() };
        assert_eq!(failure.class, FailureClass::Network);
    }

    #[test]
    fn one_bad_vector_leaves_the_others() {
        let body = r#"{"data": [{"embedding": [1, 2]}, {"embedding": [null, 2]}, {"embedding": [1]}]}"#;
        let results = read(body, 3).unwrap();
        assert!(results[0].is_ok());
        assert!(results[1].as_ref().unwrap_err().message.contains("not finite"));
        assert!(results[2].as_ref().unwrap_err().message.contains("1 numbers where 2"));
    }

    #[test]
    fn another_dimension_everywhere_is_the_fault_of_the_model() {
        let dimension = Dimension::default();
        dimension.check("it", &[1.0, 2.0]).unwrap();
        let body = br#"{"data": [{"embedding": [1]}, {"embedding": [1]}]}"#;
        assert!(matches!(vectors(body, 2, "it", &dimension), Err(Trouble::Broken(_))));
    }

    #[test]
    fn what_a_service_says_is_found_and_fit_to_be_shown() {
        let found = |body: &str| error_message(body.as_bytes());
        assert_eq!(found(r#"{"error": {"message": "too\nlong"}}"#).as_deref(), Some("too long"));
        assert_eq!(found(r#"{"error": "no such model"}"#).as_deref(), Some("no such model"));
        assert_eq!(found(r#"{"detail": "x"}"#).as_deref(), Some("x"));
        assert_eq!(found("plain \u{1b}[31m text").as_deref(), Some("plain  [31m text"));
        assert_eq!(found("  "), None);
        assert_eq!(found(&"x".repeat(1000)).unwrap().len(), 300);
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(body in "[\\[\\]{}\",:0-9a-z]{0,60}", count in 0usize..4) {
            let _ = read(&body, count);
            let _ = read(&format!(r#"{{"data": [{{"index": {count}, "embedding": {body}}}]}}"#), count);
        }
    }
}
