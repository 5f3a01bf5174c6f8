//! Searches that are ended: at once or midway, with a typed error, and without harm to any other.

use std::time::{Duration, Instant};

use plimsoll::{
    Cancel, Collection, CollectionConfig, Database, Effort, Error, Metric, Result, Search, WriteBatch,
};

use plimsoll_torture::random::Random;

const DIMENSION: usize = 256;
const ROWS: u64 = 8000;

/// Rows in lists, in files and in memory.
fn world(dir: &std::path::Path) -> (Database, Collection, Vec<f32>) {
    let db = Database::builder(dir.join("db")).background(false).open().unwrap();
    let collection = db.create_collection("c", CollectionConfig::new(DIMENSION, Metric::L2)).unwrap();
    let mut random = Random::new(3);
    let mut vector = || (0..DIMENSION).map(|_| random.normal()).collect::<Vec<f32>>();
    let mut write = |rows: std::ops::Range<u64>| {
        let mut batch = WriteBatch::new();
        rows.for_each(|row| {
            batch.upsert_vector(row, &vector());
        });
        collection.write(&batch).unwrap();
    };
    write(0..ROWS);
    db.flush().unwrap();
    db.compact().unwrap();
    write(ROWS..ROWS + 500);
    let query = vector();
    (db, collection, query)
}

/// So many searches that they take a few seconds, and how long one takes.
fn enough(search: &Search<'_>) -> (usize, Duration) {
    let started = Instant::now();
    (0..5).for_each(|_| drop(search.run().unwrap()));
    let one = (started.elapsed() / 5).max(Duration::from_micros(1));
    ((Duration::from_secs(8).as_nanos() / one.as_nanos()) as usize + 10, one)
}

fn count(answers: &[Result<plimsoll::SearchResults>], is: impl Fn(&Error) -> bool) -> usize {
    answers.iter().filter(|answer| answer.as_ref().is_err_and(&is)).count()
}

#[test]
fn many_searches_end_when_their_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, collection, query) = world(dir.path());
    for effort in [Effort::Exact, Effort::Lists(8)] {
        let search = collection.search(&query).effort(effort);
        let expected = search.run().unwrap().hits;
        let (searches, _) = enough(&search);
        let queries = vec![&query[..]; searches];
        let started = Instant::now();
        let answers = search.clone().timeout(Duration::from_millis(200)).run_each(&queries);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let over = count(&answers, |error| matches!(error, Error::Timeout) && error.is_retryable());
        let done: Vec<_> = answers.into_iter().flatten().collect();
        assert!(over > 0 && done.len() + over == searches, "{effort:?}: {over} of {searches}");
        assert!(done.iter().all(|results| results.hits == expected));
        assert_eq!(search.timeout(Duration::from_secs(600)).run().unwrap().hits, expected);
    }
}

/// One search, which looks at the clock while it scans: with a part of the time that it needs it does not go on to its
/// end. Where this process was stopped meanwhile it is tried again.
#[test]
fn one_exact_search_ends_midway() {
    let dir = tempfile::tempdir().unwrap();
    let (_db, collection, query) = world(dir.path());
    let mut batch = WriteBatch::new();
    (0..40_000).for_each(|row| {
        batch.upsert_vector(1_000_000 + row, &query);
    });
    collection.write(&batch).unwrap();
    // Rows that are equal to the query are all measured, which takes its time.
    let search = collection.search(&query).k(50_000).effort(Effort::Exact);
    let ends_midway = || {
        let (_, one) = enough(&search);
        let started = Instant::now();
        let answer = search.clone().timeout(one / 10).run();
        matches!(answer, Err(Error::Timeout)) && started.elapsed() < one / 2
    };
    assert!((0..10).any(|_| ends_midway()));
    assert_eq!(search.run().unwrap().hits.len(), 48_500);
}

#[test]
fn searches_that_are_cancelled_end_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (db, collection, query) = world(dir.path());
    let cancel = Cancel::new();
    let search = collection.search(&query).effort(Effort::Exact);
    let expected = search.run().unwrap().hits;
    let (searches, _) = enough(&search);
    let queries = vec![&query[..]; searches];
    let snapshot = db.snapshot();
    let started = Instant::now();
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            // A reader beside it, and a writer, are not touched.
            let beside = snapshot.collection("c").unwrap();
            assert_eq!(beside.search(&query).effort(Effort::Exact).run().unwrap().hits, expected);
            cancel.cancel();
            assert!(cancel.is_cancelled());
        });
        search.clone().cancel(&cancel).run_each(&queries)
    });
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let ended = count(&answers, |error| matches!(error, Error::Cancelled) && !error.is_retryable());
    assert!(ended > 0, "of {searches} searches none was ended");
    let done: Vec<_> = answers.into_iter().flatten().collect();
    assert!(done.len() + ended == searches && done.iter().all(|results| results.hits == expected));
    assert_eq!(search.run().unwrap().hits, expected);
    assert!(matches!(search.clone().cancel(&cancel).run(), Err(Error::Cancelled)));
    assert_eq!(search.cancel(&Cancel::new()).run().unwrap().hits, expected);
}
