use super::*;
use crate::kmeans::sample_rows;
use crate::random::Random;
use crate::testing::{InvertedFile, recall as recall_of, score};

/// A query with the scores of all rows but one.
fn scores(file: &InvertedFile, metric: Metric, query: &[f32], own: Option<u32>) -> Scores {
    let mut scores = Scores::new(query.to_vec(), own.map(|own| file.positions[own as usize]));
    for row in (0..file.positions.len() as u32).filter(|row| Some(*row) != own) {
        let (score, apart) = (score(metric, query, file.row(row)), score(Metric::L2, query, file.row(row)));
        scores.push(Scored { score, apart, position: file.positions[row as usize], row, codes: None });
    }
    scores
}

fn calibrated(file: &InvertedFile, metric: Metric, sample: usize) -> StopTable {
    let sample = sample_rows(file.positions.len(), sample, 3).into_iter().map(|row| row as u32);
    let queries = sample.map(|own| scores(file, metric, file.row(own), Some(own))).collect();
    calibrate(&file.centroids, metric, queries)
}

/// Held-out queries with their exact best scores.
struct Truth<'a> {
    queries: Vec<(&'a [f32], Vec<f32>)>,
}

impl<'a> Truth<'a> {
    fn new(file: &InvertedFile, metric: Metric, queries: &'a [f32]) -> Self {
        let exact = |query: &'a [f32]| (query, file.exact(metric, query, DEEPEST));
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
    assert_eq!(table.entries().len(), 27);
    let truth = Truth::new(&file, metric, queries);
    // At the calibrated k what is allowed for is the chance in 200 queries. 30 is interpolated, on data whose
    // clusters have 14 rows: t is no smooth function of k there, and 0.757 of 0.8 was measured.
    for (k, tolerance) in [(1, 0.03), (10, 0.03), (30, 0.06), (100, 0.03)] {
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
        let (stairs, _) =
            outcomes_of(&file.centroids, Metric::L2, &mut scores(&file, Metric::L2, &query, None));
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
    assert!(compared > 300, "{compared} of 630 were compared");
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
    let nothing = calibrate(&file.centroids, Metric::L2, vec![Scores::new(vec![0.0; 4], None); 10]);
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
    let file = InvertedFile::new(random.clustered(3000, 8, 40, 0.5), 8, 20);
    let query = random.clustered(1, 8, 1, 1.0);
    let mut scores = scores(&file, Metric::L2, &query, None);
    scores.settle();
    let exact = file.exact(Metric::L2, &query, KEPT);
    assert_eq!(scores.best.iter().map(|scored| scored.score).collect::<Vec<_>>(), exact);
    assert_eq!((scores.bound(), scores.nearest()), (exact[KEPT - 1], exact[NEAREST - 1]));
    // What is not better than a bound known beforehand is not kept.
    let mut bounded = Scores::new(query, None);
    bounded.set_bounds(exact[9], exact[9]);
    for (row, &score) in (0..).zip(&exact) {
        bounded.push(Scored { score, apart: score, position: 0, row, codes: None });
    }
    assert_eq!(bounded.best.len(), 10);
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
