//! A random rotation that costs O(d log d) and is stored as its seed.
//!
//! One-bit codes need vectors whose energy is spread over all dimensions alike. A product of random sign flips and
//! Walsh-Hadamard transforms does that (N. Ailon and B. Chazelle, "The Fast Johnson-Lindenstrauss Transform", 2009).
//! The transform exists for powers of two only: other widths take two overlapping ones, and a butterfly between the
//! two halves, without which energy in the first dimensions does not reach the last ones evenly just below a power of
//! two.

use plimsoll_kernels::{LANES, butterfly, hadamard};

use crate::random::Random;

/// How often flips and transforms follow each other.
const ROUNDS: usize = 3;

/// A random orthogonal map from `dimension` to [`Rotation::width`] ≥ `dimension` components.
///
/// ```
/// use plimsoll_codes::Rotation;
/// let rotation = Rotation::new(3, 42);
/// let mut rotated = vec![0.0; rotation.width()];
/// rotation.rotate(&[1.0, 2.0, 2.0], &mut rotated);
/// let norm: f32 = rotated.iter().map(|x| x * x).sum();
/// assert!((norm - 9.0).abs() < 1e-5);
/// ```
#[derive(Debug, Clone)]
pub struct Rotation {
    dimension: usize,
    width: usize,
    /// The length of a transform: the largest power of two that fits.
    block: usize,
    /// The factors ±1/√block of each transform, one after the other.
    factors: Vec<f32>,
}

impl Rotation {
    /// The rotation of `dimension` ≥ 1 components that a seed means, in all versions.
    pub fn new(dimension: usize, seed: u64) -> Self {
        let width = dimension.max(1).next_multiple_of(LANES);
        let block = 1 << width.ilog2();
        let transforms = ROUNDS * if block == width { 1 } else { 2 };
        let norm = 1.0 / (block as f32).sqrt();
        let mut random = Random(seed);
        let mut factors = Vec::with_capacity(transforms * block);
        for _ in 0..transforms * block / 64 + 1 {
            let bits = random.next();
            factors.extend((0..64).map(|bit| if bits >> bit & 1 == 0 { norm } else { -norm }));
        }
        factors.truncate(transforms * block);
        Self { dimension, width, block, factors }
    }

    /// How many components vectors have before the rotation.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// How many components vectors have after it: `dimension` rounded up to a multiple of 16.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rotates a vector of `dimension` components into `rotated`, of `width` components. The same bits on every
    /// processor.
    ///
    /// # Panics
    /// When a length is another one.
    pub fn rotate(&self, vector: &[f32], rotated: &mut [f32]) {
        assert!(
            (vector.len(), rotated.len()) == (self.dimension, self.width),
            "{} components to be rotated into {}, by a rotation of {} into {}",
            vector.len(),
            rotated.len(),
            self.dimension,
            self.width
        );
        let (head, padding) = rotated.split_at_mut(self.dimension);
        head.copy_from_slice(vector);
        padding.fill(0.0);
        let mut factors = self.factors.chunks_exact(self.block);
        while let Some(first) = factors.next() {
            hadamard(&mut rotated[..self.block], first);
            if self.block == self.width {
                continue;
            }
            if let Some(second) = factors.next() {
                hadamard(&mut rotated[self.width - self.block..], second);
            }
            let (low, high) = rotated.split_at_mut(self.width / 2);
            butterfly(low, high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMENSIONS: [usize; 14] = [1, 2, 15, 16, 17, 100, 128, 384, 768, 784, 1008, 1536, 2032, 4096];

    fn rotated(rotation: &Rotation, vector: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; rotation.width()];
        rotation.rotate(vector, &mut out);
        out
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn inner_products_stay_as_they_are() {
        for dimension in DIMENSIONS {
            let rotation = Rotation::new(dimension, dimension as u64);
            let mut random = Random(1);
            let mut vector = || (0..dimension).map(|_| random.normal()).collect::<Vec<f32>>();
            let (a, b) = (vector(), vector());
            let (ra, rb) = (rotated(&rotation, &a), rotated(&rotation, &b));
            let scale = (dot(&a, &a) * dot(&b, &b)).sqrt();
            for (before, after) in [(dot(&a, &b), dot(&ra, &rb)), (dot(&a, &a), dot(&ra, &ra))] {
                assert!(
                    (before - after).abs() < 1e-5 * (scale + dot(&a, &a)),
                    "{dimension}: {before} {after}"
                );
            }
        }
    }

    #[test]
    fn the_energy_of_a_few_dimensions_is_spread_over_all() {
        // The mean of ‖x‖₁ / (√D ‖x‖₂): √(2/π) = 0.798 for normal components, less if some have more than others.
        for dimension in [100, 127, 240, 384, 768, 784, 1008, 1536, 2032, 3000] {
            for energy in [1, 8, 64] {
                let mut random = Random(9);
                let spread = |seed: u64, random: &mut Random| {
                    let rotation = Rotation::new(dimension, seed);
                    let mut vector = vec![0.0; dimension];
                    vector[..energy].iter_mut().for_each(|value| *value = random.normal());
                    let out = rotated(&rotation, &vector);
                    let sum: f64 = out.iter().map(|x| f64::from(x.abs())).sum();
                    sum / (dot(&out, &out) * out.len() as f64).sqrt()
                };
                let mean = (0..20).map(|seed| spread(seed, &mut random)).sum::<f64>() / 20.0;
                assert!((0.78..0.82).contains(&mean), "{dimension} dimensions, energy in {energy}: {mean}");
            }
        }
    }

    #[test]
    fn a_seed_means_one_rotation() {
        let out = |seed| rotated(&Rotation::new(20, seed), &[1.0; 20]);
        assert_eq!(out(7), out(7));
        assert_ne!(out(7), out(8));
    }
}
