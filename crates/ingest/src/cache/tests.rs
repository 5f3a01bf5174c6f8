use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::embed::{Embedded, Embedder, HashEmbedder};
use crate::failure::{Failure, FailureClass};

/// Counts what it is asked, refuses texts with "bad", and breaks when told to.
struct Counting {
    inner: HashEmbedder,
    asked: Mutex<Vec<String>>,
    breaks_after: AtomicU64,
}

impl Embedder for Counting {
    fn model(&self) -> &'static str {
        "counting"
    }

    fn dimension(&self) -> Result<usize, Failure> {
        self.asked.lock().push("dimension".into());
        self.inner.dimension()
    }

    fn max_batch(&self) -> usize {
        4
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        assert!(texts.len() <= 4);
        if self.breaks_after.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(Failure::new(FailureClass::Validation, "the key is wrong"));
        }
        self.asked.lock().extend(texts.iter().map(|&text| text.to_owned()));
        let results = self.inner.embed(texts, kind)?;
        let bad = || Err(Failure::new(FailureClass::Validation, "bad"));
        Ok(results
            .into_iter()
            .zip(texts)
            .map(|(v, text)| if text.contains("bad") { bad() } else { v })
            .collect())
    }
}

fn counting(dimension: usize) -> Counting {
    let inner = HashEmbedder::new(dimension).unwrap();
    Counting { inner, asked: Mutex::default(), breaks_after: AtomicU64::new(u64::MAX) }
}

fn cached(directory: &Path) -> Cached<Counting> {
    Cached::new(counting(8), Arc::new(Cache::open(directory, Cache::DEFAULT_BYTES)))
}

fn embed(embedder: &impl Embedder, texts: &[&str]) -> Vec<Embedded> {
    embedder.embed(texts, TextKind::Passage).unwrap()
}

fn right(texts: &[&str]) -> Vec<Embedded> {
    HashEmbedder::new(8).unwrap().embed(texts, TextKind::Passage).unwrap()
}

fn file(directory: &Path) -> PathBuf {
    directory.join(Cache::FILE)
}

#[test]
fn a_text_is_embedded_once_also_across_runs() {
    let directory = tempfile::tempdir().unwrap();
    let texts = ["a", "b", "a", "c", "d", "e", "b"];
    let first = cached(directory.path());
    assert_eq!(embed(&first, &texts), right(&texts));
    assert_eq!(*first.inner().asked.lock(), ["a", "b", "c", "d", "e"]);
    let counts = CallCounts { hits: 0, misses: 5, repeated: 2, calls: 2, embedded: 5 };
    assert_eq!(first.counts(), counts);
    drop(first);

    let second = cached(directory.path());
    assert_eq!(second.dimension(), Ok(8));
    assert_eq!(embed(&second, &texts), right(&texts));
    assert!(second.inner().asked.lock().is_empty(), "not even for the dimension");
    assert_eq!(second.counts(), CallCounts { hits: 5, repeated: 2, ..CallCounts::default() });
    second.embed(&["a"], TextKind::Query).unwrap();
    assert_eq!(second.counts().misses, 1, "a query is not a passage");
    assert_eq!(second.cache().counts(), CacheCounts::default());
}

#[test]
fn what_was_refused_is_not_kept_and_what_was_paid_for_is() {
    let directory = tempfile::tempdir().unwrap();
    let embedder = cached(directory.path());
    let results = embed(&embedder, &["a", "bad", "c"]);
    assert!(results[1].is_err() && results[0].is_ok() && results[2].is_ok());
    embedder.inner().breaks_after.store(1, Ordering::SeqCst);
    let texts = ["d", "e", "f", "g", "h", "a"];
    let results = embed(&embedder, &texts);
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, true, false, true]);
    assert_eq!(results[4].as_ref().unwrap_err().class, FailureClass::Unknown, "the text is not to blame");
    embedder.inner().breaks_after.store(0, Ordering::SeqCst);
    let failure = embedder.embed(&["a", "h"], TextKind::Passage).unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    embedder.inner().breaks_after.store(u64::MAX, Ordering::SeqCst);
    embedder.inner().asked.lock().clear();
    assert_eq!(embed(&embedder, &texts), right(&texts));
    assert_eq!(*embedder.inner().asked.lock(), ["h"]);
}

