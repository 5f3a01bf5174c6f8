//! Where paragraphs and sentences are.

use std::ops::Range;

use icu_segmenter::SentenceSegmenter;
use icu_segmenter::options::SentenceBreakInvariantOptions;

use super::trimmed;

/// The paragraphs of a text: what lines of nothing but white space separate.
pub(super) fn paragraphs(text: &str) -> Vec<Range<usize>> {
    let mut paragraphs = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim().is_empty() {
            paragraphs.extend(trimmed(text, start..at));
            start = at + line.len();
        }
        at += line.len();
    }
    paragraphs.extend(trimmed(text, start..text.len()));
    paragraphs
}

/// The sentences of a text.
pub(super) fn sentences(text: &str) -> Vec<Range<usize>> {
    let joined = join_lines(text);
    let segmenter = SentenceSegmenter::new(SentenceBreakInvariantOptions::default());
    let mut sentences = Vec::new();
    let mut start = 0;
    for end in segmenter.segment_str(&joined) {
        sentences.extend(trimmed(text, start..end));
        start = end;
    }
    sentences
}

/// The text with spaces in place of line breaks inside paragraphs, which Unicode would take as the end of a sentence.
/// No byte moves.
///
/// A line that begins with a sign (of a list, a heading, a table) stays on its own.
fn join_lines(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\n') {
        let (line, after) = rest.split_at(at);
        let after = after.get(1..).unwrap_or_default();
        let next = after.chars().find(|c| *c == '\n' || !c.is_whitespace());
        let goes_on = next.is_some_and(|c| c.is_alphanumeric() || "\"'(“‘«".contains(c));
        match line.strip_suffix('\r') {
            Some(line) if goes_on => joined.extend([line, "  "]),
            None if goes_on => joined.extend([line, " "]),
            _ => joined.extend([line, "\n"]),
        }
        rest = after;
    }
    joined.push_str(rest);
    joined
}
