//! From the states of a text's tokens to its vector. Sums are made in double precision and in one order.

/// How the states of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token, which is a special one in the models that are trained so.
    First,
}

impl Pooling {
    /// Its name, which is part of what a model is known by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "first",
        }
    }

    /// One state from those of a text's tokens, `dimension` numbers each; padding is not among them.
    pub(crate) fn of(self, states: &[f32], dimension: usize) -> Vec<f64> {
        let mut sums = vec![0f64; dimension];
        let mut count = 0f64;
        for state in states.chunks_exact(dimension.max(1)) {
            for (sum, number) in sums.iter_mut().zip(state) {
                *sum += f64::from(*number);
            }
            count += 1.0;
            if self == Self::First {
                break;
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= count);
        sums
    }
}

/// The vector of unit length in a direction; `None` if it has none: a number is not finite, or all are 0.
pub(crate) fn unit(direction: &[f64]) -> Option<Vec<f32>> {
    let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
    if !length.is_finite() || length < f64::from(f32::MIN_POSITIVE) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "numbers of at most 1 lose digits, which is meant")]
    Some(direction.iter().map(|x| (x / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_become_their_mean_or_the_first() {
        let states = [1.0, 2.0, 3.0, 6.0, 5.0, 1.0];
        assert_eq!(Pooling::Mean.of(&states, 2), [3.0, 3.0]);
        assert_eq!(Pooling::First.of(&states, 2), [1.0, 2.0]);
    }

    #[test]
    fn only_directions_become_vectors() {
        assert_eq!(unit(&[3.0, -4.0]), Some(vec![0.6, -0.8]));
        for none in [&[0.0, 0.0], &[f64::NAN, 1.0], &[f64::INFINITY, 1.0]] {
            assert_eq!(unit(none), None);
        }
        assert_eq!(unit(&[]), None);
    }
}
