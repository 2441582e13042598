//! Subjects, the persons that users are: how one that was erased is recognised without being named, and whom the text of an event
//! names.

use crate::id;
use crate::payload::unread_text;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::str::CharIndices;

/// A secret of a tenant's, under which its erased subjects are hashed.
pub type Key = [u8; 32];

/// Bytes of a block of SHA-256.
const BLOCK_BYTES: usize = 64;

/// What stands for a subject: the first half of HMAC-SHA256 (RFC 2104) under the tenant's key. Without the key nobody can try ids.
pub fn hash(key: &Key, subject: &str) -> [u8; 16] {
    let digest = hmac(key, subject.as_bytes());
    core::array::from_fn(|place| digest[place])
}

fn hmac(key: &Key, message: &[u8]) -> [u8; 32] {
    let padded = |byte: u8| {
        let mut block = [byte; BLOCK_BYTES];
        for (padded, key) in block.iter_mut().zip(key) {
            *padded ^= key;
        }
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5C)).chain_update(inner).finalize().into()
}

/// Shows the values that a field has in the text of an event, at any depth, strings and numbers alike, until one breaks: what was sent may be
/// rejected for having it in the wrong place or twice. Of a text that is no JSON, or that a payload's format couldn't read, every string and number,
/// since nothing says what it stands for; and where it is no JSON every field and every few words in a row, since nothing says where a value ends.
pub fn named_in(body: &str, field: &str, mut see: impl FnMut(String) -> ControlFlow<()>) -> ControlFlow<()> {
    let is_json = is_json(body);
    show(body, is_json, is_json.then_some(field), &mut see)?;
    unread_text(body)
        .map_or(ControlFlow::Continue(()), |text| show(&text, self::is_json(&text), None, &mut see))
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Shows the values of a field, or without one all; of JSON a key is none.
fn show(
    text: &str,
    is_json: bool,
    field: Option<&str>,
    see: &mut impl FnMut(String) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if !is_json {
        fields(text, see)?;
        runs(text, see)?;
    }
    let mut tokens = Tokens(text.char_indices().peekable(), text).peekable();
    let mut is_fields = false;
    while let Some(token) = tokens.next() {
        match token {
            Token::Value(value) => {
                let is_key = matches!(tokens.peek(), Some(Token::Colon));
                let is_before = std::mem::replace(&mut is_fields, is_key && field == Some(value.as_str()));
                if !(is_json && is_key) && (field.is_none() || is_before) {
                    see(value)?;
                }
            }
            Token::Colon => {}
            Token::Other => is_fields = false,
        }
    }
    ControlFlow::Continue(())
}

/// Shows what stands between two tabs, quotes or ends of lines, or between two separators of a list, with the spaces around it and without.
fn fields(text: &str, see: &mut impl FnMut(String) -> ControlFlow<()>) -> ControlFlow<()> {
    let is_end = |c: char| "\t\r\n\"".contains(c);
    let is_separator = |c: char| is_end(c) || ",;|".contains(c);
    for field in text.split(is_end).chain(text.split(is_separator)) {
        let trimmed = field.trim();
        for field in [Some(field), Some(trimmed).filter(|trimmed| *trimmed != field)].into_iter().flatten() {
            if (1..=id::MAX_BYTES).contains(&field.len()) {
                see(field.to_owned())?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// Words of an id that stands among others.
const RUN_WORDS: usize = 8;

/// Shows every word and every few words in a row, as they stand there: an id may have in it what parts words elsewhere.
fn runs(text: &str, see: &mut impl FnMut(String) -> ControlFlow<()>) -> ControlFlow<()> {
    let is_between = |c: char| c.is_whitespace() || ",:;=&|'()<>{}[]\"".contains(c);
    // Where the last words begin.
    let mut begins: VecDeque<usize> = VecDeque::new();
    for word in text.split(is_between).filter(|word| !word.is_empty()) {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        begins.push_front(start);
        begins.truncate(RUN_WORDS);
        let end = start + word.len();
        for run in begins.iter().map(|&begin| &text[begin..end]).take_while(|run| run.len() <= id::MAX_BYTES)
        {
            see(run.to_owned())?;
        }
    }
    ControlFlow::Continue(())
}

enum Token {
    /// A string, unescaped, or a bare word or number.
    Value(String),
    Colon,
    Other,
}

/// The tokens of what may be JSON.
struct Tokens<'a>(Peekable<CharIndices<'a>>, &'a str);

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let (start, first) = self.0.find(|(_, c)| !c.is_whitespace())?;
        Some(match first {
            '"' => Token::Value(self.string()),
            ':' => Token::Colon,
            ',' | '{' | '}' | '[' | ']' => Token::Other,
            _ => {
                let is_end = |c: char| c.is_whitespace() || ",:{}[]\"".contains(c);
                let mut end = start + first.len_utf8();
                while let Some((place, c)) = self.0.next_if(|&(_, c)| !is_end(c)) {
                    end = place + c.len_utf8();
                }
                Token::Value(self.1[start..end].to_owned())
            }
        })
    }
}

impl Tokens<'_> {
    /// A string whose opening quote has been read, up to its closing one or the end.
    fn string(&mut self) -> String {
        let mut value = String::new();
        while let Some((_, c)) = self.0.next() {
            match c {
                '"' => break,
                '\\' => match self.0.next().map(|(_, escaped)| escaped) {
                    Some('u') => self.unicode(&mut value),
                    Some('n') => value.push('\n'),
                    Some('t') => value.push('\t'),
                    Some('r') => value.push('\r'),
                    Some('b') => value.push('\u{8}'),
                    Some('f') => value.push('\u{c}'),
                    Some(other) => value.push(other),
                    None => {}
                },
                other => value.push(other),
            }
        }
        value
    }

    /// What follows `\u`: a code unit, of a pair the second one, too.
    fn unicode(&mut self, value: &mut String) {
        let unit = self.hexadecimal();
        if !(0xD800..0xDC00).contains(&unit) {
            value.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            return;
        }
        let mut ahead = self.0.clone();
        let is_pair =
            ahead.next().is_some_and(|(_, c)| c == '\\') && ahead.next().is_some_and(|(_, c)| c == 'u');
        if !is_pair {
            value.push(char::REPLACEMENT_CHARACTER);
            return;
        }
        self.0 = ahead;
        let low = self.hexadecimal();
        let scalar =
            (0xDC00..0xE000).contains(&low).then(|| 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
        value.push(scalar.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
    }

    /// Up to four hexadecimal digits.
    fn hexadecimal(&mut self) -> u32 {
        let mut number = 0;
        for _ in 0..4 {
            let Some((_, digit)) = self.0.next_if(|(_, c)| c.is_ascii_hexdigit()) else { break };
            number = number << 4 | digit.to_digit(16).unwrap_or_default();
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 6 cut to a key of 32 bytes isn't in it; its cases 1 and 2 have shorter keys, which are padded with zeros.
    #[test]
    fn hmac_gives_the_digests_of_rfc_4231() {
        let key =
            |bytes: &[u8]| -> Key { core::array::from_fn(|place| bytes.get(place).copied().unwrap_or(0)) };
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hexadecimal(&hmac(&key(&[0x0b; 20]), b"Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hexadecimal(&hmac(&key(b"Jefe"), b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn hashes_depend_on_key_and_subject() {
        assert_eq!(hash(&[1; 32], "u"), hash(&[1; 32], "u"));
        assert_ne!(hash(&[1; 32], "u"), hash(&[2; 32], "u"));
        assert_ne!(hash(&[1; 32], "u"), hash(&[1; 32], "v"));
    }

    #[test]
    fn a_field_is_found_wherever_and_however_it_is_written() {
        let cases: [(&str, &[&str]); 9] = [
            (r#"{"user_id":"ann"}"#, &["ann"]),
            (r#"{ "user_id" : 17 }"#, &["17"]),
            (r#"{"user\u005fid":"\u0061nn"}"#, &["ann"]),
            (r#"{"user_id":"a","user_id":"b"}"#, &["a", "b"]),
            (r#"{"properties":{"user_id":"deep"}}"#, &["deep"]),
            (r#"{"name":"user_id","x":"ann"}"#, &[]),
            (r#"{"other":"ann"}"#, &[]),
            (r#"{"user_id":{"nested":"ann"}}"#, &[]),
            (r#"{"user_id":"\ud83d\ude00"}"#, &["😀"]),
        ];
        for (text, expected) in cases {
            let mut found = Vec::new();
            let _ = named_in(text, "user_id", |value| {
                found.push(value);
                ControlFlow::Continue(())
            });
            found.sort();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn an_id_is_found_in_what_is_no_json_whatever_is_in_it() {
        let long = "x".repeat(id::MAX_BYTES);
        for (text, id) in [
            (r#"{"user_id":"ann" oh"#, "ann"),
            ("ann", "ann"),
            (r#"{"user_id":"cut"#, "cut"),
            (r#"{"user_id":"\u0061nn" oh"#, "ann"),
            ("web\tx\t2026\turn:user:4711\tfoo", "urn:user:4711"),
            ("web\tann lee\tfoo", "ann lee"),
            ("web\t{4711-0815}\tfoo", "{4711-0815}"),
            (r#"{"event":"5" x","userId":"urn:user:4711"}"#, "urn:user:4711"),
            (r#"{"event":"5" x","userId":"ann, lee"}"#, "ann, lee"),
            (r#"{"event":"5" x","userId":"[ann]"}"#, "[ann]"),
            ("user urn:user:4711 signed in", "urn:user:4711"),
            ("ann lee signed in", "ann lee"),
            ("1, ann lee, {4711}", "ann lee"),
            ("1, ann lee, {4711}", "{4711}"),
            ("user=ann;x=1", "ann"),
            ("user=urn:user:4711&x=1", "urn:user:4711"),
            (
                "a\tone two three four five six seven eight nine ten\tb",
                "one two three four five six seven eight nine ten",
            ),
            (&format!("a\t{long}\tb"), &long),
        ] {
            let is_named = |wanted: &str| {
                named_in(text, "user_id", |value| {
                    if value == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .is_break()
            };
            assert!(is_named(id), "{text}");
            for other in ["an", "4711-081", "urn:user:471", ""] {
                assert!(!is_named(other), "{text}: {other}");
            }
        }
    }

    #[test]
    fn broken_texts_end() {
        for text in ["\\", "\"\\", "\"\\u", "\"\\ud800", "\"\\ud800\\u", "{\"a\":\"\\ud800\\udc", ":::", ""] {
            let _ = named_in(text, "user_id", |_| ControlFlow::Continue(()));
        }
    }
}
