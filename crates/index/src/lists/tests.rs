use std::convert::Infallible;

use plimsoll_kernels::l2_squared_f64;

use super::*;
use crate::random::Random;

struct Flat {
    dim: usize,
    rows: Vec<f32>,
}

impl Rows for Flat {
    type Error = Infallible;

    fn dim(&self) -> usize {
        self.dim
    }

    fn count(&self) -> usize {
        self.rows.len() / self.dim
    }

    fn push(&self, row: u32, into: &mut Vec<f32>) -> Result<(), Infallible> {
        into.extend_from_slice(self.row(row));
        Ok(())
    }

    fn prefetch(&self, row: u32) {
        plimsoll_kernels::prefetch(self.row(row));
    }
}

impl Flat {
    fn row(&self, row: u32) -> &[f32] {
        &self.rows[row as usize * self.dim..][..self.dim]
    }

    fn train(&self, k: usize) -> Lists {
        match Lists::train(self, k, 7) {
            Ok(lists) => lists,
        }
    }
}

/// The mean squared distance of rows to the nearest of some centroids.
fn cost(rows: &Flat, centroids: &[f32]) -> f64 {
    let nearest = NearestOf::new(rows.dim, centroids).assign(&rows.rows);
    nearest.iter().map(|nearest| f64::from(nearest.distance)).sum::<f64>() / rows.count() as f64
}

#[test]
fn lists_are_as_good_as_those_of_plain_k_means() {
    let mut random = Random::new(31);
    for (clusters, spread, k) in [(400, 0.5, 60), (1, 1.0, 60), (3000, 0.3, 1500)] {
        let rows = Flat { dim: 24, rows: random.clustered(12_000, 24, clusters, spread) };
        let lists = rows.train(k);
        assert!(lists.counts.len() > k * 19 / 20, "{} lists of {k}", lists.counts.len());
        let plain = train(&rows.rows, 24, k, KmeansOptions { iterations: 8, seed: 7 });
        let (found, wanted) = (cost(&rows, &lists.centroids), cost(&rows, &plain));
        println!("{clusters} clusters: {found} for {wanted}");
        assert!(found < 1.03 * wanted, "{clusters} clusters: {found} for {wanted}");
        // And most rows are in the list that is nearest to them.
        let nearest = NearestOf::new(24, &lists.centroids).assign(&rows.rows);
        let same = nearest.iter().zip(&lists.positions).filter(|(nearest, own)| nearest.position == **own);
        assert!(same.count() > 12_000 * 8 / 10);
    }
}

#[test]
fn what_is_said_of_a_list_is_so() {
    let rows = Flat { dim: 6, rows: Random::new(32).clustered(5000, 6, 30, 0.4) };
    let lists = rows.train(33);
    let members = Members::new(&lists.positions);
    assert_eq!(members.lists().len(), lists.counts.len());
    for list in members.lists() {
        let own = members.of(list);
        assert!(own.is_sorted() && !own.is_empty());
        assert_eq!(own.len() as u32, lists.counts[list as usize]);
        let centroid = &lists.centroids[list as usize * 6..][..6];
        let distances: Vec<f64> = own.iter().map(|&row| l2_squared_f64(rows.row(row), centroid)).collect();
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        assert!((mean - f64::from(lists.spreads[list as usize])).abs() < 1e-4 * mean.max(1e-3));
        let largest = distances.into_iter().fold(0.0, f64::max).sqrt();
        let radius = f64::from(lists.radii[list as usize]);
        assert!(radius >= largest && radius < largest * 1.001 + 1e-6, "{radius} for {largest}");
        for (axis, &value) in centroid.iter().enumerate() {
            let sum: f64 = own.iter().map(|&row| f64::from(rows.row(row)[axis])).sum();
            assert!((sum / own.len() as f64 - f64::from(value)).abs() < 1e-5);
        }
    }
}

#[test]
fn lists_do_not_depend_on_the_threads() {
    let rows = Flat { dim: 16, rows: Random::new(33).clustered(9000, 16, 90, 0.5) };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| rows.train(1100))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn equal_rows_share_a_list() {
    let one = Flat { dim: 3, rows: [1.0, 2.0, 3.0].repeat(5000) };
    let lists = one.train(40);
    assert_eq!((lists.counts, lists.radii, lists.spreads), (vec![5000], vec![0.0], vec![0.0]));
    let mut few = Flat { dim: 1, rows: Vec::new() };
    (0..6000).for_each(|row| few.rows.push((row % 7) as f32));
    let lists = few.train(40);
    assert_eq!(lists.counts.len(), 7);
    assert!(lists.radii.iter().all(|radius| *radius == 0.0));
    let nothing = Flat { dim: 2, rows: Vec::new() }.train(0);
    assert_eq!(nothing.counts.len(), 0);
}

#[test]
fn members_leave_out_lists_without_rows() {
    let members = Members::new(&[5, 2, 5, 2, 2]);
    assert_eq!(members.lists(), 0..2);
    assert_eq!((members.of(0), members.of(1)), (&[1, 3, 4][..], &[0, 2][..]));
    assert_eq!(Members::new(&[]).lists(), 0..0);
}
