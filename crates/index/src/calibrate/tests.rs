use super::*;
use crate::kmeans::sample_rows;
use crate::random::Random;
use crate::testing::{InvertedFile, recall as recall_of, score};

/// A query with the scores of all rows but one.
fn scores(file: &InvertedFile, metric: Metric, query: &[f32], own: Option<u32>, depth: Depth) -> Scores {
    let mut scores = Scores::new(query.to_vec(), own.map(|own| file.positions[own as usize]), depth);
    for row in (0..file.positions.len() as u32).filter(|row| Some(*row) != own) {
        let (score, apart) = (score(metric, query, file.row(row)), score(Metric::L2, query, file.row(row)));
        scores.push(Scored { score, apart, position: file.positions[row as usize], row, codes: None });
    }
    scores
}

fn calibrated(file: &InvertedFile, metric: Metric, sample: usize) -> StopTable {
    calibrate(&file.centroids, metric, sampled(file, metric, sample))
}

/// Sample rows, of which every fourth is deep.
fn sampled(file: &InvertedFile, metric: Metric, sample: usize) -> Vec<Scores> {
    let sample = sample_rows(file.positions.len(), sample, 3).into_iter().map(|row| row as u32);
    let depths = [Depth::DEEP, Depth::USUAL, Depth::USUAL, Depth::USUAL].into_iter().cycle();
    sample.zip(depths).map(|(own, depth)| scores(file, metric, file.row(own), Some(own), depth)).collect()
}

/// Held-out queries with their exact best scores.
struct Truth<'a> {
    queries: Vec<(&'a [f32], Vec<f32>)>,
}

impl<'a> Truth<'a> {
    fn new(file: &InvertedFile, metric: Metric, queries: &'a [f32]) -> Self {
        let exact = |query: &'a [f32]| (query, file.exact(metric, query, 1000));
        Self { queries: queries.chunks_exact(file.dim).map(exact).collect() }
    }

    /// The mean recall and the mean number of lists visited, by the t of the table.
    fn measure(&self, file: &InvertedFile, table: &StopTable, target: f32, k: usize) -> (f64, f64) {
        let metric = table.metric();
        let rule = StopRule::new(metric, table.stop_for(target, k));
        let (mut total, mut lists) = (0.0, 0);
        for (query, exact) in &self.queries {
            let (found, visited) = file.search(metric, query, k, rule);
            total += recall_of(&found, &exact[..k]);
            lists += visited;
        }
        let n = self.queries.len() as f64;
        (total / n, lists as f64 / n)
    }
}

fn assert_targets_hold(metric: Metric, rows: &[f32], dim: usize) {
    let (queries, rows) = rows.split_at(200 * dim);
    let file = InvertedFile::new(rows.to_vec(), dim, 60);
    let table = calibrated(&file, metric, 400);
    assert_eq!(table.entries().len(), 36);
    let truth = Truth::new(&file, metric, queries);
    // At the calibrated k what is allowed for is the chance in 200 queries. 30 is interpolated, on data whose
    // clusters have 14 rows: t is no smooth function of k there, and 0.757 of 0.8 was measured.
    for (k, tolerance) in [(1, 0.03), (10, 0.03), (30, 0.06), (100, 0.03), (300, 0.03), (1000, 0.03)] {
        let mut before = 0.0;
        for target in [0.8, 0.9, 0.95, 0.99] {
            let (recall, lists) = truth.measure(&file, &table, target, k);
            assert!(recall >= f64::from(target) - tolerance, "{metric}, k {k}: {recall} of {target}");
            assert!(lists >= before, "{metric}, k {k}: {lists} lists after {before}");
            before = lists;
        }
    }
    let (_, lists) = truth.measure(&file, &table, 0.8, 10);
    assert!(lists < 30.0, "{metric}: {lists} of 60 lists for a recall of 0.8");
}

#[test]
fn targets_hold_on_held_out_queries_by_distance() {
    let rows = Random::new(21).clustered(4200, 24, 300, 0.6);
    assert_targets_hold(Metric::L2, &rows, 24);
}

