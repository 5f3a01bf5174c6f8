use proptest::prelude::*;

use super::*;

fn chunking(text: &str) -> Chunking {
    text.parse().unwrap()
}

fn passages<'a>(how: &str, text: &'a str) -> Vec<&'a str> {
    chunking(how).chunk(text).unwrap().iter().map(|p| &text[p.range()]).collect()
}

#[test]
fn a_string_and_its_chunking_are_the_same_thing() {
    for (text, displayed) in [
        ("whole", "whole"),
        ("tokens", "tokens:256:32"),
        ("tokens:512", "tokens:512:64"),
        ("tokens:256:0", "tokens:256:0"),
        ("characters:1200:200", "characters:1200:200"),
        ("sentences:5:1", "sentences:5:1"),
        ("sentences:1", "sentences:1:0"),
        ("paragraphs", "paragraphs:1:0"),
        ("paragraphs:2:1", "paragraphs:2:1"),
    ] {
        assert_eq!(chunking(text).to_string(), displayed);
        assert_eq!(chunking(displayed), chunking(text));
    }
    assert_eq!(Chunking::default(), chunking("tokens"));
    for (text, part) in [
        ("", "unit"),
        ("words:5", "unit"),
        ("whole:1", "unit"),
        ("tokens:", "number"),
        ("tokens:-1", "number"),
        ("tokens:+1", "number"),
        ("tokens:1e3", "number"),
        ("tokens:99999999", "number"),
        ("tokens:99999999999999999999999", "number"),
        ("tokens:0", "size 0"),
        ("tokens:10:6", "half"),
        ("tokens:10:1:1", "parts"),
    ] {
        let error = text.parse::<Chunking>().unwrap_err();
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
}

#[test]
fn cuts_fall_between_the_largest_units_that_fit() {
    let text = "First line of one.\nSecond line.\n\nA paragraph of its own.";
    assert_eq!(
        passages("tokens:12:0", text),
        ["First line of one.\nSecond line.", "A paragraph of its own."]
    );
    assert_eq!(passages("paragraphs", text), ["First line of one.\nSecond line.", "A paragraph of its own."]);
    assert_eq!(passages("whole", "  all of it \n"), ["all of it"]);
    assert_eq!(passages("characters:4:0", "abcdefghij"), ["abcd", "efgh", "ij"]);
}

#[test]
fn a_line_break_does_not_end_a_sentence_but_a_list_does() {
    let text = "This one is\nwrapped over\r\nthree lines. Next!\n- an item\n- another\n\nAfter a blank line";
    assert_eq!(
        passages("sentences:1:0", text),
        [
            "This one is\nwrapped over\r\nthree lines.",
            "Next!",
            "- an item",
            "- another",
            "After a blank line"
        ]
    );
}

#[test]
fn neighbours_share_what_was_asked_for() {
    assert_eq!(passages("sentences:3:1", "A a. B b. C c. D d. E e."), ["A a. B b. C c.", "C c. D d. E e."]);
    assert_eq!(passages("paragraphs:2:1", "a\n\nb\n \nc"), ["a\n\nb", "b\n \nc"]);
    assert_eq!(passages("tokens:4:1", "a b c d e f g"), ["a b c", "c d e f", "f g"]);
    assert_eq!(passages("characters:4:1", "abcdefgh"), ["abc", "cdef", "fgh"]);
}

#[test]
fn a_word_longer_than_a_passage_is_cut() {
    let text = "x".repeat(1000);
    let parts = passages("tokens:10:0", &text);
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().all(|part| tokens::count(part) <= 10));
    assert_eq!(parts.len(), 1000_usize.div_ceil(60));
}

#[test]
fn estimated_tokens_are_near_those_of_models() {
    // cl100k_base has 23 for this sentence, WordPiece of BERT 24.
    let text = "A Plimsoll line is painted on a ship's hull and shows how deep it lies in the water.";
    assert!((20..=30).contains(&tokens::count(text)), "{}", tokens::count(text));
    assert_eq!(tokens::count("喫水線"), 3);
    assert_eq!(tokens::count("internationalization"), 4);
    assert_eq!(tokens::count(" \n\t"), 0);
}

