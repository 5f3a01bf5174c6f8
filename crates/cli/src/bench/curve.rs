//! A curve of something against recall, read between its points.

/// What a curve has at a recall, on the straight line of its logarithm against that of 1 − recall between the two points
/// beside it; `None` beyond the first and the last point. Points are of (recall, value), in any order.
pub(super) fn at(points: &[(f64, f64)], recall: f64) -> Option<f64> {
    let below = points.iter().filter(|point| point.0 <= recall).max_by(|a, b| a.0.total_cmp(&b.0))?;
    let above = points.iter().filter(|point| point.0 >= recall).min_by(|a, b| a.0.total_cmp(&b.0))?;
    // A recall of 1 has no logarithm; so near to 1 it makes no difference.
    let place = |recall: f64| -(1.0 - recall).max(1e-6).ln();
    let width = place(above.0) - place(below.0);
    let share = if width > 0.0 { (place(recall) - place(below.0)) / width } else { 0.0 };
    Some((below.1.ln() * (1.0 - share) + above.1.ln() * share).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_read_between_its_points() {
        let points = [(0.99, 400.0), (0.9, 100.0)];
        let near = |value: Option<f64>, wanted: f64| value.is_some_and(|value| (value - wanted).abs() < 1e-6);
        assert!(near(at(&points, 0.9), 100.0) && near(at(&points, 0.99), 400.0));
        // Half of the way from 0.1 to 0.01 is 0.0316.
        assert!(near(at(&points, 1.0 - 0.001_f64.sqrt()), 200.0), "{:?}", at(&points, 0.968));
        assert_eq!((at(&points, 0.89), at(&points, 0.995), at(&[], 0.9)), (None, None, None));
    }
}
