//! Estimated tokens: a rule that needs no vocabulary. See [`Unit::Tokens`](super::Unit::Tokens).

use text_splitter::ChunkSizer;

/// How many characters of a word one token has at most.
const TOKEN_CHARACTERS: usize = 6;

/// Counts tokens for the splitter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counter;

impl ChunkSizer for Counter {
    fn size(&self, chunk: &str) -> usize {
        count(chunk)
    }
}

/// How many tokens a text has. A text cut in two has at least as many in its parts together.
pub(super) fn count(text: &str) -> usize {
    let mut tokens = 0;
    each(text, |_| tokens += 1);
    tokens
}

/// Where the tokens of a text begin, ascending.
pub(super) fn starts(text: &str) -> Vec<usize> {
    let mut starts = Vec::with_capacity(text.len() / 5);
    each(text, |start| starts.push(start));
    starts
}

/// Where the token begins that stands `tokens` before the first one at or behind `cut`.
pub(super) fn back(starts: &[usize], cut: usize, tokens: usize) -> usize {
    let at = starts.partition_point(|start| *start < cut);
    starts.get(at.saturating_sub(tokens)).copied().unwrap_or(cut).min(cut)
}

fn each(text: &str, mut token: impl FnMut(usize)) {
    let mut run = 0;
    for (at, character) in text.char_indices() {
        if is_ideographic(character) {
            run = 0;
            token(at);
        } else if character.is_alphanumeric() {
            if run % TOKEN_CHARACTERS == 0 {
                token(at);
            }
            run += 1;
        } else {
            run = 0;
            if !character.is_whitespace() {
                token(at);
            }
        }
    }
}

/// Whether a character is of a script that models read one character at a time: from the CJK radicals on, with kana,
/// Hangul and the ideographs of the supplementary planes.
const fn is_ideographic(character: char) -> bool {
    matches!(character, '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7ff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}
