//! One number of a vector: any JSON number, as the nearest `f32` of the nearest `f64`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// The numbers of a vector, as they are read from a JSON array of numbers. All of them are finite.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Components(pub Vec<f32>);

impl<'de> Deserialize<'de> for Components {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ComponentsVisitor)
    }
}

struct ComponentsVisitor;

impl<'de> Visitor<'de> for ComponentsVisitor {
    type Value = Components;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vector: an array of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Components, A::Error> {
        let mut components = Vec::new();
        while let Some(Component(number)) = list.next_element()? {
            components.push(number);
        }
        Ok(Components(components))
    }
}

struct Component(f32);

impl<'de> Deserialize<'de> for Component {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_f64(ComponentVisitor)
    }
}

struct ComponentVisitor;

impl Visitor<'_> for ComponentVisitor {
    type Value = Component;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Component, E> {
        narrow(number).map(Component).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Component, E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Component, E> {
        self.visit_f64(number as f64)
    }
}

/// The nearest `f32`.
///
/// # Errors
/// A sentence, if the number is not finite or too large for one.
pub fn narrow(number: f64) -> Result<f32, String> {
    let narrowed = number as f32;
    match () {
        () if narrowed.is_finite() => Ok(narrowed),
        () if number.is_finite() => Err(format!("{number:e} is too large for a 32-bit float")),
        () => Err(format!("{number} is not finite")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<f32>, String> {
        serde_json::from_str::<Components>(json)
            .map(|components| components.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_are_rounded_through_f64() {
        assert_eq!(
            read("[0, -1, 0.1, 1e-3, 18446744073709551615]"),
            Ok(vec![0.0, -1.0, 0.1, 1e-3, 2f32.powi(64)])
        );
        assert!(read("[-0.0]").unwrap()[0].is_sign_negative());
        assert!(read("[-0]").unwrap()[0].is_sign_negative());
        let twice = "7.038531e-26".parse::<f64>().unwrap() as f32;
        assert_eq!(read("[7.038531e-26]"), Ok(vec![twice]));
    }

    #[test]
    fn what_is_no_finite_number_is_refused() {
        assert!(read("[1, \"2\"]").unwrap_err().contains("expected a number"));
        assert!(read("[1e39]").unwrap_err().contains("1e39 is too large for a 32-bit float"));
        assert!(read("[1e999]").unwrap_err().contains("out of range"));
        assert!(read("[null]").is_err());
        assert!(read("3").unwrap_err().contains("a vector"));
        assert!(narrow(f64::NAN).is_err());
    }
}