#[test]
fn more_passages_than_a_document_can_have_are_refused() {
    let most = "a\n\n".repeat(MAX_POSTINGS);
    assert_eq!(chunking("paragraphs").chunk(&most).unwrap().len(), MAX_POSTINGS);
    let more = "a\n\n".repeat(MAX_POSTINGS + 1);
    assert_eq!(chunking("paragraphs").chunk(&more), Err(ChunkError::TooManyPassages));
    assert_eq!(chunking("tokens:1:0").chunk(&"a ".repeat(70_000)), Err(ChunkError::TooManyPassages));
    let long = "a".repeat(plimsoll::limits::MAX_TEXT_BYTES + 1);
    assert_eq!(chunking("whole").chunk(&long), Err(ChunkError::TooLong(long.len())));
}

#[test]
fn seams_between_blocks_lose_and_repeat_nothing() {
    let text: String =
        (0..30_000).map(|i| format!("word{i}{}", if i % 11 == 0 { "\n" } else { " " })).collect();
    assert!(text.len() > 3 * (64 << 10));
    let found = passages("tokens:100:0", &text);
    let words = |parts: &[&str]| {
        parts.iter().flat_map(|p| p.split_whitespace().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(words(&found), words(&[&text]));
    let sizes: Vec<usize> = found.iter().map(|p| tokens::count(p)).collect();
    let full = sizes.iter().filter(|size| **size >= 80).count();
    assert!(full * 20 >= sizes.len() * 19, "few pieces are small: {full} of {}", sizes.len());
}

fn any_chunking() -> impl Strategy<Value = Chunking> {
    let unit = prop_oneof![
        Just(Unit::Tokens),
        Just(Unit::Characters),
        Just(Unit::Sentences),
        Just(Unit::Paragraphs)
    ];
    let units = (unit, 1usize..40, 0usize..20)
        .prop_map(|(unit, size, overlap)| Chunking::new(unit, size, overlap.min(size / 2)).unwrap());
    prop_oneof![9 => units, 1 => Just(Chunking::WHOLE)]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::collection::vec(any::<char>(), 0..120).prop_map(|c| c.into_iter().collect::<String>()),
        "[a-zA-Zäß .!?\r\n\t'-]{0,400}",
        "([a-z]{1,14}[ .,]{1,2}|\n|\n\n|\r\n|\u{301}|👩‍👩‍👧|喫水|\u{2029}|\u{a0}){0,120}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn passages_are_ordered_and_cover_everything_but_white_space(how in any_chunking(), text in any_text()) {
        let passages = how.chunk(&text).unwrap();
        prop_assert_eq!(&how.chunk(&text).unwrap(), &passages, "the same text gives the same passages");
        let mut covered = 0;
        let mut last: Option<Passage> = None;
        for passage in &passages {
            let range = passage.range();
            let part = text.get(range.clone());
            prop_assert!(part.is_some_and(|p| !p.is_empty() && p.trim() == p), "{:?} of {:?}", range, text);
            if let Some(last) = last {
                prop_assert!(last.start < passage.start, "{:?} {:?} in {:?}", last, passage, text);
                prop_assert!(last.range().end < range.end, "{:?} {:?} in {:?}", last, passage, text);
            }
            if range.start > covered {
                prop_assert!(text[covered..range.start].trim().is_empty(), "a gap before {:?} of {:?}", range, text);
            }
            covered = covered.max(range.end);
            last = Some(*passage);
        }
        prop_assert!(text[covered..].trim().is_empty());
        prop_assert_eq!(passages.is_empty(), text.trim().is_empty());
    }

    #[test]
    fn no_passage_is_longer_than_asked_for(size in 1usize..40, overlap in 0usize..20, text in any_text()) {
        for (unit, count) in [
            (Unit::Tokens, tokens::count as fn(&str) -> usize),
            (Unit::Characters, |text| text.chars().count()),
            (Unit::Paragraphs, |text| sentences::paragraphs(text).len()),
        ] {
            let how = Chunking::new(unit, size, overlap.min(size / 2)).unwrap();
            for passage in how.chunk(&text).unwrap() {
                let part = &text[passage.range()];
                prop_assert!(count(part) <= size, "{} {:?}: {} in {:?}", how, part, count(part), text);
            }
        }
    }

    #[test]
    fn passages_of_words_overlap_as_asked(size in 2usize..30, overlap in 0usize..15, words in 1usize..200) {
        // One line of short words: each is one token, and nothing but the size decides the cuts.
        let overlap = overlap.min(size / 2);
        let text = vec!["word"; words].join(" ");
        let passages = Chunking::new(Unit::Tokens, size, overlap).unwrap().chunk(&text).unwrap();
        for pair in passages.windows(2) {
            let shared = text.get(pair[1].range().start..pair[0].range().end).map_or(0, tokens::count);
            prop_assert_eq!(shared, overlap, "{:?}", pair);
        }
    }
}
