//! A filter on a document's encoded metadata, which is not decoded for it: nothing is allocated.
//!
//! A map's names are in order, so a field that is missing is noticed at the first name behind it. What stands behind
//! the last field that matters is not read.

use std::cmp::Ordering;
use std::path::Path;

use plimsoll_base::StorageError;
use plimsoll_base::codec::Decoder;

use super::scalar::{Number, Scalar};
use super::{Field, Filter, Node, Order, Test};
use crate::error::Result;
use crate::model::limits::MAX_METADATA_DEPTH;

impl Filter {
    /// Whether it is true for the metadata that is encoded in these bytes of `file`.
    ///
    /// # Errors
    /// What is wrong with the filter, or damage that was met.
    pub(crate) fn matches(&self, encoded: &[u8], file: &Path) -> Result<bool> {
        match &self.0 {
            Ok(sound) => Ok(sound.node.matches(&Decoder::new(encoded, file, 0))?),
            Err(error) => Err(error.clone().into()),
        }
    }
}

impl Node {
    fn matches(&self, metadata: &Decoder<'_>) -> Result<bool, StorageError> {
        match self {
            Self::And(nodes) => all(nodes, metadata, true),
            Self::Or(nodes) => all(nodes, metadata, false).map(|none| !none),
            Self::Not(node) => node.matches(metadata).map(|is_true| !is_true),
            Self::Test(field, test) => match find(field, metadata.clone())? {
                Some((value, depth)) => test.matches(value, depth),
                None => Ok(false),
            },
        }
    }
}

/// Whether all of them are `wanted`; looks no further than it takes.
fn all(nodes: &[Node], metadata: &Decoder<'_>, wanted: bool) -> Result<bool, StorageError> {
    for node in nodes {
        if node.matches(metadata)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The value of a field, before its tag, and how deep it is.
fn find<'a>(field: &Field, mut decoder: Decoder<'a>) -> Result<Option<(Decoder<'a>, usize)>, StorageError> {
    // No metadata has no bytes.
    if decoder.remaining() == 0 {
        return Ok(None);
    }
    for (depth, name) in (1..).zip(field.names()) {
        if depth > 1 && decoder.u8()? != 8 {
            return Ok(None);
        }
        if !enter(&mut decoder, name, depth)? {
            return Ok(None);
        }
    }
    Ok(Some((decoder, field.names().len())))
}

/// Goes to the value of that name in a map; `false` if there is none.
fn enter(decoder: &mut Decoder<'_>, wanted: &str, depth: usize) -> Result<bool, StorageError> {
    check_depth(decoder, depth)?;
    for _ in 0..decoder.count(5)? {
        match decoder.prefixed()?.cmp(wanted.as_bytes()) {
            Ordering::Less => skip(decoder, depth)?,
            Ordering::Equal => return Ok(true),
            Ordering::Greater => return Ok(false),
        }
    }
    Ok(false)
}

/// Goes behind a value that is so deep.
fn skip(decoder: &mut Decoder<'_>, depth: usize) -> Result<(), StorageError> {
    let at = decoder.clone();
    let bytes = match decoder.u8()? {
        0..=2 => 0,
        3..=5 => 8,
        6 => decoder.u32()? as usize,
        tag @ (7 | 8) => {
            check_depth(&at, depth + 1)?;
            for _ in 0..decoder.count(if tag == 7 { 1 } else { 5 })? {
                if tag == 8 {
                    decoder.prefixed()?;
                }
                skip(decoder, depth + 1)?;
            }
            0
        }
        tag => return Err(at.corrupted(format!("unknown metadata tag {tag}"))),
    };
    decoder.raw(bytes).map(|_| ())
}

fn check_depth(at: &Decoder<'_>, depth: usize) -> Result<(), StorageError> {
    if depth > MAX_METADATA_DEPTH {
        return Err(at.corrupted(format!("metadata nests deeper than {MAX_METADATA_DEPTH}")));
    }
    Ok(())
}

/// Reads a value that is so deep, if it can be compared; goes behind it if it can not.
fn scalar<'a>(decoder: &mut Decoder<'a>, depth: usize) -> Result<Option<Scalar<&'a [u8]>>, StorageError> {
    let at = decoder.clone();
    Ok(match decoder.u8()? {
        0 => Some(Scalar::Null),
        1 => Some(Scalar::Bool(false)),
        2 => Some(Scalar::Bool(true)),
        3 => Some(Scalar::Number(Number::Integer(decoder.i64()?.into()))),
        4 => Some(Scalar::Number(Number::Integer(decoder.u64()?.into()))),
        5 => Number::from_float(decoder.f64()?).map(Scalar::Number),
        6 => Some(Scalar::Text(decoder.prefixed()?)),
        _ => {
            *decoder = at;
            skip(decoder, depth)?;
            None
        }
    })
}

impl Test {
    /// Whether it is true for the value at `decoder`, which is so deep.
    fn matches(&self, mut decoder: Decoder<'_>, depth: usize) -> Result<bool, StorageError> {
        match self {
            Self::Exists => Ok(true),
            Self::Equal(value) => any(decoder, depth, |found| found.compare(value) == Some(Ordering::Equal)),
            Self::NotEqual(value) => {
                let mut is_comparable = *value == Scalar::Null;
                let is_equal = any(decoder, depth, |found| {
                    let order = found.compare(value);
                    is_comparable |= order.is_some();
                    order == Some(Ordering::Equal)
                })?;
                Ok(is_comparable && !is_equal)
            }
            Self::OneOf(values) => {
                any(decoder, depth, |found| values.binary_search_by(|value| value.order(found)).is_ok())
            }
            Self::Ordered(order, value) => {
                let found = scalar(&mut decoder, depth)?;
                Ok(found.and_then(|found| found.compare(value)).is_some_and(|found| order.holds(found)))
            }
        }
    }
}

/// Whether `is_wanted` holds for the value, or for any element of it if it is a list.
fn any<'a>(
    mut decoder: Decoder<'a>,
    depth: usize,
    mut is_wanted: impl FnMut(&Scalar<&'a [u8]>) -> bool,
) -> Result<bool, StorageError> {
    let at = decoder.clone();
    let (count, depth) = match decoder.u8()? {
        7 => {
            check_depth(&at, depth + 1)?;
            (decoder.count(1)?, depth + 1)
        }
        _ => {
            decoder = at;
            (1, depth)
        }
    };
    for _ in 0..count {
        if scalar(&mut decoder, depth)?.is_some_and(|found| is_wanted(&found)) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Order {
    fn holds(self, found: Ordering) -> bool {
        match self {
            Self::Less => found.is_lt(),
            Self::AtMost => found.is_le(),
            Self::Greater => found.is_gt(),
            Self::AtLeast => found.is_ge(),
        }
    }
}
