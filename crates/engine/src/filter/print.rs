//! The canonical text of a filter: with as few parentheses as it takes.

use std::fmt::{self, Display, Formatter, Write as _};

use super::lex::is_bare;
use super::scalar::{Number, Scalar};
use super::{Field, Filter, Node, Order, Test};

/// The canonical text, which is read as an equal filter unless it is longer than a filter's text may be; or what is
/// wrong with the filter.
impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(sound) => sound.node.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(nodes) => separated(f, nodes, " and ", |f, node| match node {
                Self::Or(_) => write!(f, "({node})"),
                _ => node.fmt(f),
            }),
            Self::Or(nodes) => separated(f, nodes, " or ", |f, node| node.fmt(f)),
            Self::Not(node) => write!(f, "not ({node})"),
            Self::Test(field, test) => write!(f, "{field} {test}"),
        }
    }
}

fn separated<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    separator: &str,
    print: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(index, item)| {
        f.write_str(if index == 0 { "" } else { separator })?;
        print(f, item)
    })
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("exists"),
            Self::Equal(value) => write!(f, "= {value}"),
            Self::NotEqual(value) => write!(f, "!= {value}"),
            Self::OneOf(values) => {
                f.write_str("in (")?;
                separated(f, values, ", ", |f, value| value.fmt(f))?;
                f.write_char(')')
            }
            Self::Ordered(order, value) => write!(f, "{order} {value}"),
        }
    }
}

impl Display for Order {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        })
    }
}

/// The names, joined by dots; in backticks where they need them.
impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        separated(
            f,
            self.names(),
            ".",
            |f, name| if is_bare(name) { f.write_str(name) } else { quoted(f, name, '`') },
        )
    }
}

impl Display for Scalar<String> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(Number::Integer(value)) => value.fmt(f),
            // With a point or an exponent, so that it is not read as an integer.
            Self::Number(Number::Float(value)) => write!(f, "{value:?}"),
            Self::Text(text) => quoted(f, text, '"'),
        }
    }
}

fn quoted(f: &mut Formatter<'_>, text: &str, quote: char) -> fmt::Result {
    f.write_char(quote)?;
    for character in text.chars() {
        match character {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\\' => f.write_str("\\\\")?,
            _ if character == quote => write!(f, "\\{quote}")?,
            _ if character.is_control() => write!(f, "{}", character.escape_unicode())?,
            _ => f.write_char(character)?,
        }
    }
    f.write_char(quote)
}
