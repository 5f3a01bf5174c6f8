//! A command line and its words, with the quotes of a shell and none of its other signs.

/// The words of a line, or `None` if a quote is not closed or a backslash stands at the end.
///
/// `'…'` holds everything as it is; in `"…"` and outside, a backslash makes the next character an ordinary one.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    // `None` between words: `''` is a word, too.
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next()? {
                        '"' => break,
                        '\\' => word.push(characters.next()?),
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(characters.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// A line with these words.
pub(super) fn join(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '\\');
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // A single quote can not stand between single quotes: it goes outside, behind a backslash.
    format!("'{}'", word.replace('\'', r"'\''"))
}
