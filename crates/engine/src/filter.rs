//! Filters: conditions on the metadata of documents.
//!
//! `scalar` compares values, `field` names them, `parse` and `lex` read a filter's text and `print` writes it,
//! `matching` looks at a document's encoded metadata, `error` is what may be wrong.
//!
//! **Owns** what a filter means, its text, and its evaluation on encoded metadata. **Must not know** how documents are
//! stored or searched, nor which fields a collection has.

mod error;
mod field;
mod lex;
mod matching;
mod parse;
mod print;
mod scalar;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::{Bound, Not, RangeBounds};
use std::str::FromStr;

pub use error::FilterError;
pub use field::Field;

use self::scalar::Scalar;
use crate::model::Value;
use crate::model::limits::{MAX_FILTER_DEPTH, MAX_FILTER_TESTS};

/// A condition on the metadata of a document, built in code or parsed from text.
///
/// ```
/// use plimsoll_engine::Filter;
/// let built = Filter::one_of("lang", ["en", "de"])
///     .and(Filter::range("year", 2000..=2010))
///     .and(Filter::not(Filter::eq("draft", true).or(Filter::exists("author.retired"))));
/// let text = r#"lang in ("de", "en") and year >= 2000 and year <= 2010
///     and not (draft = true or author.retired exists)"#;
/// assert_eq!(Filter::parse(text)?, built);
/// assert_eq!(Filter::parse(&built.to_string())?, built);
/// # Ok::<_, plimsoll_engine::FilterError>(())
/// ```
///
/// # Text
///
/// | form | is true if |
/// |---|---|
/// | `lang = "en"` | the field equals the value |
/// | `lang != "en"` | the field holds a value of the same type, and none that is equal |
/// | `year < 2000`, `<=`, `>`, `>=` | the field is before, or after, the number or text |
/// | `lang in ("en", "de")` | the field equals one of the values |
/// | `lang exists` | the document has the field, whatever is in it |
/// | `not a`, `a and b`, `a or b`, `(a)` | as usual; `not` binds tighter than `and`, and `and` tighter than `or` |
///
/// A value is a text in single or double quotes, an integer, a float, `true`, `false` or `null`. In quotes, `\n`, `\r`,
/// `\t`, `\u{1F600}` and a backslash before a quote or a backslash are escapes. Words may be in upper case. A field is
/// its name, or a path of names into nested maps, `author.name`. A name of other characters than letters, digits and
/// `_`, that begins with a digit, or that is a word of this language stands in backticks: `` `content-type` ``.
///
/// # Meaning
///
/// Every filter is true or false for every document; there is no third value.
///
/// - **A missing field** makes every comparison false, `!=` too. So `x != 1` is about the documents that have another
///   number there, and `not x = 1` about all that do not have this one.
/// - **Types**: a comparison with a value of another type is false, `!=` too. Integers and floats are one type and
///   compare as the numbers they are, without rounding: `9007199254740993` is not `9007199254740992.0`. Texts compare
///   byte by byte. Only numbers and texts have an order.
/// - **Not finite**: metadata has no infinite numbers and no NaN, and a filter with one is an error.
/// - **Lists**: `=` and `in` are true if any element is equal; `!=` if an element is of the type of the value and none
///   is equal. A list has no order, and lists within lists are not looked into, nor are maps within lists.
/// - **`null`** is a value: a field that holds it exists. `x = null` is true for it, `x != null` for every other value
///   (and for lists without it).
/// - `x in ()` is false.
///
/// # Limits
///
/// 64 KiB of text, 64 levels of parentheses, 4,096 tests ([`limits`](crate::limits)); more is an error. A filter that is
/// built in code and has something wrong with it carries the error to where it is used; [`Filter::check`] says it before.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Result<Sound, FilterError>);

/// A filter with nothing wrong with it.
#[derive(Debug, Clone, PartialEq)]
struct Sound {
    node: Node,
    /// How many tests it has; `in` counts as one for each of its values.
    tests: usize,
    /// How deep parentheses nest in its canonical text. With it the tree's depth is limited, and so every recursion.
    depth: usize,
}

/// Neither `And` in `And`, `Or` in `Or` nor `Not` in `Not`.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Test(Field, Test),
}

