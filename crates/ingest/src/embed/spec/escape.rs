//! Characters that end a value, written as `%` and two hexadecimal digits per byte.

use std::fmt::Write as _;

use super::SpecError;

/// The text with everything escaped that a reader can not see, and the characters that would end it where it stands.
pub(super) fn escape(text: &str, ends: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut bytes = [0u8; 4];
    for character in text.chars() {
        if character.is_whitespace()
            || character.is_control()
            || character == '%'
            || ends.contains(&character)
        {
            for byte in character.encode_utf8(&mut bytes).bytes() {
                // Writing to a string does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// The text that was escaped.
pub(super) fn unescape(text: &str) -> Result<String, SpecError> {
    let wrong = || SpecError::Escape(text.chars().take(40).collect());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(u8::from_str_radix(digits.ok_or_else(wrong)?, 16).map_err(|_| wrong())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}
