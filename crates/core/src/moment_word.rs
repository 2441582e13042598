//! Words that Postgres' input functions of dates and times take for the moment of the transaction, in any letter case.

const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Whether a literal has such a word, as `now`, `[today,)` or `today12:00`. Dates are read as runs of letters, so that nothing of a longer one, as
/// `know`, is a word; and in rows, ranges and arrays after quotes and backslashes are taken away, as of `(1,n\ow)`.
pub fn is_in(literal: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || !byte.is_ascii();
    let has_word = |text: &[u8]| {
        text.split(|byte| !is_letter(byte)).any(|run| WORDS.iter().any(|word| run.eq_ignore_ascii_case(word)))
    };
    let plain: Vec<u8> = literal.iter().copied().filter(|byte| !b"\"\\".contains(byte)).collect();
    has_word(literal) || has_word(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_found_and_no_others() {
        for text in [
            "now",
            " NOW ",
            "Today",
            "today 12:00",
            "today12:00",
            "12:00today",
            "now_",
            "-now",
            "2026-01-01,yesterday",
            "[now,tomorrow)",
            "{[2026-01-01Z,now)}",
            "(1,now)",
            "(1,\"now\")",
            "(1,n\\ow)",
            "{n\"o\"w}",
            "(buy,\"(1,\"\"today\"\")\")",
        ] {
            assert!(is_in(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "know",
            "(know,2026-01-01Z)",
            "nowhere",
            "snowfall",
            "todays",
            "tomorrows",
            "yesterdays",
            "(\"unknown\",1)",
            "éow now\u{e9}",
            "no w",
        ] {
            assert!(!is_in(text.as_bytes()), "{text}");
        }
    }
}