/// What is asked of a field's value.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Equal(Scalar<String>),
    NotEqual(Scalar<String>),
    /// Sorted, each once, and not exactly one.
    OneOf(Vec<Scalar<String>>),
    /// A number or a text.
    Ordered(Order, Scalar<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Filter {
    /// Reads a filter from its text.
    ///
    /// ```
    /// use plimsoll_engine::{Filter, FilterError};
    /// assert!(Filter::parse("tag in ('a', 'b') AND NOT (draft = true OR `content-type` exists)").is_ok());
    /// let error = Filter::parse("year >= ").unwrap_err();
    /// assert!(matches!(error, FilterError::Syntax { position: 8, .. }));
    /// ```
    ///
    /// # Errors
    /// Where the text is wrong and what was expected there, or which limit it exceeds.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::parse(text)
    }

    /// The field equals the value, or is a list with an element that does.
    pub fn eq(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::compared(field.into(), value.into(), Test::Equal)
    }

    /// The field holds a value of the same type, and none that is equal: not the opposite of [`Filter::eq`].
    pub fn ne(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::compared(field.into(), value.into(), Test::NotEqual)
    }

    /// The field is less than the number or text.
    pub fn lt(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::ordered(field.into(), Order::Less, value.into())
    }

    /// The field is less than the number or text, or equal.
    pub fn le(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::ordered(field.into(), Order::AtMost, value.into())
    }

    /// The field is greater than the number or text.
    pub fn gt(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::ordered(field.into(), Order::Greater, value.into())
    }

    /// The field is greater than the number or text, or equal.
    pub fn ge(field: impl Into<Field>, value: impl Into<Value>) -> Self {
        Self::ordered(field.into(), Order::AtLeast, value.into())
    }

    /// The field is within the range of numbers or texts. Without any bound, the field exists.
    ///
    /// ```
    /// use plimsoll_engine::Filter;
    /// assert_eq!(Filter::range("year", 2000..2010).to_string(), "year >= 2000 and year < 2010");
    /// ```
    pub fn range<V: Into<Value> + Clone>(field: impl Into<Field>, range: impl RangeBounds<V>) -> Self {
        let field = field.into();
        let start = match range.start_bound() {
            Bound::Included(value) => Some(Self::ge(field.clone(), value.clone())),
            Bound::Excluded(value) => Some(Self::gt(field.clone(), value.clone())),
            Bound::Unbounded => None,
        };
        let end = match range.end_bound() {
            Bound::Included(value) => Some(Self::le(field.clone(), value.clone())),
            Bound::Excluded(value) => Some(Self::lt(field.clone(), value.clone())),
            Bound::Unbounded => None,
        };
        match (start, end) {
            (Some(start), Some(end)) => start.and(end),
            (Some(filter), None) | (None, Some(filter)) => filter,
            (None, None) => Self::exists(field),
        }
    }

    /// The field equals one of the values, or is a list with an element that does.
    pub fn one_of<V: Into<Value>>(field: impl Into<Field>, values: impl IntoIterator<Item = V>) -> Self {
        let field = field.into();
        let values = values.into_iter().take(MAX_FILTER_TESTS + 1);
        match values.map(|value| Scalar::of(&field, value.into())).collect::<Result<Vec<_>, _>>() {
            Ok(values) => Self::equal_to_any(field, values),
            Err(error) => Self(Err(error)),
        }
    }

    /// The document has the field, whatever is in it.
    pub fn exists(field: impl Into<Field>) -> Self {
        Self::test(field.into(), Test::Exists)
    }

    /// Both are true.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.join(other, true)
    }

    /// Either is true, or both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.join(other, false)
    }

    /// The filter is false. `!filter` is the same.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "the trait is implemented; this needs no import of it")]
    pub fn not(filter: Self) -> Self {
        Self(filter.0.and_then(|Sound { node, tests, depth }| match node {
            Node::Not(inner) => Ok(Sound { node: *inner, tests, depth: depth - 1 }),
            node => Sound::new(Node::Not(Box::new(node)), tests, depth + 1),
        }))
    }

    /// What is wrong with the filter, if anything.
    ///
    /// ```
    /// use plimsoll_engine::{Filter, FilterError};
    /// let filter = Filter::exists("x").and(Filter::lt("y", f64::NAN));
    /// assert!(matches!(filter.check(), Err(FilterError::Value { field, .. }) if field == "y"));
    /// ```
    ///
    /// # Errors
    /// A value that can not be compared, or more than a filter may have.
    pub fn check(&self) -> Result<(), FilterError> {
        self.0.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// The names of the fields that it looks at, each once, in order; of a path into nested maps the first name.
    ///
    /// ```
    /// use plimsoll_engine::Filter;
    /// let filter = Filter::parse("lang = 'en' and (author.name exists or author.born < 1900)")?;
    /// assert!(filter.fields().eq(["author", "lang"]));
    /// # Ok::<_, plimsoll_engine::FilterError>(())
    /// ```
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let mut fields = BTreeSet::new();
        if let Ok(sound) = &self.0 {
            sound.node.collect_fields(&mut fields);
        }
        fields.into_iter()
    }

    /// Requires that all its fields are known.
    ///
    /// # Errors
    /// What is wrong with the filter, or the first field that is not known.
    pub fn check_fields(&self, is_known: impl Fn(&str) -> bool) -> Result<(), FilterError> {
        self.check()?;
        match self.fields().find(|field| !is_known(field)) {
            Some(field) => Err(FilterError::UnknownField { field: field.to_owned() }),
            None => Ok(()),
        }
    }
}