#[test]
fn targets_hold_on_held_out_queries_by_dot_product_of_many_lengths() {
    let mut random = Random::new(22);
    let mut rows = random.clustered(4200, 24, 300, 0.6);
    for row in rows.chunks_exact_mut(24) {
        let scale = 10.0_f32.powf(random.uniform());
        row.iter_mut().for_each(|value| *value *= scale);
    }
    assert_targets_hold(Metric::Dot, &rows, 24);
}

#[test]
fn the_staircase_is_what_the_stop_rule_does() {
    let mut random = Random::new(23);
    let file = InvertedFile::new(random.clustered(2000, 8, 40, 0.5), 8, 30);
    let mut compared = 0;
    for _ in 0..30 {
        let query = random.clustered(1, 8, 1, 1.0);
        let mut scores = scores(&file, Metric::L2, &query, None, Depth::DEEP);
        let (stairs, _) = outcomes_of(&file.centroids, Metric::L2, &mut scores);
        for (stairs, k) in stairs.iter().map(|stairs| &stairs[0]).zip(StopTable::KS) {
            for t in [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0] {
                let (found, _) = file.search(Metric::L2, &query, k as usize, StopRule::new(Metric::L2, t));
                let expected = recall_of(&found, &file.exact(Metric::L2, &query, k as usize));
                // Of visits that find next to nothing too few rows are known.
                if expected >= 0.5 {
                    compared += 1;
                    assert!((f64::from(recall_at(stairs, t)) - expected).abs() < 1e-6, "k {k}, t {t}");
                }
            }
        }
    }
    assert!(compared > 400, "{compared} of 840 were compared");
}

#[test]
fn duplicates_and_tiny_collections_are_tolerated() {
    let mut rows = Random::new(24).clustered(40, 4, 5, 0.5);
    rows.extend_from_within(..);
    let file = InvertedFile::new(rows, 4, 6);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let table = calibrated(&file, metric, 80);
        assert!(table.entries().iter().all(|entry| entry.t.is_finite()));
        assert!(table.stop_for(0.999, 1) >= table.stop_for(0.8, 1));
    }
    let nothing =
        calibrate(&file.centroids, Metric::L2, vec![Scores::new(vec![0.0; 4], None, Depth::USUAL); 10]);
    assert_eq!(nothing.stop_for(0.9, 10), f32::INFINITY);
}

#[test]
fn a_small_sample_does_not_pass_for_certainty() {
    let perfect: Staircase = vec![(0.5, 1.0)];
    let outcomes = vec![&perfect; 10];
    assert!(lower_bound(&outcomes, 1.0, 1) < 0.95);
    let outcomes = vec![&perfect; 10_000];
    assert!(lower_bound(&outcomes, 1.0, 1) > 0.999);
}

/// Rows that have copies are easy queries; what comes from outside is not, and has to get what it asked for: whether copies
/// are the same but for their last digits, or a good deal apart.
#[test]
fn targets_hold_for_queries_from_outside_where_rows_have_copies() {
    let dim = 24;
    for metric in [Metric::L2, Metric::Dot] {
        for noise in [1e-3, 0.1, 0.3] {
            let mut random = Random::new(25);
            let originals = random.clustered(700, dim, 100, 0.6);
            let (queries, originals) = originals.split_at(200 * dim);
            let mut rows = Vec::new();
            for original in originals.chunks_exact(dim) {
                for _ in 0..21 {
                    rows.extend(original.iter().map(|value| value + noise * random.uniform()));
                }
            }
            let file = InvertedFile::new(rows, dim, 60);
            let table = calibrated(&file, metric, 400);
            let truth = Truth::new(&file, metric, queries);
            for k in [1, 10, 100] {
                for target in [0.9, 0.95, 0.99] {
                    let (recall, lists) = truth.measure(&file, &table, target, k);
                    let what =
                        format!("{metric}, noise {noise}, k {k}: {recall:.3} of {target}, {lists} lists");
                    println!("{what}");
                    // The 21 rows have drawn a list towards them, which no query from outside finds there: without them
                    // the calibration is still a little too hopeful. With them it is off by 0.3.
                    assert!(recall >= f64::from(target) - 0.07, "{what}");
                }
            }
        }
    }
}

