//! What a vector from outside must be before it is believed.

use std::sync::OnceLock;

use crate::failure::{Failure, FailureClass};

/// The largest dimension that is taken from an embedder: that of the database.
pub(crate) const MAX_DIMENSION: usize = plimsoll::limits::MAX_DIMENSION;

/// The dimension that an embedder has shown first, which all its vectors must have.
#[derive(Debug, Default)]
pub(crate) struct Dimension(OnceLock<usize>);

impl Dimension {
    /// A dimension that was asked for, which the first vector must have, too.
    pub(crate) fn expecting(dimension: Option<usize>) -> Self {
        Self(dimension.map_or_else(OnceLock::new, OnceLock::from))
    }

    /// The dimension, if a vector was seen or one was asked for.
    pub(crate) fn get(&self) -> Option<usize> {
        self.0.get().copied()
    }

    /// Whether a vector has the dimension of those before it and numbers that can be compared.
    ///
    /// The first vector of all decides the dimension, also among threads.
    ///
    /// # Errors
    /// [`FailureClass::Validation`], naming `who` sent the vector and what is wrong with it.
    pub(crate) fn check(&self, who: &str, vector: &[f32]) -> Result<(), Failure> {
        let wrong = |what: String| Err(Failure::new(FailureClass::Validation, format!("{who} {what}")));
        if vector.is_empty() || vector.len() > MAX_DIMENSION {
            return wrong(format!(
                "gave a vector of {} numbers; 1 to {MAX_DIMENSION} can be stored",
                vector.len()
            ));
        }
        if let Some(at) = vector.iter().position(|number| !number.is_finite()) {
            return wrong(format!("gave a vector whose number {at} is not finite"));
        }
        let expected = *self.0.get_or_init(|| vector.len());
        if vector.len() != expected {
            return wrong(format!("gave a vector of {} numbers where {expected} are expected", vector.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_good_vector_decides_the_dimension() {
        let dimension = Dimension::default();
        assert!(dimension.check("it", &[]).is_err());
        assert!(dimension.check("it", &[1.0, f32::NAN]).is_err());
        assert!(dimension.check("it", &vec![0.0; MAX_DIMENSION + 1]).is_err());
        assert_eq!(dimension.get(), None);
        dimension.check("it", &[1.0, 2.0]).unwrap();
        assert!(dimension.check("it", &[1.0]).is_err());
        assert!(dimension.check("it", &[1.0, f32::INFINITY]).is_err());
        dimension.check("it", &[0.0, 0.0]).unwrap();
        assert_eq!(dimension.get(), Some(2));
    }
}