#[test]
fn a_model_that_has_changed_is_embedded_anew() {
    let directory = tempfile::tempdir().unwrap();
    embed(&cached(directory.path()), &["a", "b"]);
    let changed = Cached::new(counting(16), Arc::new(Cache::open(directory.path(), Cache::DEFAULT_BYTES)));
    let results = embed(&changed, &["a", "new", "b"]);
    assert!(results.iter().all(|result| result.as_ref().unwrap().len() == 16));
    assert_eq!(embed(&changed, &["new", "a"]).len(), 2);
    assert_eq!(*changed.inner().asked.lock(), ["new", "a", "b"]);
}

#[test]
fn vectors_of_a_wrong_length_cost_none_that_are_right() {
    let directory = tempfile::tempdir().unwrap();
    let open = |dimension| {
        let cache = Arc::new(Cache::open(directory.path(), Cache::DEFAULT_BYTES));
        Cached::new(counting(dimension), cache).expecting(Some(8))
    };
    embed(&open(8), &["a", "b"]);
    let wrong = open(16);
    assert_eq!(wrong.dimension(), Ok(8), "as the cache has it");
    let lengths: Vec<usize> =
        embed(&wrong, &["a", "new"]).iter().map(|result| result.as_ref().unwrap().len()).collect();
    assert_eq!(lengths, [8, 16], "the collection refuses the second one");
    let mended = open(8);
    assert_eq!(mended.dimension(), Ok(8));
    embed(&mended, &["a", "b", "new"]);
    assert_eq!(*mended.inner().asked.lock(), ["new"]);
    // Vectors for a collection of another dimension that was there before are of no use.
    let cache = Arc::new(Cache::open(directory.path(), Cache::DEFAULT_BYTES));
    let other = Cached::new(counting(16), cache).expecting(Some(16));
    assert_eq!(other.dimension(), Ok(16));
    assert!(embed(&other, &["a"]).iter().all(|result| result.as_ref().unwrap().len() == 16));
}

#[test]
fn a_damaged_file_is_set_aside_and_begun_anew() {
    let texts = ["a", "b"];
    for damage in ["garbage", "table", "vector", "directory"] {
        let directory = tempfile::tempdir().unwrap();
        drop((embed(&cached(directory.path()), &texts), ()));
        let file = file(directory.path());
        match damage {
            "garbage" => std::fs::write(&file, vec![0xa5; 8192]).unwrap(),
            "table" => Connection::open(&file)
                .unwrap()
                .execute_batch("DROP TABLE vectors; CREATE TABLE vectors (x)")
                .unwrap(),
            "vector" => {
                let connection = Connection::open(&file).unwrap();
                connection.execute("UPDATE vectors SET vector = zeroblob(32)", []).unwrap();
            }
            _ => {
                std::fs::remove_file(&file).unwrap();
                std::fs::create_dir(&file).unwrap();
            }
        }
        let embedder = cached(directory.path());
        assert_eq!(embed(&embedder, &texts), right(&texts), "{damage}");
        assert_eq!(embed(&embedder, &texts), right(&texts), "{damage}");
        let counts = embedder.cache().counts();
        if damage == "directory" {
            assert!(counts.bypassed > 0 && counts.set_aside == 0, "{counts:?}");
        } else {
            assert_eq!((counts.set_aside, counts.bypassed), (1, 0), "{damage}");
            assert_eq!(embedder.inner().asked.lock().len(), 2, "{damage}: it is a cache again");
            assert!(directory.path().join("embeddings.sqlite.damaged").exists());
        }
    }
}

#[test]
fn every_flipped_byte_gives_the_right_vectors_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let texts = ["one", "two", "three"];
    drop(embed(&cached(directory.path()), &texts));
    let whole = std::fs::read(file(directory.path())).unwrap();
    assert!(
        !directory.path().join("embeddings.sqlite-wal").exists(),
        "closing has moved the log into the file"
    );
    for at in (0..whole.len()).step_by(whole.len() / 60 + 1) {
        let other = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(file(other.path()), bytes).unwrap();
        assert_eq!(embed(&cached(other.path()), &texts), right(&texts), "byte {at}");
    }
}

