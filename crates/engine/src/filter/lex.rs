//! The words and signs of a filter's text.

use super::FilterError;
use super::scalar::Number;

/// Words that are no names.
const WORDS: [&str; 8] = ["and", "or", "not", "in", "exists", "true", "false", "null"];
/// Signs, each before those that it begins with.
const SIGNS: [&str; 10] = ["<=", ">=", "!=", "<", ">", "=", "(", ")", ",", "."];
/// How many characters an error shows of what it found.
const SHOWN: usize = 32;

/// A word or sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A word of the language, in lower case.
    Word(&'static str),
    /// A name, bare or in backticks.
    Name(String),
    /// A text in quotes.
    Text(String),
    Number(Number),
    Sign(&'static str),
    /// A character that begins nothing.
    Other,
    End,
}

/// Takes a text apart.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    /// Where the next token is looked for.
    position: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, position: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    /// Takes as many of these characters as there are.
    fn take_while(&mut self, is_wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !is_wanted(c)).unwrap_or(rest.len())];
        self.position += taken.len();
        taken
    }

    fn take_char(&mut self) -> Option<char> {
        let next = self.rest().chars().next();
        self.position += next.map_or(0, char::len_utf8);
        next
    }

    /// An error at `position`, where something else was expected.
    pub(super) fn error(&self, position: usize, expected: &'static str) -> FilterError {
        let rest = self.text.get(position..).unwrap_or_default().trim_end();
        let mut shown = rest.char_indices().map(|(at, _)| at).skip(SHOWN);
        let found = match (rest.is_empty(), shown.next()) {
            (true, _) => "the end".to_owned(),
            (false, Some(end)) => format!("{:?}…", &rest[..end]),
            (false, None) => format!("{rest:?}"),
        };
        FilterError::Syntax { position, expected, found }
    }

    /// The next token, and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token, usize), FilterError> {
        self.take_while(char::is_whitespace);
        let start = self.position;
        let rest = self.rest();
        let token = match rest.chars().next() {
            None => Token::End,
            Some(quote @ ('"' | '\'' | '`')) => {
                self.position += 1;
                let text = self.quoted(quote)?;
                if quote == '`' { Token::Name(text) } else { Token::Text(text) }
            }
            Some(first) if first.is_ascii_digit() || first == '-' => Token::Number(self.number(start)?),
            Some(first) if begins_name(first) => {
                let name = self.take_while(continues_name);
                word(name).map_or_else(|| Token::Name(name.to_owned()), Token::Word)
            }
            Some(_) => match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                Some(sign) => {
                    self.position += sign.len();
                    Token::Sign(sign)
                }
                None => Token::Other,
            },
        };
        Ok((token, start))
    }

    /// What is left of a quoted text, behind its first quote.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote && c != '\\'));
            match self.take_char() {
                Some('\\') => text.push(self.escape()?),
                Some(_) => return Ok(text),
                None => return Err(self.error(self.position, "the closing quote")),
            }
        }
    }

    /// The character that an escape stands for, behind its backslash.
    fn escape(&mut self) -> Result<char, FilterError> {
        let start = self.position - 1;
        let character = match self.take_char() {
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some(same @ ('\\' | '"' | '\'' | '`')) => Some(same),
            Some('u') if self.rest().starts_with('{') => {
                self.position += 1;
                let digits = self.take_while(|c| c.is_ascii_hexdigit());
                let code = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() <= 6);
                code.and_then(char::from_u32).filter(|_| self.take_char() == Some('}'))
            }
            _ => None,
        };
        let expected = r#"an escape (\n, \r, \t, \\, \", \', \`, \u{…})"#;
        character.ok_or_else(|| self.error(start, expected))
    }

    fn number(&mut self, start: usize) -> Result<Number, FilterError> {
        let digits = |lexer: &mut Self| !lexer.take_while(|c| c.is_ascii_digit()).is_empty();
        self.position += usize::from(self.rest().starts_with('-'));
        let (mut is_whole, mut is_integer) = (digits(self), true);
        if self.rest().starts_with('.') {
            self.position += 1;
            is_integer = false;
            is_whole &= digits(self);
        }
        if self.rest().starts_with(['e', 'E']) {
            self.position += 1;
            self.position += usize::from(self.rest().starts_with(['+', '-']));
            is_integer = false;
            is_whole &= digits(self);
        }
        if !is_whole || self.rest().starts_with(|c| continues_name(c) || c == '.') {
            return Err(self.error(start, "a number, such as -1, 0.5 or 1e9"));
        }
        let text = self.text.get(start..self.position).unwrap_or_default();
        let number = if is_integer {
            text.parse().ok().and_then(Number::from_integer)
        } else {
            text.parse().ok().and_then(Number::from_float)
        };
        number.ok_or_else(|| self.error(start, "a number that 64 bits can hold"))
    }
}

fn begins_name(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn continues_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word of the language that this is, in any case.
fn word(name: &str) -> Option<&'static str> {
    WORDS.into_iter().find(|word| word.eq_ignore_ascii_case(name))
}

/// Whether a name needs no backticks.
pub(super) fn is_bare(name: &str) -> bool {
    name.starts_with(begins_name) && name.chars().all(continues_name) && word(name).is_none()
}
