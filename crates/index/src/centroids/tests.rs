use plimsoll_base::Metric;
use plimsoll_kernels::l2_squared_f64;
use proptest::prelude::*;

use super::*;
use crate::random::Random;
use crate::stop::StopRule;
use crate::testing::{InvertedFile, recall, table};

/// Rows whose lengths spread over two decades.
fn of_many_lengths(random: &mut Random, mut rows: Vec<f32>, dim: usize) -> Vec<f32> {
    for row in rows.chunks_exact_mut(dim) {
        let scale = 10.0_f32.powf(random.uniform());
        row.iter_mut().for_each(|value| *value *= scale);
    }
    rows
}

#[test]
fn two_levels_assign_nearly_as_one() {
    let mut random = Random::new(11);
    for (dim, clusters, spread, lists) in [(32, 100, 0.5, 1100), (24, 4000, 0.7, 1400), (48, 1, 1.0, 1030)] {
        let rows = random.clustered(8 * lists, dim, clusters, spread);
        let options = KmeansOptions { iterations: 3, seed: 1 };
        let centroids = table(train(&rows, dim, lists, options), dim, None);
        assert!(centroids.groups.is_some());
        let rows = &rows[..5000 * dim];
        let (assigned, flat) = (centroids.assign(rows), centroids.assign_flat(rows));
        let same = assigned.iter().zip(&flat).filter(|(a, b)| a == b).count() as f64 / flat.len() as f64;
        let mean = |positions: &[u32]| -> f64 {
            rows.chunks_exact(dim)
                .zip(positions)
                .map(|(row, &p)| l2_squared_f64(row, centroids.vector(p)).sqrt())
                .sum()
        };
        let worse = mean(&assigned) / mean(&flat);
        assert!(
            same >= 0.97 && worse < 1.01,
            "dim {dim}, {clusters} clusters: {same} the same, {worse} of the distance"
        );
    }
}

#[test]
fn assignment_does_not_depend_on_the_threads() {
    let mut random = Random::new(12);
    let rows = random.clustered(5000, 16, 40, 0.4);
    let centroids = table(rows[..1100 * 16].to_vec(), 16, None);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| centroids.assign(&rows))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_radius_covers_its_list() {
    let file = InvertedFile::new(Random::new(13).clustered(3000, 10, 30, 0.3), 10, 40);
    for (row, &position) in (0..).zip(&file.positions) {
        let distance = l2_squared_f64(file.row(row), file.centroids.vector(position)).sqrt();
        assert!(distance <= f64::from(file.centroids.radii()[position as usize]));
    }
}

#[test]
fn the_whole_radius_misses_nothing_of_a_dot_product() {
    let mut random = Random::new(14);
    let dim = 20;
    let rows = random.clustered(6000, dim, 40, 0.3);
    let file = InvertedFile::new(of_many_lengths(&mut random, rows, dim), dim, 60);
    let mut visited = 0;
    for _ in 0..100 {
        let query = random.clustered(1, dim, 1, 1.0);
        for k in [1, 10, 100] {
            let (found, lists) = file.search(Metric::Dot, &query, k, StopRule::new(Metric::Dot, 1.0));
            assert_eq!(found, file.exact(Metric::Dot, &query, k));
            visited += lists;
        }
    }
    assert!(visited < 300 * 60 * 9 / 10, "the bound skips lists: {visited} of {} visited", 300 * 60);
}

#[test]
fn a_stricter_stop_visits_less_and_finds_less() {
    let mut random = Random::new(15);
    let file = InvertedFile::new(random.clustered(8000, 24, 400, 0.7), 24, 80);
    let queries: Vec<u32> = (0..200).map(|_| random.below(8000) as u32).collect();
    let run = |t: f32| {
        let (mut total, mut lists) = (0.0, 0);
        for &query in &queries {
            let query = file.row(query);
            let (found, visited) = file.search(Metric::L2, query, 10, StopRule::new(Metric::L2, t));
            total += recall(&found, &file.exact(Metric::L2, query, 10));
            lists += visited;
        }
        (total / 200.0, lists)
    };
    let (strict, loose) = (run(4.0), run(12.0));
    assert!(strict.0 < loose.0 && strict.1 < loose.1, "{strict:?} {loose:?}");
    assert!(loose.0 > 0.99 && loose.1 < 200 * 80, "{loose:?}");
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let new = |dim, n: usize, vectors: Vec<f32>, radii: Vec<f32>| {
        Centroids::new(dim, vec![ListId(1); n], vec![ShardId(1); n], vectors, radii)
            .err()
            .map(|error| error.0)
    };
    assert_eq!(new(2, 1, vec![1.0, 2.0], vec![0.5]), None);
    assert_eq!(new(2, 0, vec![], vec![]), None);
    assert!(new(0, 1, vec![], vec![0.5]).is_some());
    assert!(new(2, 1, vec![1.0], vec![0.5]).is_some());
    assert!(new(2, 1, vec![1.0, f32::NAN], vec![0.5]).is_some());
    assert!(new(2, 1, vec![1.0, 2.0], vec![-0.5]).is_some());
    assert!(new(2, 1, vec![1.0, 2.0], vec![f32::NAN]).is_some());
    assert!(new(2, 1, vec![1.0, 2.0], vec![]).is_some());
}

#[test]
fn an_empty_table_routes_nowhere() {
    let centroids = table(Vec::new(), 3, None);
    assert_eq!(centroids.route(&[0.0; 3], Metric::L2, 1.0).count(), 0);
    assert_eq!(centroids.assign(&[]), []);
}

proptest! {
    #[test]
    fn a_route_is_every_list_best_first(
        vectors in prop::collection::vec(-3_i8..3, 0..60), query in prop::array::uniform2(-3_i8..3),
        metric in prop::sample::select(vec![Metric::Cosine, Metric::L2, Metric::Dot]), t in 0.01_f32..1.0,
    ) {
        let vectors: Vec<f32> = vectors[..vectors.len() / 2 * 2].iter().map(|&value| f32::from(value)).collect();
        let n = vectors.len() / 2;
        let centroids = table(vectors, 2, Some((0..n).map(|i| i as f32 / 10.0).collect()));
        let steps: Vec<_> = centroids.route(&query.map(f32::from), metric, t).collect();
        let key = |index: usize| (steps[index].priority, steps[index].position);
        prop_assert!((1..n).all(|index| key(index - 1) < key(index)));
        let mut positions: Vec<u32> = steps.iter().map(|step| step.position).collect();
        positions.sort_unstable();
        prop_assert_eq!(positions, (0..n as u32).collect::<Vec<_>>());
    }
}
