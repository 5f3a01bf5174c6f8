//! The embedder for endpoints against a real server that fails on command.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::time::Duration;

use plimsoll_embedding_server::{Fault, Server};
use plimsoll_ingest::{
    ApiKey, Embedded, Embedder, Failure, FailureClass, HashEmbedder, HttpEmbedder, HttpSpec, HttpTimeouts,
    KeySource, TextKind,
};

const DIMENSION: usize = 32;
/// Long enough for any machine; only the tests that wait for a timeout use less.
const PATIENT: HttpTimeouts = HttpTimeouts {
    connect: Duration::from_secs(60),
    read: Duration::from_secs(60),
    total: Duration::from_secs(60),
};

fn server() -> Server {
    Server::start(0, DIMENSION).unwrap()
}

fn embedder(server: &Server) -> HttpEmbedder {
    HttpEmbedder::new(HttpSpec::new(server.base(), "hash"), None, PATIENT).unwrap()
}

fn embed(embedder: &HttpEmbedder, texts: &[&str]) -> Result<Vec<Embedded>, Failure> {
    embedder.embed(texts, TextKind::Passage)
}

fn right(texts: &[&str]) -> Vec<Embedded> {
    HashEmbedder::new(DIMENSION).unwrap().embed(texts, TextKind::Passage).unwrap()
}

