//! Chunking, cache, retries and an endpoint together, as a run has them.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::sync::Arc;
use std::time::Duration;

use plimsoll_embedding_server::{Fault, Server};
use plimsoll_ingest::{
    Breaker, Cache, Cached, Chunking, Embedded, Embedder, EmbedderOptions, EmbedderSpec, FailureClass,
    HashEmbedder, Patient, Pause, Policies, Policy, TextKind,
};

type Whole = Cached<Patient<Box<dyn Embedder>>>;

/// An embedder for a server, which waits little between its tries.
fn whole(server: &Server, directory: &std::path::Path) -> Whole {
    let spec: EmbedderSpec = format!("{}#hash;key=none;batch=4", server.base()).parse().unwrap();
    let quick = |retries| Policy {
        retries,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        jitter_percent: 50,
    };
    let policies = Policies::default()
        .with(FailureClass::Network, quick(20))
        .with(FailureClass::RateLimit, quick(20))
        .with(FailureClass::Unknown, quick(20));
    let clock = Arc::new(plimsoll::SystemClock);
    let breaker = Breaker::with(clock, 5, Duration::from_secs(30), Duration::from_millis(20));
    let inner = spec.build(&EmbedderOptions::default()).unwrap();
    let patient = Patient::new(inner, policies, Arc::new(breaker), Arc::new(Pause::default()), 1);
    Cached::new(patient, Arc::new(Cache::open(directory, Cache::DEFAULT_BYTES)))
}

fn right(texts: &[&str]) -> Vec<Embedded> {
    HashEmbedder::new(64).unwrap().embed(texts, TextKind::Passage).unwrap()
}

/// A text of many passages, some of which are equal.
fn text() -> String {
    (0..120).map(|i| format!("This is the sentence with the number {}. ", i % 90)).collect()
}

#[test]
fn a_text_gets_its_vectors_through_all_faults_and_is_paid_for_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(0, 64).unwrap();
    let text = text();
    let passages = "sentences:1:0".parse::<Chunking>().unwrap().chunk(&text).unwrap();
    let texts: Vec<&str> = passages.iter().map(|passage| &text[passage.range()]).collect();
    assert_eq!(texts.len(), 120);

    for fault in [
        Fault::Status(429, "retry-after-ms: 3"),
        Fault::Status(500, ""),
        Fault::Status(503, ""),
        Fault::Reset,
        Fault::Truncated,
        Fault::HalfJson,
        Fault::TooFew,
        Fault::SameIndex,
        Fault::Shuffled,
        Fault::NotANumber,
        Fault::Nonsense,
    ] {
        server.next(fault);
    }
    let first = whole(&server, directory.path());
    assert_eq!(first.embed(&texts, TextKind::Passage).unwrap(), right(&texts));
    let counts = first.counts();
    assert_eq!((counts.misses, counts.repeated, counts.embedded), (90, 30, 90));
    assert_eq!(first.cache().counts().bypassed, 0);
    // Nothing was embedded twice: the server has given each text one good vector, and its probes.
    assert!(server.texts() <= 90 + 8, "{}", server.texts());
    drop(first);

    let requests = server.requests();
    let second = whole(&server, directory.path());
    assert_eq!(second.dimension(), Ok(64));
    assert_eq!(second.embed(&texts, TextKind::Passage).unwrap(), right(&texts));
    assert_eq!(server.requests(), requests, "the second run asks for nothing");
}

#[test]
fn poison_is_set_apart_and_an_endpoint_that_is_gone_ends_the_call() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(0, 64).unwrap();
    server.refuse("number 7", 400);
    let embedder = whole(&server, directory.path());
    let names: Vec<String> = (0..20).map(|i| format!("number {i}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let results = embedder.embed(&texts, TextKind::Passage).unwrap();
    let bad: Vec<usize> = (0..20).filter(|i| results[*i].is_err()).collect();
    assert_eq!(bad, [7]);
    assert_eq!(results[7].as_ref().unwrap_err().class, FailureClass::Validation);

    drop(server);
    assert_eq!(
        embedder.embed(&texts[..4], TextKind::Passage).unwrap(),
        right(&texts[..4]),
        "the cache needs nobody"
    );
    assert_eq!(embedder.embed(&["new"], TextKind::Passage).unwrap_err().class, FailureClass::Network);
}

#[test]
fn a_search_by_text_finds_the_passage_that_shares_its_words() {
    let server = Server::start(0, 256).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let embedder = whole(&server, directory.path());
    let passages = [
        "A Plimsoll line is painted on the hull of a ship.",
        "Bread is baked from flour, water and salt.",
        "The borrow checker refuses references that outlive their values.",
    ];
    let vectors: Vec<Vec<f32>> =
        embedder.embed(&passages, TextKind::Passage).unwrap().into_iter().map(Result::unwrap).collect();
    for (query, expected) in [("painted ships", 0), ("how to bake bread", 1), ("reference outlives value", 2)]
    {
        let query = embedder.embed(&[query], TextKind::Query).unwrap().remove(0).unwrap();
        let score = |at: &usize| vectors[*at].iter().zip(&query).map(|(x, y)| x * y).sum::<f32>();
        let best = (0..3).max_by(|a, b| score(a).total_cmp(&score(b)));
        assert_eq!(best, Some(expected));
    }
}