#[test]
fn the_best_rows_are_kept_and_the_bounds_are_theirs() {
    let mut random = Random::new(26);
    let file = InvertedFile::new(random.clustered(5000, 8, 40, 0.5), 8, 20);
    let query = random.clustered(1, 8, 1, 1.0);
    for depth in [Depth::USUAL, Depth::DEEP] {
        let mut scores = scores(&file, Metric::L2, &query, None, depth);
        scores.settle();
        let exact = file.exact(Metric::L2, &query, depth.kept);
        assert_eq!(scores.best.iter().map(|scored| scored.score).collect::<Vec<_>>(), exact);
        assert_eq!((scores.bound(), scores.nearest()), (exact[depth.kept - 1], exact[depth.nearest - 1]));
        // What is not better than a bound known beforehand is not kept.
        let mut bounded = Scores::new(query.clone(), None, depth);
        bounded.set_bounds(exact[9], exact[9]);
        for (row, &score) in (0..).zip(&exact) {
            bounded.push(Scored { score, apart: score, position: 0, row, codes: None });
        }
        assert_eq!(bounded.best.len(), 10);
    }
}

/// Where clusters have fewer rows than k, t for that k is not on the way on which it was.
#[test]
fn a_thousand_rows_of_small_clusters_are_found() {
    let rows = Random::new(27).clustered(12_200, 24, 30, 0.2);
    let (queries, rows) = rows.split_at(200 * 24);
    let file = InvertedFile::new(rows.to_vec(), 24, 120);
    let table = calibrated(&file, Metric::L2, 400);
    let truth = Truth::new(&file, Metric::L2, queries);
    for k in [600, 900, 1000] {
        let (recall, _) = truth.measure(&file, &table, 0.95, k);
        println!("k {k}: {recall}");
        assert!(recall >= 0.92, "k {k}: {recall}");
    }
}

/// Queries that are midway between rows far from each other.
fn between(random: &mut Random, rows: &[f32], dim: usize, count: usize) -> Vec<f32> {
    let mut queries = Vec::with_capacity(count * dim);
    for _ in 0..count {
        let [a, b] = [(); 2].map(|()| random.below(rows.len() / dim) * dim);
        queries.extend(rows[a..a + dim].iter().zip(&rows[b..b + dim]).map(|(a, b)| (a + b) / 2.0));
    }
    queries
}

fn given(file: &InvertedFile, metric: Metric, queries: &[f32]) -> Vec<Scores> {
    let depths = [Depth::DEEP, Depth::USUAL, Depth::USUAL, Depth::USUAL].into_iter().cycle();
    let queries = queries.chunks_exact(file.dim).zip(depths);
    queries.map(|(query, depth)| scores(file, metric, query, None, depth)).collect()
}

#[test]
fn queries_unlike_the_rows_get_what_they_ask_for_once_they_were_given() {
    let mut random = Random::new(28);
    let dim = 24;
    // More rows in a cluster than could be copies of one.
    let rows = random.clustered(4000, dim, 60, 0.3);
    let (sample, others) = (between(&mut random, &rows, dim, 400), between(&mut random, &rows, dim, 400));
    let file = InvertedFile::new(rows, dim, 60);
    for metric in [Metric::L2, Metric::Dot] {
        let rows = || sampled(&file, metric, 256);
        let by_rows = calibrate(&file.centroids, metric, rows());
        let by_queries = calibrate_on(&file.centroids, metric, given(&file, metric, &sample), rows());
        let truth = Truth::new(&file, metric, &others);
        let mut improved = 0;
        for k in [1, 10, 100, 1000] {
            for target in [0.9, 0.95] {
                let ((before, _), (after, _)) =
                    (truth.measure(&file, &by_rows, target, k), truth.measure(&file, &by_queries, target, k));
                println!("{metric}, k {k}: {before:.3}, {after:.3} of {target}");
                assert!(after >= f64::from(target) - 0.03, "{metric}, k {k}: {after} of {target}");
                improved += u32::from(before < f64::from(target) - 0.05 && after > before);
            }
        }
        assert!(improved > 0 || metric == Metric::Dot, "{metric}: rows as queries would have done");
    }
}