#[test]
fn vectors_arrive_bit_for_bit_in_batches() {
    let server = server();
    let embedder = embedder(&server);
    assert_eq!(embedder.dimension().unwrap(), DIMENSION);
    let names: Vec<String> = (0..100).map(|i| format!("text number {i}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(embed(&embedder, &texts).unwrap(), right(&texts));
    assert_eq!(server.requests(), 1 + 100_u64.div_ceil(embedder.max_batch() as u64));
    assert_eq!(embed(&embedder, &[]).unwrap(), []);
}

#[test]
fn the_order_of_an_answer_does_not_matter() {
    let server = server();
    server.next(Fault::Shuffled);
    let texts = ["one", "two", "three"];
    assert_eq!(embed(&embedder(&server), &texts).unwrap(), right(&texts));
}

#[test]
fn a_text_that_is_refused_leaves_the_others() {
    for status in [400, 413, 422, 500] {
        let server = server();
        server.refuse("poison", status);
        let embedder = embedder(&server);
        let texts = ["a good one", "poison 1", "another", "more", "poison 2", "last"];
        let results = embed(&embedder, &texts).unwrap();
        for ((text, result), right) in texts.iter().zip(results).zip(right(&texts)) {
            if text.contains("poison") {
                let failure = result.unwrap_err();
                assert!(failure.message.contains(&status.to_string()), "{failure}");
                assert!(failure.message.contains("input 0 can not be read"), "{failure}");
            } else {
                assert_eq!(result, right);
            }
        }
        let alone = embed(&embedder, &["poison"]).unwrap();
        assert!(alone[0].is_err(), "a text that is alone is blamed, too, as the endpoint takes others");
    }
}

#[test]
fn an_endpoint_that_fails_blames_no_text() {
    let cases = [
        (Fault::Status(429, "retry-after: 7"), FailureClass::RateLimit),
        (Fault::Status(500, ""), FailureClass::Network),
        (Fault::Status(503, "retry-after: 7"), FailureClass::Network),
        (Fault::Status(504, ""), FailureClass::Timeout),
        (Fault::Status(401, ""), FailureClass::Validation),
        (Fault::Status(404, ""), FailureClass::Validation),
        (Fault::Status(307, "location: http://127.0.0.1:1/v1/embeddings"), FailureClass::Validation),
        (Fault::Truncated, FailureClass::Network),
        (Fault::HalfJson, FailureClass::Network),
        (Fault::Reset, FailureClass::Network),
        (Fault::Huge, FailureClass::Memory),
        (Fault::Nonsense, FailureClass::Unknown),
        (Fault::TooFew, FailureClass::Unknown),
        (Fault::TooMany, FailureClass::Unknown),
        (Fault::NotANumber, FailureClass::Unknown),
    ];
    for (fault, class) in cases {
        let server = server();
        let embedder = embedder(&server);
        server.always(Some(fault.clone()));
        let failure = embed(&embedder, &["one", "two", "three"]).unwrap_err();
        assert_eq!(failure.class, class, "{fault:?}: {failure}");
        let asked = matches!(&fault, Fault::Status(_, "retry-after: 7")).then_some(Duration::from_secs(7));
        assert_eq!(failure.retry_after, asked, "{fault:?}");
        server.always(None);
        assert_eq!(embed(&embedder, &["one"]).unwrap(), right(&["one"]), "it works again after {fault:?}");
    }
}

#[test]
fn one_bad_answer_is_overcome_by_smaller_requests() {
    for fault in [Fault::Nonsense, Fault::TooFew, Fault::TooMany, Fault::SameIndex, Fault::NotANumber] {
        let server = server();
        server.next(fault.clone());
        let texts = ["one", "two", "three"];
        assert_eq!(embed(&embedder(&server), &texts).unwrap(), right(&texts), "{fault:?}");
        assert_eq!(server.requests(), 3);
    }
}

#[test]
fn one_bad_vector_leaves_the_others() {
    for fault in [Fault::Null, Fault::OneShort] {
        let server = server();
        server.next(fault.clone());
        let texts = ["one", "two", "three"];
        let results = embed(&embedder(&server), &texts).unwrap();
        assert_eq!(results[..2], right(&texts)[..2]);
        assert_eq!(results[2].as_ref().unwrap_err().class, FailureClass::Validation, "{fault:?}");
    }
}

#[test]
fn a_model_that_changes_its_dimension_is_refused() {
    let server = server();
    let embedder = embedder(&server);
    embed(&embedder, &["one"]).unwrap().remove(0).unwrap();
    server.always(Some(Fault::AllShort));
    let failure = embed(&embedder, &["one", "two"]).unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    assert!(failure.message.contains("31 numbers where 32"), "{failure}");
}

#[test]
fn an_endpoint_that_can_not_shorten_its_vectors_is_refused() {
    let server = server();
    let mut spec = HttpSpec::new(server.base(), "hash");
    spec.dimensions = std::num::NonZeroUsize::new(16);
    let embedder = HttpEmbedder::new(spec, None, PATIENT).unwrap();
    assert_eq!(embedder.dimension(), Ok(16), "as asked for");
    let failure = embed(&embedder, &["one"]).unwrap_err();
    assert!(failure.message.contains("32 numbers where 16"), "{failure}");
}

#[test]
fn what_was_embedded_before_a_break_is_kept() {
    let server = server();
    let mut spec = HttpSpec::new(server.base(), "hash");
    spec.batch = std::num::NonZeroUsize::new(2);
    let embedder = HttpEmbedder::new(spec, None, PATIENT).unwrap();
    embedder.dimension().unwrap();
    server.refuse("poison", 400);
    let texts = ["one", "two", "three", "four", "five"];
    // The first request is good, the second one meets the limit, and the third one is not sent.
    server.next(Fault::Shuffled);
    server.next(Fault::Status(429, "retry-after-ms: 1500"));
    let results = embed(&embedder, &texts).unwrap();
    assert_eq!(results[..2], right(&texts)[..2]);
    for result in &results[2..] {
        let failure = result.as_ref().unwrap_err();
        assert_eq!(
            (failure.class, failure.retry_after),
            (FailureClass::RateLimit, Some(Duration::from_millis(1500)))
        );
    }
    assert_eq!(server.requests(), 3);
}

#[test]
fn an_endpoint_that_is_silent_or_slow_is_given_up() {
    for (fault, read, total) in
        [(Fault::Hang, 200, 60_000), (Fault::Hang, 60_000, 500), (Fault::Drip, 60_000, 1000)]
    {
        let server = server();
        server.always(Some(fault.clone()));
        let timeouts = HttpTimeouts {
            connect: Duration::from_secs(60),
            read: Duration::from_millis(read),
            total: Duration::from_millis(total),
        };
        let embedder = HttpEmbedder::new(HttpSpec::new(server.base(), "hash"), None, timeouts).unwrap();
        let failure = embed(&embedder, &["one"]).unwrap_err();
        assert_eq!(failure.class, FailureClass::Timeout, "{fault:?}: {failure}");
    }
}

#[test]
fn nobody_listening_is_a_failure_of_the_network() {
    let base = server().base();
    let embedder = HttpEmbedder::new(HttpSpec::new(base, "hash"), None, PATIENT).unwrap();
    assert_eq!(embed(&embedder, &["one"]).unwrap_err().class, FailureClass::Network);
}

#[test]
fn prefixes_and_the_model_are_sent() {
    let server = server();
    let mut spec = HttpSpec::new(server.base(), "hash");
    spec.passage = "search_document: ".into();
    spec.query = "search_query: ".into();
    let embedder = HttpEmbedder::new(spec, None, PATIENT).unwrap();
    embedder.embed(&["a ship"], TextKind::Passage).unwrap();
    embedder.embed(&["a ship"], TextKind::Query).unwrap();
    assert_eq!(server.seen(), ["search_document: a ship", "search_query: a ship"]);
    assert!(embedder.model().contains("search_document"), "other prefixes make other vectors");
}

#[test]
fn a_key_is_sent_and_never_shown() {
    let server = server();
    server.require_key("hunter2");
    let spec = HttpSpec::new(server.base(), "hash");
    let with = |key: &str| HttpEmbedder::new(spec.clone(), Some(ApiKey::new(key).unwrap()), PATIENT).unwrap();
    assert_eq!(embed(&with("hunter2"), &["one"]).unwrap(), right(&["one"]));
    assert_eq!(server.authorization().as_deref(), Some("Bearer hunter2"));
    let failure = embed(&with("swordfish"), &["one"]).unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    let shown = format!("{failure} {failure:?} {:?} {:?}", with("swordfish"), ApiKey::new("swordfish"));
    assert!(!shown.contains("swordfish"), "{shown}");
    assert!(shown.contains("[key]"), "the server had repeated it: {shown}");
}

#[test]
fn the_key_comes_from_where_the_specification_says() {
    let found = |spec: &HttpSpec| {
        ApiKey::find(spec, |name| match name {
            "OPENAI_API_KEY" => Some("default".into()),
            "OTHER" => Some("other".into()),
            "EMPTY" => Some(" ".into()),
            _ => None,
        })
    };
    let key = |text: &str| Some(ApiKey::new(text).unwrap());
    let of = |base: &str, source: KeySource| HttpSpec { key: source, ..HttpSpec::new(base, "m") };
    let variable = |name: &str| KeySource::Variable(name.into());
    assert_eq!(found(&of("https://example.org", KeySource::Default)), Ok(key("default")));
    assert_eq!(found(&of("http://localhost:1", KeySource::Default)), Ok(key("default")));
    assert_eq!(
        found(&of("http://example.org", KeySource::Default)),
        Ok(None),
        "not in the clear, unless it is asked for"
    );
    assert_eq!(found(&of("http://example.org", variable("OTHER"))), Ok(key("other")));
    assert_eq!(found(&of("https://example.org", KeySource::None)), Ok(None));
    for name in ["MISSING", "EMPTY"] {
        let failure = found(&of("https://example.org", variable(name))).unwrap_err();
        assert!(failure.message.contains(name), "{failure}");
    }
}
