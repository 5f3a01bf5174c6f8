//! Single values, and how they compare: exactly, and only with values of their type.

use std::cmp::Ordering;

use super::{Field, FilterError};
use crate::model::Value;

/// A value that is neither a list nor a map; `T` is a text or its bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar<T> {
    Null,
    Bool(bool),
    Number(Number),
    Text(T),
}

/// A finite number. Equal numbers are represented in the same way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    /// An integer between the least `i64` and the greatest `u64`.
    Integer(i128),
    /// A number that is not such an integer.
    Float(f64),
}

/// The first integer above all that metadata can hold.
const END: f64 = 18_446_744_073_709_551_616.0;
/// The first integer that metadata can hold.
const START: f64 = -9_223_372_036_854_775_808.0;

impl Number {
    /// The number, if it is finite.
    pub(super) fn from_float(value: f64) -> Option<Self> {
        if !value.is_finite() {
            None
        } else if value.trunc() == value && (START..END).contains(&value) {
            Some(Self::Integer(value as i128))
        } else {
            Some(Self::Float(value))
        }
    }

    /// The number, if metadata can hold it.
    pub(super) fn from_integer(value: i128) -> Option<Self> {
        (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(Self::Integer(value))
    }

    fn order(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(&right),
            (Self::Float(left), Self::Float(right)) => left.total_cmp(&right),
            (Self::Integer(left), Self::Float(right)) => order_mixed(left, right),
            (Self::Float(left), Self::Integer(right)) => order_mixed(right, left).reverse(),
        }
    }
}

/// Compares an integer with a float that is none, or beyond the integers of metadata.
fn order_mixed(integer: i128, float: f64) -> Ordering {
    if float >= END {
        Ordering::Less
    } else if float < START {
        Ordering::Greater
    } else if integer <= float.floor() as i128 {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

impl<T: AsRef<[u8]>> Scalar<T> {
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
        }
    }

    /// An order of all scalars: by type, then by value.
    pub(super) fn order<U: AsRef<[u8]>>(&self, other: &Scalar<U>) -> Ordering {
        match (self, other) {
            (Self::Bool(left), Scalar::Bool(right)) => left.cmp(right),
            (Self::Number(left), Scalar::Number(right)) => left.order(*right),
            (Self::Text(left), Scalar::Text(right)) => left.as_ref().cmp(right.as_ref()),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// How it compares with a value of the same type.
    pub(super) fn compare<U: AsRef<[u8]>>(&self, other: &Scalar<U>) -> Option<Ordering> {
        (self.rank() == other.rank()).then(|| self.order(other))
    }

    /// Whether there is a less and a greater.
    pub(super) fn is_ordered(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Text(_))
    }
}

impl Scalar<String> {
    /// A value to compare `field` with.
    pub(super) fn of(field: &Field, value: Value) -> Result<Self, FilterError> {
        let problem = |problem| FilterError::Value { field: field.to_string(), problem };
        Ok(match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Integer(value) => Self::Number(Number::Integer(value.into())),
            Value::Unsigned(value) => Self::Number(Number::Integer(value.into())),
            Value::Float(value) => {
                Self::Number(Number::from_float(value).ok_or_else(|| problem("a number that is not finite"))?)
            }
            Value::String(text) => Self::Text(text),
            Value::List(_) => return Err(problem("a list; `in` compares with each of its values")),
            Value::Map(_) => return Err(problem("a map; a path such as `a.b` names a field in one")),
        })
    }
}