#[test]
fn few_queries_never_make_the_rules_less_careful_than_rows_do() {
    let mut random = Random::new(29);
    let dim = 16;
    let rows = random.clustered(2000, dim, 60, 0.8);
    // Nothing is easier than a row itself.
    let easy = rows[..400 * dim].to_vec();
    let file = InvertedFile::new(rows, dim, 40);
    for metric in [Metric::L2, Metric::Dot] {
        let by_rows = calibrate(&file.centroids, metric, sampled(&file, metric, 256));
        let with = |count: usize| {
            let queries = given(&file, metric, &easy[..count * dim]);
            calibrate_on(&file.centroids, metric, queries, sampled(&file, metric, 256))
        };
        assert_eq!(with(0), by_rows);
        for count in [1, 14] {
            for (few, rows) in with(count).entries().iter().zip(by_rows.entries()) {
                assert_eq!((few.k, few.recall), (rows.k, rows.recall));
                assert!(few.t >= rows.t && few.epsilon >= rows.epsilon, "{metric}: {few:?}, {rows:?}");
            }
        }
    }
    // Many say something of their own; only what they can not show is left to the rows.
    let by_rows = calibrate(&file.centroids, Metric::L2, sampled(&file, Metric::L2, 256));
    let many = given(&file, Metric::L2, &easy);
    let many = calibrate_on(&file.centroids, Metric::L2, many, sampled(&file, Metric::L2, 256));
    let t = |recall| (many.stop_for(recall, 1), by_rows.stop_for(recall, 1));
    assert!(t(0.9).0 < t(0.9).1 && t(0.97).0 < t(0.97).1, "{:?} {:?}", t(0.9), t(0.97));
    assert!(t(0.999).0 >= t(0.999).1, "{:?}", t(0.999));
}

/// A row is compared with the k-th best of all that were measured before it: in the first list, of the most promising.
#[test]
fn codes_refuse_rows_within_a_list() {
    let row = |row, score, estimate| Scored {
        score,
        apart: score,
        position: 0,
        row,
        codes: Some(Estimated { estimate, deviation: 0.1 }),
    };
    let best = |k, epsilon, lists: &[&[Scored]]| {
        let mut seen = BestScores::new(k);
        lists.iter().for_each(|list| seen.merge(list, epsilon));
        seen.sorted
    };
    // The two nearest look like the third and fourth, and the other way round.
    let list = [row(0, 1.0, 1.4), row(1, 1.1, 1.4), row(2, 1.2, 1.0), row(3, 1.2, 1.0), row(4, 9.0, 9.0)];
    assert_eq!(best(2, 1.0, &[&list]), [1.2, 1.2]);
    assert_eq!(best(2, 3.0, &[&list]), [1.0, 1.1]);
    assert_eq!(
        best(3, 1.0, &[&list])[1..],
        [1.2, 1.2],
        "one of the first two is measured, and refuses the other"
    );
    assert_eq!([5, 6].map(|k| best(k, 1.0, &[&list]).len()), [5, 5], "all are measured");
    // In a later list each row is compared with those before it.
    let first = [row(7, 5.0, 5.0)];
    assert_eq!(best(1, 1.0, &[&first, &list]), [1.0]);
    let turned = [row(0, 1.2, 1.0), row(1, 1.0, 1.4)];
    assert_eq!(best(1, 1.0, &[&first, &turned]), [1.2]);
    assert_eq!(best(1, 3.0, &[&first, &turned]), [1.0]);
}