#[test]
fn a_file_that_is_locked_or_missing_does_not_fail_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let embedder = cached(directory.path());
    embed(&embedder, &["a"]);
    let other = Connection::open(file(directory.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(embed(&embedder, &["a", "b"]), right(&["a", "b"]));
    assert_eq!(embedder.cache().counts().bypassed, 1, "what is there can be read; nothing can be kept");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(embed(&embedder, &["a", "b"]), right(&["a", "b"]));
    assert_eq!(embed(&embedder, &["b"]), right(&["b"]));
    assert_eq!(embedder.counts().embedded, 3);

    let nowhere = directory.path().join("file");
    std::fs::write(&nowhere, "").unwrap();
    let bypassed = cached(&nowhere.join("below"));
    assert_eq!(embed(&bypassed, &["a", "a"]), right(&["a", "a"]));
    assert!(bypassed.cache().counts().bypassed > 0);
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    Connection::open(file(directory.path())).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let before = std::fs::read(file(directory.path())).unwrap();
    assert_eq!(embed(&cached(directory.path()), &["a"]), right(&["a"]));
    assert!(!directory.path().join("embeddings.sqlite.damaged").exists());
    assert_eq!(std::fs::read(file(directory.path())).unwrap()[..60], before[..60]);
}

#[test]
fn the_oldest_used_make_room() {
    let directory = tempfile::tempdir().unwrap();
    let hash = |i: u32| *blake3::hash(&i.to_le_bytes()).as_bytes();
    let vector = [1.0f32; 8];
    let row = 8 * 4 + 128;
    let put = |cache: &Cache, range: std::ops::Range<u32>| {
        let vectors: Vec<_> = range.map(|i| (hash(i), &vector[..])).collect();
        cache.put("m", TextKind::Passage, &vectors);
    };
    let has = |cache: &Cache, i: u32| cache.get("m", TextKind::Passage, &[hash(i)])[0].is_some();
    put(&Cache::open(directory.path(), 100 * row), 0..100);
    // Another run uses the first ten of them, so that they are not the oldest any more.
    let cache = Cache::open(directory.path(), 100 * row);
    assert!((0..10).all(|i| has(&cache, i)));
    put(&cache, 100..101);
    assert_eq!(cache.counts().evicted, 11, "down to nine tenths");
    assert!((0..10).all(|i| has(&cache, i)) && has(&cache, 100));
    assert!((10..21).all(|i| !has(&cache, i)) && has(&cache, 21));
    drop(cache);
    let smaller = Cache::open(directory.path(), 20 * row);
    put(&smaller, 200..201);
    assert_eq!((0..300).filter(|i| has(&smaller, *i)).count(), 18);
}

#[test]
fn threads_and_processes_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let caches = [(); 3].map(|()| cached(directory.path()));
    std::thread::scope(|scope| {
        for (number, embedder) in caches.iter().enumerate() {
            scope.spawn(move || {
                for i in 0..20 {
                    let text = format!("text {}", (i + number * 7) % 20);
                    assert_eq!(embed(embedder, &[&text]), right(&[&text]));
                }
            });
        }
    });
    let after = cached(directory.path());
    let texts: Vec<String> = (0..20).map(|i| format!("text {i}")).collect();
    embed(&after, &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let bypassed: u64 = caches.iter().map(|embedder| embedder.cache().counts().bypassed).sum();
    assert!(after.counts().embedded <= bypassed, "all that could be put is there");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn a_vector_comes_back_bit_for_bit(bits in proptest::collection::vec(any::<u32>(), 1..50)) {
        let directory = tempfile::tempdir().unwrap();
        let vector: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let cache = Cache::open(directory.path(), Cache::DEFAULT_BYTES);
        cache.put("m", TextKind::Query, &[([7; 32], &vector)]);
        let found = cache.get("m", TextKind::Query, &[[7; 32], [8; 32]]);
        let found_bits: Vec<u32> = found[0].as_ref().unwrap().iter().map(|x| x.to_bits()).collect();
        prop_assert_eq!(found_bits, bits);
        prop_assert!(found[1].is_none());
    }
}
