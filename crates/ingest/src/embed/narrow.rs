//! Finding the texts that a service refuses, so that the others of their batch get their vectors.

use super::Embedded;
use crate::failure::Failure;

/// Why a request for several texts gave no vectors.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// One of the texts may be the cause: the others may work without it.
    Refused(Failure),
    /// It has nothing to do with the texts: no other request would do better now.
    Broken(Failure),
}

/// A text that every model takes. It tells a service that refuses a text from one that refuses everything.
const PROBE: &str = "test";

/// One call, made of as many requests as it takes.
pub(crate) struct Narrow<F> {
    request: F,
    /// Whether any request has worked, so that a refusal is about its texts.
    healthy: bool,
    broken: Option<Failure>,
    results: Vec<Embedded>,
}

impl<F: FnMut(&[&str]) -> Result<Vec<Embedded>, Trouble>> Narrow<F> {
    /// Embeds texts, at most `max_batch` of them with one request, which gives one result per text.
    ///
    /// A batch that is refused is halved until the texts are found that are the cause. Before the first of them is
    /// blamed, [`PROBE`] is sent, unless something has worked already.
    pub(crate) fn embed(texts: &[&str], max_batch: usize, request: F) -> Result<Vec<Embedded>, Failure> {
        let results = Vec::with_capacity(texts.len());
        let mut call = Self { request, healthy: false, broken: None, results };
        for batch in texts.chunks(max_batch.max(1)) {
            call.batch(batch);
        }
        match call.broken {
            Some(failure) if !call.healthy => Err(failure),
            _ => Ok(call.results),
        }
    }

    fn batch(&mut self, texts: &[&str]) {
        if let Some(failure) = &self.broken {
            self.results.extend(texts.iter().map(|_| Err(failure.for_unasked())));
            return;
        }
        match (self.request)(texts) {
            Ok(vectors) => {
                self.healthy = true;
                self.results.extend(vectors);
            }
            Err(Trouble::Broken(failure)) => self.give_up(texts, failure),
            Err(Trouble::Refused(failure)) if texts.len() == 1 => self.single(texts, failure),
            Err(Trouble::Refused(_)) => {
                let (left, right) = texts.split_at(texts.len() / 2);
                self.batch(left);
                self.batch(right);
            }
        }
    }

    /// Blames a text, or the service if it refuses everything.
    fn single(&mut self, text: &[&str], failure: Failure) {
        if !self.healthy {
            match (self.request)(&[PROBE]) {
                Ok(_) => self.healthy = true,
                Err(Trouble::Refused(failure) | Trouble::Broken(failure)) => {
                    return self.give_up(text, failure);
                }
            }
        }
        self.results.push(Err(failure));
    }

    fn give_up(&mut self, texts: &[&str], failure: Failure) {
        self.results.extend(texts.iter().map(|_| Err(failure.for_unasked())));
        self.broken = Some(failure);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::failure::FailureClass;

    fn failure(message: &str) -> Failure {
        Failure::new(FailureClass::Validation, message)
    }

    proptest! {
        #[test]
        fn exactly_the_bad_texts_are_blamed(bad in proptest::collection::vec(any::<bool>(), 0..70), max in 1usize..40) {
            let names: Vec<String> = bad.iter().enumerate().map(|(i, bad)| format!("{i} {bad}")).collect();
            let texts: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut requests = 0;
            let results = Narrow::embed(&texts, max, |texts: &[&str]| {
                requests += 1;
                assert!(texts.len() <= max);
                match texts.iter().find(|text| text.ends_with("true")) {
                    Some(text) => Err(Trouble::Refused(failure(text))),
                    None => Ok(texts.iter().map(|text| Ok(vec![text.len() as f32])).collect()),
                }
            }).unwrap();
            prop_assert_eq!(results.len(), texts.len());
            for ((text, bad), result) in texts.iter().zip(&bad).zip(results) {
                prop_assert_eq!(result, if *bad { Err(failure(text)) } else { Ok(vec![text.len() as f32]) });
            }
            let count = bad.iter().filter(|bad| **bad).count();
            prop_assert!(requests <= texts.len().div_ceil(max) + count * 2 * 7 + 1, "{} requests", requests);
        }
    }

    #[test]
    fn a_service_that_refuses_everything_blames_no_text() {
        let mut requests = 0;
        let result = Narrow::embed(&["a", "b", "c", "d"], 4, |_: &[&str]| {
            requests += 1;
            Err(Trouble::Refused(failure("no")))
        });
        assert_eq!(result, Err(failure("no")));
        assert_eq!(requests, 4, "4, 2 and 1 texts, and the probe");
    }

    #[test]
    fn a_service_that_breaks_off_keeps_what_it_has_given() {
        let mut requests = 0;
        let results = Narrow::embed(&["a", "b", "c", "d", "e"], 2, |texts: &[&str]| {
            requests += 1;
            if texts.contains(&"c") {
                Err(Trouble::Broken(failure("gone")))
            } else {
                Ok(vec![Ok(vec![1.0]); texts.len()])
            }
        })
        .unwrap();
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false, false]);
        assert_eq!(requests, 2, "nothing is asked of it after that");
    }
}
