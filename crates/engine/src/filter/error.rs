//! What may be wrong with a filter.

use crate::model::limits::{MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_TESTS};

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The text is not a filter.
    #[error("the filter is wrong at byte {position}: expected {expected}, found {found}")]
    Syntax {
        /// Where in the text, in bytes from its start.
        position: usize,
        /// What could have been there.
        expected: &'static str,
        /// What is there, shortened.
        found: String,
    },
    /// A value that a field can not be compared with in this way.
    #[error("the filter compares the field {field} with {problem}")]
    Value {
        /// The field.
        field: String,
        /// The kind of value, and what is wrong with it.
        problem: &'static str,
    },
    /// The collection has no such field.
    #[error("the filter names the field {field:?}, which no document has")]
    UnknownField {
        /// The field's name.
        field: String,
    },
    /// The text is too long.
    #[error("the filter has {bytes} bytes; at most {MAX_FILTER_BYTES} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Parentheses and `not` nest too deep.
    #[error("the filter nests deeper than {MAX_FILTER_DEPTH}")]
    TooDeep,
    /// There are too many tests, or too many values after `in`.
    #[error("the filter has more than {MAX_FILTER_TESTS} tests and values of `in`")]
    TooManyTests,
}