impl Filter {
    fn test(field: Field, test: Test) -> Self {
        let tests = if let Test::OneOf(values) = &test { values.len().max(1) } else { 1 };
        Self(Sound::new(Node::Test(field, test), tests, 0))
    }

    fn compared(field: Field, value: Value, make: impl FnOnce(Scalar<String>) -> Test) -> Self {
        match Scalar::of(&field, value) {
            Ok(value) => Self::test(field, make(value)),
            Err(error) => Self(Err(error)),
        }
    }

    fn ordered(field: Field, order: Order, value: Value) -> Self {
        match Scalar::of(&field, value) {
            Ok(value) if value.is_ordered() => Self::test(field, Test::Ordered(order, value)),
            Ok(_) => {
                let problem = "a truth value or null, which have no order";
                Self(Err(FilterError::Value { field: field.to_string(), problem }))
            }
            Err(error) => Self(Err(error)),
        }
    }

    /// The values in order, each once; a single one is an equality.
    fn equal_to_any(field: Field, mut values: Vec<Scalar<String>>) -> Self {
        if values.len() > MAX_FILTER_TESTS {
            return Self(Err(FilterError::TooManyTests));
        }
        values.sort_by(Scalar::order);
        values.dedup();
        let test = match values.pop() {
            Some(value) if values.is_empty() => Test::Equal(value),
            last => {
                values.extend(last);
                Test::OneOf(values)
            }
        };
        Self::test(field, test)
    }

    fn join(self, other: Self, is_and: bool) -> Self {
        Self(self.0.and_then(|left| {
            let right = other.0?;
            let (tests, depth) =
                (left.tests + right.tests, left.depth_in(is_and).max(right.depth_in(is_and)));
            let parts = |node| match (node, is_and) {
                (Node::And(nodes), true) | (Node::Or(nodes), false) => nodes,
                (node, _) => vec![node],
            };
            let mut nodes = parts(left.node);
            nodes.extend(parts(right.node));
            Sound::new(if is_and { Node::And(nodes) } else { Node::Or(nodes) }, tests, depth)
        }))
    }
}

impl Sound {
    fn new(node: Node, tests: usize, depth: usize) -> Result<Self, FilterError> {
        if tests > MAX_FILTER_TESTS {
            Err(FilterError::TooManyTests)
        } else if depth > MAX_FILTER_DEPTH {
            Err(FilterError::TooDeep)
        } else {
            Ok(Self { node, tests, depth })
        }
    }

    /// How deep parentheses nest where it is part of `and`, or of `or`.
    fn depth_in(&self, is_and: bool) -> usize {
        self.depth + usize::from(is_and && matches!(self.node, Node::Or(_)))
    }
}

impl Node {
    fn collect_fields<'a>(&'a self, fields: &mut BTreeSet<&'a str>) {
        match self {
            Self::And(nodes) | Self::Or(nodes) => nodes.iter().for_each(|node| node.collect_fields(fields)),
            Self::Not(node) => node.collect_fields(fields),
            Self::Test(field, _) => fields.extend(field.names().first().map(String::as_str)),
        }
    }
}

impl Not for Filter {
    type Output = Self;

    fn not(self) -> Self {
        Self::not(self)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}
