//! Cuts: a text into pieces that follow each other, and passages that overlap from these.

use std::ops::Range;

use text_splitter::{ChunkConfig, ChunkSizer, TextSplitter};

use super::trimmed;

/// The splitter looks at much of what is ahead of it for each piece it makes, so a text is given to it in blocks: the
/// time is then in proportion to the text. A block has room for about so many pieces, so that few of them end because
/// a block does.
const PIECES_PER_BLOCK: usize = 32;
/// The shortest block, in bytes.
const MIN_BLOCK: usize = 2 << 10;

/// Pieces of at most `size`, as `counter` counts, that do not overlap. A unit has `bytes` bytes, about.
pub(super) fn pieces<C: ChunkSizer + Copy>(
    text: &str,
    size: usize,
    bytes: usize,
    counter: C,
) -> impl Iterator<Item = Range<usize>> {
    let length = MIN_BLOCK.max(size.saturating_mul(bytes * PIECES_PER_BLOCK));
    blocks(text, length).flat_map(move |(offset, block)| {
        let splitter = TextSplitter::new(ChunkConfig::new(size).with_sizer(counter));
        let pieces: Vec<Range<usize>> = splitter
            .chunk_indices(block)
            .map(|(start, piece)| offset + start..offset + start + piece.len())
            .collect();
        pieces
    })
}

/// A text in parts of at most `length` bytes, with their offsets, cut at blank lines, line ends or spaces if possible.
fn blocks(text: &str, length: usize) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = text.get(offset..).filter(|rest| !rest.is_empty())?;
        let block = if rest.len() <= length {
            rest
        } else {
            let head = rest.get(..rest.floor_char_boundary(length))?;
            let tail_start = head.ceil_char_boundary(head.len() / 2);
            let tail = head.get(tail_start..)?;
            let cut = tail
                .rfind("\n\n")
                .map(|at| at + 2)
                .or_else(|| tail.rfind('\n').map(|at| at + 1))
                .or_else(|| tail.rfind(char::is_whitespace));
            match cut {
                Some(cut) => head.get(..tail_start + cut)?,
                None => head,
            }
        };
        let start = offset;
        offset += block.len();
        Some((start, block))
    })
}

/// Passages from pieces: each begins where `back` says for the beginning of its piece.
///
/// A passage that the next one holds whole, as at the beginning of a text, is left out.
pub(super) fn overlapping(
    text: &str,
    pieces: impl Iterator<Item = Range<usize>>,
    back: impl Fn(usize) -> usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut passages = pieces.filter_map(move |piece| trimmed(text, back(piece.start)..piece.end)).peekable();
    std::iter::from_fn(move || {
        let mut passage = passages.next()?;
        while let Some(next) = passages.next_if(|next| next.start <= passage.start) {
            passage = next;
        }
        Some(passage)
    })
}

/// The place `characters` characters before `cut`, or the beginning of the text.
pub(super) fn characters_back(text: &str, cut: usize, characters: usize) -> usize {
    let Some(last) = characters.checked_sub(1) else { return cut };
    text.get(..cut).and_then(|head| head.char_indices().rev().nth(last)).map_or(0, |(at, _)| at)
}

/// Passages of `size` units each, of which `overlap` are shared by neighbours.
pub(super) fn windows(
    units: &[Range<usize>],
    size: usize,
    overlap: usize,
) -> impl Iterator<Item = Range<usize>> + '_ {
    let step = (size - overlap).max(1);
    (0..units.len())
        .step_by(step)
        // What is behind the overlap of the last passage is all in it already.
        .take_while(move |first| *first == 0 || first + overlap < units.len())
        .filter_map(move |first| {
            let last = (first + size - 1).min(units.len() - 1);
            Some(units.get(first)?.start..units.get(last)?.end)
        })
}
