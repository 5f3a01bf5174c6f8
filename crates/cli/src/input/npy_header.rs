//! The header of a .npy file: `\x93NUMPY`, version, length, and a Python dictionary.
//!
//! Grammar of the dictionary, as numpy writes it: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`
//! padded with spaces and ended by a line feed. Versions 1 (16-bit length), 2 and 3 (32-bit length) are read.

use std::io::Read;

use plimsoll::limits::MAX_DIMENSION;

use super::Problem;
use super::matrix::read_record;

/// Longer headers are not of arrays of numbers.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// What is stored in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    F32,
    F64,
}

impl Element {
    /// How many bytes one takes.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// The shape of a two-dimensional array of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) element: Element,
    pub(super) rows: u64,
    pub(super) columns: usize,
}

impl Header {
    /// Reads the header and leaves the stream at the first number.
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, Problem> {
        let mut start = [0; 8];
        exactly(reader, &mut start)?;
        if &start[..6] != b"\x93NUMPY" {
            return Err(Problem::malformed("not a .npy file: it does not begin with \\x93NUMPY"));
        }
        let length = match start[6] {
            1 => {
                let mut length = [0; 2];
                exactly(reader, &mut length)?;
                usize::from(u16::from_le_bytes(length))
            }
            2 | 3 => {
                let mut length = [0; 4];
                exactly(reader, &mut length)?;
                u32::from_le_bytes(length) as usize
            }
            version => return Err(Problem::malformed(format!("version {version} of .npy is not known"))),
        };
        if length > MAX_HEADER_BYTES {
            return Err(Problem::malformed(format!("a header of {length} bytes")));
        }
        let mut text = vec![0; length];
        exactly(reader, &mut text)?;
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(text).map_err(|_| Problem::malformed("the header is not text"))?;
        let mut parser = Parser { rest: text };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        parser.token("{")?;
        while !parser.take("}") {
            let name = parser.string()?;
            parser.token(":")?;
            let twice = match name {
                "descr" => descr.is_some(),
                "fortran_order" => fortran.is_some(),
                _ => name == "shape" && shape.is_some(),
            };
            if twice {
                return Err(Problem::malformed(format!("the header has {name:?} twice")));
            }
            match name {
                "descr" => descr = Some(parser.string()?),
                "fortran_order" => fortran = Some(parser.boolean()?),
                "shape" => shape = Some(parser.tuple()?),
                _ => return Err(Problem::malformed(format!("the header has an unknown field {name:?}"))),
            }
            if !parser.take(",") {
                parser.token("}")?;
                break;
            }
        }
        let missing = |name: &str| Problem::malformed(format!("the header has no {name:?}"));
        let element = element(descr.ok_or_else(|| missing("descr"))?)?;
        if fortran.ok_or_else(|| missing("fortran_order"))? {
            return Err(unsupported("the array is in Fortran order; save it with numpy.ascontiguousarray"));
        }
        let (rows, columns) = two_dimensions(&shape.ok_or_else(|| missing("shape"))?)?;
        Ok(Self { element, rows, columns })
    }
}

fn unsupported(what: impl Into<String>) -> Problem {
    Problem::new("unsupported", what)
}

fn exactly(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), Problem> {
    match read_record(reader, buffer)? {
        false if !buffer.is_empty() => Err(Problem::truncated("the file ends in its header")),
        _ => Ok(()),
    }
}

fn element(descr: &str) -> Result<Element, Problem> {
    match descr {
        "<f2" | "|f2" => Ok(Element::F16),
        "<f4" | "|f4" => Ok(Element::F32),
        "<f8" | "|f8" => Ok(Element::F64),
        _ => Err(unsupported(format!("elements of type {descr:?}; little-endian f2, f4 and f8 are read"))),
    }
}

fn two_dimensions(shape: &[u64]) -> Result<(u64, usize), Problem> {
    let &[rows, columns] = shape else {
        return Err(unsupported(format!("an array of {} dimensions; two are needed", shape.len())));
    };
    match usize::try_from(columns) {
        Ok(columns @ 1..=MAX_DIMENSION) => Ok((rows, columns)),
        _ => Err(unsupported(format!("a dimension of {columns} is not between 1 and {MAX_DIMENSION}"))),
    }
}

/// Reads the few Python literals that a header is made of.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn take(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn token(&mut self, token: &str) -> Result<(), Problem> {
        if self.take(token) { Ok(()) } else { Err(self.wrong(token)) }
    }

    fn wrong(&self, expected: &str) -> Problem {
        let found: String = self.rest.chars().take(20).collect();
        Problem::malformed(format!("the header has {found:?} where {expected} is expected"))
    }

    fn string(&mut self) -> Result<&'a str, Problem> {
        let quote = if self.take("'") {
            '\''
        } else if self.take("\"") {
            '"'
        } else {
            return Err(self.wrong("a string"));
        };
        let (text, rest) = self.rest.split_once(quote).ok_or_else(|| self.wrong("a closed string"))?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, Problem> {
        match () {
            () if self.take("True") => Ok(true),
            () if self.take("False") => Ok(false),
            () => Err(self.wrong("True or False")),
        }
    }

    fn tuple(&mut self) -> Result<Vec<u64>, Problem> {
        self.token("(")?;
        let mut numbers = Vec::new();
        while !self.take(")") {
            numbers.push(self.number()?);
            if !self.take(",") {
                self.token(")")?;
                break;
            }
        }
        Ok(numbers)
    }

    fn number(&mut self) -> Result<u64, Problem> {
        self.rest = self.rest.trim_start();
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = self.rest[..digits].parse().map_err(|_| self.wrong("a number"))?;
        self.rest = &self.rest[digits..];
        Ok(number)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A .npy file of a version with this dictionary and these numbers.
    pub(in crate::input) fn file(version: u8, dictionary: &str, numbers: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        let text = format!("{dictionary:<64}\n");
        match version {
            1 => bytes.extend((text.len() as u16).to_le_bytes()),
            _ => bytes.extend((text.len() as u32).to_le_bytes()),
        }
        bytes.extend(text.as_bytes());
        bytes.extend(numbers);
        bytes
    }

    fn read(dictionary: &str) -> Result<Header, &'static str> {
        Header::read(&mut &file(1, dictionary, &[])[..]).map_err(|problem| problem.kind)
    }

    #[test]
    fn dictionaries_are_read_however_they_are_spaced_and_ordered() {
        let expected = Ok(Header { element: Element::F32, rows: 3, columns: 4 });
        for dictionary in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }",
            "{\"shape\":(3,4,),\"descr\":\"<f4\",\"fortran_order\":False}",
        ] {
            assert_eq!(read(dictionary), expected, "{dictionary}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_refused_by_name() {
        for (dictionary, kind) in [
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }", "unsupported"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (3, 4), }", "unsupported"),
            ("{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }", "unsupported"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "unsupported"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0), }", "unsupported"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 99999), }", "unsupported"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4), }", "malformed"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 99999999999999999999), }", "malformed"),
            ("{'descr': '<f4', 'shape': (3, 4), }", "malformed"),
            ("{'descr': '<f4', 'x': 1}", "malformed"),
            ("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }", "malformed"),
            ("{'descr: ", "malformed"),
            ("", "malformed"),
        ] {
            assert_eq!(read(dictionary), Err(kind), "{dictionary}");
        }
        assert_eq!(Header::read(&mut &b"PK\x03\x04....."[..]).unwrap_err().kind, "malformed");
        let mut newer = file(1, "{}", &[]);
        newer[6] = 9;
        assert_eq!(Header::read(&mut &newer[..]).unwrap_err().kind, "malformed");
    }
}
