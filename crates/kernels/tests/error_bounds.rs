//! The a priori error bounds hold, also where terms cancel, and are not absurdly wide.

use plimsoll_kernels::{dot, dot_error, dot_f64, dot_underflow, l2_error, l2_squared, l2_squared_f64};
use proptest::prelude::*;

fn assert_bounds(a: &[f32], b: &[f32]) {
    let (dim, slack) = (a.len(), f64::from(dot_underflow(a.len())));
    let magnitude: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
    let lengths = (dot_f64(a, a) * dot_f64(b, b)).sqrt();
    assert!(magnitude <= lengths * (1.0 + 1e-12));
    let error = (f64::from(dot(a, b)) - dot_f64(a, b)).abs();
    // The oracle itself rounds at 2^-53: leave room for that.
    assert!(error <= f64::from(dot_error(dim)) * magnitude * (1.0 + 1e-6) + slack, "dot {dim}: {error}");

    let exact = l2_squared_f64(a, b);
    let error = (f64::from(l2_squared(a, b)) - exact).abs();
    assert!(error <= f64::from(l2_error(dim)) * exact * (1.0 + 1e-6) + slack, "l2 {dim}: {error}");
}

proptest! {
    #[test]
    fn hold_on_random_vectors(
        pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..600),
        scale in prop::sample::select(vec![1e-25_f32, 1e-18, 1.0, 1e15]),
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().map(|(a, b)| (a * scale, b * scale)).unzip();
        assert_bounds(&a, &b);
    }

    #[test]
    fn hold_where_terms_cancel(
        half in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 1..300),
        noise in prop::sample::select(vec![0.0_f32, 1e-7, 1e-3]),
    ) {
        // ⟨a, b⟩ is nearly zero: each product comes again with the other sign.
        let a: Vec<f32> = half.iter().flat_map(|&(a, _)| [a, a]).collect();
        let b: Vec<f32> = half.iter().flat_map(|&(a, b)| [b, noise * a - b]).collect();
        assert_bounds(&a, &b);
        // a and c are nearly equal: the differences cancel.
        let c: Vec<f32> = a.iter().map(|a| a * (1.0 + noise)).collect();
        assert_bounds(&a, &c);
    }
}

#[test]
fn grow_with_the_length_of_a_lane() {
    for dim in [0_usize, 1, 16, 17, 384, 768, 1536, 4096] {
        let unit = f64::from(f32::EPSILON) / 2.0;
        let roundings = dim.div_ceil(16) as f64 + 4.0;
        assert!(f64::from(dot_error(dim)) >= roundings * unit);
        assert!(f64::from(dot_error(dim)) <= roundings * unit * 1.001);
        assert!(l2_error(dim) > dot_error(dim));
    }
}
