//! From a text to a filter: one function for each level of the grammar.
//!
//! ```text
//! any   = all ("or" all)*
//! all   = not ("and" not)*
//! not   = "not" not | group
//! group = "(" any ")" | field test
//! field = name ("." name)*
//! test  = "exists" | ("=" | "!=" | "<" | "<=" | ">" | ">=") value | "in" "(" (value ("," value)*)? ")"
//! ```
//!
//! One token says which way to go, so nothing is tried and taken back. A library of parser combinators would give only
//! that much: what is expected where, and the limits on depth and tests, which are most of this file, would still be
//! written by hand, against its types. That is why there is none.

use super::lex::{Lexer, Token};
use super::scalar::Scalar;
use super::{Field, Filter, FilterError, Order, Test};
use crate::model::limits::{MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_TESTS};

/// Reads a filter.
pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(FilterError::TooLong { bytes: text.len() });
    }
    let mut lexer = Lexer::new(text);
    let (token, position) = lexer.next()?;
    let mut parser = Parser { lexer, token, position, depth: 0, tests: 0 };
    let filter = parser.any()?;
    match parser.token {
        Token::End => filter.check().map(|()| filter),
        _ => Err(parser.error("`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token to be looked at.
    token: Token,
    /// Where it begins.
    position: usize,
    /// How many levels of parentheses and `not` are open.
    depth: usize,
    /// How many tests and values there were.
    tests: usize,
}

impl Parser<'_> {
    fn error(&self, expected: &'static str) -> FilterError {
        self.lexer.error(self.position, expected)
    }

    /// Takes the token.
    fn take(&mut self) -> Result<Token, FilterError> {
        let (next, position) = self.lexer.next()?;
        self.position = position;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Takes the token if it is this one.
    fn take_if(&mut self, wanted: &Token) -> Result<bool, FilterError> {
        let is_wanted = self.token == *wanted;
        if is_wanted {
            self.take()?;
        }
        Ok(is_wanted)
    }

    fn require(&mut self, sign: &'static str, expected: &'static str) -> Result<(), FilterError> {
        if self.take_if(&Token::Sign(sign))? { Ok(()) } else { Err(self.error(expected)) }
    }

    /// Reads something one level deeper.
    fn deeper(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Filter, FilterError>,
    ) -> Result<Filter, FilterError> {
        if self.depth == MAX_FILTER_DEPTH {
            return Err(FilterError::TooDeep);
        }
        self.depth += 1;
        let filter = read(self)?;
        self.depth -= 1;
        Ok(filter)
    }

    fn any(&mut self) -> Result<Filter, FilterError> {
        let mut filter = self.all()?;
        while self.take_if(&Token::Word("or"))? {
            filter = filter.or(self.all()?);
        }
        Ok(filter)
    }

    fn all(&mut self) -> Result<Filter, FilterError> {
        let mut filter = self.not()?;
        while self.take_if(&Token::Word("and"))? {
            filter = filter.and(self.not()?);
        }
        Ok(filter)
    }

    /// `not (…)` is one level, as it is printed.
    fn not(&mut self) -> Result<Filter, FilterError> {
        if !self.take_if(&Token::Word("not"))? {
            return self.group();
        }
        let is_group = self.token == Token::Sign("(");
        Ok(Filter::not(if is_group { self.group()? } else { self.deeper(Self::not)? }))
    }

    fn group(&mut self) -> Result<Filter, FilterError> {
        if !self.take_if(&Token::Sign("("))? {
            let field = self.field()?;
            return self.test(field);
        }
        let filter = self.deeper(Self::any)?;
        self.require(")", "`and`, `or` or `)`")?;
        Ok(filter)
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let mut field = Field::named(self.name("a field, `not` or `(`")?);
        while self.take_if(&Token::Sign("."))? {
            field = field.within(self.name("the name of a field in a map")?);
        }
        Ok(field)
    }

    fn name(&mut self, expected: &'static str) -> Result<String, FilterError> {
        match &mut self.token {
            Token::Name(name) => {
                let name = std::mem::take(name);
                self.take()?;
                Ok(name)
            }
            _ => Err(self.error(expected)),
        }
    }

    fn test(&mut self, field: Field) -> Result<Filter, FilterError> {
        let order = match self.token {
            Token::Sign("<") => Order::Less,
            Token::Sign("<=") => Order::AtMost,
            Token::Sign(">") => Order::Greater,
            Token::Sign(">=") => Order::AtLeast,
            _ => return self.unordered_test(field),
        };
        self.take()?;
        let position = self.position;
        let value = self.value("a number or a text in quotes")?;
        if !value.is_ordered() {
            return Err(self.lexer.error(position, "a number or a text in quotes"));
        }
        Ok(Filter::test(field, Test::Ordered(order, value)))
    }

    fn unordered_test(&mut self, field: Field) -> Result<Filter, FilterError> {
        const VALUE: &str = "a value (a text in quotes, a number, true, false or null)";
        if self.take_if(&Token::Sign("="))? {
            Ok(Filter::test(field, Test::Equal(self.value(VALUE)?)))
        } else if self.take_if(&Token::Sign("!="))? {
            Ok(Filter::test(field, Test::NotEqual(self.value(VALUE)?)))
        } else if self.take_if(&Token::Word("exists"))? {
            self.count()?;
            Ok(Filter::test(field, Test::Exists))
        } else if self.take_if(&Token::Word("in"))? {
            Ok(Filter::equal_to_any(field, self.values()?))
        } else {
            Err(self.error("one of =, !=, <, <=, >, >=, in, exists"))
        }
    }

    /// What stands after `in`.
    fn values(&mut self) -> Result<Vec<Scalar<String>>, FilterError> {
        self.require("(", "`(`")?;
        let mut values = Vec::new();
        if self.take_if(&Token::Sign(")"))? {
            self.count()?;
            return Ok(values);
        }
        loop {
            values.push(self.value("a value (a text in quotes, a number, true, false or null)")?);
            if !self.take_if(&Token::Sign(","))? {
                self.require(")", "`,` or `)`")?;
                return Ok(values);
            }
        }
    }

    fn value(&mut self, expected: &'static str) -> Result<Scalar<String>, FilterError> {
        let value = match &mut self.token {
            Token::Text(text) => Scalar::Text(std::mem::take(text)),
            Token::Number(number) => Scalar::Number(*number),
            Token::Word("true") => Scalar::Bool(true),
            Token::Word("false") => Scalar::Bool(false),
            Token::Word("null") => Scalar::Null,
            _ => return Err(self.error(expected)),
        };
        self.count()?;
        self.take()?;
        Ok(value)
    }

    fn count(&mut self) -> Result<(), FilterError> {
        self.tests += 1;
        if self.tests > MAX_FILTER_TESTS { Err(FilterError::TooManyTests) } else { Ok(()) }
    }
}
