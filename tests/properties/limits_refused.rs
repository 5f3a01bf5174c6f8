//! Bad input: a typed error that names what is wrong, before anything reaches the log, and nothing lost.

use plimsoll::{
    Collection, CollectionConfig, Database, Document, Effort, Error, Key, Metadata, Metric, Value,
    WriteBatch, limits,
};

struct Fixture {
    _dir: tempfile::TempDir,
    db: Database,
    collection: Collection,
}

fn fixture(metric: Metric) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path().join("db")).unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(2, metric)).unwrap();
    collection.upsert(Document::new("kept").text("kept").vector([1.0, 2.0])).unwrap();
    Fixture { _dir: dir, db, collection }
}

impl Fixture {
    /// That a document is refused in the middle of a batch, with its place, its key and why.
    fn refuses(&self, bad: Document, why: &str) {
        let (appended, count) = (self.db.stats().lsn.appended, self.collection.count().unwrap());
        let mut batch = WriteBatch::new();
        batch.upsert(Document::new("good").vector([1.0, 1.0])).upsert(bad.clone()).delete("kept");
        let error = self.collection.write(&batch).unwrap_err();
        match &error {
            Error::InvalidDocument { operation: 1, key, problem } => {
                assert_eq!(key, &bad.key);
                assert!(problem.contains(why), "{problem:?} does not say {why:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!error.is_retryable());
        assert_eq!(self.db.stats().lsn.appended, appended, "something was logged");
        assert_eq!(self.collection.count().unwrap(), count);
        assert!(self.collection.get("kept").unwrap().is_some());
    }
}

#[test]
fn vectors() {
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let on = fixture(metric);
        on.refuses(Document::new(1).vector([1.0, f32::NAN]), "component 1 of the vector is NaN");
        on.refuses(Document::new(1).vector([f32::INFINITY, 1.0]), "component 0 of the vector is inf");
        on.refuses(
            Document::new(1).vector([f32::NEG_INFINITY, f32::NAN]),
            "component 0 of the vector is -inf",
        );
        on.refuses(Document::new(1).vector([3e38, 3e38]), "exceeds");
        on.refuses(Document::new(1), "0 postings");
        for length in [0, 1, 3] {
            let error = on.collection.upsert(Document::new(1).vector(vec![1.0; length])).unwrap_err();
            assert!(
                matches!(error, Error::DimensionMismatch { expected: 2, got } if got == length),
                "{error:?}"
            );
            let error = on.collection.search(&vec![1.0; length]).run().unwrap_err();
            assert!(
                matches!(error, Error::DimensionMismatch { expected: 2, got } if got == length),
                "{error:?}"
            );
        }
    }
    let on = fixture(Metric::Cosine);
    on.refuses(Document::new(1).vector([0.0, -0.0]), "zero vector");
    on.refuses(Document::new(1).vector([1e-30, 0.0]), "too small");
    // The other metrics take a zero vector.
    fixture(Metric::L2).collection.upsert(Document::new(1).vector([0.0, 0.0])).unwrap();
    fixture(Metric::Dot).collection.upsert(Document::new(1).vector([0.0, 0.0])).unwrap();
}

#[test]
fn keys() {
    let on = fixture(Metric::L2);
    on.refuses(Document::new("").vector([1.0, 1.0]), "empty");
    on.refuses(Document::new("x".repeat(limits::MAX_KEY_BYTES + 1)).vector([1.0, 1.0]), "1025 bytes");
    on.refuses(Document::new(Key::Integer(i128::from(u64::MAX) + 1)).vector([1.0, 1.0]), "2^64");
    on.refuses(Document::new(Key::Integer(i128::from(i64::MIN) - 1)).vector([1.0, 1.0]), "2^63");
    let longest = [
        Key::from("x".repeat(limits::MAX_KEY_BYTES)),
        Key::Integer(u64::MAX.into()),
        Key::Integer(i64::MIN.into()),
        Key::Uuid([0; 16]),
        Key::Ulid([255; 16]),
    ];
    for key in &longest {
        on.collection.upsert(Document::new(key.clone()).vector([1.0, 1.0])).unwrap();
    }
    on.db.flush().unwrap();
    for key in &longest {
        assert_eq!(&on.collection.get(key.clone()).unwrap().unwrap().key, key);
    }
}

#[test]
fn texts_and_ranges() {
    let on = fixture(Metric::L2);
    let text = |text: &str| Document::new(1).text(text);
    on.refuses(text(&"x".repeat(limits::MAX_TEXT_BYTES + 1)).vector([1.0, 1.0]), "16777217 bytes");
    on.refuses(text("naïve").posting(3, 1, [1.0, 1.0]), "character boundaries");
    on.refuses(text("naïve").posting(0, 3, [1.0, 1.0]), "character boundaries");
    on.refuses(text("naïve").posting(0, 7, [1.0, 1.0]), "outside");
    on.refuses(text("naïve").posting(u32::MAX, u32::MAX, [1.0, 1.0]), "outside");
    on.refuses(text("").posting(0, 1, [1.0, 1.0]), "outside");
    on.refuses(Document::new(1).posting(u32::MAX, 1, [1.0, 1.0]), "4 GiB");
    on.collection.upsert(text("naïve").posting(2, 2, [1.0, 1.0]).posting(6, 0, [2.0, 2.0])).unwrap();
    on.collection.upsert(text("").posting(0, 0, [1.0, 1.0])).unwrap();
    let largest = "x".repeat(limits::MAX_TEXT_BYTES);
    on.collection.upsert(text(&largest).vector([1.0, 1.0])).unwrap();
    on.db.flush().unwrap();
    assert_eq!(on.collection.get(1).unwrap().unwrap().text.as_ref(), Some(&largest));
}

#[test]
fn metadata_and_postings() {
    let on = fixture(Metric::L2);
    let document = |value: Value| Document::new(1).metadata("field", value).vector([1.0, 1.0]);
    on.refuses(document(Value::from("x".repeat(limits::MAX_METADATA_BYTES))), "metadata");
    on.refuses(document(Value::Float(f64::NAN)), "field");
    let deep = |depth: usize| (0..depth).fold(Value::Null, |value, _| Value::List(vec![value]));
    on.refuses(document(deep(100_000.min(limits::MAX_METADATA_DEPTH + 1))), "deeper");
    on.collection.upsert(document(deep(limits::MAX_METADATA_DEPTH - 2))).unwrap();
    let mut many = Document::new(1);
    for _ in 0..=limits::MAX_POSTINGS {
        many = many.posting(0, 0, [1.0, 1.0]);
    }
    on.refuses(many.clone(), "65536 postings");
    many.postings.pop();
    on.collection.upsert(many.clone()).unwrap();
    on.db.flush().unwrap();
    assert_eq!(on.collection.get(1).unwrap().unwrap(), many);
    assert!(matches!(
        on.collection.update_metadata("missing", Metadata::new()),
        Err(Error::DocumentNotFound(key)) if key == Key::from("missing")
    ));
}

#[test]
fn a_batch_above_its_limit() {
    let on = fixture(Metric::L2);
    let text = "x".repeat(limits::MAX_TEXT_BYTES);
    let mut batch = WriteBatch::new();
    for key in 0..limits::MAX_BATCH_BYTES / limits::MAX_TEXT_BYTES + 1 {
        batch.upsert(Document::new(key).text(text.as_str()).vector([1.0, 1.0]));
    }
    let error = on.collection.write(&batch).unwrap_err();
    assert!(matches!(error, Error::BatchTooLarge { limit: limits::MAX_BATCH_BYTES, .. }), "{error:?}");
    assert_eq!(on.collection.count().unwrap(), 1);
}

#[test]
fn searches() {
    let on = fixture(Metric::Cosine);
    let invalid = |result: Result<_, Error>, why: &str| match result {
        Err(Error::InvalidArgument(what)) => assert!(what.contains(why), "{what:?} does not say {why:?}"),
        other => panic!("{:?}", other.map(drop)),
    };
    let search = || on.collection.search(&[1.0, 0.0]);
    invalid(search().k(0).run().map(drop), "at least 1");
    for recall in [0.0, -1.0, 1.1, f32::NAN, f32::INFINITY] {
        invalid(search().effort(Effort::Recall(recall)).run().map(drop), "recall");
    }
    invalid(search().effort(Effort::Lists(0)).run().map(drop), "at least one list");
    invalid(on.collection.search(&[f32::NAN, 0.0]).run().map(drop), "NaN");
    invalid(on.collection.search(&[0.0, 0.0]).run().map(drop), "direction");
    assert_eq!(search().k(usize::MAX).run().unwrap().hits.len(), 1, "fewer than k are all there are");
    assert!(matches!(on.collection.search_like("missing"), Err(Error::DocumentNotFound(_))));
}

#[test]
fn collections() {
    let on = fixture(Metric::L2);
    assert!(matches!(on.db.collection("other"), Err(Error::CollectionNotFound(name)) if name == "other"));
    assert!(
        matches!(on.db.drop_collection("other"), Err(Error::CollectionNotFound(name)) if name == "other")
    );
    for config in [CollectionConfig::new(3, Metric::L2), CollectionConfig::new(2, Metric::Dot)] {
        let error = on.db.create_collection("c", config).unwrap_err();
        let Error::SchemaMismatch { name, existing, wanted } = &error else { panic!("{error:?}") };
        assert!(name == "c" && existing.contains("l2") && existing != wanted, "{error}");
    }
    for dimension in [0, limits::MAX_DIMENSION + 1, usize::MAX] {
        let error = on.db.create_collection("d", CollectionConfig::new(dimension, Metric::L2)).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
    for name in ["", "a\nb", &"x".repeat(limits::MAX_NAME_BYTES + 1)] {
        let error = on.db.create_collection(name, CollectionConfig::new(2, Metric::L2)).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    }
    // A handle of a dropped collection, also when another of its name is there.
    let stale = on.collection.clone();
    on.db.drop_collection("c").unwrap();
    for _ in 0..2 {
        assert!(matches!(
            stale.upsert(Document::new(1).vector([1.0, 1.0])),
            Err(Error::CollectionNotFound(_))
        ));
        assert!(matches!(stale.search(&[1.0, 1.0]).run(), Err(Error::CollectionNotFound(_))));
        assert!(matches!(stale.count(), Err(Error::CollectionNotFound(_))));
        on.db.create_collection("c", CollectionConfig::new(2, Metric::L2)).unwrap();
    }
    assert_eq!(on.db.collection("c").unwrap().count().unwrap(), 0);
}
